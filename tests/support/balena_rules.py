"""What balena accepts in docker-compose.yml and balena.yml; each breach as a sentence.

Source: https://docs.balena.io/reference/supervisor/docker-compose/ (fields, forms and labels) and
https://docs.balena.io/learn/deploy/deploy-with-balena-button/ (balena.yml), read in November 2026.
"""

from __future__ import annotations

import re
from typing import Any

FIELDS = frozenset(
    """build cap_add cap_drop cgroup_parent command cpu_shares cpu_quota cpuset devices depends_on
    dns dns_opt dns_search domainname entrypoint environment expose extra_hosts group_add
    healthcheck hostname image ipc labels mac_address mem_limit mem_reservation network_mode
    networks oom_kill_disable oom_score_adj pid pids_limit ports privileged read_only restart
    security_opt shm_size stop_grace_period stop_signal sysctls tmpfs ulimits user userns_mode
    volumes working_dir""".split()  # noqa: SIM905 - a page of names reads better so
)
BUILD_FIELDS = frozenset(
    ["context", "dockerfile", "args", "cache_from", "extra_hosts", "labels", "shm_size", "target"]
)
STRATEGIES = frozenset(
    ("download-then-kill", "kill-then-download", "delete-then-download", "hand-over")
)
LABELS = re.compile(r"io\.balena\.(update\.(strategy|handover-timeout|requires)|features\.[a-z-]+)")
DEVICE_TYPES = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
RESERVED = re.compile(r"(BALENA|RESIN)_")


def compose_breaches(document: dict[str, Any]) -> list[str]:
    """What balena would refuse or ignore in a compose file."""
    found: list[str] = []
    if document.get("version") not in ("2.1", "2.2", "2.3", "2.4"):
        found.append("version: balena reads compose 2.1 to 2.4")
    for name in sorted(set(document) - {"version", "services", "volumes", "networks"}):
        found.append(f"{name}: not known to balena")
    volumes = document.get("volumes") or {}
    for name, options in volumes.items():
        if options:
            found.append(f"volumes.{name}: drivers and options are not supported")
    for name, service in document["services"].items():
        found += [f"{name}.{field}: not supported" for field in sorted(set(service) - FIELDS)]
        found += _build(name, service.get("build"))
        found += _mounts(name, service.get("volumes", []), set(volumes))
        found += _labels(name, service.get("labels", {}), service.get("volumes", []))
        needs = service.get("depends_on", [])
        if not isinstance(needs, list) or not set(needs) <= set(document["services"]):
            found.append(f"{name}.depends_on: a list of services")
        if service.get("network_mode") not in (None, "bridge", "host", "none"):
            found.append(f"{name}.network_mode: bridge, host or none")
        if "$" in repr({k: v for k, v in service.items() if k != "command"}):
            found.append(f"{name}: variables are not interpolated")
    return found


def _build(name: str, build: Any) -> list[str]:
    if build is None or isinstance(build, str):
        return []
    found = [f"{name}.build.{field}: not supported" for field in sorted(set(build) - BUILD_FIELDS)]
    context = str(build.get("context", "."))
    if context.startswith(("/", "..", "http", "git")):
        found.append(f"{name}.build.context: a folder of this project")
    return found


def _mounts(name: str, mounts: Any, volumes: set[str]) -> list[str]:
    found = []
    for mount in mounts:
        if not isinstance(mount, str):
            found.append(f"{name}.volumes: short form only")
        elif mount.split(":")[0] not in volumes:
            found.append(f"{name}.volumes: {mount.split(':')[0]} is no named volume (bind mount?)")
    return found


def _labels(name: str, labels: Any, mounts: Any) -> list[str]:
    pairs = labels if isinstance(labels, dict) else dict(x.split("=", 1) for x in labels)
    found = [
        f"{name}.labels: {key} is not known"
        for key in pairs
        if key.startswith("io.balena.") and not LABELS.match(key)
    ]
    strategy = pairs.get("io.balena.update.strategy")
    if strategy not in STRATEGIES:
        found.append(f"{name}.labels: io.balena.update.strategy is not stated")
    if strategy == "hand-over" and mounts:
        found.append(f"{name}: hand-over would let two containers write to one volume")
    return found


def application_breaches(document: dict[str, Any]) -> list[str]:
    """What is wrong in a balena.yml."""
    found = []
    if not re.fullmatch(r"[A-Za-z0-9_-]{4,100}", str(document.get("name", ""))):
        found.append("name: 4 to 100 letters, digits, - and _")
    if document.get("type") != "sw.application":
        found.append("type: sw.application")
    if not re.fullmatch(r"\d+\.\d+\.\d+([-+].+)?", str(document.get("version", ""))):
        found.append("version: semantic, quoted where YAML would read a number")
    if not document.get("description"):
        found.append("description: missing")
    data = document.get("data") or {}
    types = data.get("supportedDeviceTypes") or []
    found += [f"supportedDeviceTypes: {t!r}" for t in types if not DEVICE_TYPES.match(str(t))]
    if data.get("defaultDeviceType") not in types:
        found.append("defaultDeviceType: not among supportedDeviceTypes")
    for entry in data.get("applicationEnvironmentVariables") or []:
        for key, value in entry.items():
            if RESERVED.match(key) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                found.append(f"applicationEnvironmentVariables: {key} is reserved or no name")
            if not isinstance(value, str) or len(value) > 1_000_000:
                found.append(f"applicationEnvironmentVariables: {key} is not a text")
    for entry in data.get("applicationConfigVariables") or []:
        found += [
            f"applicationConfigVariables: {key} does not begin with BALENA_"
            for key in entry
            if not RESERVED.match(key)
        ]
    return found
