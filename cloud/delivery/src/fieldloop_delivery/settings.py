"""Settings of delivery."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.ids import Id
from fieldloop_contract.manifest import CHUNK_BYTES_MAX
from fieldloop_delivery.bundles import RETAINED_BYTES_MAX
from fieldloop_runtime import webhook
from fieldloop_runtime.settings import HealthSettings, MqttSettings, PositiveSeconds, Settings


class BalenaSettings(Settings):
    """The fleet on balena, where there is one."""

    fleet: str = Field(
        default="", description="organisation/fleet on balena; empty: nobody manages the devices"
    )
    api_url: str = Field(
        default="https://api.balena-cloud.com/", description="balena's API, or openBalena's"
    )
    token: str = Field(default="", repr=False, description="API key")
    timeout_s: PositiveSeconds = Field(default=30, description="seconds to wait for an answer")
    per_minute: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=240, description="requests that are sent at most in a minute"
    )
    fresh_s: PositiveSeconds = Field(
        default=30, description="age at which the inventory is read again"
    )
    stale_s_max: PositiveSeconds = Field(
        default=3_600, description="age beyond which an inventory is not shown, balena away or not"
    )
    grace_s: PositiveSeconds = Field(
        default=120, description="how long a service may stay away after its container was updated"
    )


class DeliverySettings(Settings):
    """All settings of `fieldloop-delivery run`."""

    fleet: Id = Field(description="id of the fleet")
    dir: str = Field(default="delivery", description="folder of keys/ and of the repository")
    policy: str = Field(default="policy.yaml", description="deployment policy file")
    profiles_dir: str = Field(
        default="",
        description="folder of {device}.yaml and default.yaml, which orders carry to the devices;"
        " empty: none",
    )
    store_url: str = Field(
        default="sqlite:///fieldloop.sqlite",
        description="database: sqlite:///... or postgresql://...",
    )
    service: Id = Field(default="inference", description="service on the device that runs models")
    look_s: PositiveSeconds = Field(default=1, description="seconds between looks at the store")
    sweep_s: PositiveSeconds = Field(
        default=3600, description="seconds between searches for what the broker lost"
    )
    window: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16, description="publications not yet taken by the broker"
    )
    timestamp_hours: Annotated[float, Field(gt=0, le=24 * 365)] = Field(
        default=24, description="hours a timestamp holds; it is renewed at half"
    )
    order_days: Annotated[float, Field(gt=0, le=365)] = Field(
        default=30, description="days an order holds; it is renewed at half"
    )
    chunk_bytes: Annotated[int, Field(ge=1024, le=CHUNK_BYTES_MAX)] = Field(
        default=CHUNK_BYTES_MAX, description="bytes of one chunk; less where the broker takes less"
    )
    deltas: bool = Field(
        default=True, description="publish deltas and compressed files where they pay"
    )
    public_dir: str = Field(
        default="", description="folder that an HTTPS server serves; empty: everything by MQTT"
    )
    retained_bytes_max: Annotated[int, Field(ge=0)] = Field(
        default=RETAINED_BYTES_MAX,
        description="bundles above this are not put on the broker, where public_dir is set",
    )
    notices: bool = Field(default=True, description="tell of rollouts by MQTT")
    webhook_url: str = Field(
        default="", description="told of rollouts by POST; https, or http on this very machine"
    )
    webhook_secret: str = Field(
        default="", repr=False, description="key of the webhook's signature, at least 24 bytes"
    )
    balena: BalenaSettings = BalenaSettings()
    mqtt: MqttSettings = MqttSettings()
    health: HealthSettings = HealthSettings()

    @model_validator(mode="after")
    def _webhook_is_safe(self) -> DeliverySettings:
        if self.webhook_url:
            try:
                webhook.check_url(self.webhook_url)
                webhook.secret_bytes(self.webhook_secret)
            except FixConfiguration as error:
                raise ValueError(f"webhook_url and webhook_secret: {error}") from error
        return self
