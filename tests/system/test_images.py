"""Each image holds its own packages, no other, nothing to build with, and runs as one user."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_demo.stack import IMAGES, TREE, Stack
from support.engine import NO_ENGINE, docker_answers

sys.path.insert(0, str(TREE / "tools"))

pytestmark = pytest.mark.timeout(3_000)
SERVICES = (
    "ingestion",
    "inference",
    "agent",
    "telemetry",
    "delivery",
    "identity",
    "machines",
    "console",
)
_LOOK = """
import importlib.metadata as m, json, os, pathlib, shutil
where = "/opt/fieldloop/lib/python%d.%d/site-packages" % __import__("sys").version_info[:2]
tools = ("pip", "pip3", "gcc", "cc", "g++", "make", "ld")
written = []
for folder in ("/", "/opt", "/etc", "/usr"):
    try:
        (pathlib.Path(folder) / "probe").write_text("x")
        written.append(folder)
    except OSError:
        pass
print(json.dumps({
    "packages": sorted(d.metadata["Name"].lower().replace("_", "-").replace(".", "-")
                       for d in m.distributions(path=[where])),
    "tools": [t for t in tools if shutil.which(t)],
    "uid": os.getuid(), "gid": os.getgid(), "written": written,
}))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not docker_answers():
        pytest.skip(NO_ENGINE)
    made = Stack(tmp_path_factory.mktemp("images"))
    for name in SERVICES:
        tag = f"fieldloop-{name}"
        made.docker("build", "-q", "-f", IMAGES[tag], "-t", tag, ".", timeout_s=1_800)
    return made


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_holds_its_own_packages_and_nothing_to_build_with(stack: Stack, name: str) -> None:
    from sbom import bom  # noqa: PLC0415 - a tool, not a package

    run = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", "--entrypoint")
    seen = json.loads(stack.docker(*run, "python", f"fieldloop-{name}", "-c", _LOOK))
    parts = {c["name"] for c in bom(name)["components"] if c["type"] == "library"}
    assert set(seen["packages"]) == {p.replace(".", "-") for p in parts}
    assert seen["tools"] == []
    assert (seen["uid"], seen["gid"]) == (10001, 10001)
    assert seen["written"] == []


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_says_what_it_is_and_how_it_is(stack: Stack, name: str) -> None:
    shown = json.loads(stack.docker("image", "inspect", f"fieldloop-{name}"))[0]["Config"]
    assert shown["Labels"]["org.opencontainers.image.title"] == f"fieldloop-{name}"
    assert shown["Healthcheck"]["Test"][-1] == "fieldloop_runtime.healthcheck"
    assert shown["User"] == "10001:10001"
    assert shown["Entrypoint"][0] == "tini"
    help_text = stack.docker("run", "--rm", "--read-only", f"fieldloop-{name}", "--help")
    assert "usage" in help_text


def test_a_model_runs_in_the_inference_image(stack: Stack, tmp_path: Path) -> None:
    """What was left out of the runtime's package is nothing that a model needs."""
    from support.models import model  # noqa: PLC0415 - builds with TensorFlow

    (tmp_path / "model.tflite").write_bytes(model("good"))
    tmp_path.chmod(0o755)
    mount = ("-v", f"{tmp_path}:/model:ro")
    run = ("run", "--rm", "--read-only", "--network", "none", *mount)
    said = stack.docker(*run, "fieldloop-inference", "try", "/model/model.tflite", "--runs", "20")
    assert "litert" in said
