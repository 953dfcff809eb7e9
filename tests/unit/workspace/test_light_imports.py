"""What a device loads stays light: heavy packages are not imported by importing a service."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "sqlite_utils", "tensorflow", "sklearn", "pandas", "pyarrow", "sqlalchemy", "tuf")


def loaded_by(*modules: str) -> set[str]:
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print(' '.join({n.split('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_ingestion_loads_neither_numpy_nor_sqlite_utils():
    loaded = loaded_by("fieldloop_ingestion.__main__", "fieldloop_buffer", "fieldloop_runtime.mqtt")
    assert "paho" in loaded
    assert not loaded & set(HEAVY)


def test_inference_loads_numpy_and_nothing_else_that_is_heavy():
    loaded = loaded_by("fieldloop_inference.__main__")
    assert not loaded & (set(HEAVY) - {"numpy"})


@pytest.mark.parametrize("module", ["fieldloop_telemetry.__main__", "fieldloop_delivery.__main__"])
def test_cloud_services_do_not_load_tensorflow(module: str):
    assert not loaded_by(module) & {"tensorflow", "keras"}
