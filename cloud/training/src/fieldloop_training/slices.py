"""Slices of a dataset: windows by device, machine, site and month. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

SLICES_MAX = 200


def slice_names(device: str, t0_ns: int, machine: str, site: str) -> list[str]:
    """Which slices a window belongs to.

    >>> slice_names("pump-1", 0, "p1", "Ulm")
    ['device pump-1', 'machine p1', 'site Ulm', 'month 1970-01']
    """
    month = datetime.fromtimestamp(t0_ns / 1e9, UTC).strftime("%Y-%m")
    names = [f"device {device}"]
    if machine and machine != device:
        names.append(f"machine {machine}")
    if site:
        names.append(f"site {site}")
    return [*names, f"month {month}"]


def masks(names: Sequence[Sequence[str]]) -> Mapping[str, NDArray[np.bool_]]:
    """Which windows each slice has: bool[n] by name, at most `SLICES_MAX`, the largest first.

    A slice that holds all windows is none.

    Args:
        names: the slices of each window.
    """
    index: dict[str, list[int]] = {}
    for at, given in enumerate(names):
        for name in given:
            index.setdefault(name, []).append(at)
    largest = sorted(index, key=lambda name: (-len(index[name]), name))
    found: dict[str, NDArray[np.bool_]] = {}
    for name in largest:
        if len(index[name]) == len(names) or len(found) >= SLICES_MAX:
            continue
        mask = np.zeros(len(names), np.bool_)
        mask[index[name]] = True
        found[name] = mask
    return found
