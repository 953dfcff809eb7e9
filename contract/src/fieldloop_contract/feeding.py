"""Whether a device's streams can feed a model's inputs. Pure; the same rule in cloud and device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import Input

FACTOR_MAX: Final = 1_024
SAME_RATE: Final = 1e-6


def check_stream(
    wanted: Input, channels: list[str], units: list[str], rate_hz: float, source: str | None = None
) -> None:
    """Check that a stream can feed an input, or that part of it which comes from `source`.

    Args:
        channels: names of the stream's channels, in order.
        units: of each channel.
        source: of `Input.sources`; by default the input's first or only one.

    Raises:
        FixConfiguration: with what differs.
    """
    sources = wanted.sources()
    columns = sources[source or next(iter(sources))]
    takes = [(wanted.channels[c].name, wanted.channels[c].unit) for c in columns]
    given = list(zip(channels, units, strict=True))
    if takes != given:
        raise FixConfiguration(
            f"the model takes {takes}, the stream gives {given}", code="slot.channels"
        )
    check_rate(wanted, rate_hz)


def check_rate(wanted: Input, rate_hz: float) -> None:
    """Check that a stream has the rate of an input, or one that its `resample` can bring to it.

    Raises:
        FixConfiguration: it has another, and what can be done about it.
    """
    differ = f"the model takes {wanted.rate_hz:g} Hz, the stream gives {rate_hz:g} Hz"
    if wanted.resample is None:
        if not math.isclose(wanted.rate_hz, rate_hz, rel_tol=SAME_RATE):
            raise FixConfiguration(
                differ, code="slot.rate", hint="a manifest can declare `resample` of its input"
            )
    elif wanted.resample == "decimate":
        ratio = rate_hz / wanted.rate_hz
        whole = round(ratio)
        if not 1 <= whole <= FACTOR_MAX or abs(ratio - whole) > SAME_RATE * whole:
            raise FixConfiguration(
                f"{differ}, which cannot be decimated to it",
                code="slot.rate",
                hint=f"a whole multiple of the model's rate, at most {FACTOR_MAX} times it",
            )


def aligned(inputs: Sequence[Input]) -> bool:
    """Whether samples are read at a grid: declared, or needed since several streams meet."""
    return len(inputs) > 1 or any(len(i.sources()) > 1 or i.resample for i in inputs)


def check_alignment(inputs: Sequence[Input]) -> None:
    """Check that the inputs of a model can be cut side by side.

    Raises:
        FixConfiguration: several streams and no `resample`, or hops of other lengths.
    """
    if not aligned(inputs):
        return
    bare = [i.name for i in inputs if i.resample is None]
    if bare:
        raise FixConfiguration(
            f"several streams are aligned, and {', '.join(bare)} declares no `resample`",
            code="slot.alignment",
        )
    first = inputs[0]
    for other in inputs[1:]:
        if not math.isclose(
            first.hop_samples * other.rate_hz, other.hop_samples * first.rate_hz, rel_tol=1e-9
        ):
            raise FixConfiguration(
                f"inputs {first.name} and {other.name} hop by other times", code="slot.alignment"
            )
