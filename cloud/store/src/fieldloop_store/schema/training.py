"""Tables of training: datasets, runs, questions, frozen sets, models and their files.

Two of them take a person's word from elsewhere, through training's own functions: the console
enqueues and cancels `runs` (`runqueue`) and answers `questions`.
"""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from fieldloop_store.metadata import metadata

datasets = Table(
    "datasets",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("query", JSON, nullable=False),
    Column("summary", JSON, nullable=False),
    Column("path", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("recalled_ns", BigInteger),  # NULL: it stands
    Column("recall_reason", Text),
)

# The queue of training runs. `owner` holds a running one until `lease_ns`; a lease that ran out
# gives it to whoever claims next. `options` is what the run needs beside the recipe's settings.
runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("recipe", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("trigger", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("dataset", String(64)),
    Column("progress", JSON, nullable=False),
    Column("verdict", JSON),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("options", JSON),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("owner", String(200)),
    Column("lease_ns", BigInteger),
    Column("started_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("cancel_by", String(200)),
    Index("runs_by_state", "fleet", "state", "created_ns"),
)

# The curves of a run: its figures after each epoch.
run_epochs = Table(
    "run_epochs",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("figures", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

# Files about a run or a dataset (`subject`): plots, reports. The bytes are in `blobs`.
artefacts = Table(
    "artefacts",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("media_type", String(80), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

# What training asks a person: a drift that was seen, its evidence, and the run that it proposes.
questions = Table(
    "questions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("proposal", JSON, nullable=False),
    Column("answer", JSON),
    Column("run", String(32)),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Index("questions_by_state", "fleet", "state", "created_ns"),
)

# The frozen evaluation sets of a model, by recording, and each run that has looked at one.
frozen_sets = Table(
    "frozen_sets",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("recordings", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

frozen_looks = Table(
    "frozen_looks",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("run", String(32), primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("run", String(32)),
    Column("dataset", String(64)),
    Column("metrics", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
