"""Settings are checked once, all at the beginning."""

from __future__ import annotations

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_runtime.settings import load
from fieldloop_telemetry.service import subscriptions
from fieldloop_telemetry.settings import TelemetrySettings

_URL = {"FIELDLOOP_STORE_URL": "sqlite:////tmp/x"}


def test_every_fleet_is_read_by_default() -> None:
    filters = subscriptions(load(TelemetrySettings, _URL))
    assert "fieldloop/v1/+/+/+/frames" in filters
    assert len(filters) == 7
    assert not any(f.endswith(("/ack", "/want", "/desired")) for f in filters)


def test_rows_are_shared_between_replicas_and_presence_is_not() -> None:
    environ = _URL | {"FIELDLOOP_FLEETS": "acme, demo", "FIELDLOOP_SHARE": "telemetry"}
    filters = subscriptions(load(TelemetrySettings, environ))
    assert len(filters) == 14
    assert "$share/telemetry/fieldloop/v1/acme/+/+/results" in filters
    assert "fieldloop/v1/demo/+/+/status" in filters
    shared = {f.rsplit("/", 1)[-1] for f in filters if f.startswith("$share/")}
    assert shared == {"frames", "samples", "results", "events", "annotations"}


@pytest.mark.parametrize("fleets", ["", "Acme", "acme,,no/fleet", "#"])
def test_a_fleet_that_is_no_identifier_is_refused(fleets: str) -> None:
    with pytest.raises(FixConfiguration, match="FIELDLOOP_FLEETS"):
        load(TelemetrySettings, _URL | {"FIELDLOOP_FLEETS": fleets})


def test_a_store_is_required() -> None:
    with pytest.raises(FixConfiguration, match="FIELDLOOP_STORE"):
        load(TelemetrySettings, {})
