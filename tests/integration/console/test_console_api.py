"""What the API answers: paging, filters, ETags, problems, signals, labels; and never a 5xx."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from fieldloop_store.alarms import Said, take
from fieldloop_store.ledger import books
from fieldloop_store.queries import annotations
from support.console import FLEET, PNG, ROLLOUT, RUN, SPAN_S, signal

BASE = f"/api/v1/fleets/{FLEET}"
S = 10**9


def test_lists_come_in_pages_that_lead_to_each_other(site: Any):
    viewer = site.client("viewer")
    seen, after = [], None
    for _ in range(10):
        query = {"limit": 1, **({"after": after} if after else {})}
        page = viewer.get(f"{BASE}/devices", params=query).json()
        seen += [item["device"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ["desk", "pump-1", "pump-2"]
    assert page["total"] == 3
    events = viewer.get(f"{BASE}/events", params={"limit": 1}).json()
    rest = viewer.get(f"{BASE}/events", params={"after": events["next"]}).json()["items"]
    assert {e["log"]["device"] for e in [*events["items"], *rest]} == {"pump-1", "pump-2"}


def test_lists_are_filtered_on_the_server(site: Any):
    viewer = site.client("viewer")
    found = viewer.get(f"{BASE}/devices", params={"text": "UMP-1"}).json()
    assert [d["device"] for d in found["items"]] == ["pump-1"]
    online = viewer.get(f"{BASE}/devices", params={"online": "true"}).json()
    assert [d["device"] for d in online["items"]] == ["pump-1", "pump-2"]
    query = {"type": "alarm.*", "device": "pump-1"}
    events = viewer.get(f"{BASE}/events", params=query).json()
    assert len(events["items"]) == 1
    assert viewer.get(f"{BASE}/events", params={"type": "alarm.x"}).json()["items"] == []


@pytest.mark.parametrize("after", ["x", "W10", "WzEsMl0", "~", "W251bGxd", "A" * 900])
def test_a_place_that_is_none_is_refused_with_what_to_do(site: Any, after: str):
    answer = site.client("viewer").get(f"{BASE}/devices", params={"after": after})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "page.after"
    assert answer.json()["hint"]


def test_what_has_not_changed_is_not_sent_again(site: Any):
    viewer = site.client("viewer")
    first = viewer.get(f"{BASE}/models")
    again = viewer.get(f"{BASE}/models", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    site.client("operator").patch(f"{BASE}/models/activity/1", json={"state": "recalled"})
    changed = viewer.get(f"{BASE}/models", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200


def test_a_signal_is_reduced_to_its_least_and_greatest_samples(site: Any):
    t0_ns = site.fleet.t0_ns
    query = {"t0_ns": t0_ns, "t1_ns": t0_ns + SPAN_S * S, "bins": 60}
    path = f"{BASE}/devices/pump-1/streams/imu/signal"
    found = site.client("viewer").get(path, params=query).json()
    raw = np.concatenate([f.array() for f in signal(t0_ns, seed=1)]).reshape(SPAN_S, -1, 3)
    assert found["exact"]
    assert np.allclose(np.array(found["low"], float), raw.min(1), atol=1e-6)
    assert np.allclose(np.array(found["high"], float), raw.max(1), atol=1e-6)
    outside = {"t0_ns": t0_ns + 10**15, "t1_ns": t0_ns + 2 * 10**15, "bins": 3}
    nothing = site.client("viewer").get(path, params=outside).json()
    assert nothing["frames"] <= 1
    assert nothing["exact"]


def test_labels_are_stored_under_the_name_of_whoever_gives_them(site: Any):
    operator = site.client("operator")
    t0_ns = site.fleet.t0_ns
    label = {"device": "pump-2", "stream": "imu", "t0_ns": t0_ns, "t1_ns": t0_ns + S}
    for text in ("a", "b"):
        body = {"labels": [{**label, "label": text}]}
        assert operator.post(f"{BASE}/labels", json=body).json()["stored"] == 1
    key = {"Idempotency-Key": "once"}
    body = {"labels": [{**label, "label": "c"}, {**label, "label": "d", "t1_ns": t0_ns}]}
    first = operator.post(f"{BASE}/labels", json=body, headers=key).json()
    second = operator.post(f"{BASE}/labels", json=body, headers=key).json()
    assert (first["stored"], second["stored"], second["again"]) == (1, 0, 1)
    assert first["refused"][0][0] == 2
    rows = list(annotations(site.store, FLEET, device="pump-2"))
    assert sorted(r.label for r in rows) == ["a", "b", "c"]
    assert {r.annotator for r in rows} == {"operator"}
    assert all(b.balanced for b in books(site.store, fleet=FLEET, device="console"))


def test_a_pipeline_waits_for_the_end_of_a_run(site: Any):
    viewer = site.client("viewer")
    begun_s = time.monotonic()
    answer = viewer.get(f"{BASE}/runs/{RUN}", params={"wait_s": 30})
    assert answer.json()["state"] == "approved"
    assert time.monotonic() - begun_s < 20, "a run that has ended is told at once"


def test_every_sample_of_a_span_can_be_had_as_csv(site: Any):
    t0_ns = site.fleet.t0_ns
    query = {"t0_ns": t0_ns, "t1_ns": t0_ns + 3 * S}
    path = f"{BASE}/devices/pump-1/streams/imu/samples.csv"
    lines = site.client("viewer").get(path, params=query).text.splitlines()
    assert lines[0] == 't_ns,"ax","ay","az"'
    assert len(lines) == 1 + 3 * 50
    raw = np.concatenate([f.array() for f in signal(t0_ns, seed=1)])[:150]
    given = np.array([line.split(",")[1:] for line in lines[1:]], np.float32)
    assert np.array_equal(given, raw)


def test_a_long_span_is_sketched_at_once_and_exact_soon_after(site: Any, monkeypatch: Any):
    monkeypatch.setattr("fieldloop_console.waveform.FRAMES_AT_ONCE", 10)
    t0_ns = site.fleet.t0_ns
    query = {"t0_ns": t0_ns, "t1_ns": t0_ns + SPAN_S * S, "bins": 60}
    path = f"{BASE}/devices/pump-1/streams/imu/signal"
    viewer = site.client("viewer")
    first = viewer.get(path, params=query).json()
    assert not first["exact"]
    deadline = time.monotonic() + 20
    while (found := viewer.get(path, params=query).json())["coming"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found["exact"]
    assert found["frames"] == SPAN_S


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "commissioning.whom"),
        ({"machine": "press", "cohort": "presses"}, "commissioning.whom"),
        ({"cohort": "presses"}, "machine.cohort"),
        ({"machine": "nobody"}, "machine.unassigned"),
    ],
)
def test_a_commissioning_of_nobody_is_refused(site: Any, body: dict[str, str], code: str):
    answer = site.client("operator").post(f"{BASE}/commissionings", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_commissioning_that_is_not_ready_is_not_armed(site: Any):
    operator = site.client("operator")
    (begun,) = operator.post(f"{BASE}/commissionings", json={"machine": "press"}).json()
    path = f"{BASE}/commissionings/{begun['id']}"
    answer = operator.post(path, json={"kind": "arm"})
    assert (answer.status_code, answer.json()["code"]) == (409, "commissioning.state")
    assert operator.post(path, json={"kind": "end"}).json()["state"] == "ended"
    listed = site.client("viewer").get(f"{BASE}/commissionings", params={"under_way": True})
    assert begun["id"] not in [row["id"] for row in listed.json()]
    armed = site.client("viewer").get(f"{BASE}/calibrations").json()
    assert begun["slot"] not in [row["slot"] for row in armed]


def test_bodies_have_a_bound(site: Any):
    answer = site.client("operator").post(f"{BASE}/labels", content=b"x" * (5 << 20))
    assert answer.status_code == 413


def test_two_people_label_at_the_same_time_and_nothing_is_lost(site: Any):
    t0_ns = site.fleet.t0_ns
    label = {"device": "pump-1", "stream": "imu", "t0_ns": t0_ns, "t1_ns": t0_ns + S}

    def work(name: str) -> None:
        client = site.client("operator")
        for i in range(10):
            body = {"labels": [{**label, "label": f"{name}-{i}"}]}
            assert client.post(f"{BASE}/labels", json=body).json()["stored"] == 1

    people = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    said = {r.label for r in annotations(site.store, FLEET, device="pump-1")}
    assert {f"{n}-{i}" for n in ("one", "two") for i in range(10)} <= said


def test_nothing_that_fits_the_description_or_does_not_makes_a_5xx(site: Any):
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", site.app)
    headers = {"Authorization": f"Bearer {site.tokens['admin']}"}
    seen = 0

    def check(case: Any) -> None:
        nonlocal seen
        if case.operation.label in ("DELETE /api/v1/session", "POST /api/v1/session"):
            return
        if "wait_s" in (case.query or {}):
            case.query["wait_s"] = 0
        answer = case.call(headers=headers)
        seen += 1
        assert answer.status_code < 500, f"{case.operation.label} {case.as_curl_command()}"

    bounded = settings(
        max_examples=60 if os.environ.get("LONG_TESTS") else 4,
        deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            run_with(strategy, bounded, check)
    assert seen > 150


def run_with(strategy: Any, bounded: Any, check: Any) -> None:
    """Run a check on what a strategy gives, where it gives anything."""
    from hypothesis import given  # noqa: PLC0415
    from hypothesis.errors import Unsatisfiable  # noqa: PLC0415

    @bounded
    @given(case=strategy)
    def each(case: Any) -> None:
        check(case)

    try:
        each()
    except Unsatisfiable:
        return


def test_a_training_is_started_and_cancelled_from_outside(site: Any):
    operator = site.client("operator")
    body = {"model": "activity", "recipe": "activity_cnn", "settings": {"epochs": 3}}
    run = operator.post(f"{BASE}/runs", json=body).json()["run"]
    row = operator.get(f"{BASE}/runs/{run}").json()
    assert (row["state"], row["trigger"]["kind"], row["trigger"]["by"]) == (
        "queued", "hand", "operator",
    )  # fmt: skip
    assert operator.delete(f"{BASE}/runs/{run}").status_code == 200
    assert operator.get(f"{BASE}/runs/{run}", params={"wait_s": 5}).json()["state"] == "cancelled"
    assert operator.delete(f"{BASE}/runs/{run}").status_code == 409


def test_an_alarm_is_judged_and_its_verdict_is_a_label(site: Any):
    t_ns = site.fleet.t0_ns + 10 * S
    said = Said("pump-1", "main", "imu", True, t_ns, {})
    take(site.store, FLEET, [said], now_ns=t_ns)
    operator = site.client("operator")
    found = operator.get(f"{BASE}/alarms", params={"open": "true"}).json()["items"]
    told = [(a["device"], a["slot"], a["machine"]) for a in found]
    assert told == [("pump-1", "main", "press"), ("pump-1", "wear", "press")], "newest first"
    path = f"{BASE}/alarms/{found[0]['id']}"
    assert operator.post(path, json={"kind": "acknowledge"}).status_code == 200
    judged = operator.post(path, json={"kind": "judge", "verdict": "fault"}).json()
    assert (judged["life"]["verdict"], judged["life"]["verdict_by"]) == ("fault", "operator")
    said_now = {r.label for r in annotations(site.store, FLEET, device="pump-1")}
    assert "fault" in said_now
    assert len(operator.get(path).json()["history"]) >= 3


def test_a_rollout_is_steered_by_requests_that_delivery_answers(site: Any):
    operator = site.client("operator")
    path = f"{BASE}/rollouts/{ROLLOUT}/requests"
    asked = operator.post(path, json={"kind": "pause", "why": "line 3"}).json()["request"]
    found = operator.get(f"{BASE}/requests/{asked}").json()
    assert (found["kind"], found["actor"], found["state"]) == ("pause", "operator", "waiting")
    assert operator.post(path, json={"kind": "delete"}).status_code == 422
    body = {"model": "nothing", "version": 1}
    assert operator.post(f"{BASE}/rollouts", json=body).status_code == 404


def test_a_training_whose_settings_do_not_fit_the_recipe_is_refused(site: Any):
    operator = site.client("operator")
    known = {r["name"]: r for r in operator.get("/api/v1/recipes").json()}
    assert known["activity_cnn"]["schema"]["properties"]["epochs"]["maximum"] == 500
    body = {"model": "activity", "recipe": "activity_cnn", "settings": {"epochs": 501, "x": 1}}
    answer = operator.post(f"{BASE}/runs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "recipe.settings")
    assert "Epochs (epochs): 501 is greater than the maximum of 500" in answer.json()["detail"]
    assert "'x' was unexpected" in answer.json()["detail"]
    assert len(operator.get(f"{BASE}/runs").json()) == 2, "nothing was enqueued"


def test_what_training_asks_is_answered_once_and_starts_the_proposed_run(site: Any):
    operator = site.client("operator")
    asked = operator.get(f"{BASE}/questions", params={"open": "true"}).json()
    assert [q["id"] for q in asked] == [site.fleet.question]
    path = f"{BASE}/questions/{site.fleet.question}"
    foreign = f"/api/v1/fleets/other/questions/{site.fleet.question}"
    assert operator.post(foreign, json={"train": True}).status_code == 404
    run = operator.post(path, json={"train": True, "what": "sensor", "note": "new"}).json()["run"]
    row = operator.get(f"{BASE}/runs/{run}").json()
    assert (row["state"], row["settings"], row["trigger"]["by"]) == (
        "queued", {"epochs": 3}, "operator",
    )  # fmt: skip
    again = operator.post(path, json={"train": False})
    assert (again.status_code, again.json()["code"]) == (409, "questions.closed")
    closed = operator.get(f"{BASE}/questions").json()[0]
    assert (closed["state"], closed["answer"]["what"]) == ("accepted", "sensor")


def test_the_files_of_a_run_are_shown_or_saved_and_nothing_else_is(site: Any):
    viewer = site.client("viewer")
    names = [f["name"] for f in viewer.get(f"{BASE}/runs/{RUN}/files").json()]
    assert names == ["card.md", "roc.png"]
    shown = viewer.get(f"{BASE}/runs/{RUN}/files/roc.png")
    assert (shown.headers["content-type"], shown.content) == ("image/png", PNG)
    saved = viewer.get(f"{BASE}/runs/{RUN}/files/card.md")
    assert saved.headers["content-type"] == "application/octet-stream"
    assert saved.headers["content-disposition"].startswith("attachment")
    for path in (f"runs/{RUN}/files/..%2froc.png", f"runs/{'a' * 32}/files/roc.png",
                 f"runs/{RUN}/files/.roc", "runs/recipes/files/activity_cnn"):  # fmt: skip
        assert viewer.get(f"{BASE}/{path}").status_code in (404, 422), path
    other = f"/api/v1/fleets/other/runs/{RUN}/files/roc.png"
    assert viewer.get(other).status_code == 404


def test_events_of_several_types_come_together_the_newest_first_and_in_pages(site: Any):
    for kind in ("drift.detected", "model.activated", "alarm.raised", "drift.detected"):
        site.fleet.event("pump-2", kind, {"slot": "main"})
    viewer = site.client("viewer")
    wanted = {"type": ["drift.detected", "alarm.raised", "drift.detected"], "limit": 2}
    first = viewer.get(f"{BASE}/events", params=wanted).json()
    assert [e["type"] for e in first["items"]] == ["drift.detected", "alarm.raised"]
    rest = viewer.get(f"{BASE}/events", params={**wanted, "after": first["next"], "limit": 9})
    kinds = [e["type"] for e in rest.json()["items"]]
    assert kinds == ["drift.detected", "alarm.raised", "alarm.raised"]
    one = viewer.get(f"{BASE}/events", params={"type": "drift.*", "device": "pump-2"}).json()
    assert [e["type"] for e in one["items"]] == ["drift.detected", "drift.detected"]
    assert (
        viewer.get(f"{BASE}/events", params={"type": "drift.*", "device": "pump-1"}).json()["items"]
        == []
    )
