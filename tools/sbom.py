"""Writes the software bill of materials of each image: `python tools/sbom.py OUT`.

CycloneDX 1.6, from what the image is built from and nothing else: the lock (name, version, sha256
of each file that may be installed), the workspace's own packages, and the base image. What the
Dockerfile takes out again is left out. Debian's packages of the base are named by the base's digest
where a build knows it (`--base-digest`), and not listed one by one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from dockerfiles import IMAGES
from lock import DEPLOYABLES, LOCKS, closure

BASE = "python:3.11-slim-bookworm"
REMOVED = frozenset({"pip"})
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAMESPACE = uuid.UUID("7b0b9a3e-7e0f-4c43-9f0d-2f3f6f0a6a11")


def pins(lock: Path) -> dict[str, tuple[str, list[str]]]:
    """Name to version and file digests, of one lock."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in lock.read_text(encoding="utf-8").splitlines():
        if match := _PIN.match(line):
            name = match[1].lower().replace("_", "-")
            found[name] = (match[2], [])
        if name:
            found[name][1].extend(_HASH.findall(line))
    return found


def bom(name: str, *, base_digest: str = "") -> dict[str, Any]:
    """The bill of one image."""
    distribution, extras = DEPLOYABLES[name]
    locked = {k: v for k, v in pins(LOCKS / f"{name}.txt").items() if k not in REMOVED}
    parts = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{package}@{version}",
            "name": package,
            "version": version,
            "purl": f"pkg:pypi/{package}@{version}",
            "properties": [{"name": "fieldloop:sha256", "value": digest} for digest in digests],
        }
        for package, (version, digests) in sorted(locked.items())
    ]
    own = []
    for folder in closure(distribution, extras)[1]:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        own.append(
            {
                "type": "library",
                "bom-ref": f"{project['name']}@{project['version']}",
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
            }
        )
    image, tag = BASE.split(":")
    base: dict[str, Any] = {
        "type": "container",
        "bom-ref": "base",
        "name": image,
        "version": tag,
        "purl": f"pkg:docker/{image}@{tag}",
    }
    if base_digest:
        base["hashes"] = [{"alg": "SHA-256", "content": base_digest.removeprefix("sha256:")}]
    version = own[-1]["version"]
    components = [base, *own, *parts]
    # Named by its content, so that the same inputs give the same bill.
    serial = uuid.uuid5(_NAMESPACE, json.dumps([name, components], sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": distribution,
                "version": version,
            }
        },
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [c["bom-ref"] for c in components]}],
    }


def main() -> int:
    """Write one file for each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--base-digest", default="", help="sha256:... of the base image used")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in IMAGES:
        text = json.dumps(bom(name, base_digest=arguments.base_digest), indent=2) + "\n"
        (arguments.out / f"{DEPLOYABLES[name][0]}.cdx.json").write_text(text, encoding="utf-8")
    print(f"{len(IMAGES)} bills in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
