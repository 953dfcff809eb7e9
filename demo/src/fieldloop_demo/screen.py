"""What the person in front of the demo sees: the stage, how far it is, and what it brought."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S = 10.0


class Screen:
    """Progress bars on a terminal, a line now and then elsewhere. One thread."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.seconds: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._begun_s = 0.0
        self._said_s = 0.0

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True)

    def begin(self, stage: str, title: str) -> None:
        """Begin a stage; `stage` is its key among the seconds."""
        self._stage, self._begun_s, self._said_s = stage, time.monotonic(), time.monotonic()
        self._task = self._progress.add_task(title, total=None, note="")
        if not self.console.is_terminal:
            self.console.print(f"  ... {title}")

    def update(self, done: float, total: float, note: str) -> None:
        """How far the stage is."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total or None, note=note)
        if not self.console.is_terminal and time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self.console.print(f"      {note}")

    def end(self, brought: str) -> None:
        """End the stage and say what it brought."""
        seconds = time.monotonic() - self._begun_s
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + seconds
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self.say(f"[green]✓[/green] [dim]{seconds:5.1f} s[/dim]  {brought}")
