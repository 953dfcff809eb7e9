"""The agent's decisions and its turn: enrol, renew, or leave alone.

`due` is pure: what is held, what is asked for, the time. A certificate is renewed from the middle
of its life on, so that a device has half of it to find the cloud; after its end, until the grace
that came with it is over. A refusal is not tried again with the same token and key before the
back-off's ceiling, since no repetition makes it right.
"""

from __future__ import annotations

import hashlib
import shutil
from enum import StrEnum
from random import Random

from fieldloop_agent.access import try_own_channels
from fieldloop_agent.client import Client
from fieldloop_agent.home import Held, Home
from fieldloop_agent.keys import make_key, make_request
from fieldloop_agent.settings import AgentSettings, EnrolmentSettings
from fieldloop_contract.errors import FieldloopError, RejectedInput, RetryLater, Untrusted
from fieldloop_contract.frames import Clock
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal

_RETRY_BASE_S = 2.0
_OFFLINE_S = 300.0
_TEST_EVERY_S = 86_400.0


class Due(StrEnum):
    """What has to be done."""

    NOTHING = "nothing"
    ENROL = "enrol"
    RENEW = "renew"
    WAIT_FOR_TOKEN = "wait for a token"
    TOO_LATE = "too late to renew"


def due(held: Held | None, token_sha256: str, now_s: float) -> Due:
    """What has to be done now.

    Args:
        token_sha256: of the token at hand; "" for none.
        now_s: seconds of UTC, known to be right.
    """
    if token_sha256 and (held is None or held.token_sha256 != token_sha256):
        return Due.ENROL
    if held is None:
        return Due.WAIT_FOR_TOKEN
    if now_s < held.not_before_s + (held.not_after_s - held.not_before_s) / 2:
        return Due.NOTHING
    if now_s > held.not_after_s + held.grace_days * 86_400:
        return Due.TOO_LATE
    return Due.RENEW


class Agent:
    """Does what is due. Owner thread only."""

    def __init__(
        self,
        settings: AgentSettings,
        enrolment: EnrolmentSettings,
        home: Home,
        clock: SystemClock,
        journal: Journal,
        random: Random,
    ) -> None:
        self._settings = settings
        self._enrolment = enrolment
        self._home = home
        self._clock = clock
        self._journal = journal
        self._random = random
        self._token = _sha256(enrolment.token) if enrolment.token else ""
        self._attempt = 0
        self._not_before_s = float("-inf")
        self._tested: Held | None = None
        self._test_at_s = 0.0
        self.complaint: str | None = "not looked yet"

    def turn(self, mono_s: float) -> None:
        """Look once, and do what is due; never raises for what the world is at fault for."""
        now = self._clock.now()
        if now.clock is Clock.UNKNOWN:
            self.complaint = "the clock is not known; certificates cannot be judged"
            return
        todo = due(self._home.read(), self._token, now.utc_ns / 1e9)
        match todo:
            case Due.NOTHING:
                self._test_channels(mono_s)
            case Due.WAIT_FOR_TOKEN:
                self.complaint = "not enrolled: set ENROLMENT_URL and ENROLMENT_TOKEN"
            case Due.TOO_LATE:
                self.complaint = "the certificate ran out too long ago: provision this device again"
            case Due.ENROL | Due.RENEW:
                self._try(todo, now.utc_ns / 1e9, mono_s)

    def _test_channels(self, mono_s: float) -> None:
        """At start, after each change of identity, and once a day: a denial is silent in MQTT."""
        held = self._home.read()
        if held is None or (held == self._tested and mono_s < self._test_at_s):
            return
        try:
            refused = sorted(try_own_channels(held, self._home.current).refused)
        except FieldloopError as error:
            self._journal.info("channels.not_tested", error=str(error))
            self._test_at_s, self._tested, self.complaint = mono_s + _OFFLINE_S, held, None
            return
        self._tested = held
        self._test_at_s = mono_s + (_OFFLINE_S if refused else _TEST_EVERY_S)
        self.complaint = None
        if refused:
            self.complaint = f"the broker refuses {', '.join(refused)}"
            self._journal.error("channels.refused", topics=refused)
        else:
            self._journal.info("channels.tested", user=held.user)

    def _try(self, todo: Due, now_s: float, mono_s: float) -> None:
        if mono_s < self._not_before_s:
            return
        try:
            held = self.enrol(now_s) if todo is Due.ENROL else self.renew(now_s)
            self._attempt, self._not_before_s, self.complaint = 0, float("-inf"), None
            self._journal.info("identity.granted", how=todo.value, user=held.user)
        except FieldloopError as error:
            self._attempt += 1
            cap = self._settings.retry_cap_s
            pause = full_jitter(self._attempt, _RETRY_BASE_S, cap, self._random)
            if isinstance(error, RejectedInput):
                pause = cap
            self._not_before_s = mono_s + pause
            # A device that is offline is healthy, as long as nobody has to do anything about it.
            offline = todo is Due.RENEW and isinstance(error, RetryLater)
            self.complaint = None if offline else f"{todo.value}: {error}"
            self._journal.warning(
                "identity.failed", what=todo.value, code=error.code, error=str(error)
            )

    def enrol(self, now_s: float) -> Held:
        """Make a key and turn the token into an identity.

        Raises:
            RetryLater, RejectedInput, FixConfiguration: as the server or this machine says.
        """
        client = Client(self._enrolment.url, self._settings.timeout_s)
        trust = client.pinned(self._enrolment.token)
        draft = self._home.draft()
        # One key for one token: a lost answer is asked for again with the key it was given for.
        kept = self._home.current.parent / f"key-{self._token[:16]}.pem"
        if not kept.is_file():
            make_key(kept)
        shutil.copy2(kept, draft / "key.pem")
        request = {"token": self._enrolment.token, "csr": make_request(draft / "key.pem")}
        grant = client.post("/v1/enrol", request, trust)
        wanted, given = self._enrolment.device, grant.get("device")
        if wanted and given != wanted:
            raise Untrusted(
                f"the token is for {given!s:.80}, and this device is {wanted}",
                code="enrolment.device",
                hint="set ENROLMENT_DEVICE and ENROLMENT_TOKEN to belong together",
            )
        held = self._home.adopt(draft, grant, now_s=now_s, token_sha256=self._token, renewed=False)
        kept.unlink(missing_ok=True)
        return held

    def renew(self, now_s: float) -> Held:
        """A newer certificate for the key that is held."""
        held = self._home.read()
        if held is None:
            raise RejectedInput("there is nothing to renew", code="identity.none")
        client = Client(self._url(held), self._settings.timeout_s)
        draft = self._home.draft()
        shutil.copy2(self._home.current / "key.pem", draft / "key.pem")
        trust = (self._home.current / "trust.pem").read_text(encoding="ascii")
        grant = client.post("/v1/renew", {"csr": make_request(draft / "key.pem")}, trust)
        return self._home.adopt(
            draft, grant, now_s=now_s, token_sha256=held.token_sha256, renewed=True
        )

    def _url(self, held: Held) -> str:
        """Where to renew: as told, else on the broker's own host, where both usually stand."""
        return self._enrolment.url or f"https://{held.broker_host}:8443"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()
