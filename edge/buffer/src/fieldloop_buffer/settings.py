"""Settings of a log and of its uplink. Values only; read once in `main`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_contract.messages import Policy
from fieldloop_runtime.settings import PositiveSeconds, Settings

MIB = 1 << 20


class LogSettings(Settings):
    """One log file and its bounds."""

    path: str = Field(description="the log's file; it needs a folder on a local, writable volume")
    mode: Literal["durable", "balanced"] = Field(
        default="balanced",
        description="durable: every commit is synced; balanced: one sync each commit_interval_ms",
    )
    commit_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = Field(
        default=250, description="balanced: the most ms of samples that a power cut can take"
    )
    bytes_max: Annotated[int, Field(ge=4 * MIB, le=1 << 42)] = Field(
        default=1024 * MIB, description="most bytes on disk, write-ahead log and reserve included"
    )
    age_max_s: Annotated[float, Field(ge=60, le=86_400 * 3660)] = Field(
        default=90 * 86_400.0, description="rows older than this are deleted (hours powered count)"
    )
    reserve_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = Field(
        default=8 * MIB, description="bytes held back so that deleting works on a full disk"
    )
    policy: Policy = Field(
        default="drop_oldest", description="which rows go at the bound, for streams without a rule"
    )
    check_s_max: PositiveSeconds = Field(
        default=1.5, description="most seconds of checking the file at start"
    )


class UplinkSettings(Settings):
    """How a log is sent to the cloud."""

    batch_bytes: Annotated[int, Field(ge=1024, le=192 * 1024)] = Field(
        default=96 * 1024, description="bytes of rows at which a batch is full, before compression"
    )
    batch_rows: Annotated[int, Field(ge=1, le=5_000)] = Field(
        default=1_000, description="rows at which a batch is full"
    )
    batch_age_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=0.5, description="most seconds that a new row waits for its batch to fill"
    )
    inflight_max: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="batches sent and not yet acknowledged by the cloud"
    )
    resend_after_s: PositiveSeconds = Field(
        default=10.0, description="silence of the cloud after which a batch is sent again"
    )
    resend_cap_s: PositiveSeconds = Field(
        default=300.0, description="longest such silence, with back-off"
    )
    backlog_bytes_s: Annotated[int, Field(ge=1024, le=1 << 40)] = Field(
        default=4 * MIB, description="bytes a second of backlog; live data is not held back"
    )
