"""The store on each back end: one suite, run on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_store.engine import Store
from support.postgres import shared_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    return shared_postgres().new_database()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store."""
    opened = Store.open(store_url)
    yield opened
    opened.close()
