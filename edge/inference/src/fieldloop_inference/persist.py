"""A slot's state and a feed's position as text, for the log's `state` table. Pure; any thread."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_inference.slots import Phase, Slot
from fieldloop_scoring.windows import Position

_REFS = ("active", "previous", "candidate", "failed")


def dump_slot(slot: Slot) -> str:
    """Compact JSON of a state."""
    document: dict[str, Any] = {f.name: getattr(slot, f.name) for f in fields(slot)}
    document["phase"] = slot.phase.value
    for name in _REFS:
        ref: ModelRef | None = document[name]
        document[name] = None if ref is None else ref.model_dump()
    return json.dumps(document, separators=(",", ":"))


def load_slot(text: str) -> Slot:
    """Undo `dump_slot`; fields of another release are left out.

    Raises:
        MalformedMessage: not such a text.
    """
    try:
        document = json.loads(text)
        known = {f.name for f in fields(Slot)}
        values = {name: value for name, value in document.items() if name in known}
        values["phase"] = Phase(values["phase"])
        for name in _REFS:
            if values.get(name) is not None:
                values[name] = from_object(ModelRef, values[name])
        return Slot(**values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MalformedMessage(f"not a slot's state: {error!s:.120}", code="slot.state") from error


def dump_position(position: Position) -> str:
    """Text of a position."""
    text = f"{position.epoch}/{position.seq}/{position.offset}"
    if not position.phases:
        return text
    return f"{text}/{','.join(map(str, position.phases))}"


def load_position(text: str) -> Position:
    """Undo `dump_position`.

    Raises:
        MalformedMessage: not such a text.
    """
    try:
        epoch, seq, offset, *rest = text.split("/")
        phases = tuple(int(n) for n in rest[0].split(",")) if rest else ()
        return Position(epoch, int(seq), int(offset), phases)
    except ValueError as error:
        raise MalformedMessage(f"{text!r:.80} is not a position", code="slot.position") from error
