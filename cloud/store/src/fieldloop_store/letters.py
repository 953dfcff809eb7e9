"""Dead letters: what was refused, with its reason, bounded per device.

The same bytes refused again count up `times` instead of taking room. Beyond the bound in number or
bytes a letter is counted in `dead_letter_overflow`, not kept: a hostile device fills its own shelf
and nobody else's. Writes within the caller's transaction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select, update

from fieldloop_store.engine import insert_into
from fieldloop_store.rows import LogKey, digest
from fieldloop_store.schema import dead_letter_overflow, dead_letters

LETTER_BYTES_MAX = 4 * 1024
LETTERS_PER_DEVICE_MAX = 1_000
LETTER_BYTES_PER_DEVICE_MAX = 32 << 20
REASON_CHARACTERS_MAX = 500
CONFLICT = "row.conflict"
"""Code of a row whose key the store holds with other content; kept whole, never cut."""

_Key = tuple[str, str, str, int, str, bytes]


@dataclass(frozen=True, slots=True)
class Letter:
    """Something refused. `log.epoch` is "" and `seq` 0 where they could not be read."""

    log: LogKey
    channel: str
    seq: int
    code: str
    reason: str
    payload: bytes
    received_ns: int

    @property
    def key(self) -> _Key:
        """What makes two letters of one device the same; the digest is of the whole payload."""
        log = self.log
        own = digest(self.code.encode(), self.payload)
        return (log.service, log.epoch, self.channel, self.seq, self.code, own)

    @property
    def kept_payload(self) -> bytes:
        """The payload as it is kept: the beginning only, except for a conflict."""
        return self.payload if self.code == CONFLICT else self.payload[:LETTER_BYTES_MAX]


def keep_letters(connection: Connection, letters: Sequence[Letter]) -> tuple[int, int]:
    """Keep what has room and is new; returns how many were kept, and how many only counted."""
    by_device: dict[tuple[str, str], list[Letter]] = defaultdict(list)
    for letter in letters:
        by_device[letter.log.fleet, letter.log.device].append(letter)
    kept = overflowed = 0
    for (fleet, device), own in sorted(by_device.items(), key=lambda item: item[0]):
        fresh, over = _keep_of_device(connection, fleet, device, own)
        kept, overflowed = kept + fresh, overflowed + over
    return kept, overflowed


def _keep_of_device(
    connection: Connection, fleet: str, device: str, letters: list[Letter]
) -> tuple[int, int]:
    d = dead_letters.c
    rows = connection.execute(
        select(d.service, d.epoch, d.channel, d.seq, d.code, d.digest, func.length(d.payload))
        .where(d.fleet == fleet, d.device == device)
        .limit(2 * LETTERS_PER_DEVICE_MAX)
    ).all()
    known: set[_Key] = {(*row[:5], bytes(row[5])) for row in rows}
    room = LETTERS_PER_DEVICE_MAX - len(rows)
    room_bytes = LETTER_BYTES_PER_DEVICE_MAX - sum(row[6] for row in rows)
    fresh: dict[_Key, Letter] = {}
    again: Counter[_Key] = Counter()
    over: Counter[LogKey] = Counter()
    for letter in letters:
        key, size = letter.key, len(letter.kept_payload)
        if key in known:
            again[key] += 1
        elif room > 0 and size <= room_bytes:
            known.add(key)
            fresh[key] = letter
            room, room_bytes = room - 1, room_bytes - size
        else:
            over[letter.log] += 1
    _insert(connection, fresh.items())
    _count_again(connection, fleet, device, again)
    _count_over(connection, over)
    return len(fresh), over.total()


def _insert(connection: Connection, fresh: Iterable[tuple[_Key, Letter]]) -> None:
    rows = [
        {
            "fleet": letter.log.fleet,
            "device": letter.log.device,
            "service": letter.log.service,
            "channel": letter.channel,
            "epoch": letter.log.epoch,
            "seq": letter.seq,
            "code": letter.code,
            # PostgreSQL stores no NUL in a text, and half a surrogate pair is no UTF-8.
            "reason": letter.reason[:REASON_CHARACTERS_MAX]
            .replace("\0", "\\0")
            .encode("utf-8", "backslashreplace")
            .decode(),
            "payload": letter.kept_payload,
            "digest": key[-1],
            "times": 1,
            "received_ns": letter.received_ns,
        }
        for key, letter in sorted(fresh)
    ]
    if rows:
        statement = insert_into(connection, dead_letters)
        connection.execute(statement.on_conflict_do_nothing(), rows)


def _count_again(connection: Connection, fleet: str, device: str, again: Counter[_Key]) -> None:
    if not again:
        return
    d = dead_letters.c
    names = ("service", "epoch", "channel", "seq", "code", "digest")
    statement = (
        update(dead_letters)
        .where(d.fleet == fleet, d.device == device)
        .where(*(d[name] == bindparam(f"b_{name}") for name in names))
        .values(times=d.times + bindparam("b_more"))
    )
    rows = [
        {**{f"b_{name}": value for name, value in zip(names, key, strict=True)}, "b_more": more}
        for key, more in sorted(again.items())
    ]
    connection.execute(statement, rows)


def _count_over(connection: Connection, over: Counter[LogKey]) -> None:
    for log, letters in over.items():
        statement = insert_into(connection, dead_letter_overflow).values(
            fleet=log.fleet,
            device=log.device,
            service=log.service,
            epoch=log.epoch,
            letters=letters,
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["fleet", "device", "service", "epoch"],
                set_={"letters": dead_letter_overflow.c.letters + statement.excluded.letters},
            )
        )
