"""What a person does to commissionings and their records. Any thread."""

from __future__ import annotations

from fieldloop_console.acting import Acting
from fieldloop_console.identity import Actor
from fieldloop_store import commissionings
from fieldloop_store.commissionings import CalibrationRow, CommissioningRow
from fieldloop_store.machines import device_of, machines_of


class CommissioningActions(Acting):
    """Begin, arm, give up, and say that a machine has changed."""

    def commission(
        self,
        actor: Actor,
        fleet: str,
        *,
        machine: str | None = None,
        cohort: str | None = None,
        slot: str,
        running_hours: float,
        budget_per_week: float,
        far_is_meant: bool = False,
    ) -> list[CommissioningRow]:
        """Begin for one machine, or for all of a cohort; one that nothing measures stops all.

        Raises:
            RejectedInput: no such machine or cohort, or figures that cannot be meant.
        """
        target = machine or f"cohort {cohort or ''}"
        with self.acting(
            actor, "operator", "commissioning-begin", target, fleet=fleet, slot=slot,
            hours=running_hours,
        ):  # fmt: skip
            plan = commissionings.checked_plan(running_hours, budget_per_week, far_is_meant)
            whom = [machine] if machine else machines_of(self._store, fleet, cohort or "")
            devices = {name: device_of(self._store, fleet, name) for name in whom}
            return [
                commissionings.begin(
                    self._store, fleet, machine=name, device=device, slot=slot, plan=plan,
                    actor=actor.name, now_ns=self._now_ns(),
                )
                for name, device in devices.items()
            ]  # fmt: skip

    def arm_commissioning(self, actor: Actor, fleet: str, commissioning: str) -> CalibrationRow:
        """Say that the machine is healthy: its record is in force from now on."""
        with self.acting(actor, "operator", "commissioning-arm", commissioning, fleet=fleet):
            return commissionings.arm(
                self._store, fleet, commissioning, actor=actor.name, now_ns=self._now_ns()
            )

    def end_commissioning(self, actor: Actor, fleet: str, commissioning: str) -> None:
        """Give one up."""
        with self.acting(actor, "operator", "commissioning-end", commissioning, fleet=fleet):
            commissionings.end(
                self._store, fleet, commissioning, actor=actor.name, now_ns=self._now_ns()
            )

    def say_changed(self, actor: Actor, fleet: str, machine: str, because: str) -> list[str]:
        """A repair, a moved sensor, another regime: digests of the records in force no more."""
        with self.acting(
            actor, "operator", "machine-changed", machine, fleet=fleet, because=because
        ):
            in_force = commissionings.in_force(self._store, fleet)
            rows = [row for row in in_force if row.machine == machine]
            for row in rows:
                commissionings.go_stale(
                    self._store,
                    fleet,
                    row.device,
                    row.slot,
                    because=because,
                    actor=actor.name,
                    now_ns=self._now_ns(),
                )
            return [row.digest for row in rows]
