"""The capability gate: whether a device can run a model. Pure; the same rule in cloud and device.

The cloud asks before it signs an order, the device again before it fetches a file. What a device
does not state (0, empty) is not judged: its trial of the model will tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.feeding import check_alignment, check_stream
from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import Capability, StreamState

_CONDITION = re.compile(r"(>=|<=|==|>|<)?\s*([0-9]+(?:\.[0-9]+)*)\Z")
_PARTS_MAX = 6


def unfit(
    manifest: Manifest,
    capability: Capability,
    streams: Mapping[str, str] | None = None,
    feeds: Mapping[str, StreamState] | None = None,
) -> tuple[str, str] | None:
    """Why a device cannot run a model: a stable code and the reason in words; None where it can.

    Args:
        streams: the order's `{input: stream}`.
        feeds: streams that the device is known to have, by name; empty or None is "not known".
    """
    fault = _runtime(manifest, capability) or _ops(manifest, capability)
    if fault is not None:
        return fault
    memory = capability.memory_bytes
    if 0 < memory < manifest.limits.memory_bytes_max:
        text = f"{manifest.limits.memory_bytes_max} bytes of memory wanted, the device has {memory}"
        return "capability.memory", text
    size = sum(file.length for file in manifest.files.values())
    if 0 < capability.disk_free_bytes < size:
        text = f"{size} bytes of disk wanted, {capability.disk_free_bytes} are free"
        return "capability.disk", text
    known = {s.stream: s for s in capability.input_streams} | dict(feeds or {})
    return _inputs(manifest, streams or {}, known) if known else None


def satisfies(version: str, condition: str) -> bool:
    """Whether a version meets a condition: `2.1` and `>=2.1` are "at least", `==2.1` is exact.

    A condition that cannot be read is met by nothing; `*` and the empty one by everything.

    >>> satisfies("2.3.0", ">=2.0"), satisfies("2.14.0", "<2.3"), satisfies("1.9", "2")
    (True, False, False)
    """
    for part in [p.strip() for p in condition.split(",") if p.strip() not in ("", "*")]:
        match = _CONDITION.match(part)
        if match is None:
            return False
        have, want = _numbers(version), _numbers(match[2])
        width = max(len(have), len(want))
        have, want = (n + (0,) * (width - len(n)) for n in (have, want))
        held = {
            ">=": have >= want,
            "<=": have <= want,
            "==": have == want,
            ">": have > want,
            "<": have < want,
        }
        if not held[match[1] or ">="]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"[0-9]{1,9}", version)[:_PARTS_MAX])


def _runtime(manifest: Manifest, capability: Capability) -> tuple[str, str] | None:
    wanted, name = manifest.requires.runtimes, capability.runtime
    if not wanted or not name:
        return None
    if name not in wanted:
        named = ", ".join(sorted(wanted))
        return "capability.runtime", f"the model runs on {named}; the device has {name}"
    if not satisfies(capability.runtime_version, wanted[name]):
        text = f"{name} {wanted[name]} wanted, the device has {capability.runtime_version or '?'}"
        return "capability.runtime-version", text
    return None


def _ops(manifest: Manifest, capability: Capability) -> tuple[str, str] | None:
    if not capability.ops:
        return None
    for op, version in sorted(manifest.requires.ops.items()):
        have = capability.ops.get(op, 0)
        if have < version:
            text = f"operator {op} version {version} wanted, the device has {have or 'none'}"
            return "capability.ops", text
    return None


def _inputs(
    manifest: Manifest, streams: Mapping[str, str], known: Mapping[str, StreamState]
) -> tuple[str, str] | None:
    try:
        check_alignment(manifest.inputs)
    except FixConfiguration as error:
        return "capability.stream", str(error)
    for wanted in manifest.inputs:
        for source in wanted.sources():
            stream = streams.get(source, source)
            state = known.get(stream)
            if state is None:
                named = ", ".join(sorted(known))
                return "capability.stream", f"the device has no stream {stream}; it has {named}"
            if len(state.channels) != len(state.units):
                continue
            try:
                check_stream(wanted, state.channels, state.units, state.rate_hz, source)
            except FixConfiguration as error:
                return "capability.stream", f"stream {stream}: {error}"
    return None
