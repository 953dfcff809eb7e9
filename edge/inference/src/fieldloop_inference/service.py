"""The owner loop: MQTT, orders, slots, log, in turns. One thread owns all of it.

Each turn takes a bounded number of messages, advances the update source, scores for at most
`batch_ms` in each slot, and commits. So an order is obeyed and a ping answered under any load, and
results are on disk within the log's commit interval.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fieldloop_buffer import Log, Reader, event_entry
from fieldloop_buffer.metrics import LEDGERS_REPORTED_MAX
from fieldloop_buffer.outlook import Outlook
from fieldloop_contract.desired import SlotOrder
from fieldloop_contract.errors import FixConfiguration, MalformedMessage, OutOfSpace, RetryLater
from fieldloop_contract.ids import check_id
from fieldloop_contract.messages import Capability, Reported
from fieldloop_inference.local import Outlet, listen
from fieldloop_inference.profiles import ProfileShelf
from fieldloop_inference.serving import Serving
from fieldloop_inference.settings import InferenceSettings
from fieldloop_inference.tools import Source, Tools
from fieldloop_inference.trials import Trial
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.mqtt import Connected, Disconnected, Received, Session
from fieldloop_runtime.presence import Presence
from fieldloop_scoring.runners import Runner, check_delegate, choose_runtime
from fieldloop_scoring.runners.operators import operators
from fieldloop_update import Missing, Ordered, Ready, Refused

SERVICE: Final = "inference"
MESSAGES_PER_TURN: Final = 200
SLOTS_MAX: Final = 16
MAINTAIN_EVERY_S: Final = 1.0
REPORT_EVERY_S: Final = 1.0
_DISTRIBUTION = {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}


class Inference:
    """All slots of one device, and what feeds and reports them. Owner thread only.

    Args:
        source: orders and bundles; `fieldloop_update.ModelSource`.
        session: the control connection, or None without MQTT.
        local: the connection to the device's own broker, or None without one.
        take_orders: what the uplink asks the log to do.
        counters: further figures for the report.
        observe: is given each report, once a second, connected or not.
        begin_trial: starts the trial of a candidate.
        load: makes the runner of a bundle; the installed TFLite runtime by default.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        *,
        source: Any,
        log: Log,
        reader: Reader,
        clock: SystemClock,
        journal: Journal,
        session: Session | None = None,
        local: Session | None = None,
        presence: Presence | None = None,
        take_orders: Callable[[], list[Any]] = list,
        counters: Callable[[], dict[str, int]] = dict,
        observe: Callable[[Reported], None] = lambda _: None,
        begin_trial: Callable[..., Any] = Trial,
        load: Callable[..., Runner] | None = None,
    ) -> None:
        self.slots: dict[str, Serving] = {}
        self.windows = 0
        self._settings = settings
        self._source = source
        self._log = log
        self._clock = clock
        self._journal = journal
        self._session = session
        self._local = local
        self._outlet = Outlet(settings.device, SERVICE, local) if local is not None else None
        self._presence = presence
        self._take_orders = take_orders
        self._counters = counters
        self._observe = observe
        self._profile = ProfileShelf(settings.profile_path, journal)
        self._outlook = Outlook()
        self._noise = Throttle(60)
        self._origin = f"{settings.fleet}/{settings.device}/{SERVICE}"
        self._kept: set[str] | None = None
        self._maintained_s = self._reported_s = float("-inf")
        source_protocol: Source = source
        self._tools = Tools(
            fleet=settings.fleet,
            device=settings.device,
            source=source_protocol,
            log=log,
            reader=reader,
            emit=self.emit,
            now_ns=lambda: clock.now().utc_ns,
            journal=journal,
            runtime=settings.runtime,
            threads=settings.threads,
            backlog=settings.backlog,
            skip_rows_max=settings.skip_rows_max,
            shadow_windows=settings.shadow_windows,
            shadow_cpu_percent=settings.shadow_cpu_percent,
            samples=settings.samples,
            delegate=settings.delegate,
            outlet=self._outlet,
            begin_trial=begin_trial,
            load=load,
        )

    def start(self) -> None:
        """Take up the slots that the log knows, each with its active model."""
        try:
            names = [check_id(n, "slot") for n in json.loads(self._log.state("slots") or "[]")]
        except (ValueError, TypeError, MalformedMessage):
            names = []
        for name in names[:SLOTS_MAX]:
            self._open_slot(name)
        self._commit(force=True)

    def _open_slot(self, name: str) -> Serving:
        slot = self.slots[name] = Serving(name, self._tools)
        self._log.set_state("slots", json.dumps(sorted(self.slots)))
        slot.start()
        return slot

    def stop(self) -> None:
        """End cleanly: what was scored is on disk."""
        for slot in self.slots.values():
            slot.stop()
        self._commit(force=True)

    def emit(self, type_: str, stream: str, data: dict[str, Any]) -> None:
        """Write an event to the log; at the bound it is counted by the log, and goes."""
        entry = event_entry(self._origin, type_, data, self._clock.now().utc_ns, stream)
        try:
            self._log.append(entry)
        except OutOfSpace as error:
            self._journal.warning("event.no_room", type=type_, error=str(error))

    def turn(self, now_s: float) -> int:
        """One turn of the loop. Returns the windows scored: 0 means there was nothing to do."""
        for outcome in self._source.step(now_s):
            self._obey(outcome)
        self._profile.step(now_s)
        self._log.apply(self._take_orders())
        scored = 0
        for slot in self.slots.values():
            slot.poll(now_s)
            scored += slot.score(time.monotonic() + self._settings.batch_ms / 1000)
        self.windows += scored
        self._commit()
        self._show()
        self._keep()
        if now_s - self._maintained_s >= MAINTAIN_EVERY_S:
            self._maintained_s = now_s
            self._log.maintain(self._clock.now().utc_ns)
        self._report(now_s)
        return scored

    def _commit(self, *, force: bool = False) -> None:
        try:
            self._log.commit(force=force)
        except OutOfSpace as error:
            if self._noise.allow():
                self._journal.warning("log.out_of_space", error=str(error))

    def _show(self) -> None:
        """Bring the device's own broker up to date."""
        if self._outlet is not None and self._local is not None:
            listen(self._local, self._outlet, self._settings.device, SERVICE)
            self._outlet.step(self._log.durable_seq)

    # Orders.

    def _obey(self, outcome: Ordered | Ready | Refused | Missing) -> None:
        if isinstance(outcome, Ordered):
            self._order(outcome)
        elif isinstance(outcome, Ready):
            for slot in self.slots.values():
                slot.fetched(outcome.ref)
        elif isinstance(outcome, Refused):
            data: dict[str, Any] = {"code": outcome.code, "reason": outcome.reason}
            if outcome.ref is not None:
                data["model"] = outcome.ref.model_dump(include={"name", "version", "digest"})
                for slot in self.slots.values() if outcome.final else ():
                    slot.refused(outcome.ref, outcome.reason)
            self.emit("update.refused", SERVICE, data)
            self._journal.warning("update.refused", **data)
        else:
            self.emit("chunk.missing", SERVICE, {"chunks": list(outcome.chunks)[:100]})
            self._journal.warning("chunk.missing", count=len(outcome.chunks))

    def _order(self, ordered: Ordered) -> None:
        desired = ordered.desired
        self._profile.order(desired.profile)
        for name in desired.slots:
            if name not in self.slots:
                if len(self.slots) >= SLOTS_MAX:
                    self._journal.error("slot.too_many", slot=name, most=SLOTS_MAX)
                    continue
                self._open_slot(name)
        for name, slot in self.slots.items():
            # A slot that the order no longer names shall run nothing.
            order = desired.slots.get(name, SlotOrder())
            slot.order(order, desired.recalled, ordered.version)

    def _keep(self) -> None:
        """Bundles that no slot needs may go; not while an order is still on its way."""
        needed = {digest for slot in self.slots.values() for digest in slot.slot.digests()}
        if needed != self._kept:
            self._kept = needed
            self._source.keep(needed)

    # MQTT.

    def listen(self, timeout_s: float) -> None:
        """Take what the session received; wait up to `timeout_s` for the first message."""
        if self._session is None:
            time.sleep(timeout_s)
            return
        for _ in range(MESSAGES_PER_TURN):
            event = self._session.poll(timeout_s)
            timeout_s = 0.0
            if event is None:
                return
            if isinstance(event, Received):
                self._source.message(event.topic, event.payload)
            elif isinstance(event, Connected):
                self._source.connected()
                if self._presence is not None:
                    try:
                        self._presence.connected(self._session)
                    except RetryLater as error:
                        self._journal.warning("status.not_sent", error=str(error))
            elif isinstance(event, Disconnected):
                self._source.disconnected()

    def _report(self, now_s: float) -> None:
        if now_s - self._reported_s < REPORT_EVERY_S:
            return
        self._reported_s = now_s
        reported = self.reported()
        self._observe(reported)
        if self._presence is not None and self._session is not None and self._session.connected:
            self._presence.report(self._session, reported, now_s)

    def reported(self) -> Reported:
        """The retained document: slots, ledgers, counters, backlog."""
        log = self._log
        ledgers = log.ledgers()
        return Reported(
            session=self._presence.session_id if self._presence is not None else "",
            ledgers=ledgers[-LEDGERS_REPORTED_MAX:],
            backlog=self._outlook.look(
                time.monotonic(), ledgers, log.row_bytes, log.capacity_bytes()
            ),
            slots=[slot.report() for slot in self.slots.values()],
            counters={"windows": self.windows, **self._counters()},
        )


def capability(settings: InferenceSettings) -> Capability:
    """What this device can run.

    Raises:
        FixConfiguration: no TFLite runtime is installed, or not the delegate that is asked for.
    """
    runtime = choose_runtime(settings.runtime)
    if settings.delegate:
        check_delegate(settings.delegate, runtime=settings.runtime)
    memory_bytes = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            memory_bytes = int(line.split()[1]) * 1024
    return Capability(
        runtime=runtime,
        runtime_version=version(_DISTRIBUTION[runtime]),
        machine=platform.machine(),
        python=platform.python_version(),
        memory_bytes=memory_bytes,
        delegates=[settings.delegate] if settings.delegate else [],
        disk_free_bytes=shutil.disk_usage(settings.update.dir).free,
        ops=operators(runtime),
    )


def read_root(path: str) -> bytes:
    """The fleet's trusted root metadata.

    Raises:
        FixConfiguration: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FixConfiguration(
            f"the trusted root {path} cannot be read: {error.strerror}",
            code="root.absent",
            hint="copy root.json of the fleet to the device and set FIELDLOOP_ROOT_FILE",
        ) from error
