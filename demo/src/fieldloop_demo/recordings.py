"""The smart-watch recordings of the wheel `seglearn`, one subject's series after the other.

Source: D. M. Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the
inertial signals from a smartwatch", Physiological Measurement 39 (2018) 075007; the data is shipped
in the wheel `seglearn` (BSD-3-Clause). The file is a pickle, which can run code when it is read;
so it is read only if its sha256 is the one known to be harmless.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration

SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
RATE_HZ = 50.0
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
_FILE = "watch_dataset.npy"


@dataclass(frozen=True, slots=True)
class Recording:
    """One exercise by one subject, worn on one arm.

    Attributes:
        subject: 1 to 10.
        arm: "left" or "right".
        label: short name of the exercise.
        samples: float32[n, 6]; acceleration in g, angular rate in rad/s, at 50 Hz.
    """

    subject: int
    arm: str
    label: str
    samples: NDArray[np.float32]

    @property
    def name(self) -> str:
        """Unique among all recordings."""
        return f"s{self.subject:02d}-{self.arm}-{self.label.lower()}"


def find() -> Path:
    """Path of the data file in the installed wheel.

    Raises:
        FixConfiguration: the wheel is not installed.
    """
    try:
        files = metadata.files("seglearn") or []
    except metadata.PackageNotFoundError as error:
        raise FixConfiguration("the package seglearn is not installed", hint="run make") from error
    for file in files:
        if file.name == _FILE:
            return Path(str(file.locate()))
    raise FixConfiguration(f"the package seglearn has no {_FILE}", hint="1.2.5 has it")


def load(path: Path | None = None) -> list[Recording]:
    """Read the recordings, after checking the file's digest.

    Raises:
        FixConfiguration: another file than the one known.
    """
    data = (path or find()).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise FixConfiguration(
            f"{_FILE} has sha256 {digest}, not {SHA256}",
            code="data.digest",
            hint="it is a pickle and is not read; install seglearn==1.2.5",
        )
    content = np.load(io.BytesIO(data), allow_pickle=True).item()
    recordings = [
        Recording(
            subject=int(subject),
            arm="right" if side else "left",
            label=str(content["y_labels"][int(label)]),
            samples=np.ascontiguousarray(series, dtype=np.float32),
        )
        for series, subject, side, label in zip(
            content["X"], content["subject"], content["side"], content["y"], strict=True
        )
    ]
    return sorted(recordings, key=lambda r: r.name)
