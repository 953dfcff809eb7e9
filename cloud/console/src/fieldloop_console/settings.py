"""Settings of the console."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fieldloop_contract.ids import check_id
from fieldloop_runtime.settings import HealthSettings, Port, Settings


class ConsoleSettings(Settings):
    """All settings of `fieldloop-console run`."""

    store_url: str = Field(
        default="sqlite:///fieldloop.sqlite",
        description="database: sqlite:///... or postgresql://...",
    )
    fleets: str = Field(
        default="", description="fleets shown before any device was heard, with commas"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=8080, description="port to listen on; 0 takes a free one")
    url: str = Field(
        default="",
        description="address that people open, for links; empty: http://host:port",
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses, with commas, whose X-Forwarded headers are believed",
    )
    session_hours: Annotated[float, Field(gt=0, le=24 * 30)] = Field(
        default=12, description="hours after which an unused session ends"
    )
    first_link_file: str = Field(
        default="", description="file the first-run link is written to as well (mode 0600)"
    )
    refresh_s: Annotated[float, Field(ge=0.5, le=60)] = Field(
        default=2, description="seconds between two looks of a live page"
    )
    audit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="share of one core that may audit the books"
    )
    browsers_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=200, description="open dashboard pages; further ones are asked to come later"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severe events to log"
    )
    health: HealthSettings = HealthSettings()

    @field_validator("fleets")
    @classmethod
    def _ids(cls, value: str) -> str:
        for fleet in filter(None, value.split(",")):
            check_id(fleet.strip(), "fleet")
        return value

    def fleet_list(self) -> list[str]:
        """The fleets named, in order."""
        return [fleet.strip() for fleet in self.fleets.split(",") if fleet.strip()]
