"""What delivery needs of whoever manages a fleet's devices: `FleetBackend`, and its values.

Devices are named by their fieldloop ids throughout; how they are known elsewhere stays inside an
implementation. One suite of tests runs on all of them (tests/integration/delivery/test_fleets.py).

A fleet that nobody manages (`mqtt`) has an inventory and nothing else: the other calls raise
`Unmanaged`, change nothing, and say what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fieldloop_contract.errors import FixConfiguration, RejectedInput

DEVICES_MAX = 100_000
RELEASES_MAX = 1_000
TAG_KEY_MAX = 100
VALUE_BYTES_MAX = 64 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAG = re.compile(r"[^\s]{1,100}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
ID_VARIABLE = "ENROLMENT_DEVICE"
TOKEN_VARIABLE = "ENROLMENT_TOKEN"
URL_VARIABLE = "ENROLMENT_URL"
RESERVED = ("BALENA_", "RESIN_")


class Unmanaged(FixConfiguration):
    """Nobody manages this fleet's containers, variables or tags."""

    default_code = "fleet.unmanaged"


@dataclass(frozen=True, slots=True)
class FleetDevice:
    """One device.

    Attributes:
        device: fieldloop id.
        online: whether it is connected now, by whom the backend believes.
        type: of the board, such as "raspberrypi4-64"; "" where nobody says.
        running: commit of the container release that it runs; "" for none or not known.
        pinned: commit that this device alone is pinned to; "" where it follows the fleet.
        target: commit that it shall run, by its pin or the fleet's; "" where nobody says.
        fault: in words, where the backend says that its containers are in trouble.
        tags: as people set them.
    """

    device: str
    online: bool
    type: str = ""
    running: str = ""
    pinned: str = ""
    target: str = ""
    fault: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices at one moment.

    Attributes:
        devices: by fieldloop id, in order.
        taken_ns: when it was read, ns of UTC.
        release: commit that devices without a pin shall run; "" where nobody says.
        tracking: whether the fleet takes each new release by itself.
        refused: devices that cannot be named (by the backend's name), with the reason.
        stale: why nothing newer could be read; "" while it is fresh.
    """

    devices: Mapping[str, FleetDevice]
    taken_ns: int
    release: str = ""
    tracking: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    stale: str = ""

    def having(self, tags: Mapping[str, str]) -> list[str]:
        """Devices that carry all of these tags: a cohort."""
        wanted = tags.items()
        return [d.device for d in self.devices.values() if wanted <= dict(d.tags).items()]


@dataclass(frozen=True, slots=True)
class Release:
    """One container release. `usable`: it was built to the end and nobody took it back."""

    commit: str
    version: str
    created: str
    usable: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose variables: of the fleet, of one device, and there of all services or of one.

    `host`: those that configure the host (BALENA_HOST_CONFIG_*) instead of containers.
    """

    device: str = ""
    service: str = ""
    host: bool = False


class FleetBackend(Protocol):
    """Whoever manages a fleet's devices. Owner thread only.

    All calls raise RetryLater where the backend is away (with `retry_after_s` in its hint where it
    asked for a pause), FixConfiguration where a person must act, RejectedInput where it refuses the
    values, and Isolate where one device is gone and the others are not concerned.
    """

    name: str

    def inventory(self, now_ns: int) -> Inventory:
        """Read all devices; at most `DEVICES_MAX`."""

    def releases(self) -> list[Release]:
        """Container releases, newest first, at most `RELEASES_MAX`."""

    def pin(self, devices: Sequence[str], commit: str) -> None:
        """Have these devices run a release, whatever the fleet runs; "" lets them follow it again.

        Safe to repeat. A device that is unknown is refused before anything is sent.
        """

    def pin_fleet(self, commit: str) -> None:
        """Have all devices without a pin run a release; the fleet no longer tracks the latest."""

    def tag(self, device: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of a device; None removes one."""

    def variables(self, scope: Scope) -> dict[str, str]:
        """The variables of exactly this scope."""

    def set_variable(self, scope: Scope, name: str, value: str) -> None:
        """Set one variable."""

    def remove_variable(self, scope: Scope, name: str) -> None:
        """Remove one variable; one that is not there is no fault."""

    def close(self) -> None:
        """Give connections back."""


def named(releases: Iterable[Release], wanted: str) -> Release | str:
    """The release that a person means by a version or the first digits of a commit.

    Returns a text where there is not exactly one, or it cannot run.
    """
    known = list(releases)
    match = [
        r
        for r in known
        if wanted and (r.version == wanted or (len(wanted) >= 7 and r.commit.startswith(wanted)))
    ]
    if len(match) != 1:
        usable = ", ".join(r.version or r.commit[:7] for r in known[:20] if r.usable) or "none"
        found = f"{len(match)} releases are" if match else "no release is"
        return f"{found} called {wanted!r:.80}; there are: {usable}"
    if not match[0].usable:
        return f"{wanted} was not built to the end, or was invalidated"
    return match[0]


# What no backend takes: said before a request is made.


def check_commit(commit: str) -> str:
    """A commit, whole or its first digits. Raises RejectedInput."""
    if not _COMMIT.fullmatch(commit):
        raise RejectedInput(
            f"{commit!r:.80} is no commit",
            code="release.malformed",
            hint="7 to 64 hexadecimal digits, as `fleet releases` lists them",
        )
    return commit


def check_tag(key: str, value: str | None) -> None:
    """A tag. Raises RejectedInput."""
    if not _TAG.fullmatch(key):
        raise RejectedInput(
            f"{key!r:.80} cannot be a tag: 1 to {TAG_KEY_MAX} characters without blanks",
            code="tag.malformed",
        )
    _check_size(key, value or "")


def check_variable(name: str, value: str = "", *, scope: Scope | None = None) -> None:
    """A variable of a scope; by default of a service. Raises RejectedInput."""
    if not _VARIABLE.fullmatch(name):
        raise RejectedInput(
            f"{name!r:.80} cannot be a variable: letters, digits and _, no digit first",
            code="variable.malformed",
        )
    host = scope is not None and scope.host
    if scope is not None and host and scope.service:
        raise RejectedInput("the host's variables belong to no service", code="variable.scope")
    if host and not name.startswith(RESERVED):
        raise RejectedInput(
            f"{name} does not configure the host",
            code="variable.reserved",
            hint="such names begin with BALENA_ or RESIN_",
        )
    if not host and (name.startswith(RESERVED) or name in ("BALENA", "RESIN", "USER")):
        raise RejectedInput(
            f"{name} is reserved",
            code="variable.reserved",
            hint="names that begin with BALENA_ or RESIN_ configure the host, not a service",
        )
    if "\n" in value or "\r" in value:
        raise RejectedInput(
            f"the value of {name} has a line break",
            code="variable.malformed",
            hint="encode it, for instance as base64",
        )
    _check_size(name, value)


def _check_size(name: str, value: str) -> None:
    if len(value.encode()) > VALUE_BYTES_MAX:
        raise RejectedInput(
            f"the value of {name} has more than {VALUE_BYTES_MAX} bytes", code="value.too_long"
        )
