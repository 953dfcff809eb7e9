"""Who acts, and what they may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fieldloop_contract.errors import FieldloopError
from fieldloop_store.access import ROLES, Role

Via = Literal["session", "token", "hook", "system"]


class NotKnown(FieldloopError):
    """Nobody is logged in, or the token is unknown: log in first."""

    default_code = "access.unknown"


class NotAllowed(FieldloopError):
    """Somebody is, and may not do this."""

    default_code = "access.denied"


class TooOften(FieldloopError):
    """Too many attempts; `wait_s` says for how long to wait."""

    default_code = "access.throttled"

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, by which way, from where.

    Attributes:
        session: digest of the browser's session; "" for others.
        csrf: what a form of that session has to say; "" for others.
    """

    name: str
    role: Role
    via: Via
    address: str = ""
    session: str = ""
    csrf: str = ""

    def may(self, role: Role) -> bool:
        """Whether the actor's role is this one or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def need(self, role: Role) -> None:
        """Raise NotAllowed where the actor may not do what takes `role`."""
        if not self.may(role):
            raise NotAllowed(
                f"{self.name} is {self.role}; this takes {role}",
                hint="ask an administrator for the role",
            )
