"""Settings of the training service. Read once, in `main`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fieldloop_contract.ids import Id
from fieldloop_contract.manifest import Channel
from fieldloop_runtime.settings import HealthSettings, PositiveSeconds, Settings
from fieldloop_training.options import RunOptions

RECIPE_SETTINGS_BYTES_MAX = 64 * 1024


class TrainingSettings(Settings):
    """What is trained, on what, and when."""

    fleet: Id = Field(description="id of the fleet")
    store_url: str = Field(
        default="sqlite:///fieldloop.sqlite",
        description="database: sqlite:///... or postgresql://...",
    )
    datasets_dir: str = Field(default="datasets", description="folder of the dataset files")
    work_dir: str = Field(
        default="work", description="folder of runs under way: checkpoints, converted files"
    )
    model: Id = Field(default="activity", description="name of the model")
    recipe: str = Field(default="activity_cnn", description="recipe that trains it")
    recipe_settings: str = Field(default="{}", description="the recipe's settings as a JSON object")
    stream: Id = Field(default="imu", description="stream that feeds the model")
    channels: str = Field(
        default="",
        description="name:unit,... of the stream, for devices that do not declare it",
    )
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] = Field(
        default=0, description="seed of all that is random"
    )
    min_annotations: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=20, description="new labels that start a run"
    )
    min_frames: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        default=0, description="new frames that start a run of an anomaly recipe; 0: none do"
    )
    every_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = Field(
        default=0, description="seconds after which a run starts by schedule; 0: never"
    )
    cool_down_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = Field(
        default=0, description="seconds after the end of a run before another starts by itself"
    )
    runs_per_day_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=96, description="runs that start by themselves in 24 hours at most"
    )
    drift_starts_runs: bool = Field(
        default=False,
        description="confirmed drift starts a run of a classification without being asked",
    )
    drift_false_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="share of false ones among the drifts that are asked about"
    )
    quiet_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=30, description="seconds without a new label before a run starts"
    )
    poll_s: Annotated[float, Field(ge=0.05, le=3_600)] = Field(
        default=2, description="seconds between two looks at the store"
    )
    run_seconds_max: PositiveSeconds = Field(
        default=3_600, description="limit for one run; a longer one is killed"
    )
    bytes_max: Annotated[int, Field(ge=1_000)] = Field(
        default=2 << 20, description="largest .tflite file that may be approved"
    )
    workers: Literal["local", "ray"] = Field(
        default="local", description="one local worker, or a Ray cluster for many runs at once"
    )
    ray_address: str = Field(
        default="", description="of the Ray cluster; empty starts one on this machine"
    )
    workers_max: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=4, description="runs at once on Ray"
    )
    mlflow_uri: str = Field(
        default="", description="tracking URI of MLflow, where runs are to be recorded"
    )
    prewarm: bool = Field(
        default=True, description="load TensorFlow while labels are still coming in"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severe events to log"
    )
    health: HealthSettings = HealthSettings()

    @field_validator("recipe_settings")
    @classmethod
    def _is_object(cls, value: str) -> str:
        if len(value) > RECIPE_SETTINGS_BYTES_MAX:
            raise ValueError("longer than 64 KiB")
        try:
            parsed = json.loads(value or "{}")
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise ValueError("not a JSON object")
        return json.dumps(parsed, sort_keys=True)

    @field_validator("channels")
    @classmethod
    def _pairs(cls, value: str) -> str:
        if value and any(len(part.split(":")) != 2 for part in value.split(",")):
            raise ValueError("write name:unit,name:unit")
        return value

    def recipe_object(self) -> dict[str, Any]:
        """The recipe's settings, parsed."""
        parsed: dict[str, Any] = json.loads(self.recipe_settings)
        return parsed

    def run_options(self) -> RunOptions:
        """What a run does where its own options say nothing."""
        return RunOptions(
            stream=self.stream,
            channels=self.declared_channels(),
            seed=self.seed,
            bytes_max=self.bytes_max,
        )

    def declared_channels(self) -> list[Channel]:
        """The channels given by hand; empty where none are."""
        if not self.channels:
            return []
        pairs = (part.split(":") for part in self.channels.split(","))
        return [Channel(name=name.strip(), unit=unit.strip()) for name, unit in pairs]
