"""Machine: the vibration of a simulated rotating machine, as a live source.

    kind: machine
    seed: 7
    machine:
      shaft_hz: 24.5
      defects:
        - {fault: outer, severity: {kind: growth, onset_s: 600, doubling_s: 300}}

Time on the machine is counted in samples: its state goes into the log with each frame, so that a
process that was killed goes on with the very next sample. Time of the frames is the wall clock's: a
pause of the service is a gap in them, since nobody measured. One seed makes one signal, for ever.
Physics: `machinery`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import CHANNELS_MAX
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.framing import Instant, Piece, frames_of, put, samples_max
from fieldloop_ingestion.sources.machinery import (
    DIRECTIONS,
    Direction,
    Machine,
    MachineState,
    Simulation,
)

SAMPLES_PER_POLL = 6_400
BEHIND_S_MAX = 2.0
"""A service that is further behind the clock (stopped, out of space) goes on from now."""


class MachineOptions(BaseModel):
    """Options of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    machine: Machine = Machine()
    seed: Annotated[int, Field(ge=0, le=1 << 53)] = Field(
        default=1, description="machines of different seeds differ in angles, slip and noise"
    )
    directions: list[Direction] | None = Field(
        default=None,
        max_length=CHANNELS_MAX,
        description="for each channel; by default horizontal, vertical, axial",
    )
    frame_samples: Annotated[int, Field(ge=1, le=SAMPLES_PER_POLL)] = Field(
        default=320, description="samples in a frame; another number makes another noise"
    )
    speed: Annotated[float, Field(ge=0, le=1e4)] = Field(
        default=1.0, description="times real time; 0 is as fast as the log takes it"
    )


class MachineSource:
    """See the module."""

    Options: ClassVar[type[BaseModel]] = MachineOptions

    def __init__(self, options: MachineOptions, context: Context) -> None:
        self._options = options
        self._context = context
        stream = context.stream
        self.check(options, stream)
        self._simulation = Simulation(
            options.machine,
            rate_hz=stream.rate_hz,
            columns=tuple(options.directions or DIRECTIONS[: len(stream.channels)]),
            seed=options.seed,
        )
        self._state = self._simulation.begin()
        self._end_ns = 0
        if text := context.recall("machine"):
            self._state, self._end_ns = _recalled(text, len(options.machine.defects), self._state)
        self._limits = [(c.min, c.max) for c in stream.channels]
        self._made: tuple[MachineState, list[Piece], int] | None = None
        self._begun = False
        self._due_s: float | None = None
        self._open = True

    @classmethod
    def check(cls, options: MachineOptions, stream: StreamProfile) -> None:
        """Whether the options fit the stream.

        Raises:
            FixConfiguration: with what does not.
        """
        channels = len(stream.channels)
        if len(options.directions or DIRECTIONS[:channels]) != channels:
            raise FixConfiguration("directions has to name that of each channel")
        if options.frame_samples > samples_max(channels):
            raise FixConfiguration("frame_samples makes frames that are too large")
        if fault := options.machine.check_rate(stream.rate_hz):
            raise FixConfiguration(fault)

    def poll(self, sink: Sink, now_s: float) -> float:
        """Put the frames that are whole by now, at most `SAMPLES_PER_POLL` samples."""
        if not self._open:
            return 1.0
        frame_s = self._options.frame_samples / self._context.stream.rate_hz
        period_s = frame_s / self._options.speed if self._options.speed else 0.0
        if self._due_s is None or now_s - self._due_s > BEHIND_S_MAX + period_s:
            self._due_s = now_s + period_s
            self._end_ns = max(self._end_ns, self._context.clock().utc_ns)
            if not self._begun:
                self._made = None  # nobody saw it: the same samples are made for the new time
        for _ in range(max(SAMPLES_PER_POLL // self._options.frame_samples, 1)):
            if now_s < self._due_s:
                return self._due_s - now_s
            self._put(sink)
            self._due_s += period_s
        return 0.0

    def close(self) -> None:
        """Nothing is held open."""
        self._open = False

    def _put(self, sink: Sink) -> None:
        """One frame; where the sink has no room, it is kept for the next time."""
        if self._made is None:
            self._made = self._make()
        state, pieces, end_ns = self._made
        while pieces:
            put(sink, pieces[0])
            self._begun = True
            del pieces[0]
        self._made, self._begun, self._state = None, False, state
        self._end_ns = max(self._end_ns, end_ns)
        sink.remember("machine", _text(state, self._end_ns, len(self._options.machine.defects)))

    def _make(self) -> tuple[MachineState, list[Piece], int]:
        n = self._options.frame_samples
        state, values = self._simulation.block(self._state, n)
        width = len(self._limits)
        for i, (low, high) in enumerate(self._limits):
            if low is not None or high is not None:  # a sensor saturates
                column = values[i::width]
                for row, value in enumerate(column):
                    if low is not None and value < low:
                        values[row * width + i] = low
                    elif high is not None and value > high:
                        values[row * width + i] = high
        stream = self._context.stream
        at = Instant.of(self._context.clock(), self._end_ns)
        end_ns = self._end_ns + round(n * 1e9 / stream.rate_hz)
        return state, list(frames_of(stream, values, at)), end_ns


def _text(state: MachineState, end_ns: int, defects: int) -> str:
    """The state as text; floats are written so that they are read as they were."""
    fields = [state.sample, state.turns, state.speed, *state.next_turns[:defects], *state.ring]
    return json.dumps([end_ns, *fields], separators=(",", ":"))


def _recalled(text: str, defects: int, fresh: MachineState) -> tuple[MachineState, int]:
    """The state of an earlier run; of a machine with other defects only time and shaft go on."""
    fields: list[Any] = json.loads(text)
    end_ns, sample, turns, speed = int(fields[0]), int(fields[1]), fields[2], fields[3]
    between, ring = fields[4:-2], (fields[-2], fields[-1])
    if len(between) != defects:
        between, ring = [turns + due for due in fresh.next_turns], (0.0, 0.0)
    return MachineState(sample, turns, speed, tuple(between), ring), end_ns
