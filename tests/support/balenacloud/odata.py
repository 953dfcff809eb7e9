"""The part of OData 4 that pine clients send: paths, options, filters; parsed, then evaluated.

Grammar of a filter, loosest first: `or`, `and`, `not(...)`, comparison or `in (...)`, literals,
function calls, lambdas (`path/any(d:...)`) and paths. What is not of it is a `ParsingError`, which
the real API answers with 500 and no body.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

DEPTH_MAX = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)(?![\w.])"
    r"|(?P<name>[$@A-Za-z_]\w*)|(?P<mark>[(),/:;=*]))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "contains": lambda text, part: part in text,
    "startswith": lambda text, part: text.startswith(part),
    "endswith": lambda text, part: text.endswith(part),
    "tolower": lambda text: text.lower(),
    "toupper": lambda text: text.upper(),
    "length": len,
}


class ParsingError(Exception):
    """Not a URL of the subset."""


class Rows(Protocol):
    """How an expression reaches data; a value is None, a text, a flag or a number."""

    def value(self, resource: str, row: int, name: str) -> Any:
        """A field, or the id behind a navigation property. Raises ParsingError: no such field."""

    def related(self, resource: str, row: int, name: str) -> tuple[str, list[int]]:
        """The rows behind a navigation property. Raises ParsingError: no such property."""


Row = tuple[str, int]
Scope = Mapping[str, Row]
Expression = Callable[[Rows, Row, Scope], Any]


@dataclass(slots=True)
class Options:
    """Query options of a resource or of an expanded one; None is "not given"."""

    select: list[str] | None = None
    expand: dict[str, Options] = field(default_factory=dict)
    filter: Expression | None = None
    orderby: list[tuple[str, bool]] = field(default_factory=list)
    top: int | None = None
    skip: int = 0
    count: bool = False


class _Reader:
    """Tokens of one URL part, decoded already."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ParsingError(f"at {text[at : at + 20]!r}")
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        kind_and_text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if wanted and kind_and_text[1] != wanted:
            raise ParsingError(f"{wanted!r} expected, not {kind_and_text[1]!r}")
        self.at += 1
        return kind_and_text[1]

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)


def parse_filter(text: str) -> Expression:
    """A `$filter`. Raises ParsingError."""
    reader = _Reader(text)
    expression = _or(reader)
    if not reader.done:
        raise ParsingError(f"{reader.peek()!r} left over")
    return expression


def _or(reader: _Reader) -> Expression:
    reader.depth += 1
    if reader.depth > DEPTH_MAX:
        raise ParsingError("nested too deeply")
    parts = [_and(reader)]
    while reader.peek() == "or":
        reader.take()
        parts.append(_and(reader))
    reader.depth -= 1
    return parts[0] if len(parts) == 1 else lambda d, r, s: any(_true(p(d, r, s)) for p in parts)


def _and(reader: _Reader) -> Expression:
    parts = [_comparison(reader)]
    while reader.peek() == "and":
        reader.take()
        parts.append(_comparison(reader))
    return parts[0] if len(parts) == 1 else lambda d, r, s: all(_true(p(d, r, s)) for p in parts)


