"""Webhooks: what happened is told once and signed; a signed message starts a training once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fieldloop_console import telling
from fieldloop_runtime import webhook
from fieldloop_store import webhooks
from support.console import FLEET

S = 10**9
BASE = f"/api/v1/fleets/{FLEET}/webhooks"


class Receiver:
    """A real HTTP server that takes webhooks, or answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.taken: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.taken.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def add(site: Any, receiver: Receiver, events: list[str]) -> tuple[str, str]:
    body = {"direction": "out", "name": "pager", "url": receiver.url, "events": events}
    made = site.client("admin").post(BASE, json=body).json()
    return made["hook"]["id"], made["secret"]


def later(site: Any, seconds: float = 5) -> int:
    return int(site.console.now_ns() + seconds * S)


def test_an_event_is_told_once_and_signed_and_the_past_is_not(site: Any, receiver: Receiver):
    _, secret = add(site, receiver, ["alarm.*"])
    assert telling.queue_news(site.store, later(site, 0)) == 0, "what came before the hook"
    site.fleet.event("pump-1", "alarm.raised", {"slot": "main"})
    site.fleet.event("pump-1", "model.activated", {"slot": "main"})
    assert telling.queue_news(site.store, later(site, 10)) == 1
    assert telling.queue_news(site.store, later(site, 20)) == 0
    now_ns = later(site, 20)
    assert telling.send_due(site.store, now_ns) == 1
    assert telling.send_due(site.store, now_ns) == 0
    headers, body = receiver.taken[0]
    webhook.verify(secret, headers, body, now_ns // S)
    told = json.loads(body)
    assert (told["type"], told["data"]["device"]) == ("alarm.raised", "pump-1")


def test_a_receiver_that_is_down_gets_it_later_and_one_that_refuses_is_given_up(
    site: Any, receiver: Receiver
):
    hook, _ = add(site, receiver, ["alarm.raised"])
    telling.queue_news(site.store, later(site, 0))
    site.fleet.event("pump-1", "alarm.raised", {})
    telling.queue_news(site.store, later(site, 10))
    receiver.status = 503
    assert telling.send_due(site.store, later(site, 10)) == 0
    assert telling.send_due(site.store, later(site, 11)) == 0, "it waits before it tries again"
    assert len(receiver.taken) == 1
    receiver.status = 200
    assert telling.send_due(site.store, later(site, 30)) == 1
    ids = {headers["webhook-id"] for headers, _ in receiver.taken}
    assert len(ids) == 1, "a repeat has the id of the first try"
    receiver.status = 410
    site.fleet.event("pump-1", "alarm.raised", {})
    telling.queue_news(site.store, later(site, 40))
    telling.send_due(site.store, later(site, 40))
    rows = site.client("admin").get(f"{BASE}/{hook}/deliveries").json()
    assert [r["state"] for r in rows] == ["given-up", "delivered"]
    assert "410" in rows[0]["answer"]


@pytest.mark.parametrize(
    "url", ["", "ftp://a/b", "http://example.test/x", "https://u:p@a.test/", "https://", "x" * 3000]
)
def test_an_address_that_must_not_be_posted_to_is_refused(site: Any, url: str):
    body = {"direction": "out", "name": "x", "url": url}
    answer = site.client("admin").post(BASE, json=body)
    assert answer.status_code == 422
    assert webhooks.list_hooks(site.store) == []


def test_a_hook_is_deleted_with_what_was_on_its_way(site: Any, receiver: Receiver):
    hook, secret = add(site, receiver, [])
    telling.queue_news(site.store, later(site, 0))
    site.fleet.event("pump-1", "alarm.raised", {})
    telling.queue_news(site.store, later(site, 10))
    assert site.client("admin").delete(f"{BASE}/{hook}").status_code == 200
    assert telling.send_due(site.store, later(site, 60)) == 0
    assert receiver.taken == []
    listed = site.client("admin").get(BASE).text
    assert secret not in listed


def test_a_pipeline_starts_a_training_by_a_signed_message_once(site: Any):
    body = {"direction": "in", "name": "ci"}
    made = site.client("admin").post(BASE, json=body).json()
    path, secret = f"/api/v1/hooks/{made['hook']['id']}", made["secret"]
    wanted = json.dumps({"model": "activity", "recipe": "activity_cnn"}).encode()
    now_s = site.console.now_ns() // S
    signed = webhook.sign(secret, "msg-1", now_s, wanted)
    first = site.client().post(path, content=wanted, headers=signed)
    again = site.client().post(path, content=wanted, headers=signed)
    assert first.status_code == 202, first.text
    assert again.json() == first.json()
    run = site.client("viewer").get(f"/api/v1/fleets/{FLEET}/runs/{first.json()['run']}").json()
    assert (run["state"], run["trigger"]["by"]) == ("queued", "webhook ci")
    old = webhook.sign(secret, "msg-2", now_s - 4_000, wanted)
    other = webhook.sign("x" * 32, "msg-3", now_s, wanted)
    for headers in ({}, old, other, {**signed, "webhook-id": "msg-4"}):
        assert site.client().post(path, content=wanted, headers=headers).status_code == 401
    odd = webhook.sign(secret, "msg-5", now_s, b"{}")
    assert site.client().post(path, content=b"{}", headers=odd).status_code == 422
