"""Selected samples: copies the frames of chosen windows into this service's log. Owner thread only.

A sample is the rows of the input log that a window was cut from, as they are, appended as SAMPLE
entries of their streams, and after them the event `sample.selected`, which names both: `epoch`,
`seq_first`, `seq_last` in the input log, `rows` (epoch, first and last seq) in this one. Rows that
an overlapping window has sent already are not sent again. What was spent is stored with the rows.

The uplink sends samples after everything else that waits (`fieldloop_buffer.uplink`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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


class Sampling:
    """The samples of one slot; the budget, in the log's state, is that of the whole service."""

    def __init__(self, slot: str, tools: Tools, settings: SampleSettings) -> None:
        self._slot = slot
        self._tools = tools
        self._settings = settings
        self._sent = ("", 0)

    def offer(
        self,
        window: Window,
        scored: Scored,
        notes: Notes,
        *,
        drifting: bool,
        ref: ModelRef,
        streams: Sequence[str],
    ) -> bool:
        """Take a scored window as a sample, if it is chosen and fits.

        Returns:
            Whether it was taken.
        """
        choice = choose(window, scored, notes, self._settings, drifting=drifting)
        if choice is None:
            return False
        try:
            return self._take(window, choice, ref, streams)
        except FieldloopError as error:
            # No room, or the rows are gone: a sample is worth less than the next result.
            self._tools.journal.debug("sample.not_taken", slot=self._slot, error=str(error))
            return False

    def _take(self, window: Window, choice: Choice, ref: ModelRef, streams: Sequence[str]) -> bool:
        log = self._tools.log
        entries = self._entries(window, streams)
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

    def _entries(self, window: Window, streams: Sequence[str]) -> list[Entry]:
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
