"""What a step of updating can come to: values for the owner loop, who turns them into events."""

from __future__ import annotations

from dataclasses import dataclass

from fieldloop_contract.desired import Desired
from fieldloop_contract.messages import ModelRef


@dataclass(frozen=True, slots=True)
class Ordered:
    """This is the order in force: a newer document was accepted, or the last one after a start."""

    desired: Desired
    version: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The bundle is complete, verified and on disk."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Refused:
    """Something was not accepted or given up. `code` is stable, `reason` is for a person.

    Codes: `trust.*` (repository metadata), `desired.*` (the order), `clock.unknown`,
    `chunk.damaged`, `bundle.*`, `capability.*`, `download.*`, `space.exhausted`. Whatever
    runs goes on running.
    """

    code: str
    reason: str
    ref: ModelRef | None = None
    final: bool = False
    """Whether this model will not come as it was ordered; otherwise it is tried again."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Chunks that the broker does not have; the cloud publishes them again when told."""

    chunks: tuple[str, ...]


Outcome = Ordered | Ready | Refused | Missing
