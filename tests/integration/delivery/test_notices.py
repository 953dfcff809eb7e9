"""The signed webhook against a real HTTP server that fails, is slow, redirects and comes back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery import notices
from fieldloop_delivery.notices import Webhook
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.settings import load
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import save_look
from fieldloop_store.steering import WEBHOOK, AuditRow, due_notices
from support.delivering import wait_for

SECRET = "a secret of the receiver"


class Receiver(ThreadingHTTPServer):
    """Answers as it is told, the last answer for ever; keeps what came."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.got: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?of=rollouts"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        answers = self.server.answers
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield opened
    opened.close()


def happen(store: Store, *types: str) -> None:
    rows = [AuditRow(0, "r" * 32, t, "anna", "why", {"wave": 1}, 10**18) for t in types]
    save_look(store, "acme", changed=[], assigned=[], signed=[], now_ns=1, audit=rows, due=WEBHOOK)


def run(store: Store, receiver: Receiver) -> Webhook:
    hook = Webhook(receiver.url, SECRET, store, "acme", Journal("test"), backoff_base_s=0.01)
    hook.start()
    return hook


def test_notices_come_in_order_signed_and_are_tried_again(store):
    receiver = Receiver(500, 429, 204)
    happen(store, "rollout.begun", "rollout.halted")
    hook = run(store, receiver)
    wait_for(lambda: not due_notices(store, "acme", WEBHOOK), 20, "all sent")
    hook.stop()
    receiver.shutdown()
    assert [json.loads(b)["type"] for _, b in receiver.got] == [
        "rollout.begun", "rollout.begun", "rollout.begun", "rollout.halted",
    ]  # fmt: skip
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        assert headers["webhook-id"] == json.loads(body)["id"]


def test_receiver_that_refuses_is_given_up_and_a_redirect_is_not_followed(store):
    receiver = Receiver(302, 404, 200)
    happen(store, "rollout.begun", "rollout.paused", "rollout.halted")
    hook = run(store, receiver)
    wait_for(lambda: not due_notices(store, "acme", WEBHOOK), 20, "all settled")
    hook.stop()
    receiver.shutdown()
    assert len(receiver.got) == 3


def test_nobody_there_keeps_it_due_until_somebody_is(store):
    receiver = Receiver(200)
    url = receiver.url
    receiver.shutdown()
    receiver.server_close()
    happen(store, "rollout.begun")
    hook = Webhook(url, SECRET, store, "acme", Journal("test"), backoff_base_s=60.0)
    hook.start()
    threading.Event().wait(0.5)
    hook.stop()
    assert [r.type for r in due_notices(store, "acme", WEBHOOK)] == ["rollout.begun"]


def test_queue_has_a_bound_and_the_oldest_go(store, monkeypatch):
    monkeypatch.setattr(notices, "QUEUE_MAX", 3)
    happen(store, *[f"rollout.number-{i}" for i in range(10)])
    receiver = Receiver(200)
    hook = run(store, receiver)
    wait_for(lambda: not due_notices(store, "acme", WEBHOOK), 20, "all settled")
    hook.stop()
    receiver.shutdown()
    assert [json.loads(b)["type"][-1] for _, b in receiver.got] == ["7", "8", "9"]


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/x",
        "http://10.0.0.8/x",
        "ftp://hooks.example.org",
        "https://",
        "https://user:word@hooks.example.org/",
        "hooks.example.org",
    ],
)
def test_unprotected_or_unclear_address_is_refused(url):
    with pytest.raises(FixConfiguration, match="webhook_url"):
        load(
            DeliverySettings,
            {
                "FIELDLOOP_FLEET": "acme",
                "FIELDLOOP_WEBHOOK_URL": url,
                "FIELDLOOP_WEBHOOK_SECRET": SECRET,
            },
        )


def test_short_secret_is_refused():
    with pytest.raises(FixConfiguration, match="at least 24"):
        load(
            DeliverySettings,
            {
                "FIELDLOOP_FLEET": "acme",
                "FIELDLOOP_WEBHOOK_URL": "https://hooks.example.org/x",
                "FIELDLOOP_WEBHOOK_SECRET": "short",
            },
        )
