"""The model manifest: all that a device needs to know of a model, signed as one document.

A bundle is this document and the files it names: the `.tflite` and its golden vectors. Each file is
cut into chunks of at most 32 KiB, each known by the sha256 of itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.ids import Id, Sha256, Text
from fieldloop_contract.messages import Count, Finite, Message, ModelRef, decode

CHUNK_BYTES_MAX = 32 * 1024
MANIFEST_BYTES_MAX = 512 * 1024
MODEL_BYTES_MAX = 256 << 20
FILES_MAX = 8
RESIDUALS_MAX = 512
"""Statistics of residuals by channel in one score."""
MODEL_FILE, GOLDEN_FILE = "model.tflite", "golden.npz"

Version = Annotated[int, Field(ge=1, le=(1 << 53))]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Statistic = Literal["mean", "deviation", "rms"]


class FileRef(Message):
    """One file of a bundle: its digest, length in bytes, and the digests of its chunks in order."""

    sha256: Sha256
    length: Annotated[int, Field(ge=1, le=MODEL_BYTES_MAX)]
    chunk_bytes: Annotated[int, Field(ge=1, le=CHUNK_BYTES_MAX)] = CHUNK_BYTES_MAX
    chunks: list[Sha256] = Field(min_length=1, max_length=MODEL_BYTES_MAX // CHUNK_BYTES_MAX)

    @model_validator(mode="after")
    def _covers(self) -> FileRef:
        if len(self.chunks) != math.ceil(self.length / self.chunk_bytes):
            raise ValueError("the chunks do not cover the length")
        return self

    @classmethod
    def of(cls, data: bytes, chunk_bytes: int = CHUNK_BYTES_MAX) -> FileRef:
        """Describe `data`."""
        chunks = split(data, chunk_bytes)
        return cls(
            sha256=sha256(data),
            length=len(data),
            chunk_bytes=chunk_bytes,
            chunks=[sha256(chunk) for chunk in chunks],
        )


class Packed(Message):
    """Another way to get one file of a bundle, cheaper or in other chunks than the file's own.

    `blob` is what is fetched. `plain` is the file itself; `zstd` is one Zstandard frame that holds
    the file, or with `source` the file XOR the file of that digest, which has the same length. The
    result's own digest decides. A reader passes over an encoding that it does not know.
    """

    encoding: Text = "zstd"
    source: Sha256 | None = None
    blob: FileRef


class Carriage(Message):
    """How a bundle is fetched: the manifest in chunks, and further ways to get its files.

    Signed in the target entry of the manifest (`custom`), not in the manifest: what a file can be
    made of depends on what is in the field, and must not change the identity of the version.
    `retained` tells whether the chunks are on the broker; otherwise the files come over HTTPS.
    """

    manifest: FileRef
    packed: dict[Text, list[Packed]] = Field(default_factory=dict, max_length=FILES_MAX)
    retained: bool = True


class Channel(Message):
    """A channel of an input: its name and its unit (UCUM where there is one, `1` for none).

    `stream` is the model's own word for the stream that it comes from, which an order maps to one
    of the device; by default the input's name. So one input can take channels of several streams.
    """

    name: Text
    unit: Text
    stream: Id | None = None


class Normalisation(Message):
    """A float32 affine by channel before the tensor: `clip((x - centre) / scale, -clip, clip)`."""

    source: Literal["fleet", "cohort", "machine"] = "fleet"
    centre: list[Finite]
    scale: list[Positive]
    clip: Positive = 8.0


class Input(Message):
    """One input of the model and the windows that feed it.

    The tensor is float32 or quantized [1, window_samples, channels]. A window never crosses an
    epoch, nor a pause longer than `gap_tolerance_periods` sample periods; shorter ones are filled
    as `fill` says (`none`: a missing sample is a gap).

    With `resample` a stream may have another rate: it is read at the ticks of a grid of `rate_hz`,
    by `hold`, `linear`, or `decimate` (a whole part of the stream's rate, behind an anti-alias
    filter), whatever its own rate is; `gap_tolerance_periods` are the stream's, and `fill` has no
    part in it. Streams that are aligned have to declare it: several in one input, or several
    inputs, which then also take as long from window to window as each other.
    """

    name: Id
    tensor: Text = ""
    channels: list[Channel] = Field(min_length=1, max_length=64)
    rate_hz: Positive
    window_samples: Annotated[int, Field(ge=1, le=65_536)]
    hop_samples: Annotated[int, Field(ge=1, le=65_536)]
    gap_tolerance_periods: Positive = 1.5
    fill: Literal["none", "hold", "linear"] = "none"
    resample: Literal["hold", "linear", "decimate"] | None = None
    normalisation: Normalisation

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        n = len(self.channels)
        if len(self.normalisation.centre) != n or len(self.normalisation.scale) != n:
            raise ValueError("normalisation has one centre and one scale for each channel")
        if self.hop_samples > self.window_samples:
            raise ValueError("a hop longer than the window would leave samples out")
        return self

    def sources(self) -> dict[str, list[int]]:
        """Columns of the input by the stream that they come from, in the model's own words."""
        found: dict[str, list[int]] = {}
        for column, channel in enumerate(self.channels):
            found.setdefault(channel.stream or self.name, []).append(column)
        return found


