"""The service: one owner thread with the log, its sources, its uplink and its presence.

The loop takes the cloud's answers, polls the sources that are due, commits, keeps the bounds, and
reports; it waits only where nothing is due. On a stop everything taken is committed.
"""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from importlib.metadata import version
from random import Random

from fieldloop_buffer import STREAM_STATE, Log, Uplink
from fieldloop_buffer.events import event_entry
from fieldloop_buffer.metrics import LEDGERS_REPORTED_MAX, Metrics, log_counters
from fieldloop_buffer.outlook import Outlook
from fieldloop_contract.errors import OutOfSpace, RetryLater
from fieldloop_contract.messages import Capability, Reported
from fieldloop_contract.profile import Profile
from fieldloop_ingestion import memory
from fieldloop_ingestion.intake import Supervised
from fieldloop_ingestion.ordered import PROVEN_S, OrderedProfile
from fieldloop_ingestion.settings import SERVICE, IngestionSettings
from fieldloop_ingestion.triggers import Trigger, Triggers
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.health import Health, serve
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.link import LinkMeter
from fieldloop_runtime.mqtt import Connected, Session
from fieldloop_runtime.presence import Presence

_TURN_S = 0.05
_CARE_S = 1.0
_REPORT_S = 1.0
_TRIM_S = 30.0
_LOOK_S = 0.5
TRIGGERS_WAITING_MAX = 64
_EVENTS_PER_TURN = 100


