"""Webhooks: signed as the specification says, to a real server, and what is refused."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator

import pytest

from fieldloop_contract.errors import FixConfiguration, RejectedInput, RetryLater
from fieldloop_runtime import webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
AT_S = 1_700_000_000


class Receiver(http.server.BaseHTTPRequestHandler):
    status = 204
    seen: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(type(self).status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("Kind", (Receiver,), {"seen": [], "status": 204})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", kind
    server.shutdown()
    server.server_close()


def post(url: str, body: bytes = b'{"a": 1}', secret: str = SECRET) -> None:
    webhook.post(url, body, secret=secret, message_id="m1", at_s=AT_S, timeout_s=5)


def test_a_receiver_can_check_what_it_gets(receiver: tuple[str, type[Receiver]]) -> None:
    url, kind = receiver
    post(url)
    headers, body = kind.seen[0]
    assert webhook.verify(SECRET, headers, body, AT_S + 10) == "m1"
    assert headers["content-type"] == "application/json"


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the specification's reference libraries.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = webhook.sign(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_was_changed_replayed_or_never_signed_is_refused() -> None:
    headers, body = webhook.sign(SECRET, "m1", AT_S, b"{}"), b"{}"
    assert webhook.verify(SECRET, headers, body, AT_S) == "m1"
    for wrong, at_s, code in (
        ((headers, b"{ }"), AT_S, "webhook.signature"),
        (({**headers, "webhook-id": "m2"}, body), AT_S, "webhook.signature"),
        ((headers, body), AT_S + 301, "webhook.old"),
        (({}, body), AT_S, "webhook.unsigned"),
        (({**headers, "webhook-timestamp": "soon"}, body), AT_S, "webhook.unsigned"),
    ):
        with pytest.raises(RejectedInput) as caught:
            webhook.verify(SECRET, *wrong, at_s)
        assert caught.value.code == code
    both = {**headers, "webhook-signature": "v1,AAAA " + headers["webhook-signature"]}
    assert webhook.verify(SECRET, both, body, AT_S) == "m1"  # a secret that is being rotated


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_is_tried_again(
    receiver: tuple[str, type[Receiver]], status: int
) -> None:
    url, kind = receiver
    kind.status = status
    with pytest.raises(RetryLater, match=str(status)):
        post(url)


@pytest.mark.parametrize("status", [404, 410, 301, 307])
def test_a_refusal_and_a_redirect_are_final(
    receiver: tuple[str, type[Receiver]], status: int
) -> None:
    url, kind = receiver
    kind.status = status
    with pytest.raises(RejectedInput, match=str(status)):
        post(url)
    assert len(kind.seen) == 1


def test_a_server_that_is_away_is_tried_again() -> None:
    with pytest.raises(RetryLater, match="cannot be reached"):
        post("http://127.0.0.1:9/hook")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://127.0.0.1/x",
        "hook",
        "https://",
        "https://a:b@example.com/",
    ],
)
def test_a_url_that_would_leak_is_refused(url: str) -> None:
    with pytest.raises(FixConfiguration):
        webhook.check_url(url)


@pytest.mark.parametrize("secret", ["", "short", "whsec_AAAA", "whsec_not base64 at all !!!!!!!!"])
def test_a_secret_that_keeps_nobody_out_is_refused(secret: str) -> None:
    with pytest.raises(FixConfiguration):
        webhook.secret_bytes(secret)
