"""What training asks a person: what it saw, its evidence, and the run that it proposes.

A question is `open` until it is answered: `accepted` (the proposed run is enqueued, once),
`dismissed`, or `started` where the settings let the run begin without waiting. There is at most one
open question for each model and subject; what is seen meanwhile becomes its newer evidence. Owns
the table `questions`. Keeps no state; any thread may call it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import insert, select, update

from fieldloop_contract.errors import RejectedInput
from fieldloop_store import runqueue
from fieldloop_store.engine import Store
from fieldloop_store.schema import questions

QuestionState = Literal["open", "started", "accepted", "dismissed"]
ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        kind: `drift`.
        subject: what it is about, such as the devices and channels, in a stable form.
        evidence: what was seen; `words` is one sentence for a person.
        proposal: a run to enqueue: `recipe`, `settings`, `options`.
        answer: `by`, `note` and `as` (what it was: sensor, regime, wear, fault).
        run: the run that came of it.
    """

    id: str
    fleet: str
    model: str
    kind: str
    state: str
    subject: str
    evidence: dict[str, Any]
    proposal: dict[str, Any]
    answer: dict[str, Any] | None
    run: str | None
    created_ns: int
    updated_ns: int


_COLUMNS = tuple(questions.c[name] for name in Question.__dataclass_fields__)


def ask(
    store: Store,
    *,
    fleet: str,
    model: str,
    kind: str,
    subject: str,
    evidence: Mapping[str, Any],
    proposal: Mapping[str, Any],
    now_ns: int,
) -> tuple[str, bool]:
    """Open a question, or renew the evidence of the one that is open.

    Returns:
        Its id, and whether it is new.
    """
    q = questions.c
    with store.begin() as connection:
        same = (q.fleet == fleet, q.model == model, q.kind == kind, q.subject == subject[:200])
        known = connection.execute(select(q.id).where(*same, q.state == "open")).scalar()
        newer = {"evidence": dict(evidence), "proposal": dict(proposal), "updated_ns": now_ns}
        if known is not None:
            connection.execute(update(questions).where(q.id == known).values(**newer))
            return str(known), False
        fresh = uuid.uuid4().hex
        row = {
            "id": fresh, "fleet": fleet, "model": model, "kind": kind, "state": "open",
            "subject": subject[:200], "created_ns": now_ns, **newer,
        }  # fmt: skip
        connection.execute(insert(questions).values(**row))
    return fresh, True


def list_questions(
    store: Store,
    fleet: str,
    *,
    model: str | None = None,
    states: Sequence[QuestionState] | None = None,
    limit: int = 100,
) -> list[Question]:
    """Questions, the newest first."""
    query = select(*_COLUMNS).where(questions.c.fleet == fleet)
    if model is not None:
        query = query.where(questions.c.model == model)
    if states is not None:
        query = query.where(questions.c.state.in_(states))
    newest = query.order_by(questions.c.created_ns.desc(), questions.c.id)
    with store.read() as connection:
        return [Question(*row) for row in connection.execute(newest.limit(min(limit, ROWS_MAX)))]


def find_question(store: Store, question: str) -> Question | None:
    """One question, or None."""
    with store.read() as connection:
        query = select(*_COLUMNS).where(questions.c.id == question)
        found = connection.execute(query).one_or_none()
    return None if found is None else Question(*found)


def answer(
    store: Store,
    question: str,
    *,
    accept: bool,
    by: str,
    what: str = "",
    note: str = "",
    now_ns: int,
    state: Literal["accepted", "started"] = "accepted",
) -> str | None:
    """Answer an open question; accepting it enqueues the run that it proposes.

    Args:
        what: what it was, in the answerer's view: sensor, regime, wear, fault, other.
        state: `started` where nobody was asked.

    Returns:
        Id of the run, or None where it was dismissed.

    Raises:
        RejectedInput: no such question, or it is not open.
    """
    q = questions.c
    with store.read() as connection:
        found = connection.execute(select(*_COLUMNS).where(q.id == question)).one_or_none()
    if found is None or found.state != "open":
        raise RejectedInput(f"question {question:.40} is not open", code="questions.closed")
    asked = Question(*found)
    run = None
    if accept:
        # Its id follows from the question's: doing this again after a crash makes no second run.
        run = runqueue.enqueue(
            store, fleet=asked.fleet, model=asked.model, recipe=asked.proposal["recipe"],
            settings=asked.proposal.get("settings") or {},
            options=asked.proposal.get("options") or {},
            trigger={
                "kind": asked.kind, "reason": asked.evidence.get("words", asked.kind), "by": by,
                "question": asked.id,
            },
            now_ns=now_ns, run=asked.id,
        )  # fmt: skip
    said = {"by": by[:200], "what": what[:200], "note": note[:2_000]}
    with store.begin() as connection:
        connection.execute(
            update(questions)
            .where(q.id == question, q.state == "open")
            .values(state=state if accept else "dismissed", answer=said, run=run, updated_ns=now_ns)
        )
    return run