class Service:
    """Ingestion, put together. `run` belongs to the thread that made it."""

    def __init__(
        self, settings: IngestionSettings, profile: Profile, profiles: OrderedProfile
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._profiles = profiles
        self._digest = profiles.digest
        self._proven_s = time.monotonic() + PROVEN_S
        self._begin_anew = False
        self._journal = Journal(SERVICE)
        self._clock = SystemClock(trusted=settings.trust_clock)
        fleet, device = settings.fleet, settings.device
        self._log = Log.open(
            settings.log,
            fleet=fleet,
            device=device,
            service=SERVICE,
            policies={stream.id: stream.policy for stream in profile.streams},
        )
        self._origin = f"{fleet}/{device}/{SERVICE}"
        self._samples = {
            stream.id: int(self._log.state(f"samples.{stream.id}") or 0)
            for stream in profile.streams
        }
        for stream in profile.streams:  # for readers of the frames, which name no channel
            declared = stream.state(0).encode().decode()
            if self._log.state(STREAM_STATE + stream.id) != declared:
                self._log.set_state(STREAM_STATE + stream.id, declared)
        self._sources = [self._supervise(index) for index in range(len(profile.sources))]
        folder = os.path.dirname(os.path.abspath(settings.log.path))
        self._link = LinkMeter(settings.link, folder, SERVICE, self._clock.now)
        self._outlook = Outlook()
        self._presence = Presence(
            fleet,
            device,
            SERVICE,
            versions={"fieldloop-ingestion": version("fieldloop-ingestion")},
            capability=self._capability(),
            interval_s=_REPORT_S,
            meter=self._link,
        )
        self._control = Session(
            settings.mqtt,
            f"{fleet}/{device}/{SERVICE}/ctl",
            will=self._presence.will(),
            meter=self._link,
        )
        self._uplink = Uplink(
            settings.uplink,
            mqtt=settings.mqtt,
            fleet=fleet,
            device=device,
            service=SERVICE,
            log_path=settings.log.path,
            meter=self._link,
        )
        self._health = Health()
        self._metrics = Metrics(self._health.registry)
        self._triggers = Triggers(settings.log.path, settings.alarm_path, self._journal)
        self._wanted: deque[Trigger] = deque(maxlen=TRIGGERS_WAITING_MAX)
        self._told = ("", -1)
        self._care_s = self._report_s = self._trim_s = self._look_s = float("-inf")
        self._fault: str | None = None

    def _supervise(self, index: int) -> Supervised:
        source = self._profile.sources[index]
        stream = self._profile.stream(source.stream)
        assert stream is not None  # the profile was checked
        return Supervised(source, stream, self._log, self._origin, self._clock.now, Random())

    def _capability(self) -> Capability:
        folder = os.path.dirname(os.path.abspath(self._settings.log.path))
        stat = os.statvfs(folder)
        return Capability(
            machine=platform.machine(),
            python=platform.python_version(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_free_bytes=stat.f_bavail * stat.f_frsize,
            input_streams=[stream.state(0) for stream in self._profile.streams],
        )

    def run(self, life: Life) -> None:
        """Run until `life.stop`, or until a newer profile was taken; then commit and close.

        Raises:
            FixConfiguration: the health port cannot be had, or a source's options do not work.
        """
        memory.share_one_arena()
        stop_health = serve(self._health, self._settings.health)
        self._health.condition("log", lambda: self._fault)
        for source in self._sources:
            self._health.condition(f"source.{source.id}", source.report_fault)
        self._control.start()
        self._uplink.start()
        self._journal.info("service.started", epoch=self._log.epoch)
        try:
            while not (life.stop.is_set() or self._begin_anew):
                self._turn(life)
        finally:
            self._end(stop_health)

    def _turn(self, life: Life) -> None:
        now_s = time.monotonic()
        self._health.tick("loop")
        if not self._uplink.alive or not self._control.alive:
            self._journal.error("thread.died")
            life.fail(ExitCode.THREAD_DIED)
            return
        try:
            self._log.apply(self._uplink.take_orders())
            self._trigger(now_s)
            for source in self._sources:
                source.poll(now_s)
            self._count_samples()
            self._log.commit(now_s)
            self._tell_committed()
            if now_s - self._care_s >= _CARE_S:
                self._care_s = now_s
                self._log.maintain(time.monotonic_ns())
                self._look_at_profile(now_s)
            if now_s - self._trim_s >= _TRIM_S:
                self._trim_s = now_s
                memory.give_back()
            self._fault = None
        except OutOfSpace as error:
            self._fault = str(error)
        except RetryLater as error:
            self._fault = str(error)
            self._journal.warning("log.retry", error=str(error))
            life.stop.wait(1.0)
        self._talk(now_s)
        due_s = min((source.next_s for source in self._sources), default=now_s + _TURN_S)
        life.stop.wait(min(max(due_s - time.monotonic(), 0.0), _TURN_S))

    def _look_at_profile(self, now_s: float) -> None:
        """Take a newer profile, and tell what became of it."""
        if self._profiles.on_trial and now_s >= self._proven_s:
            self._profiles.prove()
        self._begin_anew = self._profiles.look()
        while self._profiles.told:
            type_, data = self._profiles.told[0]
            t_ns = self._clock.now().utc_ns
            self._log.append(event_entry(self._origin, type_, data, t_ns, SERVICE))
            self._profiles.told.pop(0)

    def _trigger(self, now_s: float) -> None:
        """Record what a person or an alarm asks for."""
        if now_s - self._look_s >= _LOOK_S:
            self._look_s = now_s
            self._wanted.extend(self._triggers.look())
        while self._wanted:
            wanted = self._wanted[0]
            for source, profile in zip(self._sources, self._profile.sources, strict=True):
                if profile.stream == wanted.stream:
                    source.sink.trigger(wanted.t_ns)
            self._wanted.popleft()
            data = {"stream": wanted.stream, "t_ns": wanted.t_ns, "reason": wanted.reason}
            self._journal.info("capture.triggered", **data)

    def _tell_committed(self) -> None:
        """Say to the sources what is on disk, so that they may tell their senders."""
        watermark = (self._log.epoch, self._log.durable_seq)
        if watermark != self._told:
            self._told = watermark
            for source in self._sources:
                source.committed(*watermark)

    def _count_samples(self) -> None:
        for source, profile in zip(self._sources, self._profile.sources, strict=True):
            if source.sink.samples:
                self._samples[profile.stream] += source.sink.samples
                source.sink.samples = 0
                self._log.set_state(f"samples.{profile.stream}", str(self._samples[profile.stream]))

    def _talk(self, now_s: float) -> None:
        """The control connection: presence, and what is reported."""
        for _ in range(_EVENTS_PER_TURN):
            event = self._control.poll()
            if event is None:
                break
            if isinstance(event, Connected):
                try:
                    self._presence.connected(self._control)
                except RetryLater:
                    break  # gone again; the next connection says it
        if now_s - self._report_s < _REPORT_S:
            return
        self._report_s = now_s
        reported = self._reported(now_s)
        self._presence.report(self._control, reported, now_s)
        self._metrics.update(reported, self._uplink.figures, self._log)

    def _reported(self, now_s: float) -> Reported:
        ledgers = self._log.ledgers()
        return Reported(
            session=self._presence.session_id,
            profile=self._digest,
            ledgers=ledgers[-LEDGERS_REPORTED_MAX:],
            streams=[s.state(self._samples[s.id]) for s in self._profile.streams],
            counters={
                "bytes_sent": self._uplink.bytes_sent,
                "bytes_received": self._uplink.bytes_received,
                "source_restarts": sum(source.restarts for source in self._sources),
                "samples_passed_over": sum(s.sink.passed_over for s in self._sources),
                "capture_requests_refused": self._triggers.refused,
                **self._link.counters(),
                **log_counters(self._log, self._uplink.figures),
            },
            backlog=self._outlook.look(
                now_s, ledgers, self._log.row_bytes, self._log.capacity_bytes()
            ),
        )

    def _end(self, stop_health: object) -> None:
        self._uplink.stop(timeout_s=1.0)
        try:
            self._log.apply(self._uplink.take_orders())
            self._log.commit(force=True)
            self._tell_committed()
        except (OutOfSpace, RetryLater) as error:
            self._journal.warning("log.not_committed", error=str(error))
        for source in self._sources:
            source.close()
        self._triggers.close()
        try:
            self._log.close()
        finally:
            self._control.stop(goodbye=self._presence.will(), timeout_s=1.0)
            if callable(stop_health):
                stop_health()
        self._journal.info("service.stopped")
