"""From a Keras model to a full-int8 `.tflite` file with built-in operators only.

Conversion is deterministic across processes for equal weights and equal representative windows.
TensorFlow is imported when a conversion begins. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import Isolate, RejectedInput

INPUT_STEPS_MIN = 8.0
"""Standard deviation of a channel in quantization steps of the input below which it would vanish:
an int8 input has one step for all channels."""
REPRESENTATIVE_MAX = 256
_LEVELS = 255


def check_resolution(
    normalised: NDArray[np.float32], names: Sequence[str], steps_min: float = INPUT_STEPS_MIN
) -> float:
    """Refuse a channel that the int8 input cannot resolve.

    Args:
        normalised: float32[n, window_samples, channels], the representative windows.

    Returns:
        The input step: (largest - smallest value, 0 included) / 255.

    Raises:
        RejectedInput: a channel with a standard deviation under `steps_min` steps.
    """
    low, high = min(0.0, float(normalised.min())), max(0.0, float(normalised.max()))
    step = (high - low) / _LEVELS
    deviation = normalised.reshape(-1, normalised.shape[-1]).std(axis=0)
    poor = [
        f"{name} ({deviation[i] / step:.1f} steps)" if step else name
        for i, name in enumerate(names)
        if step == 0 or deviation[i] < steps_min * step
    ]
    if poor:
        raise RejectedInput(
            f"the int8 input cannot resolve {', '.join(poor)}: its sd is under {steps_min:g} steps",
            code="conversion.resolution",
            hint="use the standard normalisation, or a smaller clip",
        )
    return step


def representative_windows(
    samples: NDArray[np.float32], seed: int, most: int = REPRESENTATIVE_MAX
) -> NDArray[np.float32]:
    """At most `most` windows drawn without replacement, in their order."""
    if len(samples) <= most:
        return samples
    chosen = np.sort(np.random.default_rng(seed).choice(len(samples), most, replace=False))
    return samples[chosen]


def to_int8(model: Any, representative: NDArray[np.float32], names: Sequence[str]) -> bytes:
    """Convert with weights, activations, input and output in int8, batch size 1.

    Args:
        model: a Keras model of one input float32[n, window_samples, channels].
        representative: float32[n, window_samples, channels], normalised training windows; they
            calibrate the range of each activation.
        names: names of the channels, for messages.

    Raises:
        RejectedInput: a channel that the int8 input cannot resolve.
        Isolate: the converter cannot express the model in built-in int8 operators.
    """
    check_resolution(representative, names)
    import tensorflow as tf  # noqa: PLC0415 - only a process that converts pays for TensorFlow

    tf.keras.utils.disable_interactive_logging()  # its export prints to stdout otherwise
    # A graph of batch size 1: with a free batch axis the runtimes cannot plan their memory.
    inputs = tf.keras.Input(batch_shape=(1, *representative.shape[1:]), name="window")
    fixed = tf.keras.Model(inputs, model(inputs, training=False))

    def windows() -> Iterator[list[NDArray[np.float32]]]:
        for window in representative:
            yield [window[None]]

    try:
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = windows
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        return bytes(converter.convert())
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise Isolate(
            f"cannot be converted to int8: {error!s:.300}", code="conversion.int8"
        ) from error
