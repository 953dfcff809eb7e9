"""What the cloud's answers do to the books.

Runs inside the caller's transactions; owner thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from fieldloop_buffer.entry import SEQ_MAX, row_id
from fieldloop_buffer.ledger import Account
from fieldloop_buffer.ranges import Range, count, normalise, runs
from fieldloop_buffer.rowstore import RowStore

WANT_ROWS_MAX = 50_000


def keys_of(account: Account, ranges: Sequence[Range], seq_max: int) -> list[Range]:
    """Ranges of seq as ranges of keys, cut to what this epoch can have."""
    cut = [(max(first, 1), min(last, seq_max, SEQ_MAX)) for first, last in ranges]
    return [(row_id(account.no, a), row_id(account.no, b)) for a, b in normalise(cut)]


def touches(store: RowStore, keys: Sequence[Range]) -> bool:
    """Whether any of the keys is pending."""
    return any(store.pending.within(low, high, 1) for low, high in keys)


def store_rows(store: RowStore, account: Account, keys: Sequence[Range]) -> int:
    """Count pending rows as stored; returns how many were."""
    n = count(store.pending.remove(keys))
    account.pending -= n
    account.stored += n
    store.books.save(account)
    return n


def wanted_again(store: RowStore, keys: Sequence[Range]) -> list[Range]:
    """Those of the keys that are held, may be sent, and count as stored; bounded."""
    found: list[int] = []
    for low, high in keys:
        for key in store.sendable(low, high, WANT_ROWS_MAX - len(found)):
            if not store.pending.within(key, key, 1):
                found.append(key)
        if len(found) >= WANT_ROWS_MAX:
            break
    return runs(found)


def unstore_rows(store: RowStore, account: Account, keys: Sequence[Range]) -> int:
    """Count stored rows as pending again; returns how many."""
    n = count(keys)
    store.pending.add(keys)
    account.stored -= n
    account.pending += n
    store.books.save(account)
    return n
