"""Verification in a short-lived child: `python -m fieldloop_update.verify REQUEST`.

The only module of a device that imports `tuf`, about 17 MiB resident, which is why it runs in a
process that ends. It reads the mirror, works on a copy of the metadata folder, and writes a JSON
answer to stdout; it changes nothing else, and the parent decides what becomes of the copy.

Rules, in order:
1. root chain, timestamp, snapshot, targets: by `tuf.ngclient.Updater`, from the embedded root;
2. each version is at or above its floor, unless the role's keys changed since, and below 2**63;
3. the order is a targets document signed by the director role that the top-level targets delegate,
   unexpired, for this fleet and this device, at or above its floor; the same version twice only
   with the same bytes;
4. every model it names stands in the targets of the model's own role with the same digest, and is
   not recalled by the same document.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    Root,
    Signed,
    TargetFile,
    Targets,
)
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig  # type: ignore[attr-defined]
from tuf.ngclient.fetcher import FetcherInterface

from fieldloop_contract.desired import DIRECTOR_ROLE, FIELD, Desired
from fieldloop_contract.errors import FieldloopError, Untrusted
from fieldloop_contract.manifest import (
    CHUNK_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Carriage,
    sha256,
    target_path,
)
from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_update.mirror import FILE_BYTES_MAX

CPU_SECONDS_MAX = 60
ROOT_ROTATIONS_MAX = 256
VERSION_MAX = (1 << 63) - 1
_BLOCK = 64 * 1024
_BASE = "mirror://metadata/"
_TOP = ("root", "timestamp", "snapshot", "targets")


class MirrorFetcher(FetcherInterface):
    """Serves metadata from a folder. What is not there is a 404, never a time-out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._folder / url.removeprefix(_BASE)
        if path.parent != self._folder or not path.is_file():
            raise DownloadHTTPError(f"{path.name} is not in the mirror", 404)
        data = path.read_bytes()
        return (data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK))


def refusal(error: Exception) -> tuple[str, str]:
    """Name an error of tuf by the attack it stops: a stable code and the reason in words."""
    text = str(error) or type(error).__name__
    named: list[tuple[type[Exception], str]] = [
        (ExpiredMetadataError, "trust.expired"),
        (UnsignedMetadataError, "trust.signature"),
        (LengthOrHashMismatchError, "trust.mix-and-match"),
        (DownloadLengthMismatchError, "trust.endless-data"),
        (DownloadHTTPError, "trust.missing"),
        (DownloadError, "trust.missing"),
        (DeserializationError, "trust.malformed"),
    ]
    if isinstance(error, BadVersionNumberError):
        # "Expected snapshot version 3, got 2" is one file that is not of the set it claims to be.
        mixed = text.startswith("Expected snapshot") or re.search(r", got v\d", text) is not None
        return ("trust.mix-and-match" if mixed else "trust.rollback"), text
    for kind, code in named:
        if isinstance(error, kind):
            return code, text
    return "trust.malformed", text


def key_ids(signer: Root | Targets, role: str) -> str:
    """The key ids of a role, joined: they name under which keys a floor holds."""
    return ",".join(sorted(signer.get_delegated_role(role).keyids))


