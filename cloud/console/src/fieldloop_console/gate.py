"""The gate: log-in, sessions, tokens and one-time links.

Turns what a request brings into an `Actor`, or refuses. Promises that a wrong name costs as long as
a wrong password, that guessing is slowed by name and by address, and that every log-in, failed or
not, is in the audit. Any thread; holds no transaction while it hashes.
"""

from __future__ import annotations

import hmac
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from fieldloop_console import passwords
from fieldloop_console.identity import Actor, NotKnown, TooOften
from fieldloop_console.throttle import Throttle
from fieldloop_contract.errors import RejectedInput
from fieldloop_store import access
from fieldloop_store.access import Role, SessionRow, TokenRow
from fieldloop_store.engine import Store
from fieldloop_store.trail import note_action

SESSION_HOURS_MAX = 24 * 7
LINK_HOURS = 24
FIRST_USER = "admin"
_TOUCH_NS = 60 * 10**9
_HOUR_NS = 3_600 * 10**9


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened: its secret goes into the cookie and nowhere else."""

    secret: str
    actor: Actor
    lifetime_s: int


class Gate:
    """Who comes in. Any thread."""

    def __init__(self, store: Store, now_ns: Callable[[], int], *, session_hours: float) -> None:
        self._store = store
        self._now_ns = now_ns
        self._lifetime_ns = round(session_hours * _HOUR_NS)
        self._lock = threading.Lock()
        self._by_name = Throttle(burst=8, refill_s=30)
        self._by_address = Throttle(burst=30, refill_s=5)

    def log_in(self, name: str, password: str, address: str) -> Opened:
        """Open a session.

        Raises:
            NotKnown: wrong name or password, without saying which.
            TooOften: too many attempts of this name or from this address.
        """
        name = name.strip()[:63]
        self._slow_down(name, address)
        user = access.find_user(self._store, name)
        stored = user.password if user is not None and user.state == access.ACTIVE else None
        if not passwords.verify_password(stored, password) or user is None:
            self._note(name or "?", "session", address, "log-in", outcome="refused")
            raise NotKnown("wrong name or password", code="access.password")
        with self._lock:
            self._by_name.forget(name)
        opened = self._open(user.name, user.role, address)
        self._note(name, "session", address, "log-in")
        return opened

    def _open(self, name: str, role: Role, address: str) -> Opened:
        secret, csrf, now_ns = passwords.new_secret(), passwords.new_secret(), self._now_ns()
        digest = passwords.digest_of(secret)
        row = SessionRow(
            digest, name, csrf, address[:64], now_ns, now_ns, now_ns + self._lifetime_ns
        )
        access.open_session(self._store, row)
        actor = Actor(name, role, "session", address, digest, csrf)
        return Opened(secret, actor, self._lifetime_ns // 10**9)

    def _slow_down(self, name: str, address: str) -> None:
        now_s = self._now_ns() / 1e9
        with self._lock:
            wait_s = max(self._by_name.wait_s(name, now_s), self._by_address.wait_s(address, now_s))
            if wait_s == 0:
                self._by_name.spend(name, now_s)
                self._by_address.spend(address, now_s)
        if wait_s:
            raise TooOften(f"too many attempts; try again in {wait_s:.0f} s", wait_s)

    def log_out(self, actor: Actor) -> None:
        """End the actor's session."""
        if actor.session:
            access.close_session(self._store, actor.session)
            self._note(actor.name, actor.via, actor.address, "log-out")

    def by_session(self, secret: str, address: str) -> Actor | None:
        """Who has this session; None where it is over."""
        return self.again(passwords.digest_of(secret), address) if secret else None

    def again(self, digest: str, address: str) -> Actor | None:
        """Who has the session of this digest now: its user may have another role than before."""
        now_ns = self._now_ns()
        found = access.session_user(self._store, digest, now_ns=now_ns)
        if found is None:
            return None
        session, user = found
        if now_ns - session.seen_ns > _TOUCH_NS:
            latest_ns = session.created_ns + SESSION_HOURS_MAX * _HOUR_NS
            until_ns = min(now_ns + self._lifetime_ns, latest_ns)
            access.touch_session(self._store, digest, now_ns=now_ns, expires_ns=until_ns)
        return Actor(user.name, user.role, "session", address, digest, session.csrf)

    def by_token(self, secret: str, address: str) -> Actor:
        """Who has this token. Raises NotKnown."""
        now_ns = self._now_ns()
        found = access.token_user(self._store, passwords.digest_of(secret), now_ns=now_ns)
        if found is None:
            raise NotKnown("the token is unknown, revoked or over", code="access.token")
        token, user = found
        if token.used_ns is None or now_ns - token.used_ns > _TOUCH_NS:
            access.mark_token_used(self._store, token.id, now_ns=now_ns)
        return Actor(user.name, access.lower(token.role, user.role), "token", address)

    def issue_token(
        self, actor: Actor, name: str, role: Role, days: float | None
    ) -> tuple[TokenRow, str]:
        """Make a token of the actor's own, with at most the actor's role; returns its secret once.

        Raises:
            NotAllowed: a higher role than the actor's.
            RejectedInput, LimitExceeded: a name that cannot be, or too many tokens.
        """
        actor.need(access.check_role(role))
        secret, now_ns = passwords.TOKEN_PREFIX + passwords.new_secret(), self._now_ns()
        until_ns = None if days is None else now_ns + round(days * 24 * _HOUR_NS)
        row = TokenRow(uuid.uuid4().hex, actor.name, name.strip(), role, now_ns, until_ns, None)
        access.add_token(self._store, row, passwords.digest_of(secret))
        return row, secret

    def issue_link(self, user: str, *, by: str) -> str:
        """Make a one-time link in place of the user's earlier ones; returns its secret."""
        secret, now_ns = passwords.new_secret(), self._now_ns()
        access.add_link(
            self._store,
            passwords.digest_of(secret),
            user,
            created_by=by,
            now_ns=now_ns,
            expires_ns=now_ns + LINK_HOURS * _HOUR_NS,
        )
        return secret

    def first_run_link(self) -> str | None:
        """The secret of the link for the first administrator; None where there are users."""
        if access.count_users(self._store):
            return None
        return self.issue_link(FIRST_USER, by="system")

    def link_owner(self, secret: str) -> str | None:
        """Whose password a link sets; None where it is used or over."""
        return access.link_user(self._store, passwords.digest_of(secret), now_ns=self._now_ns())

    def use_link(self, secret: str, password: str, address: str) -> Opened:
        """Set a password by a one-time link, and open a session.

        Raises:
            NotKnown: the link is used, over or unknown.
            RejectedInput: a password that may not be one.
        """
        owner = self.link_owner(secret)
        if owner is None:
            raise NotKnown("this link is used or over", code="access.link")
        hashed = passwords.hash_password(passwords.check_password(password, owner))
        name = access.use_link(
            self._store, passwords.digest_of(secret), password=hashed, now_ns=self._now_ns()
        )
        user = access.find_user(self._store, name) if name else None
        if user is None:
            raise NotKnown("this link is used or over", code="access.link")
        self._note(user.name, "session", address, "password-set", detail={"by": "link"})
        return self._open(user.name, user.role, address)

    def change_password(self, actor: Actor, old: str, new: str) -> None:
        """Change the actor's own password; all the actor's sessions end.

        Raises:
            NotKnown: the old one is wrong.
            RejectedInput: the new one may not be one.
            TooOften: too many attempts.
        """
        self._slow_down(actor.name, actor.address)
        user = access.find_user(self._store, actor.name)
        if user is None or not passwords.verify_password(user.password, old):
            self._note(actor.name, actor.via, actor.address, "password-set", outcome="refused")
            raise RejectedInput("the old password is wrong", code="password.old")
        hashed = passwords.hash_password(passwords.check_password(new, actor.name))
        access.change_user(self._store, actor.name, password=hashed, now_ns=self._now_ns())
        self._note(actor.name, actor.via, actor.address, "password-set")

    def _note(
        self,
        actor: str,
        via: str,
        address: str,
        action: str,
        *,
        outcome: str = "done",
        detail: dict[str, str] | None = None,
    ) -> None:
        note_action(
            self._store, at_ns=self._now_ns(), actor=actor, via=via, address=address,
            action=action, outcome=outcome, detail=detail,
        )  # fmt: skip


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())
