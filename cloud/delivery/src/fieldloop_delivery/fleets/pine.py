"""One HTTP exchange with balena's API, bounded: the only place where bytes go to it and come back.

balena-sdk makes the requests (queries, bodies, which comes after which); it sends them through
`BoundedPine`, because its own client has no time-out, follows redirects with the token, drops the
header Retry-After, and prints faults to stdout. Here every exchange has a time and a size limit, a
pause that the API asks for is kept to the second, and requests are paced below a stated rate.

Owner thread only.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from balena.pine import PineClient
from balena.settings import Settings as SdkSettings

from fieldloop_contract.errors import FixConfiguration

ANSWER_BYTES_MAX: Final = 64 << 20
CHUNK_BYTES: Final = 64 * 1024
PAUSE_S_MAX: Final = 3_600.0
ATTEMPTS_MAX: Final = 5
BACKOFF_S: Final = 0.5
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
AWAY: Final = 599
"""Status of an exchange that brought no answer at all."""


class Unanswered(Exception):
    """An exchange that did not bring what was asked for.

    Attributes:
        status_code: of HTTP; `AWAY` where there was no answer.
        message: what the API said (balena-sdk reads both names in its upsert).
        retry_after_s: how long it asked not to be asked; 0 where it did not say.
    """

    def __init__(self, status_code: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{message} ({status_code})")
        self.status_code = status_code
        self.message = message
        self.retry_after_s = retry_after_s


class _Bearer(requests.auth.AuthBase):  # type: ignore[misc]
    """The token as a header; given as `auth`, so that a .netrc cannot put another in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Exchange:
    """Sends requests, one after the other.

    Args:
        token: an API key.
        timeout_s: for connecting, between two parts of an answer, and three times that in all.
        per_minute: requests that are sent at most in any minute.
        patience_s: how long one call may sleep before it is sent again; 0 raises at once instead.
    """

    def __init__(
        self,
        token: str,
        *,
        timeout_s: float = 30.0,
        per_minute: int = 240,
        patience_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.requests = 0
        self._timeout_s = timeout_s
        self._per_minute = per_minute
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._sent: list[float] = []
        self._closed_until = float("-inf")
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.headers["X-Balena-Client"] = "fieldloop"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __call__(self, method: str, url: str, body: Any = None) -> Any:
        """One exchange. Raises Unanswered."""
        waited_s = 0.0
        for attempt in range(ATTEMPTS_MAX):
            try:
                self._pace()
                return self._exchange(method, url, body)
            except Unanswered as error:
                if error.status_code < 500 and error.status_code != 429:
                    raise
                pause_s = error.retry_after_s or BACKOFF_S * 2**attempt
                waited_s += pause_s
                if attempt + 1 == ATTEMPTS_MAX or waited_s > self._patience_s:
                    raise
                self._sleep(pause_s)
        raise AssertionError("unreachable")

    def _pace(self) -> None:
        """Keep the pause that was asked for, and our own rate."""
        now_s = self._clock()
        if now_s < self._closed_until:
            left_s = self._closed_until - now_s
            raise Unanswered(429, f"balena asked for a pause, {left_s:.0f} s of it left", left_s)
        self._sent = [t for t in self._sent if now_s - t < 60]
        if len(self._sent) >= self._per_minute:
            left_s = 60 - (now_s - self._sent[0])
            raise Unanswered(429, f"{self._per_minute} requests in a minute were sent", left_s)
        self._sent.append(now_s)

    def _exchange(self, method: str, url: str, body: Any) -> Any:
        self.requests += 1
        began_s = self._clock()
        try:
            with self._session.request(
                method,
                url,
                json=body,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
            ) as answer:
                payload = self._read(answer, began_s)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Unanswered(AWAY, _in_words(error)) from error
        if 200 <= answer.status_code < 300:
            return _parse(payload)
        text = payload[:500].decode(errors="replace").strip().strip('"') or answer.reason or ""
        pause_s = 0.0
        if answer.status_code in (429, 503):
            pause_s = retry_after(answer.headers.get("Retry-After", ""), time.time())
            self._closed_until = self._clock() + pause_s
        raise Unanswered(answer.status_code, text, pause_s)

    def _read(self, answer: requests.Response, began_s: float) -> bytes:
        parts, size = [], 0
        while part := answer.raw.read1(CHUNK_BYTES, decode_content=True):  # whatever has come
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise Unanswered(AWAY, f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            if self._clock() - began_s > 3 * self._timeout_s:
                raise Unanswered(AWAY, f"an answer not complete after {3 * self._timeout_s:.0f} s")
            parts.append(part)
        return b"".join(parts)


def retry_after(value: str, now_s: float) -> float:
    """Seconds of a Retry-After header (RFC 9110: seconds, or a date); at most `PAUSE_S_MAX`."""
    value = value.strip()
    if value.isdigit():
        return min(float(value), PAUSE_S_MAX)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(0.0, moment.timestamp() - now_s), PAUSE_S_MAX)


def _parse(payload: bytes) -> Any:
    if not payload:
        return ""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload[:500].decode(errors="replace")


def _in_words(error: Exception) -> str:
    """What went wrong, without a URL."""
    kinds = {
        requests.exceptions.SSLError: "its certificate cannot be trusted",
        requests.exceptions.ProxyError: "the proxy refused",
        requests.ConnectTimeout: "no connection in time",
        requests.ReadTimeout: "no answer in time",
        urllib3.exceptions.ReadTimeoutError: "no answer in time",
        requests.ConnectionError: "no connection",
    }
    return next((text for kind, text in kinds.items() if isinstance(error, kind)), "garbled answer")


class BoundedPine(PineClient):  # type: ignore[misc]
    """balena-sdk's query client on an `Exchange`."""

    def __init__(self, api_url: str, version: str, exchange: Exchange) -> None:
        self.settings = SdkSettings({"data_directory": False})
        self.settings.set("api_endpoint", check_url(api_url))
        self._exchange = exchange
        super().__init__(self.settings, version)

    def _request(self, method: str, url: str, body: Any = None) -> Any:
        answer = self._exchange(method, url, body)
        if method == "GET" and not (isinstance(answer, dict) and isinstance(answer.get("d"), list)):
            raise Unanswered(AWAY, "an answer that is not the API's")  # a portal's page, say
        return answer


def check_url(url: str) -> str:
    """The API's URL, ending in a slash. Raises FixConfiguration: not HTTPS, or no URL at all."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FixConfiguration(
            f"{url!r:.100} is no URL of an API",
            code="balena.url",
            hint="such as https://api.balena-cloud.com/",
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise FixConfiguration(
            f"{url} would carry the token in clear", code="balena.url", hint="use https"
        )
    return url if url.endswith("/") else url + "/"
