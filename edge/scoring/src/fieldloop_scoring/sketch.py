"""Drift sketches: fixed bins by channel, so that those of many windows and devices simply add.

A reference cuts the normalised training inputs into 32 bins of equal probability; a sketch counts
how many samples of live data fall into each, below and above the reference's range, or are NaN.
No raw data is in it. `psi` says how far the counts are from the reference. Channels are counted
each on its own, so that those of several inputs, of whatever length, stand one after the other. On
the wire those of the first input are apart from the `further_` ones of the rest, which a model of
one input does not have. Pure; one thread each.

The population stability index is `sum((p - q) ln(p / q))` over the bins: the symmetrised
Kullback-Leibler divergence of Jeffreys (1946), under this name in N. Siddiqi, "Credit Risk
Scorecards", Wiley 2006, ch. 6. Windows that overlap or follow each other are not independent, so
its usual limit of 0.2 means nothing here; the limit has to come from the reference itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import MalformedMessage

BINS = 32
CHANNELS_MAX = 64
"""Of the first input, and of all others together sixteen times as many."""
_FURTHER_MAX = 16 * CHANNELS_MAX
_COUNTS = BINS + 3
"""Below the range, the bins, above the range, NaN."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Edges of the bins, of all channels of all inputs in their order.

    Attributes:
        edges: float32[channels, 33], ascending; outermost are the range's ends.
        further: how many of the channels, the last ones, are of inputs after the first.
    """

    edges: NDArray[np.float32]
    further: int = 0

    @property
    def first(self) -> int:
        """How many channels the first input has."""
        return len(self.edges) - self.further

    @classmethod
    def of(cls, samples: NDArray[np.float32], *further: NDArray[np.float32]) -> Reference:
        """Cut data into bins of equal probability.

        Args:
            samples: float32[..., channels], normalised, all finite, of the first input.
            further: the same of each further input.
        """
        edges = [_equal_probability(x) for x in (samples, *further)]
        return cls(np.concatenate(edges), sum(len(e) for e in edges[1:]))

    def to_object(self) -> dict[str, Any]:
        """As JSON, for `Manifest.drift_reference`."""
        document: dict[str, Any] = {"kind": "equal-probability", "bins": BINS}
        return {**document, **split("edges", self.edges, self.first)}

    @classmethod
    def from_object(cls, document: Any) -> Reference:
        """Undo `to_object`.

        Raises:
            MalformedMessage: not such a document.
        """
        try:
            edges, further = joined("edges", document, np.float32)
            ok = document["kind"] == "equal-probability" and edges.shape[1:] == (BINS + 1,)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedMessage("not a drift reference", code="sketch.reference") from error
        first = len(edges) - further
        ok = ok and 1 <= first <= CHANNELS_MAX and further <= _FURTHER_MAX
        if not ok or not np.isfinite(edges).all():
            raise MalformedMessage("not a drift reference", code="sketch.reference")
        if (np.diff(edges, axis=1) < 0).any():
            raise MalformedMessage("bin edges must ascend", code="sketch.reference")
        return cls(edges, further)


def _equal_probability(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = samples.reshape(-1, samples.shape[-1])
    edges = np.quantile(flat.astype(np.float64), np.linspace(0, 1, BINS + 1), axis=0).T
    return np.ascontiguousarray(edges, np.float32)


def split(name: str, rows: NDArray[Any], first: int) -> dict[str, Any]:
    """Rows by channel as JSON: `name` of the first input, `further_name` where there are more."""
    document = {name: rows[:first].tolist()}
    return (
        document if len(rows) == first else {**document, f"further_{name}": rows[first:].tolist()}
    )


def joined(name: str, document: Any, dtype: type[Any]) -> tuple[NDArray[Any], int]:
    """Undo `split`: the rows, and how many of them are of further inputs.

    Raises:
        KeyError, TypeError, ValueError: not such a document.
    """
    rows = np.asarray(document[name], dtype)
    if f"further_{name}" not in document:
        return rows, 0
    further = np.asarray(document[f"further_{name}"], dtype)
    return np.concatenate([rows, further]), len(further)


class Sketch:
    """Counts by channel against one reference: int64[channels, 35]."""

    def __init__(self, reference: Reference, counts: NDArray[np.int64] | None = None) -> None:
        self.reference = reference
        shape = (len(reference.edges), _COUNTS)
        self.counts: NDArray[np.int64] = np.zeros(shape, np.int64) if counts is None else counts
        if self.counts.shape != shape or (self.counts < 0).any():
            raise MalformedMessage("counts do not fit the reference", code="sketch.counts")

    def add(self, samples: NDArray[np.float32], *further: NDArray[np.float32]) -> None:
        """Count samples.

        Args:
            samples: float32[..., channels], normalised, of the first input.
            further: the same of each further input; together the reference's channels.
        """
        flat = [x.reshape(-1, x.shape[-1]).T for x in (samples, *further)]
        columns = [column for rows in flat for column in rows]
        for channel, (column, edges) in enumerate(zip(columns, self.reference.edges, strict=True)):
            missing = np.isnan(column)
            values = column[~missing]
            # Interior edges belong to the bin above; the ends of the range are inside it.
            bins = np.searchsorted(edges[1:-1], values, side="right") + 1
            bins[values < edges[0]] = 0
            bins[values > edges[-1]] = BINS + 1
            self.counts[channel] += np.bincount(bins, minlength=_COUNTS)
            self.counts[channel, -1] += int(missing.sum())

    def merge(self, others: Sequence[Sketch]) -> Sketch:
        """The sum of this and others of the same reference.

        Raises:
            MalformedMessage: another reference.
        """
        total = self.counts.copy()
        for other in others:
            mine, theirs = self.reference, other.reference
            if theirs.first != mine.first or not np.array_equal(theirs.edges, mine.edges):
                raise MalformedMessage("sketches of two references", code="sketch.merge")
            total += other.counts
        return Sketch(self.reference, total)

    def psi(self) -> NDArray[np.float64]:
        """Population stability index by channel, float64[channels]; 0 where nothing was counted.

        What lies outside the range counts with the outermost bins, unless the outermost bin is a
        single value: there what lies beyond is a bin of its own, so that a channel that was
        constant in the reference drifts when it starts to move. Half a count is added to each bin
        (Jeffreys' prior), so that an empty one does not make it infinite; of a bin beyond, the
        reference has nothing but that. Bins that ties in the reference made empty (equal edges) are
        joined to the next.
        """
        result = np.zeros(len(self.counts))
        for channel, edges in enumerate(self.reference.edges):
            counts = self.counts[channel, : BINS + 2].astype(np.float64)
            total = counts.sum()
            if not total:
                continue
            below, above = edges[0] == edges[1], edges[-2] == edges[-1]
            inner = np.cumsum(np.concatenate([[below], np.diff(edges[:-1]) > 0]))
            group = np.concatenate([[0], inner, [inner[-1] + above]]).astype(np.intp)
            live = np.bincount(group, weights=counts)
            bins = np.bincount(group[1:-1], minlength=len(live)).astype(np.float64)
            prior = 0.5 * np.where(bins > 0, bins, 1.0)
            p = (live + prior) / (total + prior.sum())
            beyond = np.where(bins > 0, 0.0, prior / (total + prior.sum()))
            q = np.where(bins > 0, bins / BINS * (1 - beyond.sum()), beyond)
            result[channel] = float(((p - q) * np.log(p / q)).sum())
        return result
