"""All that belongs to one alarm as one zip, for an audit or a supplier. Reads the store only.

    alarm.json         the alarm, its history, who judged it
    scores.csv         score, threshold, model and calibration of each window around it
    signal.npz         the raw frames around it, as measured, where the store has them
    model.json         the manifest that was active, with its digest
    calibration.json   the record in force: who armed it, and from which rows it follows
    plots/*.png        score and threshold; the signal
    SHA256SUMS         digest of each file above

Times in file names and tables are UTC. Any thread. Needs the extra `evidence`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_store import alarms
from fieldloop_store.commissionings import find_calibration
from fieldloop_store.engine import Store
from fieldloop_store.queries import FrameRow, ResultRow, frames_between, results_between
from fieldloop_store.registry import find_manifest

BEFORE_NS = 3_600 * 10**9
AFTER_NS = 3_600 * 10**9
RESULTS_MAX = 50_000
FRAMES_MAX = 5_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal evidence is an equal file


@dataclass(frozen=True, slots=True)
class Evidence:
    """A zip, and the length in bytes of each file in it."""

    data: bytes
    files: dict[str, int]

    @property
    def sha256(self) -> str:
        """Digest of the zip. Equal evidence is an equal file."""
        return hashlib.sha256(self.data).hexdigest()


def gather_evidence(store: Store, fleet: str, alarm: str, *, now_ns: int) -> Evidence:
    """All that belongs to an alarm.

    Raises:
        RejectedInput: no such alarm.
        RetryLater: the store is away.
    """
    row = alarms.find_alarm(store, fleet, alarm)
    if row is None:
        raise RejectedInput(f"no alarm {alarm!r:.40} in {fleet}", code="alarm.unknown")
    files = _files(store, fleet, row, now_ns)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files["SHA256SUMS"] = sums.encode()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return Evidence(held.getvalue(), {name: len(data) for name, data in files.items()})


def write_evidence(
    store: Store, fleet: str, alarm: str, path: str, *, now_ns: int
) -> dict[str, Any]:
    """Write the zip; returns its sha256 and what is in it.

    Raises:
        RejectedInput: no such alarm.
        FixConfiguration: the file cannot be written.
        RetryLater: the store is away.
    """
    found = gather_evidence(store, fleet, alarm, now_ns=now_ns)
    try:
        Path(path).write_bytes(found.data)
    except OSError as error:
        raise FixConfiguration(f"{path} cannot be written: {error.strerror}") from error
    return {"file": path, "sha256": found.sha256, "files": found.files}


def _files(store: Store, fleet: str, row: alarms.AlarmRow, now_ns: int) -> dict[str, bytes]:
    t0_ns = max(0, row.life.raised_ns - BEFORE_NS)
    # A device whose clock is ahead raises in the cloud's future.
    now_ns = max(now_ns, row.life.raised_ns)
    t1_ns = (row.life.cleared_ns or min(now_ns, row.life.raised_ns + AFTER_NS)) + AFTER_NS
    scored = results_between(
        store, fleet, device=row.device, slot=row.slot, role="active", t0_ns=t0_ns, t1_ns=t1_ns
    )
    results = list(islice(scored, RESULTS_MAX))
    frames: list[FrameRow] = []
    for chosen in (False, True):  # all of it where the policy sends all, else what was chosen
        measured = frames_between(
            store, fleet, device=row.device, stream=row.stream, t0_ns=t0_ns, t1_ns=t1_ns,
            chosen=chosen,
        )  # fmt: skip
        frames = frames or list(islice(measured, FRAMES_MAX))
    document = {
        "alarm": asdict(row),
        "history": [asdict(line) for line in alarms.history_of(store, fleet, row.id)],
        "span": {"t0_ns": t0_ns, "t1_ns": t1_ns},
        "bounds": {"results_max": RESULTS_MAX, "frames_max": FRAMES_MAX},
        "found": {"results": len(results), "frames": len(frames)},
    }
    files = {"alarm.json": _json(document), "scores.csv": _scores(results)}
    if frames:
        files["signal.npz"] = _signal(frames)
    files |= _model(store, row)
    calibration = _calibration(store, fleet, results)
    if calibration is not None:
        files["calibration.json"] = _json(calibration)
    files |= _plots(row, results, frames)
    return files


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, default=str) + "\n").encode()


def _scores(results: Sequence[ResultRow]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["t0_ns", "t1_ns", "score", "alarm", "running", "model", "version", "digest", "calibration"]
    )
    for row in results:
        d = row.document
        table.writerow(
            [row.t0_ns, row.t1_ns, row.score, d.get("alarm"), d.get("running"), row.model,
             row.version, row.model_digest, d.get("calibration")]
        )  # fmt: skip
    return text.getvalue().encode()


def _signal(frames: Sequence[FrameRow]) -> bytes:
    """Frames one after the other: `samples` float32[n, channels], `t0_ns` and `rows` of each."""
    held = io.BytesIO()
    arrays = [row.frame.array() for row in frames]
    np.savez_compressed(
        held,
        samples=np.concatenate(arrays),
        rows=np.array([len(a) for a in arrays], np.int64),
        t0_ns=np.array([row.frame.t0_ns for row in frames], np.int64),
        rate_hz=np.array([row.frame.rate_hz for row in frames], np.float64),
    )
    return held.getvalue()


def _model(store: Store, row: alarms.AlarmRow) -> dict[str, bytes]:
    ref = row.document.get("model") or {}
    manifest = find_manifest(store, str(ref.get("digest", "")))
    return {} if manifest is None else {"model.json": manifest.encode()}


def _calibration(store: Store, fleet: str, results: Sequence[ResultRow]) -> dict[str, Any] | None:
    digests = {str(r.document["calibration"]) for r in results if r.document.get("calibration")}
    found = [find_calibration(store, fleet, digest) for digest in sorted(digests)]
    rows = [
        {"digest": c.digest, "armed_by": c.armed_by, "armed_ns": c.armed_ns,
         "record": json.loads(c.record.encode())}
        for c in found
        if c is not None
    ]  # fmt: skip
    return {"records": rows} if rows else None


def _plots(
    row: alarms.AlarmRow, results: Sequence[ResultRow], frames: Sequence[FrameRow]
) -> dict[str, bytes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - only here
    from matplotlib.figure import Figure  # noqa: PLC0415

    files: dict[str, bytes] = {}
    raised_ns = row.life.raised_ns

    def minutes(t_ns: Any) -> Any:
        return (np.asarray(t_ns, np.float64) - raised_ns) / 6e10

    def save(name: str, label: str, draw: Any) -> None:
        figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.axvline(0.0, color="#b3261e", linewidth=1, linestyle="--")
        axes.set_xlabel("minutes from the alarm")
        axes.set_ylabel(label)
        axes.set_title(f"{row.machine or row.device}, slot {row.slot}", fontsize=10)
        held = io.BytesIO()
        FigureCanvasAgg(figure).print_png(held, metadata={"Software": None})
        files[f"plots/{name}.png"] = held.getvalue()

    scored = [r for r in results if r.score is not None]
    if scored:

        def scores(axes: Any) -> None:
            axes.plot(minutes([r.t0_ns for r in scored]), [r.score for r in scored], linewidth=0.8)
            threshold = row.document.get("threshold")
            if isinstance(threshold, float | int):
                axes.axhline(threshold, color="#555", linewidth=1)

        save("score", "score, and threshold", scores)
    if frames:

        def signal(axes: Any) -> None:
            for channel in range(frames[0].frame.array().shape[1]):
                at = [minutes(f.frame.t0_ns) for f in frames]
                rms = [np.sqrt(np.mean(np.square(f.frame.array()[:, channel]))) for f in frames]
                axes.plot(at, rms, linewidth=0.8, label=f"channel {channel}")
            axes.legend(fontsize=8)

        save("signal", "RMS of each frame", signal)
    return files
