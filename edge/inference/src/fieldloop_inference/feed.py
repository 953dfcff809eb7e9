"""A feed: the streams of a slot in the input log, as windows of its inputs. Owner thread only.

Owns the cursor and the builder. Its position (where the next window begins) is stored by the slot
in the transaction of the results; resumed there, it gives the same windows again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fieldloop_buffer import Cursor, Kind, Reader, Row, unpack_frame
from fieldloop_contract.errors import MalformedMessage, WrongStream
from fieldloop_contract.manifest import Input
from fieldloop_scoring.joining import carry, make_builder
from fieldloop_scoring.windows import Position, Window

ROWS_PER_READ: Final = 200
READS_MAX: Final = 20
Policy = Literal["catch_up", "skip_to_live"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that this feed will never see, or a stream that does not fit.

    Attributes:
        type: of the event: window.gap, window.skipped, stream.unfit.
        reason: in words.
    """

    type: str
    reason: str


def streams_of(inputs: Sequence[Input], streams: Mapping[str, str]) -> tuple[str, ...]:
    """Streams of the device that feed a model's inputs, in order, each once."""
    sources = (source for spec in inputs for source in spec.sources())
    return tuple(dict.fromkeys(streams.get(source, source) for source in sources))


def windowing(inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """All of the inputs that windows follow from."""
    return [i.model_dump(exclude={"normalisation", "tensor"}) for i in inputs]


class Feed:
    """Windows for the inputs of one model.

    Args:
        streams: from the model's sources (`Input.sources`) to streams of the device.
        skip_rows_max: with policy skip_to_live, how many rows may wait before they are skipped.

    Attributes:
        stream: the first one, which results are filed under.
        streams: all of them, without repetition.

    Raises:
        FixConfiguration: the inputs cannot be aligned as they are declared.
    """

    def __init__(
        self,
        reader: Reader,
        inputs: Sequence[Input],
        streams: Mapping[str, str],
        *,
        policy: Policy = "catch_up",
        skip_rows_max: int = 1_000,
        position: Position | None = None,
    ) -> None:
        self.inputs = list(inputs)
        self.streams = streams_of(inputs, streams)
        self.stream = self.streams[0]
        self.rows_read = 0
        self.unfit = ""
        self._reader = reader
        self._mapping = dict(streams)
        self._policy = policy
        self._skip_rows_max = skip_rows_max
        self._builder = make_builder(inputs, streams)
        self._rows: deque[Row] = deque()
        self._gaps: list[Gap] = []
        self._cursor: Cursor | None = None
        self._move_to(position)

    def _move_to(self, position: Position | None) -> None:
        self._builder.resume(position)
        self._rows.clear()
        self._cursor = None if position is None else Cursor(position.epoch, position.seq - 1)

    def serves(self, inputs: Sequence[Input], streams: Mapping[str, str]) -> bool:
        """Whether it gives the windows that a model takes."""
        return windowing(self.inputs) == windowing(inputs) and self._mapping == dict(streams)

    def refit(
        self, inputs: Sequence[Input], streams: Mapping[str, str], position: Position | None
    ) -> Feed:
        """A feed of another windowing that goes on at `position`, a window of this one."""
        return Feed(
            self._reader,
            inputs,
            streams,
            policy=self._policy,
            skip_rows_max=self._skip_rows_max,
            position=carry(position, self.inputs, inputs),
        )

    def position(self) -> Position | None:
        """Where the next window begins; None before anything was read."""
        return self._builder.position()

    @property
    def breaks(self) -> int:
        """Times that a run of samples was broken."""
        return self._builder.gaps

    def take_gaps(self) -> list[Gap]:
        """What was found missing or unfit since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _read(self) -> bool:
        """Read a chunk; False if there is nothing new."""
        if self._policy == "skip_to_live":
            self._skip()
        for _ in range(READS_MAX):
            before = self._cursor
            chunk = self._reader.read(
                before, kinds=(Kind.FRAME,), streams=self.streams, limit=ROWS_PER_READ
            )
            if chunk.gaps:
                # Whether windows may span it is the gap rule's business: it goes by time.
                spans = ", ".join(f"{first} to {last}" for first, last in chunk.gaps[:3])
                reason = f"rows {spans} were gone before they were read"
                self._gaps.append(Gap("window.gap", reason))
            self._cursor = chunk.cursor
            self._rows.extend(chunk.rows)
            # A chunk without rows and with a new cursor means: go on.
            if self._rows or self._cursor == before:
                break
        return bool(self._rows)

    def _skip(self) -> None:
        """Jump to the live end where more waits than the policy allows."""
        latest = self._reader.latest()
        if latest is None or latest == self._cursor:
            return
        behind = self._cursor is None or self._cursor.epoch != latest.epoch
        if behind or latest.seq - (self._cursor.seq if self._cursor else 0) > self._skip_rows_max:
            where = "the beginning" if self._cursor is None else str(self._cursor.seq)
            self._gaps.append(Gap("window.skipped", f"rows after {where} to {latest.seq}"))
            self._builder.reset()
            self._cursor = latest

    def next(self) -> list[Window] | None:
        """The windows that the next row completes (often none), or None if no row waits."""
        if not self._rows and not self._read():
            return None
        row = self._rows.popleft()
        self.rows_read += 1
        try:
            windows = self._builder.push(row.epoch, row.seq, unpack_frame(row.payload))
        except (WrongStream, MalformedMessage) as error:
            self._refuse(row, str(error))
            return []
        self.unfit = ""
        return windows

    def _refuse(self, row: Row, reason: str) -> None:
        """A frame that cannot feed this input; said once for each run of them."""
        if reason != self.unfit:
            self.unfit = reason
            self._gaps.append(Gap("stream.unfit", f"row {row.seq}: {reason}"))
