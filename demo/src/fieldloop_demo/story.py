"""The story of the demo, stage by stage: from a signal to a better model on every device."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.messages import Annotation
from fieldloop_demo.desk import Desk
from fieldloop_demo.fleet import FLEET, MODEL, STREAM, Device, Services, choose
from fieldloop_demo.measure import Paired, Scored, paired
from fieldloop_demo.recordings import load
from fieldloop_demo.screen import Screen
from fieldloop_demo.watch import Watch
from fieldloop_runtime.hosting.broker import Broker, is_free
from fieldloop_runtime.hosting.processes import Processes
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.engine import Store
from fieldloop_store.ledger import Books, books
from fieldloop_store.registry import ModelRow
from fieldloop_store.rollouts import RolloutRow, list_rollouts

_POLL_S = 0.25
_STAGE_TIMEOUT_S = 240.0
_TRAFFIC_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Attributes:
        broker: `auto`, `mosquitto` or `amqtt`.
        first: subjects whose devices are there from the beginning.
        later: subjects whose devices come online with the first model.
        speed: of the replay, in times of real time.
        fault: `none`, or `broker` to kill the broker in the middle, with all that it holds.
        recipe: settings of the recipe.
    """

    broker: str = "auto"
    first: tuple[int, ...] = (1, 2, 3, 4)
    later: tuple[int, ...] = (5, 6, 7, 8)
    speed: float = 40.0
    fault: str = "none"
    recipe: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What came out: filled in as the story goes."""

    broker: str = ""
    devices: list[Device] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    before: dict[str, Scored] = field(default_factory=dict)
    after: dict[str, Scored] = field(default_factory=dict)
    accuracy: Paired | None = None
    rollouts: list[RolloutRow] = field(default_factory=list)
    books: list[Books] = field(default_factory=list)
    balanced: bool = False
    wire_bytes: dict[str, int] = field(default_factory=dict)
    windows: dict[str, int] = field(default_factory=dict)
    broker_kills: int = 0


class Story:
    """Plays the demo. One thread; `close` ends all that was started."""

    def __init__(self, options: Options, root: Path, screen: Screen) -> None:
        self.outcome = Outcome()
        self._options = options
        self._root = root
        self._screen = screen
        self._processes = Processes(root / "logs")
        self._broker: Broker | None = None
        self._desk: Desk | None = None
        self._watch: Watch | None = None
        self._services: Services | None = None

    @property
    def watch(self) -> Watch:
        """The view of the store; there once the story has begun."""
        if self._watch is None:
            raise FieldloopError("the story has not begun")
        return self._watch

    def play(self) -> Outcome:
        """Play the whole story; FieldloopError if a stage fails or takes too long."""
        first, later = self._begin()
        self._record(first)
        version_1 = self._train(first, 1)
        self._roll_out(version_1, first)
        self._welcome(later, version_1)
        self._measure("before", later, version_1, self.outcome.before)
        version_2 = self._train(later, 2)
        self._roll_out(version_2, [*first, *later])
        self._measure("after", later, version_2, self.outcome.after)
        self.outcome.accuracy = paired(self.outcome.before, self.outcome.after)
        self._balance()
        return self.outcome

    def show(self, port: int) -> str:
        """Open the dashboard on the fleet as it stands; returns the link to its first log-in.

        Args:
            port: to listen on; where it is taken, another one.

        Raises:
            FieldloopError: the console does not start.
        """
        if self._services is None:
            raise FieldloopError("the story has not begun")
        self._screen.begin("console", "opening the dashboard")
        link = self._services.console(port if is_free(port) else 0)

        def there() -> tuple[float, float, str]:
            # The link is written before the first page can be had, so ask for one.
            url = link.read_text("utf-8").strip() if link.exists() else ""
            return float(bool(url) and answers(url)), 1, "starting the console"

        self._wait(there)
        url = link.read_text("utf-8").strip()
        self._screen.end("the dashboard is open")
        return url

    def stay(self) -> None:
        """Keep the fleet running, with traffic, until interrupted."""
        self._set_traffic(self.outcome.devices, True)
        while True:
            self._tick()
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End the desk and every process."""
        self._processes.terminate()
        if self._desk is not None:
            self._desk.close()
        self._processes.stop()

    def _begin(self) -> tuple[list[Device], list[Device]]:
        screen, options = self._screen, self._options
        screen.begin("start", "starting broker and cloud services")
        recordings = load()
        devices = choose(recordings, options.first, options.later, self._root / "devices")
        self._broker = Broker(options.broker, self._root, self._processes)
        self._broker.start()
        self._services = Services(self._root, self._broker.port, options.speed, self._processes)
        store = Store.open(self._services.store_url)
        self._watch = Watch(store)
        self._services.telemetry()
        self._services.delivery()
        self._services.training(options.recipe)
        mqtt = MqttSettings(host="127.0.0.1", port=self._broker.port, reconnect_cap_s=3)
        self._desk = Desk(FLEET, self._root / "desk", mqtt)
        self.outcome.broker, self.outcome.devices = self._broker.name, devices
        screen.end(
            f"broker [bold]{self._broker.name}[/bold]; telemetry, training and delivery; "
            f"{len(recordings)} recordings of {len({r.subject for r in recordings})} subjects"
        )
        return devices[: len(options.first)], devices[len(options.first) :]

    def _record(self, devices: list[Device]) -> None:
        self._screen.begin("record", f"{len(devices)} devices record, buffer and send")
        for device in devices:
            self._start(device)
        pairs = [(d.id, d.drop("train", r)) for d in devices for r in d.train]
        self._break_broker_after(lambda: self.watch.count_played(pairs) >= len(pairs) // 3)
        self._wait_played(pairs)
        samples = sum(self.watch.played[p].samples for p in pairs)
        self._screen.end(
            f"{len(devices)} devices online; {samples:,} samples of {len(pairs)} recordings "
            "stored and acknowledged"
        )

    def _start(self, device: Device) -> None:
        if self._services is None:
            raise FieldloopError("the story has not begun")
        self._services.device(device)

    def _train(self, devices: list[Device], version: int) -> ModelRow:
        self._screen.begin(f"train_{version}", f"training version {version}")
        labels = self._label(devices)
        found: list[ModelRow] = []

        def trained() -> tuple[float, float, str]:
            found[:] = [m for m in self.watch.models() if m.version == version]
            run = self.watch.newest_run()
            if run is not None and run.state == "failed":
                raise FieldloopError(f"training failed: {run.verdict}", code="demo.training")
            if found and found[0].state == "rejected":
                raise FieldloopError(f"version {version} was rejected: {run and run.verdict}")
            note = f"{labels} labels" if run is None else _progress(run.state, run.progress)
            return len(found), 1, note

        self._wait(trained)
        row = found[0]
        self.outcome.models.append(row)
        metrics = self.watch.manifest(row).lineage.metrics
        size = self.watch.manifest(row).files["model.tflite"].length
        self._screen.end(
            f"{MODEL} version {version}: int8 {_percent(metrics, 'int8')}, "
            f"float {_percent(metrics, 'float')} on the ends of its recordings, held out; "
            f"{size / 1024:.0f} KiB, from {labels} labels"
        )
        return row

    def _label(self, devices: list[Device]) -> int:
        if self._desk is None:
            raise FieldloopError("the story has not begun")
        labels = 0
        for device in devices:
            for file, truth in device.files.items():
                if "-train-" not in file:
                    continue
                played = self.watch.played[device.id, file]
                self._desk.label(
                    Annotation(
                        device=device.id,
                        stream=STREAM,
                        t0_ns=played.t0_ns,
                        t1_ns=played.t1_ns,
                        label=truth,
                        annotator="truth of the recordings",
                    )
                )
                labels += 1
        self._desk.step()
        return labels

    def _roll_out(self, row: ModelRow, devices: list[Device]) -> None:
        self._screen.begin(f"rollout_{row.version}", f"delivering version {row.version}")
        self._set_traffic(devices, True)
        if row.version > 1:
            self._break_broker_after(lambda: bool(self.watch.active(row.version, devices)))
        state: list[RolloutRow] = []

        def rolled_out() -> tuple[float, float, str]:
            state[:] = [
                r for r in list_rollouts(self.watch.store, FLEET) if r.version == row.version
            ]
            if state and state[0].state in ("halted", "aborted", "failed"):
                raise FieldloopError(f"the rollout ended: {state[0].document}", code="demo.rollout")
            active = self.watch.active(row.version, devices)
            complete = bool(state) and state[0].state == "completed"
            note = f"{state[0].state if state else 'signing'}: {len(active)} of {len(devices)}"
            return float(complete and len(active) == len(devices)), 1, note

        self._wait(rolled_out)
        self.outcome.rollouts.append(state[0])
        self._set_traffic(devices, False)
        waves = " then ".join(str(size) for size in _waves(state[0]))
        self._screen.end(
            f"version {row.version} signed, verified, tried and active on {len(devices)} devices"
            + (f" (waves of {waves})" if waves else "")
        )

    def _welcome(self, devices: list[Device], row: ModelRow) -> None:
        self._screen.begin("welcome", f"{len(devices)} new subjects come online")
        for device in devices:
            self._start(device)
        self._set_traffic(devices, True)
        self._wait(
            lambda: (
                len(self.watch.active(row.version, devices)),
                len(devices),
                f"{len(self.watch.active(row.version, devices))} of {len(devices)} have the model",
            )
        )
        self._set_traffic(devices, False)
        pairs = [(d.id, d.drop("train", r)) for d in devices for r in d.train]
        self._wait_played(pairs)
        self._screen.end(f"{len(devices)} new devices fetched version {row.version} on their own")

    def _measure(
        self, purpose: str, devices: list[Device], row: ModelRow, into: dict[str, Scored]
    ) -> None:
        self._screen.begin(f"measure_{purpose}", f"measuring {purpose}: the arm no training saw")
        files = {(d.id, d.drop(purpose, r)): (d, r) for d in devices for r in d.held_out}
        self._wait_played(list(files))
        done: dict[str, Scored] = {}

        def scored() -> tuple[float, float, str]:
            for (_, file), (device, recording) in files.items():
                if recording.name in done:
                    continue
                result = self.watch.score(device, file, recording.name)
                if result.windows >= self.watch.expected(device, file, row):
                    done[recording.name] = result
            return len(done), len(files), f"{len(done)} of {len(files)} recordings scored"

        self._wait(scored)
        into.update(done)
        share = sum(s.accuracy for s in done.values()) / len(done)
        windows = sum(s.windows for s in done.values())
        self._screen.end(
            f"accuracy {purpose}: [bold]{share:.1%}[/bold] over {len(done)} recordings, "
            f"{windows} windows"
        )

    def _balance(self) -> None:
        self._screen.begin("balance", "the last rows arrive; balancing the books")
        latest: list[Books] = []

        def balanced() -> tuple[float, float, str]:
            latest[:] = books(self.watch.store, fleet=FLEET)
            good = sum(settled(b) for b in latest)
            return good, len(latest), f"{good} of {len(latest)} logs balanced"

        try:
            self._wait(balanced, timeout_s=60)
            self.outcome.balanced = True
        except FieldloopError as error:
            self._screen.say(f"[red]{error}[/red]")
        self.outcome.books = latest
        self._count()
        rows = sum(b.report.produced for b in latest if b.report)
        self._screen.end(f"{len(latest)} logs, {rows:,} rows produced, each accounted for")

    def _count(self) -> None:
        for (device, service), reported in self.watch.reported().items():
            sent = reported.counters.get("bytes_sent", 0)
            self.outcome.wire_bytes[f"{device}/{service}"] = sent
            for slot in reported.slots:
                self.outcome.windows[device] = slot.counts.get("windows", 0)

    def _set_traffic(self, devices: Iterable[Device], on: bool) -> None:
        for device in devices:
            device.traffic = on

    def _break_broker_after(self, when: Callable[[], bool]) -> None:
        if self._options.fault == "broker":
            self._fault_due = when

    _fault_due: Callable[[], bool] | None = None

    def _wait_played(self, pairs: list[tuple[str, str]]) -> None:
        def played() -> tuple[float, float, str]:
            count = self.watch.count_played(pairs)
            return count, len(pairs), f"{count} of {len(pairs)} recordings stored"

        self._wait(played)

    def _wait(
        self,
        progress: Callable[[], tuple[float, float, str]],
        timeout_s: float = _STAGE_TIMEOUT_S,
    ) -> None:
        """Poll until done reaches total, keeping the rest of the fleet alive meanwhile."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._tick()
            done, total, note = progress()
            self._screen.update(done, total, note)
            if done >= total:
                return
            if time.monotonic() > deadline:
                raise FieldloopError(f"no end after {timeout_s:.0f} s: {note}", code="demo.timeout")
            time.sleep(_POLL_S)

    def _tick(self) -> None:
        self._processes.check()
        if self._desk is not None:
            self._desk.step()
        self.watch.read_events()
        for device in self.outcome.devices:
            if device.traffic:
                self._keep_traffic(device)
        if self._fault_due is not None and self._fault_due():
            self._fault_due = None
            self._wipe_broker()

    def _keep_traffic(self, device: Device) -> None:
        """Live data while a model is on trial: recordings of the learnt arm, again and again."""
        waiting = [f for f in device.files if (device.id, f) not in self.watch.played]
        for _ in range(_TRAFFIC_AHEAD - len(waiting)):
            device.drop("traffic", device.train[device.dropped % len(device.train)])

    def _wipe_broker(self) -> None:
        if self._broker is None:
            return
        self._broker.kill()
        time.sleep(1.0)
        self._broker.start()
        self.outcome.broker_kills += 1
        self._screen.say("[yellow]the broker was killed, with all it held, and restarted[/yellow]")


def answers(url: str) -> bool:
    """Whether an address answers now."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def settled(book: Books) -> bool:
    """Whether a log's books balance to the row, with nothing left on its way."""
    report = book.report
    return (
        book.balanced
        and report is not None
        and report.pending == 0
        and report.stored == book.held.distinct
    )


def _progress(state: str, progress: dict[str, Any]) -> str:
    """A run's progress in a few words."""
    words = [state, str(progress.get("stage", ""))]
    if "epoch" in progress:
        words.append(f"epoch {progress['epoch']} of {progress.get('epochs', '?')}")
    if isinstance(progress.get("accuracy"), float):
        words.append(f"accuracy {progress['accuracy']:.2f}")
    return " ".join(words)


def _percent(metrics: dict[str, dict[str, float]], name: str) -> str:
    value = metrics.get(name, {}).get("accuracy")
    return "not measured" if value is None else f"{value:.1%}"


def _waves(row: RolloutRow) -> list[int]:
    """How many devices each wave touched."""
    return [len(wave["devices"]) for wave in row.document["waves"]]
