"""Installs each service by itself and sees that it lives: `make alone`.

For each deployable: an empty environment, its lock with hashes, the wheels of its own libraries and
nothing else; then every module of it is imported and its `--help` run. What it finds is a missing
dependency, or an import of something that the image would not have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lock import DEPLOYABLES, LOCKS, ROOT, closure, members

OF_AN_EXTRA = (
    "fieldloop_runtime.hosting.embedded",
    "fieldloop_scoring.runners.litert",
    "fieldloop_scoring.runners.tflite",
    "fieldloop_ingestion.resampled",
    "fieldloop_ingestion.sources.modbus",
    "fieldloop_delivery.fleets.balena",
    "fieldloop_delivery.fleets.pine",
    "fieldloop_store.evidence",
    "fieldloop_training.rays",
)
"""Modules that an extra brings to life; whoever imports them says which one is missing."""

_IMPORT_ALL = """
import importlib, pkgutil, sys
count = 0
left_out = sys.argv[1].split(",")
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__") and module.name not in left_out:
            importlib.import_module(module.name)
            count += 1
print(count, "modules")
"""


def build(out: Path) -> dict[Path, Path]:
    """A wheel of every member: folder to wheel."""
    wheels: dict[Path, Path] = {}
    for folder in members().values():
        target = out / folder.name
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
            cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wheels[folder] = next(target.glob("*.whl"))
    return wheels


def try_alone(name: str, uv: str, wheels: dict[Path, Path], work: Path) -> str:
    """Install one deployable in an empty environment and run it; returns what was seen."""
    distribution, extras = DEPLOYABLES[name]
    folders = closure(distribution, extras)[1]
    venv = work / name
    python = str(venv / "bin" / "python")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FIELDLOOP_", "PYTHON"))}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environ, cwd=work, timeout=600
        )
        if done.returncode:
            raise SystemExit(f"{name}: {' '.join(command[:6])} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    run(uv, "venv", "--quiet", "--python", sys.executable, str(venv))
    lock = str(LOCKS / f"{name}.txt")
    run(uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)
    local = [str(wheels[f]) for f in folders]
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", *local)
    packages = [next((f / "src").iterdir()).name for f in folders]
    seen = run(python, "-c", _IMPORT_ALL, ",".join(OF_AN_EXTRA), *packages).strip()
    module = distribution.replace("-", "_")
    help_text = run(python, "-m", module, "--help")
    if "usage" not in help_text.lower():
        raise SystemExit(f"{name}: --help does not teach: {help_text[:200]}")
    return seen


def main() -> int:
    """Try each deployable alone; SystemExit names the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="path of uv")
    parser.add_argument("names", nargs="*", help="deployables; all by default")
    arguments = parser.parse_args()
    uv = str(Path(arguments.uv).resolve()) if "/" in arguments.uv else arguments.uv
    with tempfile.TemporaryDirectory(prefix="fieldloop-alone-") as folder:
        work = Path(folder)
        wheels = build(work / "wheels")
        for name in arguments.names or DEPLOYABLES:
            print(f"{name}: {try_alone(name, uv, wheels, work)}", flush=True)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
