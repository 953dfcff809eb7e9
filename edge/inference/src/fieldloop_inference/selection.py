"""Which windows are worth their bytes: unsure, alarmed, drifting, or a random control sample.

Around the moment at which an alarm is raised every window is: a capture from `before_s` before it
to `after_s` after it, what is nearest first where the budget does not hold all.

Owns the choice and the daily budget. The choice is a draw by chance, from a hash of the window's
own place in the log: the same window is chosen again after a kill, and a cloud can recompute it.
Each chosen window carries its reasons and the chance it had; the budget comes after the draw, so
what it refused is counted. Pure; one thread. The budget is of UTC days as the device believes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Final

from pydantic import Field

from fieldloop_inference.monitor import Notes
from fieldloop_runtime.settings import Settings
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window

DAY_NS: Final = 86_400 * 10**9
_Chance = Annotated[float, Field(ge=0, le=1)]


class SampleSettings(Settings):
    """What is sent raw of the windows that the models saw."""

    bytes_per_day: Annotated[int, Field(ge=0)] = Field(
        default=0, description="most bytes of selected raw windows a day; 0 selects none"
    )
    margin: _Chance = Field(
        default=0.2, description="unsure: the two best labels are closer than this"
    )
    chance: _Chance = Field(
        default=0.1, description="chance of a window that is unsure, alarmed or drifting"
    )
    control: _Chance = Field(default=0.001, description="chance of any other running window")
    control_share: _Chance = Field(
        default=0.2, description="share of the budget that only control samples may use"
    )
    before_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=10, description="capture: seconds of signal from before an alarm was raised"
    )
    after_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=10, description="capture: seconds of signal from after it"
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """A window that was chosen.

    Attributes:
        reasons: `captured` around an alarm; of `alarmed`, `unsure`, `drifting`; `control` where
            there is none of them.
        probability: the chance that it had to be chosen.
    """

    reasons: tuple[str, ...]
    probability: float

    @property
    def control(self) -> bool:
        """Whether it is a control sample."""
        return self.reasons == ("control",)


@dataclass(frozen=True, slots=True)
class Spent:
    """The budget of one day.

    Attributes:
        day: days since 1970.
        spent: bytes in all.
        special: bytes for windows other than control samples.
        refused: windows that were chosen and did not fit.
    """

    day: int = 0
    spent: int = 0
    special: int = 0
    refused: int = 0

    def on(self, now_ns: int) -> Spent:
        """The budget as it stands now: a new day begins with nothing spent."""
        day = now_ns // DAY_NS
        return self if day == self.day else Spent(day)

    def fits(self, size: int, settings: SampleSettings, *, control: bool) -> bool:
        """Whether a sample still fits into the day."""
        if self.spent + size > settings.bytes_per_day:
            return False
        limit = settings.bytes_per_day * (1 - settings.control_share)
        return control or self.special + size <= limit

    def left(self, settings: SampleSettings) -> int:
        """Bytes that still fit, for windows other than control samples."""
        special = round(settings.bytes_per_day * (1 - settings.control_share)) - self.special
        return max(0, min(settings.bytes_per_day - self.spent, special))

    def dump(self) -> str:
        """As text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str | None) -> Spent:
        """Undo `dump`; a damaged text counts as a day on which nothing was spent."""
        try:
            document = json.loads(text or "{}")
            return cls(**{k: max(0, int(document[k])) for k in cls.__slots__ if k in document})
        except (ValueError, TypeError, AttributeError):
            return cls()


def choose(
    window: Window, scored: Scored, notes: Notes, settings: SampleSettings, *, drifting: bool
) -> Choice | None:
    """Whether a scored window is a sample; idle ones never are."""
    if not settings.bytes_per_day or not notes.counts:
        return None
    reasons = tuple(
        name
        for name, holds in (
            ("alarmed", bool(scored.alarm) or bool(notes.alarm)),
            ("unsure", unsure(scored, settings.margin)),
            ("drifting", drifting),
        )
        if holds
    )
    probability = settings.chance if reasons else settings.control
    if draw(window) >= probability:
        return None
    return Choice(reasons or ("control",), probability)


def unsure(scored: Scored, margin: float) -> bool:
    """Whether a classifier hesitated, or the output is not valid."""
    if not scored.valid:
        return True
    if scored.probabilities is None or len(scored.probabilities) < 2:
        return False
    best, second = sorted(scored.probabilities.values())[:-3:-1]
    return best - second < margin


def draw(window: Window) -> float:
    """A number of [0, 1) that is the window's own."""
    place = f"{window.epoch}/{window.seq_first}/{window.offset}".encode()
    return int.from_bytes(hashlib.sha256(place).digest()[:8], "big") / (1 << 64)
