"""What Home Assistant is told: the forms that its documentation asks for."""

from __future__ import annotations

import json
from typing import Any

from fieldloop_store.fleet import SlotView
from fieldloop_telemetry import homeassistant as forms

_TOPIC = "fieldloop-ha/demo/pump-7"
CLASSES = SlotView(
    "main", "inference", "activity", 3, 4,
    {"task": "classification", "label": "PEN", "probabilities": {"PEN": 0.91, "ROW": 0.09}},
)  # fmt: skip
ANOMALY = SlotView(
    "bearing", "inference", "vibration", 1, None, {"task": "anomaly", "score": 3.5, "alarm": True}
)
VALUES = SlotView("wear", "inference", "life", 2, 2, {"task": "regression", "values": {"h": 12.5}})
SILENT = SlotView("new", "inference", None, None, 1, None)


def announced(*views: SlotView, removed: dict[str, str] | None = None) -> dict[str, Any]:
    entities = forms.components("demo", "pump-7", views, _TOPIC)
    payload = forms.config("demo", "pump-7", "Pump 7", entities, removed or {})
    return dict(json.loads(payload))


def test_an_announcement_has_device_origin_and_an_entity_of_known_platform_each() -> None:
    document = announced(CLASSES, ANOMALY, VALUES, SILENT)
    assert document["dev"]["ids"] == ["fieldloop_demo_pump-7"]
    assert document["dev"]["name"] == "Pump 7"
    assert document["o"]["name"] == "fieldloop"
    assert {key: part["p"] for key, part in document["cmps"].items()} == {
        "main_label": "sensor", "main_confidence": "sensor", "main_model": "update",
        "bearing_score": "sensor", "bearing_alarm": "binary_sensor", "bearing_model": "update",
        "wear_value_0": "sensor", "wear_model": "update", "new_model": "update",
    }  # fmt: skip
    ids = [part["unique_id"] for part in document["cmps"].values()]
    assert len(set(ids)) == len(ids)
    assert all(part["state_topic"] == _TOPIC for part in document["cmps"].values())


def test_availability_follows_the_status_of_the_service_with_its_last_will() -> None:
    (place,) = announced(CLASSES)["cmps"]["main_label"]["availability"]
    assert place["topic"] == "fieldloop/v1/demo/pump-7/inference/status"
    assert place["value_template"] == "{{ value_json.state }}"
    assert (place["payload_available"], place["payload_not_available"]) == ("online", "offline")


def test_every_template_names_something_that_the_state_has() -> None:
    views = (CLASSES, ANOMALY, VALUES, SILENT)
    state = json.loads(forms.state(views))
    assert state["slots"]["main"] == {
        "model": "activity", "installed": "3", "latest": "4", "label": "PEN", "confidence": 91.0
    }  # fmt: skip
    assert state["slots"]["bearing"]["alarm"] == "ON"
    assert state["slots"]["wear"]["figures"] == [12.5]
    for part in announced(*views)["cmps"].values():
        for path in part["value_template"].split("value_json.slots['")[1:]:
            slot, _, rest = path.partition("'].")
            name = rest.split(" ")[0].rstrip(",}").split("[")[0]
            assert name in state["slots"][slot]


def test_the_update_entity_renders_the_json_that_home_assistant_reads() -> None:
    template = announced(CLASSES)["cmps"]["main_model"]["value_template"]
    at = "value_json.slots['main']"
    assert template == (
        f"{{{{ {{'installed_version': {at}.installed, 'latest_version': {at}.latest, "
        f"'title': {at}.model}} | to_json }}}}"
    )


def test_an_entity_that_is_gone_is_sent_with_its_platform_alone() -> None:
    assert announced(ANOMALY, removed={"main_label": "sensor"})["cmps"]["main_label"] == {
        "p": "sensor"
    }


def test_only_our_own_announcements_are_taken_for_ours() -> None:
    assert forms.is_ours(forms.config("demo", "pump-7", "x", {}, {}))
    for payload in (b"", b"[]", b'{"o": 1}', b'{"o": {"name": "zigbee2mqtt"}}', b"[" * 100_000):
        assert not forms.is_ours(payload)
    assert forms.device_of("homeassistant/device/0x12/config") is None
