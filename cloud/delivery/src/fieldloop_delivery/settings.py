"""Settings of delivery."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fieldloop_contract.ids import Id
from fieldloop_runtime.settings import HealthSettings, MqttSettings, PositiveSeconds, Settings


class DeliverySettings(Settings):
    """All settings of `fieldloop-delivery run`."""

    fleet: Id = Field(description="id of the fleet")
    dir: str = Field(default="delivery", description="folder of keys/ and of the repository")
    policy: str = Field(default="policy.yaml", description="deployment policy file")
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
    mqtt: MqttSettings = MqttSettings()
    health: HealthSettings = HealthSettings()
