"""Two `.tflite` files made one: what the first says goes into the second.

The converter quantizes every operator it can, a spectrum's among them, and offers no way to keep
chosen ones in float32 (its quantization debugger spares named operators, but not the reshapes
between them). So the float32 front and the quantized body are converted one by one and their graphs
joined here, on TFLite's own schema. One thread.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

_IDENTIFIER = b"TFL3"


def join(front: bytes, body: bytes) -> bytes:
    """A file with the input of `front`, and as outputs that of `body`, then that of `front`.

    Both have one subgraph with one input and one output; the tensors between them are float32.
    """
    first, second = _open(front), _open(body)
    a, b = first.subgraphs[0], second.subgraphs[0]
    buffers, codes, tensors = len(first.buffers), len(first.operatorCodes), len(a.tensors)
    between, into = int(a.outputs[0]), int(b.inputs[0])

    def moved(index: int) -> int:
        if index == into:
            return between
        return index + tensors if index >= 0 else index  # -1 is an input left out

    for tensor in b.tensors:
        tensor.buffer += buffers
    for operator in b.operators:
        operator.opcodeIndex += codes
        operator.inputs = [moved(int(i)) for i in operator.inputs]
        operator.outputs = [moved(int(i)) for i in operator.outputs]
    first.buffers += second.buffers
    first.operatorCodes += second.operatorCodes
    a.tensors = [*a.tensors, *b.tensors]
    a.operators = [*a.operators, *b.operators]
    a.outputs = [moved(int(b.outputs[0])), between]
    # They name the two files' own inputs and outputs, and buffers of tools.
    first.signatureDefs, first.metadata, first.metadataBuffer = None, None, None
    builder = flatbuffers.Builder(len(front) + len(body))
    builder.Finish(first.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _open(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
