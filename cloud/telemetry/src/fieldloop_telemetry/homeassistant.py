"""Home Assistant's MQTT device discovery: what is published, as values. Pure.

One retained message for each device, `{prefix}/device/{id}/config`, announces the device and its
entities: for each model slot what it says (label and confidence, or score and alarm, or values),
and an `update` entity with the model version it runs and the one it was ordered to run. Values
stand in one retained document of our own for each device, `{state_root}/{fleet}/{device}`: not in
the `results` batches, which hold shadow results and backlog, and are not retained for a Home
Assistant that starts later. Availability is the service's own `status` topic with its last will.

Forms follow Home Assistant's documentation of device discovery, sensor, binary_sensor and update.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fieldloop_contract.batch import dump_json
from fieldloop_contract.topics import Topic
from fieldloop_store.fleet import SlotView

ORIGIN = "fieldloop"
STATE_TEXT_MAX = 255
"""Longest state that Home Assistant takes."""
VALUES_MAX = 16
Components = dict[str, dict[str, Any]]


def object_id(fleet: str, device: str) -> str:
    """The id in discovery topics; ids hold no underscore, so two devices never share one.

    >>> object_id("demo", "pump-7")
    'fieldloop_demo_pump-7'
    """
    return f"{ORIGIN}_{fleet}_{device}"


def config_topic(prefix: str, fleet: str, device: str) -> str:
    """Where a device is announced."""
    return f"{prefix}/device/{object_id(fleet, device)}/config"


def state_topic(root: str, fleet: str, device: str) -> str:
    """Where its values are."""
    return f"{root}/{fleet}/{device}"


def device_of(topic: str) -> tuple[str, str] | None:
    """Fleet and device of one of our announcement topics; None for another.

    >>> device_of("homeassistant/device/fieldloop_demo_pump-7/config")
    ('demo', 'pump-7')
    """
    levels = topic.split("/")
    parts = levels[-2].split("_") if len(levels) > 2 else []
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == ORIGIN else None


def is_ours(payload: bytes) -> bool:
    """Whether a retained announcement is one of ours, by its origin."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    origin = document.get("o") if isinstance(document, dict) else None
    return isinstance(origin, dict) and origin.get("name") == ORIGIN


def components(fleet: str, device: str, views: Sequence[SlotView], topic: str) -> Components:
    """The entities of a device's slots, by key."""
    found: Components = {}
    for view in views:
        own = _of_result(view) | _of_model(view)
        for key, entity in own.items():
            name = f"{view.slot}_{key}"
            status = Topic(fleet, device, view.service, "status")
            found[name] = {
                **entity,
                "unique_id": f"{object_id(fleet, device)}_{name}",
                "state_topic": topic,
                "availability": [
                    {
                        "topic": str(status),
                        "value_template": "{{ value_json.state }}",
                        "payload_available": "online",
                        "payload_not_available": "offline",
                    }
                ],
            }
    return found


def _template(expression: str) -> str:
    """A Jinja template, as Home Assistant renders it."""
    return "{{ " + expression + " }}"


def _of_result(view: SlotView) -> Components:
    result = view.result or {}
    at = f"value_json.slots['{view.slot}']"
    if result.get("task") == "classification":
        return {
            "label": {
                "p": "sensor",
                "name": view.slot,
                "value_template": _template(f"{at}.label"),
            },
            "confidence": {
                "p": "sensor",
                "name": f"{view.slot} confidence",
                "unit_of_measurement": "%",
                "state_class": "measurement",
                "entity_category": "diagnostic",
                "value_template": _template(f"{at}.confidence"),
            },
        }
    if result.get("task") == "anomaly":
        return {
            "score": {
                "p": "sensor",
                "name": f"{view.slot} score",
                "state_class": "measurement",
                "value_template": _template(f"{at}.score"),
            },
            "alarm": {
                "p": "binary_sensor",
                "name": f"{view.slot} alarm",
                "device_class": "problem",
                "value_template": _template(f"{at}.alarm"),
                "payload_on": "ON",
                "payload_off": "OFF",
            },
        }
    return {
        f"value_{n}": {
            "p": "sensor",
            "name": f"{view.slot} {name}",
            "state_class": "measurement",
            "value_template": _template(f"{at}.figures[{n}]"),
        }
        for n, name in enumerate(sorted(result.get("values") or {})[:VALUES_MAX])
    }


def _of_model(view: SlotView) -> Components:
    at = f"value_json.slots['{view.slot}']"
    versions = f"'installed_version': {at}.installed, 'latest_version': {at}.latest"
    template = _template(f"{{{versions}, 'title': {at}.model}} | to_json")
    return {
        "model": {
            "p": "update",
            "name": f"{view.slot} model",
            "entity_category": "diagnostic",
            "value_template": template,
        }
    }


def config(
    fleet: str, device: str, name: str, entities: Components, removed: dict[str, str]
) -> bytes:
    """The announcement of a device.

    Args:
        removed: platform by key of entities that were announced and are no more; Home Assistant
            removes an entity that comes with its platform alone.
    """
    return dump_json(
        {
            "dev": {
                "ids": [object_id(fleet, device)],
                "name": name,
                "mf": ORIGIN,
                "mdl": fleet,
                "sn": device,
            },
            "o": {"name": ORIGIN},
            "cmps": {**entities, **{key: {"p": p} for key, p in removed.items()}},
            "qos": 1,
        }
    )


def state(views: Sequence[SlotView]) -> bytes:
    """The values of a device."""
    return dump_json({"slots": {view.slot: _values(view) for view in views}})


def _values(view: SlotView) -> dict[str, Any]:
    result = view.result or {}
    installed = "" if view.version is None else str(view.version)
    found: dict[str, Any] = {
        "model": view.model or "",
        "installed": installed,
        "latest": installed if view.ordered is None else str(view.ordered),
    }
    if result.get("task") == "classification":
        best = max((result.get("probabilities") or {}).values(), default=None)
        found["label"] = str(result.get("label") or "")[:STATE_TEXT_MAX]
        found["confidence"] = None if best is None else round(100 * best, 1)
    elif result.get("task") == "anomaly":
        found["score"] = result.get("score")
        found["alarm"] = "ON" if result.get("alarm") else "OFF"
    else:
        values = result.get("values") or {}
        found["figures"] = [values[name] for name in sorted(values)[:VALUES_MAX]]
    return found
