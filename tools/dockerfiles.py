"""Writes the Dockerfile of each service, from one text and the workspace's own dependency graph.

Which folders an image is built from is what `tools/lock.py` says is under the service, so that an
image cannot hold another service's package, nor lack a library. What differs between images comes
last, so that those of one device share their first layers. `--check` writes nothing and fails where
a Dockerfile is out of date.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lock import DEPLOYABLES, ROOT, closure, members

UID = 10001
"""One user for every container: two of them on one SQLite file need the same (docs/images.md)."""


@dataclass(frozen=True)
class Image:
    """What differs between two images.

    Attributes:
        environment: settings that are the same wherever the image runs.
        folders: made under /data for this user, since a new volume takes them from whichever
            container mounts it first: all images of a device make the same ones.
        leave_out: globs under site-packages of what no service ever loads.
        command: argument after the module.
        note: lines of comment for people who read the Dockerfile.
    """

    environment: tuple[tuple[str, str], ...] = ()
    leave_out: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("broker", "drop", "identity", "logs", "models")
    command: str = "run"
    note: tuple[str, ...] = ()


LEFT_OUT_ALWAYS = (
    "pip",
    "pip-*.dist-info",
    "../../../bin/pip*",
    "zstandard/_cffi*",
    "securesystemslib/_vendor/ed25519/test_data",
)
"""pip is asked for by sqlite-utils, for a command that nobody runs here; zstandard loads one of its
two back ends; the vectors by which a signature scheme was tested are larger than the scheme."""
LEFT_OUT_LITERT = (
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "ai_edge_litert/vendors",
    "ai_edge_litert/tools",
    "ai_edge_litert/aot",
    "ai_edge_litert/schema_py_generated.py",
    "ai_edge_litert/__pycache__/schema_py_generated*",
    "numpy/tests",
    "numpy/*/tests",
    "numpy/_core/*_tests.*",
    "numpy/f2py",
    "numpy/distutils",
    "numpy/testing",
    "numpy/_core/include",
    "numpy/_core/lib",
)
"""What runs no model on a CPU: accelerators of phones, compilers for them, tests, headers, and
a reader of the file format in Python."""
STRIPPED = ("zstandard/backend_c", "cbor2/_cbor2", "ai_edge_litert/libpywrap_litert_common")
"""Libraries that come with symbols for a debugger; in one wheel they are three quarters of it. Only
these are touched: some libraries of numpy do not survive it."""
_HEALTH = ("FIELDLOOP_HEALTH_PORT", "8081")
"""Served on loopback: the container's own health check is who asks."""
_LOG = ("FIELDLOOP_LOG_PATH", "/data/logs/{name}.sqlite")
IMAGES: dict[str, Image] = {
    "ingestion": Image((_HEALTH, _LOG, ("FIELDLOOP_ORDERED_PROFILE", "/data/models/profile.yaml"))),
    "inference": Image(
        (
            _HEALTH,
            _LOG,
            ("FIELDLOOP_INPUT_PATH", "/data/logs/ingestion.sqlite"),
            ("FIELDLOOP_UPDATE_DIR", "/data/models"),
            ("FIELDLOOP_PROFILE_PATH", "/data/models/profile.yaml"),
        ),
        leave_out=LEFT_OUT_LITERT,
        note=(
            "32-bit ARM has no wheel of ai-edge-litert: --build-arg LOCK=inference-tflite takes",
            "tflite-runtime instead (docs/images.md).",
        ),
    ),
    "agent": Image((_HEALTH,)),
    "telemetry": Image((_HEALTH,), folders=("clients",)),
    "training": Image(
        (_HEALTH, ("FIELDLOOP_DATASETS_DIR", "/data/datasets")),
        folders=("datasets",),
        note=("TensorFlow makes this by far the largest image; it never reaches a device.",),
    ),
    "delivery": Image(
        (_HEALTH, ("FIELDLOOP_DIR", "/data/delivery")),
        folders=("clients", "delivery", "public"),
    ),
    "machines": Image((_HEALTH,), folders=("clients",)),
    "console": Image(
        (
            _HEALTH,
            ("FIELDLOOP_HOST", "0.0.0.0"),
            ("FIELDLOOP_FIRST_LINK_FILE", "/data/console/first-link"),
            ("NICEGUI_STORAGE_PATH", "/data/console/nicegui"),
            ("MATPLOTLIB", "false"),
        ),
        folders=("console",),
        note=("Plain HTTP on 8080: put a server that speaks TLS in front of it.",),
    ),
    "identity": Image(
        (_HEALTH, ("FIELDLOOP_DIR", "/data/identity")),
        folders=(
            "broker",
            "clients/telemetry",
            "clients/delivery",
            "clients/machines",
            "clients/reader",
            "identity",
            "public",
        ),
    ),
}
"""Every deployable with an image of its own; a new one is a line here and one in tools/lock.py."""


