"""Users of the console: their roles, passwords, tokens, sessions and one-time links.

Owns all reading and writing of `users`, `tokens`, `sessions` and `links`; only the console writes
them. What is secret comes in as a digest (a password as its argon2 hash): making and checking is
the console's. Promises that a disabled user's sessions and tokens end with the same commit, that a
link works once, and that there is always an administrator left. Any thread; time comes in.

All raise RetryLater where the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Connection, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from fieldloop_contract.errors import LimitExceeded, RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store.auditing import checked_text
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import links, sessions, tokens, users

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""From the least to the most: each may do what those before it may."""
USERS_MAX = 10_000
TOKENS_PER_USER_MAX = 100
SESSIONS_PER_USER_MAX = 50
ACTIVE, DISABLED = "active", "disabled"


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user; `password` is the argon2 hash, None where none was set yet."""

    name: str
    role: Role
    state: str
    password: str | None
    created_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token of a user; its role is at most what the user's own role is when it is used."""

    id: str
    user: str
    name: str
    role: Role
    created_ns: int
    expires_ns: int | None
    used_ns: int | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A browser's session."""

    digest: str
    user: str
    csrf: str
    address: str
    created_ns: int
    seen_ns: int
    expires_ns: int


_USER = (users.c.name, users.c.role, users.c.state, users.c.password, users.c.created_ns,
         users.c.changed_ns)  # fmt: skip
_TOKEN = (tokens.c.id, tokens.c.user, tokens.c.name, tokens.c.role, tokens.c.created_ns,
          tokens.c.expires_ns, tokens.c.used_ns)  # fmt: skip
_SESSION = (sessions.c.digest, sessions.c.user, sessions.c.csrf, sessions.c.address,
            sessions.c.created_ns, sessions.c.seen_ns, sessions.c.expires_ns)  # fmt: skip


def lower(one: Role, other: Role) -> Role:
    """The role that may do less."""
    return ROLES[min(ROLES.index(one), ROLES.index(other))]


def check_role(value: str) -> Role:
    """The role of this name. Raises RejectedInput."""
    if value not in ROLES:
        raise RejectedInput(
            f"no role {value!r:.40}", code="user.role", hint=f"one of {', '.join(ROLES)}"
        )
    return value


def count_users(store: Store) -> int:
    """How many users there are: none before the first set-up."""
    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(users)).scalar_one())


def list_users(store: Store) -> list[UserRow]:
    """All users by name, at most `USERS_MAX`."""
    with store.read() as connection:
        rows = connection.execute(select(*_USER).order_by(users.c.name).limit(USERS_MAX))
        return [UserRow(*row) for row in rows]


def find_user(store: Store, name: str) -> UserRow | None:
    """One user, or None."""
    with store.read() as connection:
        row = connection.execute(select(*_USER).where(users.c.name == name)).one_or_none()
    return None if row is None else UserRow(*row)


def add_user(store: Store, name: str, role: Role, *, password: str | None, now_ns: int) -> None:
    """Add a user.

    Raises:
        RejectedInput: no such role, a name that is no id, or one that is taken.
        LimitExceeded: there are `USERS_MAX` already.
    """
    check_id(name, "user")
    values = {"name": name, "role": check_role(role), "state": ACTIVE, "password": password,
              "created_ns": now_ns, "changed_ns": now_ns}  # fmt: skip
    try:
        with store.begin() as connection:
            if (
                connection.execute(select(func.count()).select_from(users)).scalar_one()
                >= USERS_MAX
            ):
                raise LimitExceeded(f"{USERS_MAX} users already", code="user.count")
            connection.execute(insert(users).values(**values))
    except IntegrityError as error:
        raise RejectedInput(f"there is a user {name} already", code="user.taken") from error


