"""The other runtime: `tflite-runtime` 2.14, its last release. It needs Python <= 3.11.

With numpy 2 it imports but fails when an Interpreter is made, with a message that names neither;
hence the check here.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from fieldloop_contract.errors import FixConfiguration
from fieldloop_scoring.runners.delegates import open_delegate
from fieldloop_scoring.runners.interpreter import InterpreterRunner


def open_model(model: bytes, threads: int, delegate: str = "") -> InterpreterRunner:
    """Load a model; see `fieldloop_scoring.runners.open_runner`.

    Raises:
        FixConfiguration: numpy 2 is installed beside it.
    """
    if int(np.__version__.split(".", maxsplit=1)[0]) >= 2:
        raise FixConfiguration(
            f"tflite-runtime does not work with numpy {np.__version__}",
            code="runtime.numpy",
            hint="install numpy<2",
        )
    from tflite_runtime.interpreter import Interpreter, load_delegate  # noqa: PLC0415 - large

    return InterpreterRunner(
        Interpreter,
        model,
        threads,
        name="tflite",
        version=version("tflite-runtime"),
        delegate=(delegate, open_delegate(delegate, load_delegate)) if delegate else None,
    )
