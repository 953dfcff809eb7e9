"""People steer rollouts by commands of a real delivery: clear answers, no harm, a trail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.topics import notice_topic
from fieldloop_store.rollouts import list_rollout_devices
from fieldloop_store.steering import ask, audit_trail, find_request, list_requests
from support.broker import Mosquitto
from support.delivering import DeliveryProcess, Onlooker, wait_for
from support.signed import FLEET

NAMES = ("pump-1", "pump-2", "pump-3")
MANUAL = {
    "model": "activity", "streams": {"imu": "imu"}, "start": "manual",
    "waves": [{"count": 1}, {"all": True, "approval": True}],
    "gates": {"windows_min": 5, "quorum": 1.0},
}  # fmt: skip


@pytest.fixture
def delivery(tmp_path: Path) -> Iterator[DeliveryProcess]:
    broker = Mosquitto(tmp_path / "broker").start()
    made = DeliveryProcess(tmp_path / "delivery", broker.port, slots=[MANUAL])
    yield made
    made.close()
    broker.kill()


def good(delivery: DeliveryProcess, version_of: dict[str, object], name: str) -> None:
    delivery.online(name, active=version_of[name], state="ACTIVE")
    delivery.windows(name, version_of[name], 10)


def ordered(delivery: DeliveryProcess, known: tuple[str, ...] = ()) -> str:
    """The first device with an order that is not in `known`."""
    return wait_for(
        lambda: next((n for n in NAMES if n not in known and delivery.order_version(n)), None),
        what="an order",
    )


def test_one_rollout_steered_from_start_to_end(delivery):
    eye = Onlooker(delivery.port, notice_topic(FLEET, "delivery"))
    one = delivery.register(1)
    for name in NAMES:
        delivery.online(name)
    delivery.start()
    time.sleep(1.0)
    assert delivery.rollout(1) is None, "nothing begins by itself where a person starts"
    code, said = delivery.command("start", "activity", "1", "--by", "anna", "--why", "trial")
    assert (code, "is queued" in said) == (0, True), said
    row = delivery.wait_rollout(1, "running")
    code, said = delivery.command("start", "activity", "1")
    assert code == 1
    assert "on its way already" in said
    first = ordered(delivery)
    code, said = delivery.command("pause", row.id[:8], "--by", "anna", "--why", "inventory")
    assert (code, "paused by anna: inventory" in said) == (0, True), said
    code, said = delivery.command("pause", row.id[:8])
    assert (code, "it touches nobody until resumed" in said) == (1, True), said
    delivery.online(first, active=one, state="ACTIVE")
    delivery.windows(first, one, 10)
    time.sleep(1.0)
    assert delivery.rollout(1).state == "paused", "it went on in pause"
    assert delivery.command("resume", row.id[:8], "--by", "anna")[0] == 0
    delivery.wait_rollout(1, "awaiting")
    assert [n for n in NAMES if delivery.order_version(n)] == [first]
    assert delivery.command("approve", row.id[:8], "--by", "boss")[0] == 0
    for name in set(NAMES) - {first}:
        wait_for(lambda n=name: delivery.order_version(n), what=name)
        delivery.online(name, active=one, state="ACTIVE")
        delivery.windows(name, one, 10)
    delivery.wait_rollout(1, "completed")
    code, said = delivery.command("abort", row.id[:8])
    assert (code, "there is nothing to abort" in said) == (1, True), said
    trail = [(a.type, a.actor) for a in audit_trail(delivery.store, FLEET, rollout=row.id)]
    assert [t for t in trail if t[1] != "delivery"] == [
        ("rollout.queued", "anna"),
        ("rollout.paused", "anna"),
        ("rollout.resumed", "anna"),
        ("rollout.approved", "boss"),
    ]
    done = next(
        a for a in audit_trail(delivery.store, FLEET, rollout=row.id)
        if a.type == "rollout.completed"
    )  # fmt: skip
    assert done.detail["figures"]["installed"] == 3
    assert {f["gate"] for f in done.detail["findings"]} >= {"installed", "accuracy"}
    members = list_rollout_devices(delivery.store, FLEET, row.id)
    assert {m.device: m.wave for m in members if m.role == "treated"} == {
        n: 0 if n == first else 1 for n in NAMES
    }
    code, said = delivery.command("status", row.id[:8])
    assert code == 0
    assert "wave 2: 2 of 3 devices" in said
    assert "rollout.approved by boss" in said
    assert [delivery.order_version(n) for n in NAMES] == [1, 1, 1]
    heard = wait_for(lambda: _last_notice(eye, "rollout.completed"), what="the notice")
    assert heard["data"]["rollout"] == row.id
    eye.close()


def _last_notice(eye: Onlooker, type_: str) -> dict[str, object] | None:
    payload = eye.look(0.2).get(notice_topic(FLEET, "delivery"))
    document = json.loads(payload) if payload else {}
    return document if document.get("type") == type_ else None


def test_abort_returns_all_once_and_retry_lifts_the_blacklist(delivery):
    one, two = delivery.register(1), delivery.register(2)
    for name in NAMES:
        delivery.online(name, active=one, state="ACTIVE")
    delivery.start()
    ids = {}
    for version, ref in ((1, one), (2, two)):
        assert delivery.command("start", "activity", str(version))[0] == 0
        row = delivery.wait_rollout(version, "running")
        ids[version] = row.id
        if version == 1:
            first = ordered(delivery)
            good(delivery, dict.fromkeys(NAMES, ref), first)
            delivery.wait_rollout(1, "awaiting")
            assert delivery.command("approve", row.id)[0] == 0
            for name in NAMES:
                good(delivery, dict.fromkeys(NAMES, ref), name)
            delivery.wait_rollout(1, "completed")
    first = wait_for(
        lambda: next((n for n in NAMES if delivery.order_version(n) == 2), None), what="wave 1"
    )
    code, said = delivery.command("abort", ids[2], "--by", "anna", "--why", "wrong dataset")
    assert (code, "aborted by anna: wrong dataset" in said) == (0, True), said
    wait_for(lambda: delivery.order_version(first) == 3, what="the order back")
    code, said = delivery.command("abort", ids[2])
    assert (code, "is aborted" in said and "`retry`" in said) == (1, True), said
    time.sleep(0.6)
    assert [delivery.order_version(n) for n in NAMES if n != first] == [1, 1]
    assert delivery.order_version(first) == 3, "the second abort sent something"
    code, said = delivery.command("retry", ids[1])
    assert (code, "only a halted or aborted one is retried" in said) == (1, True), said
    code, said = delivery.command("retry", ids[2], "--why", "dataset was right")
    assert (code, "is queued" in said) == (0, True), said
    again = wait_for(
        lambda: next(
            (n for n in NAMES if two.digest.encode() in lifted(delivery, n)), None
        ),
        what="an order that lifts",
    )  # fmt: skip
    assert again in NAMES
    code, said = delivery.command("retry", ids[2])
    assert (code, "it is being tried again" in said) == (1, True), said


def lifted(delivery: DeliveryProcess, device: str) -> bytes:
    """What the device's order lifts."""
    from fieldloop_store.rollouts import find_document  # noqa: PLC0415

    row = find_document(delivery.store, FLEET, device)
    if row is None:
        return b""
    slots = json.loads(row.payload)["signed"]["fieldloop"]["slots"]
    return json.dumps([s.get("lift", []) for s in slots.values()]).encode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("start", "activity", "9"), 1, "activity has no version 9; there are: 1"),
        (("start", "vibration", "1"), 1, "no slot of the policy is for vibration"),
        (("start", "activity", "1"), 1, "there is nobody to give it to"),
        (("abort", "beef"), 78, "no rollout of fleet"),
    ],
)
def test_what_cannot_be_is_refused_in_words(delivery, arguments, status, said):
    delivery.register(1)
    delivery.start()
    code, out = delivery.command(*arguments)
    assert said in out
    assert code == status
    assert delivery.rollout(1) is None


