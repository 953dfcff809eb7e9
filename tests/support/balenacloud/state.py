"""What the API keeps: tables, their links, and the rules that a change has to obey.

Names and rules follow the public data model of the API (its SBVR file and hooks): keys that are
unique, a release that may be pinned, names of variables, service installs made with a device.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support.balenacloud.odata import ParsingError

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PINNED = (
    "It is necessary that each release that is pinned to a device, has a status that is equal to"
    ' "success" and belongs to an application1 that the device belongs to.'
)
TARGET = (
    "It is necessary that each release that should be running on an application, has a status that"
    ' is equal to "success" and belongs to the application.'
)
NO_KEY = (
    "It is necessary that each {} has a tag key that has a Length (Type) that is greater than 0."
)


@dataclass(frozen=True, slots=True)
class Table:
    """One resource: its plain fields, links (to one), and unique keys."""

    fields: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Navigation to many: name -> (resource, its link back)."""
    unique: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    """Given only where they are selected by name."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _owned(owner: str, key: str) -> Table:
    return Table(("id", "created_at", key, "value"), {owner: owner}, {}, (owner, key))


TABLES: dict[str, Table] = {
    "organization": Table(
        ("id", "created_at", "name", "handle"),
        many={"application": ("application", "organization")},
    ),
    "application": Table(
        _names(
            "id created_at app_name slug uuid is_host is_archived is_of__class"
            " should_track_latest_release"
        ),
        {
            "organization": "organization",
            "is_for__device_type": "device_type",
            "should_be_running__release": "release",
        },
        {
            "owns__device": ("device", "belongs_to__application"),
            "owns__release": ("release", "belongs_to__application"),
            "service": ("service", "application"),
            "application_tag": ("application_tag", "application"),
            "application_environment_variable": (
                "application_environment_variable",
                "application",
            ),
            "application_config_variable": ("application_config_variable", "application"),
        },
        ("slug",),
    ),
    "device_type": Table(("id", "created_at", "slug", "name")),
    "device": Table(
        _names(
            "id created_at uuid device_name note is_online api_heartbeat_state status is_active"
            " last_connectivity_event os_version os_variant supervisor_version ip_address"
        ),
        {
            "belongs_to__application": "application",
            "is_of__device_type": "device_type",
            "is_running__release": "release",
            "is_pinned_on__release": "release",
            "should_be_running__release": "release",
        },
        {
            "device_tag": ("device_tag", "device"),
            "device_environment_variable": ("device_environment_variable", "device"),
            "device_config_variable": ("device_config_variable", "device"),
            "service_install": ("service_install", "device"),
        },
        ("uuid",),
        ("overall_status",),
    ),
    "release": Table(
        _names(
            "id created_at commit status source is_final is_invalidated is_passing_tests semver"
            " raw_version note"
        ),
        {"belongs_to__application": "application"},
        {
            "is_running_on__device": ("device", "is_running__release"),
            "is_pinned_to__device": ("device", "is_pinned_on__release"),
            "release_tag": ("release_tag", "release"),
        },
    ),
    "service": Table(
        ("id", "created_at", "service_name"),
        {"application": "application"},
        {"service_environment_variable": ("service_environment_variable", "service")},
        ("application", "service_name"),
    ),
    "service_install": Table(
        ("id", "created_at"),
        {"device": "device", "installs__service": "service"},
        {
            "device_service_environment_variable": (
                "device_service_environment_variable",
                "service_install",
            )
        },
        ("device", "installs__service"),
    ),
    "device_tag": _owned("device", "tag_key"),
    "release_tag": _owned("release", "tag_key"),
    "application_tag": _owned("application", "tag_key"),
    "device_environment_variable": _owned("device", "name"),
    "device_config_variable": _owned("device", "name"),
    "application_environment_variable": _owned("application", "name"),
    "application_config_variable": _owned("application", "name"),
    "service_environment_variable": _owned("service", "name"),
    "device_service_environment_variable": _owned("service_install", "name"),
}


class Refused(Exception):
    """A change that the API answers with a status and a text."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


