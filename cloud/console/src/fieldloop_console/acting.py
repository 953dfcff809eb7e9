"""What every action has in common: the role it takes, and its entry in the audit. Any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fieldloop_console.identity import Actor
from fieldloop_contract.errors import FieldloopError
from fieldloop_store.access import Role
from fieldloop_store.engine import Store
from fieldloop_store.trail import note_action


class Acting:
    """Checks roles and notes what was done. Any thread."""

    def __init__(self, store: Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns

    @contextmanager
    def acting(
        self,
        actor: Actor,
        role: Role,
        action: str,
        target: str = "",
        *,
        fleet: str | None = None,
        **detail: Any,
    ) -> Iterator[None]:
        """Check the role, let it be done, and note how it went."""
        outcome = "done"
        try:
            actor.need(role)
            yield
        except FieldloopError as error:
            outcome, detail = "refused", {**detail, "code": error.code}
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            note_action(
                self._store, at_ns=self._now_ns(), actor=actor.name, via=actor.via,
                address=actor.address, action=action, target=target, fleet=fleet,
                outcome=outcome, detail=detail,
            )  # fmt: skip
