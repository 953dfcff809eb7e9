"""The rates at which sources give samples, against what their streams declare.

Measured from the newest frames of a log, by the monotonic clock of their boot: pauses that were
planned are left out, and a stream that gave too little to judge is passed over. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fieldloop_buffer import Kind, Reader, unpack_frame
from fieldloop_buffer.entry import Cursor
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.frames import Frame
from fieldloop_runtime.findings import Finding, judged

TOLERANCE = 0.05
"""As a share of the declared rate; clocks of cheap sensors are off by a per cent or two."""
SPANS_MIN = 3
ROWS = 1_000
_REMEDY = "too few: the source stalls or readings are refused (`fieldloop-ingestion log`); else \
the profile states another rate than the sensor has (`fieldloop-ingestion probe` measures)"


def measured_hz(frames: Iterable[Frame]) -> float | None:
    """Samples per second over the newest unbroken run of one stream's frames, oldest first.

    None where fewer than `SPANS_MIN` steps from frame to frame are there. A planned pause and a new
    boot begin a new run; a pause that nobody planned is what is looked for, and counts.
    """
    run: list[Frame] = []
    for frame in frames:
        if run and (frame.planned_pause or frame.boot != run[-1].boot):
            run = []
        run.append(frame)
    if len(run) <= SPANS_MIN:
        return None
    span_ns = run[-1].mono_ns - run[0].mono_ns
    return sum(f.n for f in run[:-1]) * 1e9 / span_ns if span_ns > 0 else None


def look_at_rates(path: str) -> Iterator[Finding]:
    """One finding for each stream of a log that has frames enough."""
    reader = Reader(path)
    try:
        end = reader.latest()
        if end is None:
            return
        begin = Cursor(end.epoch, max(0, end.seq - ROWS))
        rows = reader.read(begin, kinds=(Kind.FRAME,), limit=ROWS).rows
    except FieldloopError:
        return  # the log's own finding says it
    finally:
        reader.close()
    by_stream: dict[str, list[Frame]] = {}
    for row in rows:
        frame = unpack_frame(row.payload)
        by_stream.setdefault(frame.stream, []).append(frame)
    for stream, frames in sorted(by_stream.items()):
        rate = measured_hz(frames)
        if rate is None:
            continue
        stated = frames[-1].rate_hz
        fine = abs(rate - stated) <= TOLERANCE * stated
        yield judged(f"rate of {stream}", fine, f"{rate:.4g} Hz, stated {stated:.4g} Hz", _REMEDY)
