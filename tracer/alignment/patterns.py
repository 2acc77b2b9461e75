"""Many names as one: the patterns that a list of pairs follows, and the blocks that lie behind them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.templates import VARIABLES, Place, Point, Template, ranges_text
from tracer.names import display

Item = tuple[tuple[str, ...], ...]
"""The names of a pair: those of the reference, those of the candidate. One-sided lists have one tuple."""

_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
_COUNTED = re.compile(r"(?P<stem>.+?)(?:_(?P<count>[1-9][0-9]{0,8}))?(?P<tail>(?:#[0-9]+)?(?:\[[0-9]+\])?)", re.DOTALL)
_STEP = re.compile(r"([/.])")
_MOST_VARIABLES = 3
_FEWEST = 3
"""Any two numbers lie on a line: ``{3i+2}`` wants a third, and so do numbers that do not follow on each other."""
_LINKED = 0.8

_Part = tuple[str, bool | None]
"""Text, and the kind of number that follows: False for digits, True for a counting suffix, None at the end."""

_Shape = tuple[tuple[tuple[_Part, ...], ...], ...]
"""An item without its numbers: sides, names, parts."""


@dataclass(frozen=True)
class Pattern:
    """Several items that differ in their numbers only.

    Attributes:
        sides: the names with places for the numbers, as in :data:`Item`.
        points: the values of the variables at each member.
        members: indices of the items, in the order of ``points``.
    """

    sides: tuple[tuple[Template, ...], ...]
    points: tuple[Point, ...]
    members: tuple[int, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        return self.sides[0][0].variables

    def where(self, mark: str = "…") -> str:
        """The variables' values: ``i = 0…11, j = 0…3``."""
        return _where(self.variables, self.points, mark)

    def ranges(self, there: Collection[Point]) -> list[dict[str, tuple[int, ...]]]:
        """Ranges of the variables that, together, pick exactly the members.

        Each dictionary is read as in a mapping file: with a range for every variable it means all combinations; where
        some are left open, whatever is ``there`` (the points at which all names exist) and within the ranges given.
        """
        return _ranges(frozenset(self.points), there, self.variables)


def _where(variables: Sequence[str], points: Sequence[Point], mark: str) -> str:
    columns = zip(variables, zip(*points, strict=True), strict=True)
    return ", ".join(f"{variable} = {ranges_text(sorted(set(values)), mark)}" for variable, values in columns)


def _ranges(
    points: frozenset[Point], there: Collection[Point], variables: Sequence[str]
) -> list[dict[str, tuple[int, ...]]]:
    values = [tuple(sorted(set(column))) for column in zip(*points, strict=True)]
    if prod(map(len, values)) == len(points):
        return [dict(zip(variables, values, strict=True))]
    every = range(len(variables))
    for given in (chosen for size in every for chosen in combinations(every, size)):
        if all(p in points for p in there if all(p[at] in values[at] for at in given)):
            return [{variables[at]: values[at] for at in given}]
    best: list[dict[str, tuple[int, ...]]] = []
    for at in every:
        alike: dict[frozenset[Point], set[Point]] = {}
        for value in values[at]:
            here = {p for p in points if p[at] == value}
            alike.setdefault(frozenset((*p[:at], *p[at + 1 :]) for p in here), set()).update(here)
        if len(alike) > 1:
            found = [entry for group in alike.values() for entry in _ranges(frozenset(group), there, variables)]
            if not best or len(found) < len(best):
                best = found
    return best


