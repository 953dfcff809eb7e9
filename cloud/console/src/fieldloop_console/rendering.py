"""Templates: HTML for pages and their live parts, escaped by default.

Everything that a device or a person wrote comes through here, so that none of it can be markup.
Times are written as `<time>` with the instant in it; the browser says how long ago that was, and so
a part of a page changes only where what it says does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from fieldloop_store.queries import EventRow

WORDS_MAX = 160
_DULL = frozenset({"epoch", "seq_first", "seq_last", "digest", "session"})

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A template filled in."""
    return _ENVIRONMENT.get_template(template).render(**values)


def clock(t_ns: int | None) -> str:
    """A time in UTC, to the second; a dash for none."""
    if not isinstance(t_ns, int) or not t_ns:
        return "–"
    try:
        return datetime.fromtimestamp(t_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return f"{t_ns} ns"


def moment(t_ns: int | None) -> Markup:
    """A time as an element of which the browser says how long ago it was."""
    if not isinstance(t_ns, int) or not t_ns:
        return Markup("<span class='quiet'>never</span>")
    try:
        instant = datetime.fromtimestamp(t_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return Markup("<span>{}</span>").format(clock(t_ns))
    return Markup('<time datetime="{}" title="{} UTC" data-ago>{}</time>').format(
        instant, clock(t_ns), clock(t_ns)
    )


def count(value: float | None) -> str:
    """A number for people: 1,234 or 1.2 million; a dash for none."""
    if not isinstance(value, int | float):
        return "–"
    if value >= 10_000_000:
        return f"{value / 1e6:,.1f} million"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.1f}"


def share(value: float | None) -> str:
    """A share in percent; a dash for none."""
    return f"{value:.1%}" if isinstance(value, int | float) else "–"


def size(value: float | None) -> str:
    """Bytes for people."""
    if not isinstance(value, int | float):
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError


def span(seconds: float) -> str:
    """How long something takes, for people: two days, five hours, ten minutes."""
    for name, unit in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * unit or (name == "minute" and seconds >= unit):
            number = round(seconds / unit)
            return f"{number} {name}{'s' if number != 1 else ''}"
    return "less than a minute"


def told(event: EventRow) -> str:
    """The data of an event in a few words."""
    words = []
    for name, value in event.data.items():
        if isinstance(value, dict):
            if "name" in value and "version" in value:
                words.append(f"{value['name']} v{value['version']}")
            continue
        if isinstance(value, str | int | float) and not name.endswith("_ns") and name not in _DULL:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)[:WORDS_MAX]


_ENVIRONMENT.filters.update(
    told=told, clock=clock, moment=moment, count=count, share=share, size=size, span=span
)