class Verification:
    """One verification. Raises Untrusted for what is refused; fills in `answer` as it goes."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._metadata = Path(request["metadata"])
        self._floors: dict[str, list[Any]] = request["floors"]
        self._expires: list[datetime] = []
        self.answer: dict[str, Any] = {"keep": True, "floors": {}, "order": None, "refusal": None}

    def run(self) -> None:
        """All rules in order."""
        updater = self._refresh()
        targets = self._load(Targets, "targets")
        self._check_floors(targets)
        if self._request["desired"] is not None:
            payload = Path(self._request["desired"]).read_bytes()
            self._check_order(updater, targets, payload)

    def _refresh(self) -> Updater:
        config = UpdaterConfig(
            max_root_rotations=ROOT_ROTATIONS_MAX,
            root_max_length=FILE_BYTES_MAX,
            snapshot_max_length=FILE_BYTES_MAX,
            targets_max_length=FILE_BYTES_MAX,
            prefix_targets_with_hash=False,
        )
        updater = Updater(
            metadata_dir=str(self._metadata),
            metadata_base_url=_BASE,
            fetcher=MirrorFetcher(Path(self._request["mirror"])),
            config=config,
            bootstrap=Path(self._request["root"]).read_bytes(),
        )
        updater.refresh()
        return updater

    def _load(self, kind: type[Any], role: str) -> Any:
        """A file that tuf has just verified and put into the folder."""
        signed: Signed = Metadata[Any].from_file(str(self._metadata / f"{role}.json")).signed
        if not isinstance(signed, kind):
            raise Untrusted(f"{role}.json is of another type", code="trust.malformed")
        self._expires.append(signed.expires)
        return signed

    def _check_floors(self, targets: Targets) -> None:
        """Rule 2: tuf forgets what it knew when its folder is torn; the floors do not."""
        root = self._load(Root, "root")
        versions = {role: self._load(Signed, role).version for role in _TOP}
        keys = {role: key_ids(root, role) for role in _TOP}
        keys["root"] = ""  # the chain itself proves a change of root keys; its floor never lifts
        keys["targets"] += ";" + keys["snapshot"]
        for role in _TOP:
            self._check_floor(role, versions[role], keys[role], "trust.rollback")
            self.answer["floors"][role] = [versions[role], keys[role]]
        self._director_keys = key_ids(targets, DIRECTOR_ROLE)

    def _check_floor(self, role: str, version: int, keys: str, code: str) -> None:
        if version > VERSION_MAX:
            # Not kept: a version that nothing can come after would end all updates.
            self.answer["keep"] = False
            kind = code.partition(".")[0]
            raise Untrusted(f"{role} version {version} is out of range", code=f"{kind}.version")
        floor = self._floors.get(role)
        if floor is not None and floor[1] == keys and version < floor[0]:
            self.answer["keep"] = False
            raise Untrusted(f"{role} version {version} is below {floor[0]}, seen before", code=code)

    def _check_order(self, updater: Updater, targets: Targets, payload: bytes) -> None:
        """Rules 3 and 4."""
        try:
            document = Metadata[Targets].from_bytes(payload)
        except (DeserializationError, ValueError) as error:
            raise Untrusted(f"not a signed document: {error}", code="desired.malformed") from error
        signed = document.signed
        if signed.type != Targets.type:
            raise Untrusted(f"a {signed.type} document is no order", code="desired.malformed")
        try:
            targets.verify_delegate(DIRECTOR_ROLE, document.signed_bytes, document.signatures)
        except (UnsignedMetadataError, ValueError) as error:
            raise Untrusted(
                f"not signed by the director: {error}", code="desired.signature"
            ) from error
        if signed.is_expired():
            raise Untrusted(f"expired {signed.expires.isoformat()}", code="desired.expired")
        try:
            desired = from_object(Desired, signed.unrecognized_fields.get(FIELD))
        except FieldloopError as error:
            raise Untrusted(str(error), code="desired.malformed") from error
        self._check_addressee(desired)
        self._check_floor("desired", signed.version, self._director_keys, "desired.rollback")
        floor, digest = self._floors.get("desired"), sha256(payload)
        same = floor is not None and floor == [signed.version, self._director_keys]
        if same and digest != self._request["accepted"]:
            raise Untrusted(
                f"version {signed.version} was seen with other content", code="desired.equivocation"
            )
        models = self._check_models(updater, signed, desired)
        self._expires.append(signed.expires)
        self.answer["floors"]["desired"] = [signed.version, self._director_keys]
        self.answer["order"] = {
            "version": signed.version,
            "sha256": digest,
            "desired": desired.model_dump(mode="json", exclude_none=True),
            "models": models,
            "valid_until_ns": int(min(self._expires).timestamp()) * 10**9,
        }

    def _check_addressee(self, desired: Desired) -> None:
        fleet, device = self._request["fleet"], self._request["device"]
        if desired.fleet != fleet:
            raise Untrusted(f"for fleet {desired.fleet}, not {fleet}", code="desired.fleet")
        if desired.device != device:
            raise Untrusted(f"for device {desired.device}, not {device}", code="desired.device")

    def _check_models(self, updater: Updater, signed: Targets, desired: Desired) -> dict[str, Any]:
        """What the model's own role says of each model ordered: digest, length, chunks."""
        found: dict[str, Any] = {}
        for slot, order in desired.slots.items():
            if order.model is None:
                continue
            if order.model.digest in desired.recalled:
                raise Untrusted(f"slot {slot} is to run a recalled model", code="desired.recalled")
            path = target_path(order.model.name, order.model.version)
            info = updater.get_targetinfo(path)
            if info is None:
                raise Untrusted(f"{path} is not in the targets", code="desired.not-in-targets")
            self._load(Targets, order.model.name)
            ordered = signed.targets.get(path)
            agreed = ordered is not None and ordered.hashes == info.hashes
            if not agreed or info.hashes.get("sha256") != order.model.digest:
                raise Untrusted(f"{path}: director and model disagree", code="desired.digest")
            known = carriage(info, order.model)
            found[order.model.digest] = known.model_dump(mode="json", exclude_none=True)
        return found


def carriage(info: TargetFile, ref: ModelRef) -> Carriage:
    """How a bundle is fetched, as the targets entry of its manifest describes it.

    Raises:
        Untrusted: the entry lacks what a download needs, or is over a bound.
    """
    if info.length > MANIFEST_BYTES_MAX:
        raise Untrusted(f"a manifest of {info.length} bytes", code="trust.endless-data")
    custom = info.custom if isinstance(info.custom, dict) else {}
    try:
        return from_object(
            Carriage,
            {
                "manifest": {
                    "sha256": ref.digest,
                    "length": info.length,
                    "chunk_bytes": custom.get("chunk_bytes", CHUNK_BYTES_MAX),
                    "chunks": custom.get("chunks", []),
                },
                "packed": custom.get("packed", {}),
                "retained": custom.get("retained", True),
            },
        )
    except FieldloopError as error:
        raise Untrusted(f"{info.path}: {error}", code="trust.malformed") from error


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Run one verification and return the answer: floors, order, refusal (code and reason)."""
    verification = Verification(request)
    try:
        verification.run()
    except (RepositoryError, DownloadError, DeserializationError) as error:
        verification.answer["refusal"] = refusal(error)
    except (Untrusted, ValueError) as error:
        code = error.code if isinstance(error, Untrusted) else "trust.malformed"
        verification.answer["refusal"] = (code, str(error))
    verification.answer["verified_ns"] = int(datetime.now(UTC).timestamp()) * 10**9
    return verification.answer


def main() -> int:
    """Read the request, write the answer."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    request = json.loads(Path(sys.argv[1]).read_bytes())
    json.dump(verify(request), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
