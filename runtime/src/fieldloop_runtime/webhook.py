"""Webhooks: a JSON document posted to a person's URL, signed as Standard Webhooks says.

The headers are `webhook-id` (the same for each try of one message), `webhook-timestamp` (UNIX
seconds) and `webhook-signature`: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body` under the
shared secret (specification at standardwebhooks.com, version 1; libraries for receivers exist in
many languages). Plain HTTP is for loopback only, a redirect is not followed, an answer is not read
beyond `ANSWER_BYTES_MAX`.

Stateless; the caller owns retries and their bound. Blocks for up to `timeout_s`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.parse import urlsplit

from fieldloop_contract.errors import FixConfiguration, RejectedInput, RetryLater

SECRET_PREFIX = "whsec_"
SECRET_BYTES_MIN = 24
TOLERANCE_S = 300
ANSWER_BYTES_MAX = 4_096
_GONE = (400, 401, 403, 404, 405, 410, 413, 422)
"""Answers that will be the same next time."""


def check_url(url: str) -> str:
    """Return `url` if documents may be posted to it.

    Raises:
        FixConfiguration: not an absolute https URL (http is for loopback), or it holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise FixConfiguration(f"{url!r:.100} is no http(s) URL", code="webhook.url")
    if parts.password or parts.username:
        raise FixConfiguration("a webhook's URL holds no user or password", code="webhook.url")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise FixConfiguration(
            f"{parts.hostname} is reached without TLS",
            code="webhook.url",
            hint="use https; http is for this machine only",
        )
    return url


def secret_bytes(secret: str) -> bytes:
    """The key of a secret: base64 after `whsec_`, or the text's own bytes without that prefix.

    Raises:
        FixConfiguration: too short to keep anybody out, or no base64.
    """
    try:
        key = (
            base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
            if secret.startswith(SECRET_PREFIX)
            else secret.encode()
        )
    except ValueError as error:
        raise FixConfiguration("a webhook's secret is not base64", code="webhook.secret") from error
    if len(key) < SECRET_BYTES_MIN:
        raise FixConfiguration(
            f"a webhook's secret has {len(key)} bytes, at least {SECRET_BYTES_MIN} are needed",
            code="webhook.secret",
            hint="make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return key


def sign(secret: str, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a message."""
    signed = f"{message_id}.{at_s}.".encode() + body
    digest = hmac.new(secret_bytes(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, now_s: int) -> str:
    """Check a message that came in; returns its id, by which a receiver knows a repeat.

    Args:
        headers: with names in lower case.

    Raises:
        RejectedInput: unsigned, wrongly signed, or of another time than now.
    """
    try:
        message_id, at_s = headers["webhook-id"], int(headers["webhook-timestamp"])
        given = headers["webhook-signature"].split()
    except (KeyError, ValueError) as error:
        raise RejectedInput("a webhook without its headers", code="webhook.unsigned") from error
    if abs(now_s - at_s) > TOLERANCE_S:
        raise RejectedInput("a webhook of another time", code="webhook.old")
    wanted = sign(secret, message_id, at_s, body)["webhook-signature"].encode()
    if not any(hmac.compare_digest(wanted, one.encode()) for one in given):
        raise RejectedInput("a webhook with a wrong signature", code="webhook.signature")
    return message_id


def post(
    url: str,
    body: bytes,
    *,
    secret: str,
    message_id: str,
    at_s: int,
    content_type: str = "application/json",
    timeout_s: float = 10.0,
) -> None:
    """Post one document.

    Raises:
        RetryLater: no answer, or one that may be another next time.
        RejectedInput: the receiver will not have it.
        FixConfiguration: the URL or the secret cannot be used.
    """
    headers = {"content-type": content_type, "user-agent": "fieldloop"}
    headers |= sign(secret, message_id, at_s, body)
    request = urllib.request.Request(check_url(url), body, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirect())
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        words = f"the webhook answered {error.code}"
        error.close()
        if error.code in _GONE or 300 <= error.code < 400:
            raise RejectedInput(words, code="webhook.refused") from error
        raise RetryLater(words, code="webhook.away") from error
    except (OSError, HTTPException) as error:
        raise RetryLater(f"the webhook cannot be reached: {error}", code="webhook.away") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed document goes where it was sent, and nowhere else."""

    def redirect_request(self, *_request: object, **_more: object) -> None:
        """Follow none."""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
