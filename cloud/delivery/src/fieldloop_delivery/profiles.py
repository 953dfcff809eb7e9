"""Device profiles on their way into signed orders: a folder of `{device}.yaml` and `default.yaml`.

It is the folder that enrolment gives profiles from, so that a device which enrols and one in the
field get the same. A file is checked when it changed; one with a fault is not signed: the text
before it stays, and the fault is logged once. What only a device knows, such as which kinds of
sources it has, the device judges. Owner thread only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.messages import describe
from fieldloop_contract.profile import PROFILE_BYTES_MAX, Profile
from fieldloop_runtime.journal import Journal

DEFAULT: Final = "default"
FILES_MAX: Final = 10_000
LOOK_EVERY_NS: Final = 5 * 10**9


def checked(text: str, name: str) -> str:
    """A profile's text, as it came.

    Raises:
        RejectedInput: it is too long, no YAML, or no profile.
    """
    if len(text.encode()) > PROFILE_BYTES_MAX:
        raise RejectedInput(f"{name}: more than {PROFILE_BYTES_MAX} bytes", code="profile.too_long")
    try:
        Profile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RejectedInput(f"{name}: {error}", code="profile.malformed") from error
    except ValidationError as error:
        raise RejectedInput(f"{name}: {describe(error)}", code="profile.malformed") from error
    return text


class Profiles:
    """The folder, looked at now and then."""

    def __init__(self, folder: str, journal: Journal) -> None:
        """`folder`: empty for none, and then no order carries a profile."""
        self._folder = Path(folder) if folder else None
        self._journal = journal
        self._texts: dict[str, str] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._faulty: set[str] = set()
        self._looked_ns: int | None = None

    def look(self, now_ns: int) -> None:
        """Read what changed, at most each `LOOK_EVERY_NS`."""
        if self._folder is None:
            return
        if self._looked_ns is not None and 0 <= now_ns - self._looked_ns < LOOK_EVERY_NS:
            return
        self._looked_ns = now_ns
        try:
            with os.scandir(self._folder) as entries:
                found = {
                    entry.name.removesuffix(".yaml"): entry
                    for entry in entries
                    if entry.name.endswith(".yaml") and not entry.name.startswith(".")
                }
        except OSError as error:
            self._journal.warning("profiles.not_read", error=str(error))
            return
        for name in self._seen.keys() - found.keys():
            del self._seen[name]
            self._texts.pop(name, None)
            self._faulty.discard(name)
        for name, entry in sorted(found.items())[:FILES_MAX]:
            self._read(name, entry)

    def _read(self, name: str, entry: os.DirEntry[str]) -> None:
        try:
            stat = entry.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._seen.get(name) == seen:
                return
            self._seen[name] = seen
            if stat.st_size > PROFILE_BYTES_MAX:
                raise RejectedInput(f"{entry.path}: more than {PROFILE_BYTES_MAX} bytes")
            text = Path(entry.path).read_text(encoding="utf-8")
            self._texts[name] = checked(text, entry.path)
            self._faulty.discard(name)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, RejectedInput) as error:
            self._faulty.add(name)
            self._journal.error("profile.refused", file=entry.path, error=str(error))

    def text(self, device: str) -> str | None:
        """The profile that a device shall have; None for none, or where `keeps` says so."""
        if device in self._seen:
            return self._texts.get(device)
        return self._texts.get(DEFAULT)

    def keeps(self, device: str) -> bool:
        """Whether its file is wrong and never was right: what was ordered before stays ordered."""
        name = device if device in self._seen else DEFAULT
        return name in self._faulty and name not in self._texts
