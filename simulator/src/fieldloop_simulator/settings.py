"""Settings of a simulated fleet. Values only; read once in `main`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_contract.ids import Id
from fieldloop_runtime.settings import MqttSettings, PositiveSeconds, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=3_600)]
Seconds = Annotated[float, Field(ge=0, le=86_400 * 30)]


class SignalSettings(Settings):
    """The one stream of every device. Its level tells which of the states the device is in."""

    stream: Id = Field(default="imu", description="id of the stream")
    channels: str = Field(
        default="ax:g,ay:g,az:g", description="channels and their units, name:unit with commas"
    )
    rate_hz: Annotated[float, Field(gt=0, le=10_000)] = Field(
        default=10.0, description="samples a second"
    )
    frame_s: PositiveSeconds = Field(default=5.0, description="seconds of samples in a frame")
    states: Annotated[int, Field(ge=1, le=20)] = Field(
        default=3, description="states that a device can be in, state-0 and so on"
    )
    state_s: PositiveSeconds = Field(default=60.0, description="mean seconds in a state")
    noise: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=0.2, description="standard deviation of the noise, in the channels' units"
    )
    arrival: Literal["uniform", "together", "poisson"] = Field(
        default="uniform",
        description="when frames come: each device at its own moment, all at once, or at random",
    )


class LabelSettings(Settings):
    """Labels: what state a device was in, told some time later."""

    share: Share = Field(default=0.0, description="share of frames that get a label")
    delay_s: Seconds = Field(default=10.0, description="mean seconds until a label comes")
    wrong: Share = Field(default=0.0, description="share of labels that are wrong")


class DriftSettings(Settings):
    """Signals that leave what the model has learnt."""

    share: Share = Field(default=0.0, description="share of devices whose signal drifts")
    after_s: Seconds = Field(default=60.0, description="mean seconds until it begins")
    shift: float = Field(default=1.0, description="how far it goes, in the channels' units")
    over_s: PositiveSeconds = Field(default=60.0, description="seconds until it is there")


class NetworkSettings(Settings):
    """The line between each device and the broker; negative values leave it to the profile."""

    profile: Literal["good", "wifi", "lte", "bad"] = Field(
        default="good", description="good: nothing happens; wifi, lte, bad: see the README"
    )
    rtt_ms: float = Field(default=-1, description="mean round trip, ms; below 0: the profile's")
    loss: float = Field(default=-1, description="share of segments lost; below 0: the profile's")
    bytes_s: float = Field(default=-1, description="bytes a second up; below 0: the profile's")
    cuts_per_hour: float = Field(
        default=-1, description="partitions per device and hour; below 0: the profile's"
    )
    cut_s: float = Field(default=-1, description="mean seconds of one; below 0: the profile's")


class FaultSettings(Settings):
    """What happens to devices."""

    power_cuts_per_hour: Rate = Field(default=0.0, description="per device; nothing is closed")
    off_s: PositiveSeconds = Field(default=10.0, description="mean seconds without power")
    clock_share: Share = Field(
        default=0.0, description="share of devices that boot in 1970, or whose clock jumps"
    )


class SimulatorSettings(Settings):
    """Everything that the simulator reads from its environment."""

    fleet: Id = Field(description="id of the fleet")
    mqtt: MqttSettings = Field(default_factory=MqttSettings)
    devices: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=100, description="virtual devices"
    )
    prefix: Id = Field(default="virtual", description="devices are {prefix}-00000 and so on")
    processes: Annotated[int, Field(ge=1, le=256)] = Field(
        default=2, description="processes that share the devices"
    )
    seconds: PositiveSeconds = Field(default=60.0, description="seconds of sampling")
    join_s: Seconds = Field(default=10.0, description="seconds over which devices come online")
    drain_s: Seconds = Field(
        default=120.0, description="most seconds at the end, without faults, to empty all logs"
    )
    seed: int = Field(default=1, description="of everything that is drawn")
    turn_s: PositiveSeconds = Field(
        default=5.0,
        description="most seconds between two turns of a device's loops; each may report",
    )
    folder: str = Field(
        default="", description="where logs and bundles live; empty: a new folder in memory"
    )
    root_file: str = Field(
        default="", description="the fleet's trusted root (root.json); empty: devices run no models"
    )
    identity_dir: str = Field(
        default="",
        description="folder of {device}/cert.pem and {device}/key.pem; empty: none",
    )
    store_url: str = Field(
        default="",
        repr=False,
        description="the cloud's store, to compare the books with at the end",
    )
    report_dir: str = Field(
        default="", description="where report.html and report.json go; empty: no report"
    )
    signal: SignalSettings = Field(default_factory=SignalSettings)
    labels: LabelSettings = Field(default_factory=LabelSettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    faults: FaultSettings = Field(default_factory=FaultSettings)
    shadow_windows: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=5, description="windows a candidate scores beside the active model; 0 for none"
    )