class AlarmRule(Message):
    """When the crossings of an output's threshold are an alarm, and when it is over.

    It is raised when `raise_count` of the last `raise_of` running windows were above the threshold,
    and cleared after `clear_count` running windows in a row at or below `clear_below` (by default
    the threshold).
    """

    clear_below: Finite | None = None
    raise_count: Annotated[int, Field(ge=1, le=64)] = 1
    raise_of: Annotated[int, Field(ge=1, le=64)] = 1
    clear_count: Annotated[int, Field(ge=1, le=10_000)] = 1

    @model_validator(mode="after")
    def _possible(self) -> AlarmRule:
        if self.raise_count > self.raise_of:
            raise ValueError("raise_count of raise_of windows can never be")
        return self


class CalibrationRule(Message):
    """How an anomaly slot learns its machine's own threshold: `fieldloop_contract.calibration`.

    From `windows` running windows: `centre + factor * scale`, within the bounds stated here. Until
    then the slot is commissioning and raises no alarm. With `arm` at `person` a record that the
    device made is a proposal only: it judges by the record that an order carries, or by one that
    another model derived from the rows of such a record.
    """

    windows: Annotated[int, Field(ge=8, le=2_000)] = 500
    factor: Positive = 8.0
    arm: Literal["device", "person"] = "device"
    threshold_min: Finite
    threshold_max: Finite

    @model_validator(mode="after")
    def _bounds(self) -> CalibrationRule:
        if self.threshold_min > self.threshold_max:
            raise ValueError("threshold_min is at or below threshold_max")
        return self


class Residuals(Message):
    """How the residuals of an output become an anomaly score, in float after the tensor.

    A residual is what happened minus what the model says, both normalised. `against` tells what
    happened: the `input`, its last samples (`input_end`, for a forecast), or the output `target`
    (what the graph itself derived, such as a spectrum; one residual is then one channel).
    `statistics` are taken by channel over the samples of a window, in the order given, channels
    within; those of `context` follow, of what happened itself: a fault that the model can follow
    shows there. Each is `(statistic - centre) / scale`. `weights`, where there are any, are rows
    over these. The score is the mean, or the largest, of their squares.
    """

    against: Literal["input", "input_end", "output"] = "input"
    target: Id | None = None
    statistics: list[Statistic] = Field(min_length=1, max_length=3)
    context: list[Statistic] = Field(default_factory=list, max_length=3)
    centre: list[Finite] = Field(min_length=1, max_length=RESIDUALS_MAX)
    scale: list[Positive] = Field(min_length=1, max_length=RESIDUALS_MAX)
    weights: list[list[Finite]] = Field(default_factory=list, max_length=RESIDUALS_MAX)
    aggregate: Literal["mean", "max"] = "mean"

    @model_validator(mode="after")
    def _consistent(self) -> Residuals:
        n = len(self.centre)
        if len(self.scale) != n or any(len(row) != n for row in self.weights):
            raise ValueError("residuals have one centre, scale and weight for each statistic")
        if n % (len(self.statistics) + len(self.context)):
            raise ValueError("residuals have as many channels in each statistic")
        if (self.against == "output") != (self.target is not None):
            raise ValueError("residuals against an output name it as their target")
        return self

    @property
    def channels(self) -> int:
        """Channels of the residuals."""
        return len(self.centre) // (len(self.statistics) + len(self.context))


