"""Settings of the agent. Read once, in `main`.

What a device is provisioned with stands under `ENROLMENT_` and not under `FIELDLOOP_`: a balena
device variable reaches every container, and a service refuses `FIELDLOOP_` names it does not know.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fieldloop_runtime.settings import HealthSettings, PositiveSeconds, Settings

ENROLMENT_PREFIX = "ENROLMENT_"


class EnrolmentSettings(Settings):
    """What a device is provisioned with; the token may be removed once it is enrolled."""

    url: str = Field(default="", description="where to enrol, https://host:8443")
    device: str = Field(
        default="", description="id that it expects to be given; another one is refused"
    )
    token: str = Field(default="", repr=False, description="one-time token; a new one enrols anew")


class AgentSettings(Settings):
    """Everything else."""

    dir: str = Field(default="/data/identity", description="folder of the device's identity")
    logs_dir: str = Field(default="/data/logs", description="folder of the services' logs")
    models_dir: str = Field(default="/data/models", description="folder of trust and models")
    trust_clock: bool = Field(
        default=False, description="a person vouches for the clock, whatever the kernel says"
    )
    look_s: PositiveSeconds = Field(default=30, description="seconds between two looks")
    timeout_s: PositiveSeconds = Field(default=20, description="limit of one request")
    retry_cap_s: PositiveSeconds = Field(default=900, description="highest back-off ceiling")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severity of what is written to stdout"
    )
    health: HealthSettings = HealthSettings()
