"""A site on each back end of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_store.engine import Store
from support.certified import Site
from support.postgres import shared_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An authority with enrolment, on a store of its own."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    if request.param == "postgresql":
        url = shared_postgres().new_database()
    store = Store.open(url)
    made = Site(tmp_path / "site", store)
    yield made
    made.close()
    store.close()


@pytest.fixture
def light_site(tmp_path: Path) -> Iterator[Site]:
    """The same on SQLite only, for what has nothing to do with the store."""
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    made = Site(tmp_path / "site", store)
    yield made
    made.close()
    store.close()
