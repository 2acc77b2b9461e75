"""Both models as one tree of scopes: the layers in running order, each scope beside the other model's."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tracer.compare import Verdict
from tracer.report.rows import Row

_SPLIT = re.compile(r"[./]")
_RUN = 4
"""Layers that agree one after the other, from which on they are folded where there is no scope to fold."""
GRAVITY = (
    Verdict.MATCH,
    Verdict.NOISE,
    Verdict.INHERITED,
    Verdict.UNMATCHED,
    Verdict.NOT_COMPARABLE,
    Verdict.DIVERGED,
)


@dataclass
class Block:
    """A scope with what is in it, or a layer.

    Attributes:
        name: the part of the path that it adds; of several nested scopes with nothing else in them all of them.
        path: identifies it in the tree, also when that is made again.
        row: of a layer; None for a scope.
        ours, theirs: the common path of what is in it, on either side; else the first and the last name.
    """

    name: str
    path: tuple[str, ...]
    row: Row | None = None
    parts: list[Block] = field(default_factory=list)
    ours: str = ""
    theirs: str = ""
    counts: Counter[Verdict] = field(default_factory=Counter)
    worst: float | None = None
    pending: int = 0

    @property
    def verdict(self) -> Verdict:
        """The gravest of what is in it."""
        return max(self.counts, key=GRAVITY.index, default=Verdict.MATCH)

    @property
    def size(self) -> int:
        return sum(self.counts.values()) + self.pending

    @property
    def needs_a_look(self) -> bool:
        """Whether anything in it diverged or was not comparable; operations without a twin are too common to count."""
        return GRAVITY.index(self.verdict) > GRAVITY.index(Verdict.UNMATCHED)

    def rows(self) -> Iterator[Row]:
        if self.row is not None:
            yield self.row
        for part in self.parts:
            yield from part.rows()


@dataclass(frozen=True)
class Line:
    """A block as it is listed."""

    block: Block
    depth: int
    open: bool

    @property
    def folds(self) -> bool:
        return bool(self.block.parts)


def reference_leads(rows: Sequence[Row]) -> bool:
    """Whether the reference has more scopes."""
    return _depth(rows, True) >= _depth(rows, False)


def tree(rows: Sequence[Row]) -> Block:
    """The rows, which come in running order, by the scopes of the model that has more of them."""
    leads = reference_leads(rows)
    root = Block("", ())
    last: tuple[str, ...] = ()
    for row in rows:
        name = (row.reference if leads else row.candidate) or ""
        if name:
            *scopes, leaf = parts_of(name)
            last = tuple(scopes)
        else:  # without a twin on the side that leads: where the other model runs it
            scopes, leaf = list(last), parts_of(row.candidate or row.reference)[-1]
        place = root
        for scope in scopes:
            found = next((p for p in reversed(place.parts) if p.row is None and p.name == scope), None)
            if found is None:
                found = Block(scope, (*place.path, scope))
                place.parts.append(found)
            place = found
        place.parts.append(Block(leaf, (*place.path, f"\0{row.reference}\0{row.candidate}"), row))
    _finish(root)
    return root


def parts_of(name: str) -> list[str]:
    """A node's path in parts; what belongs to a call or an output stays with the last one: ``a.b#1/preactivation``."""
    head, mark, tail = name.partition("#")
    bare, inner, rest = head.partition("/preactivation")
    found = [part for part in _SPLIT.split(bare) if part] or [bare or name]
    found[-1] += inner + rest + mark + tail
    return found


def _depth(rows: Sequence[Row], reference: bool) -> float:
    names = [row.reference if reference else row.candidate for row in rows]
    known = [len(parts_of(name)) for name in names if name]
    return sum(known) / len(known) if known else 0.0


def _finish(block: Block) -> None:
    """Sum up from below, join nested scopes with nothing else in them, and fold long runs that agree."""
    for part in block.parts:
        _finish(part)
    if block.row is not None:
        row = block.row
        block.ours, block.theirs, block.worst = row.reference, row.candidate, row.error
        if row.pending:
            block.pending = 1
        elif not row.idle:
            block.counts[row.verdict] += 1
        return
    for part in block.parts:
        block.counts.update(part.counts)
        block.pending += part.pending
        if part.worst is not None:
            block.worst = max(part.worst, -math.inf if block.worst is None else block.worst)
    block.ours, block.theirs = (_common([n for n in names if n]) for names in _names(block))
    if len(block.parts) == 1 and block.parts[0].row is None and block.path:
        only = block.parts[0]
        block.name, block.parts = f"{block.name}.{only.name}", only.parts
        block.ours, block.theirs = only.ours, only.theirs
    if not block.path and all(part.row is not None for part in block.parts):
        block.parts = list(_in_runs(block.parts))


def _names(block: Block) -> tuple[list[str], list[str]]:
    rows = list(block.rows())
    return [row.reference for row in rows], [row.candidate for row in rows]


def _common(names: Sequence[str]) -> str:
    """The scope that all names have in common."""
    if not names:
        return ""
    split = [parts_of(name)[:-1] for name in names]
    shared = 0
    while all(len(parts) > shared for parts in split) and len({parts[shared] for parts in split}) == 1:
        shared += 1
    place = 0
    for _ in range(shared):
        found = _SPLIT.search(names[0], place)
        if found is None:
            break
        place = found.end()
    if not place and len(names) > 1:
        return f"{names[0]} … {names[-1]}"
    return names[0][: place - 1] if place else names[0]


def _in_runs(layers: Sequence[Block]) -> Iterator[Block]:
    """Layers without scopes: those that agree one after the other are one block."""
    run: list[Block] = []

    def folded() -> Iterator[Block]:
        if len(run) < _RUN:
            yield from run
            return
        first, last = run[0], run[-1]
        block = Block(f"{first.name} … {last.name}", (f"\1{first.path[-1]}",), parts=list(run))
        block.ours, block.theirs = block.name, f"{first.theirs} … {last.theirs}" if last.theirs else ""
        for part in run:
            block.counts.update(part.counts)
            block.pending += part.pending
            if part.worst is not None:
                block.worst = max(part.worst, -math.inf if block.worst is None else block.worst)
        yield block

    for layer in layers:
        alike = not layer.needs_a_look and (not run or run[-1].verdict is layer.verdict)
        if not alike:
            yield from folded()
            run = []
        if layer.needs_a_look:
            yield layer
        else:
            run.append(layer)
    yield from folded()


def listed(root: Block, opened: dict[tuple[str, ...], bool]) -> list[Line]:
    """The lines to show. ``opened`` says of blocks by their path whether the user opened or folded them; the others are
    open where something in them needs a look."""
    found: list[Line] = []

    def add(block: Block, depth: int) -> None:
        is_open = opened.get(block.path, block.needs_a_look)
        found.append(Line(block, depth, is_open))
        if is_open:
            for part in block.parts:
                add(part, depth + 1)

    for part in root.parts:
        add(part, 0)
    return found


def way_to(root: Block, key: tuple[str, str]) -> list[Block]:
    """The blocks from the root's parts down to the layer ``key``; empty where there is none."""
    for part in root.parts:
        if part.row is not None and part.row.key == key:
            return [part]
        if below := way_to(part, key):
            return [part, *below]
    return []