def test_second_version_queues_behind_the_first(delivery):
    delivery.register(1)
    delivery.register(2)
    delivery.online("pump-1")
    delivery.start()
    assert delivery.command("start", "activity", "1")[0] == 0
    running = delivery.wait_rollout(1, "running")
    code, said = delivery.command("delete", running.id)
    assert code != 0
    assert "a rollout is not deleted" in said
    code, said = delivery.command("start", "activity", "2")
    assert (code, f"behind rollout {running.id}" in said) == (0, True), said
    queued = delivery.wait_rollout(2, "queued")
    assert delivery.command("abort", queued.id)[0] == 0
    assert delivery.rollout(2).state == "aborted"
    assert delivery.rollout(1).state == "running"


def test_request_without_delivery_waits_and_is_obeyed_once(delivery):
    delivery.register(1)
    delivery.online("pump-1")
    code, said = delivery.command("start", "activity", "1", "--wait-s", "0.2")
    assert (code, "is delivery running?" in said) == (2, True), said
    for _ in range(2):  # the same request twice is one
        ask(
            delivery.store, FLEET, "start", by="anna", now_ns=time.time_ns(), model="activity",
            version=1, request_id="of-the-console-1",
        )  # fmt: skip
    delivery.start()
    delivery.wait_rollout(1, "running")
    second = wait_for(
        lambda: (r := find_request(delivery.store, "of-the-console-1")) and r.answer and r
    )
    assert second.state == "refused"
    assert "on its way already" in second.answer
    assert len(list_requests(delivery.store, FLEET)) == 2


def test_rollouts_are_not_deleted(delivery):
    with pytest.raises(RejectedInput, match="not deleted") as caught:
        ask(delivery.store, FLEET, "delete", by="anna", now_ns=1, rollout="x")
    assert "abort it" in (caught.value.hint or "")
    with pytest.raises(RejectedInput, match="names a rollout"):
        ask(delivery.store, FLEET, "pause", by="anna", now_ns=1)
    with pytest.raises(RejectedInput, match="nothing is called"):
        ask(delivery.store, FLEET, "explode", by="anna", now_ns=1, rollout="x")