def change_user(
    store: Store,
    name: str,
    *,
    role: Role | None = None,
    state: str | None = None,
    password: str | None = None,
    now_ns: int,
) -> None:
    """Change what is given of a user. A new password or a disabling ends all sessions.

    Disabling also deletes the user's tokens and links.

    Raises:
        RejectedInput: no such user, or no active administrator would be left.
    """
    values: dict[str, object] = {"changed_ns": now_ns}
    if role is not None:
        values["role"] = check_role(role)
    if state is not None:
        values["state"] = state
    if password is not None:
        values["password"] = password
    with store.begin() as connection:
        _lock_users(connection)
        changed = connection.execute(update(users).where(users.c.name == name).values(**values))
        if changed.rowcount != 1:
            raise RejectedInput(f"no user {name!r:.80}", code="user.unknown")
        _expect_admin(connection)
        if password is not None or state == DISABLED:
            connection.execute(delete(sessions).where(sessions.c.user == name))
        if state == DISABLED:
            connection.execute(delete(tokens).where(tokens.c.user == name))
            connection.execute(delete(links).where(links.c.user == name))


def delete_user(store: Store, name: str) -> None:
    """Delete a user with all sessions, tokens and links; what the audit says of them stays.

    Raises:
        RejectedInput: no such user, or no active administrator would be left.
    """
    with store.begin() as connection:
        _lock_users(connection)
        if connection.execute(delete(users).where(users.c.name == name)).rowcount != 1:
            raise RejectedInput(f"no user {name!r:.80}", code="user.unknown")
        _expect_admin(connection)
        for table in (sessions, tokens, links):
            connection.execute(delete(table).where(table.c.user == name))


def _lock_users(connection: Connection) -> None:
    """Let two administrators not remove each other at the same instant."""
    query = select(users.c.name).where(users.c.role == "admin").order_by(users.c.name)
    connection.execute(query.with_for_update()).all()


def _expect_admin(connection: Connection) -> None:
    query = select(func.count()).where(users.c.role == "admin", users.c.state == ACTIVE)
    if connection.execute(query).scalar_one() == 0:
        raise RejectedInput(
            "no active administrator would be left",
            code="user.last-admin",
            hint="make somebody else an administrator first",
        )


def add_token(store: Store, row: TokenRow, digest: str) -> None:
    """Add a token, known by the SHA-256 of its secret.

    Raises:
        RejectedInput: no such user, or a name that cannot be stored.
        LimitExceeded: the user has `TOKENS_PER_USER_MAX`.
    """
    checked_text(row.name, "name")
    with store.begin() as connection:
        known = select(users.c.name).where(users.c.name == row.user, users.c.state == ACTIVE)
        if connection.execute(known.with_for_update()).scalar() is None:
            raise RejectedInput(f"no user {row.user!r:.80}", code="user.unknown")
        count = select(func.count()).where(tokens.c.user == row.user)
        if connection.execute(count).scalar_one() >= TOKENS_PER_USER_MAX:
            raise LimitExceeded(
                f"{row.user} has {TOKENS_PER_USER_MAX} tokens", code="token.count",
                hint="revoke one that is no longer used",
            )  # fmt: skip
        connection.execute(
            insert(tokens).values(
                id=row.id, user=row.user, name=row.name, digest=digest, role=row.role,
                created_ns=row.created_ns, expires_ns=row.expires_ns, used_ns=row.used_ns,
            )
        )  # fmt: skip


def list_tokens(store: Store, user: str) -> list[TokenRow]:
    """A user's tokens, newest first."""
    query = select(*_TOKEN).where(tokens.c.user == user).order_by(tokens.c.created_ns.desc())
    with store.read() as connection:
        return [TokenRow(*row) for row in connection.execute(query.limit(TOKENS_PER_USER_MAX))]


def revoke_token(store: Store, token: str, *, user: str) -> bool:
    """Delete a token of a user; False where there is none."""
    own = (tokens.c.id == token, tokens.c.user == user)
    with store.begin() as connection:
        return connection.execute(delete(tokens).where(*own)).rowcount == 1


def token_user(store: Store, digest: str, *, now_ns: int) -> tuple[TokenRow, UserRow] | None:
    """The token with this digest and its user; None where it is unknown, over, or its user out."""
    alive = or_(tokens.c.expires_ns.is_(None), tokens.c.expires_ns > now_ns)
    query = (
        select(*_TOKEN, *_USER)
        .join(users, users.c.name == tokens.c.user)
        .where(tokens.c.digest == digest, users.c.state == ACTIVE, alive)
    )
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return TokenRow(*row[: len(_TOKEN)]), UserRow(*row[len(_TOKEN) :])


