"""Settings of identity. Read once, in `main`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_contract.ids import Id
from fieldloop_runtime.settings import HealthSettings, Port, PositiveSeconds, Settings

Days = Annotated[float, Field(gt=0, le=3650)]


class BrokerSettings(Settings):
    """The broker: where devices find it, and where its files go."""

    host: str = Field(default="localhost", description="host name that devices are given")
    port: Port = Field(default=8883, description="port that devices are given")
    dir: str = Field(default="broker", description="folder that mosquitto reads its files from")


class IdentitySettings(Settings):
    """All settings of `fieldloop-identity`."""

    fleet: Id = Field(description="id of the fleet")
    dir: str = Field(default="identity", description="folder of the authority's keys")
    clients_dir: str = Field(
        default="clients", description="folder with one folder for each cloud service's certificate"
    )
    store_url: str = Field(
        default="sqlite:///fieldloop.sqlite",
        description="database: sqlite:///... or postgresql://...",
    )
    root_file: str = Field(
        default="root.json", description="the fleet's TUF root, which devices are given"
    )
    profiles_dir: str = Field(
        default="", description="folder of {device}.yaml and default.yaml; empty: none is given"
    )
    hosts: str = Field(
        default="localhost,127.0.0.1",
        description="host names and addresses of broker and enrolment, with commas",
    )
    listen_host: str = Field(default="127.0.0.1", description="address that enrolment listens on")
    listen_port: Port = Field(default=8443, description="port that enrolment listens on (HTTPS)")
    certificate_days: Days = Field(default=90, description="life of a device's certificate")
    service_days: Days = Field(
        default=90, description="life of a server's or service's certificate; renewed at half"
    )
    grace_days: Days = Field(
        default=180, description="how long after its end a certificate is still renewed"
    )
    refresh_s: PositiveSeconds = Field(
        default=10, description="seconds between looks for what was revoked or ran out"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severity of what is written to stdout"
    )
    broker: BrokerSettings = BrokerSettings()
    health: HealthSettings = HealthSettings()
