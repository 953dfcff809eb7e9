"""Bills of materials are valid CycloneDX and say what the locks and the manifest say."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from fieldloop_store.engine import Store
from fieldloop_store.mlbom import ml_bom
from fieldloop_store.registry import list_models, register_model
from support.bundles import make_bundle

TREE = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TREE / "tools"))


def faults(document: object) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


@pytest.mark.parametrize("name", ["ingestion", "inference", "agent", "telemetry", "identity"])
def test_an_images_bill_is_valid_and_lists_exactly_what_is_installed(name: str) -> None:
    from lock import DEPLOYABLES, LOCKS, closure  # noqa: PLC0415 - a tool, not a package
    from sbom import bom  # noqa: PLC0415

    document = bom(name)
    assert faults(document) is None
    assert bom(name) == document
    listed = {c["name"] for c in document["components"]}
    lock = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    pinned = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    own = {f"fieldloop-{f.name}" for f in closure(*DEPLOYABLES[name])[1]}
    assert listed == (pinned - {"pip"}) | own | {"python"}
    for component in document["components"]:
        if component.get("purl", "").startswith("pkg:pypi"):
            assert component["properties"], component["name"]


def test_the_validator_would_notice() -> None:
    from sbom import bom  # noqa: PLC0415

    document = copy.deepcopy(bom("agent"))
    document["components"][0]["type"] = "toaster"
    assert faults(document) is not None


def test_a_models_bill_is_valid_and_comes_from_the_registry(tmp_path: Path) -> None:
    lineage = {
        "dataset": "d" * 64,
        "run": "r1",
        "recipe": "activity_cnn",
        "metrics": {"int8": {"accuracy": 0.93}},
    }
    manifest, files = make_bundle(lineage=lineage, requires={"runtimes": {"litert": ">=2"}})
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    store = Store.open(url)
    register_model(
        store, fleet="acme", manifest=manifest, files=files, run=None, metrics={}, now_ns=1
    )
    digest = list_models(store, "acme")[0].digest
    store.close()
    command = [sys.executable, "-m", "fieldloop_store", "mlbom", "--store", url, "--fleet", "acme"]
    done = subprocess.run([*command, "activity", "1"], capture_output=True, check=True, text=True)
    document = json.loads(done.stdout)
    assert document == ml_bom(manifest, digest)
    assert faults(document) is None
    card = document["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "int8.accuracy", "value": "0.93"}
    ]
    assert {c["bom-ref"] for c in document["components"]} >= {"dataset", "activity@1/model.tflite"}
    done = subprocess.run([*command, "activity", "2"], capture_output=True, check=False, text=True)
    assert done.returncode == 78
    assert "no activity 2" in done.stderr
