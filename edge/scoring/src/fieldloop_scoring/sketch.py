"""Drift sketches: fixed bins by channel, so that those of many windows and devices simply add.

A reference cuts the normalised training inputs into 32 bins of equal probability; a sketch counts
how many samples of live data fall into each, below and above the reference's range, or are NaN.
No raw data is in it. `psi` says how far the counts are from the reference. Pure; one thread each.

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
_COUNTS = BINS + 3
"""Below the range, the bins, above the range, NaN."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Edges of the bins: float32[channels, 33], ascending; outermost are the range's ends."""

    edges: NDArray[np.float32]

    @classmethod
    def of(cls, samples: NDArray[np.float32]) -> Reference:
        """Cut data into bins of equal probability.

        Args:
            samples: float32[..., channels], normalised, all finite.
        """
        flat = samples.reshape(-1, samples.shape[-1])
        edges = np.quantile(flat.astype(np.float64), np.linspace(0, 1, BINS + 1), axis=0).T
        return cls(np.ascontiguousarray(edges, np.float32))

    def to_object(self) -> dict[str, Any]:
        """As JSON, for `Manifest.drift_reference`."""
        return {"kind": "equal-probability", "bins": BINS, "edges": self.edges.tolist()}

    @classmethod
    def from_object(cls, document: Any) -> Reference:
        """Undo `to_object`.

        Raises:
            MalformedMessage: not such a document.
        """
        try:
            edges = np.asarray(document["edges"], np.float32)
            ok = document["kind"] == "equal-probability" and edges.shape[1:] == (BINS + 1,)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedMessage("not a drift reference", code="sketch.reference") from error
        if not ok or not 1 <= len(edges) <= CHANNELS_MAX or not np.isfinite(edges).all():
            raise MalformedMessage("not a drift reference", code="sketch.reference")
        if (np.diff(edges, axis=1) < 0).any():
            raise MalformedMessage("bin edges must ascend", code="sketch.reference")
        return cls(edges)


class Sketch:
    """Counts by channel against one reference: int64[channels, 35]."""

    def __init__(self, reference: Reference, counts: NDArray[np.int64] | None = None) -> None:
        self.reference = reference
        shape = (len(reference.edges), _COUNTS)
        self.counts: NDArray[np.int64] = np.zeros(shape, np.int64) if counts is None else counts
        if self.counts.shape != shape or (self.counts < 0).any():
            raise MalformedMessage("counts do not fit the reference", code="sketch.counts")

    def add(self, samples: NDArray[np.float32]) -> None:
        """Count samples: float32[..., channels], normalised."""
        flat = samples.reshape(-1, samples.shape[-1])
        for channel, edges in enumerate(self.reference.edges):
            values = flat[:, channel]
            missing = np.isnan(values)
            values = values[~missing]
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
            if not np.array_equal(other.reference.edges, self.reference.edges):
                raise MalformedMessage("sketches of two references", code="sketch.merge")
            total += other.counts
        return Sketch(self.reference, total)

    def psi(self) -> NDArray[np.float64]:
        """Population stability index by channel, float64[channels]; 0 where nothing was counted.

        What lies outside the range counts with the outermost bins. Half a count is added to each
        bin (Jeffreys' prior), so that an empty one does not make it infinite. Bins that ties in the
        reference made empty (equal edges) are joined to the next.
        """
        result = np.zeros(len(self.counts))
        for channel, edges in enumerate(self.reference.edges):
            counts = self.counts[channel, 1 : BINS + 1].astype(np.float64)
            counts[0] += self.counts[channel, 0]
            counts[-1] += self.counts[channel, BINS + 1]
            if not counts.sum():
                continue
            group = np.concatenate([[0], np.cumsum(np.diff(edges[:-1]) > 0)])
            live = np.bincount(group, weights=counts)
            bins = np.bincount(group).astype(np.float64)
            p = (live + 0.5 * bins) / (live.sum() + 0.5 * BINS)
            q = bins / BINS
            result[channel] = float(((p - q) * np.log(p / q)).sum())
        return result
