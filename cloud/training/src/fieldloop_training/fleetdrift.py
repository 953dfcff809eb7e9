"""Reads what devices reported of drift, and opens the questions that `drifts` finds.

For a classification it may be set to start the proposed run at once. For an anomaly model a person
is always asked: wear is drift, and a model must not learn the fault. Owner thread of the watcher.
"""

from __future__ import annotations

import time
from typing import Any

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import Manifest
from fieldloop_scoring import drift
from fieldloop_scoring.drift import Report
from fieldloop_scoring.sketch import Reference
from fieldloop_store import queries, questions, registry
from fieldloop_store.engine import Store
from fieldloop_training import drifts
from fieldloop_training.settings import TrainingSettings

TYPES = (
    "drift.report", "drift.detected", "drift.ended", "alarm.raised", "alarm.cleared",
)  # fmt: skip
REPORTS_MAX = 64
"""Newest reports of a device that count."""
DEVICES_MAX = 10_000


class FleetDrift:
    """What is known of the model in force, carried from look to look.

    A restart reads the events again from the beginning, and comes to the same.
    """

    def __init__(self, store: Store, settings: TrainingSettings) -> None:
        self._store, self._settings = store, settings
        self._cursor: queries.EventCursor | None = None
        self._digest = ""
        self._manifest: Manifest | None = None
        self._reports: dict[str, list[Report]] = {}
        self._confirmed: dict[str, bool] = {}
        self._alarms: dict[str, bool] = {}
        self._reference: Reference | None = None
        self._limited = False
        self._changed = False

    def look(self, now_ns: int) -> list[str]:
        """Read what is new and ask what is to be asked; ids of new questions.

        Raises:
            RetryLater: the store is away.
        """
        s = self._settings
        approved = registry.list_models(self._store, s.fleet, name=s.model, state="approved")
        if not approved:
            return []
        if approved[-1].digest != self._digest:
            self._serve(approved[-1].digest)
        while page := queries.events_since(
            self._store, s.fleet, self._cursor, types=TYPES, limit=500
        ):
            for event in page:
                self._take(event)
                self._cursor = event.cursor
        if not self._changed or self._manifest is None:
            return []
        self._changed = False
        return self._ask(self._manifest, now_ns)

    def _serve(self, digest: str) -> None:
        """Another model is in force: what was reported of the one before says nothing of it."""
        self._digest = digest
        self._manifest = registry.load_bundle(self._store, digest)[0]
        self._reports, self._confirmed, self._alarms = {}, {}, {}
        self._cursor, self._reference, self._limited = None, None, False
        try:
            parsed = drift.parse(self._manifest.drift_reference)
        except MalformedMessage:
            return
        if parsed is not None:
            self._reference, self._limited = parsed[0], parsed[1].limit is not None

    def _take(self, event: queries.EventRow) -> None:
        data, device = event.data, event.log.device
        if event.type.startswith("alarm."):
            self._alarms[device] = event.type == "alarm.raised"
            return
        model = data.get("model")
        if not isinstance(model, dict) or model.get("digest") != self._digest:
            return
        if event.type != "drift.report":
            self._confirmed[device] = event.type == "drift.detected"
            self._changed = True
            return
        if self._reference is None or len(self._reports) >= DEVICES_MAX:
            return
        try:
            report = Report.from_object(data, self._reference)
        except MalformedMessage:
            return
        kept = self._reports.setdefault(device, [])
        kept.append(report)
        del kept[:-REPORTS_MAX]
        self._changed = True

    def _seen(self, manifest: Manifest) -> list[drifts.Seen]:
        names = [c.name for c in manifest.inputs[0].channels]
        found = []
        for device, reports in sorted(self._reports.items()):
            total = drift.merge(reports)
            half = len(reports) // 2
            recent = 1.0
            if half:
                older, newer = drift.merge(reports[:half]), drift.merge(reports[half:])
                recent = float(newer.sketch.psi().max() / max(older.sketch.psi().max(), 1e-9))
            psi = {n: float(v) for n, v in zip(names, total.sketch.psi(), strict=True)}
            found.append(
                drifts.Seen(
                    device, total.windows, psi, recent, self._confirmed.get(device, False),
                    self._alarms.get(device, False),
                )
            )  # fmt: skip
        return found

    def _ask(self, manifest: Manifest, now_ns: int) -> list[str]:
        s, seen = self._settings, self._seen(manifest)
        windows = int(manifest.lineage.counts.get("windows_fit", 0))
        findings, tests = drifts.find(
            seen, windows, share=s.drift_false_share, limited=self._limited
        )
        # What was answered for this version is not asked again.
        closed = {
            q.subject
            for q in questions.list_questions(self._store, s.fleet, model=s.model)
            if q.state != "open"
        }
        asked = []
        for question in drifts.ask(findings, seen):
            subject = f"v{manifest.version}/{question.subject}"[:200]
            if subject in closed:
                continue
            evidence: dict[str, Any] = question.to_object(tests, s.drift_false_share)
            evidence["model"] = manifest.ref().model_dump(mode="json")
            made, fresh = questions.ask(
                self._store, fleet=s.fleet, model=s.model, kind="drift",
                subject=subject, evidence=evidence,
                proposal={
                    "recipe": s.recipe, "settings": s.recipe_object(),
                    "options": s.run_options().model_dump(mode="json"),
                },
                now_ns=now_ns,
            )  # fmt: skip
            if fresh:
                asked.append(made)
        return asked

    def start(self, question: str, journal: Any) -> None:
        """Start what a question proposes, where the settings let drift of a classification."""
        if self._manifest is None or self._manifest.task != "classification":
            return
        run = questions.answer(
            self._store, question, accept=True, by="settings", state="started",
            now_ns=time.time_ns(),
        )  # fmt: skip
        journal.info("drift.run", question=question, run=run)
