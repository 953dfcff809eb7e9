"""What every stage of a run is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fieldloop_store.engine import Store
from fieldloop_store.runs import RunRow
from fieldloop_training.options import RunOptions
from fieldloop_training.progress import Progress
from fieldloop_training.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Context:
    """One run in the hands of one owner.

    Attributes:
        run: as it was claimed.
        owner: who holds it; every write names it.
        place: the run's own folder.
        datasets_dir: folder of the dataset files.
    """

    store: Store
    run: RunRow
    owner: str
    options: RunOptions
    progress: Progress
    place: Workplace
    datasets_dir: Path
    now_ns: Callable[[], int]

    @property
    def fleet(self) -> str:
        """Of the run."""
        return self.run.fleet

    @property
    def model(self) -> str:
        """Name of the model that the run trains."""
        return self.run.model
