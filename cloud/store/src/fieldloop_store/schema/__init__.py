"""The schema: one set of tables for SQLite and PostgreSQL, a module for each service that writes.

A row from a device is known by (fleet, device, service, epoch, seq): its primary key, in whichever
table its kind belongs to. Times are int64 ns of UTC.

A service is its processes and its commands: `python -m fieldloop_telemetry devices ...` writes
telemetry's tables as telemetry does, one transaction for each change. Two commands go further,
because what they do concerns all tables at once: `restore` fills an empty store, and erasing a
device takes its rows out of delivery's and the console's tables too. The console changes the
tables of others only through those functions of this package that are said to be for it.

The migrations in `migrations/versions` make these tables; a test holds the two equal.
"""

from fieldloop_store.metadata import metadata
from fieldloop_store.schema.console import (
    console_audit,
    console_cursors,
    links,
    log_books,
    sessions,
    tokens,
    users,
    webhook_deliveries,
    webhooks,
)
from fieldloop_store.schema.delivery import (
    assignments,
    documents,
    rollout_audit,
    rollout_devices,
    rollout_requests,
    rollouts,
)
from fieldloop_store.schema.identity import (
    certificates,
    enrolment_tokens,
    incidents,
)
from fieldloop_store.schema.machines_service import (
    alarm_history,
    alarms,
    calibrations,
    commissionings,
    machines_state,
    notices,
)
from fieldloop_store.schema.telemetry import (
    annotations,
    dead_letter_overflow,
    dead_letters,
    device_audit,
    devices,
    events,
    frame_summaries,
    frames,
    ledgers,
    machines,
    results,
    retired,
    samples,
    services,
    stream_assignments,
)
from fieldloop_store.schema.training import (
    artefacts,
    blobs,
    datasets,
    frozen_looks,
    frozen_sets,
    models,
    questions,
    run_epochs,
    runs,
)

__all__ = [
    "alarm_history",
    "alarms",
    "annotations",
    "artefacts",
    "assignments",
    "blobs",
    "calibrations",
    "certificates",
    "commissionings",
    "console_audit",
    "console_cursors",
    "datasets",
    "dead_letter_overflow",
    "dead_letters",
    "device_audit",
    "devices",
    "documents",
    "enrolment_tokens",
    "events",
    "frame_summaries",
    "frames",
    "frozen_looks",
    "frozen_sets",
    "incidents",
    "ledgers",
    "links",
    "log_books",
    "machines",
    "machines_state",
    "metadata",
    "models",
    "notices",
    "questions",
    "results",
    "retired",
    "rollout_audit",
    "rollout_devices",
    "rollout_requests",
    "rollouts",
    "run_epochs",
    "runs",
    "samples",
    "services",
    "sessions",
    "stream_assignments",
    "tokens",
    "users",
    "webhook_deliveries",
    "webhooks",
]
