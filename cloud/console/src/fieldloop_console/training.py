"""What a person does to trainings: start, cancel, answer what training asks. Any thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldloop_console.acting import Acting
from fieldloop_console.forms import check_settings
from fieldloop_console.identity import Actor
from fieldloop_contract.errors import RejectedInput
from fieldloop_store import questions, recipes, runqueue, runs


class TrainingActions(Acting):
    """Each action notes itself; settings are checked where the recipe's schema is known."""

    def start_run(
        self,
        actor: Actor,
        fleet: str,
        *,
        model: str,
        recipe: str,
        settings: Mapping[str, Any],
        reason: str = "",
        run: str | None = None,
    ) -> str:
        """Put a training in the queue; returns its id. The same `run` again changes nothing.

        Raises:
            RejectedInput: settings that do not fit the recipe, where training has published it.
        """
        with self.acting(actor, "operator", "run-start", model, fleet=fleet, recipe=recipe):
            known = recipes.find_recipe(self._store, recipe)
            faults = check_settings(known.schema, settings) if known is not None else []
            if faults:
                raise RejectedInput(
                    "; ".join(faults), code="recipe.settings",
                    hint="the recipes' schemas are at /api/v1/recipes",
                )  # fmt: skip
            trigger = {"kind": "hand", "reason": reason or "by hand", "by": actor.name}
            return runqueue.enqueue(
                self._store, fleet=fleet, model=model, recipe=recipe, settings=settings,
                trigger=trigger, now_ns=self._now_ns(), run=run,
            )  # fmt: skip

    def cancel_run(self, actor: Actor, fleet: str, run: str) -> None:
        """End a training that waits, or ask its owner to end it."""
        with self.acting(actor, "operator", "run-cancel", run, fleet=fleet):
            row = runs.find_run(self._store, run)
            if row is None or row.fleet != fleet:
                raise RejectedInput(f"no run {run!r:.40}", code="run.unknown")
            if runqueue.cancel(self._store, run, by=actor.name, now_ns=self._now_ns()) == "no":
                raise RejectedInput("it has ended already", code="run.ended")

    def answer_question(
        self, actor: Actor, fleet: str, question: str, *, train: bool, what: str = "",
        note: str = "",
    ) -> str | None:  # fmt: skip
        """Answer what training asks; returns the run that came of it, None for none.

        Raises:
            RejectedInput: no such question in the fleet, or it is not open.
        """
        with self.acting(
            actor, "operator", "question-answer", question, fleet=fleet, train=train, what=what
        ):
            found = questions.find_question(self._store, question)
            if found is None or found.fleet != fleet:
                raise RejectedInput(f"no question {question!r:.40}", code="questions.unknown")
            return questions.answer(
                self._store, question, accept=train, by=actor.name, what=what, note=note,
                now_ns=self._now_ns(),
            )  # fmt: skip
