"""Statements for repeated blocks as loops over their numbers."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tracer.alignment.patterns import Pattern
from tracer.alignment.templates import Place, Point, Template

_MARK = re.compile("\0([st])([0-9]+)\0")
_NAME = re.compile("\0n([0-9]+)\0")
_DIGITS = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
_FEWEST = 3
"""Two loops lie on any line."""


class Statements(Protocol):
    """Lines with places for names, as :class:`tracer.weighing.script.Block` has them."""

    @property
    def lines(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> tuple[str, ...]: ...


def loops(blocks: Sequence[Statements], patterns: Sequence[Pattern]) -> list[str]:
    """The blocks' lines, those that a pattern holds together once, in a loop; each where the first of it stands.

    Patterns over the same numbers share a loop, and loops that are alike but for their numbers are in a loop again.
    """
    shared: dict[tuple[tuple[Point, ...], Hashable], list[Pattern]] = {}
    for pattern in patterns:
        # What counts at another pace is another kind of block, though there be as many of it.
        pace = tuple((part.variable, part.factor) for part in pattern.sides[1][0].parts if isinstance(part, Place))
        shared.setdefault((tuple(sorted(pattern.points)), pace), []).append(pattern)
    inside = {member for pattern in patterns for member in pattern.members}
    found: list[tuple[int, list[str]]] = [
        (at, [_named(line, block.source, block.target) for line in block.lines])
        for at, block in enumerate(blocks)
        if at not in inside
    ]
    made = [_Loop.of(blocks, points, alike) for (points, _), alike in shared.items()]
    found += [(min(loop.first for loop in group), _nested(group) or [*group[0].text()]) for group in _alike(made)]
    return [line for _, lines in sorted(found, key=lambda item: item[0]) for line in lines]


@dataclass(frozen=True)
class _Loop:
    """A loop over ``points``: lines with marked places, and the names that stand there."""

    first: int
    points: tuple[Point, ...]
    variables: tuple[str, ...]
    lines: tuple[str, ...]
    names: tuple[Template, ...]

    @classmethod
    def of(cls, blocks: Sequence[Statements], points: tuple[Point, ...], alike: Sequence[Pattern]) -> _Loop:
        lines: list[str] = []
        names: list[Template] = []
        for pattern in sorted(alike, key=lambda pattern: min(pattern.members)):
            block = blocks[pattern.members[0]]
            sides = pattern.sides if block.source else (pattern.sides[1], pattern.sides[1])
            marks = {(letter, at): f"\0n{len(names) + before + at}\0"
                     for letter, before, side in (("s", 0, sides[0]), ("t", len(sides[0]), sides[1]))
                     for at in range(len(side))}  # fmt: skip
            names += [*sides[0], *sides[1]]
            lines += [_marked(line, marks) for line in block.lines]
        return cls(min(min(p.members) for p in alike), points, alike[0].variables, tuple(lines), tuple(names))

    def text(self) -> Iterator[str]:
        heads = list(_heads(self.points, self.variables))
        yield from ("    " * at + head for at, head in enumerate(heads))
        for line in self.lines:
            yield "    " * len(heads) + _NAME.sub(lambda m: quoted(self.names[int(m[1])]), line)

    @property
    def shape(self) -> Hashable:
        """Equal for loops that differ in the numbers of their names only."""
        steps = tuple(
            tuple(
                (part.factor, part.suffix) if isinstance(part, Place) else _DIGITS.sub("0", part) for part in name.parts
            )
            for name in self.names
        )
        return self.lines, steps, len(self.points), self.variables, self.points[-1][0] - self.points[0][0]


def _alike(made: Sequence[_Loop]) -> Iterator[list[_Loop]]:
    groups: dict[Hashable, list[_Loop]] = {}
    for loop in made:
        groups.setdefault(loop.shape, []).append(loop)
    for group in groups.values():
        if len(group) >= _FEWEST and _nested(group):
            yield group
        else:
            yield from ([loop] for loop in group)


def _nested(group: Sequence[_Loop]) -> list[str]:
    """Loops that run equally far as one loop over them; empty where their numbers do not lie on lines."""
    points = group[0].points
    if (
        len(group) < _FEWEST
        or len(points[0]) != 1
        or [p[0] for p in points] != [*range(points[0][0], points[-1][0] + 1)]
    ):
        return []
    names = []
    for at in range(len(group[0].names)):
        parts = [_Number.all(loop.names[at], loop.points[0][0]) for loop in group]
        texts = {tuple(part if isinstance(part, str) else None for part in found) for found in parts}
        if len(texts) > 1 or None in (joined := [_Number.line(column) for column in zip(*parts, strict=True)]):
            return []
        inside = "".join(str(part) for part in joined)
        names.append(f'f"{inside}"' if "{" in inside.replace("{{", "") else f'"{inside}"')
    body = [_NAME.sub(lambda m: names[int(m[1])], line) for line in group[0].lines]
    heads = [f"for i in range({len(group)}):", f"    for j in range({len(points)}):"]
    return [*heads, *("        " + line for line in body)]


@dataclass(frozen=True)
class _Number:
    """A number in a name: ``step`` more at each turn of the inner loop, ``start`` at its first."""

    start: int
    step: int

    @classmethod
    def all(cls, name: Template, first: int) -> list[str | _Number]:
        """A name's text and numbers, in order."""
        found: list[str | _Number] = []
        for part in name.parts:
            if isinstance(part, Place):
                if part.suffix:
                    return [str(name)]
                found.append(cls(part.factor * first + part.offset, part.factor))
            else:
                pieces = _DIGITS.split(part)
                for at, piece in enumerate(pieces):
                    plain = piece if at % 2 == 0 else cls(int(piece), 0)
                    found.append(_escaped(plain) if isinstance(plain, str) else plain)
        return found

    @staticmethod
    def line(column: Sequence[str | _Number]) -> str | None:
        """What stands in one place of names of all loops; None where they are not on a line."""
        firsts = [part.start for part in column if isinstance(part, _Number)]
        if not firsts or not isinstance(column[0], _Number):
            return str(column[0])
        rise = firsts[1] - firsts[0]
        if firsts != [firsts[0] + rise * at for at in range(len(firsts))] or rise < 0:
            return None
        terms = [f"{factor} * {letter}" if factor != 1 else letter
                 for factor, letter in ((rise, "i"), (column[0].step, "j")) if factor]  # fmt: skip
        return f"{{{' + '.join([*terms, *([str(firsts[0])] if firsts[0] else [])])}}}" if terms else str(firsts[0])


