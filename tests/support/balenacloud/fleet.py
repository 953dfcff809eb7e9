"""A fleet on the local server, and what its devices do: they come to run what they are told to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from support.balenacloud.server import Access, BalenaCloud

SERVICES = ("ingestion", "inference")


@dataclass(slots=True)
class BalenaFleet:
    """Ids of what was made. `commits` are oldest first; the application runs the first."""

    application: int
    slug: str
    token: str
    device_type: int
    releases: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    uuids: dict[str, str] = field(default_factory=dict)

    @property
    def commits(self) -> list[str]:
        return list(self.releases)


def commit_of(name: str) -> str:
    """A commit as balena makes them: 32 hexadecimal digits."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def make_fleet(
    cloud: BalenaCloud, *, devices: int = 3, name: str = "Pumps", tracking: bool = False
) -> BalenaFleet:
    """An application with two releases, running the first, and its devices `pump-1` and so on."""
    state = cloud.state
    with state.lock:
        organization = next(iter(state.rows["organization"]), None) or state.add(
            "organization", {"name": "Acme", "handle": "acme"}
        )
        device_type = next(iter(state.rows["device_type"]), None) or state.add(
            "device_type", {"slug": "raspberrypi4-64", "name": "Raspberry Pi 4 (64-bit)"}
        )
        application = state.add(
            "application",
            {
                "app_name": name,
                "slug": f"acme/{name.lower()}",
                "uuid": commit_of(name),
                "organization": organization,
                "is_for__device_type": device_type,
                "should_track_latest_release": False,
                "is_of__class": "fleet",
                "is_host": False,
                "is_archived": False,
            },
        )
        for service in SERVICES:
            state.add("service", {"application": application, "service_name": service})
        fleet = BalenaFleet(application, f"acme/{name.lower()}", f"key-{name}", device_type)
        cloud.tokens[fleet.token] = Access(frozenset({application}))
        for version in ("1.0.0", "1.1.0"):
            add_release(cloud, fleet, version)
        first = fleet.releases[fleet.commits[0]]
        state.change("application", [application], {"should_be_running__release": first})
        for number in range(1, devices + 1):
            add_device(cloud, fleet, f"pump-{number}")
        if tracking:
            state.change("application", [application], {"should_track_latest_release": True})
    return fleet


def add_release(
    cloud: BalenaCloud, fleet: BalenaFleet, version: str, *, status: str = "success"
) -> str:
    """A release of the fleet; returns its commit."""
    commit = commit_of(f"{fleet.slug} {version}")
    fleet.releases[commit] = cloud.state.add(
        "release",
        {
            "commit": commit,
            "status": status,
            "source": "cloud",
            "is_final": True,
            "is_invalidated": False,
            "is_passing_tests": True,
            "semver": version,
            "raw_version": version,
            "belongs_to__application": fleet.application,
        },
    )
    return commit


def add_device(
    cloud: BalenaCloud, fleet: BalenaFleet, name: str, *, online: bool = True, named: bool = True
) -> str:
    """A device that runs what the application runs; `named`: it knows its fieldloop id."""
    uuid = hashlib.sha256(f"{fleet.slug} {name}".encode()).hexdigest()[:62]
    state = cloud.state
    with state.lock:
        row = state.add(
            "device",
            {
                "uuid": uuid,
                "device_name": f"quiet-{name}",
                "is_online": online,
                "is_active": True,
                "api_heartbeat_state": "online" if online else "offline",
                "status": "Idle",
                "os_version": "balenaOS 6.5.19",
                "os_variant": "prod",
                "supervisor_version": "17.0.1",
                "belongs_to__application": fleet.application,
                "is_of__device_type": fleet.device_type,
            },
        )
        state.change("device", [row], {"is_running__release": state.target(row)})
        if named:
            variable = {"device": row, "name": "ENROLMENT_DEVICE", "value": name}
            state.add("device_environment_variable", variable)
    fleet.devices[name] = row
    fleet.uuids[name] = uuid
    return uuid


class Supervisor:
    """What the supervisors on the devices do. `bad` releases break the device that runs them."""

    def __init__(self, cloud: BalenaCloud, fleet: BalenaFleet) -> None:
        self.bad: set[str] = set()
        self._cloud = cloud
        self._fleet = fleet

    def step(self) -> None:
        """Each device that is online comes to run its target."""
        state = self._cloud.state
        bad = {self._fleet.releases[commit] for commit in self.bad}
        with state.lock:
            for row in state.rows["device"].values():
                if row["belongs_to__application"] != self._fleet.application:
                    continue
                if row["is_online"]:
                    row["is_running__release"] = state.target(row["id"])
                    row["troubled"] = row["is_running__release"] in bad
            state.changed()

    def online(self, name: str, online: bool) -> None:
        """A device goes away, or comes back."""
        state = self._cloud.state
        with state.lock:
            row = state.rows["device"][self._fleet.devices[name]]
            row["is_online"] = online
            row["api_heartbeat_state"] = "online" if online else "offline"

    def running(self) -> dict[str, str]:
        """What each device runs: name to commit."""
        state = self._cloud.state
        with state.lock:
            commits = {i: row["commit"] for i, row in state.rows["release"].items()}
            return {
                name: commits[state.rows["device"][row]["is_running__release"]]
                for name, row in self._fleet.devices.items()
            }
