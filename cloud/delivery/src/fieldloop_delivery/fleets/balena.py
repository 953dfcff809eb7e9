"""A fleet on balena (or openBalena), through balena-sdk. Errors leave as the contract's.

A device's fieldloop id is its variable ENROLMENT_DEVICE, which its agent reads too (a FIELDLOOP_
name would reach every container, and services refuse settings that they do not know); a device
without one goes by its UUID. Two devices with one id, and ids that cannot be, are set aside by
name: rolling out to the wrong one is worse than leaving one out.

Writes are made so that each may be repeated: pins and variables are set to a value, never toggled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from balena import __version__ as sdk_version
from balena import exceptions as sdk
from balena.models import Models

from fieldloop_contract.errors import (
    FieldloopError,
    FixConfiguration,
    Isolate,
    LimitExceeded,
    RejectedInput,
    RetryLater,
)
from fieldloop_contract.ids import check_id
from fieldloop_delivery.fleets.backend import (
    DEVICES_MAX,
    ID_VARIABLE,
    RELEASES_MAX,
    FleetDevice,
    Inventory,
    Release,
    Scope,
    check_commit,
    check_tag,
    check_variable,
)
from fieldloop_delivery.fleets.pine import BoundedPine, Exchange, Unanswered

PAGE_ROWS: Final = 500
PINS_PER_REQUEST: Final = 200
TROUBLED: Final = "reduced-functionality"
_SELF = TypeVar("_SELF")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def translated(
    call: Callable[Concatenate[_SELF, _P], _R],
) -> Callable[Concatenate[_SELF, _P], _R]:
    """Errors of the SDK and of HTTP become the contract's."""

    @functools.wraps(call)
    def wrapped(self: _SELF, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(self, *args, **kwargs)
        except (Unanswered, sdk.BalenaException) as error:
            raise translate(error) from error
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            # What the SDK does with an answer of another form than it expects.
            raise RetryLater(
                f"balena's answer cannot be read: {type(error).__name__}", code="balena.garbled"
            ) from error

    return wrapped


def translate(error: Exception) -> FieldloopError:
    """What the caller has to do about an error."""
    if isinstance(error, Unanswered):
        return _of_status(error)
    message = str(getattr(error, "message", error))
    if isinstance(error, sdk.ApplicationNotFound | sdk.AmbiguousApplication):
        return FixConfiguration(
            message, code="balena.fleet", hint="FIELDLOOP_BALENA_FLEET is organisation/fleet"
        )
    if isinstance(error, sdk.DeviceNotFound | sdk.AmbiguousDevice):
        return Isolate(message, code="balena.device_gone", hint="it left the fleet meanwhile")
    if isinstance(error, sdk.NotLoggedIn | sdk.Unauthorized | sdk.MalformedToken):
        return _token(message)
    return RejectedInput(message, code="balena.refused")


def _of_status(error: Unanswered) -> FieldloopError:
    text, status = error.message, error.status_code
    if status == 401:
        return _token("balena does not accept the token")
    if status == 403:
        return FixConfiguration(
            f"balena forbids it: {text}",
            code="balena.forbidden",
            hint="the key's owner needs the role developer or operator in the fleet",
        )
    if status == 429:
        hint = f"again in {error.retry_after_s:.0f} s" if error.retry_after_s else ""
        return RetryLater(f"balena limits the rate: {text}", code="balena.limited", hint=hint)
    if status in (408, 423) or status >= 500:
        return RetryLater(f"balena cannot be reached: {text}", code="balena.away")
    if 300 <= status < 400 or status == 404:
        return FixConfiguration(
            f"this is no balena API: {status} {text}",
            code="balena.url",
            hint="FIELDLOOP_BALENA_API_URL is such as https://api.balena-cloud.com/",
        )
    return RejectedInput(f"balena refuses it: {text}", code="balena.refused")


def _token(text: str) -> FixConfiguration:
    return FixConfiguration(
        text,
        code="balena.token",
        hint="make an API key in the dashboard and put it into FIELDLOOP_BALENA_TOKEN_FILE",
    )


class BalenaFleet:
    """One fleet (application) on balena. Owner thread only.

    Args:
        api_url: such as https://api.balena-cloud.com/.
        fleet: slug, `organisation/fleet`.
    """

    name = "balena"

    def __init__(self, api_url: str, fleet: str, exchange: Exchange) -> None:
        self._slug = fleet
        self._exchange = exchange
        pine = BoundedPine(api_url, sdk_version, exchange)
        self._models = Models(pine, pine.settings)
        self._application: int | None = None
        self._rows: dict[str, int] = {}

    def close(self) -> None:
        """Close the connection."""
        self._exchange.close()

    # Reading.

    def _id(self) -> int:
        if self._application is None:
            found = self._models.application.get(self._slug, {"$select": "id"})
            self._application = int(found["id"])
        return self._application

    @translated
    def inventory(self, now_ns: int) -> Inventory:
        """Read all devices, page by page in order of their rows, and what the fleet shall run."""
        application = self._models.application.get(
            self._id(),
            {
                "$select": ["id", "should_track_latest_release"],
                "$expand": {"should_be_running__release": {"$select": "commit"}},
            },
        )
        release = _commit(application["should_be_running__release"])
        devices: dict[str, FleetDevice] = {}
        rows: dict[str, int] = {}
        refused: dict[str, str] = {}
        for row in self._pages():
            try:
                found = _device(row, release)
            except (FieldloopError, KeyError, IndexError, TypeError) as error:
                refused[str(row.get("uuid", row.get("id")))] = f"{error}"
                continue
            if found.device in rows:
                refused[str(row["uuid"])] = f"another device is {found.device} too"
                continue
            devices[found.device], rows[found.device] = found, int(row["id"])
        self._rows = rows
        return Inventory(
            dict(sorted(devices.items())),
            now_ns,
            release,
            bool(application["should_track_latest_release"]),
            refused,
        )

    def _pages(self) -> Iterator[dict[str, Any]]:
        last = count = 0
        while True:
            page = self._models.device.get_all(
                {
                    "$select": ["id", "uuid", "is_online", "overall_status"],
                    "$expand": {
                        "is_of__device_type": {"$select": "slug"},
                        "is_running__release": {"$select": "commit"},
                        "is_pinned_on__release": {"$select": "commit"},
                        "device_tag": {"$select": ["tag_key", "value"]},
                        "device_environment_variable": {
                            "$select": "value",
                            "$filter": {"name": ID_VARIABLE},
                        },
                    },
                    "$filter": {
                        "belongs_to__application": self._id(),
                        "is_active": True,
                        "id": {"$gt": last},
                    },
                    "$orderby": "id asc",
                    "$top": PAGE_ROWS,
                }
            )
            count += len(page)
            if count > DEVICES_MAX:
                raise LimitExceeded(
                    f"{self._slug} has more than {DEVICES_MAX} devices", code="fleet.too_many"
                )
            yield from page
            if len(page) < PAGE_ROWS:
                return
            last = int(page[-1]["id"])

    @translated
    def releases(self) -> list[Release]:
        """Container releases, newest first."""
        rows = self._models.release.get_all_by_application(
            self._id(),
            {
                "$select": [
                    "commit",
                    "raw_version",
                    "created_at",
                    "status",
                    "is_invalidated",
                    "is_final",
                ],
                "$top": RELEASES_MAX,
            },
        )
        return [
            Release(
                row["commit"],
                row["raw_version"] or "",
                row["created_at"],
                row["status"] == "success" and bool(row["is_final"]) and not row["is_invalidated"],
            )
            for row in rows
        ]

    # Containers.

    @translated
    def pin(self, devices: Sequence[str], commit: str) -> None:
        """Pin devices, some hundreds with one request; "" lets them follow the fleet."""
        if commit:
            check_commit(commit)
        rows = [self._row(device) for device in devices]
        for at in range(0, len(rows), PINS_PER_REQUEST):
            some = rows[at : at + PINS_PER_REQUEST]
            if commit:
                self._models.device.pin_to_release(some, commit)
            else:
                self._models.device.track_application_release(some)

    @translated
    def pin_fleet(self, commit: str) -> None:
        """Pin the fleet."""
        self._models.application.pin_to_release(self._id(), check_commit(commit))

    def _row(self, device: str) -> int:
        if not self._rows:
            self.inventory(0)
        row = self._rows.get(device)
        if row is None:
            raise RejectedInput(
                f"{device!r:.80} is no device of {self._slug}",
                code="fleet.device_unknown",
                hint="`fleet devices` lists them",
            )
        return row

    # Tags and variables.

    @translated
    def tag(self, device: str, tags: Mapping[str, str | None]) -> None:
        """Set and remove tags."""
        for key, value in tags.items():
            check_tag(key, value)
        row = self._row(device)
        for key, value in tags.items():
            if value is None:
                self._models.device.tags.remove(row, key)
            else:
                self._models.device.tags.set(row, key, value)

    @translated
    def variables(self, scope: Scope) -> dict[str, str]:
        """The variables of exactly this scope."""
        options: dict[str, Any] = {"$select": ["name", "value"]}
        if scope.host and scope.device:
            row = self._row(scope.device)
            found = self._models.device.config_var.get_all_by_device(row, options)
        elif scope.host:
            application = self._models.application
            found = application.config_var.get_all_by_application(self._id(), options)
        elif scope.device and scope.service:
            options |= {
                "$filter": {
                    "service_install": {
                        "$any": {
                            "$alias": "si",
                            "$expr": {"si": {"installs__service": self._service(scope.service)}},
                        }
                    }
                }
            }
            found = self._models.device.service_var.get_all_by_device(
                self._row(scope.device), options
            )
        elif scope.device:
            found = self._models.device.env_var.get_all_by_device(self._row(scope.device), options)
        elif scope.service:
            found = self._models.service.var.get_all_by_service(
                self._service(scope.service), options
            )
        else:
            found = self._models.application.env_var.get_all_by_application(self._id(), options)
        return {row["name"]: row["value"] for row in found}

    @translated
    def set_variable(self, scope: Scope, name: str, value: str) -> None:
        """Set one variable."""
        check_variable(name, value, scope=scope)
        if scope.host and scope.device:
            self._models.device.config_var.set(self._row(scope.device), name, value)
        elif scope.host:
            self._models.application.config_var.set(self._id(), name, value)
        elif scope.device and scope.service:
            service = self._service(scope.service)
            row = self._row(scope.device)
            self._models.device.service_var.set(row, service, name, value)
        elif scope.device:
            self._models.device.env_var.set(self._row(scope.device), name, value)
        elif scope.service:
            self._models.service.var.set(self._service(scope.service), name, value)
        else:
            self._models.application.env_var.set(self._id(), name, value)

    @translated
    def remove_variable(self, scope: Scope, name: str) -> None:
        """Remove one variable."""
        check_variable(name, scope=scope)
        if scope.host and scope.device:
            self._models.device.config_var.remove(self._row(scope.device), name)
        elif scope.host:
            self._models.application.config_var.remove(self._id(), name)
        elif scope.device and scope.service:
            service = self._service(scope.service)
            self._models.device.service_var.remove(self._row(scope.device), service, name)
        elif scope.device:
            self._models.device.env_var.remove(self._row(scope.device), name)
        elif scope.service:
            self._models.service.var.remove(self._service(scope.service), name)
        else:
            self._models.application.env_var.remove(self._id(), name)

    def _service(self, name: str) -> int:
        found = self._models.service.get_all_by_application(
            self._id(), {"$select": "id", "$filter": {"service_name": name}}
        )
        if not found:
            raise RejectedInput(
                f"{self._slug} has no service {name!r:.80}",
                code="fleet.service_unknown",
                hint="services are those of the compose file of its releases",
            )
        return int(found[0]["id"])


def _commit(expanded: Any) -> str:
    return str(expanded[0]["commit"]) if expanded else ""


def _device(row: dict[str, Any], release: str) -> FleetDevice:
    """One row. Raises RejectedInput: it has no id that can be one."""
    named = row["device_environment_variable"]
    device = check_id(str(named[0]["value"] if named else row["uuid"]), "device")
    pinned = _commit(row["is_pinned_on__release"])
    status = str(row["overall_status"])
    return FleetDevice(
        device=device,
        online=bool(row["is_online"]),
        type=str(row["is_of__device_type"][0]["slug"]),
        running=_commit(row["is_running__release"]),
        pinned=pinned,
        target=pinned or release,
        fault="its services do not all run" if status == TROUBLED else "",
        tags={str(t["tag_key"]): str(t["value"]) for t in row["device_tag"]},
    )
