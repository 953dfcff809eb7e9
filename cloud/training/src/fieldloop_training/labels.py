"""From annotations to recordings: which labelled spans make a dataset, and which do not. Pure.

A later annotation of the same span replaces an earlier one (a correction). Spans of one stream that
overlap with different labels are ambiguous where they overlap; both are left out. `unknown` is not
a label, and is never taken for `normal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fieldloop_store.queries import AnnotationRow

CONFIDENCE_MIN = 0.5
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Recording:
    """One labelled span of one device's stream, `[t0_ns, t1_ns)`."""

    device: str
    stream: str
    t0_ns: int
    t1_ns: int
    label: str

    @property
    def key(self) -> str:
        """Names the span, whatever its label: a correction keeps its place in the split."""
        return f"{self.device}/{self.stream}/{self.t0_ns}"


def resolve(annotations: Iterable[AnnotationRow]) -> tuple[list[Recording], dict[str, int]]:
    """The recordings to learn from, by device and time, and how many annotations fell out and why.

    Counts: `unknown`, `unsure` (confidence under 0.5), `replaced`, `ambiguous`.
    """
    left_out: Counter[str] = Counter()
    spans: dict[tuple[str, str, int, int], AnnotationRow] = {}
    for row in annotations:
        if row.label == UNKNOWN:
            left_out["unknown"] += 1
            continue
        if row.confidence < CONFIDENCE_MIN:
            left_out["unsure"] += 1
            continue
        key = (row.device, row.stream, row.t0_ns, row.t1_ns)
        earlier = spans.get(key)
        if earlier is not None:
            left_out["replaced"] += 1
            if _arrival(earlier) > _arrival(row):
                continue
        spans[key] = row
    ordered = [Recording(*key[:2], key[2], key[3], spans[key].label) for key in sorted(spans)]
    clashing = _clashing(ordered)
    left_out["ambiguous"] += len(clashing)
    kept = [r for i, r in enumerate(ordered) if i not in clashing]
    return kept, {reason: n for reason, n in sorted(left_out.items()) if n}


def _arrival(row: AnnotationRow) -> tuple[int, str, str, str, int]:
    return (row.received_ns, row.log.device, row.log.service, row.log.epoch, row.seq)


def _clashing(ordered: list[Recording]) -> set[int]:
    """Indices of spans that overlap another; of two with the same label the later one goes."""
    out: set[int] = set()
    open_: list[int] = []
    for i, recording in enumerate(ordered):
        open_ = [
            j
            for j in open_
            if (ordered[j].device, ordered[j].stream) == (recording.device, recording.stream)
            and ordered[j].t1_ns > recording.t0_ns
        ]
        for j in open_:
            out.add(i)
            if ordered[j].label != recording.label:
                out.add(j)
        open_.append(i)
    return out
