"""What is set on a fleet from files: a board's settings as variables, and tokens of new devices.

Both compare first and write only what differs, so that they may be repeated at any time, and after
having been killed half way: the next run does what is left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldloop_contract.errors import FieldloopError, FixConfiguration, Isolate, RejectedInput
from fieldloop_contract.ids import Id
from fieldloop_contract.messages import describe
from fieldloop_delivery.fleets.backend import (
    ID_VARIABLE,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    FleetBackend,
    Scope,
    check_variable,
)

FILE_BYTES_MAX: Final = 1 << 20
LINE_BYTES_MAX: Final = 4_096
DEVICES_MAX: Final = 10_000
OURS: Final = ("FIELDLOOP_", "BALENA_HOST_CONFIG_")
Say = Callable[[str], None]


class Variables(BaseModel):
    """`variables.json` as `tools/configure.py render` writes it."""

    model_config = ConfigDict(extra="forbid")
    config: dict[str, str] = Field(default_factory=dict, max_length=200)
    service: dict[Id, Annotated[dict[str, str], Field(max_length=200)]] = Field(
        default_factory=dict, max_length=32
    )


def read_variables(path: Path) -> Variables:
    """Read and check a file.

    Raises:
        FixConfiguration: it cannot be read, or is none.
        RejectedInput: a name or value that cannot be.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise FixConfiguration(f"{path} has more than {FILE_BYTES_MAX} bytes")
        found = Variables.model_validate_json(path.read_bytes())
    except OSError as error:
        hint = "`tools/configure.py render` makes it"
        raise FixConfiguration(f"{path}: {error.strerror}", hint=hint) from error
    except ValidationError as error:
        raise FixConfiguration(f"{path}: {describe(error)}") from error
    for scope, values in _scopes(found, ""):
        for name, value in values.items():
            check_variable(name, value, scope=scope)
    return found


def _scopes(wanted: Variables, device: str) -> Iterable[tuple[Scope, dict[str, str]]]:
    yield Scope(device, host=True), wanted.config
    for service, values in wanted.service.items():
        yield Scope(device, service), values


def push_variables(
    backend: FleetBackend, wanted: Variables, *, device: str, prune: bool, dry: bool, say: Say
) -> int:
    """Bring the variables of the fleet, or of one device, to what is wanted.

    Args:
        prune: remove what bears one of our prefixes and is not wanted; of services that the file
            does not name, nothing is removed.
        dry: say what would be done, and do nothing.

    Returns:
        How many were changed.
    """
    changed = 0
    for scope, values in _scopes(wanted, device):
        have = backend.variables(scope)
        where = scope.service or "host"
        for name, value in values.items():
            if have.get(name) == value:
                continue
            say(f"{where}: {name}={value}")
            changed += 1
            if not dry:
                backend.set_variable(scope, name, value)
        stale = sorted(n for n in have.keys() - values.keys() if n.startswith(OURS))
        for name in stale if prune else ():
            say(f"{where}: {name} removed")
            changed += 1
            if not dry:
                backend.remove_variable(scope, name)
    return changed


class Enrolling(BaseModel):
    """One line of `fieldloop-identity provision --csv`."""

    model_config = ConfigDict(extra="ignore")
    device: Id
    uuid: str = Field(default="", max_length=62, pattern=r"^[0-9a-f]*$")
    state: Literal["waiting", "enrolled"]
    token: str = Field(default="", max_length=200, repr=False)


def read_lines(lines: Iterable[str]) -> list[Enrolling]:
    """Read and check all lines before any is acted on. Raises RejectedInput."""
    found: list[Enrolling] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number > DEVICES_MAX or len(line) > LINE_BYTES_MAX:
            raise RejectedInput(f"line {number}: more than can be", code="command.malformed")
        try:
            found.append(Enrolling.model_validate(json.loads(line)))
        except ValidationError as error:
            raise RejectedInput(
                f"line {number}: {describe(error)}", code="command.malformed"
            ) from error
        except ValueError as error:
            raise RejectedInput(
                f"line {number} is no JSON",
                code="command.malformed",
                hint="it takes what `fieldloop-identity provision --csv` prints",
            ) from error
    return found


def enrol(backend: FleetBackend, lines: list[Enrolling], url: str, say: Say) -> int:
    """Give waiting devices their token, and take used ones away.

    A device is found by its id, or by its UUID where it has no id yet; the id is set last, so that
    a run that was killed in between finds it by its UUID again.

    Returns:
        How many devices could not be served.
    """
    known = backend.inventory(time.time_ns()).devices
    missed = 0
    for line in lines:
        name = next((n for n in (line.device, line.uuid) if n in known), "")
        try:
            if not name:
                raise RejectedInput(f"no device has this id or the UUID {line.uuid or '-'}")
            _serve(backend, line, name, url)
            say(f"{line.device}: {'token set' if line.state == 'waiting' else 'enrolled'}")
        except (RejectedInput, Isolate) as error:
            missed += 1
            say(f"{line.device}: {error}")
        except FieldloopError as error:
            say(f"{line.device}: {error}")
            raise
    return missed


def _serve(backend: FleetBackend, line: Enrolling, name: str, url: str) -> None:
    scope = Scope(name)
    have = backend.variables(scope)
    if line.state == "enrolled":
        if TOKEN_VARIABLE in have:
            backend.remove_variable(scope, TOKEN_VARIABLE)
        return
    wanted = {URL_VARIABLE: url, TOKEN_VARIABLE: line.token, ID_VARIABLE: line.device}
    for variable, value in wanted.items():
        if value and have.get(variable) != value:
            backend.set_variable(scope, variable, value)