def fold(items: Sequence[Item], keys: Sequence[Hashable] = ()) -> list[Pattern]:
    """Patterns that stand for exactly those items, each item in one at most, largest first.

    Every variable occurs in every name of an item, so that one name tells which item is meant. ``keys`` keeps items
    apart that must not share a pattern (other axes).
    """
    counted = _counted(name for item in items for side in item for name in side)
    parsed = [[_parse(item, stems) for item in items] for stems in (frozenset[str](), counted)[: 1 + bool(counted)]]
    left = set(range(len(items)))
    chosen: list[Pattern] = []
    while left:
        found: list[tuple[int, bool, Pattern]] = []
        for counting, known in enumerate(parsed):
            groups: dict[Hashable, list[int]] = {}
            for member in sorted(left):
                groups.setdefault((known[member][0], keys[member] if keys else None), []).append(member)
            for group in groups.values():
                if len(group) > 1:
                    numbers = np.array([known[member][1] for member in group], np.int64)
                    solved = _solve(known[group[0]][0], group, numbers)
                    found += [(len(pattern.members), bool(counting), pattern) for pattern in solved]
        accepted = False
        for _, _, pattern in sorted(found, key=lambda f: (-f[0], f[1], f[2].members)):
            if left.issuperset(pattern.members):
                left -= set(pattern.members)
                chosen.append(pattern)
                accepted = True
        if not accepted:
            break
    return _worthwhile(chosen)


def gathered(names: Sequence[str], keys: Sequence[Hashable], mark: str = "…") -> list[tuple[str, tuple[int, ...]]]:
    """Names as lines of text, those that a pattern holds together as one: the text, and whose positions it stands for.

    In the order of the names; ``keys`` are as in :func:`fold`.
    """
    found = [
        (f"{display(str(pattern.sides[0][0]))}, {pattern.where(mark)}", pattern.members)
        for pattern in fold([((name,),) for name in names], keys)
    ]
    single = set(range(len(names))).difference(*(members for _, members in found))
    found += [(display(names[at]), (at,)) for at in single]
    return sorted(found, key=lambda item: min(item[1]))


def _worthwhile(patterns: Sequence[Pattern]) -> list[Pattern]:
    """Without those that say in one line what two lines say better: pairs of two, where no block holds several."""

    def block(pattern: Pattern) -> Hashable:
        return pattern.points, tuple(template.prefix for side in pattern.sides for template in side)

    alike = Counter(map(block, patterns))
    return [p for p in patterns if len(p.members) > 2 or alike[block(p)] > 1]


def _counted(names: Iterable[str]) -> frozenset[str]:
    """Steps of the paths that occur with and without a counting suffix: ``add`` beside ``add_1``."""
    steps = {step for name in names for step in _STEP.split(name)}
    found = {_COUNTED.fullmatch(step) for step in steps}
    with_count = {match["stem"] for match in found if match and match["count"]}
    return frozenset(with_count & {match["stem"] for match in found if match and not match["count"]})


def _parse(item: Item, counted: frozenset[str]) -> tuple[_Shape, tuple[int, ...]]:
    """The item without its numbers, and the numbers."""
    numbers: list[int] = []
    return tuple(tuple(_parts(name, counted, numbers) for name in side) for side in item), tuple(numbers)


def _parts(name: str, counted: frozenset[str], numbers: list[int]) -> tuple[_Part, ...]:
    """The name's parts; its numbers are appended to ``numbers``.

    The steps of the path that are ``counted`` end in a counting suffix, zero where it is left out.
    """
    parts: list[_Part] = []
    text = ""

    def plain(piece: str) -> None:
        nonlocal text
        pieces = _NUMBER.split(piece)
        for at in range(0, len(pieces) - 1, 2):
            parts.append((text + pieces[at], False))
            numbers.append(int(pieces[at + 1]))
            text = ""
        text += pieces[-1]

    for step in _STEP.split(name) if counted else (name,):
        found = _COUNTED.fullmatch(step) if counted else None
        if found is None or found["stem"] not in counted:
            plain(step)
            continue
        plain(found["stem"])
        parts.append((text, True))
        numbers.append(int(found["count"] or 0))
        text = ""
        plain(found["tail"])
    return (*parts, (text, None))


