"""Selected samples: copies the frames of chosen windows into this service's log. Owner thread only.

A sample is the rows of the input log that a window was cut from, as they are, appended as SAMPLE
entries of their streams, and after them the event `sample.selected`, which names both: `epoch`,
`seq_first`, `seq_last` in the input log, `rows` (epoch, first and last seq) in this one. Rows that
an overlapping window has sent already are not sent again. What was spent is stored with the rows.

When an alarm is raised, the rows from some time before it are read back from the input log and
sent too, and every window for some time after it: the capture. A kill within it costs nothing.

The uplink sends samples after everything else that waits (`fieldloop_buffer.uplink`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from fieldloop_buffer import Cursor, Entry, Kind
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.monitor import Notes
from fieldloop_inference.selection import Choice, SampleSettings, Spent, choose
from fieldloop_inference.tools import Tools
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window

STATE: Final = "samples"
ROWS_PER_WINDOW_MAX: Final = 2_000
PLACES_MAX: Final = 2_000
CAPTURED: Final = Choice(("captured",), 1.0)


class Place(NamedTuple):
    """Where a window lies, without its samples."""

    epoch: str
    seq_first: int
    seq_last: int
    t0_ns: int
    t1_ns: int

    @classmethod
    def of(cls, window: Window) -> Place:
        """The place of a window."""
        return cls(window.epoch, window.seq_first, window.seq_last, window.t0_ns, window.t1_ns)


class Sampling:
    """The samples of one slot; the budget, in the log's state, is that of the whole service."""

    def __init__(self, slot: str, tools: Tools, settings: SampleSettings) -> None:
        self._slot = slot
        self._tools = tools
        self._settings = settings
        self._sent = _sent(tools.log.state(f"sampled:{slot}"))
        self._recent: deque[Place] = deque(maxlen=PLACES_MAX)
        self._until_ns = int(tools.log.state(self._key) or "0") if settings.bytes_per_day else 0

    @property
    def _key(self) -> str:
        return f"capture:{self._slot}"

    def offer(
        self,
        window: Window,
        scored: Scored,
        notes: Notes,
        *,
        drifting: bool,
        raised: bool,
        ref: ModelRef,
        streams: Sequence[str],
    ) -> bool:
        """Take a scored window as a sample, if it is chosen and fits.

        Args:
            raised: whether this window raised the alarm.

        Returns:
            Whether it was taken.
        """
        if not self._settings.bytes_per_day:
            return False
        place = Place.of(window)
        try:
            if raised:
                return self._capture(place, ref, streams)
            choice = (
                CAPTURED
                if window.t0_ns < self._until_ns
                else choose(window, scored, notes, self._settings, drifting=drifting)
            )
            return choice is not None and self._take(place, choice, ref, streams)
        except FieldloopError as error:
            # No room, or the rows are gone: a sample is worth less than the next result.
            self._tools.journal.debug("sample.not_taken", slot=self._slot, error=str(error))
            return False
        finally:
            self._recent.append(place)

    def _capture(self, raising: Place, ref: ModelRef, streams: Sequence[str]) -> bool:
        """The rows from before the alarm up to the window that raised it, as one sample."""
        begins_ns = raising.t0_ns - round(self._settings.before_s * 1e9)
        self._until_ns = raising.t1_ns + round(self._settings.after_s * 1e9)
        self._tools.log.set_state(self._key, str(self._until_ns))
        earlier = [p for p in self._recent if p.epoch == raising.epoch and p.t1_ns > begins_ns]
        first = min([raising, *earlier], key=lambda p: p.seq_first)
        seq_first = max(first.seq_first, raising.seq_last - ROWS_PER_WINDOW_MAX + 1)
        whole = raising._replace(seq_first=seq_first, t0_ns=first.t0_ns)
        return self._take(whole, CAPTURED, ref, streams)

    def _take(self, window: Place, choice: Choice, ref: ModelRef, streams: Sequence[str]) -> bool:
        log = self._tools.log
        entries = self._entries(window, streams)
        if choice is CAPTURED:  # what lies nearest to the alarm is worth most
            left = Spent.load(log.state(STATE)).on(self._tools.now_ns()).left(self._settings)
            while entries and sum(len(e.payload) for e in entries) > left:
                del entries[0]
        size = sum(len(e.payload) for e in entries)
        spent = Spent.load(log.state(STATE)).on(self._tools.now_ns())
        if not entries or not spent.fits(size, self._settings, control=choice.control):
            refused = spent.refused + bool(entries)
            log.set_state(STATE, Spent(spent.day, spent.spent, spent.special, refused).dump())
            return False
        special = spent.special + (0 if choice.control else size)
        log.set_state(STATE, Spent(spent.day, spent.spent + size, special, spent.refused).dump())
        seqs = [log.append(entry) for entry in entries]
        self._sent = (window.epoch, window.seq_last)
        log.set_state(f"sampled:{self._slot}", f"{window.epoch} {window.seq_last}")
        data: dict[str, Any] = {
            "stream": streams[0],
            "slot": self._slot,
            "t0_ns": window.t0_ns,
            "t1_ns": window.t1_ns,
            "epoch": window.epoch,
            "seq_first": window.seq_first,
            "seq_last": window.seq_last,
            "rows": [log.epoch, seqs[0], seqs[-1]],
            "reasons": list(choice.reasons),
            "probability": choice.probability,
            "bytes": size,
            "model": ref.model_dump(include={"name", "version", "digest"}),
        }
        self._tools.emit("sample.selected", streams[0], data)
        return True

    def _entries(self, window: Place, streams: Sequence[str]) -> list[Entry]:
        """The rows of a window that were not sent yet."""
        epoch, last = self._sent
        first = window.seq_first
        if epoch == window.epoch and last >= first:
            first = last + 1
        chunk = self._tools.reader.read(
            Cursor(window.epoch, first - 1),
            kinds=(Kind.FRAME,),
            streams=streams,
            limit=ROWS_PER_WINDOW_MAX,
        )
        return [
            Entry(Kind.SAMPLE, row.stream, row.t_ns, row.payload)
            for row in chunk.rows
            if row.epoch == window.epoch and row.seq <= window.seq_last
        ]


def _sent(text: str | None) -> tuple[str, int]:
    """Epoch and last seq of the rows that were sent, as an earlier life left them."""
    epoch, _, seq = (text or "").partition(" ")
    return (epoch, int(seq)) if seq.isdigit() else ("", 0)
