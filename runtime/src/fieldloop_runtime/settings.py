"""Settings: a pydantic model read once, in `main`, from an injected environment.

A field `host` of a group `mqtt` is `FIELDLOOP_MQTT_HOST`. A variable with `_FILE` appended names a
file that holds the value (for secrets). All faults are reported at once, by the names a person
typed; an unknown `FIELDLOOP_` variable is refused, with the closest known one.

Not pydantic-settings: it costs 9 to 16 MiB of resident memory on a device (docs/adr/0002).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.ids import Id

PREFIX = "FIELDLOOP_"
VALUE_BYTES_MAX = 1 << 20
ModelT = TypeVar("ModelT", bound=BaseModel)
Port = Annotated[int, Field(ge=0, le=65_535)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400 * 366)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MqttSettings(Settings):
    """How to reach the broker."""

    host: str = Field(default="localhost", description="broker's host name")
    port: Port = Field(default=1883, description="broker's port; 8883 is usual with TLS")
    username: str = Field(default="", description="user name; a device's is {fleet}/{device}")
    password: str = Field(default="", repr=False, description="password, where the broker asks")
    ca_file: str = Field(default="", description="certificate authority; switches TLS on")
    cert_file: str = Field(default="", description="this client's certificate")
    key_file: str = Field(default="", description="this client's private key")
    protocol: typing.Literal["3.1.1", "5"] = Field(default="3.1.1", description="MQTT version")
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = Field(
        default=30, description="seconds of silence before a ping"
    )
    connect_timeout_s: PositiveSeconds = Field(default=10, description="limit for connecting")
    reconnect_base_s: PositiveSeconds = Field(default=1, description="first back-off ceiling")
    reconnect_cap_s: PositiveSeconds = Field(default=60, description="highest back-off ceiling")
    inflight_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="QoS 1 messages in flight"
    )
    queue_max: Annotated[int, Field(ge=10, le=100_000)] = Field(
        default=2_000, description="received messages waiting for the service"
    )


class IdentitySettings(Settings):
    """Who this is."""

    fleet: Id = Field(description="id of the fleet")
    device: Id = Field(description="id of the device within the fleet")


class HealthSettings(Settings):
    """Where health and metrics are served."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=0, description="port of /healthz and /metrics; 0 switches it off")


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable of a service, for help and for the reference."""

    name: str
    path: tuple[str, ...]
    default: str
    description: str


def _nested(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        candidates = [a for a in typing.get_args(annotation) if a is not type(None)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def variables(model: type[BaseModel], prefix: str = PREFIX) -> list[Variable]:
    """All variables a settings model reads, in declaration order."""
    found: list[Variable] = []

    def walk(current: type[BaseModel], names: tuple[str, ...]) -> None:
        for name, field in current.model_fields.items():
            path = (*names, name)
            nested = _nested(field.annotation)
            if nested is not None:
                walk(nested, path)
                continue
            default = "required" if field.is_required() else str(field.get_default())
            variable = prefix + "_".join(path).upper()
            found.append(Variable(variable, path, default, field.description or ""))

    walk(model, ())
    return found


def load(
    model: type[ModelT],
    environ: Mapping[str, str],
    *,
    prefix: str = PREFIX,
    overrides: Mapping[str, Any] | None = None,
) -> ModelT:
    """Read settings from an environment.

    Args:
        environ: usually `os.environ`.
        overrides: values by dotted path (`mqtt.host`), from the command line; they win.

    Raises:
        FixConfiguration: every fault at once, each with the variable's name.
    """
    known = {v.name: v for v in variables(model, prefix)}
    document: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in sorted(environ.items()):
        if not name.startswith(prefix):
            continue
        base = name.removesuffix("_FILE")
        if name in known:
            _put(document, known[name].path, value)
        elif base in known:
            try:
                text = Path(value).read_text(encoding="utf-8")[:VALUE_BYTES_MAX]
                _put(document, known[base].path, text.strip())
            except (OSError, UnicodeDecodeError) as error:
                faults.append(f"{name}: cannot read {value}: {error}")
        else:
            faults.append(f"{name}: no such setting{_closest(name, known)}")
    for path, value in (overrides or {}).items():
        if value is not None:
            _put(document, tuple(path.split(".")), value)
    try:
        settings = model.model_validate(document)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            name = prefix + "_".join(str(p) for p in fault["loc"]).upper()
            faults.append(f"{name}: {fault['msg']}")
    if faults:
        raise FixConfiguration(
            "settings are wrong:\n  " + "\n  ".join(faults), hint="--help lists all settings"
        )
    return settings


def _put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        document = document.setdefault(part, {})
    document[path[-1]] = value


def _closest(name: str, known: Mapping[str, Variable]) -> str:
    import difflib  # noqa: PLC0415 - only where somebody mistyped

    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def help_text(model: type[BaseModel], prefix: str = PREFIX) -> str:
    """The settings as a table for `--help`."""
    rows = variables(model, prefix)
    width = max(len(v.name) for v in rows)
    lines = [f"  {v.name:<{width}}  {v.description} [{v.default or 'empty'}]" for v in rows]
    return "settings (environment variables; NAME_FILE reads the value from a file):\n" + "\n".join(
        lines
    )