class Output(Message):
    """One output and what it means. `labels` are in the order of the tensor's last axis.

    Results carry the `top_k` most probable labels only, where it is given. A `reconstruction` is
    scored by its mean squared residual, a `residual` output as its `residuals` say; `features` are
    what other outputs are compared with.
    """

    name: Id
    tensor: Text = ""
    kind: Literal["probabilities", "score", "reconstruction", "value", "residual", "features"]
    residuals: Residuals | None = None
    labels: list[Text] = Field(default_factory=list, max_length=1_000)
    threshold: Finite | None = None
    unit: Text = "1"
    alarm: AlarmRule | None = None
    top_k: Annotated[int, Field(ge=1, le=1_000)] | None = None

    @model_validator(mode="after")
    def _compares(self) -> Output:
        if (self.kind == "residual") != (self.residuals is not None):
            raise ValueError("an output of kind residual, and no other, says how it is scored")
        return self

    @model_validator(mode="after")
    def _clears(self) -> Output:
        if self.alarm is None:
            return self
        if self.threshold is None and self.alarm.clear_below is not None:
            raise ValueError("a level to clear an alarm needs a threshold that raises it")
        clear = self.alarm.clear_below
        if self.threshold is not None and clear is not None and clear > self.threshold:
            raise ValueError("an alarm clears at or below its threshold")
        return self


class Regime(Message):
    """A way to run: a running window is in the last one whose `above` its level has passed."""

    name: Text
    above: Finite


class RunningWhen(Message):
    """When a machine runs: a level of a window, in physical units, passes `above`.

    The level is the mean over `channels` (by name; all by default) of `input` (by default the
    first) of each one's `rms`, `mean`, `mean_abs` or `deviation` (standard deviation). A running
    machine is idle once the level is below `idle_below` (by default `above`). Idle windows are
    scored, or skipped; they are evidence for nothing.
    """

    input: Id | None = None
    channels: list[Text] = Field(default_factory=list, max_length=64)
    feature: Literal["rms", "mean", "mean_abs", "deviation"] = "rms"
    above: Finite
    idle_below: Finite | None = None
    idle: Literal["score", "skip"] = "score"
    regimes: list[Regime] = Field(default_factory=list, max_length=16)

    @model_validator(mode="after")
    def _ascending(self) -> RunningWhen:
        if self.idle_below is not None and self.idle_below > self.above:
            raise ValueError("idle_below is at or below above")
        levels = [regime.above for regime in self.regimes]
        if levels != sorted(levels):
            raise ValueError("regimes ascend")
        return self


class Golden(Message):
    """How exact the device has to be: `|device - expected| <= tolerance`, dequantized."""

    count: Annotated[int, Field(ge=1, le=256)]
    tolerance: Positive


class Limits(Message):
    """What the model may cost on a device before it is refused or taken back."""

    latency_ms_max: Positive = 100.0
    memory_bytes_max: Annotated[int, Field(ge=1)] = 256 << 20
    trial_seconds_max: Positive = 60.0
    probation_windows: Annotated[int, Field(ge=1, le=100_000)] = 20


class Requires(Message):
    """What the device's runtime has to know."""

    runtimes: dict[str, str] = Field(default_factory=dict)
    ops: dict[str, int] = Field(default_factory=dict)


