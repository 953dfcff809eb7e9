"""Forms from a JSON Schema: what to ask for, how to read what was typed, what is wrong with it.

A recipe brings the schema of its settings; its fields have titles, help, bounds and defaults there.
Kinds of fields that a form cannot offer are typed as JSON. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from fieldloop_contract.errors import RejectedInput

FAULTS_MAX = 10
FIELDS_MAX = 200
_SIMPLE = ("integer", "number", "boolean", "string")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form.

    Attributes:
        kind: integer, number, boolean, choice, string, list or json.
        default: as it would be typed; "" for none.
        bounds: in words; "" for none.
        low, high: of a number, where the bound itself may be.
        choices: what may be picked.
    """

    name: str
    title: str
    help: str
    kind: str
    default: str
    bounds: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def fields_of(schema: Mapping[str, Any]) -> list[Field]:
    """The fields of a schema's object, in its order, at most `FIELDS_MAX`."""
    properties = schema.get("properties") or {}
    return [_field(schema, name, said) for name, said in list(properties.items())[:FIELDS_MAX]]


def _field(schema: Mapping[str, Any], name: str, said: Mapping[str, Any]) -> Field:
    plain = _resolved(schema, said)
    kind = _kind(schema, plain)
    default = said.get("default", plain.get("default"))
    return Field(
        name,
        str(said.get("title") or plain.get("title") or name),
        str(said.get("description") or plain.get("description") or ""),
        kind,
        _typed(default, kind),
        _bounds(schema, plain),
        plain.get("minimum"),
        plain.get("maximum"),
        tuple(str(choice) for choice in plain.get("enum", ())),
    )


def _resolved(schema: Mapping[str, Any], said: Mapping[str, Any]) -> Mapping[str, Any]:
    """A reference within the schema followed, once."""
    name = str(said.get("$ref", "")).removeprefix("#/$defs/")
    found = (schema.get("$defs") or {}).get(name)
    return found if isinstance(found, dict) else said


def _kind(schema: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    if "enum" in said and all(isinstance(choice, str) for choice in said["enum"]):
        return "choice"
    kind = said.get("type")
    if kind == "array":
        items = _resolved(schema, said.get("items") or {}).get("type")
        return "list" if items in ("integer", "number", "string") else "json"
    return str(kind) if kind in _SIMPLE else "json"


def _typed(value: Any, kind: str) -> str:
    if value is None:
        return ""
    if kind == "list":
        return ", ".join(str(item) for item in value)
    if kind == "boolean":
        return "yes" if value else "no"
    return json.dumps(value) if kind == "json" else str(value)


def _bounds(schema: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    many = isinstance(said.get("items"), dict)
    of = _resolved(schema, said["items"]) if many else said
    words = " ".join(
        f"{text} {of[key]:g}"
        for key, text in (("minimum", "from"), ("exclusiveMinimum", "above"),
                          ("maximum", "to"), ("exclusiveMaximum", "below"))
        if isinstance(of.get(key), int | float)
    )  # fmt: skip
    most, least = said.get("maxItems"), said.get("minItems")
    if not many or not (most or least):
        return words
    number = f"{least or 0} to {most} of them" if most else f"at least {least} of them"
    return f"each {words}; {number}" if words else number


def read_form(schema: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Any]:
    """What was typed, as settings; a field left empty or at its default is left out.

    Raises:
        RejectedInput: what does not fit, in words, each with the title of its field.
    """
    settings: dict[str, Any] = {}
    faults: list[str] = []
    for field in fields_of(schema):
        text = typed.get(field.name, "").strip()
        if text in ("", field.default):
            continue
        try:
            settings[field.name] = _read(field, text)
        except ValueError:
            faults.append(f"{field.title}: {text!r:.60} is {_NOT[field.kind]}")
    faults += check_settings(schema, settings)
    if faults:
        raise RejectedInput("; ".join(faults[:FAULTS_MAX]), code="recipe.settings")
    return settings


_NOT = {
    "integer": "no whole number", "number": "no number", "boolean": "neither yes nor no",
    "list": "no list with commas", "json": "no JSON", "choice": "no choice", "string": "no text",
}  # fmt: skip


def _read(field: Field, text: str) -> Any:
    """Raises ValueError."""
    if field.kind == "integer":
        return int(text)
    if field.kind == "number":
        return _number(text)
    if field.kind == "boolean":
        return {"yes": True, "no": False}[text] if text in ("yes", "no") else _raise()
    if field.kind == "list":
        return [_item(part.strip()) for part in text.split(",") if part.strip()]
    return json.loads(text) if field.kind == "json" else text


def _raise() -> Any:
    raise ValueError


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _raise()


def _item(text: str) -> Any:
    """An item of a list: a number where it reads as one; the schema says whether it may be."""
    for read in (int, _number):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def check_settings(schema: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What does not fit a schema, in words; empty where all does."""
    titles = {name: said.get("title", name) for name, said in schema.get("properties", {}).items()}
    found = []
    for error in Draft202012Validator(schema).iter_errors(dict(settings)):
        path = [str(part) for part in error.absolute_path]
        named = titles.get(path[0], path[0]) if path else ""
        place = f"{named} ({'.'.join(path)}): " if path else ""
        found.append(f"{place}{error.message[:200]}")
    return sorted(found)[:FAULTS_MAX]
