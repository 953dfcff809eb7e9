"""docker-compose.yml and balena.yml keep to balena's rules, and the rules can be broken."""

from __future__ import annotations

import copy
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.balena_rules import application_breaches, compose_breaches

TREE = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TREE / "tools"))


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((TREE / "docker-compose.yml").read_text(encoding="utf-8")))


def application() -> dict[str, Any]:
    return dict(yaml.safe_load((TREE / "balena.yml").read_text(encoding="utf-8")))


def test_the_compose_file_of_devices_keeps_to_balenas_rules() -> None:
    assert compose_breaches(compose()) == []


def test_balena_yml_keeps_to_balenas_rules_and_to_the_release() -> None:
    assert application_breaches(application()) == []
    project = tomllib.loads((TREE / "edge" / "inference" / "pyproject.toml").read_text())
    assert application()["version"] == project["project"]["version"]


Breach = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("breach", "words"),
    [
        (lambda d: d.update(version="3.8"), "compose 2.1 to 2.4"),
        (lambda d: d.update(secrets={}), "secrets: not known"),
        (lambda d: d["services"]["agent"].update(volumes=["/dev:/dev"]), "bind mount"),
        (lambda d: d["services"]["agent"].update(volumes=["./x:/x"]), "bind mount"),
        (lambda d: d["services"]["agent"].update(volumes=[{"type": "bind"}]), "short form"),
        (lambda d: d["services"]["agent"].update(container_name="a"), "container_name"),
        (lambda d: d["services"]["agent"].update(logging={}), "logging: not supported"),
        (lambda d: d["services"]["agent"].update(secrets=["x"]), "secrets: not supported"),
        (lambda d: d["services"]["ingestion"].update(depends_on={"agent": {}}), "a list"),
        (lambda d: d["services"]["agent"].update(environment={"A": "${B}"}), "interpolated"),
        (lambda d: d["services"]["agent"].update(labels={}), "strategy is not stated"),
        (
            lambda d: d["services"]["agent"].update(
                labels={"io.balena.update.strategy": "hand-over"}
            ),
            "two containers",
        ),
        (lambda d: d["services"]["agent"]["build"].update(context="../x"), "folder of this"),
        (lambda d: d["services"]["agent"]["build"].update(ssh="x"), "build.ssh"),
        (lambda d: d["services"]["agent"].update(network_mode="container:x"), "network_mode"),
        (lambda d: d["volumes"].update(data={"driver": "nfs"}), "drivers"),
    ],
)
def test_each_breach_of_the_compose_rules_is_found(breach: Breach, words: str) -> None:
    document = copy.deepcopy(compose())
    breach(document)
    assert [b for b in compose_breaches(document) if words in b]


@pytest.mark.parametrize(
    ("breach", "words"),
    [
        (lambda d: d.update(name="x"), "name"),
        (lambda d: d.update(type="sw.block"), "type"),
        (lambda d: d.update(version=0.1), "version"),
        (lambda d: d.update(description=""), "description"),
        (lambda d: d["data"].update(defaultDeviceType="toaster"), "defaultDeviceType"),
        (
            lambda d: d["data"].update(applicationEnvironmentVariables=[{"BALENA_X": "1"}]),
            "reserved",
        ),
        (lambda d: d["data"].update(applicationEnvironmentVariables=[{"A": 1}]), "not a text"),
        (lambda d: d["data"].update(applicationConfigVariables=[{"X": "1"}]), "begin with"),
    ],
)
def test_each_breach_of_the_application_rules_is_found(breach: Breach, words: str) -> None:
    document = copy.deepcopy(application())
    breach(document)
    assert [b for b in application_breaches(document) if words in b]


def test_no_variable_of_the_fleet_is_a_setting_that_a_service_would_refuse() -> None:
    """balena gives a fleet's or device's variables to every container."""
    for entry in application()["data"]["applicationEnvironmentVariables"]:
        assert not [key for key in entry if key.startswith("FIELDLOOP_")]


def test_containers_on_one_volume_run_as_one_user_on_a_read_only_root() -> None:
    from dockerfiles import IMAGES, UID, render  # noqa: PLC0415 - a tool, not a package

    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        text = (TREE / service["build"]["dockerfile"]).read_text(encoding="utf-8")
        assert f"\nUSER {UID}:{UID}\n" in text
        assert "user" not in service
        # A new volume takes its folders from whichever container mounts it first.
        for folder in ("broker", "drop", "identity", "logs", "models"):
            assert f" /data/{folder}" in text
    for name in IMAGES:
        text = render(name)
        assert text.count("FROM python:3.11-slim-bookworm") == 2
        assert "HEALTHCHECK" in text
        assert "--require-hashes" in text
        assert "rm -rf /usr/bin/pip* /usr/local/bin/pip*" in text.split("FROM ")[2]


def test_settings_in_the_compose_file_are_settings_of_their_service() -> None:
    from fieldloop_inference.settings import InferenceSettings  # noqa: PLC0415
    from fieldloop_ingestion.settings import IngestionSettings  # noqa: PLC0415
    from fieldloop_runtime.settings import variables  # noqa: PLC0415

    for name, model in (("ingestion", IngestionSettings), ("inference", InferenceSettings)):
        known = {v.name for v in variables(model)}
        for variable in compose()["services"][name]["environment"]:
            assert variable in known or variable.removesuffix("_FILE") in known
