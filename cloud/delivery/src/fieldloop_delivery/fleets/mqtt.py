"""A fleet that nobody manages: its devices are those that were heard over MQTT.

The inventory comes from the store alone. Containers, variables and tags are the owner's, by
whatever tool he has; the calls for them raise `Unmanaged` and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from fieldloop_contract.errors import LimitExceeded
from fieldloop_delivery.fleets.backend import (
    DEVICES_MAX,
    FleetDevice,
    Inventory,
    Release,
    Scope,
    Unmanaged,
    check_commit,
    check_tag,
    check_variable,
)
from fieldloop_store.devices import ACTIVE, list_devices
from fieldloop_store.engine import Store
from fieldloop_store.queries import device_services

_HINT = "this fleet is known by MQTT only; with balena, set FIELDLOOP_BALENA_FLEET"


class MqttFleet:
    """The devices of one fleet as telemetry stored them. Owner thread only."""

    name = "mqtt"

    def __init__(self, store: Store, fleet: str) -> None:
        self._store = store
        self._fleet = fleet

    def close(self) -> None:
        """Nothing is held."""

    def inventory(self, now_ns: int) -> Inventory:
        """Devices in service. A device is online while any of its services is.

        Its type is the machine that its services state; its only tag is the name it was given.
        """
        online: dict[str, bool] = {}
        machine: dict[str, str] = {}
        for row in device_services(self._store, self._fleet):
            online[row.device] = online.get(row.device, False) or row.state == "online"
            stated = (row.status or {}).get("capability") or {}
            machine[row.device] = str(stated.get("machine") or machine.get(row.device, ""))
        known = list_devices(self._store, self._fleet)
        if len(known) > DEVICES_MAX:
            raise LimitExceeded(f"more than {DEVICES_MAX} devices", code="fleet.too_many")
        devices = {
            row.device: FleetDevice(
                device=row.device,
                online=online.get(row.device, False),
                type=machine.get(row.device, ""),
                tags={"name": row.name} if row.name != row.device else {},
            )
            for row in known
            if row.state == ACTIVE
        }
        return Inventory(devices, now_ns)

    def releases(self) -> list[Release]:
        """None that anybody here knows of."""
        return []

    def pin(self, devices: Sequence[str], commit: str) -> None:  # noqa: ARG002
        """Refused."""
        if commit:
            check_commit(commit)
        self._refuse("containers are updated by their owner")

    def pin_fleet(self, commit: str) -> None:
        """Refused."""
        check_commit(commit)
        self._refuse("containers are updated by their owner")

    def tag(self, device: str, tags: Mapping[str, str | None]) -> None:  # noqa: ARG002
        """Refused."""
        for key, value in tags.items():
            check_tag(key, value)
        self._refuse("there is nowhere to keep tags")

    def variables(self, scope: Scope) -> dict[str, str]:  # noqa: ARG002
        """Refused."""
        self._refuse("variables are set where the containers are started")

    def set_variable(self, scope: Scope, name: str, value: str) -> None:  # noqa: ARG002
        """Refused."""
        check_variable(name, value)
        self._refuse("variables are set where the containers are started")

    def remove_variable(self, scope: Scope, name: str) -> None:  # noqa: ARG002
        """Refused."""
        check_variable(name)
        self._refuse("variables are set where the containers are started")

    def _refuse(self, why: str) -> NoReturn:
        raise Unmanaged(why, hint=_HINT)
