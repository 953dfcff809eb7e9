"""What a doctor says: one finding for each thing it looked at, fine or with the remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: what was looked at.
        fine: whether it needs nobody.
        seen: what was seen, in a few words.
        remedy: what to do; "" where it is fine.
    """

    what: str
    fine: bool
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'fine' if self.fine else 'LOOK'}  {self.what}: {self.seen}"
        return line if self.fine else f"{line}\n      {self.remedy}"


def judged(what: str, fine: bool, seen: str, remedy: str) -> Finding:
    """A finding that carries its remedy only where it needs one."""
    return Finding(what, fine, seen, "" if fine else remedy)
