"""The contract as AsyncAPI 3.0 with JSON Schemas, generated from the code.

`contract/asyncapi.json` is written by `python -m fieldloop_contract asyncapi` (`make docs`), and a
test holds it equal to what the code says. The schema of a CBOR batch describes its decoded form.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.batch import BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_STREAMS_MAX
from fieldloop_contract.desired import Desired
from fieldloop_contract.ids import EPOCH_PATTERN, ID_PATTERN
from fieldloop_contract.manifest import CHUNK_BYTES_MAX, Manifest
from fieldloop_contract.messages import (
    Ack,
    Annotation,
    Event,
    Reported,
    Result,
    Status,
    Want,
)
from fieldloop_contract.topics import CHANNELS, ROOT, Direction

_ROWS: dict[str, type[BaseModel]] = {
    "results": Result,
    "events": Event,
    "annotations": Annotation,
}
_DOCUMENTS: dict[str, type[BaseModel]] = {
    "status": Status,
    "reported": Reported,
    "ack": Ack,
    "want": Want,
}
_REF = "#/components/schemas/{model}"


def _frames_schema() -> dict[str, Any]:
    integer = {"type": "integer", "minimum": 0}
    return {
        "type": "object",
        "description": (
            "CBOR (RFC 8949). A block is a float32 little-endian typed array (RFC 8746, tag 85) "
            "with codec 0, or the byte-shuffled samples under Zstandard with codec 1; it holds the "
            "samples of the stream's rows one after the other, row-major."
        ),
        "required": ["v", "epoch", "boots", "streams", "rows"],
        "properties": {
            "v": {"const": CONTRACT_VERSION},
            "epoch": {"type": "string", "pattern": EPOCH_PATTERN},
            "historical": {"type": "boolean"},
            "boots": {"type": "array", "items": {"type": "string", "pattern": EPOCH_PATTERN}},
            "streams": {
                "type": "array",
                "maxItems": BATCH_STREAMS_MAX,
                "description": "[id, channels, rate in Hz, codec, block]",
                "items": {"type": "array", "minItems": 5},
            },
            "rows": {
                "type": "array",
                "maxItems": BATCH_ROWS_MAX,
                "description": "[seq, stream index, t0_ns, mono_ns, boot index, clock, n, flags?]",
                "items": {"type": "array", "minItems": 7, "items": integer},
            },
        },
    }


def _rows_schema(model: type[BaseModel]) -> dict[str, Any]:
    row = {
        "allOf": [
            {"$ref": _REF.format(model=model.__name__)},
            {
                "type": "object",
                "required": ["seq"],
                "properties": {"seq": {"type": "integer", "minimum": 1}},
            },
        ]
    }
    return {
        "type": "object",
        "required": ["v", "epoch", "rows"],
        "properties": {
            "v": {"const": CONTRACT_VERSION},
            "epoch": {"type": "string", "pattern": EPOCH_PATTERN},
            "historical": {"type": "boolean"},
            "rows": {"type": "array", "maxItems": BATCH_ROWS_MAX, "items": row},
        },
    }


def _payload(channel: str) -> dict[str, Any]:
    if channel in _ROWS:
        return _rows_schema(_ROWS[channel])
    if channel in _DOCUMENTS:
        return {"$ref": _REF.format(model=_DOCUMENTS[channel].__name__)}
    if channel == "desired":
        return {
            "type": "object",
            "description": (
                "A TUF targets document signed by the director role; its field `fieldloop` is "
                "the order."
            ),
            "properties": {
                "signed": {
                    "type": "object",
                    "properties": {"fieldloop": {"$ref": _REF.format(model="Desired")}},
                },
                "signatures": {"type": "array"},
            },
        }
    return _frames_schema()


def document() -> dict[str, Any]:
    """The whole AsyncAPI document."""
    parameters = {
        name: {"description": text}
        for name, text in (
            ("fleet", f"id of the fleet, {ID_PATTERN}"),
            ("device", f"id of the device, {ID_PATTERN}"),
            ("service", "id of the service: ingestion, inference, labels"),
        )
    }
    models: list[type[BaseModel]] = [*_ROWS.values(), *_DOCUMENTS.values(), Desired, Manifest]
    _, definitions = models_json_schema([(m, "validation") for m in models], ref_template=_REF)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for name, channel in CHANNELS.items():
        channels[name] = {
            "address": f"{ROOT}/{{fleet}}/{{device}}/{{service}}/{name}",
            "description": channel.summary,
            "parameters": parameters,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "bindings": {"mqtt": {"bindingVersion": "0.2.0"}},
        }
        messages[name] = {
            "name": name,
            "summary": channel.summary,
            "contentType": channel.content_type,
            "payload": _payload(name),
        }
        up = channel.direction is Direction.UP
        operations[f"{'send' if up else 'receive'}-{name}"] = {
            "action": "send" if up else "receive",
            "summary": f"a device {'publishes' if up else 'receives'} {channel.summary}",
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"mqtt": {"qos": 1, "retain": channel.retained, "bindingVersion": "0.2.0"}},
        }
    for name, address, what in (
        ("tuf-meta", "_tuf/meta/{file}", "signed metadata (TUF), one retained file a topic"),
        ("blob", "_blob/sha256/{digest}", f"retained chunks of at most {CHUNK_BYTES_MAX} bytes"),
    ):
        key = address.rsplit("{", 1)[1].rstrip("}")
        channels[name] = {
            "address": f"{ROOT}/{{fleet}}/{address}",
            "description": what,
            "parameters": {"fleet": parameters["fleet"], key: {"description": what}},
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        messages[name] = {
            "name": name,
            "summary": what,
            "contentType": "application/json" if name == "tuf-meta" else "application/octet-stream",
        }
        operations[f"receive-{name}"] = {
            "action": "receive",
            "summary": f"a device receives {what}",
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"mqtt": {"qos": 1, "retain": True, "bindingVersion": "0.2.0"}},
        }
    what = "what happened to a rollout, and on which evidence, as CloudEvents"
    channels["notices"] = {
        "address": f"{ROOT}/{{fleet}}/_cloud/delivery/notices",
        "description": what,
        "parameters": {"fleet": parameters["fleet"]},
        "messages": {"notice": {"$ref": "#/components/messages/notice"}},
    }
    messages["notice"] = {
        "name": "notice",
        "summary": what,
        "contentType": "application/json",
        "payload": {"$ref": "#/components/schemas/Event"},
    }
    operations["send-notices"] = {
        "action": "send",
        "summary": f"delivery publishes {what}",
        "channel": {"$ref": "#/channels/notices"},
        "bindings": {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "fieldloop",
            "version": f"{CONTRACT_VERSION}.0.0",
            "description": (
                "What crosses the wire between devices and cloud. Readers keep unknown fields; "
                f"changes only add. A message is at most {BATCH_BYTES_MAX} bytes."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": definitions["$defs"]},
    }
