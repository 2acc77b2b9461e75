"""Statements for repeated blocks as loops over their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from tracer.alignment.patterns import Pattern
from tracer.alignment.templates import Place, Point, Template

_MARK = re.compile("\0([st])([0-9]+)\0")


class Statements(Protocol):
    """Lines with places for names, as :class:`tracer.weights.script.Block` has them."""

    @property
    def lines(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> tuple[str, ...]: ...


def loops(blocks: Sequence[Statements], patterns: Sequence[Pattern]) -> list[str]:
    """The blocks' lines, those that a pattern holds together once, in a loop; each where the first of it stands.

    Patterns over the same numbers share a loop.
    """
    shared: dict[tuple[tuple[Point, ...], tuple[str, ...]], list[Pattern]] = {}
    for pattern in patterns:
        points = tuple(sorted(pattern.points))
        shared.setdefault((points, pattern.variables), []).append(pattern)
    inside = {member for pattern in patterns for member in pattern.members}
    found: list[tuple[int, list[str]]] = [
        (at, [_named(line, block.source, block.target) for line in block.lines])
        for at, block in enumerate(blocks)
        if at not in inside
    ]
    for (points, variables), alike in shared.items():
        alike.sort(key=lambda pattern: min(pattern.members))
        body: list[str] = []
        for pattern in alike:
            block = blocks[pattern.members[0]]
            names = pattern.sides if block.source else (pattern.sides[1], pattern.sides[1])
            body += [_named(line, names[0], names[1]) for line in block.lines]
        found.append((min(alike[0].members), _loop(points, variables, body)))
    return [line for _, lines in sorted(found, key=lambda item: item[0]) for line in lines]


def _named(line: str, source: Sequence[str | Template], target: Sequence[str | Template]) -> str:
    def name(match: re.Match[str]) -> str:
        return quoted((source if match[1] == "s" else target)[int(match[2])])

    return _MARK.sub(name, line)


def quoted(name: str | Template) -> str:
    """A name as a Python string, with its variables in braces where it has any."""
    if isinstance(name, str):
        return _literal(name)
    if not name.variables:
        return _literal("".join(map(str, name.parts)))
    inside = "".join(
        _literal(part)[1:-1].replace("{", "{{").replace("}", "}}") if isinstance(part, str) else _place(part)
        for part in name.parts
    )
    return f'f"{inside}"'


def _literal(text: str) -> str:
    """Between double quotes; what is not ASCII or not printable is escaped: names come from files."""
    plain = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{plain}"'


def _place(place: Place) -> str:
    factor = f"{place.factor} * " if place.factor != 1 else ""
    offset = f" {'+' if place.offset > 0 else '-'} {abs(place.offset)}" if place.offset else ""
    number = f"{factor}{place.variable}{offset}"
    return f"{{suffix({number})}}" if place.suffix else f"{{{number}}}"


def _loop(points: Sequence[Point], variables: Sequence[str], body: Sequence[str]) -> list[str]:
    """A loop over the points, nested where they are a grid or its rows begin at one number."""
    heads = list(_heads(points, variables))
    depth = len(heads)
    return [*("    " * at + head for at, head in enumerate(heads)), *("    " * depth + line for line in body)]


def _heads(points: Sequence[Point], variables: Sequence[str]) -> Iterator[str]:
    if len(variables) == 1:
        yield f"for {variables[0]} in {_values([point[0] for point in points])}:"
        return
    rows: dict[int, list[int]] = {}
    if len(variables) == 2:
        for first, second in points:
            rows.setdefault(first, []).append(second)
        starts = {min(row) for row in rows.values()}
        lengths = [max(row) + 1 for row in rows.values()]
        if all(sorted(row) == list(range(min(row), max(row) + 1)) for row in rows.values()):
            outer = list(rows)
            if len(starts) == 1 and len(set(lengths)) == 1:
                yield f"for {variables[0]} in {_values(outer)}:"
                yield f"for {variables[1]} in {_values(rows[outer[0]])}:"
                return
            if outer == list(range(outer[0], outer[0] + len(outer))):
                start = next(iter(starts)) if len(starts) == 1 else None
                begin = "" if outer[0] == 0 else f", {outer[0]}"
                if start is not None:
                    yield f"for {variables[0]}, end in enumerate({tuple(lengths)}{begin}):"
                    yield f"for {variables[1]} in range({f'{start}, ' if start else ''}end):"
                    return
    yield f"for {', '.join(variables)} in {[*points]}:"


def _values(values: Sequence[int]) -> str:
    if list(values) == list(range(values[0], values[0] + len(values))):
        start = f"{values[0]}, " if values[0] else ""
        return f"range({start}{values[-1] + 1})"
    return f"({', '.join(map(str, values))})"
