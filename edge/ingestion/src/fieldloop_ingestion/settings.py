"""Settings of the ingestion service. Read once, in `main`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fieldloop_buffer.settings import LogSettings, UplinkSettings
from fieldloop_contract.ids import Id
from fieldloop_runtime.link import LinkSettings
from fieldloop_runtime.settings import HealthSettings, MqttSettings, Settings

SERVICE = "ingestion"


class IngestionSettings(Settings):
    """Everything that is not in the device profile."""

    fleet: Id = Field(description="id of the fleet")
    device: Id = Field(description="id of the device within the fleet")
    profile: str = Field(description="path of the device profile (YAML)")
    ordered_profile: str = Field(
        default="",
        description="path where inference puts a profile that came in an order; it then counts"
        " instead of `profile`; empty: none is taken",
    )
    trust_clock: bool = Field(
        default=False, description="believe the clock though the kernel does not say it is in step"
    )
    alarm_path: str = Field(
        default="", description="the inference service's log; its alarms start captures on_alarm"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severity of what is written to stdout"
    )
    log: LogSettings
    uplink: UplinkSettings = UplinkSettings()
    mqtt: MqttSettings = MqttSettings()
    health: HealthSettings = HealthSettings()
    link: LinkSettings = LinkSettings()