class Lineage(Message):
    """What made this model."""

    dataset: Sha256 | None = None
    run: Text = ""
    recipe: Text = ""
    code: Text = ""
    parent: ModelRef | None = None
    metrics: dict[str, dict[str, Finite]] = Field(default_factory=dict)
    counts: dict[str, Count] = Field(default_factory=dict)
    model_card: str = Field(default="", max_length=32 * 1024)


class Manifest(Message):
    """The signed description of one model version.

    `drift_reference` is what `fieldloop_scoring.driftlimit.drift_reference` makes: `kind`, `bins`
    and `edges` of the first input's normalised channels, `further_edges` of those of the other
    inputs in their order where there are any, and `policy` (`decorrelation_windows`,
    `count_windows`, `raise_count`, `raise_of`, and `limit` where one is known). Devices watch for
    drift only where there is a policy, and only the first input where there is no `further_edges`.
    """

    v: Literal[1] = CONTRACT_VERSION
    name: Id
    version: Version
    task: Literal["classification", "anomaly", "regression"]
    files: dict[Text, FileRef] = Field(max_length=FILES_MAX)
    inputs: list[Input] = Field(min_length=1, max_length=16)
    outputs: list[Output] = Field(min_length=1, max_length=16)
    golden: Golden
    limits: Limits = Limits()
    requires: Requires = Requires()
    running_when: RunningWhen | None = None
    calibration: CalibrationRule | None = None
    drift_reference: dict[str, Any] | None = None
    lineage: Lineage = Lineage()

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        missing = {MODEL_FILE, GOLDEN_FILE} - set(self.files)
        if missing:
            raise ValueError(f"files lack {', '.join(sorted(missing))}")
        if self.task == "classification" and not self.outputs[0].labels:
            raise ValueError("a classification names its labels")
        if self.calibration is not None and self.task != "anomaly":
            raise ValueError("only an anomaly model is calibrated")
        self._check_running()
        self._check_targets()
        return self

    def _check_targets(self) -> None:
        named = {output.name for output in self.outputs}
        for output in self.outputs:
            target = output.residuals.target if output.residuals else None
            if target is not None and (target not in named or target == output.name):
                raise ValueError(f"residuals are against no output: {target}")

    def _check_running(self) -> None:
        rule = self.running_when
        if rule is None:
            return
        spec = next((i for i in self.inputs if rule.input in (None, i.name)), None)
        if spec is None:
            raise ValueError(f"running_when speaks of no input: {rule.input}")
        unknown = set(rule.channels) - {c.name for c in spec.channels}
        if unknown:
            raise ValueError(f"running_when speaks of no channel: {', '.join(sorted(unknown))}")

    def digest(self) -> str:
        """sha256 of the encoded document: the identity of this version."""
        return sha256(self.encode())

    def ref(self) -> ModelRef:
        """Name, version and digest."""
        return ModelRef(name=self.name, version=self.version, digest=self.digest())


def sha256(data: bytes) -> str:
    """Lower-case hex sha256."""
    return hashlib.sha256(data).hexdigest()


def split(data: bytes, chunk_bytes: int = CHUNK_BYTES_MAX) -> list[bytes]:
    """Cut `data` into chunks of `chunk_bytes`, the last one shorter."""
    return [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]


def parse_manifest(payload: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        LimitExceeded, MalformedMessage: it is too long or not a manifest.
    """
    return decode(Manifest, payload, MANIFEST_BYTES_MAX)


def target_path(name: str, version: int) -> str:
    """Path of a manifest among the TUF targets.

    >>> target_path("activity", 2)
    'activity/2/manifest.json'
    """
    return f"{name}/{version}/manifest.json"


def check_bundle(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Check that `files` are exactly those of the manifest.

    Raises:
        MalformedMessage: a file is missing, unexpected, or has another digest.
    """
    if set(files) != set(manifest.files):
        raise MalformedMessage(
            f"bundle has {sorted(files)}, manifest names {sorted(manifest.files)}",
            code="bundle.files",
        )
    for name, ref in manifest.files.items():
        if len(files[name]) != ref.length or sha256(files[name]) != ref.sha256:
            raise MalformedMessage(f"{name} is not the file that was signed", code="bundle.digest")
