"""`make demo`: the whole loop on this machine, on real data."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from fieldloop_contract.errors import FieldloopError
from fieldloop_demo.pumps import report
from fieldloop_demo.pumps.__main__ import play
from fieldloop_demo.pumps.plant import DAYS
from fieldloop_demo.screen import Screen
from fieldloop_demo.story import Options, Story
from fieldloop_demo.summary import document, succeeded, tables
from fieldloop_runtime import journal


class BrokerKind(StrEnum):
    """Which broker to start."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


class Fault(StrEnum):
    """What to break in the middle."""

    NONE = "none"
    BROKER = "broker"


class Scenario(StrEnum):
    """Which story to play."""

    WATCH = "watch"
    PUMPS = "pumps"


def demo(
    scenario: Annotated[
        Scenario, typer.Option(help="watch: people's recordings; pumps: six simulated machines.")
    ] = Scenario.WATCH,
    seed: Annotated[int, typer.Option(min=0, help="pumps: another seed is another plant.")] = 1,
    once: Annotated[bool, typer.Option(help="End after the summary; otherwise stay up.")] = False,
    summary: Annotated[
        Path | None, typer.Option(help="Write the summary as JSON to this file.")
    ] = None,
    broker: Annotated[BrokerKind, typer.Option(help="Broker to start.")] = BrokerKind.AUTO,
    speed: Annotated[
        float, typer.Option(min=1, max=1000, help="Replay speed, in times of real time.")
    ] = 40.0,
    fault: Annotated[
        Fault, typer.Option(help="Break something in the middle: kill and wipe the broker.")
    ] = Fault.NONE,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the dashboard; where taken, a free one.")
    ] = 8080,
    folder: Annotated[
        Path, typer.Option(help="Where this run keeps its files; emptied at the start.")
    ] = Path(".demo"),
) -> None:
    """Play the loop: on ten people's smart-watch recordings, or on six simulated pumps.

    The pumps are eleven weeks of six unlabelled machines in virtual time, in this process: they are
    commissioned, run, one grows a bearing fault, one changes its load, one loses its sensor, and
    training goes on. It ends by itself. Exit status 0 only if the fault was found, no machine had
    more than one false alarm a week, and each change was called what it was.

    The watch, sense to measure: without --once it ends with the dashboard open on the fleet that it
    taught. Starts a broker, the cloud services and eight devices as processes of their own; trains
    a model from the first four people, gives it to all, learns from four new people, and measures
    whether the second model is better on recordings that no training ever saw. Exit status 0 only
    if the books balance, the rollout completed and accuracy rose.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # SIGINT too: a shell that starts a command in the background has it ignored.
        signal.signal(number, _interrupt)
    journal.configure("ERROR", sys.stderr)
    root = _fresh(folder)
    if scenario is Scenario.PUMPS:
        raise typer.Exit(_play_pumps(root, seed, summary))
    with Screen() as screen:
        story = Story(Options(broker=broker, speed=speed, fault=fault), root, screen)
        try:
            code = _play(story, screen, summary)
            if not once:
                link = story.show(port)
                screen.say(f"See the fleet it taught, and steer it: [bold]{link}[/bold]")
                screen.say("The fleet stays up; Ctrl-C ends it.")
                story.stay()
        except KeyboardInterrupt:
            screen.say("stopping")
            code = 0 if story.outcome.accuracy is not None else 130
        except FieldloopError as error:
            screen.say(f"[red]the demo failed:[/red] {escape(str(error))}")
            screen.say(f"the logs of all processes are in {root / 'logs'}")
            code = 1
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            story.close()
    raise typer.Exit(code)


def _play(story: Story, screen: Screen, path: Path | None) -> int:
    outcome = story.play()
    manifests = [story.watch.manifest(m) for m in outcome.models]
    versions = {
        device: slot.active.version
        for device, slot in story.watch.slots().items()
        if slot.active is not None
    }
    content = document(outcome, manifests, screen.seconds, versions)
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for table in tables(content):
        screen.console.print(table)
    accuracy = outcome.accuracy
    if accuracy is not None:
        screen.say(
            f"accuracy on unseen recordings of new people: [bold]{accuracy.before:.1%} -> "
            f"{accuracy.after:.1%}[/bold]; difference {accuracy.difference:+.1%}, 95 % interval "
            f"{accuracy.low:+.1%} to {accuracy.high:+.1%}, n = {accuracy.n} recordings"
        )
    good = succeeded(outcome)
    screen.say("[green]the loop closed[/green]" if good else "[red]the loop did not close[/red]")
    return 0 if good else 1


def _play_pumps(root: Path, seed: int, path: Path | None) -> int:
    with Screen() as screen:
        screen.say("six pumps, 80 virtual days, each measured every half hour")
        screen.begin("pumps", "pumps")

        def tell(day: float, what: str) -> None:
            if what:
                screen.say(f"[dim]day {day:5.1f}[/dim]  {escape(what)}")
            screen.update(day, DAYS, f"day {day:.1f} of {DAYS}")

        try:
            found = play(seed, root, tell)
        except KeyboardInterrupt:
            screen.say("stopping")
            return 130
        except FieldloopError as error:
            screen.say(f"[red]the demo failed:[/red] {escape(str(error))}")
            return 1
        screen.end("eleven weeks are over")
        if path is not None:
            path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        for table in report.tables(found):
            screen.console.print(table)
        faults, good = found["faults"], bool(found["succeeded"])
        screen.say(
            f"faults found: [bold]{faults['detected']} of {faults['injected']}[/bold], days from "
            f"onset to alarm {faults['days_from_onset_to_alarm']}; false alarms per machine and "
            f"week: {found['false_alarms_per_machine_week']:.3f}; books balanced: "
            f"{found['ledger']['balanced']}"
        )
        screen.say("[green]all was shown[/green]" if good else "[red]not all was shown[/red]")
        return 0 if good else 1


def _fresh(folder: Path) -> Path:
    """An empty folder for this run; refuses to empty one that is not the demo's."""
    root = folder.resolve()
    mark = root / ".fieldloop-demo"
    if root.exists() and any(root.iterdir()):
        if not mark.exists():
            raise typer.BadParameter(f"{folder} is not empty and not a folder of the demo")
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return root


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the command; returns its exit status."""
    typer.run(demo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
