"""Repeated blocks of one model: stretches of nodes that are alike, one after the other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.alignment.features import pairable
from tracer.alignment.patterns import scopes
from tracer.graph import Node, Structure

_COUNTED = re.compile(r"(?P<before>.*?)_(?P<number>[1-9][0-9]{0,8})(?P<after>[/.])", re.DOTALL)


@dataclass(frozen=True)
class Run:
    """Two blocks or more, one after the other, with the same kinds, shapes and parameters in the same order.

    Attributes:
        blocks: the names of each block's nodes in running order, all of one length.
        scopes: what the names of each block begin with (``encoder.layer.3.``); empty where the names tell nothing and
            only the order of the nodes repeats.
    """

    blocks: tuple[tuple[str, ...], ...]
    scopes: tuple[str, ...] = ()

    @property
    def period(self) -> int:
        """Nodes in each block."""
        return len(self.blocks[0])


def find(structure: Structure) -> list[Run]:
    """The runs of repeated blocks among the nodes that are paired, nested ones too, longest first.

    They are found by numbered scopes, and where names are flat by the sequence of the nodes itself; blocks without
    parameters are none, and each block but the first reads from the one before it.
    """
    nodes = [node for node in structure if pairable(node)]
    return repeated(nodes, _codes(nodes), _parents(structure, nodes)) if nodes else []


def repeated(nodes: Sequence[Node], codes: NDArray[np.int64], parents: Sequence[Sequence[int]]) -> list[Run]:
    """:func:`find` among these nodes.

    Args:
        codes: equal numbers for nodes that are alike.
        parents: positions of the nodes that each node reads.
    """
    named = list(_named(nodes, codes))
    found = [
        Run(tuple(tuple(nodes[at].name for at in block) for block in blocks), names)
        for names, blocks in named
        if _is_run(nodes, parents, blocks)
    ]
    known = [(len(blocks[0]), {at for block in blocks for at in block}) for _, blocks in named]
    for start, period, count in _repeated(codes, _live(parents), nodes):
        inside = range(start, start + period * count)
        if any(length == period and 2 * sum(at in there for at in inside) >= len(inside) for length, there in known):
            continue
        cut = [inside[at : at + period] for at in range(0, len(inside), period)]
        if _is_run(nodes, parents, cut):
            found.append(Run(tuple(tuple(nodes[at].name for at in block) for block in cut)))
    return sorted(found, key=lambda run: -run.period * len(run.blocks))


def _codes(nodes: Sequence[Node]) -> NDArray[np.int64]:
    """Equal numbers for nodes of equal kind, shape and parameters."""
    numbers: dict[object, int] = {}
    keys = ((node.kind, node.shape, tuple(param.shape for param in node.params)) for node in nodes)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _parents(structure: Structure, nodes: Sequence[Node]) -> list[list[int]]:
    """Positions of the nodes that each node reads, seen through containers."""
    position = {node.name: at for at, node in enumerate(nodes)}

    def behind(name: str) -> Iterator[int]:
        queue, seen = [name], {name}
        while queue:
            this = queue.pop()
            if this in position:
                yield position[this]
            elif (node := structure.by_name.get(this)) is not None:
                ahead = (node.alias_of,) if node.alias_of else node.parents
                queue += [other for other in ahead if other not in seen]
                seen.update(ahead)

    return [sorted({at for parent in node.parents for at in behind(parent)}) for node in nodes]


def _is_run(nodes: Sequence[Node], parents: Sequence[Sequence[int]], blocks: Sequence[Sequence[int]]) -> bool:
    # A further call of a shared layer lists no parameters.
    if not any(nodes[at].params or nodes[at].call for at in blocks[0]):
        return False
    for before, block in itertools.pairwise(blocks):
        there = set(before)
        if not any(parent in there for at in block for parent in parents[at]):
            return False
    return True


def _named(
    nodes: Sequence[Node], codes: NDArray[np.int64]
) -> Iterator[tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]]:
    """Neighbouring scopes that differ in a number and hold the same: what they begin with, and their nodes."""
    inside: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        for scope in scopes(node.name):
            inside.setdefault(scope, []).append(at)
    families: dict[tuple[str, str, bool], dict[int, str]] = {}
    for scope in inside:
        counted = _COUNTED.fullmatch(scope)
        if counted is not None and counted["before"] + counted["after"] in inside:
            family = families.setdefault((counted["before"], counted["after"], True), {})
            family[0] = counted["before"] + counted["after"]
            family[int(counted["number"])] = scope
        elif (numbered := _last_number(scope)) is not None:
            before, number, after = numbered
            families.setdefault((before, after, False), {})[number] = scope
    for family in families.values():
        run: list[str] = []
        for _, scope in sorted(family.items()):
            if run and not np.array_equal(codes[inside[scope]], codes[inside[run[-1]]]):
                if len(run) > 1:
                    yield tuple(run), tuple(tuple(inside[s]) for s in run)
                run = []
            run.append(scope)
        if len(run) > 1:
            yield tuple(run), tuple(tuple(inside[s]) for s in run)


def _last_number(scope: str) -> tuple[str, int, str] | None:
    """The scope's last number and what stands around it, where nothing but a separator follows it."""
    body, after = scope[:-1], scope[-1]
    digits = len(body) - len(body.rstrip("0123456789"))
    if not 0 < digits < 10:
        return None
    return body[:-digits], int(body[-digits:]), after


def _live(parents: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """How many tensors are still to be read in front of each node: the fewer, the better a place to cut."""
    last = list(range(len(parents)))
    for at, found in enumerate(parents):
        for parent in found:
            last[parent] = max(last[parent], at)
    change = np.zeros(len(parents) + 2, np.int64)
    for at, end in enumerate(last):
        change[at + 1] += 1
        change[end + 1] -= 1
    return np.cumsum(change)[: len(parents) + 1]


def _repeated(
    codes: NDArray[np.int64], live: NDArray[np.int64], nodes: Sequence[Node]
) -> Iterator[tuple[int, int, int]]:
    """Start, period and count of the stretches that repeat at once, none of which is made of shorter repeats."""
    taken: list[tuple[int, int, int]] = []
    for period in range(1, len(codes) // 2 + 1):
        same = codes[period:] == codes[:-period]
        if np.count_nonzero(same) < period:
            continue
        edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if end - start < period:
                continue
            end += period
            if any(period % other == 0 and begin <= start and end <= stop for begin, stop, other in taken):
                continue
            taken.append((start, end, period))
            count, slack = divmod(end - start, period)
            cuts = [
                (
                    int(live[[start + shift + period * at for at in range(count + 1)]].sum()),
                    nodes[start + shift].kind not in kinds.WEIGHTED,
                    shift,
                )
                for shift in range(slack + 1)
            ]
            yield start + min(cuts)[2], period, count
