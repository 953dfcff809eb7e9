"""Labels of a device: what state it was in, told late and sometimes wrongly. One thread."""

from __future__ import annotations

import heapq
import itertools
from random import Random

from fieldloop_buffer import Entry, Kind
from fieldloop_contract.frames import Frame
from fieldloop_contract.messages import Annotation
from fieldloop_simulator.settings import LabelSettings


def label_of(state: int) -> str:
    """The name of a state."""
    return f"state-{state}"


class Labels:
    """Draws which frames get a label, and gives each when its time has come."""

    def __init__(self, settings: LabelSettings, device: str, seed: int) -> None:
        self._settings = settings
        self._device = device
        self._random = Random(seed)
        self._count = itertools.count()
        self._later: list[tuple[float, int, Entry]] = []

    def look(self, frame: Frame, state: int, states: int, at_s: float) -> None:
        """Perhaps label a frame of `at_s` seconds, later."""
        settings, random = self._settings, self._random
        if random.random() >= settings.share:
            return
        if random.random() < settings.wrong:
            state = (state + 1) % states
        note = Annotation(
            device=self._device,
            stream=frame.stream,
            t0_ns=frame.t0_ns,
            t1_ns=frame.t1_ns,
            label=label_of(state),
            annotator="simulator",
        )
        entry = Entry(Kind.ANNOTATION, frame.stream, frame.t0_ns, note.encode())
        delay_s = random.expovariate(1 / settings.delay_s) if settings.delay_s else 0.0
        heapq.heappush(self._later, (at_s + delay_s, next(self._count), entry))

    def due(self, at_s: float) -> list[Entry]:
        """Labels whose time has come."""
        found = []
        while self._later and self._later[0][0] <= at_s:
            found.append(heapq.heappop(self._later)[2])
        return found

    def clear(self) -> None:
        """Forget what has not come yet."""
        self._later.clear()