def _marked(line: str, marks: Mapping[tuple[str, int], str]) -> str:
    return _MARK.sub(lambda match: marks[match[1], int(match[2])], line)


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
    inside = "".join(_escaped(part) if isinstance(part, str) else _place(part) for part in name.parts)
    return f'f"{inside}"'


def _literal(text: str) -> str:
    """Between double quotes; what is not ASCII or not printable is escaped: names come from files."""
    plain = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{plain}"'


def _escaped(text: str) -> str:
    """Text for the inside of an f-string."""
    return _literal(text)[1:-1].replace("{", "{{").replace("}", "}}")


def _place(place: Place) -> str:
    factor = f"{place.factor} * " if place.factor != 1 else ""
    offset = f" {'+' if place.offset > 0 else '-'} {abs(place.offset)}" if place.offset else ""
    number = f"{factor}{place.variable}{offset}"
    return f"{{suffix({number})}}" if place.suffix else f"{{{number}}}"


def _heads(points: Sequence[Point], variables: Sequence[str]) -> Iterator[str]:
    """The lines that open a loop over the points, nested where what the later variables run over allows it."""
    rows: dict[Point, list[int]] = {}
    for point in points:
        rows.setdefault(point[:-1], []).append(point[-1])
    last = [*rows.values()]
    if all(row == last[0] for row in last):
        if len(variables) > 1:
            yield from _heads([*rows], variables[:-1])
        yield f"for {variables[-1]} in {_values(last[0])}:"
        return
    outer = [point[0] for point in rows]
    starts, ends = {row[0] for row in last}, tuple(row[-1] + 1 for row in last)
    if len(variables) == 2 and len(starts) == 1 and all(map(_adjacent, (outer, *last))):
        yield f"for {variables[0]}, end in enumerate({ends}{f', {outer[0]}' if outer[0] else ''}):"
        yield f"for {variables[1]} in range({f'{last[0][0]}, ' if last[0][0] else ''}end):"
        return
    yield f"for {', '.join(variables)} in {[*points]}:"


def _adjacent(values: Sequence[int]) -> bool:
    return list(values) == list(range(values[0], values[0] + len(values)))


def _values(values: Sequence[int]) -> str:
    if _adjacent(values):
        start = f"{values[0]}, " if values[0] else ""
        return f"range({start}{values[-1] + 1})"
    return f"({', '.join(map(str, values))})"
