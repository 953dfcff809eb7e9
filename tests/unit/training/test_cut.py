"""Training cuts the windows that a device cuts, from streams of other rates too."""

from __future__ import annotations

import numpy as np
import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Input
from fieldloop_scoring.joining import make_builder
from fieldloop_store.queries import FrameRow
from fieldloop_store.rows import LogKey
from fieldloop_training.labels import Recording
from fieldloop_training.snapshot import cut
from support.bundles import frame, make_input

T0 = 1_790_000_000 * 10**9
EPOCH = "e" * 32
LOG = LogKey("demo", "pump-1", "ingestion", EPOCH)


def rows(rate_hz: float) -> list[FrameRow]:
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 1, (100, 20, 3)).astype(np.float32)
    items = [frame(s, T0, 20 * i, "imu", rate_hz=rate_hz) for i, s in enumerate(samples)]
    return [FrameRow(LOG, seq, item, 0) for seq, item in enumerate(items, 1)]


@pytest.mark.parametrize(("resample", "rate_hz"), [("decimate", 200.0), ("linear", 61.0)])
def test_a_stream_of_another_rate_is_cut_as_the_device_cuts_it(
    resample: str, rate_hz: float
) -> None:
    spec = Input.model_validate(make_input(name="motion", resample=resample))
    given = rows(rate_hz)
    recording = Recording("pump-1", "imu", T0, given[-1].frame.t1_ns, "walk")
    builder = make_builder([spec], {"motion": "imu"})
    wanted = [w for row in given for w in builder.push(EPOCH, row.seq, row.frame)]
    got = cut(recording, given, spec)
    assert len(got) > 15
    assert [w.t0_ns for w in got] == [w.t0_ns for w in wanted]
    assert all(a.same_samples(b) for a, b in zip(got, wanted, strict=True))


def test_a_rate_that_nothing_was_declared_for_is_refused() -> None:
    spec = Input.model_validate(make_input())
    given = rows(61.0)
    recording = Recording("pump-1", "imu", T0, given[-1].frame.t1_ns, "walk")
    with pytest.raises(RejectedInput, match="61 Hz"):
        cut(recording, given, spec)
