"""Lineage as a drawing: what made a version, and where it went. Pure; SVG with escaped text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fieldloop_contract.messages import ModelRef
from fieldloop_store.registry import DatasetRow, ModelRow
from fieldloop_store.rollouts import RolloutRow

_WIDTH, _HEIGHT, _GAP, _ROW = 190, 62, 42, 100
Box = tuple[str, str, str]  # title, words, link


def lineage_diagram(
    base: str,
    row: ModelRow,
    dataset: DatasetRow | None,
    same: Sequence[ModelRow],
    devices: int,
    parent: ModelRef | None = None,
    rollouts: Sequence[RolloutRow] = (),
) -> Markup:
    """Dataset, run, version, rollout and devices from left to right; each box leads to its page.

    Args:
        same: versions trained on the same dataset.
        parent: the version that this one was judged against, drawn below it.
        rollouts: of this version, newest first.
    """
    summary = dataset.summary if dataset else {}
    figures = [f"{summary[key]} {key}" for key in ("recordings", "labels", "windows")
               if isinstance(summary.get(key), int)]  # fmt: skip
    boxes: list[Box] = []
    if dataset is not None:
        others = f", {len(same)} versions" if len(same) > 1 else ""
        words = (", ".join(figures) or dataset.digest[:12]) + others
        boxes.append(("Dataset", words, f"{base}/data"))
    if row.run:
        boxes.append(("Training run", row.run[:12], f"{base}/training/{row.run}"))
    at_version = len(boxes)
    boxes.append((f"{row.name} v{row.version}", row.state, ""))
    if rollouts:
        more = f", {len(rollouts) - 1} before" if len(rollouts) > 1 else ""
        link = f"{base}/rollouts/{rollouts[0].id}"
        boxes.append((f"Rollout to {rollouts[0].slot}", rollouts[0].state + more, link))
    boxes.append(("In the field", f"{devices} devices", f"{base}/devices"))
    width = len(boxes) * (_WIDTH + _GAP) - _GAP + 4
    height = _HEIGHT + 4 + (_ROW if parent else 0)
    parts = [
        Markup(
            '<svg class="lineage" role="group" aria-label="Lineage of the model" '
            'viewBox="0 0 {} {}" width="{}" height="{}" style="max-width:none">'
        ).format(width, height, width, height)
    ]
    for at, box in enumerate(boxes):
        left = _left(at)
        if at:
            parts.append(_arrow(left - _GAP + 6, left - 6))
        parts.append(_linked(_box(left, 2, box), box))
    if parent is not None:
        left = _left(at_version)
        link = f"{base}/models/{parent.name}/{parent.version}"
        box = (f"{parent.name} v{parent.version}", "parent: judged against it", link)
        parts.append(_upwards(left + _WIDTH // 2))
        parts.append(_linked(_box(left, 2 + _ROW, box), box))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _left(at: int) -> int:
    return 2 + at * (_WIDTH + _GAP)


def _linked(drawn: Markup, box: Box) -> Markup:
    return Markup('<a href="{}">{}</a>').format(box[2], drawn) if box[2] else drawn


def _box(left: int, top: int, box: Box) -> Markup:
    return Markup(
        '<g><rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="var(--sunken)" '
        'stroke="var(--line-strong)"/><text x="{t}" y="{y1}" fill="var(--text)" font-size="14" '
        'font-weight="600">{title}</text><text x="{t}" y="{y2}" fill="var(--quiet)" '
        'font-size="12.5">{words}</text></g>'
    ).format(
        x=left, y=top, w=_WIDTH, h=_HEIGHT, t=left + 14, y1=top + 26, y2=top + 46,
        title=box[0][:22], words=box[1][:27],
    )  # fmt: skip


def _arrow(start: int, end: int) -> Markup:
    middle = 2 + _HEIGHT // 2
    return Markup(
        '<path d="M{} {}H{}m-6-5 6 5-6 5" fill="none" stroke="var(--line-strong)" '
        'stroke-width="2"/>'
    ).format(start, middle, end)


def _upwards(x: int) -> Markup:
    return Markup(
        '<path d="M{} {}V{}m-5 6 5-6 5 6" fill="none" stroke="var(--line-strong)" '
        'stroke-width="2" stroke-dasharray="5 4"/>'
    ).format(x, _ROW - 4, _HEIGHT + 10)
