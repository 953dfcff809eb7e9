"""Simulated models: bundles that the stand-in reads, registered like any other version."""

from __future__ import annotations

import json
from dataclasses import asdict
from random import Random

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Channel,
    FileRef,
    Golden,
    Input,
    Limits,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_simulator.settings import SignalSettings
from fieldloop_simulator.signals import channels_of
from fieldloop_simulator.standins import MARK, Behaviour


def bundle(
    settings: SignalSettings,
    *,
    name: str,
    version: int,
    size: int,
    behaviour: Behaviour,
    window_s: float = 10.0,
    probation_windows: int = 5,
) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest for the simulated stream, and its files.

    Args:
        size: bytes of the model's file; what is over is noise, which does not compress.
    """
    head = MARK + json.dumps(asdict(behaviour)).encode() + b"\n"
    model = head + Random(f"{name}/{version}").randbytes(max(0, size - len(head)))
    files = {MODEL_FILE: model, GOLDEN_FILE: b"simulated"}
    names, units = channels_of(settings)
    samples = max(2, round(window_s * settings.rate_hz))
    manifest = Manifest(
        name=name,
        version=version,
        task="classification",
        files={n: FileRef.of(data) for n, data in files.items()},
        inputs=[
            Input(
                name=settings.stream,
                channels=[Channel(name=n, unit=u) for n, u in zip(names, units, strict=True)],
                rate_hz=settings.rate_hz,
                window_samples=samples,
                hop_samples=samples,
                gap_tolerance_periods=2.5,
                normalisation=Normalisation(
                    centre=[0.0] * len(names), scale=[1.0] * len(names), clip=1e6
                ),
            )
        ],
        outputs=[
            Output(
                name="state",
                kind="probabilities",
                labels=[f"state-{k}" for k in range(settings.states)],
            )
        ],
        golden=Golden(count=1, tolerance=0.1),
        limits=Limits(probation_windows=probation_windows, latency_ms_max=60_000),
    )
    return manifest, files
