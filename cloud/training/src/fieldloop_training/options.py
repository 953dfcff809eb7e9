"""What a run needs beside its recipe's settings: `options` of its row in the store."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.ids import Id, Sha256
from fieldloop_contract.manifest import Channel, RunningWhen
from fieldloop_contract.messages import describe

FaultKind = Literal["offset", "drift", "noise", "impacts", "stuck"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
HEALTHY_LABELS = ("healthy", "normal", "ok", "none")
"""Labels that confirm a machine healthy; `unknown` is none of them."""


class RunOptions(BaseModel):
    """Options of one run. What a trigger does not give is as the service is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: Id = Field(description="stream that feeds the model")
    channels: list[Channel] = Field(
        default_factory=list, description="of the stream, where no device declares them"
    )
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] = 0
    dataset: Sha256 | None = Field(
        default=None, description="train on this dataset instead of taking a new snapshot"
    )
    start: Literal["fresh", "champion"] = Field(
        default="fresh", description="begin from the champion's weights (warm start)"
    )
    head_only: bool = Field(
        default=False, description="with a warm start, train the last layers only: small deltas"
    )
    keep_calibration: bool = Field(
        default=False, description="quantize with the champion's representative windows"
    )
    variant: Literal["int8", "int16", "float16", "float32"] = Field(
        default="int8", description="what the model is converted to"
    )
    bytes_max: Annotated[int, Field(ge=1_000)] = Field(
        default=2 << 20, description="largest .tflite file that may be approved"
    )
    false_alarms_max: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.02, description="share of healthy windows with an alarm; absolute, for anomalies"
    )
    hold_back_s: Annotated[float, Field(ge=0)] = Field(
        default=14 * 86_400, description="age from which an unjudged window may be learnt"
    )
    machine_windows_max: Annotated[int, Field(ge=16, le=500_000)] = Field(
        default=20_000, description="windows of one machine at most"
    )
    simulated_faults: Annotated[list[FaultKind], Field(min_length=1, max_length=8)] = Field(
        default_factory=lambda: list(FAULT_KINDS),
        description="faults laid over healthy recordings to measure detection; a sensor that has "
        "no level, as of vibration, does without offset and drift",
    )
    running_when: RunningWhen | None = Field(
        default=None, description="when a machine runs; idle windows teach and prove nothing"
    )
    imported: bool = Field(
        default=False,
        description="judge the file that was attached to the run instead of training one",
    )
    replace_champion: bool = Field(
        default=False, description="approve although the champion cannot be compared"
    )
    again: bool = Field(
        default=False, description="train although this dataset was trained on already"
    )


def parse_options(document: dict[str, Any], defaults: RunOptions) -> RunOptions:
    """The options of a run's row, on top of the service's.

    Raises:
        FixConfiguration: an unknown name or a value that cannot be, in words.
    """
    try:
        return RunOptions.model_validate(defaults.model_dump() | document)
    except ValidationError as error:
        raise FixConfiguration(
            f"options of the run: {describe(error)}", code="run.options"
        ) from error