def _solve(shape: _Shape, group: Sequence[int], numbers: NDArray[np.int64]) -> list[Pattern]:
    """Patterns within items that are alike but for their numbers: a row an item, a column a place."""
    flat = [name for side in shape for name in side]
    owner = [at for at, name in enumerate(flat) for _, kind in name if kind is not None]
    out: list[Pattern] = []
    stack = [np.arange(len(group))]
    while stack:
        rows = stack.pop()
        table = numbers[rows]
        varying = np.flatnonzero((table != table[0]).any(axis=0))
        if len(rows) < 2 or not len(varying):
            continue
        classes = _classes(table, varying)
        lonely = [c for c in classes if len({owner[s] for s in c}) < len(flat)]
        if lonely:
            fewest = min((table[:, c[0]] for c in lonely), key=lambda column: len(np.unique(column)))
            one_by_one = 2 * len(np.unique(fewest)) > len(rows)
            stack += _stretches(rows, table[:, varying]) if one_by_one else _by(rows, fewest)
            continue
        if len(classes) > _MOST_VARIABLES:
            stack += _by(rows, table[:, classes[0][0]])
            continue
        points = np.stack([_index(table, c) for c in classes], axis=1)
        scaled = any(_step(table[:, slot]) != _step(points[:, at]) for at, c in enumerate(classes) for slot in c)
        if len(classes) == 1:
            if len(rows) >= (2 if _adjacent(points[:, 0]) and not scaled else _FEWEST):
                out.append(_pattern(shape, [group[int(r)] for r in rows], table, points, classes))
        elif _dense(points) and not (scaled and any(len(set(column)) < _FEWEST for column in points.T)):
            out.append(_pattern(shape, [group[int(r)] for r in rows], table, points, classes))
        else:
            stack += _by(rows, points[:, 0])
    return out


def _classes(table: NDArray[np.int64], varying: NDArray[np.intp]) -> list[list[int]]:
    """Columns that rise together, each a straight line over the others."""
    left = [int(s) for s in varying]
    found = []
    while left:
        base, rest = left[0], left[1:]
        ours = table[:, base] - table[0, base]
        at = int(np.flatnonzero(ours)[0])
        same = [base]
        for slot in rest:
            theirs = table[:, slot] - table[0, slot]
            rises = int(theirs[at]) * int(ours[at]) > 0
            if rises and np.array_equal(theirs * ours[at], ours * theirs[at]):
                same.append(slot)
        found.append(same)
        left = [s for s in left if s not in same]
    return found


def _step(column: NDArray[np.int64]) -> int:
    """The greatest common divisor of a column's differences."""
    return gcd(*(column - column[0]).tolist())


