"""This device's channels at the cloud's broker, tested as its services would use them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fieldloop_agent.home import Held
from fieldloop_contract.topics import CHANNELS, Direction, Topic, meta_filter
from fieldloop_runtime.channels import Verdict, try_channels
from fieldloop_runtime.settings import MqttSettings


def broker_settings(held: Held, current: Path) -> MqttSettings:
    """How this device reaches the cloud's broker."""
    return MqttSettings(
        host=held.broker_host,
        port=held.broker_port,
        username=held.user,
        ca_file=str(current / "trust.pem"),
        cert_file=str(current / "cert.pem"),
        key_file=str(current / "key.pem"),
    )


def try_own_channels(held: Held, current: Path) -> Verdict:
    """Test every channel of this device's services; RetryLater without an answer.

    All services of a device have one certificate and one line of the access list for each channel,
    so one test speaks for all of them.
    """
    mine = partial(Topic, held.fleet, held.device, "agent")
    up = [str(mine(c.name)) for c in CHANNELS.values() if c.direction is Direction.UP]
    down = [str(mine(c.name)) for c in CHANNELS.values() if c.direction is Direction.DOWN]
    down.append(meta_filter(held.fleet))
    return try_channels(
        broker_settings(held, current), f"{held.user}/agent/test", write=up, read=down
    )
