"""Small `.tflite` files, good and bad, and bundles made of them.

Building needs TensorFlow, whose interpreter must not share a process with another runtime, so it
runs in a process of its own (`python tests/support/models.py FOLDER`), once for each version of
this file: the result is kept in the machine's temporary folder.
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

import numpy as np

WINDOW, CHANNELS, RATE_HZ = 32, 3, 50.0
PAIR_SLOW = 4
LABELS = ["rest", "walk", "run"]
NAMES = (
    "good",
    "better",
    "float",
    "uint8",
    "int16",
    "dynamic",
    "constant",
    "nan",
    "narrow",
    "slow",
    "sluggish",
    "hungry",
    "unknown-op",
    "autoencoder",
    "regression",
    "stateful",
    "pair",
)


@functools.cache
def model(name: str) -> bytes:
    """One of `NAMES`."""
    return (_folder() / f"{name}.tflite").read_bytes()


@functools.cache
def _folder() -> Path:
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"fieldloop-test-models-{os.getuid()}-{digest}"
    if not folder.exists():
        building = Path(tempfile.mkdtemp(prefix="fieldloop-test-models-"))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, __file__, str(building)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        try:
            building.rename(folder)
        except OSError:  # another session was faster
            shutil.rmtree(building)
    return folder


def windows(count: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Windows like those the models were calibrated on: float32[count, 32, 3]."""
    rng = np.random.default_rng(seed)
    t = np.arange(WINDOW) / RATE_HZ
    out = rng.normal(0, 0.2, (count, WINDOW, CHANNELS))
    frequency = rng.uniform(0.5, 6, (count, 1, 1))
    gain = rng.uniform(0, 2, (count, 1, CHANNELS))
    out += gain * np.sin(2 * np.pi * frequency * t[None, :, None])
    return out.astype(np.float32)


def build(folder: Path) -> None:
    """Build all models. Only in a process of its own."""
    import tensorflow as tf  # noqa: PLC0415

    shape = (WINDOW, CHANNELS)

    class Classifier(tf.Module):  # type: ignore[misc]
        def __init__(
            self, seed: int, gain: float = 1.0, bias: tuple[float, ...] = (0, 0, 0)
        ) -> None:
            rng = np.random.default_rng(seed)
            self.kernel = tf.constant(rng.normal(0, 0.4, (5, CHANNELS, 8)), tf.float32)
            self.dense = tf.constant(gain * rng.normal(0, 2.0, (8, 3)), tf.float32)
            self.bias = tf.constant(bias, tf.float32)

        def __call__(self, x: Any) -> Any:
            y = tf.nn.relu(tf.nn.conv1d(x, self.kernel, 2, "VALID"))
            return tf.nn.softmax(tf.reduce_mean(y, axis=1) @ self.dense + self.bias)

    def convert(
        call: Any,
        name: str,
        kind: str,
        *,
        shape: tuple[int, ...] = shape,
        batch: int | None = 1,
    ) -> None:
        signature = tf.TensorSpec((batch, *shape), tf.float32, name="window")
        function = tf.function(call, input_signature=[signature])
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()]
        )
        if kind != "float32":
            data = windows(64)[:, : shape[0]]
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([w[None]] for w in data)
            ops = tf.lite.OpsSet
            if kind == "int16":
                converter.target_spec.supported_ops = [
                    ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
                ]
            else:
                converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = getattr(tf, kind)
            converter.inference_output_type = getattr(tf, kind)
        converter.allow_custom_ops = name == "unknown-op"
        (folder / f"{name}.tflite").write_bytes(converter.convert())

    convert(Classifier(1), "good", "int8")
    convert(Classifier(2), "better", "int8")
    convert(Classifier(1), "float", "float32")
    convert(Classifier(1), "uint8", "uint8")
    convert(Classifier(1), "int16", "int16")
    convert(Classifier(1), "dynamic", "float32", batch=None)
    convert(Classifier(1, 0.0, (0.0, 3.0, 0.0)), "constant", "int8")
    convert(Classifier(1, float("nan")), "nan", "float32")
    convert(Classifier(1), "narrow", "int8", shape=(16, CHANNELS))
    big = tf.constant(np.random.default_rng(0).normal(0, 0.03, (1024, 1024)), tf.float32)

    def slow(x: Any) -> Any:
        wide = tf.repeat(tf.reshape(x, (1, -1)), 11, axis=1)[:, :1024] + tf.zeros((512, 1024))
        for _ in range(40):
            wide = tf.tanh(wide @ big)
        return tf.nn.softmax(wide[:1, :3])

    convert(slow, "slow", "float32")

    def sluggish(x: Any) -> Any:
        wide = tf.repeat(tf.reshape(x, (1, -1)), 11, axis=1)[:, :1024] + tf.zeros((512, 1024))
        return tf.nn.softmax(tf.tanh(wide @ big)[:1, :3])

    convert(sluggish, "sluggish", "float32")

    def hungry(x: Any) -> Any:
        tall = tf.tile(tf.reshape(x, (1, -1)), (2_000_000, 1))  # 768 MB
        return tf.nn.softmax(tf.reduce_max(tall * tall, axis=0, keepdims=True)[:, :3])

    convert(hungry, "hungry", "float32")
    convert(lambda x: tf.math.igamma(x[:, 0] ** 2 + 1.0, 1.0), "unknown-op", "float32")
    convert(lambda x: 0.9 * x, "autoencoder", "float32")
    convert(lambda x: tf.reduce_mean(x, axis=1)[:, :2], "regression", "float32")

    mixing = tf.constant(np.random.default_rng(3).normal(0, 2.0, (CHANNELS + 1, 3)), tf.float32)

    def pair(motion: Any, heat: Any) -> Any:
        both = tf.concat(
            [tf.reduce_mean(tf.nn.relu(motion), axis=1), tf.reduce_mean(heat, axis=1)], axis=1
        )
        return tf.nn.softmax(both @ mixing), 2.0 * tf.reduce_mean(heat, axis=1)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [
            tf.function(
                pair,
                input_signature=[
                    tf.TensorSpec((1, *shape), tf.float32, name="motion"),
                    tf.TensorSpec((1, PAIR_SLOW, 1), tf.float32, name="heat"),
                ],
            ).get_concrete_function()
        ]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    heat = np.random.default_rng(4).uniform(-2, 2, (64, 1, PAIR_SLOW, 1)).astype(np.float32)
    converter.representative_dataset = lambda: (
        [w[None], h] for w, h in zip(windows(64), heat, strict=True)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "pair.tflite").write_bytes(converter.convert())

    class Counter(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen = tf.Variable(tf.zeros((1, 1)))

        @tf.function(input_signature=[tf.TensorSpec((1, *shape), tf.float32)])
        def __call__(self, x: Any) -> Any:
            return self.seen.assign_add(1.0 + 0.0 * x[:, 0, :1])

    counter = Counter()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [counter.__call__.get_concrete_function()], counter
    )
    converter.experimental_enable_resource_variables = True
    (folder / "stateful.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
