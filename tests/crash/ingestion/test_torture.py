"""Ingestion killed at random and at named points: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.broker import find_mosquitto


def load_torture() -> ModuleType:
    path = Path(__file__).parent / "torture.py"
    spec = importlib.util.spec_from_file_location("torture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("mode", "runs"), [("balanced", 14), ("durable", 6)])
def test_twenty_kills_under_load_lose_nothing_and_double_nothing(
    tmp_path: Path, mode: str, runs: int
) -> None:
    find_mosquitto()
    outcome = load_torture().torture(runs, seed=7, folder=tmp_path, mode=mode)
    assert outcome.acknowledged > 1_000
    assert (outcome.lost, outcome.duplicated, outcome.unaccounted) == (0, 0, 0), outcome.line()
    assert outcome.epochs == 1