def _index(table: NDArray[np.int64], slots: Sequence[int]) -> NDArray[np.int64]:
    """The variable's values: a column's own numbers where it counts by ones, else 0, 1, 2 …"""
    steps = {slot: _step(table[:, slot]) for slot in slots}
    single = next((slot for slot in slots if steps[slot] == 1), None)
    if single is not None:
        return table[:, single]
    column = table[:, slots[0]]
    return np.asarray((column - column.min()) // steps[slots[0]])


def _by(rows: NDArray[np.intp], column: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    return [rows[column == value] for value in np.unique(column)]


def _stretches(rows: NDArray[np.intp], table: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows that go up by equal steps, in the order of the first column: where a layer is left out, a new one begins."""
    order = np.argsort(table[:, 0], kind="stable")
    steps = np.diff(table[order], axis=0)
    found = []
    start = 0
    while start < len(steps):
        end = start
        while end < len(steps) and np.array_equal(steps[end], steps[start]):
            end += 1
        if end - start + 1 >= _FEWEST and end - start + 1 < len(rows):
            found.append(rows[order[start : end + 1]])
            end += 1
        start = max(end, start + 1)
    return found


def _adjacent(column: NDArray[np.int64]) -> bool:
    """Whether the values follow on each other without a gap."""
    return int(column.max() - column.min()) + 1 == len(np.unique(column))


def _dense(points: NDArray[np.int64]) -> bool:
    """Whether the first variable runs without a gap, and under each of its values the next one does."""
    if not _adjacent(points[:, 0]):
        return False
    values = np.unique(points[:, 0])
    return points.shape[1] == 1 or all(_dense(points[points[:, 0] == value][:, 1:]) for value in values)


def _pattern(
    shape: _Shape,
    members: Sequence[int],
    table: NDArray[np.int64],
    points: NDArray[np.int64],
    classes: Sequence[Sequence[int]],
) -> Pattern:
    """The pattern of rows whose numbers are straight lines over ``points``."""
    variable = {slot: at for at, c in enumerate(classes) for slot in c}
    columns = iter(range(table.shape[1]))

    def place(kind: bool) -> Iterator[str | Place]:
        slot = next(columns)
        column = table[:, slot]
        if kind and column.min() >= 1:  # a suffix that is never left out is a number like any other
            yield "_"
            kind = False
        if slot not in variable:
            yield "" if kind else str(int(column[0]))
            return
        values = points[:, variable[slot]]
        factor = _step(column) // _step(values)
        yield Place(VARIABLES[variable[slot]], factor, int(column[0] - factor * values[0]), kind)

    def template(name: tuple[_Part, ...]) -> Template:
        parts: list[str | Place] = []
        for text, kind in name:
            for part in (text, *(() if kind is None else place(kind))):
                if isinstance(part, str) and parts and isinstance(parts[-1], str):
                    parts[-1] += part
                elif part:
                    parts.append(part)
        return Template(tuple(parts))

    order = np.lexsort(points.T[::-1])
    sides = tuple(tuple(map(template, side)) for side in shape)
    return Pattern(sides, tuple(tuple(map(int, points[at])) for at in order), tuple(members[at] for at in order))


@dataclass(frozen=True)
class Blocks:
    """Blocks of the reference that lie on blocks of the candidate, one by one.

    Attributes:
        reference, candidate: ``encoder.layer.{i}.*``.
        points: the values of the variables at each block.
        pairs: indices of the pairs within each block.
    """

    reference: Template
    candidate: Template
    points: tuple[Point, ...]
    pairs: tuple[tuple[int, ...], ...]

    def where(self, mark: str = "…") -> str:
        """The variables' values: ``i = 0…11``."""
        return _where(self.reference.variables, self.points, mark)

    @property
    def each(self) -> tuple[int, int]:
        """The fewest and the most pairs that a block holds."""
        return min(map(len, self.pairs)), max(map(len, self.pairs))


def scopes(name: str) -> Iterator[str]:
    """What a name begins with, cut behind each step of the path and behind each number that a separator follows."""
    for at, char in enumerate(name[:-1]):
        if char in "/." or (char in "_-" and at and name[at - 1].isdigit()):
            yield name[: at + 1]


def block_pairs(items: Sequence[Item]) -> list[Blocks]:
    """Repeated blocks that the pairs lay one on the other; no pair is in two of them.

    A block lies on a block when nearly all pairs of either go to the other; the few that do not are in none. Blocks
    that hold many pairs, and equally many each, go before others (the layers of a stage before the stages).
    """
    left = {at: (tuple(scopes(a[-1])), tuple(scopes(b[-1]))) for at, (a, b) in enumerate(items)}
    chosen: list[Blocks] = []
    while left:
        links: dict[tuple[str, str], list[int]] = {}
        ours: Counter[str] = Counter()
        theirs: Counter[str] = Counter()
        for at, (mine, other) in left.items():
            ours.update(mine)
            theirs.update(other)
            for one in mine:
                for two in other:
                    links.setdefault((one, two), []).append(at)
        kept = [
            (link, pairs)
            for link, pairs in links.items()
            if len(pairs) > 1 and len(pairs) >= _LINKED * max(ours[link[0]], theirs[link[1]])
        ]
        found = []
        for pattern in fold([((one,), (two,)) for (one, two), _ in kept]):
            members = tuple(tuple(kept[m][1]) for m in pattern.members)
            total, most = sum(map(len, members)), max(map(len, members))
            found.append((total * total / (len(members) * most), len(members), pattern, members))
        found.sort(key=lambda f: (-f[0], -f[1]))
        accepted = False
        for _, _, pattern, members in found:
            inside = [at for member in members for at in member]
            if all(at in left for at in inside):
                ((reference,), (candidate,)) = pattern.sides
                chosen.append(
                    Blocks(
                        Template(reference.parts, rest=True),
                        Template(candidate.parts, rest=True),
                        pattern.points,
                        members,
                    )
                )
                for at in inside:
                    left.pop(at, None)
                accepted = True
        if not accepted:
            break
    return chosen
