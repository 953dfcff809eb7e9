"""`desired`: which model a device shall run, inside a signed TUF targets document.

The document is `tuf.api.metadata.Metadata[Targets]`, signed by the `director` role that the fleet's
top-level targets delegate (Uptane's idea): its `version` is monotonic for each device, it expires,
its targets name the manifests, and its unrecognised field `fieldloop` holds what is defined here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.calibration import RECORD_BYTES_MAX
from fieldloop_contract.ids import Id, Sha256, Text
from fieldloop_contract.messages import Message, ModelRef
from fieldloop_contract.profile import PROFILE_BYTES_MAX

DIRECTOR_ROLE = "director"
FIELD = "fieldloop"


class SlotOrder(Message):
    """What one slot shall run, and which stream feeds each of the model's inputs.

    `lift` names digests whose blacklisting on this device is lifted; nothing else lifts it.
    `calibration` is the record of this machine that a person armed, as the text that its digest is
    of: signed documents hold no fractions. `calibration_stale` says why it is no longer trusted: it
    still judges, until another one is armed.
    """

    model: ModelRef | None = None
    streams: dict[Id, Id] = Field(default_factory=dict, max_length=16)
    lift: list[Sha256] = Field(default_factory=list, max_length=16)
    calibration: str | None = Field(default=None, max_length=RECORD_BYTES_MAX)
    calibration_stale: Text | None = None


class Desired(Message):
    """The order for one device.

    `profile` is the device profile as YAML text (streams, their settings, sources): a signed
    document holds no fractions. None leaves the device with the one it has.
    """

    v: Literal[1] = CONTRACT_VERSION
    fleet: Id
    device: Id
    slots: dict[Id, SlotOrder] = Field(default_factory=dict, max_length=16)
    recalled: list[Sha256] = Field(default_factory=list, max_length=1_000)
    profile: str | None = Field(default=None, max_length=PROFILE_BYTES_MAX)
