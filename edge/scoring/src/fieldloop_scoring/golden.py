"""Golden vectors: windows and the outputs they must give, so that a device can prove itself.

An npz file with two arrays: `inputs` float32[n, ...], physical units (several inputs are flattened
one after the other), and `outputs` float32[n, k], dequantized, all outputs one after the other.
Written without compression and without times, so that equal arrays are equal bytes; read without
pickle and in memory bounded by the file's own length.

A tolerance is needed: the two runtimes differ by up to 3 quantization steps on some outputs.
"""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, MalformedMessage
from fieldloop_contract.manifest import Manifest
from fieldloop_scoring.runners import Runner
from fieldloop_scoring.scorer import Scorer

GOLDEN_BYTES_MAX = 64 << 20
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_MAX = 4096


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """Outcome of a check.

    Attributes:
        passed: whether every output was within the tolerance.
        worst: the largest absolute difference seen; NaN where it could not be computed.
        message: in words.
    """

    passed: bool
    worst: float
    message: str


def make_golden(inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> bytes:
    """Write golden vectors. Equal arrays give equal bytes.

    Args:
        inputs: float32[n, window_samples, channels], physical units.
        outputs: float32[n, k], dequantized, as `golden_outputs` gives them.
    """
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, values in (("inputs", inputs), ("outputs", outputs)):
            body = io.BytesIO()
            plain = np.ascontiguousarray(values, dtype="<f4")
            np.lib.format.write_array(  # type: ignore[no-untyped-call]
                body, plain, version=(1, 0), allow_pickle=False
            )
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), body.getvalue())
    return out.getvalue()


def read_golden(golden: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs and outputs of a golden file.

    Raises:
        MalformedMessage: not such a file.
    """
    if len(golden) > GOLDEN_BYTES_MAX:
        raise MalformedMessage(f"golden vectors of {len(golden)} bytes", code="golden.bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(golden)) as archive:
            inputs, outputs = (_read_array(archive, f"{n}.npy") for n in ("inputs", "outputs"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, NotImplementedError) as error:
        raise MalformedMessage(f"no golden vectors: {error!s:.120}", code="golden.npz") from error
    except (struct.error, EOFError, RuntimeError) as error:
        raise MalformedMessage(f"no golden vectors: {error!s:.120}", code="golden.npz") from error
    if not len(inputs) or len(inputs) != len(outputs) or outputs.ndim != 2 or inputs.ndim < 2:
        raise MalformedMessage("golden inputs and outputs do not match", code="golden.shape")
    return inputs, outputs


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[np.float32]:
    """One float32 array. Not `np.load`, which allocates what a header claims."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > GOLDEN_BYTES_MAX:
        raise ValueError(f"{name} is compressed or too long")
    data = archive.read(info)
    if not data.startswith(_NPY_MAGIC):
        raise ValueError(f"{name} is not an npy file of version 1.0")
    (header_bytes,) = struct.unpack_from("<H", data, len(_NPY_MAGIC))
    start = len(_NPY_MAGIC) + 2
    if header_bytes > _HEADER_MAX:
        raise ValueError(f"{name} has a header of {header_bytes} bytes")
    try:
        header: Any = ast.literal_eval(data[start : start + header_bytes].decode("latin-1").strip())
        shape, descr, order = header["shape"], header["descr"], header["fortran_order"]
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name} has no npy header") from error
    if descr != "<f4" or order is not False or not isinstance(shape, tuple):
        raise ValueError(f"{name} is not float32")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"{name} has no shape")
    body = data[start + header_bytes :]
    if math.prod(shape) * 4 != len(body):
        raise ValueError(f"{name} does not hold {shape}")
    return np.frombuffer(body, "<f4").reshape(shape)


def golden_outputs(
    manifest: Manifest, inputs: NDArray[np.float32], runner: Runner
) -> NDArray[np.float32]:
    """What the model gives for golden inputs: float32[n, k], all outputs one after the other.

    Args:
        inputs: float32[n, window_samples, channels], physical units.

    Raises:
        Isolate: the model does not fit the manifest, or failed.
    """
    return _outputs(Scorer(manifest, runner), inputs)


def _outputs(scorer: Scorer, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    shapes = [(i.window_samples, len(i.channels)) for i in scorer.manifest.inputs]
    sizes = [w * c for w, c in shapes]
    if math.prod(inputs.shape[1:]) != sum(sizes):
        raise MalformedMessage(
            f"golden inputs are {list(inputs.shape)}, the manifest says {shapes}",
            code="golden.shape",
        )
    rows = []
    scorer.runner.reset()
    for flat in inputs.reshape(len(inputs), -1):
        parts, at = [], 0
        for shape, size in zip(shapes, sizes, strict=True):
            parts.append(flat[at : at + size].reshape(shape))
            at += size
        rows.append(np.concatenate(scorer.raw(*parts)))
    scorer.runner.reset()
    return np.stack(rows)


def check_golden(manifest: Manifest, golden: bytes, runner: Runner) -> GoldenReport:
    """Run the golden inputs and compare: `|device - expected| <= tolerance` for every number.

    Never raises for a bad model or a bad file; the report says why.
    """
    nan = float("nan")
    try:
        inputs, expected = read_golden(golden)
        if len(inputs) != manifest.golden.count:
            return GoldenReport(
                False,
                nan,
                f"{len(inputs)} golden vectors, the manifest says {manifest.golden.count}",
            )
        got = _outputs(Scorer(manifest, runner), inputs)
    except FieldloopError as error:
        return GoldenReport(False, nan, str(error))
    if got.shape != expected.shape:
        return GoldenReport(
            False, nan, f"outputs are {list(got.shape)}, golden ones {list(expected.shape)}"
        )
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    worst = float(difference.max())
    tolerance = manifest.golden.tolerance
    # Written so that NaN fails.
    passed = bool(worst <= tolerance)
    verdict = "within" if passed else "beyond"
    return GoldenReport(
        passed,
        worst,
        f"{len(inputs)} golden vectors, worst difference {worst:.6g}, {verdict} {tolerance:.6g}",
    )
