"""The ways by which a notice reaches people: e-mail, a signed webhook, MQTT.

Each is a function of the notice's document that returns, or raises RetryLater (try again) or
another FieldloopError (give up, and say so). They block for at most `TIMEOUT_S`; the owner loop
calls them, a few at a time.
"""

from __future__ import annotations

import ipaddress
import json
import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from fieldloop_contract.errors import FixConfiguration, RejectedInput, RetryLater
from fieldloop_contract.messages import Event
from fieldloop_contract.topics import notice_topic
from fieldloop_machines.settings import MachinesSettings, MailSettings
from fieldloop_runtime import webhook
from fieldloop_runtime.mqtt import Session

TIMEOUT_S = 10.0
SERVICE = "machines"
Channel = Callable[[str, dict[str, Any], int], None]
"""Takes the notice's id, its document, and the time in ns."""


def channels_of(settings: MachinesSettings, session: Session | None) -> dict[str, Channel]:
    """The channels that are set up, by name.

    Raises:
        FixConfiguration: one is set up half.
    """
    found: dict[str, Channel] = {}
    if settings.mail.host:
        found["mail"] = mail_channel(settings.mail)
    if settings.webhook.url:
        url, secret = webhook.check_url(settings.webhook.url), settings.webhook.secret
        webhook.secret_bytes(secret)

        def to_webhook(notice: str, document: dict[str, Any], now_ns: int) -> None:
            event = as_event(settings.fleet, notice, document)
            webhook.post(
                url, event.encode(), secret=secret, message_id=notice,
                at_s=now_ns // 10**9, timeout_s=TIMEOUT_S,
            )  # fmt: skip

        found["webhook"] = to_webhook
    if session is not None:

        def to_mqtt(notice: str, document: dict[str, Any], _now_ns: int) -> None:
            if not session.connected:
                raise RetryLater("the broker is away", code="mqtt.away")
            event = as_event(settings.fleet, notice, document)
            session.publish(notice_topic(settings.fleet, SERVICE), event.encode())

        found["mqtt"] = to_mqtt
    return found


def as_event(fleet: str, notice: str, document: dict[str, Any]) -> Event:
    """A notice as a CloudEvent."""
    at = datetime.fromtimestamp(document["at_ns"] / 1e9, UTC)
    return Event(
        id=notice,
        source=f"{fleet}/_cloud/{SERVICE}",
        type="alarm.flood" if document["flood"] else "alarm.notice",
        time=at.isoformat().replace("+00:00", "Z"),
        data=document,
    )


def recipients(to: str, site: str) -> list[str]:
    """Who hears of a notice of a site; "" is a notice of many sites, which all hear of.

    >>> recipients("ann@x.org, north=bo@x.org", "north")
    ['ann@x.org', 'bo@x.org']
    >>> recipients("ann@x.org, north=bo@x.org", "south")
    ['ann@x.org']
    """
    found: list[str] = []
    for entry in filter(None, (part.strip() for part in to.split(","))):
        of_site, given, address = entry.rpartition("=")
        if not given or not site or of_site.strip() == site:
            found.append(address.strip())
    return list(dict.fromkeys(found))


def mail_channel(settings: MailSettings) -> Channel:
    """Notices as plain-text e-mail.

    Raises:
        FixConfiguration: no sender or nobody to send to, or a password without TLS.
    """
    if not settings.sender or not recipients(settings.to, ""):
        raise FixConfiguration(
            "e-mail needs a sender and somebody to send to",
            code="mail.incomplete",
            hint="set FIELDLOOP_MAIL_SENDER and FIELDLOOP_MAIL_TO",
        )
    if not settings.tls and not _loopback(settings.host):
        raise FixConfiguration(f"{settings.host} is reached without TLS", code="mail.tls")

    def send(notice: str, document: dict[str, Any], _now_ns: int) -> None:
        message = EmailMessage()
        # A subject is one line: what is named in it came from devices.
        message["Subject"] = " ".join(f"[fieldloop] {document['subject']}".split())[:200]
        message["From"] = settings.sender
        message["Message-ID"] = f"<{notice}@fieldloop>"
        to = recipients(settings.to, document["site"])
        if not to:
            return
        message["To"] = ", ".join(to)
        message.set_content(document["body"])
        message.add_attachment(
            json.dumps(document, indent=2).encode(), "application", "json", filename="notice.json"
        )
        _submit(settings, message, to)

    return send


def _submit(settings: MailSettings, message: EmailMessage, to: list[str]) -> None:
    try:
        with smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_S) as server:
            if settings.tls:
                server.starttls(context=ssl.create_default_context())
            if settings.username:
                server.login(settings.username, settings.password)
            server.send_message(message, settings.sender, to)
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as error:
        raise RejectedInput(f"the mail server refuses: {error}", code="mail.refused") from error
    except (smtplib.SMTPException, OSError) as error:
        raise RetryLater(f"the mail server: {error}", code="mail.away") from error


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
