"""What the two TFLite runtimes have in common: the Python `Interpreter` class and its arithmetic.

Knows neither runtime; `litert` and `tflite` hand in their `Interpreter` class. XNNPACK is on, since
both apply it by default to what `Interpreter` loads; `delegates` asks the graph whether it did.

Quantization is TFLite's: `real = scale * (q - zero_point)`, one scale for a tensor
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, eq. 1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import Isolate, WrongStream
from fieldloop_scoring.runners import OpCount, TensorInfo

INPUT_DTYPES = ("float32", "int8", "uint8", "int16")
OUTPUT_DTYPES = (*INPUT_DTYPES, "int32", "int64", "bool")
TENSORS_MAX = 64
_DELEGATE_OPS = ("DELEGATE", "TfLiteXNNPackDelegate")
_RESOURCE_OPS = ("VAR_HANDLE", "ASSIGN_VARIABLE")
_HEADER = b"TFL3"


class InterpreterRunner:
    """A model in an interpreter, with float32 at both ends. One thread.

    Args:
        interpreter_class: `Interpreter` of ai_edge_litert or tflite_runtime.
        name: "litert" or "tflite".
        version: of the installed runtime.
        delegate: name and object of one that was asked for.

    Raises:
        Isolate: the bytes are no model that this runtime can run.
    """

    def __init__(
        self,
        interpreter_class: Any,
        model: bytes,
        threads: int,
        *,
        name: str,
        version: str,
        delegate: tuple[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._asked = [delegate[0]] if delegate is not None else []
        if model[4:8] != _HEADER:
            raise Isolate("not a TFLite file", code="model.unreadable")

        def make() -> Any:
            given = {"experimental_delegates": [delegate[1]]} if delegate is not None else {}
            made = interpreter_class(model_content=model, num_threads=threads, **given)
            made.allocate_tensors()
            return made

        try:
            self._make = make
            self._interpreter = make()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except (ValueError, RuntimeError, MemoryError, TypeError, OverflowError) as error:
            raise Isolate(
                f"{name} cannot load the model: {_words(error)}", code="model.unreadable"
            ) from error
        if not 1 <= len(inputs) <= TENSORS_MAX or not 1 <= len(outputs) <= TENSORS_MAX:
            raise Isolate("a model without inputs or outputs", code="model.unsupported")
        self.inputs = [_describe(d, INPUT_DTYPES, "input") for d in inputs]
        self.outputs = [_describe(d, OUTPUT_DTYPES, "output") for d in outputs]
        self._in_index = [int(d["index"]) for d in inputs]
        self._out_index = [int(d["index"]) for d in outputs]
        self._in_shape = [tuple(int(n) for n in d["shape"]) for d in inputs]
        self._remade = any(op.name in _RESOURCE_OPS for op in self.ops())

    @property
    def delegates(self) -> list[str]:
        """The delegate that was asked for, or `xnnpack` where XNNPACK took part of the graph."""
        names = {str(op["op_name"]) for op in self._graph()}
        return self._asked or (["xnnpack"] if names & set(_DELEGATE_OPS) else [])

    def ops(self) -> list[OpCount]:
        """The operators of the file, delegated or not, by name."""
        counts = Counter(str(op["op_name"]) for op in self._graph())
        return [OpCount(n, c) for n, c in sorted(counts.items()) if n not in _DELEGATE_OPS]

    def _graph(self) -> list[dict[str, Any]]:
        # Private in both runtimes, and the only way to ask; absent, the answer is "unknown".
        details = getattr(self._interpreter, "_get_ops_details", None)
        if details is None:
            return []
        try:
            graph: list[dict[str, Any]] = details()
        except (ValueError, RuntimeError):
            return []
        return graph

    def run(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run once; see `Runner.run`."""
        interpreter = self._interpreter
        try:
            for i, values in enumerate(inputs):
                fitted = self._fit(i, values)
                interpreter.set_tensor(self._in_index[i], _quantize(fitted, self.inputs[i]))
            interpreter.invoke()
            return [
                _dequantize(interpreter.get_tensor(index), info)
                for index, info in zip(self._out_index, self.outputs, strict=True)
            ]
        except (ValueError, RuntimeError, MemoryError) as error:
            raise Isolate(f"the model failed: {_words(error)}", code="model.failed") from error

    def _fit(self, i: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give an array the shape of its tensor, resizing a dynamic one."""
        shape = self._in_shape[i]
        if values.shape == shape:
            return values
        declared = self.inputs[i].shape
        if -1 in declared and len(values.shape) == len(declared):
            fits = all(d in (-1, n) for d, n in zip(declared, values.shape, strict=True))
            if fits:
                self._interpreter.resize_tensor_input(self._in_index[i], values.shape)
                self._interpreter.allocate_tensors()
                self._in_shape[i] = values.shape
                return values
        if values.size != math.prod(shape):
            raise WrongStream(
                f"input {self.inputs[i].name} is {list(shape)}, not {list(values.shape)}",
                code="model.shape",
            )
        return values.reshape(shape)

    def reset(self) -> None:
        """Set the variables of a stateful model back to their beginning.

        The runtimes reset variable tensors only; resource variables begin anew with an interpreter.

        Raises:
            Isolate: the runtime failed.
        """
        try:
            if self._remade:
                self._interpreter = self._make()
            else:
                self._interpreter.reset_all_variables()
        except (ValueError, RuntimeError, MemoryError) as error:
            raise Isolate(f"the model failed: {_words(error)}", code="model.failed") from error


def _describe(details: dict[str, Any], dtypes: Sequence[str], what: str) -> TensorInfo:
    dtype = np.dtype(details["dtype"]).name
    if dtype not in dtypes:
        raise Isolate(
            f"{what} {details['name']} is {dtype}; {', '.join(dtypes)} can be used",
            code="model.unsupported",
        )
    scale, zero_point = details["quantization"]
    if dtype in ("int8", "uint8", "int16") and not (math.isfinite(scale) and scale > 0):
        if what == "input":
            raise Isolate(f"{what} {details['name']} has no scale", code="model.unsupported")
        scale = 0.0
    signature = details.get("shape_signature", details["shape"])
    shape = signature if len(signature) == len(details["shape"]) else details["shape"]
    return TensorInfo(
        name=str(details["name"]),
        shape=tuple(int(n) for n in shape),
        dtype=dtype,
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _quantize(values: NDArray[np.float32], info: TensorInfo) -> NDArray[Any]:
    if info.scale == 0.0:
        return np.asarray(values, np.float32)
    bounds = np.iinfo(info.dtype)
    q = np.rint(values / np.float32(info.scale))
    q += np.float32(info.zero_point)
    # Not np.clip: it costs several microseconds on small arrays.
    np.minimum(q, np.float32(bounds.max), out=q)
    np.maximum(q, np.float32(bounds.min), out=q)
    quantized: NDArray[Any] = q.astype(info.dtype)
    return quantized


def _dequantize(values: NDArray[Any], info: TensorInfo) -> NDArray[np.float32]:
    out: NDArray[np.float32] = values.astype(np.float32)
    if info.scale != 0.0:
        out -= np.float32(info.zero_point)
        out *= np.float32(info.scale)
    return out


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
