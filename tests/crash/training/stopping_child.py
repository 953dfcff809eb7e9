"""A run in this process that is killed by SIGKILL at a named point: `stopping_child.py POINT ...`.

Points are the stages of the pipeline, `epoch N`, and `before-commit` and `after-commit` of the
transaction that publishes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from fieldloop_runtime.journal import Journal
from fieldloop_store import registry
from fieldloop_store.engine import Store
from fieldloop_training import carrying
from fieldloop_training.progress import Progress
from fieldloop_training.settings import TrainingSettings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_report(point: str) -> None:
    """Die once this stage, or this epoch, has been reported."""
    original = Progress.report

    def report(self: Progress, news: dict[str, Any]) -> None:
        original(self, news)
        if news.get("stage") == point and "epoch" not in news:
            die()
        if point == f"epoch {news.get('epoch')}":
            self.write()
            die()

    Progress.report = report  # type: ignore[method-assign]


def at_commit(point: str) -> None:
    """Die within the publishing transaction, or just after it."""
    original = registry.publish

    def publish(store: Store, *arguments: Any, **named: Any) -> bool:
        if point == "after-commit":
            original(store, *arguments, **named)
            die()
        begin = store.begin

        @contextlib.contextmanager
        def dying() -> Iterator[Connection]:
            with begin() as connection:
                yield connection
                die()

        store.begin = dying  # type: ignore[method-assign]
        return original(store, *arguments, **named)

    registry.publish = publish


def main() -> None:
    point, settings_text, run = sys.argv[1:4]
    settings = TrainingSettings.model_validate(json.loads(settings_text))
    at_commit(point) if point.endswith("commit") else at_report(point)
    store = Store.open(settings.store_url, create=False)
    row = carrying.claim(store, settings, carrying.owner_name(), run)
    assert row is not None
    assert row.owner is not None
    carrying.carry_out(store, settings, row, row.owner, Journal("training.run"))
    store.close()


if __name__ == "__main__":
    main()
