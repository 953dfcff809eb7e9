"""YAML with the line of each value, so that faults can be named by file and line. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from fieldloop_contract.errors import FixConfiguration

BYTES_MAX = 1 << 20
DEPTH_MAX = 20
Path = tuple[str | int, ...]


def load(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """Parse a document.

    Returns:
        The value, and for each path in it (keys and indices) the line, from 1.

    Raises:
        FixConfiguration: not YAML, too large or too deep, an alias, or a key that stands twice.
    """
    if len(text) > BYTES_MAX:
        raise FixConfiguration(f"{name}: more than {BYTES_MAX} characters")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FixConfiguration(f"{name}:{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise FixConfiguration(f"{name}: {error}") from error
    if node is None:
        return None, {(): 1}
    lines: dict[Path, int] = {}
    seen: set[int] = set()
    loader = yaml.SafeLoader("")

    def walk(current: Any, path: Path) -> Any:
        line = current.start_mark.line + 1
        if id(current) in seen:
            raise FixConfiguration(f"{name}:{line}: aliases are not used in profiles")
        seen.add(id(current))
        if len(path) > DEPTH_MAX:
            raise FixConfiguration(f"{name}:{line}: nested too deeply")
        lines[path] = line
        if isinstance(current, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value_node in current.value:
                key = str(key_node.value)
                at = key_node.start_mark.line + 1
                if key in found:
                    raise FixConfiguration(f"{name}:{at}: {key} stands twice")
                found[key] = walk(value_node, (*path, key))
                lines[(*path, key)] = at
            return found
        if isinstance(current, yaml.SequenceNode):
            return [walk(item, (*path, i)) for i, item in enumerate(current.value)]
        try:
            return loader.construct_object(current)
        except (yaml.YAMLError, ValueError) as error:
            raise FixConfiguration(f"{name}:{line}: {error!s:.120}") from error

    return walk(node, ()), lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of a path, or of the nearest thing around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 1
