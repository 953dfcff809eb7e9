"""What a plan can see, stated before anything is rolled out. Pure.

For harm of a given size: how much evidence it takes until a gate fails, on average, with so many
devices and as many controls; and how many devices a fault must break to be met in a wave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fieldloop_delivery.gatelimits import JUDGED, Gates
from fieldloop_delivery.judging import BETWEEN_SD, SCALE
from fieldloop_delivery.sequential import variance_needed


@dataclass(frozen=True, slots=True)
class Needed:
    """What it takes. `each` is for every device of the wave; infinite where no amount will do."""

    gate: str
    harm: float
    devices: int
    each: float
    devices_min: int

    def __str__(self) -> str:
        unit = "labelled windows" if self.gate == "accuracy" else "alarms before and after together"
        said = {"accuracy": f"accuracy down {self.harm:.2f}", "alarms": f"alarms x {self.harm:.1f}"}
        if math.isinf(self.each):
            return (
                f"{said[self.gate]}: not to be seen with {self.devices} devices; at least"
                f" {self.devices_min} are needed"
            )
        return f"{said[self.gate]}: {math.ceil(self.each)} {unit} on each of {self.devices} devices"


def accuracy_needed(gates: Gates, drop: float, devices: int, accuracy: float = 0.9) -> Needed:
    """Labelled windows of each device, as many before, with one control for each device."""
    limit = gates.error_max / len(JUDGED)
    variance = variance_needed(drop, gates.accuracy_drop_max, SCALE["accuracy"], limit)
    between = 2 * BETWEEN_SD["accuracy"] ** 2
    left = variance * devices - between
    later = accuracy - drop
    spread = 2 * (accuracy * (1 - accuracy) + later * (1 - later)) / gates.independent_share
    each = spread / left if left > 0 else math.inf
    least = math.floor(between / variance) + 1 if variance > 0 else 0
    return Needed("accuracy", drop, devices, each, least)


def alarms_needed(
    gates: Gates, ratio: float, devices: int, dispersion: float = 1.5, exposure: float = 1.0
) -> Needed:
    """Alarms of each device, before and after together, with one control for each device.

    Args:
        dispersion: by how much counts of one machine vary more than Poisson's law says.
        exposure: running windows after for each one before.
    """
    limit = gates.error_max / len(JUDGED)
    margin = math.log(gates.alarm_ratio_max)
    variance = variance_needed(math.log(ratio), margin, SCALE["alarms"], limit)
    between = 2 * BETWEEN_SD["alarms"] ** 2
    left = variance * devices - between
    # Variance of a log ratio of counts a and b is 1/a + 1/b; of the treated, and of the controls.
    total = ratio * exposure + 1
    one = total / (ratio * exposure) + total
    quiet = (exposure + 1) / exposure + (exposure + 1)
    each = dispersion * (one + quiet * total / (exposure + 1)) / left if left > 0 else math.inf
    least = math.floor(between / variance) + 1 if variance > 0 else 0
    return Needed("alarms", ratio, devices, each, least)


def missed_by_chance(gates: Gates, broken_share: float, devices: int) -> float:
    """The chance that a wave meets no more broken devices than it tolerates."""
    allowed = int(gates.failed_share_max * devices)
    return sum(
        math.comb(devices, k) * broken_share**k * (1 - broken_share) ** (devices - k)
        for k in range(min(allowed, devices) + 1)
    )
