"""Models of about 10 us, 100 us and 1 ms for the inference benchmark, built once on each machine.

`python -m benchmarks.inference_models FOLDER` builds them with TensorFlow, which must not share a
process with another TFLite runtime.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WINDOW, CHANNELS = 32, 3
WORK = {"10 us": (128, 1), "100 us": (256, 5), "1 ms": (256, 54)}
"""Width and number of the dense layers that each of the window's 32 samples goes through."""


@functools.cache
def model(name: str) -> bytes:
    """The float32 classifier that takes about as long as its name says."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"fieldloop-bench-models-{os.getuid()}-{digest}"
    if not folder.exists():
        building = Path(tempfile.mkdtemp(prefix="fieldloop-bench-models-"))
        subprocess.run(
            [sys.executable, "-m", "benchmarks.inference_models", str(building)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            timeout=300,
            check=True,
        )
        try:
            building.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(building)
    return (folder / f"{name.replace(' ', '-')}.tflite").read_bytes()


def build(folder: Path) -> None:
    """Build all; only in a process of its own."""
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    for name, (width, layers) in WORK.items():
        rng = np.random.default_rng(1)
        first = tf.constant(rng.normal(0, 0.5, (CHANNELS, width)), tf.float32)
        inner = [
            tf.constant(rng.normal(0, 1.4 / width**0.5, (width, width)), tf.float32)
            for _ in range(layers)
        ]
        last = tf.constant(rng.normal(0, 1.0, (width, 3)), tf.float32)

        signature = tf.TensorSpec((1, WINDOW, CHANNELS), tf.float32)
        function = tf.function(_stack(tf, first, inner, last), input_signature=[signature])
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()]
        )
        (folder / f"{name.replace(' ', '-')}.tflite").write_bytes(converter.convert())


def _stack(tf: Any, first: Any, inner: Any, last: Any) -> Any:
    def call(x: Any) -> Any:
        y = tf.nn.relu(x[0] @ first)
        for kernel in inner:
            y = tf.nn.relu(y @ kernel)
        return tf.nn.softmax(tf.reduce_mean(y, axis=0, keepdims=True) @ last)

    return call


if __name__ == "__main__":
    build(Path(sys.argv[1]))
