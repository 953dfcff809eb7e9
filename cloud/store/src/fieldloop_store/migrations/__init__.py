"""Alembic migrations of the store; run by `fieldloop_store.migrate`."""
