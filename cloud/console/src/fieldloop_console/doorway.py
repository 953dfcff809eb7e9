"""Log-in, log-out and first-run pages: plain HTML forms, which work before any script runs.

A form of one site can be sent by a page of another. These say who one is, and nothing is known of
the sender yet, so a form carries a value that a cookie of the same browser carries too.
"""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from fieldloop_console.api.doors import COOKIE, Here, address_of, own_origin
from fieldloop_console.api.session import set_cookie
from fieldloop_console.gate import Opened, same
from fieldloop_console.identity import NotKnown, TooOften
from fieldloop_console.rendering import render
from fieldloop_contract.errors import RejectedInput

router = APIRouter(include_in_schema=False)
FORM_COOKIE = "fieldloop_form"
Text = Annotated[str, Form(max_length=1_024)]


def inside(target: str) -> str:
    """Where to go after the log-in: a path of this site, whatever was asked for."""
    parts = urlsplit(target)
    plain = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if plain and not parts.netloc and "\\" not in target else "/"


def _page(request: Request, template: str, status: int = 200, **values: object) -> Response:
    seal = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)
    response = HTMLResponse(render(template, seal=seal, **values), status)
    response.headers["Cache-Control"] = "no-store"
    response.set_cookie(
        FORM_COOKIE, seal, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


def _sealed(request: Request, seal: str) -> bool:
    own = request.cookies.get(FORM_COOKIE, "")
    return bool(own) and same(own, seal) and own_origin(request)


def _enter(request: Request, opened: Opened, target: str) -> Response:
    response = RedirectResponse(inside(target), 303)
    set_cookie(request, response, opened)
    response.delete_cookie(FORM_COOKIE)
    return response


@router.get("/login")
def show_login(request: Request, here: Here, next: str = "/") -> Response:
    """The log-in page."""
    if here.gate.by_session(request.cookies.get(COOKIE, ""), address_of(request)) is not None:
        return RedirectResponse(inside(next), 303)
    return _page(request, "login.html", target=inside(next), fault="", name="")


@router.post("/login")
def log_in(
    request: Request, here: Here, name: Text = "", password: Text = "", seal: Text = "",
    target: Text = "/",
) -> Response:  # fmt: skip
    """Log in, and go where one wanted to go."""
    values = {"target": inside(target), "name": name}
    if not _sealed(request, seal):
        fault = "This form is out of date. Please try again."
        return _page(request, "login.html", 403, fault=fault, **values)
    try:
        opened = here.gate.log_in(name, password, address_of(request))
    except NotKnown:
        fault = "Wrong name or password."
        return _page(request, "login.html", 401, fault=fault, **values)
    except TooOften as error:
        fault = f"Too many attempts. Try again in {error.wait_s:.0f} seconds."
        return _page(request, "login.html", 429, fault=fault, **values)
    return _enter(request, opened, target)


@router.post("/logout")
def log_out(request: Request, here: Here, csrf: Text = "") -> Response:
    """Log out."""
    actor = here.gate.by_session(request.cookies.get(COOKIE, ""), address_of(request))
    if actor is not None and same(csrf, actor.csrf) and own_origin(request):
        here.gate.log_out(actor)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.get("/welcome/{secret}")
def show_welcome(request: Request, secret: str, here: Here) -> Response:
    """The page of a one-time link."""
    owner = here.gate.link_owner(secret)
    status = 200 if owner else 410
    return _page(request, "welcome.html", status, owner=owner, fault="")


@router.post("/welcome/{secret}")
def welcome(
    request: Request, secret: str, here: Here, password: Text = "", again: Text = "",
    seal: Text = "",
) -> Response:  # fmt: skip
    """Set the password of a one-time link's user, and log in."""
    owner = here.gate.link_owner(secret)
    fault, status = "", 422
    if not _sealed(request, seal):
        fault, status = "This form is out of date. Please try again.", 403
    elif password != again:
        fault = "The two passwords differ."
    else:
        try:
            return _enter(request, here.gate.use_link(secret, password, address_of(request)), "/")
        except NotKnown:
            return _page(request, "welcome.html", 410, owner=None, fault="")
        except RejectedInput as error:
            fault = str(error)
    return _page(request, "welcome.html", status, owner=owner, fault=fault)
