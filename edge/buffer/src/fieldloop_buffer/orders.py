"""What the uplink asks the log's owner to do. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from fieldloop_contract.messages import Ack, Want


@dataclass(frozen=True, slots=True)
class Damaged:
    """Rows whose checksum is wrong, or, without any, a file that SQLite found malformed."""

    epoch: str
    seqs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Rows that the cloud will not take: it answered others and, time and again, not these."""

    epoch: str
    seqs: tuple[int, ...]


Order = Ack | Want | Damaged | Unreadable
