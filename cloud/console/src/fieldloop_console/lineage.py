"""Lineage as a drawing: what made a version, and where it went. Pure; SVG with escaped text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fieldloop_store.registry import DatasetRow, ModelRow

_WIDTH, _HEIGHT, _GAP = 210, 62, 46


def lineage_diagram(
    base: str, row: ModelRow, dataset: DatasetRow | None, same: Sequence[ModelRow], devices: int
) -> Markup:
    """Dataset, run, version and devices from left to right; each box leads to its page.

    Args:
        same: versions trained on the same dataset.
    """
    summary = dataset.summary if dataset else {}
    figures = [f"{summary[key]} {key}" for key in ("recordings", "labels", "windows")
               if isinstance(summary.get(key), int)]  # fmt: skip
    boxes: list[tuple[str, str, str]] = []
    if dataset is not None:
        others = f", {len(same)} versions" if len(same) > 1 else ""
        words = (", ".join(figures) or dataset.digest[:12]) + others
        boxes.append(("Dataset", words, f"{base}/data"))
    if row.run:
        boxes.append(("Training run", row.run[:12], f"{base}/training/{row.run}"))
    boxes.append((f"{row.name} v{row.version}", row.state, ""))
    boxes.append(("In the field", f"{devices} devices", f"{base}/devices"))
    width = len(boxes) * (_WIDTH + _GAP) - _GAP + 4
    parts = [
        Markup(
            '<svg class="lineage" role="group" aria-label="Lineage of the model" '
            'viewBox="0 0 {} {}" width="{}" height="{}" style="max-width:none">'
        ).format(width, _HEIGHT + 4, width, _HEIGHT + 4)
    ]
    for at, (title, words, link) in enumerate(boxes):
        left = 2 + at * (_WIDTH + _GAP)
        if at:
            parts.append(_arrow(left - _GAP + 6, left - 6))
        box = _box(left, title, words)
        parts.append(Markup('<a href="{}">{}</a>').format(link, box) if link else box)
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _box(left: int, title: str, words: str) -> Markup:
    return Markup(
        '<g><rect x="{x}" y="2" width="{w}" height="{h}" rx="8" fill="var(--sunken)" '
        'stroke="var(--line-strong)"/><text x="{t}" y="28" fill="var(--text)" font-size="14" '
        'font-weight="600">{title}</text><text x="{t}" y="48" fill="var(--quiet)" '
        'font-size="12.5">{words}</text></g>'
    ).format(x=left, w=_WIDTH, h=_HEIGHT, t=left + 14, title=title[:24], words=words[:30])


def _arrow(start: int, end: int) -> Markup:
    middle = 2 + _HEIGHT // 2
    return Markup(
        '<path d="M{} {}H{}m-6-5 6 5-6 5" fill="none" stroke="var(--line-strong)" '
        'stroke-width="2"/>'
    ).format(start, middle, end)