def _true(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParsingError(f"{value!r} is no condition")
    return value


def _comparison(reader: _Reader) -> Expression:
    if reader.peek() == "not" and reader.peek(1) == "(":
        reader.take()
        inner = _term(reader)
        return lambda d, r, s: not _true(inner(d, r, s))
    left = _term(reader)
    word = reader.peek()
    if word in _COMPARE:
        reader.take()
        right = _term(reader)
        return lambda d, r, s: _compare(word, left(d, r, s), right(d, r, s))
    if word == "in":
        reader.take()
        reader.take("(")
        choices = [_term(reader)]
        while reader.peek() == ",":
            reader.take()
            choices.append(_term(reader))
        reader.take(")")
        return lambda d, r, s: left(d, r, s) in [c(d, r, s) for c in choices]
    return left


def _compare(word: str, left: Any, right: Any) -> bool:
    """As SQL does: NULL equals NULL here (pine writes IS NULL), and is in no order to anything."""
    if word in ("eq", "ne"):
        if isinstance(left, bool) != isinstance(right, bool) and None not in (left, right):
            raise ParsingError("a flag against another type")
        return _COMPARE[word](left, right)
    if left is None or right is None:
        return False
    if isinstance(left, str) != isinstance(right, str):
        raise ParsingError("a text against a number")
    return _COMPARE[word](left, right)


def _term(reader: _Reader) -> Expression:  # noqa: PLR0911 - one return for each form
    kind = reader.kind()
    if reader.peek() == "(":
        reader.take()
        inner = _or(reader)
        reader.take(")")
        return inner
    text = reader.take()
    if kind == "text":
        literal = text[1:-1].replace("''", "'")
        return lambda _d, _r, _s: literal
    if kind == "number":
        number = float(text) if "." in text else int(text)
        return lambda _d, _r, _s: number
    if kind != "name":
        raise ParsingError(f"{text!r} is no operand")
    if text in ("true", "false", "null"):
        constant = {"true": True, "false": False, "null": None}[text]
        return lambda _d, _r, _s: constant
    if text == "datetime" and reader.kind() == "text":
        moment = reader.take()[1:-1]
        return lambda _d, _r, _s: moment
    if reader.peek() == "(":
        return _call(reader, text)
    return _path(reader, text)


def _call(reader: _Reader, name: str) -> Expression:
    if name not in _FUNCTIONS:
        raise ParsingError(f"no function {name!r}")
    reader.take("(")
    arguments = [_or(reader)]
    while reader.peek() == ",":
        reader.take()
        arguments.append(_or(reader))
    reader.take(")")

    def call(data: Rows, row: Row, scope: Scope) -> Any:
        values = [a(data, row, scope) for a in arguments]
        if not all(isinstance(v, str) for v in values):
            return None
        return _FUNCTIONS[name](*values)

    return call


def _path(reader: _Reader, first: str) -> Expression:
    """`field`, `alias/field`, `navigation/field`, or `.../any(alias:condition)`."""
    steps = [first]
    while reader.peek() == "/":
        reader.take()
        word = reader.take()
        if word in ("any", "all") and reader.peek() == "(":
            return _lambda(reader, steps, word)
        steps.append(word)

    def read(data: Rows, row: Row, scope: Scope) -> Any:
        (resource, at), names = _start(steps, row, scope)
        for name in names[:-1]:
            resource, rows = data.related(resource, at, name)
            if not rows:
                return None
            at = rows[0]
        return data.value(resource, at, names[-1]) if names else at

    return read


def _start(steps: list[str], row: Row, scope: Scope) -> tuple[Row, list[str]]:
    return (scope[steps[0]], steps[1:]) if steps[0] in scope else (row, steps)


def _lambda(reader: _Reader, steps: list[str], word: str) -> Expression:
    reader.take("(")
    alias = reader.take()
    reader.take(":")
    condition = _or(reader)
    reader.take(")")

    def judge(data: Rows, row: Row, scope: Scope) -> bool:
        (resource, at), names = _start(steps, row, scope)
        rows = [at]
        for name in names:
            found: list[int] = []
            target = resource
            for each in rows:
                target, some = data.related(resource, each, name)
                found += some
            if not rows:
                return word == "all"
            resource, rows = target, found
        answers = (_true(condition(data, row, {**scope, alias: (resource, r)})) for r in rows)
        return any(answers) if word == "any" else all(answers)

    return judge


# Options.


def split(text: str, mark: str) -> list[str]:
    """Cut at a character outside of brackets and quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, c in enumerate(text):
        if c == "'":
            quoted = not quoted
        elif not quoted and c in "()":
            depth += 1 if c == "(" else -1
        elif not quoted and depth == 0 and c == mark:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def parse_options(parts: list[str]) -> Options:
    """`$name=value` pairs, decoded. Raises ParsingError."""
    options = Options()
    for part in filter(None, parts):
        name, given, value = part.partition("=")
        if not given:
            raise ParsingError(f"option {part!r}")
        if name == "$select":
            options.select = None if value == "*" else [v.strip() for v in value.split(",")]
        elif name == "$filter":
            options.filter = parse_filter(value)
        elif name == "$orderby":
            options.orderby = [_order(v) for v in value.split(",")]
        elif name == "$expand":
            options.expand = dict(_expand(v) for v in split(value, ","))
        elif name in ("$top", "$skip"):
            if not value.isdigit():
                raise ParsingError(f"{name} {value!r}")
            setattr(options, name[1:], int(value))
        elif name.startswith("$"):
            raise ParsingError(f"no option {name!r}")
    return options


def _order(text: str) -> tuple[str, bool]:
    words = text.split()
    if not words or len(words) > 2 or words[1:] not in ([], ["asc"], ["desc"]):
        raise ParsingError(f"$orderby {text!r}")
    return words[0], words[1:] == ["desc"]


def _expand(text: str) -> tuple[str, Options]:
    match = re.fullmatch(r"\s*(\w+)(/\$count)?\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise ParsingError(f"$expand {text!r}")
    # Inside brackets options are divided by `;` in OData, by `&` as pine clients write them.
    inner = [p for part in split(match[3] or "", ";") for p in split(part, "&")]
    options = parse_options(inner)
    options.count = match[2] is not None
    return match[1], options
