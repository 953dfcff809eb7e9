"""Everything a person can change, with the role that it takes, and its entry in the audit.

The API, the dashboard and the command come through here, so that none of them can forget a check.
Each action is refused before it begins where the actor's role is too low; done or refused, it is
noted. Any thread.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fieldloop_console.commissioning import CommissioningActions
from fieldloop_console.gate import Gate
from fieldloop_console.identity import Actor
from fieldloop_console.training import TrainingActions
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store import (
    access,
    alarms,
    devices,
    labels,
    lifecycle,
    machines,
    registry,
    steering,
    webhooks,
)
from fieldloop_store.access import Role, TokenRow
from fieldloop_store.alarms import AlarmRow
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import find_rollout
from fieldloop_store.webhooks import HookRow

LABELS_AT_ONCE_MAX = 1_000
LABEL_SOURCE = "console"
STEERS = ("pause", "resume", "approve", "abort", "retry")
_DAY_NS = 86_400 * 10**9
DeviceChange = Literal["retire", "reinstate"]


class Actions(CommissioningActions, TrainingActions):
    """What can be done. Any thread."""

    def __init__(self, store: Store, gate: Gate, now_ns: Callable[[], int]) -> None:
        super().__init__(store, now_ns)
        self._gate = gate
        self._labelling = threading.Lock()

    # People

    def add_user(self, actor: Actor, name: str, role: Role) -> str:
        """Add a user; returns the secret of the link by which they set their password."""
        with self.acting(actor, "admin", "user-add", name, to=role):
            access.add_user(self._store, name, role, password=None, now_ns=self._now_ns())
            return self._gate.issue_link(name, by=actor.name)

    def change_user(
        self, actor: Actor, name: str, *, role: Role | None = None, disabled: bool | None = None
    ) -> None:
        """Change a user's role, or disable or enable them."""
        with self.acting(actor, "admin", "user-change", name, to=role, disabled=disabled):
            state = None
            if disabled is not None:
                state = access.DISABLED if disabled else access.ACTIVE
            access.change_user(self._store, name, role=role, state=state, now_ns=self._now_ns())

    def delete_user(self, actor: Actor, name: str) -> None:
        """Delete a user."""
        with self.acting(actor, "admin", "user-delete", name):
            access.delete_user(self._store, name)

    def new_link(self, actor: Actor, name: str) -> str:
        """Make a one-time link by which a user sets a new password."""
        with self.acting(actor, "admin", "user-link", name):
            if access.find_user(self._store, name) is None:
                raise RejectedInput(f"no user {name!r:.80}", code="user.unknown")
            return self._gate.issue_link(name, by=actor.name)

    def add_token(
        self, actor: Actor, name: str, role: Role, days: float | None
    ) -> tuple[TokenRow, str]:
        """Make a token of the actor's own; returns it with its secret."""
        with self.acting(actor, "viewer", "token-add", name, to=role):
            return self._gate.issue_token(actor, name, role, days)

    def revoke_token(self, actor: Actor, token: str) -> None:
        """Revoke a token of the actor's own."""
        with self.acting(actor, "viewer", "token-revoke", token):
            if not access.revoke_token(self._store, token, user=actor.name):
                raise RejectedInput(f"no token {token!r:.40} of yours", code="token.unknown")

    def change_password(self, actor: Actor, old: str, new: str) -> None:
        """Change the actor's own password."""
        self._gate.change_password(actor, old, new)

    # Devices and machines

    def rename_device(self, actor: Actor, fleet: str, device: str, name: str) -> None:
        """Say what people call a device."""
        with self.acting(actor, "operator", "device-rename", device, fleet=fleet, name=name):
            devices.rename_device(
                self._store, fleet, device, name, actor=actor.name, now_ns=self._now_ns()
            )

    def set_device_state(self, actor: Actor, fleet: str, device: str, change: DeviceChange) -> None:
        """Take a device out of service, or back in."""
        does = devices.retire_device if change == "retire" else devices.reinstate_device
        with self.acting(actor, "operator", f"device-{change}", device, fleet=fleet):
            does(self._store, fleet, device, actor=actor.name, now_ns=self._now_ns())

    def replace_device(self, actor: Actor, fleet: str, old: str, new: str) -> None:
        """Put a device in the place of another."""
        with self.acting(actor, "operator", "device-replace", old, fleet=fleet, by=new):
            devices.replace_device(
                self._store, fleet, old, new, actor=actor.name, now_ns=self._now_ns()
            )

    def erase_device(self, actor: Actor, fleet: str, device: str) -> devices.Erasure:
        """Remove every row of a device."""
        with self.acting(actor, "admin", "device-erase", device, fleet=fleet):
            return devices.erase_device(
                self._store, fleet, device, actor=actor.name, now_ns=self._now_ns()
            )

    def put_machine(
        self, actor: Actor, fleet: str, machine: str, site: str, nameplate: dict[str, Any]
    ) -> None:
        """Add a machine, or change its site and nameplate."""
        with self.acting(actor, "operator", "machine-put", machine, fleet=fleet, site=site):
            machines.put_machine(
                self._store, fleet, machine, site=site, nameplate=nameplate, now_ns=self._now_ns()
            )

    def assign_stream(
        self,
        actor: Actor,
        fleet: str,
        machine: str,
        device: str,
        stream: str,
        *,
        from_ns: int | None,
        to_ns: int | None,
        mounting: str,
    ) -> None:
        """Say that a device's stream measures a machine."""
        target = f"{device}/{stream}"
        with self.acting(actor, "operator", "machine-assign", target, fleet=fleet, to=machine):
            now_ns = self._now_ns()
            machines.assign_stream(
                self._store, fleet, device, stream, machine,
                from_ns=now_ns if from_ns is None else from_ns, to_ns=to_ns, mounting=mounting,
                actor=actor.name, now_ns=now_ns,
            )  # fmt: skip

    # Alarms

    def acknowledge_alarm(self, actor: Actor, fleet: str, alarm: str) -> AlarmRow:
        """Say that a person has seen it."""
        with self.acting(actor, "operator", "alarm-acknowledge", alarm, fleet=fleet):
            now_ns = self._now_ns()
            event = lifecycle.Acknowledged(now_ns, actor.name)
            return alarms.act(self._store, fleet, alarm, event, now_ns=now_ns)

    def judge_alarm(
        self, actor: Actor, fleet: str, alarm: str, verdict: lifecycle.Verdict
    ) -> AlarmRow:
        """Say what it was; the verdict is a label of its span at once."""
        with self.acting(actor, "operator", "alarm-judge", alarm, fleet=fleet, verdict=verdict):
            if verdict not in lifecycle.VERDICTS:
                raise RejectedInput(
                    f"no verdict {verdict!r:.40}", code="alarm.verdict",
                    hint=f"one of {', '.join(lifecycle.VERDICTS)}",
                )  # fmt: skip
            now_ns = self._now_ns()
            event = lifecycle.Judged(now_ns, actor.name, verdict)
            return alarms.act(self._store, fleet, alarm, event, now_ns=now_ns)

    def shelve_alarm(
        self, actor: Actor, fleet: str, alarm: str, hours: float, why: str
    ) -> AlarmRow:
        """Hear nothing of it for some hours, and say why."""
        with self.acting(actor, "operator", "alarm-shelve", alarm, fleet=fleet, why=why):
            now_ns = self._now_ns()
            until_ns = now_ns + round(hours * 3_600 * 10**9)
            event = lifecycle.Shelved(now_ns, actor.name, until_ns, why)
            return alarms.act(self._store, fleet, alarm, event, now_ns=now_ns)

    # Data

    def add_labels(
        self, actor: Actor, fleet: str, items: Sequence[Mapping[str, Any]], *, key: str = ""
    ) -> labels.Imported:
        """Store labels under the actor's name.

        Args:
            key: of the caller's choice: the same labels with the same key are stored once.
        """
        with self.acting(actor, "operator", "labels-add", "", fleet=fleet, labels=len(items)):
            if not 1 <= len(items) <= LABELS_AT_ONCE_MAX:
                raise RejectedInput(
                    f"{len(items)} labels", code="labels.count",
                    hint=f"1 to {LABELS_AT_ONCE_MAX} at once",
                )  # fmt: skip
            signed = [{"annotator": actor.name, **item} for item in items]
            now_ns = self._now_ns()
            if key:
                epoch = hashlib.sha256(f"{actor.name}\n{key}".encode()).hexdigest()[:32]
                return labels.add_labels(
                    self._store, fleet, signed, source=LABEL_SOURCE, epoch=epoch, now_ns=now_ns
                )
            day = f"{LABEL_SOURCE} {now_ns // _DAY_NS}"
            epoch = hashlib.sha256(day.encode()).hexdigest()[:32]
            with self._labelling:
                return labels.append_labels(
                    self._store, fleet, signed, source=LABEL_SOURCE, epoch=epoch, now_ns=now_ns
                )

    # Models

    def set_model_state(
        self, actor: Actor, fleet: str, name: str, version: int, state: registry.ModelState
    ) -> None:
        """Recall a version, or approve one again; delivery acts on it."""
        target = f"{name} v{version}"
        with self.acting(actor, "operator", f"model-{state}", target, fleet=fleet):
            if not registry.set_model_state(self._store, fleet, name, version, state):
                raise RejectedInput(f"no model {target}", code="model.unknown")

    # Rollouts

    def steer_rollout(
        self, actor: Actor, fleet: str, kind: str, rollout: str, why: str = ""
    ) -> str:
        """Ask delivery to pause, resume, approve, abort or retry; returns the request's id."""
        with self.acting(actor, "operator", f"rollout-{kind}", rollout, fleet=fleet, why=why):
            if kind not in STEERS:
                raise RejectedInput(
                    f"a rollout is not steered by {kind!r:.40}", code="rollout.request",
                    hint=f"one of {', '.join(STEERS)}",
                )  # fmt: skip
            if find_rollout(self._store, fleet, rollout) is None:
                raise RejectedInput(f"no rollout {rollout!r:.40}", code="rollout.unknown")
            return steering.ask(
                self._store, fleet, kind, by=actor.name, why=why, rollout=rollout,
                now_ns=self._now_ns(),
            )  # fmt: skip

    def start_rollout(
        self, actor: Actor, fleet: str, model: str, version: int, lane: str | None, why: str = ""
    ) -> str:
        """Ask delivery to roll a version out; returns the request's id."""
        target = f"{model} v{version}"
        with self.acting(actor, "operator", "rollout-start", target, fleet=fleet, why=why):
            if registry.find_model(self._store, fleet, model, version) is None:
                raise RejectedInput(f"no model {target}", code="model.unknown")
            return steering.ask(
                self._store, fleet, "start", by=actor.name, why=why, lane=lane, model=model,
                version=version, now_ns=self._now_ns(),
            )  # fmt: skip

    # Webhooks

    def add_hook(
        self,
        actor: Actor,
        fleet: str,
        *,
        direction: webhooks.Direction,
        name: str,
        url: str,
        events: Sequence[str],
        secret: str,
    ) -> HookRow:
        """Add a webhook; returns it with its secret."""
        with self.acting(actor, "admin", "webhook-add", name, fleet=fleet, direction=direction):
            check_id(fleet, "fleet")
            row = HookRow(
                uuid.uuid4().hex, fleet, direction, name, url, list(events), secret, "active",
                actor.name, self._now_ns(),
            )  # fmt: skip
            webhooks.add_hook(self._store, row)
            return row

    def delete_hook(self, actor: Actor, fleet: str, hook: str) -> None:
        """Delete a webhook."""
        with self.acting(actor, "admin", "webhook-delete", hook, fleet=fleet):
            known = webhooks.find_hook(self._store, hook)
            if known is None or known.fleet != fleet:
                raise RejectedInput(f"no webhook {hook!r:.40}", code="webhook.unknown")
            webhooks.delete_hook(self._store, hook)
