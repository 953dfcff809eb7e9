"""`python -m fieldloop_inference run | try`: composition root of the service, and the workbench."""
# ruff: noqa: E402 - what is not to be loaded has to be said before it is imported

from __future__ import annotations

import os

# Before numpy is imported: OpenBLAS would reserve tens of MiB for threads that nothing here uses.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from fieldloop_inference.memory import defer, give_back, share_one_heap

defer()

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version

from fieldloop_buffer import Log, Reader
from fieldloop_buffer.metrics import Metrics, log_counters
from fieldloop_buffer.uplink import Uplink
from fieldloop_inference import local
from fieldloop_inference.service import (
    SERVICE,
    Inference,
    capability,
    read_root,
)
from fieldloop_inference.settings import InferenceSettings
from fieldloop_inference.trials import Trial
from fieldloop_inference.updatelock import UpdateLock, lock_path
from fieldloop_runtime import health as health_server
from fieldloop_runtime import journal, life
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.link import LinkMeter
from fieldloop_runtime.mqtt import Session
from fieldloop_runtime.presence import Presence
from fieldloop_runtime.settings import help_text, load
from fieldloop_update import ModelSource

_DESCRIPTION = """\
Reads the ingestion service's log, cuts windows, scores them with the model that a signed order
names for each slot, and appends the results to a log of its own, which it sends to the cloud.
A new model is fetched, verified, tried in a child process, run beside the old one and swapped in
between two windows; one that fails is taken back. No model is configured here: orders come over
MQTT, signed.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-inference",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=help_text(InferenceSettings),
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "run",
        help="run the service; all settings come from the environment",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=help_text(InferenceSettings),
    )
    attempt = commands.add_parser("try", help="describe and run any .tflite file on this machine")
    attempt.add_argument("model", help="the .tflite file")
    attempt.add_argument("--manifest", help="manifest.json that describes it")
    attempt.add_argument("--input", help=".npz with an array `inputs`, or golden vectors")
    attempt.add_argument("--write-manifest", help="where to write a draft manifest")
    attempt.add_argument("--runs", type=int, default=200, help="runs to measure (default 200)")
    attempt.add_argument("--runtime", default="auto", choices=("auto", "litert", "tflite"))
    attempt.add_argument("--threads", type=int, default=1)
    return top


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Entry; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.command == "try":
        from fieldloop_inference import workbench  # noqa: PLC0415 - not needed by the service

        return workbench.main(arguments)
    environment = os.environ if environ is None else environ
    return life.run(SERVICE, lambda process: serve(process, environment))


def serve(process: Life, environ: Mapping[str, str]) -> None:
    """Read the settings, compose the service, and run its loop until it is told to stop."""
    settings = load(InferenceSettings, environ)
    share_one_heap()
    journal.configure(settings.log_level)
    log_book = Journal(SERVICE)
    clock = SystemClock(trusted=settings.trust_clock)
    fleet, device = settings.fleet, settings.device
    root = read_root(settings.root_file)
    log = Log.open(settings.log, fleet=fleet, device=device, service=SERVICE, journal=log_book)
    folder = os.path.dirname(os.path.abspath(settings.log.path))
    link = LinkMeter(settings.link, folder, SERVICE, clock.now)
    source, session, presence = _connect(settings, root, clock, log_book, link)
    uplink = Uplink(
        settings.uplink,
        mqtt=settings.mqtt,
        fleet=fleet,
        device=device,
        service=SERVICE,
        log_path=settings.log.path,
        journal=log_book,
        meter=link,
    )
    reader = Reader(settings.input_path)
    lamp = _connect_locally(settings)
    update_lock = UpdateLock(lock_path(settings.update_lock, environ), log_book)
    health = Health()
    metrics = Metrics(health.registry)
    service = Inference(
        settings,
        source=source,
        log=log,
        reader=reader,
        clock=clock,
        journal=log_book,
        session=session,
        local=lamp,
        presence=presence,
        take_orders=uplink.take_orders,
        begin_trial=update_lock.around(partial(Trial, delegate=settings.delegate)),
        counters=lambda: {
            **source.counters,
            **link.counters(),
            **log_counters(log, uplink.figures),
            "bytes_sent": uplink.bytes_sent + session.bytes_sent,
            "bytes_received": uplink.bytes_received + session.bytes_received,
            "mqtt.dropped": session.dropped,
            **{f"update_lock.{name}": n for name, n in update_lock.counters.items()},
        },
        observe=lambda reported: metrics.update(reported, uplink.figures, log),
    )
    stop_health = health_server.serve(health, settings.health)
    try:
        service.start()
        session.start()
        if lamp is not None:
            lamp.start()
        uplink.start()
        give_back()
        log_book.info("service.started", device=device, slots=sorted(service.slots))
        while not process.stop.is_set():
            scored = service.turn(time.monotonic())
            update_lock.step(time.monotonic())
            health.tick("owner")
            service.listen(0.0 if scored else settings.idle_ms / 1000)
            if not (session.alive and uplink.alive and (lamp is None or lamp.alive)):
                log_book.error("thread.died", session=session.alive, uplink=uplink.alive)
                process.fail(ExitCode.THREAD_DIED)
    finally:
        service.stop()
        update_lock.close()
        uplink.stop()
        session.stop(presence.will())
        if lamp is not None:
            lamp.stop(local.status(device, SERVICE, "offline"))
        source.close()
        reader.close()
        log.close()
        stop_health()
        log_book.info("service.ended", windows=service.windows)


def _connect(
    settings: InferenceSettings,
    root: bytes,
    clock: SystemClock,
    log_book: Journal,
    link: LinkMeter,
) -> tuple[ModelSource, Session, Presence]:
    """The source of orders and bundles, the control connection that feeds it, and our presence."""
    fleet, device = settings.fleet, settings.device
    update = settings.update
    if settings.trust_clock and not update.trust_clock:
        update = update.model_copy(update={"trust_clock": True})
    session: Session | None = None
    source = ModelSource(
        update,
        fleet=fleet,
        device=device,
        service=SERVICE,
        root=root,
        subscribe=lambda *filters: session.subscribe(*filters) if session else None,
        unsubscribe=lambda *filters: session.unsubscribe(*filters) if session else None,
        capability=lambda: capability(settings),
        clock=clock,
        journal=log_book,
        link=link,
    )
    presence = Presence(
        fleet,
        device,
        SERVICE,
        versions={"fieldloop-inference": version("fieldloop-inference")},
        capability=capability(settings),
        meter=link,
    )
    session = Session(
        settings.mqtt,
        f"{fleet}/{device}/{SERVICE}/ctl",
        subscriptions=source.filters(),
        will=presence.will(),
        meter=link,
    )
    return source, session, presence


def _connect_locally(settings: InferenceSettings) -> Session | None:
    """A connection to the device's own broker, where one is set."""
    if not settings.local_mqtt.host:
        return None
    return Session(
        settings.local_mqtt,
        f"{settings.fleet}/{settings.device}/{SERVICE}/local",
        will=local.status(settings.device, SERVICE, "offline"),
    )


if __name__ == "__main__":
    sys.exit(main())
