"""The parent's side of a verification: prepare, spawn, poll, take up the result.

The child works on a copy of the metadata folder. The copy is synced to disk and becomes the one in
force by the same SQLite transaction that raises the floors. Never waits for the child.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldloop_contract.desired import Desired
from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_contract.manifest import Carriage
from fieldloop_contract.messages import from_object
from fieldloop_update.durable import make_folder, sync_tree
from fieldloop_update.mirror import Mirror
from fieldloop_update.outcomes import Refused
from fieldloop_update.state import Floor, TrustState

ANSWER_BYTES_MAX = 64 << 20
_ORDER, _GENERATION, _SEEN = "order", "metadata", "seen_ns"


@dataclass(frozen=True, slots=True)
class Order:
    """The order in force: the document, and how each model's bundle is fetched."""

    desired: Desired
    version: int
    sha256: str
    models: dict[str, Carriage]
    valid_until_ns: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification came to; `order` is None where none was accepted."""

    order: Order | None
    refused: Refused | None


def read_order(fact: Any) -> Order | None:
    """An order from its stored JSON."""
    if fact is None:
        return None
    return Order(
        from_object(Desired, fact["desired"]),
        fact["version"],
        fact["sha256"],
        {digest: from_object(Carriage, _carriage(c)) for digest, c in fact["models"].items()},
        fact["valid_until_ns"],
    )


def _carriage(stored: Any) -> Any:
    """What an earlier release has stored was the manifest's file alone."""
    return stored if "manifest" in stored else {"manifest": stored}


class Verifier:
    """Runs at most one child at a time. Owner thread only."""

    def __init__(
        self, folder: Path, state: TrustState, *, fleet: str, device: str, root: bytes
    ) -> None:
        self._folder = folder
        self._state = state
        self._identity = {"fleet": fleet, "device": device}
        self._root = root
        self._child: subprocess.Popen[bytes] | None = None
        self._until_s = 0.0
        make_folder(folder)
        self._remove_others(self._generation)

    @property
    def busy(self) -> bool:
        """Whether a child runs."""
        return self._child is not None

    @property
    def seen_ns(self) -> int:
        """UTC of the last complete verification; a clock before it is wrong."""
        return int(self._state.fact(_SEEN) or 0)

    def order(self) -> Order | None:
        """The last accepted order, from disk."""
        return read_order(self._state.fact(_ORDER))

    def start(self, mirror: Mirror, desired: bytes | None, now_s: float, timeout_s: float) -> None:
        """Begin a verification of what the mirror and `desired` hold now."""
        request = self.prepare(mirror, desired)
        work = request.parent
        command = [sys.executable, "-m", "fieldloop_update.verify", str(request)]
        with (work / "answer.json").open("wb") as out, (work / "errors.txt").open("wb") as err:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, close_fds=True
            )
        self._until_s = now_s + timeout_s

    def prepare(self, mirror: Mirror, desired: bytes | None) -> Path:
        """Write all that the child reads; returns the path of the request."""
        work = self._folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        (work / "mirror").mkdir(parents=True)
        mirror.write(work / "mirror")
        copy = self._metadata(self._generation + 1)
        shutil.rmtree(copy, ignore_errors=True)
        current = self._metadata(self._generation)
        if current.is_dir():
            shutil.copytree(current, copy, symlinks=True)
        else:
            copy.mkdir()
        (work / "root.json").write_bytes(self._root)
        if desired is not None:
            (work / "desired.json").write_bytes(desired)
        accepted = self._state.fact(_ORDER)
        floors = {role: (f.version, f.keys) for role, f in self._state.floors().items()}
        request = {
            **self._identity,
            "mirror": str(work / "mirror"),
            "metadata": str(copy),
            "root": str(work / "root.json"),
            "desired": str(work / "desired.json") if desired is not None else None,
            "floors": floors,
            "accepted": accepted["sha256"] if accepted else None,
        }
        (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
        return work / "request.json"

    def poll(self, now_s: float) -> Verdict | None:
        """The verdict, once; None while the child runs or where there is none.

        Raises:
            RetryLater: the child crashed or took too long; nothing was taken up.
        """
        child = self._child
        if child is None:
            return None
        status = child.poll()
        if status is None:
            if now_s < self._until_s:
                return None
            child.kill()
            child.wait()
            self._child = None
            raise RetryLater("verification took too long", code="trust.timeout")
        self._child = None
        answer = self._read_answer(status)
        return self.take_up(answer)

    def stop(self) -> None:
        """End a running child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _read_answer(self, status: int) -> dict[str, Any]:
        work = self._folder / "work"
        if status == 0 and (work / "answer.json").stat().st_size <= ANSWER_BYTES_MAX:
            with contextlib.suppress(ValueError):
                answer = json.loads((work / "answer.json").read_bytes())
                if isinstance(answer, dict):
                    return answer
        errors = (work / "errors.txt").read_bytes()[-400:].decode(errors="replace")
        raise RetryLater(f"verification failed ({status}): {errors}", code="trust.crashed")

    def take_up(self, answer: dict[str, Any]) -> Verdict:
        """Make what the child has found durable, as a whole, and return it."""
        try:
            order = read_order(answer["order"])
        except FieldloopError as error:
            raise RetryLater(f"verification answered nonsense: {error}") from error
        refused = Refused(*answer["refusal"]) if answer["refusal"] else None
        following = self._generation + 1
        if not answer["keep"]:
            shutil.rmtree(self._metadata(following), ignore_errors=True)
            return Verdict(None, refused)
        # What tuf put into the copy it verified file by file: kept also where the set as a whole
        # was refused, so that a root or timestamp once seen is never unseen (TUF 5.3, 5.4).
        sync_tree(self._metadata(following))
        facts: dict[str, Any] = {_GENERATION: following}
        if order is not None:
            facts[_ORDER] = answer["order"]
            facts[_SEEN] = max(self.seen_ns, int(answer["verified_ns"]))
        floors = {role: Floor(version, keys) for role, (version, keys) in answer["floors"].items()}
        self._state.commit(facts, floors)
        self._remove_others(following)
        return Verdict(order, refused)

    @property
    def _generation(self) -> int:
        return int(self._state.fact(_GENERATION) or 0)

    def _metadata(self, generation: int) -> Path:
        return self._folder / f"metadata-{generation}"

    def _remove_others(self, generation: int) -> None:
        for folder in self._folder.glob("metadata-*"):
            if folder != self._metadata(generation):
                shutil.rmtree(folder, ignore_errors=True)
