"""What a device has shown of the version under way: plain values, filled in by whoever knows.

Models fill all of it (`gathering`); container releases fill what they have (online, installed,
failed, holds, runs), and the gates for the rest say that they were not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.messages import ModelRef


@dataclass(frozen=True, slots=True)
class Target:
    """What a rollout takes to devices, or what a device had before.

    Attributes:
        kind: `model` or `release`.
        name: of the model, or of the application.
        version: for people; of a model its number.
        key: by which it is known: the digest of the manifest, the commit of the release.
    """

    kind: str
    name: str
    version: str
    key: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, "name": self.name, "version": self.version, "key": self.key}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Target:
        """From JSON; MalformedMessage where it is none."""
        try:
            return cls(*(str(document[k]) for k in ("kind", "name", "version", "key")))
        except (KeyError, TypeError) as error:
            raise MalformedMessage(
                f"no target: {document!r:.200}", code="target.invalid"
            ) from error


def model_target(ref: ModelRef) -> Target:
    """A model version as a target."""
    return Target("model", ref.name, str(ref.version), ref.digest)


def model_ref(target: Target) -> ModelRef:
    """The model version that a target is."""
    return ModelRef(name=target.name, version=int(target.version), digest=target.key)


@dataclass(frozen=True, slots=True)
class Tally:
    """What a device's running windows say of one version: counts, and a mean over them."""

    windows: int = 0
    invalid: int = 0
    latency_us: float = 0.0
    labelled: int = 0
    correct: int = 0
    alarms: int = 0


@dataclass(frozen=True, slots=True)
class Beside:
    """Windows that the new version scored in shadow, and the earlier one at the same time.

    `only_new`, `only_old`: those on which only the one was above its threshold.
    """

    windows: int = 0
    agreed: int = 0
    tailed: int = 0
    only_new: int = 0
    only_old: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """One device of a lane.

    Attributes:
        online: whether its service is there.
        away_s: how long it has not been there; 0 while online.
        unfit: why it cannot run the version, by what it says of itself: it is passed over.
        tags: of the inventory; the plan's `cohorts` and the waves' `tags` speak of them.
        holds: what it was last told to run, by the stored assignment or the inventory.
        runs: key of what it reports to run; "" where it reports nothing.
        at_work: key of what it is fetching or trying.
        installed: it reports to run the target, and to have proved it.
        failed: it refused the target or took it back, with its reason.
        idle: windows of the new version while the machine stood still: evidence for nothing.
        new: with the new version; of a control, all since the rollout began.
        old: before it, with other versions.
        beside: in shadow.
        expected_disagreement: measured on the recent set, with its number of windows.
    """

    online: bool = False
    away_s: float = 0.0
    unfit: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    holds: Target | None = None
    runs: str = ""
    at_work: str = ""
    installed: bool = False
    failed: str = ""
    idle: int = 0
    new: Tally = Tally()
    old: Tally = Tally()
    beside: Beside = Beside()
    expected_disagreement: tuple[float, int] | None = None
