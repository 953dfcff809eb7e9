"""Nothing runs from here: `fieldloop_store.migrate` configures Alembic by itself."""
