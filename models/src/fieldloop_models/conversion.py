"""From a Keras model to a `.tflite` file with built-in operators only.

Four variants: `int8` (weights, activations, input and output), `int16` (activations in int16,
weights in int8), `float16` (weights; computed in float32) and `float32`. What a recipe computes in
a float32 front stays float32 in all of them, and is quantized after its last operator.

Conversion is deterministic across processes for equal weights and equal representative windows. So
deltas stay small where both are kept: a run that retrains the head only hands in the representative
windows of the earlier version, and the activations' ranges below the head are the same.
TensorFlow is imported when a conversion begins. One thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import Isolate, RejectedInput
from fieldloop_models.fitting import through
from fieldloop_models.recipe import Trained

Variant = Literal["int8", "int16", "float16", "float32"]
VARIANTS: tuple[Variant, ...] = ("int8", "int16", "float16", "float32")
INPUT_STEPS_MIN = 8.0
"""Standard deviation of a channel in quantization steps of the input below which it would vanish:
an int8 input has one step for all channels."""
REPRESENTATIVE_MAX = 256
_LEVELS = {"int8": 255, "int16": 65_535}


def check_resolution(
    normalised: NDArray[np.float32],
    names: Sequence[str],
    steps_min: float = INPUT_STEPS_MIN,
    *,
    levels: int = 255,
    unseen: Collection[str] = (),
) -> float:
    """Refuse a channel that the quantized input cannot resolve.

    Args:
        normalised: float32[n, window_samples, channels], the representative windows.
        levels: steps from the smallest to the largest value of the tensor.
        unseen: channels that the model does not look at.

    Returns:
        The input step: (largest - smallest value, 0 included) / levels.

    Raises:
        RejectedInput: a channel with a standard deviation under `steps_min` steps.
    """
    low, high = min(0.0, float(normalised.min())), max(0.0, float(normalised.max()))
    step = (high - low) / levels
    deviation = normalised.reshape(-1, normalised.shape[-1]).std(axis=0)
    poor = [
        f"{name} ({deviation[i] / step:.1f} steps)" if step else name
        for i, name in enumerate(names)
        if name not in unseen and (step == 0 or deviation[i] < steps_min * step)
    ]
    if poor:
        raise RejectedInput(
            f"the quantized input cannot resolve {', '.join(poor)}: its sd is under "
            f"{steps_min:g} steps",
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


def convert(
    trained: Trained,
    representative: NDArray[np.float32],
    names: Sequence[str],
    variant: Variant = "int8",
    *,
    unseen: Collection[str] = (),
) -> bytes:
    """The file of a trained model.

    Args:
        representative: float32[n, window_samples, channels], normalised healthy or training
            windows; they calibrate the range of each activation. Keep them for the next version.
        names: names of the channels, for messages.
        unseen: channels that the model does not look at, and so need not be resolved.

    Raises:
        RejectedInput: a channel that the quantized input cannot resolve.
        Isolate: the converter cannot express the model in built-in operators.
    """
    if trained.front is None:
        return to_tflite(trained.model, representative, names, variant, unseen=unseen)
    from fieldloop_models.joining import join  # noqa: PLC0415 - with TensorFlow

    features = through(trained.front, representative)
    front = to_tflite(trained.front, representative, names, "float32")
    body = to_tflite(trained.body, features, (), variant, float_input=True)
    return join(front, body)


def to_int8(model: Any, representative: NDArray[np.float32], names: Sequence[str]) -> bytes:
    """Convert a model without a front to full int8; see `to_tflite`."""
    return to_tflite(model, representative, names, "int8")


def to_tflite(
    model: Any,
    representative: NDArray[np.float32],
    names: Sequence[str],
    variant: Variant,
    *,
    unseen: Collection[str] = (),
    float_input: bool = False,
) -> bytes:
    """Convert one Keras model of one input, float32[n, ...], with batch size 1.

    Args:
        float_input: the input tensor is float32 and quantized by the graph's first operator. Its
            resolution is not checked: residuals are taken against the float values.

    Raises:
        RejectedInput, Isolate: as `convert`.
    """
    if variant in _LEVELS and not float_input:
        check_resolution(representative, names, levels=_LEVELS[variant], unseen=unseen)
    import tensorflow as tf  # noqa: PLC0415 - only a process that converts pays for TensorFlow

    tf.keras.utils.disable_interactive_logging()  # its export prints to stdout otherwise
    # A graph of batch size 1: with a free batch axis the runtimes cannot plan their memory.
    inputs = tf.keras.Input(batch_shape=(1, *representative.shape[1:]), name="window")
    # Names are part of the file: those that Keras counts up would change its length.
    fixed = tf.keras.Model(inputs, model(inputs, training=False), name="fixed")

    def windows() -> Iterator[list[NDArray[np.float32]]]:
        for window in representative:
            yield [window[None]]

    try:
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant in _LEVELS:
            converter.representative_dataset = windows
            converter.target_spec.supported_ops = [_ops(tf, variant)]
            dtype = getattr(tf, variant)
            converter.inference_input_type = tf.float32 if float_input else dtype
            converter.inference_output_type = dtype
        return bytes(converter.convert())
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise Isolate(
            f"cannot be converted to {variant}: {error!s:.300}", code=f"conversion.{variant}"
        ) from error


def _ops(tf: Any, variant: Variant) -> Any:
    ops = tf.lite.OpsSet
    if variant == "int16":
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS_INT8