def mark_token_used(store: Store, token: str, *, now_ns: int) -> None:
    """Note when a token was last used."""
    with store.begin() as connection:
        connection.execute(update(tokens).where(tokens.c.id == token).values(used_ns=now_ns))


def open_session(store: Store, row: SessionRow) -> None:
    """Add a session; what is over goes, and the user's oldest where there are too many."""
    s = sessions.c
    with store.begin() as connection:
        connection.execute(delete(sessions).where(s.expires_ns <= row.created_ns))
        own = select(s.digest).where(s.user == row.user).order_by(s.created_ns.desc())
        old = connection.execute(own.offset(SESSIONS_PER_USER_MAX - 1)).scalars().all()
        if old:
            connection.execute(delete(sessions).where(s.digest.in_(old)))
        values = {name: getattr(row, name) for name in SessionRow.__dataclass_fields__}
        connection.execute(insert(sessions).values(**values))


def session_user(store: Store, digest: str, *, now_ns: int) -> tuple[SessionRow, UserRow] | None:
    """The session with this digest and its user; None where it is over or its user disabled."""
    query = (
        select(*_SESSION, *_USER)
        .join(users, users.c.name == sessions.c.user)
        .where(sessions.c.digest == digest, sessions.c.expires_ns > now_ns)
        .where(users.c.state == ACTIVE)
    )
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return SessionRow(*row[: len(_SESSION)]), UserRow(*row[len(_SESSION) :])


def touch_session(store: Store, digest: str, *, now_ns: int, expires_ns: int) -> None:
    """Note that a session was used, and until when it now lasts."""
    with store.begin() as connection:
        connection.execute(
            update(sessions)
            .where(sessions.c.digest == digest)
            .values(seen_ns=now_ns, expires_ns=expires_ns)
        )


def close_session(store: Store, digest: str) -> None:
    """End a session."""
    with store.begin() as connection:
        connection.execute(delete(sessions).where(sessions.c.digest == digest))


def add_link(
    store: Store, digest: str, user: str, *, created_by: str, now_ns: int, expires_ns: int
) -> None:
    """Add a one-time link in place of a user's earlier ones."""
    with store.begin() as connection:
        connection.execute(delete(links).where(links.c.user == user))
        connection.execute(
            insert(links).values(
                digest=digest, user=user, created_by=created_by, created_ns=now_ns,
                expires_ns=expires_ns,
            )
        )  # fmt: skip


def link_user(store: Store, digest: str, *, now_ns: int) -> str | None:
    """Whose password a link sets; None where it is used, over or unknown."""
    query = select(links.c.user).where(links.c.digest == digest, links.c.expires_ns > now_ns)
    with store.read() as connection:
        found = connection.execute(query).scalar()
    return None if found is None else str(found)


def use_link(store: Store, digest: str, *, password: str, now_ns: int) -> str | None:
    """Set the password of a link's user and use the link up, in one transaction.

    The first administrator is made here, where there was no user before.

    Returns:
        Whose password it was; None where the link is used, over or unknown.
    """
    with store.begin() as connection:
        own = (links.c.digest == digest, links.c.expires_ns > now_ns)
        user = connection.execute(select(links.c.user).where(*own).with_for_update()).scalar()
        if user is None:
            return None
        connection.execute(delete(links).where(links.c.digest == digest))
        if connection.execute(select(func.count()).select_from(users)).scalar_one() == 0:
            first = {"name": user, "role": "admin", "state": ACTIVE, "created_ns": now_ns,
                     "changed_ns": now_ns}  # fmt: skip
            connection.execute(insert_into(connection, users).values(**first))
        changed = connection.execute(
            update(users)
            .where(users.c.name == user, users.c.state == ACTIVE)
            .values(password=password, changed_ns=now_ns)
        )
        connection.execute(delete(sessions).where(sessions.c.user == user))
    return str(user) if changed.rowcount == 1 else None
