"""Extras have an environment of their own (`make extras`); without it there is nothing here."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]
