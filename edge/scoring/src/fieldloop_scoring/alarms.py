"""Alarms from scores: k of n to raise, a lower level and m in a row to clear, so none chatters.

Owns the one rule by which crossings of a threshold become an alarm (`manifest.AlarmRule`); training
uses it to count false alarms as a device would raise them. Windows that are idle or not valid are
not given to it: they neither raise nor clear, so an alarm stands while its machine stands still.
Pure; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fieldloop_contract.manifest import AlarmRule


@dataclass(frozen=True, slots=True)
class Alarm:
    """The state of one alarm.

    Attributes:
        raised: whether it stands.
        recent: the last windows, newest last, "1" for one above the threshold; empty once raised.
        good: windows in a row at or below the level that clears, while it is raised.
    """

    raised: bool = False
    recent: str = ""
    good: int = 0


def step(alarm: Alarm, score: float, threshold: float, rule: AlarmRule) -> Alarm:
    """The state after one more running window.

    >>> rule = AlarmRule(raise_count=2, raise_of=3, clear_below=1.0, clear_count=2)
    >>> state, states = Alarm(), []
    >>> for score in (3, 0, 3, 1.5, 0.5, 0.5):
    ...     state = step(state, score, 2.0, rule)
    ...     states.append(state.raised)
    >>> states
    [False, False, True, True, True, False]
    """
    if alarm.raised:
        clear = threshold if rule.clear_below is None else rule.clear_below
        good = alarm.good + 1 if score <= clear else 0
        return Alarm() if good >= rule.clear_count else replace(alarm, good=good)
    # Kept as long as the rule looks back; a rule with another look-back takes it as it is.
    recent = (alarm.recent + ("1" if score > threshold else "0"))[-rule.raise_of :]
    if recent.count("1") >= rule.raise_count:
        return Alarm(raised=True)
    return Alarm(recent=recent)
