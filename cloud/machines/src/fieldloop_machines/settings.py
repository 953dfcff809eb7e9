"""Settings of the machines service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fieldloop_contract.ids import Id
from fieldloop_runtime.settings import (
    HealthSettings,
    MqttSettings,
    Port,
    PositiveSeconds,
    Settings,
)


class MailSettings(Settings):
    """Where notices go by e-mail."""

    host: str = Field(default="", description="SMTP server; empty: no e-mail")
    port: Port = Field(default=587, description="its port")
    username: str = Field(default="", description="user name, where the server asks")
    password: str = Field(default="", repr=False, description="password")
    tls: bool = Field(default=True, description="STARTTLS; off only for a server on loopback")
    sender: str = Field(default="", description="From address")
    to: str = Field(
        default="",
        description="addresses, by commas; site=address for the notices of one site and of floods",
    )


class WebhookSettings(Settings):
    """Where notices go as signed documents."""

    url: str = Field(default="", description="https URL; empty: no webhook")
    secret: str = Field(default="", repr=False, description="shared secret, 24 bytes or more")


class MachinesSettings(Settings):
    """All settings of `fieldloop-machines run`."""

    fleet: Id = Field(description="id of the fleet")
    store_url: str = Field(
        default="sqlite:///fieldloop.sqlite",
        description="database: sqlite:///... or postgresql://...",
    )
    look_s: PositiveSeconds = Field(default=2, description="seconds between looks at the store")
    assess_s: PositiveSeconds = Field(
        default=60, description="seconds between two judgements of a commissioning"
    )
    watch_s: PositiveSeconds = Field(
        default=43_200,
        description="seconds between two looks at a machine's signal for another load or a lost "
        "sensor, and the span that is looked at",
    )
    settle_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0, description="age of an event before it is taken; 2 with telemetry replicas"
    )
    publish: bool = Field(default=True, description="publish notices over MQTT")
    mail: MailSettings = MailSettings()
    webhook: WebhookSettings = WebhookSettings()
    mqtt: MqttSettings = MqttSettings()
    health: HealthSettings = HealthSettings()
