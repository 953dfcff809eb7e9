"""Topics: the one module that builds, parses and filters them, and derives the broker's ACL.

Every topic has six levels, `fieldloop/v1/{fleet}/{device}/{service}/{channel}`. The depth is fixed
so that a single-level wildcard always means the same level, and so that identity (fleet and device)
can be bound to an MQTT user name `{fleet}/{device}` by position. What belongs to a whole fleet
stands under reserved names that no device can have: `_tuf`, `_blob`, and `_cloud` for what the
services of the cloud tell people.

>>> str(Topic("acme", "pump-7", "ingestion", "frames"))
'fieldloop/v1/acme/pump-7/ingestion/frames'
>>> parse("fieldloop/v1/acme/pump-7/ingestion/frames").channel
'frames'
>>> meta_topic("acme", "timestamp.json")
'fieldloop/v1/acme/_tuf/meta/timestamp.json'
>>> blob_topic("acme", "ab" * 32)[:35]
'fieldloop/v1/acme/_blob/sha256/abab'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.ids import check_id

ROOT = "fieldloop/v1"
TOPIC_BYTES_MAX = 400
_META_FILE = re.compile(r"(?:[1-9][0-9]{0,9}\.)?[a-z0-9][a-z0-9-]{0,62}\.json\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Direction(StrEnum):
    """Who publishes: the device (`up`) or the cloud (`down`)."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of traffic.

    Attributes:
        name: the sixth topic level.
        direction: who publishes it.
        retained: whether the broker keeps the last message.
        content_type: media type of the payload.
        logged: whether its rows come from a log, with seq, and are acknowledged.
        summary: one line for people and for the AsyncAPI document.
    """

    name: str
    direction: Direction
    retained: bool
    content_type: str
    logged: bool
    summary: str


_JSON = "application/json"
CHANNELS: dict[str, Channel] = {
    c.name: c
    for c in (
        Channel("frames", Direction.UP, False, "application/cbor", True, "raw data, in batches"),
        Channel(
            "samples",
            Direction.UP,
            False,
            "application/cbor",
            True,
            "raw data chosen for labelling",
        ),
        Channel("results", Direction.UP, False, _JSON, True, "what the models said"),
        Channel("events", Direction.UP, False, _JSON, True, "what happened (CloudEvents)"),
        Channel(
            "annotations", Direction.UP, False, _JSON, True, "labels of a span of a stream's time"
        ),
        Channel(
            "status", Direction.UP, True, _JSON, False, "online or offline, versions, capabilities"
        ),
        Channel("reported", Direction.UP, True, _JSON, False, "slots, streams, ledger totals"),
        Channel(
            "desired", Direction.DOWN, True, _JSON, False, "signed: which model runs in which slot"
        ),
        Channel("ack", Direction.DOWN, False, _JSON, False, "seq ranges the cloud has committed"),
        Channel("want", Direction.DOWN, False, _JSON, False, "seq ranges the cloud asks for again"),
    )
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A device's topic. Raises MalformedMessage for a level that is no identifier."""

    fleet: str
    device: str
    service: str
    channel: str

    def __post_init__(self) -> None:
        check_id(self.fleet, "fleet")
        check_id(self.device, "device")
        check_id(self.service, "service")
        if self.channel not in CHANNELS:
            raise MalformedMessage(
                f"no channel is called {self.channel!r:.80}", code="topic.channel"
            )

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/{self.device}/{self.service}/{self.channel}"


def parse(topic: str) -> Topic:
    """Parse a device's topic.

    Raises:
        MalformedMessage: not six levels, another root, or a level that is no identifier.
    """
    if len(topic) > TOPIC_BYTES_MAX:
        raise MalformedMessage(f"a topic of {len(topic)} characters", code="topic.length")
    levels = topic.split("/")
    if len(levels) != 6 or "/".join(levels[:2]) != ROOT:
        raise MalformedMessage(f"{topic!r:.120} is not a {ROOT} topic", code="topic.shape")
    return Topic(*levels[2:])


def channel_filter(
    channel: str, *, fleet: str = "+", device: str = "+", service: str = "+", share: str = ""
) -> str:
    """Subscription filter for one channel, by default of every fleet, device and service.

    Args:
        share: name of a shared subscription group (MQTT 5, or a broker that knows `$share`).

    >>> channel_filter("frames", fleet="acme")
    'fieldloop/v1/acme/+/+/frames'
    """
    if channel not in CHANNELS:
        raise MalformedMessage(f"no channel is called {channel!r:.80}", code="topic.channel")
    body = f"{ROOT}/{fleet}/{device}/{service}/{channel}"
    return f"$share/{share}/{body}" if share else body


def check_meta_file(name: str) -> str:
    """Return `name` if it can be a TUF metadata file (`3.root.json`, `timestamp.json`)."""
    if len(name) > 80 or not _META_FILE.match(name):
        raise MalformedMessage(f"{name!r:.80} is no metadata file name", code="topic.meta")
    return name


def meta_topic(fleet: str, file: str) -> str:
    """Topic of one retained TUF metadata file."""
    return f"{ROOT}/{check_id(fleet, 'fleet')}/_tuf/meta/{check_meta_file(file)}"


def meta_filter(fleet: str) -> str:
    """Filter for all TUF metadata of a fleet."""
    return f"{ROOT}/{check_id(fleet, 'fleet')}/_tuf/meta/+"


