"""The weights of a Keras model as bytes, for warm starts and checkpoints.

An npz file of arrays named by number and path of their variable; read without pickle. Equal weights
give equal bytes. Imports no TensorFlow: a variable is what has `path`, `shape`, `numpy()` and
`assign()`.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput

WEIGHTS_BYTES_MAX = 256 << 20
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack_arrays(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Arrays by name, without pickle and without times."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            body = io.BytesIO()
            np.lib.format.write_array(  # type: ignore[no-untyped-call]
                body, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False
            )
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), body.getvalue())
    return out.getvalue()


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Undo `pack_arrays`.

    Raises:
        RejectedInput: not such bytes.
    """
    if len(data) > WEIGHTS_BYTES_MAX:
        raise RejectedInput(f"weights of {len(data)} bytes", code="weights.bytes")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RejectedInput(f"no weights: {error!s:.120}", code="weights.damaged") from error


def pack(model: Any) -> bytes:
    """All variables of a model, in their order."""
    return pack_arrays({f"{i:03d}/{v.path}": v.numpy() for i, v in enumerate(model.weights)})


def unpack(model: Any, data: bytes) -> None:
    """Set a model's variables to those that were packed from one of the same architecture.

    Raises:
        RejectedInput: the weights are of another architecture; nothing is set.
    """
    arrays = list(unpack_arrays(data).values())
    shapes = [tuple(v.shape) for v in model.weights]
    if [a.shape for a in arrays] != shapes:
        raise RejectedInput(
            "the earlier model has another architecture",
            code="weights.architecture",
            hint="begin without it, or with the settings, channels and labels it was trained with",
        )
    for variable, values in zip(model.weights, arrays, strict=True):
        variable.assign(values)
