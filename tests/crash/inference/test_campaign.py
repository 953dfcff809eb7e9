"""Short forms of the campaigns; `campaign.py` runs the long ones."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

RESIDENT_GROWTH_MIB_MAX = 12


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    path = Path(__file__).parent / "campaign.py"
    spec = importlib.util.spec_from_file_location("campaign", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = module
    spec.loader.exec_module(module)
    return module


def test_forty_swaps_under_load_lose_and_repeat_nothing(
    campaign: ModuleType, tmp_path: Path
) -> None:
    figures = campaign.swaps(tmp_path, 40)
    assert campaign.broken(figures) == []
    assert figures["windows"] > 200
    assert figures["walked"] >= 4
    before, after = figures["resident_mib"]
    assert after - before < RESIDENT_GROWTH_MIB_MAX


def test_no_mutant_passes_the_digest_gate(campaign: ModuleType, tmp_path: Path) -> None:
    figures = campaign.gate(tmp_path, 60, seed=3)
    assert campaign.broken(figures) == []
    assert figures["activations"] == 0
    assert len(figures["reasons"]) >= 3, "files were damaged in several ways"


def test_rightly_signed_mutants_serve_only_with_their_goldens(
    campaign: ModuleType, tmp_path: Path
) -> None:
    figures = campaign.signed(tmp_path, 8, seed=5)
    assert campaign.broken(figures) == []
    assert figures["reasons"], "some were refused"


def test_a_mutant_is_never_the_file_itself(campaign: ModuleType) -> None:
    rng, data = random.Random(1), bytes(range(256)) * 4
    assert all(campaign.mutate(data, rng) != data for _ in range(500))
