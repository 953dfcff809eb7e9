"""The README lists every setting and no other."""

from __future__ import annotations

import re
from pathlib import Path

from fieldloop_runtime.settings import variables
from fieldloop_training.settings import TrainingSettings

README = Path(__file__).parents[3] / "cloud" / "training" / "README.md"


def test_the_readme_lists_every_setting_and_no_other():
    table = README.read_text(encoding="utf-8").split("## Settings")[1]
    listed = set(re.findall(r"FIELDLOOP_[A-Z_]+", table))
    assert listed == {v.name for v in variables(TrainingSettings)}
