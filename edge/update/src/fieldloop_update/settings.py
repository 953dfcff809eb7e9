"""Settings of updates on a device, with the bound of everything that could grow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fieldloop_runtime.settings import PositiveSeconds, Settings


class UpdateSettings(Settings):
    """Where state and bundles live, and how much of anything there may be."""

    dir: str = Field(default="/data/models", description="folder of trust state and bundles")
    trust_clock: bool = Field(
        default=False, description="a person vouches for the clock; else it must be synchronised"
    )
    window_chunks: Annotated[int, Field(ge=1, le=64)] = Field(
        default=6, description="chunks asked for at a time"
    )
    quiet_s: PositiveSeconds = Field(
        default=0.5, description="metadata is verified when unchanged for this long"
    )
    settle_s_max: PositiveSeconds = Field(
        default=10, description="and after this long at the latest, however often it changes"
    )
    refresh_s: PositiveSeconds = Field(
        default=3600, description="seconds between verifications when nothing changes"
    )
    verify_timeout_s: PositiveSeconds = Field(
        default=60, description="limit for one verification in its child process"
    )
    missing_after_s: PositiveSeconds = Field(
        default=10, description="a chunk that has not come for this long is reported missing"
    )
    deadline_s: PositiveSeconds = Field(
        default=6 * 3600, description="connected seconds one attempt at a download may take"
    )
    retry_base_s: PositiveSeconds = Field(default=5, description="first back-off ceiling")
    retry_cap_s: PositiveSeconds = Field(default=3600, description="highest back-off ceiling")
    mirror_bytes_max: Annotated[int, Field(ge=65_536)] = Field(
        default=4 << 20, description="bytes of mirrored metadata"
    )
    mirror_files_max: Annotated[int, Field(ge=8, le=1_000)] = Field(
        default=96, description="files of mirrored metadata"
    )
    patience_s: PositiveSeconds = Field(
        default=15, description="metadata that does not fit yet is refused after this long"
    )
    rate_min_bytes_s: Annotated[int, Field(ge=0)] = Field(
        default=16, description="a slower download is given up for a while; 0 for no such rule"
    )
    rate_window_s: PositiveSeconds = Field(
        default=300, description="connected seconds over which the rate is measured"
    )
    budget_bytes_per_day: Annotated[int, Field(ge=0)] = Field(
        default=0, description="bytes of chunks a UTC day may cost; 0 for no limit"
    )
    metered: bool = Field(
        default=False, description="the connection costs by the byte: only small downloads go on"
    )
    metered_bytes_max: Annotated[int, Field(ge=0)] = Field(
        default=256 * 1024, description="what a bundle may still cost while metered"
    )
    https_url: str = Field(
        default="",
        pattern=r"^(https://[^\s?#]+)?$",
        description="base URL of the other road for large files, https://...; empty: none",
    )
    https_ca_file: str = Field(
        default="", description="certificate authority of that server; empty: the system's"
    )
    https_from_bytes: Annotated[int, Field(ge=0)] = Field(
        default=4 << 20, description="files from this length on come over HTTPS, where it is set"
    )
    https_timeout_s: PositiveSeconds = Field(
        default=30, description="silence of that server after which a request is given up"
    )
    bundles_max: Annotated[int, Field(ge=2, le=64)] = Field(
        default=8, description="complete bundles kept on disk"
    )
    downloads_max: Annotated[int, Field(ge=1, le=16)] = Field(
        default=4, description="downloads at a time"
    )
    bundle_bytes_max: Annotated[int, Field(ge=1)] = Field(
        default=64 << 20, description="bytes of one bundle"
    )
    disk_reserve_bytes: Annotated[int, Field(ge=0)] = Field(
        default=16 << 20, description="free disk that a download never touches"
    )
