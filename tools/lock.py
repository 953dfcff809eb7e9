"""Writes `locks/*.txt`: one requirement file with hashes for each deployable and for development.

A deployable's file holds the third-party packages of its own distribution and of the fieldloop
libraries under it, and nothing else; those are installed from the tree with `--no-deps`. Existing
pins are kept unless `--upgrade` is given. `--check` writes nothing and fails where a file is stale.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
DEPLOYABLES: dict[str, tuple[str, str]] = {
    "ingestion": ("fieldloop-ingestion", "modbus"),
    "inference": ("fieldloop-inference", "litert"),
    "inference-tflite": ("fieldloop-inference", "tflite"),
    "agent": ("fieldloop-agent", ""),
    "telemetry": ("fieldloop-telemetry", ""),
    "training": ("fieldloop-training", ""),
    "delivery": ("fieldloop-delivery", ""),
    "identity": ("fieldloop-identity", ""),
    "machines": ("fieldloop-machines", ""),
    "delivery-balena": ("fieldloop-delivery", "balena"),
    "console": ("fieldloop-console", ""),
    "simulator": ("fieldloop-simulator", ""),
    "demo": ("fieldloop-demo", ""),
}
TESTING = ("editables", "hatchling", "hypothesis", "psutil", "pytest", "pytest-timeout")
ONLY_AS_SOURCE = ("ratelimit",)
"""Pure Python without a wheel on PyPI: what balena-sdk needs of it is one module."""
CONSTRAINTS = ("backports-strenum<1.3",)
"""ai-edge-litert wants backports-strenum; from 1.3 on that says Python < 3.11, which uv passes over
and pip, by which images are built, obeys."""
_NAME = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?")


def members() -> dict[str, Path]:
    """Distribution name to folder, of every workspace member."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Path] = {}
    for folder in root["tool"]["uv"]["workspace"]["members"]:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
        found[project["project"]["name"]] = ROOT / folder
    return found


def closure(name: str, extras: str = "") -> tuple[list[str], list[Path]]:
    """Third-party requirements and local folders (libraries first) of one distribution."""
    local = members()
    requirements: dict[str, None] = {}
    folders: dict[Path, None] = {}
    seen: set[tuple[str, str]] = set()

    def visit(dist: str, wanted: str) -> None:
        if (dist, wanted) in seen:
            return
        seen.add((dist, wanted))
        project = tomllib.loads((local[dist] / "pyproject.toml").read_text(encoding="utf-8"))
        lines = list(project["project"]["dependencies"])
        for extra in filter(None, wanted.split(",")):
            lines += project["project"]["optional-dependencies"][extra]
        for line in lines:
            match = _NAME.match(line)
            if match is None:
                raise SystemExit(f"cannot read requirement {line!r} of {dist}")
            if match[1] in local:
                visit(match[1], match[2] or "")
            else:
                requirements[line] = None
        folders[local[dist]] = None

    visit(name, extras)
    return sorted(requirements), list(folders)


def development() -> list[str]:
    """What the tests, the checks and the demo need: every member and the `dev` group."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines: dict[str, None] = dict.fromkeys(root["dependency-groups"]["dev"])
    for name in members():
        lines.update(dict.fromkeys(closure(name)[0]))
    lines.update(dict.fromkeys(closure("fieldloop-inference", "litert")[0]))
    lines.update(dict.fromkeys(closure("fieldloop-delivery", "balena")[0]))
    return sorted(lines)


def testing() -> list[str]:
    """What tests need beside a deployable's own lock, to run in its environment."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    group = [(_NAME.match(line), line) for line in root["dependency-groups"]["dev"]]
    return sorted(line for match, line in group if match is not None and match[1] in TESTING)


def compile_lock(
    uv: str, lines: list[str], output: Path, upgrade: bool, beside: Path | None = None
) -> None:
    """Resolve `lines` into `output`, keeping the pins that stand there.

    Args:
        beside: a lock that is installed in the same environment, whose versions hold.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        bounds = Path(folder) / "constraints.txt"
        bounds.write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
        command = [uv, "pip", "compile", str(source), "-o", str(output), "--quiet"]
        command += ["--constraint", str(bounds)]
        command += ["--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"]
        command += ["--python-version", "3.11", "--only-binary", ":all:"]
        command += ["--constraints", str(beside)] if beside is not None else []
        for package in ONLY_AS_SOURCE:
            command += ["--no-binary", package]
        subprocess.run(command + (["--upgrade"] if upgrade else []), check=True)


def main() -> int:
    """Write or check all locks; returns 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="path of uv")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--folders", metavar="NAME", help="print a deployable's local folders")
    arguments = parser.parse_args()
    if arguments.folders:
        name, extras = DEPLOYABLES[arguments.folders]
        print("\n".join(str(f.relative_to(ROOT)) for f in closure(name, extras)[1]))
        return 0
    wanted = {name: closure(*spec)[0] for name, spec in DEPLOYABLES.items()}
    wanted["dev"] = development()
    # Heavy, so that they have an environment of their own: `make extras`.
    extras = closure("fieldloop-training", "mlflow,ray")[0]
    wanted["training-extras"] = sorted({*wanted["dev"], *extras})
    wanted["tools"] = ["uv>=0.9"]
    wanted["testing-tflite"] = testing()
    wanted["build"] = ["hatchling>=1.25"]
    wanted["audit"] = ["pip-audit>=2.7"]
    wanted["release"] = ["sigstore>=3.6"]
    stale: list[str] = []
    for name, lines in wanted.items():
        path = LOCKS / f"{name}.txt"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        beside = LOCKS / f"{name.replace('testing', 'inference')}.txt"
        compile_lock(
            arguments.uv, lines, path, arguments.upgrade, beside if "testing" in name else None
        )
        if path.read_text(encoding="utf-8") != before:
            stale.append(path.name)
            if arguments.check:
                path.write_text(before, encoding="utf-8")
    if arguments.check and stale:
        print(f"stale: {', '.join(stale)}; run `make lock`", file=sys.stderr)
        return 1
    print(f"{len(wanted)} locks, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
