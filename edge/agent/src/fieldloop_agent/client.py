"""The client of enrolment: HTTPS to one server, which the token or the stored trust names.

A device that knows nothing yet asks for the authority's certificates without believing the answer,
and takes the one whose sha256 stands in its token; from then on that one alone is believed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from fieldloop_contract.errors import FixConfiguration, RejectedInput, RetryLater, Untrusted

ANSWER_BYTES_MAX = 1 << 20
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


class Client:
    """Asks one server. `url`: `https://host[:port]`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
            raise FixConfiguration(
                f"{url!r} is not where one enrols", hint="ENROLMENT_URL is https://host:8443"
            )
        self._host, self._port = parts.hostname, parts.port or 8443
        self._timeout_s = timeout_s

    def pinned(self, token: str) -> str:
        """The certificate (PEM) of the authority that the token names.

        Raises:
            RejectedInput: no token.
            Untrusted: the server has no such authority.
            RetryLater: the server cannot be reached.
        """
        parts = token.strip().split(".")
        if len(parts) != 3 or not re.fullmatch(r"[0-9a-f]{64}", parts[1]):
            raise RejectedInput("this is no enrolment token", hint="copy it whole: fl1.….…")
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE  # nothing in this answer is believed but the digest
        for pem in _PEM.findall(self._ask("GET", "/v1/trust", None, blind)):
            der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii", "replace"))
            if hashlib.sha256(der).hexdigest() == parts[1]:
                return str(pem.decode("ascii"))
        raise Untrusted(
            "the server at the enrolment URL is not the one that made this token",
            code="enrolment.server",
            hint="check ENROLMENT_URL; if it is right, somebody is in between",
        )

    def post(self, path: str, document: dict[str, Any], trust: str) -> dict[str, Any]:
        """Send a request to a server that `trust` (PEM) vouches for; returns its answer.

        Raises:
            RetryLater: not reachable, not trusted yet (a wrong clock), or it says "later".
            RejectedInput: it says no, with its own code.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=trust)
        body = self._ask("POST", path, json.dumps(document).encode(), context)
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise RetryLater(f"{path}: no JSON came back") from error
        if not isinstance(answer, dict):
            raise RetryLater(f"{path}: no object came back")
        return answer

    def _ask(self, method: str, path: str, body: bytes | None, tls: ssl.SSLContext) -> bytes:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=tls
        )
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise RetryLater(
                f"https://{self._host}:{self._port}{path}: {error}", code="enrolment.unreachable"
            ) from error
        finally:
            connection.close()
        if len(data) > ANSWER_BYTES_MAX:
            raise RetryLater(f"{path}: more than {ANSWER_BYTES_MAX} bytes came back")
        if response.status == 200:
            return data
        code, message = _fault(data, response.status)
        if response.status in (400, 403, 413):
            raise Untrusted(message, code=code)
        raise RetryLater(message, code=code)


def _fault(data: bytes, status: int) -> tuple[str, str]:
    try:
        document = json.loads(data)
        return str(document["code"])[:80], str(document["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "enrolment.failed", f"status {status}"
