"""Settings of the telemetry service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.ids import check_id
from fieldloop_runtime.settings import HealthSettings, MqttSettings, PositiveSeconds, Settings

FLEETS_MAX = 100


class BrokerSettings(MqttSettings):
    """How to reach the broker; the defaults suit one reader of many devices.

    What waits in the queue is bounded by `queue_max` messages of at most what the broker lets
    through; set the broker's message size limit to 256 KiB.
    """

    inflight_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=250, description="QoS 1 messages in flight (acknowledgements to devices)"
    )
    queue_max: Annotated[int, Field(ge=10, le=100_000)] = Field(
        default=256, description="received messages waiting for the service"
    )
    reconnect_cap_s: PositiveSeconds = Field(default=10, description="highest back-off ceiling")


class StoreSettings(Settings):
    """Where rows are kept."""

    url: str = Field(
        repr=False, description="sqlite:////path/store.sqlite or postgresql://user@host/database"
    )
    busy_timeout_s: PositiveSeconds = Field(
        default=5, description="how long a commit on SQLite waits for another writer"
    )


class CommitSettings(Settings):
    """When a group of batches is committed: at the first of these bounds."""

    rows_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=5_000, description="rows waiting for a commit"
    )
    bytes_max: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=8 << 20, description="bytes waiting for a commit"
    )
    age_ms: Annotated[int, Field(ge=0, le=60_000)] = Field(
        default=50, description="longest wait of a row for the commit of its group"
    )
    retry_cap_s: PositiveSeconds = Field(
        default=10, description="highest back-off ceiling while the database is away"
    )


class CareSettings(Settings):
    """What housekeeping does, and how often."""

    audit_interval_s: PositiveSeconds = Field(
        default=60, description="least time between two audits of the books of all logs"
    )
    recover_interval_s: PositiveSeconds = Field(
        default=60, description="least time between two requests to a log for rows that are lacking"
    )
    recover_rows_max: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=20_000, description="rows asked for again in one request"
    )
    figures_interval_s: PositiveSeconds = Field(
        default=15, description="time between two looks at the fleet for metrics"
    )
    retention_file: str = Field(
        default="", description="retention policy (JSON); empty keeps everything"
    )
    retention_interval_s: PositiveSeconds = Field(
        default=3_600, description="time between two applications of the policy"
    )


class HomeAssistantSettings(Settings):
    """Home Assistant's MQTT device discovery."""

    mode: Literal["off", "on", "clear"] = Field(
        default="off", description="on: announce devices; clear: remove what was announced"
    )
    prefix: str = Field(
        default="homeassistant",
        pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
        description="Home Assistant's discovery prefix",
    )
    state_root: str = Field(
        default="fieldloop-ha",
        pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
        description="first level of the topics with values for Home Assistant",
    )
    interval_s: PositiveSeconds = Field(default=5, description="time between two looks at values")
    devices_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=500, description="devices announced at most"
    )


class TelemetrySettings(Settings):
    """All settings of the service."""

    fleets: str = Field(default="+", description="ids of the fleets, with commas; + is every fleet")
    share: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,63}$",
        description="shared subscription group of replicas; needs MQTT 5 or a broker with $share",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="lowest level that is logged"
    )
    mqtt: BrokerSettings = BrokerSettings()
    store: StoreSettings
    commit: CommitSettings = CommitSettings()
    care: CareSettings = CareSettings()
    home_assistant: HomeAssistantSettings = HomeAssistantSettings()
    health: HealthSettings = HealthSettings()

    @field_validator("fleets")
    @classmethod
    def _ids(cls, value: str) -> str:
        names = fleet_names(value)
        if not 0 < len(names) <= FLEETS_MAX:
            raise ValueError(f"1 to {FLEETS_MAX} fleets")
        for name in names:
            if name != "+":
                try:
                    check_id(name, "fleet")
                except MalformedMessage as error:
                    raise ValueError(str(error)) from error
        return value


def fleet_names(fleets: str) -> list[str]:
    """The ids in a list with commas; only `+` where that is among them.

    >>> fleet_names("acme, demo")
    ['acme', 'demo']
    """
    names = [part.strip() for part in fleets.split(",") if part.strip()]
    return ["+"] if "+" in names else list(dict.fromkeys(names))
