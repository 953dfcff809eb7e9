"""Runners: the only place where a TFLite runtime is imported, one small module for each.

`ai-edge-litert` is the default, `tflite-runtime` 2.14 the other one. Never both in one process, and
neither after TensorFlow's own interpreter: they register the same symbols. A runner takes and gives
float32; it quantizes and dequantizes by the tensors' own parameters. It belongs to one thread.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration

Runtime = Literal["auto", "litert", "tflite"]
MODULES = {"litert": "ai_edge_litert", "tflite": "tflite_runtime"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output tensor.

    Attributes:
        name: as the file calls it.
        shape: with -1 for a dynamic axis.
        dtype: numpy's name: float32, int8, uint8, int16, ...
        scale: real value of one step; 0 where the tensor is not quantized.
        zero_point: the integer that stands for 0.0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True, slots=True)
class OpCount:
    """How often an operator occurs in a model."""

    name: str
    count: int


class Runner(Protocol):
    """A loaded model. One thread."""

    name: str
    version: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]

    @property
    def delegates(self) -> list[str]:
        """Delegates that took part of the graph, as the runtime itself lists them."""
        ...

    def ops(self) -> list[OpCount]:
        """The operators of the graph, by name."""
        ...

    def run(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run once.

        Args:
            inputs: one float32 array for each input, of its shape (leading 1 may be left out).

        Returns:
            One float32 array for each output, dequantized, of the output's shape.

        Raises:
            Isolate: the runtime failed on this model.
            RejectedInput: an array does not fit its tensor.
        """
        ...

    def reset(self) -> None:
        """Set the variables of a stateful model back to their beginning."""
        ...


def choose_runtime(runtime: str = "auto") -> str:
    """The runtime that will be used: "litert" or "tflite".

    Raises:
        FixConfiguration: it is not installed, or no such runtime is known.
    """
    if runtime == "auto":
        for name, module in MODULES.items():
            if importlib.util.find_spec(module) is not None:
                return name
        raise FixConfiguration(
            "no TFLite runtime is installed",
            code="runtime.absent",
            hint="install fieldloop-scoring[litert] or fieldloop-scoring[tflite]",
        )
    if runtime not in MODULES:
        raise FixConfiguration(
            f"no runtime is called {runtime!r:.40}",
            code="runtime.unknown",
            hint="auto, litert or tflite",
        )
    if importlib.util.find_spec(MODULES[runtime]) is None:
        raise FixConfiguration(
            f"runtime {runtime} is not installed",
            code="runtime.absent",
            hint=f"install fieldloop-scoring[{runtime}]",
        )
    return runtime


def open_runner(
    model: bytes, *, threads: int = 1, runtime: str = "auto", delegate: str = ""
) -> Runner:
    """Load a model.

    Args:
        model: bytes of a `.tflite` file, already checked against their signed digest.
        threads: CPU threads of the kernels.
        runtime: "auto", "litert" or "tflite".
        delegate: name of a delegate's entry point (`delegates`), such as "edgetpu"; "" for none.

    Raises:
        FixConfiguration: the runtime is not installed, or the delegate cannot be had.
        Isolate: the bytes are no model, or one that this runtime cannot run.
    """
    if choose_runtime(runtime) == "litert":
        from fieldloop_scoring.runners import litert  # noqa: PLC0415 - one runtime per process

        return litert.open_model(model, threads, delegate)
    from fieldloop_scoring.runners import tflite  # noqa: PLC0415 - one runtime per process

    return tflite.open_model(model, threads, delegate)


def check_delegate(delegate: str, *, runtime: str = "auto") -> None:
    """Open a delegate and let it go, so that a service can refuse to start without it.

    Raises:
        FixConfiguration: it cannot be had, or the runtime is not installed.
    """
    from fieldloop_scoring.runners.delegates import open_delegate  # noqa: PLC0415 - rarely used

    module = importlib.import_module(f"{MODULES[choose_runtime(runtime)]}.interpreter")
    open_delegate(delegate, module.load_delegate)
