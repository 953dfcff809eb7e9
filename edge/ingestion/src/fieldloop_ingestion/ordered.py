"""Which profile is in force: the one of the setting, or one that came in a signed order.

An ordered profile arrives as a file (inference verifies orders and writes it, whole). It is checked
as any other; one with a fault is refused, and the one in force stays. One without is on trial: it
is proven once the service has run on it for `PROVEN_S`. Until then a source that cannot be started,
or `STARTS_MAX` starts without getting that far, bring the one before back, and its digest is not
taken again. What was decided stands in one small file beside the log, so that neither a crash nor a
power cut repeats or forgets it.

Owner thread only. Events are collected in `told`, for whoever has a log to write them to.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.profile import PROFILE_BYTES_MAX, Profile
from fieldloop_ingestion.profile import Fit, load_profile, parse_profile
from fieldloop_runtime.journal import Journal

PROVEN_S: Final = 10.0
STARTS_MAX: Final = 3
FAULTS_BYTES_MAX: Final = 2_000


class _Memory(BaseModel):
    """What is remembered. `text`: the ordered profile in force; `before`: what it replaced."""

    model_config = ConfigDict(extra="ignore")
    text: str | None = None
    before: str | None = None
    proven: bool = True
    starts: int = Field(default=0, ge=0)
    refused: str = ""


class OrderedProfile:
    """Chooses the profile, and watches for a newer one."""

    def __init__(self, base: str, ordered: str, memory: str, fit: Fit, journal: Journal) -> None:
        """Paths: of the setting's profile, of the ordered one ("": none), of what is remembered."""
        self._base = base
        self._ordered = Path(ordered) if ordered else None
        self._path = Path(memory)
        self._fit = fit
        self._journal = journal
        self._memory = self._read()
        self._seen: tuple[int, int, int] | None = None
        self.told: list[tuple[str, dict[str, Any]]] = []

    @property
    def digest(self) -> str | None:
        """sha256 of the ordered profile in force; None where it is the setting's."""
        return _digest(self._memory.text) if self._memory.text is not None else None

    @property
    def on_trial(self) -> bool:
        """Whether the profile in force has yet to prove itself."""
        return self._memory.text is not None and not self._memory.proven

    def start(self) -> Profile:
        """The profile to begin with.

        Raises:
            FixConfiguration: the setting's profile is needed, and it is wrong.
        """
        if self._ordered is None:
            return load_profile(self._base, self._fit)
        self._take()
        if self.on_trial:
            self._memory.starts += 1
            if self._memory.starts > STARTS_MAX:
                self._refuse(f"the service did not stay up on it in {STARTS_MAX} starts")
            self._keep()
        return self._in_force()

    def look(self) -> bool:
        """Whether a newer profile came and was taken: then begin again with `start`."""
        return self._ordered is not None and self._take()

    def prove(self) -> None:
        """The service has run on it for `PROVEN_S`."""
        self._memory.proven, self._memory.starts, self._memory.before = True, 0, None
        self._keep()
        self._tell("profile.applied", {"digest": self.digest})

    def fail(self, error: FieldloopError) -> None:
        """The service could not run on the profile on trial."""
        self._refuse(str(error))
        self._keep()

    def _in_force(self) -> Profile:
        while self._memory.text is not None:
            try:
                return parse_profile(self._memory.text, "ordered profile", self._fit)
            except FieldloopError as error:  # this release lacks a kind that another one had
                self._refuse(str(error))
                self._keep()
        return load_profile(self._base, self._fit)

    def _take(self) -> bool:
        text = self._changed()
        if text is None:
            return False
        digest = _digest(text)
        if digest in (self.digest, self._memory.refused) or self._is_what_runs(text):
            return False
        try:
            parse_profile(text, "ordered profile", self._fit)
        except FieldloopError as error:
            self._memory.refused = digest
            self._tell_refused(digest, str(error))
            self._keep()
            return False
        before = self._memory.before if self.on_trial else self._memory.text
        refused = self._memory.refused
        self._memory = _Memory(text=text, before=before, proven=False, refused=refused)
        self._keep()
        self._journal.info("profile.taken", digest=digest)
        return True

    def _is_what_runs(self, text: str) -> bool:
        """Whether the setting's profile is in force and says the same, as after enrolment."""
        if self._memory.text is not None:
            return False
        try:
            return Path(self._base).read_text(encoding="utf-8") == text
        except (OSError, UnicodeDecodeError):
            return False

    def _changed(self) -> str | None:
        """The ordered file's text, where it is another file than at the last look."""
        assert self._ordered is not None  # nobody looks without
        try:
            stat = self._ordered.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return None
            self._seen = seen
            if stat.st_size > PROFILE_BYTES_MAX:
                self._journal.error("profile.too_large", bytes=stat.st_size)
                return None
            return self._ordered.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self._journal.warning("profile.not_read", error=str(error))
            return None

    def _refuse(self, reason: str) -> None:
        digest = self.digest or ""
        self._tell_refused(digest, reason)
        self._memory = _Memory(text=self._memory.before, refused=digest)

    def _tell_refused(self, digest: str, reason: str) -> None:
        self._tell("profile.refused", {"digest": digest, "reason": reason[:FAULTS_BYTES_MAX]})

    def _tell(self, type_: str, data: dict[str, Any]) -> None:
        self.told.append((type_, data))
        level = self._journal.warning if type_ == "profile.refused" else self._journal.info
        level(type_, **data)

    def _read(self) -> _Memory:
        try:
            return _Memory.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Memory()

    def _keep(self) -> None:
        """Write what is remembered, whole; a full disk is no reason to stop sampling."""
        new = self._path.with_name(self._path.name + ".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(self._memory.model_dump(), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            self._journal.warning("profile.not_remembered", error=str(error))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
