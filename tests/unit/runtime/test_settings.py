"""Settings: from an injected environment, every fault at once, by the name a person typed."""

from __future__ import annotations

import pytest
from pydantic import Field

from fieldloop_contract.errors import FixConfiguration
from fieldloop_runtime.settings import (
    IdentitySettings,
    MqttSettings,
    Settings,
    help_text,
    load,
    variables,
)


class Service(IdentitySettings):
    mqtt: MqttSettings = Field(default_factory=MqttSettings)
    log_path: str = Field(default="log.sqlite", description="where the log is")


class Group(Settings):
    x: int


class Nested(Settings):
    a: Group | None = None


MINIMAL = {"FIELDLOOP_FLEET": "acme", "FIELDLOOP_DEVICE": "pump-7"}


def test_values_come_from_the_environment_and_defaults_from_the_model():
    settings = load(Service, MINIMAL | {"FIELDLOOP_MQTT_PORT": "8883", "HOME": "/x"})
    assert (settings.fleet, settings.mqtt.port, settings.mqtt.host) == ("acme", 8883, "localhost")


def test_an_override_from_the_command_line_wins():
    environ = MINIMAL | {"FIELDLOOP_MQTT_HOST": "a"}
    settings = load(Service, environ, overrides={"mqtt.host": "b", "log_path": None})
    assert settings.mqtt.host == "b"
    assert settings.log_path == "log.sqlite"


def test_all_faults_are_reported_at_once_by_variable_name():
    environ = {
        "FIELDLOOP_FLEET": "No Good",
        "FIELDLOOP_MQTT_PORT": "99999",
        "FIELDLOOP_MQTT_HSOT": "x",
    }
    with pytest.raises(FixConfiguration) as caught:
        load(Service, environ)
    text = str(caught.value)
    for part in ("FIELDLOOP_FLEET", "FIELDLOOP_DEVICE", "FIELDLOOP_MQTT_PORT", "--help"):
        assert part in text
    assert "did you mean FIELDLOOP_MQTT_HOST" in text


def test_a_secret_is_read_from_a_file_and_not_shown(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    settings = load(Service, MINIMAL | {"FIELDLOOP_MQTT_PASSWORD_FILE": str(secret)})
    assert settings.mqtt.password == "s3cret"
    assert "s3cret" not in repr(settings)


def test_a_secret_file_that_is_missing_is_a_fault():
    with pytest.raises(FixConfiguration, match="FIELDLOOP_MQTT_PASSWORD_FILE"):
        load(Service, MINIMAL | {"FIELDLOOP_MQTT_PASSWORD_FILE": "/nowhere"})


def test_an_optional_group_is_found_too():
    settings = load(Nested, {"FIELDLOOP_A_X": "3"})
    assert settings.a is not None
    assert settings.a.x == 3


def test_help_names_every_variable_with_its_default():
    text = help_text(Service)
    for variable in variables(Service):
        assert variable.name in text
    assert "[required]" in text
    assert "[1883]" in text
