"""The migrations make the schema, once, and refuse what they do not know."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fieldloop_contract.errors import FixConfiguration
from fieldloop_store.engine import Store
from fieldloop_store.migrate import revision, scripts
from fieldloop_store.schema import metadata


def test_migrations_make_exactly_the_schema(store: Store) -> None:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_column_more_would_be_noticed(store: Store) -> None:
    with store.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE devices ADD COLUMN forgotten TEXT")
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) != []


def test_there_is_one_head_and_the_store_stands_at_it(store: Store) -> None:
    assert [revision(store)] == scripts().get_heads()


def test_services_that_start_together_migrate_once(store_url: str) -> None:
    failures: list[Exception] = []

    def start() -> None:
        try:
            Store.open(store_url).close()
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_store_of_a_later_release_is_refused(store_url: str, store: Store) -> None:
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FixConfiguration, match="9999"):
        Store.open(store_url)


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(FixConfiguration, match="no store"):
        Store.open(f"sqlite:///{path}", create=False)
    assert not path.exists()
