"""Speaking with the console: where it is, who speaks, and what an answer means.

Address and token are in a file of the user's own (mode 0600), or in FIELDLOOP_URL and
FIELDLOOP_TOKEN, which win.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater

TIMEOUT_S = 30.0
PAGES_MAX = 10_000
DEFAULT_URL = "http://127.0.0.1:8080"


class Refused(FieldloopError):
    """The console said no, and why."""

    default_code = "console.refused"


@dataclass(frozen=True, slots=True)
class Account:
    """Where the console is, the token that speaks for the user, and the fleet meant by default."""

    url: str = DEFAULT_URL
    token: str = ""
    fleet: str = ""


def account_path(environ: Mapping[str, str]) -> Path:
    """The file of the account."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser())
    folder = Path(base) if "XDG_CONFIG_HOME" in environ else Path(base) / ".config"
    return folder / "fieldloop" / "account.json"


def read_account(environ: Mapping[str, str]) -> Account:
    """The account, from the file and the environment.

    Raises:
        FixConfiguration: the file is damaged.
    """
    path = account_path(environ)
    stored: dict[str, str] = {}
    if path.is_file():
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            stored = {k: str(document.get(k, "")) for k in ("url", "token", "fleet")}
        except (OSError, ValueError, AttributeError) as error:
            raise FixConfiguration(f"{path}: {error}", hint="fieldloop login writes it") from error
    return Account(
        url=environ.get("FIELDLOOP_URL") or stored.get("url") or DEFAULT_URL,
        token=environ.get("FIELDLOOP_TOKEN") or stored.get("token", ""),
        fleet=environ.get("FIELDLOOP_FLEET") or stored.get("fleet", ""),
    )


def write_account(environ: Mapping[str, str], account: Account) -> Path:
    """Write the file of the account, for its owner's eyes only."""
    path = account_path(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = json.dumps({"url": account.url, "token": account.token, "fleet": account.fleet})
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
    return path


class Client:
    """Requests to one console. One thread."""

    def __init__(self, account: Account) -> None:
        self.account = account
        headers = {"Authorization": f"Bearer {account.token}"} if account.token else {}
        self._http = httpx.Client(
            base_url=account.url.rstrip("/") + "/api/v1", headers=headers, timeout=TIMEOUT_S
        )

    def session(self, csrf: str) -> None:
        """Speak as the session that was just opened, whose cookie the client has."""
        self._http.headers["X-CSRF-Token"] = csrf

    def get(self, path: str, **query: Any) -> Any:
        """What stands at a path."""
        return self.ask("GET", path, query=query)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """The answer to a request, read from JSON.

        Raises:
            Refused: the console said no.
            FixConfiguration: nobody is logged in.
            RetryLater: it does not answer.
        """
        given = {k: v for k, v in (query or {}).items() if v is not None}
        try:
            answer = self._http.request(method, path, params=given, json=body, timeout=timeout_s)
        except httpx.InvalidURL as error:
            raise FixConfiguration(f"{self.account.url}: {error}") from error
        except httpx.HTTPError as error:
            raise RetryLater(
                f"{self.account.url} does not answer: {error}",
                hint="is the console running? fieldloop up starts one; FIELDLOOP_URL says where",
            ) from error
        if answer.is_success:
            return answer.json()
        raise _problem(answer)

    def save(self, path: str, target: Path, **query: Any) -> int:
        """Write what stands at a path to a file; returns how many bytes."""
        try:
            with self._http.stream("GET", path, params=query) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _problem(answer)
                with target.open("wb") as file:
                    return sum(file.write(piece) for piece in answer.iter_bytes())
        except httpx.HTTPError as error:
            raise RetryLater(f"{self.account.url} does not answer: {error}") from error

    def pages(self, path: str, most: int, **query: Any) -> Iterator[Any]:
        """The items of a list, page after page, at most `most`."""
        after: str | None = None
        for _ in range(PAGES_MAX):
            limit = min(most, 500)
            page = self.get(path, limit=limit, after=after, **query)
            yield from page["items"][:most]
            most -= len(page["items"])
            after = page["next"]
            if after is None or most <= 0:
                return

    def fleet(self, given: str | None) -> str:
        """The fleet that is meant: the one given, the account's, or the only one there is.

        Raises:
            FixConfiguration: there are several, or none.
        """
        if given or self.account.fleet:
            return given or self.account.fleet
        known = self.get("/fleets")
        if len(known) == 1:
            return str(known[0])
        raise FixConfiguration(
            "which fleet?" if known else "no fleet was heard yet",
            hint=f"--fleet, one of {', '.join(known)}" if known else "connect a device first",
        )


def _problem(answer: httpx.Response) -> FieldloopError:
    try:
        problem = answer.json()
        words = str(problem["detail"])
        code, hint = str(problem["code"]), str(problem.get("hint", ""))
        words += "".join(f"\n  {fault}" for fault in problem.get("errors", ()))
    except (ValueError, KeyError, TypeError):
        words, code, hint = f"the console answered {answer.status_code}", "console.answer", ""
    if answer.status_code == 401:
        return FixConfiguration(words, code=code, hint="fieldloop login")
    if answer.status_code in (429, 503):
        return RetryLater(words, code=code, hint=hint)
    return Refused(words, code=code, hint=hint)
