"""Who may do what: each role against each route, sessions, CSRF, links, tokens, throttling."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.routing import APIRoute

from fieldloop_store import access
from fieldloop_store.access import ROLES
from fieldloop_store.trail import trail
from support.browser import PASSWORD
from support.console import FLEET

ANYBODY = {("POST", "/api/v1/session"), ("POST", "/api/v1/hooks/{hook}")}
ADMINS_ONLY = re.compile(r"/users|/audit|/webhooks")
ADMIN_ACTS = {("DELETE", "/api/v1/fleets/{fleet}/devices/{device}")}
OWN = re.compile(r"^/api/v1/(session|tokens)")


def least_role(method: str, path: str) -> str | None:
    """What the README says: see all as a viewer, act as an operator, administrate as an admin."""
    if (method, path) in ANYBODY:
        return None
    if ADMINS_ONLY.search(path) or (method, path) in ADMIN_ACTS:
        return "admin"
    return "viewer" if method == "GET" or OWN.match(path) else "operator"


def routes(app: Any) -> list[tuple[str, str]]:
    """Every route of the API, by method and path, as the application describes them."""
    found = [
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]
    assert len(found) > 30
    return sorted(found)


def test_each_role_gets_through_each_route_as_far_as_its_role_goes(site: Any):
    wrong = []
    for method, path in routes(site.app):
        concrete = re.sub(r"\{(\w+)\}", lambda m: _VALUES.get(m[1], "nobody"), path)
        least = least_role(method, path)
        if least is None:
            continue
        answers = {None: site.client().request(method, concrete).status_code}
        for role in ROLES:
            if path in ("/api/v1/session",) and method == "DELETE":
                continue
            answers[role] = site.client(role).request(method, concrete).status_code
        for role, status in answers.items():
            allowed = role is not None and ROLES.index(role) >= ROLES.index(least)
            expected = "through" if allowed else (401 if role is None else 403)
            seen = status if status in (401, 403) else "through"
            if seen != expected:
                wrong.append((method, path, role, status))
    assert wrong == []


_VALUES = {
    "fleet": FLEET, "device": "nobody", "stream": "imu", "name": "nobody", "version": "7",
    "run": "a" * 32, "rollout": "a" * 32, "token": "b" * 32, "hook": "a" * 32, "machine": "m",
    "question": "a" * 32, "request": "a" * 32, "alarm": "a" * 32,
    "commissioning": "a" * 32,
}  # fmt: skip


def test_no_route_is_left_out_of_the_description(site: Any):
    described = set(routes(site.app))
    hidden = [
        (method, route.path)
        for route in site.app.routes
        if isinstance(route, APIRoute) and route.path.startswith("/api/v1/")
        for method in route.methods
        if method != "HEAD" and (method, route.path) not in described
    ]
    assert hidden == []


def test_a_session_changes_nothing_without_its_csrf_token(site: Any):
    browser = site.browser("admin")
    body = {"name": "eve", "role": "admin"}
    csrf = browser.headers.pop("X-CSRF-Token")
    for headers in ({}, {"X-CSRF-Token": "x" + csrf}, {"X-CSRF-Token": ""}):
        answer = browser.post("/api/v1/users", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "access.csrf")
    other = {"X-CSRF-Token": csrf, "Origin": "https://evil.test"}
    assert browser.post("/api/v1/users", json=body, headers=other).status_code == 403
    assert access.find_user(site.store, "eve") is None
    good = {"X-CSRF-Token": csrf, "Origin": "http://console.test"}
    assert browser.post("/api/v1/users", json=body, headers=good).status_code == 201


def test_a_log_in_form_of_another_site_is_refused(site: Any):
    form = {"name": "admin", "password": PASSWORD, "seal": "guessed", "target": "/"}
    answer = site.client().post("/login", data=form)
    assert answer.status_code == 403
    assert "fieldloop_session" not in answer.headers.get("set-cookie", "")
    json_form = {"name": "admin", "password": PASSWORD}
    answer = site.client().post(
        "/api/v1/session", json=json_form, headers={"Origin": "https://evil.test"}
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "target", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", ""]
)
def test_after_the_log_in_nobody_is_sent_to_another_site(site: Any, target: str):
    client = site.client()
    page = client.get("/login", params={"next": target}).text
    seal = re.search(r'name="seal" value="([^"]+)"', page)
    assert seal
    form = {"name": "admin", "password": PASSWORD, "seal": seal[1], "target": target}
    answer = client.post("/login", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()


def test_guessing_is_slowed_and_noted_and_a_wrong_name_looks_like_a_wrong_password(site: Any):
    client = site.client()
    answers = [
        client.post("/api/v1/session", json={"name": "viewer", "password": f"guess {i}"})
        for i in range(12)
    ]
    unknown = client.post("/api/v1/session", json={"name": "nobody", "password": "guess"})
    statuses = [a.status_code for a in answers]
    assert statuses[:7] == [401] * 7
    assert statuses[-1] == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert unknown.json() == answers[0].json()
    good = client.post("/api/v1/session", json={"name": "viewer", "password": PASSWORD})
    assert good.status_code == 429, "the right password does not tell a guesser that it is right"
    refused = [r for r in trail(site.store) if r.action == "log-in" and r.outcome == "refused"]
    assert len(refused) >= 7


def test_a_role_taken_away_is_gone_from_open_sessions_and_tokens(site: Any):
    browser, token = site.browser("operator"), site.client("operator")
    path, body = f"/api/v1/fleets/{FLEET}/devices/pump-1", {"name": "a"}
    assert browser.patch(path, json=body).status_code == 200
    site.client("admin").patch("/api/v1/users/operator", json={"role": "viewer"})
    assert browser.patch(path, json=body).status_code == 403
    assert token.patch(path, json=body).status_code == 403
    site.client("admin").patch("/api/v1/users/operator", json={"disabled": True})
    assert browser.get("/api/v1/session").status_code == 401
    assert token.get("/api/v1/session").status_code == 401


def test_a_token_has_at_most_its_owners_role_and_ends_when_revoked(site: Any):
    operator = site.client("operator")
    assert operator.post("/api/v1/tokens", json={"name": "x", "role": "admin"}).status_code == 403
    made = operator.post("/api/v1/tokens", json={"name": "x", "role": "viewer"}).json()
    own = site.client()
    own.headers["Authorization"] = f"Bearer {made['secret']}"
    assert own.get("/api/v1/session").json()["role"] == "viewer"
    token = made["token"]["id"]
    assert site.client("viewer").delete(f"/api/v1/tokens/{token}").status_code == 404
    assert operator.delete(f"/api/v1/tokens/{token}").status_code == 200
    assert own.get("/api/v1/session").status_code == 401


def test_a_link_sets_a_password_once(site: Any):
    link = site.client("admin").post("/api/v1/users", json={"name": "vera"}).json()["link"]
    path = link.removeprefix("http://console.test")
    client = site.client()
    page = client.get(path).text
    seal = re.search(r'name="seal" value="([^"]+)"', page)
    assert seal
    for bad in ("short", "vera vera vera", "aaaaaaaaaaaa"):
        form = {"password": bad, "again": bad, "seal": seal[1]}
        assert client.post(path, data=form).status_code == 422
    form = {"password": PASSWORD, "again": PASSWORD, "seal": seal[1]}
    entered = client.post(path, data=form, follow_redirects=False)
    assert entered.status_code == 303
    assert client.get("/api/v1/session").json()["name"] == "vera"
    again = site.client()
    assert again.get(path).status_code == 410
    assert again.post(path, data=form).status_code in (403, 410)


def test_there_is_always_an_administrator(site: Any):
    admin = site.client("admin")
    for answer in (
        admin.delete("/api/v1/users/admin"),
        admin.patch("/api/v1/users/admin", json={"role": "viewer"}),
        admin.patch("/api/v1/users/admin", json={"disabled": True}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "user.last-admin")
    assert admin.get("/api/v1/session").status_code == 200


def test_secrets_are_stored_as_digests_only(site: Any):
    browser = site.browser("viewer")
    secret = browser.cookies["fieldloop_session"]
    with site.store.read() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        dump = "\n".join(raw.iterdump())  # type: ignore[attr-defined]
    assert secret not in dump
    assert PASSWORD not in dump
    assert all(token not in dump for token in site.tokens.values())
    assert "$argon2id$" in dump


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2fapp.py", "/static//etc/passwd", "/assets/../app.py",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_files(site: Any, path: str):
    answer = site.client().get(path, follow_redirects=False)
    assert answer.status_code in (303, 404)
    assert "import" not in answer.text


@pytest.mark.parametrize("fleet", ["..", "%2e%2e", "a%2fb", "_tuf", "A", "a" * 64, "demo%00"])
def test_an_id_that_is_none_is_refused(site: Any, fleet: str):
    answer = site.client("viewer").get(f"/api/v1/fleets/{fleet}/devices")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_and_their_socket_are_for_those_who_are_logged_in(site: Any):
    answer = site.client().get("/f/demo/devices?text=x", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Ff%2Fdemo%2Fdevices%3Ftext%3Dx"
    assert site.client().get("/_nicegui_ws/socket.io/").status_code == 401
    foreign = {"Origin": "https://evil.test"}
    assert site.browser().get("/_nicegui_ws/socket.io/", headers=foreign).status_code == 403
    policy = site.client().get("/login").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


def test_who_did_what_is_in_the_audit(site: Any):
    site.client("operator").patch(f"/api/v1/fleets/{FLEET}/devices/pump-1", json={"name": "north"})
    site.client("viewer").patch(f"/api/v1/fleets/{FLEET}/devices/pump-1", json={"name": "south"})
    rows = site.client("admin").get("/api/v1/audit", params={"limit": 5}).json()["items"]
    assert rows[0]["action"] == "device-rename"
    assert (rows[0]["actor"], rows[0]["target"], rows[0]["outcome"]) == (
        "operator", "pump-1", "done",
    )  # fmt: skip