def render(name: str) -> str:
    """The Dockerfile of one service."""
    image = IMAGES[name]
    distribution, extras = DEPLOYABLES[name]
    folder = members()[distribution]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folders = [str(f.relative_to(ROOT)) for f in closure(distribution, extras)[1]]
    note = "".join(f"# {line}\n" for line in image.note)
    copies = "\n".join(f"COPY {f} {f}" for f in folders)
    environment = " \\\n    ".join(f"{k}={v.format(name=name)}" for k, v in image.environment)
    folders_of_data = " ".join(f"/data/{folder}" for folder in image.folders)
    left_out = " ".join((*LEFT_OUT_ALWAYS, *image.leave_out))
    stripped = " ".join(f"{library}*.so" for library in STRIPPED)
    module = distribution.replace("-", "_")
    return f"""\
# Generated by `make images-files`; do not edit. Build it from the repository's root:
#   docker build -f {folder.relative_to(ROOT)}/Dockerfile -t {distribution} .
{note}
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/fieldloop
COPY locks/build.txt locks/
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -r locks/build.txt
ARG LOCK={name}
COPY locks/${{LOCK}}.txt locks/
RUN /opt/build/bin/pip --python /opt/fieldloop/bin/python install --no-cache-dir \\
    --only-binary :all: --require-hashes -r locks/${{LOCK}}.txt
{copies}
RUN for folder in {" ".join(folders)}; do \\
      /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation -w /wheels "./$folder" \\
      || exit 1; \\
    done \\
 && /opt/build/bin/pip --python /opt/fieldloop/bin/python install --no-cache-dir \\
    --no-index --no-deps /wheels/*
RUN cd /opt/fieldloop/lib/python*/site-packages && rm -rf {left_out} \\
 && find . -name "*.pyi" -delete \\
 && for library in {stripped}; do \\
      [ ! -e "$library" ] || strip --strip-unneeded "$library" || exit 1; \\
    done

FROM python:3.11-slim-bookworm
RUN apt-get update \\
 && apt-get install -y --no-install-recommends tini openssl \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt
RUN python -c "import importlib.util as u, pathlib, shutil; \\
    names = ('ensurepip', 'pip', 'setuptools', 'pkg_resources', 'wheel'); \\
    found = [u.find_spec(name) for name in names]; \\
    [shutil.rmtree(pathlib.Path(s.origin).parent) for s in found if s]" \\
 && rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/share/python-wheels \\
 && groupadd --gid {UID} fieldloop \\
 && useradd --uid {UID} --gid {UID} --home-dir /data --no-create-home \\
    --shell /usr/sbin/nologin fieldloop
RUN install -d -o {UID} -g {UID} /data {folders_of_data}
COPY --from=build /opt/fieldloop /opt/fieldloop
ENV PATH=/opt/fieldloop/bin:$PATH \\
    PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    {environment}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="{distribution}" \\
      org.opencontainers.image.description="{project["description"]}" \\
      org.opencontainers.image.version="{project["version"]}" \\
      org.opencontainers.image.licenses="{project["license"]}" \\
      org.opencontainers.image.revision="${{REVISION}}"
USER {UID}:{UID}
WORKDIR /data
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 \\
    CMD ["python", "-m", "fieldloop_runtime.healthcheck"]
ENTRYPOINT ["tini", "--", "python", "-m", "{module}"]
CMD ["{image.command}"]
"""


def target(name: str) -> Path:
    """Where a service's Dockerfile stands: in its own folder."""
    return members()[DEPLOYABLES[name][0]] / "Dockerfile"


def main() -> int:
    """Write or check all Dockerfiles; returns 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for name in IMAGES:
        path, text = target(name), render(name)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run `make images-files`", file=sys.stderr)
        return 1
    print(f"{len(IMAGES)} Dockerfiles, {len(stale)} {'stale' if check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