def parse_meta(topic: str) -> str:
    """File name in a metadata topic; MalformedMessage for any other topic."""
    levels = topic.split("/")
    if len(levels) != 6 or levels[3:5] != ["_tuf", "meta"]:
        raise MalformedMessage(f"{topic!r:.120} is not a metadata topic", code="topic.meta")
    return check_meta_file(levels[5])


def blob_topic(fleet: str, digest: str) -> str:
    """Topic of one retained chunk, named by its own sha256 (lower-case hex)."""
    if not _SHA256.match(digest):
        raise MalformedMessage(f"{digest!r:.80} is no sha256", code="topic.blob")
    return f"{ROOT}/{check_id(fleet, 'fleet')}/_blob/sha256/{digest}"


def blob_filter(fleet: str) -> str:
    """Filter for all chunks of a fleet; for delivery's sweep, never for a device."""
    return f"{ROOT}/{check_id(fleet, 'fleet')}/_blob/sha256/+"


def parse_blob(topic: str) -> str:
    """Chunk digest in a blob topic; MalformedMessage for any other topic."""
    levels = topic.split("/")
    if len(levels) != 6 or levels[3:5] != ["_blob", "sha256"] or not _SHA256.match(levels[5]):
        raise MalformedMessage(f"{topic!r:.120} is not a blob topic", code="topic.blob")
    return levels[5]


def notice_topic(fleet: str, service: str) -> str:
    """Topic of what a service of the cloud tells people: CloudEvents in JSON, not retained.

    >>> notice_topic("acme", "delivery")
    'fieldloop/v1/acme/_cloud/delivery/notices'
    """
    fleet, service = check_id(fleet, "fleet"), check_id(service, "service")
    return f"{ROOT}/{fleet}/_cloud/{service}/notices"


def notice_filter(fleet: str) -> str:
    """Filter for the notices of all services of a fleet's cloud."""
    return f"{ROOT}/{check_id(fleet, 'fleet')}/_cloud/+/notices"


class Role(StrEnum):
    """Who connects to the cloud's broker."""

    DEVICE = "device"
    TELEMETRY = "telemetry"
    DELIVERY = "delivery"
    MACHINES = "machines"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the access table: `role` may `read` or `write` what matches `filter`."""

    role: Role
    access: str
    filter: str


def access_table(fleet: str = "+") -> list[Rule]:
    """Who may publish and subscribe what. A device's `%u` is its user name `{fleet}/{device}`.

    `%u` binds both levels at once: a pattern with a wildcard fleet would let a device of one fleet
    into another.
    """
    rules: list[Rule] = []
    for channel in CHANNELS.values():
        up = channel.direction is Direction.UP
        own = f"{ROOT}/%u/+/{channel.name}"
        every = f"{ROOT}/{fleet}/+/+/{channel.name}"
        rules.append(Rule(Role.DEVICE, "write" if up else "read", own))
        sender = Role.DELIVERY if channel.name == "desired" else Role.TELEMETRY
        # Delivery reads its own orders back, to replace what somebody else has retained there.
        down = "readwrite" if sender is Role.DELIVERY else "write"
        rules.append(Rule(Role.TELEMETRY if up else sender, "read" if up else down, every))
        if up and channel.name in ("events", "status", "reported"):
            rules.append(Rule(Role.DELIVERY, "read", every))
        if up and channel.name in ("results", "events", "status"):
            rules.append(Rule(Role.READER, "read", every))
    rules.append(Rule(Role.DEVICE, "read", f"{ROOT}/%f/_tuf/meta/+"))
    rules.append(Rule(Role.DEVICE, "read", f"{ROOT}/%f/_blob/sha256/+"))
    for filter_ in (f"{ROOT}/{fleet}/_tuf/meta/+", f"{ROOT}/{fleet}/_blob/sha256/+"):
        rules.append(Rule(Role.DELIVERY, "readwrite", filter_))
    for role in (Role.DELIVERY, Role.MACHINES):
        rules.append(Rule(role, "write", f"{ROOT}/{fleet}/_cloud/{role.value}/notices"))
    rules.append(Rule(Role.READER, "read", f"{ROOT}/{fleet}/_cloud/+/notices"))
    return rules


HOME_ASSISTANT_RULES = (
    ("write", "homeassistant/device/+/config"),
    ("read", "homeassistant/#"),
    ("write", "fieldloop-ha/#"),
)
"""What telemetry needs besides, where it tells Home Assistant of the devices."""


def mosquitto_acl(fleet: str, *, home_assistant: bool = False) -> str:
    """The access table as a mosquitto ACL file for one fleet.

    Service users are called `telemetry`, `delivery`, `machines` and `reader`; every other user is a
    device named `{fleet}/{device}`. mosquitto has no substitution for the fleet alone, hence one
    file per fleet; its shared topics are readable by anyone who may connect.
    """
    check_id(fleet, "fleet")
    lines = ["# Generated by `python -m fieldloop_contract acl`; do not edit."]
    for role in (Role.TELEMETRY, Role.DELIVERY, Role.MACHINES, Role.READER):
        lines += ["", f"user {role.value}"]
        lines += [f"topic {r.access} {r.filter}" for r in access_table(fleet) if r.role is role]
        if home_assistant and role is Role.TELEMETRY:
            lines += [f"topic {access} {filter_}" for access, filter_ in HOME_ASSISTANT_RULES]
    lines += ["", "# devices: user name is {fleet}/{device}"]
    for rule in access_table(fleet):
        if rule.role is Role.DEVICE:
            lines.append(f"pattern {rule.access} {rule.filter.replace('%f', fleet)}")
    return "\n".join(lines) + "\n"
