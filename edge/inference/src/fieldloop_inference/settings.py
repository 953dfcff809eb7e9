"""Settings of the inference service. Values only; read once in `main`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_buffer import LogSettings, UplinkSettings
from fieldloop_inference.selection import SampleSettings
from fieldloop_runtime.link import LinkSettings
from fieldloop_runtime.settings import (
    HealthSettings,
    IdentitySettings,
    MqttSettings,
)
from fieldloop_update import UpdateSettings


class LocalMqttSettings(MqttSettings):
    """The device's own broker, for those who shall see results with the cloud out of reach."""

    host: str = Field(
        default="", description="host name of the device's own broker; empty switches it off"
    )


class InferenceSettings(IdentitySettings):
    """Everything that the service reads from its environment."""

    mqtt: MqttSettings = Field(default_factory=MqttSettings)
    local_mqtt: LocalMqttSettings = Field(default_factory=LocalMqttSettings)
    log: LogSettings
    uplink: UplinkSettings = Field(default_factory=UplinkSettings)
    update: UpdateSettings = Field(default_factory=UpdateSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    link: LinkSettings = Field(default_factory=LinkSettings)
    input_path: str = Field(description="the ingestion service's log, which windows are cut from")
    root_file: str = Field(description="the fleet's trusted root metadata (root.json)")
    profile_path: str = Field(
        default="",
        description="where a profile that came in an order is put for ingestion; empty: nowhere",
    )
    runtime: Literal["auto", "litert", "tflite"] = Field(
        default="auto", description="TFLite runtime; auto takes the one that is installed"
    )
    delegate: str = Field(
        default="", description="delegate by its entry point, such as edgetpu; empty for none"
    )
    threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="CPU threads of a model"
    )
    backlog: Literal["catch_up", "skip_to_live"] = Field(
        default="catch_up", description="what happens to samples that waited"
    )
    skip_rows_max: Annotated[int, Field(ge=1)] = Field(
        default=1_000, description="skip_to_live: rows that may wait before they are skipped"
    )
    shadow_windows: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=10, description="windows a candidate scores beside the active model; 0 for none"
    )
    shadow_cpu_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        default=25.0,
        description="most CPU of a candidate in shadow, in percent of one core; windows beyond it "
        "are passed over",
    )
    batch_ms: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=50, description="most ms of scoring in one turn of the loop"
    )
    idle_ms: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=20, description="ms to wait for something to do"
    )
    samples: SampleSettings = Field(default_factory=SampleSettings)
    update_lock: str = Field(
        default="",
        description="balena's update lock, held while a model is installed: a path, or `balena` for"
        " the supervisor's; empty for none",
    )
    trust_clock: bool = Field(
        default=False, description="a person vouches for the clock, whatever the kernel says"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least level that is logged"
    )
