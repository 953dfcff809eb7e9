"""One virtual device: the production log, uplink, fetch, trust and slots, without its hardware.

Two services, as on a real one, each with a log, an uplink and a control connection of its own. The
owner calls `turn` when something came or time has passed; no thread, no wait. A power cut closes
nothing: what was not committed is gone, and the next boot has another id.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from fieldloop_buffer import (
    STREAM_STATE,
    Entry,
    Kind,
    Log,
    LogSettings,
    Reader,
    Uplink,
    UplinkSettings,
    pack_frame,
)
from fieldloop_buffer.metrics import LEDGERS_REPORTED_MAX, log_counters
from fieldloop_buffer.schema import migrate
from fieldloop_contract.errors import OutOfSpace, RetryLater
from fieldloop_contract.frames import Frame
from fieldloop_contract.messages import (
    Ack,
    Capability,
    LedgerTotals,
    Reported,
    StreamState,
)
from fieldloop_inference.service import Inference
from fieldloop_inference.settings import InferenceSettings
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.mqtt import Connected
from fieldloop_runtime.presence import Presence
from fieldloop_runtime.settings import MqttSettings
from fieldloop_runtime.switchboard import Switchboard, SwitchedSession
from fieldloop_simulator.clock import VirtualClock
from fieldloop_simulator.labels import Labels
from fieldloop_simulator.line import SimulatedLine
from fieldloop_simulator.plan import DevicePlan
from fieldloop_simulator.settings import SimulatorSettings
from fieldloop_simulator.signals import Signal, channels_of
from fieldloop_simulator.standins import InlineVerifier, StandInTrial, load_runner
from fieldloop_update import ModelSource

SERVICES: Final = ("ingestion", "inference")
VERSION: Final = "simulated"
LOG_BYTES_MAX: Final = 64 << 20
_LATENCIES_MAX, _WATCHED_MAX = 4_096, 512
_MAINTAIN_S = 5.0
_EVENTS_PER_TURN = 50


class VirtualDevice:
    """One device. All calls from the thread that owns the switchboard.

    Args:
        root: the fleet's trusted root metadata; None runs no models.
        elapsed_s: seconds from the start of the plan, of monotonic seconds.
        wake: called when something came for this device.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        plan: DevicePlan,
        folder: Path,
        board: Switchboard,
        *,
        root: bytes | None,
        elapsed_s: Callable[[float], float],
        wake: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.on = False
        self.boots = 0
        self.frames = self.labels = 0
        self.latencies_s: deque[float] = deque(maxlen=_LATENCIES_MAX)
        self.clock = VirtualClock(plan.clock, plan.seed, elapsed_s)
        self.line = SimulatedLine(plan.network, plan.cuts, plan.seed + 1, elapsed_s)
        self._settings = settings
        self._folder = folder
        self._board = board
        self._root = root
        self._elapsed_s = elapsed_s
        self._wake = wake
        self._signal = Signal(settings.signal, settings.drift, plan.drift_s, plan.seed + 2)
        self._random = Random(plan.seed + 3)
        self._labels = Labels(settings.labels, plan.device, plan.seed + 5)
        self._sent: dict[tuple[str, int], float] = {}
        self._maintained_s = float("-inf")
        self._fresh = False
        self._sessions: list[SwitchedSession] = []
        self._inference: Inference | None = None
        names, units = channels_of(settings.signal)
        self._stream = StreamState(
            stream=settings.signal.stream,
            channels=names,
            units=units,
            rate_hz=settings.signal.rate_hz,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for service in SERVICES if root is not None else SERVICES[:1]:
            if not self._path(service).exists():
                migrate(str(self._path(service)))

    def _path(self, service: str) -> Path:
        return self._folder / f"{service}.sqlite"

    # ---- power -----------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot: open the logs, take up slots, begin connecting."""
        self.boots += 1
        self._sessions = []
        mqtt = self._mqtt()
        self._log = self._open_log("ingestion")
        declared = self._stream.encode().decode()
        if self._log.state(STREAM_STATE + self._stream.stream) != declared:
            self._log.set_state(STREAM_STATE + self._stream.stream, declared)
        self._uplink = self._make_uplink("ingestion", mqtt)
        self._presence = self._make_presence("ingestion")
        self._control = self._session(
            mqtt, self._client_id("ingestion/ctl"), will=self._presence.will()
        )
        self._control.start()
        self._uplink.connect()
        if self._root is not None:
            self._boot_inference(mqtt, self._root)
        self.on = True

    def _boot_inference(self, mqtt: MqttSettings, root: bytes) -> None:
        settings = InferenceSettings.model_validate(
            {
                "fleet": self._settings.fleet,
                "device": self.plan.device,
                "mqtt": mqtt,
                "log": self._log_settings("inference"),
                "input_path": str(self._path("ingestion")),
                "root_file": "-",
                "update": {"dir": str(self._folder / "models")},
                "shadow_windows": self._settings.shadow_windows,
            }
        )
        session: SwitchedSession | None = None
        self._source = ModelSource(
            settings.update,
            fleet=settings.fleet,
            device=settings.device,
            service="inference",
            root=root,
            subscribe=lambda *filters: session.subscribe(*filters) if session else None,
            unsubscribe=lambda *filters: session.unsubscribe(*filters) if session else None,
            clock=self.clock,
            verifier=InlineVerifier,
        )
        presence = self._make_presence("inference")
        session = self._session(
            mqtt,
            self._client_id("inference/ctl"),
            subscriptions=self._source.filters(),
            will=presence.will(),
        )
        self._results = self._open_log("inference")
        self._results_uplink = uplink = self._make_uplink("inference", mqtt)
        self._reader = Reader(settings.input_path)
        self._inference = Inference(
            settings,
            source=self._source,
            log=self._results,
            reader=self._reader,
            clock=self.clock,
            journal=Journal("inference"),
            session=session,
            presence=presence,
            take_orders=partial(self._watched, uplink),
            begin_trial=partial(StandInTrial, device=self.plan.device),
            load=partial(load_runner, device=self.plan.device),
            counters=lambda: {
                **self._source.counters,
                **log_counters(self._results, uplink.figures),
            },
        )
        self._inference.start()
        session.start()
        uplink.connect()

    def power_cut(self) -> None:
        """Everything stops where it is."""
        if not self.on:
            return
        self.on = False
        for session in self._sessions:
            session.sever()
        self._uplink.stop()
        self._log.abandon()
        if self._inference is not None:
            self._results_uplink.stop()
            self._source.close()
            self._reader.close()
            self._results.abandon()
            self._inference = None
        self._sent.clear()
        self.clock.reboot()

    def close(self) -> None:
        """End as services do: what was taken is committed, and a goodbye is said."""
        if not self.on:
            return
        self.on = False
        self._uplink.stop()
        if self._inference is not None:
            self._inference.stop()
            self._results_uplink.stop()
            self._source.close()
            self._reader.close()
            self._results.close()
        self._log.close()
        for session in self._sessions:
            session.stop()

    # ---- making its parts ------------------------------------------------------------------------

    def _mqtt(self) -> MqttSettings:
        settings, device = self._settings, self.plan.device
        changes: dict[str, Any] = {"username": f"{settings.fleet}/{device}"}
        if settings.identity_dir:
            folder = os.path.join(settings.identity_dir, device)
            changes["cert_file"] = os.path.join(folder, "cert.pem")
            changes["key_file"] = os.path.join(folder, "key.pem")
        return settings.mqtt.model_copy(update=changes)

    def _client_id(self, tail: str) -> str:
        return f"{self._settings.fleet}/{self.plan.device}/{tail}"

    def _session(self, mqtt: MqttSettings, client_id: str, **arguments: Any) -> SwitchedSession:
        arguments["seed"] = self._random.getrandbits(32)
        made = self._board.session(mqtt, client_id, line=self.line, wake=self._wake, **arguments)
        self._sessions.append(made)
        return made

    def _log_settings(self, service: str) -> LogSettings:
        return LogSettings(
            path=str(self._path(service)),
            bytes_max=LOG_BYTES_MAX,
            reserve_bytes=0,
        )

    def _open_log(self, service: str) -> Log:
        return Log.open(
            self._log_settings(service),
            fleet=self._settings.fleet,
            device=self.plan.device,
            service=service,
            boot=self.clock.boot,
        )

    def _make_uplink(self, service: str, mqtt: MqttSettings) -> Uplink:
        return Uplink(
            UplinkSettings(),
            mqtt=mqtt,
            fleet=self._settings.fleet,
            device=self.plan.device,
            service=service,
            log_path=str(self._path(service)),
            seed=self._random.getrandbits(32),
            connect=self._session,
        )

    def _make_presence(self, service: str) -> Presence:
        return Presence(
            self._settings.fleet,
            self.plan.device,
            service,
            versions={f"fieldloop-{service}": VERSION},
            capability=Capability(
                runtime="litert",
                runtime_version=VERSION,
                machine=VERSION,
                memory_bytes=1 << 30,
                disk_free_bytes=1 << 30,
                input_streams=[self._stream],
            ),
        )

    # ---- work ------------------------------------------------------------------------------------

    def sample(self, now_s: float) -> None:
        """Take one frame; and its label, which comes later."""
        if not self.on:
            return
        settings, now, at_s = self._settings, self.clock.now(), self._elapsed_s(now_s)
        samples, state = self._signal.frame(at_s)
        span_ns = round(len(samples) / settings.signal.rate_hz * 1e9)
        frame = Frame(
            stream=settings.signal.stream,
            t0_ns=max(0, now.utc_ns - span_ns),
            mono_ns=max(0, now.mono_ns - span_ns),
            boot=now.boot,
            clock=now.clock,
            rate_hz=settings.signal.rate_hz,
            channels=samples.shape[1],
            samples=samples.astype("<f4").tobytes(),
        )
        entry = Entry(Kind.FRAME, frame.stream, frame.t0_ns, pack_frame(frame))
        if self._append(entry, now_s):
            self._fresh = True
            self.frames += 1
            self._stream = self._stream.model_copy(
                update={"samples": self._stream.samples + len(samples)}
            )
        self._labels.look(frame, state, settings.signal.states, at_s)

    def _append(self, entry: Entry, now_s: float) -> bool:
        try:
            seq = self._log.append(entry)
        except OutOfSpace:
            return False
        if len(self._sent) < _WATCHED_MAX:
            self._sent[self._log.epoch, seq] = now_s
        return True

    def _watched(self, uplink: Uplink) -> list[Any]:
        """The cloud's answers, with a look at how long they took."""
        orders, now_s = uplink.take_orders(), time.monotonic()
        for order in orders:
            if isinstance(order, Ack):
                for first, last in order.ranges:
                    for seq in range(first, min(last, first + 10_000) + 1):
                        sent_s = self._sent.pop((order.epoch, seq), None)
                        if sent_s is not None:
                            self.latencies_s.append(now_s - sent_s)
        return orders

    def turn(self, now_s: float) -> None:
        """One turn of both services."""
        if not self.on:
            return
        at_s = self._elapsed_s(now_s)
        for entry in self._labels.due(at_s):
            self.labels += self._append(entry, now_s)
        try:
            self._log.apply(self._watched(self._uplink))
            self._log.commit(now_s, force=self._fresh)
            self._fresh = False
            if now_s - self._maintained_s >= _MAINTAIN_S:
                self._maintained_s = now_s
                self._log.maintain(time.monotonic_ns())
        except (OutOfSpace, RetryLater):
            pass  # it waits in memory, and the next turn tries again
        self._uplink.step(time.monotonic)
        self._talk(now_s)
        if self._inference is not None:
            self._inference.listen(0.0)
            self._inference.turn(now_s)
            self._results_uplink.step(time.monotonic)

    def _talk(self, now_s: float) -> None:
        for _ in range(_EVENTS_PER_TURN):
            event = self._control.poll()
            if event is None:
                break
            if isinstance(event, Connected):
                try:
                    self._presence.connected(self._control)
                except RetryLater:
                    break
        if self._control.connected:
            self._presence.report(self._control, self._reported(), now_s)

    def _reported(self) -> Reported:
        return Reported(
            session=self._presence.session_id,
            ledgers=self._log.ledgers()[-LEDGERS_REPORTED_MAX:],
            streams=[self._stream],
            counters=log_counters(self._log, self._uplink.figures),
        )

    # ---- what it has to show ---------------------------------------------------------------------

    def calm(self) -> None:
        """No more faults, no labels to wait for: the end of a run."""
        self.line.calm = self.clock.calm = True
        self._labels.clear()

    def ledgers(self) -> dict[str, list[LedgerTotals]]:
        """The books of each log that is open."""
        if not self.on:
            return {}
        found = {"ingestion": self._log.ledgers()}
        if self._inference is not None:
            found["inference"] = self._results.ledgers()
        return found

    @property
    def pending(self) -> int:
        """Rows that the cloud has not acknowledged."""
        return sum(one.pending for books in self.ledgers().values() for one in books)

    @property
    def windows(self) -> int:
        """Windows scored since the last boot."""
        return self._inference.windows if self._inference is not None else 0

    @property
    def slots(self) -> list[tuple[str, int]]:
        """Phase and active version (0 for none) of each slot."""
        if self._inference is None:
            return []
        slots = [serving.slot for serving in self._inference.slots.values()]
        return [(s.phase.value, s.active.version if s.active is not None else 0) for s in slots]