class State:
    """All tables. `lock` is held by whoever reads or changes; every request holds it once."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in TABLES}
        self.lock = threading.RLock()
        self._index: dict[tuple[str, str], dict[Any, set[int]]] = {}
        self._next = 1000

    # odata.Rows.

    def value(self, resource: str, row: int, name: str) -> Any:
        """A field or the id behind a link."""
        table = TABLES[resource]
        if resource == "device" and name == "should_be_running__release":
            return self.target(row)
        if resource == "device" and name == "overall_status":
            return self.overall_status(row)
        if name not in table.fields and name not in table.links:
            raise ParsingError(f"{resource} has no {name}")
        return self.rows[resource][row].get(name)

    def related(self, resource: str, row: int, name: str) -> tuple[str, list[int]]:
        """The rows behind a navigation property."""
        table = TABLES[resource]
        if resource == "application" and name == "is_directly_accessible_by__user":
            return "organization", [1]  # somebody: which applications are seen is decided before
        if name in table.links:
            target = self.value(resource, row, name)
            return table.links[name], [] if target is None else [target]
        if name in table.many:
            other, back = table.many[name]
            return other, sorted(self._linked(other, back, row))
        raise ParsingError(f"{resource} has no {name}")

    def _linked(self, resource: str, link: str, target: int) -> set[int]:
        index = self._index.get((resource, link))
        if index is None:
            index = self._index[resource, link] = {}
            for row in self.rows[resource].values():
                index.setdefault(row.get(link), set()).add(row["id"])
        return index.get(target, set())

    # What a device shall run, and how it is.

    def target(self, device: int) -> int | None:
        """The release a device shall run: its pin, or its application's."""
        row = self.rows["device"][device]
        if row.get("is_pinned_on__release") is not None:
            return int(row["is_pinned_on__release"])
        application = self.rows["application"][row["belongs_to__application"]]
        found = application.get("should_be_running__release")
        return None if found is None else int(found)

    def overall_status(self, device: int) -> str:
        """A device's state in one word, as the dashboard shows it."""
        row = self.rows["device"][device]
        if not row["is_online"]:
            return "disconnected"
        if row.get("troubled"):
            return "reduced-functionality"
        if row.get("is_running__release") != self.target(device):
            return "updating"
        return "operational"

    # Changing.

    def changed(self) -> None:
        """Rows were changed in place by the simulated devices."""
        self._index.clear()

    def add(self, resource: str, values: Mapping[str, Any]) -> int:
        """Insert a row. Raises Refused."""
        table = TABLES[resource]
        row = {k: v for k, v in values.items() if k in table.fields or k in table.links}
        if set(values) - set(row) - {"troubled"}:
            raise ParsingError(f"{resource} has no {set(values) - set(row)}")
        for name, target in table.links.items():
            if row.get(name) is not None and row[name] not in self.rows[target]:
                raise Refused(409, "Foreign key constraint violated")
        if table.unique and self._taken(resource, {k: row.get(k) for k in table.unique}):
            columns = '" and "'.join(table.unique)
            raise Refused(409, f'"{columns}" must be unique.')
        self._check(resource, row)
        self._next += 1
        row["id"] = self._next
        row["created_at"] = (EPOCH + timedelta(seconds=self._next)).isoformat()
        self.rows[resource][row["id"]] = row
        self._index.clear()
        if resource == "device":
            for service in self._linked("service", "application", row["belongs_to__application"]):
                self.add("service_install", {"device": row["id"], "installs__service": service})
        if resource == "release":
            self._follow(row)
        return int(row["id"])

    def _taken(self, resource: str, key: Mapping[str, Any]) -> bool:
        link = next((k for k in key if k in TABLES[resource].links), None)
        rows = (
            self.rows[resource].keys() if link is None else self._linked(resource, link, key[link])
        )
        return any(
            all(self.rows[resource][i].get(k) == v for k, v in key.items()) for i in list(rows)
        )

    def change(self, resource: str, ids: list[int], values: Mapping[str, Any]) -> None:
        """Change rows, all or none. Raises Refused."""
        table = TABLES[resource]
        unknown = [k for k in values if k not in table.fields and k not in table.links]
        if unknown:
            raise ParsingError(f"{resource} has no {unknown}")
        before = {i: dict(self.rows[resource][i]) for i in ids}
        try:
            for i in ids:
                self.rows[resource][i].update(values)
                self._check(resource, self.rows[resource][i])
        except Refused:
            self.rows[resource].update(before)
            raise
        finally:
            self._index.clear()
        if resource == "release":
            for i in ids:
                self._follow(self.rows[resource][i])

    def remove(self, resource: str, ids: list[int]) -> None:
        """Delete rows and what hangs on them."""
        for i in ids:
            for other, back in TABLES[resource].many.values():
                if TABLES[other].unique and back in TABLES[other].unique:
                    self.remove(other, sorted(self._linked(other, back, i)))
            self.rows[resource].pop(i, None)
        self._index.clear()

    def _check(self, resource: str, row: Mapping[str, Any]) -> None:
        if resource.endswith("_tag") and not row.get("tag_key"):
            raise Refused(400, NO_KEY.format(resource.replace("_", " ")))
        if resource.endswith("_variable"):
            check_variable(resource, str(row.get("name")), str(row.get("value")))
        if resource == "device":
            self._check_release(
                row.get("is_pinned_on__release"), row["belongs_to__application"], PINNED
            )
        if resource == "application":
            self._check_release(row.get("should_be_running__release"), row.get("id"), TARGET)

    def _check_release(self, release: Any, application: Any, rule: str) -> None:
        if release is None:
            return
        found = self.rows["release"].get(release)
        if found is None:
            raise Refused(409, "Foreign key constraint violated")
        if found["status"] != "success" or found["belongs_to__application"] != application:
            raise Refused(400, rule)

    def _follow(self, release: Mapping[str, Any]) -> None:
        """An application that tracks the latest release runs it as soon as it is there."""
        application = self.rows["application"][release["belongs_to__application"]]
        if release.get("status") == "success" and application["should_track_latest_release"]:
            application["should_be_running__release"] = release["id"]


def check_variable(resource: str, name: str, value: str) -> None:
    """The rules of names and values. Raises Refused."""
    config = "config" in resource
    kind = "Configuration variable" if config else "Environment variable"
    if re.search(r"^\d|\W", name) or not name:
        raise Refused(
            400, f"{kind} names can only contain alphanumeric characters and underscores."
        )
    if name in ("RESIN", "BALENA", "USER"):
        raise Refused(400, f"{kind}s RESIN, BALENA, USER are reserved")
    reserved = name.startswith(("RESIN_", "BALENA_"))
    if config and not reserved:
        raise Refused(
            400,
            "Configuration variables must be part of one of the following namespaces:"
            " RESIN_, BALENA_",
        )
    if not config and reserved:
        raise Refused(400, "Environment variables beginning with RESIN_, BALENA_ are reserved.")
    if re.search(r"[\r\n]", value):
        raise Refused(400, "Variable values cannot contain line break characters")
