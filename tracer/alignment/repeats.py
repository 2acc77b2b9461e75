"""Repeated blocks of which one side has more than the other: which block is which, and where that cannot be known.

Blocks that look alike are told apart by equal weights or tensors, or by numbers in their names where these fit in one
way only, or begin alike and have gaps (0…6 and 8…11 among 0…11). Between two blocks that are known, as many on either
side go together in their order; of the others nothing can be known.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import blocks
from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.features import Features
from tracer.configuration import differences
from tracer.names import display

Block = tuple[int, ...]
Nodes = frozenset[int]
SETTLED = 3.0
"""Log-odds for nodes in blocks that are each other's, and against nodes in others."""
CLEAR = 2
"""Two blocks are each other's when they share so many times as many equal nodes as either with a third."""
NAMED = 16
"""So many alternatives are named at most, the likeliest."""
_NUMBER = re.compile(r"([0-9]{1,9})[^0-9]*$")


@dataclass(frozen=True)
class Run:
    """Equal blocks in a row, more of them on one side.

    Attributes:
        ours, theirs: node indices of each block in running order.
        names: what the nodes' names begin with in each block of either side; empty where they tell nothing.
    """

    ours: tuple[Block, ...]
    theirs: tuple[Block, ...]
    names: tuple[tuple[str, ...], tuple[str, ...]]

    def settled(self, equal: Iterable[tuple[int, int]], stated: Iterable[tuple[Nodes, Nodes]]) -> dict[int, int]:
        """Which block is known to be which, given the pairs of nodes that are ``equal``, and those sets of nodes that
        a person has ``stated`` to be each other's."""
        voted, numbered = self._voted(equal), self._numbered()
        said: dict[int, int] = {}
        for ours, theirs in stated:
            here = {at for at, block in enumerate(self.ours) if not ours.isdisjoint(block)}
            there = {at for at, block in enumerate(self.theirs) if not theirs.isdisjoint(block)}
            if len(here) == len(there):  # as many on either side go together in their order
                said |= zip(sorted(here), sorted(there), strict=True)
        if said:
            voted = {i: j for i, j in voted.items() if i not in said and j not in said.values()} | said
        return numbered if numbered and voted.items() <= numbered.items() else voted

    def _numbered(self) -> dict[int, int]:
        """By the numbers in the names: where they fit in just one way, or begin alike and have gaps."""
        found = [[int(n[1]) for n in map(_NUMBER.search, names) if n] for names in self.names]
        if len(found[0]) != len(self.ours) or len(found[1]) != len(self.theirs):
            return {}
        few, many = sorted(found, key=len)
        place = {number: at for at, number in enumerate(many)}
        shifts = [number - few[0] for number in many if all(n + number - few[0] in place for n in few)]
        gaps = max(few) - min(few) >= len(few)
        if gaps and 0 in shifts and min(few) == min(many):
            shifts = [0]
        if len(shifts) != 1:
            return {}
        there = [place[n + shifts[0]] for n in few]
        return dict(enumerate(there)) if few is found[0] else {i: j for j, i in enumerate(there)}

    def _voted(self, equal: Iterable[tuple[int, int]]) -> dict[int, int]:
        """By equal nodes, where most of a block's lie in one block."""
        ours, theirs = ({node: at for at, block in enumerate(s) for node in block} for s in (self.ours, self.theirs))
        votes = Counter((ours[i], theirs[j]) for i, j in equal if i in ours and j in theirs)
        best: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
        for (i, j), count in votes.items():
            best[0].setdefault(i, []).append(count)
            best[1].setdefault(j, []).append(count)

        def clear(counts: list[int], count: int) -> bool:
            return all(CLEAR * other <= count for other in sorted(counts)[:-1])

        return {
            i: j
            for (i, j), n in votes.items()
            if n == max(best[0][i]) and clear(best[0][i], n) and clear(best[1][j], n)
        }

    def segments(self, settled: Mapping[int, int]) -> Iterator[tuple[range, range]]:
        """What lies between blocks that are known: of ours, and of theirs."""
        known = sorted(settled.items())
        rising = _rising([j for _, j in known])
        before = (-1, -1)
        for i, j in [*(known[at] for at in rising), (len(self.ours), len(self.theirs))]:
            yield range(before[0] + 1, i), range(before[1] + 1, j)
            before = i, j


Shares = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Place:
    """Where a block stands between two that are known: the ``at``-th of ``ours``; ``low`` is the first of ``theirs``
    that it may be."""

    at: int
    low: int
    ours: int
    theirs: int

    @property
    def more(self) -> bool:
        """Whether there are more of ours, so that some have no twin."""
        return self.ours > self.theirs

    def share(self, which: int) -> float:
        """The share of the choices of missing blocks in which this one is the one at ``low + which``."""
        few, many = sorted((self.ours, self.theirs))
        short, long = (self.low + which, self.at) if self.more else (self.at, self.low + which)
        return exp(_ways(long, short) + _ways(many - 1 - long, few - 1 - short) - _ways(many, few))


class Repeats:
    """The uneven runs of two models, and what is known of their blocks.

    Args:
        equal: pairs of nodes with equal weights or tensors.
        stated: nodes of the reference, and of the candidate, that a person laid on each other.
        ignored: those that a person ignores; blocks of such layers are none of a run.
    """

    def __init__(
        self,
        a: Features,
        b: Features,
        equal: Iterable[tuple[int, int]],
        stated: Sequence[tuple[Nodes, Nodes]] = (),
        ignored: tuple[Nodes, Nodes] = (frozenset(), frozenset()),
    ) -> None:
        self._shape = len(a.nodes), len(b.nodes)
        runs = (_without(run, ignored, a, b) for run in _uneven(a, b))
        self.runs = [run for run in runs if run.ours and run.theirs]
        self._names = [[node.name for node in side.nodes] for side in (a, b)]
        equal = list(equal) if self.runs else []
        self._of: dict[int, tuple[int, int]] = {
            i: (r, k) for r, run in enumerate(self.runs) for k, block in enumerate(run.ours) for i in block
        }
        # What each block of ours may be, and of those of which nothing is known how many stand before and around it.
        self._may_be: list[dict[int, tuple[int, ...]]] = []
        self._unknown: list[dict[int, _Place]] = []
        for run in self.runs:
            settled = run.settled(equal, stated)
            taken = {*settled.values()}
            may_be: dict[int, tuple[int, ...]] = {i: (j,) for i, j in settled.items()}
            unknown: dict[int, _Place] = {}
            for between, across in run.segments(settled):
                mine = [i for i in between if i not in settled]
                other = tuple(j for j in across if j not in taken)
                spare = len(other) - len(mine)
                for at, i in enumerate(mine):
                    low, high = at + min(spare, 0), at + max(spare, 0)
                    may_be[i] = other[max(0, low) : high + 1]
                    if spare and other:
                        unknown[i] = _Place(at, max(0, low), len(mine), len(other))
            self._may_be.append(may_be)
            self._unknown.append(unknown)

    @property
    def open(self) -> frozenset[int]:
        """The reference's nodes in blocks of which nothing is known."""
        return frozenset(i for i, (run, block) in self._of.items() if block in self._unknown[run])

    @property
    def anchors(self) -> tuple[Index, Index]:
        """Pairs of nodes that begin blocks that are each other's, in ascending order on both sides."""
        found = sorted(
            (run.ours[i][0], run.theirs[there[0]][0])
            for run, may_be, unknown in zip(self.runs, self._may_be, self._unknown, strict=True)
            for i, there in may_be.items()
            if there and i not in unknown
        )
        rising = _rising([j for _, j in found])
        ends = [(0, 0), *(found[at] for at in rising), (self._shape[0] - 1, self._shape[1] - 1)]
        ours, theirs = np.array(ends, np.intp).T
        return ours, theirs

    def logit(self, pairs: Candidates) -> Values:
        """What the blocks say of each pair, in log-odds."""
        out: Values = np.zeros(len(pairs), np.float32)
        for run, may_be, unknown in zip(self.runs, self._may_be, self._unknown, strict=True):
            ours, theirs = (_blocks(side, size) for side, size in zip((run.ours, run.theirs), self._shape, strict=True))
            low = np.array([min(may_be[i], default=0) for i in range(len(run.ours))])
            high = np.array([max(may_be[i], default=-1) for i in range(len(run.ours))])
            sure = np.array([i not in unknown for i in range(len(run.ours))])
            here = np.flatnonzero((ours[pairs.rows] >= 0) & (theirs[pairs.cols] >= 0))
            mine, other = ours[pairs.rows[here]], theirs[pairs.cols[here]]
            inside = (low[mine] <= other) & (other <= high[mine])
            out[here] += np.where(inside, np.where(sure[mine], SETTLED, 0), -SETTLED).astype(np.float32)
        return out

    def alternatives(self, rows: Iterable[int], matched: Mapping[int, int]) -> Iterator[tuple[int, Shares, str]]:
        """What open nodes may be, likeliest first, each choice of the blocks that one side lacks as likely as any
        other; and why they are left open. ``matched`` tells which node of a block is which: of those for which it does
        not, nothing is said."""
        places: dict[tuple[int, int], int | None] = {}
        shares: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for row in rows:
            r, block = self._of[row]
            run, there, where = self.runs[r], self._may_be[r][block], self._unknown[r][block]
            at = r, run.ours[block].index(row)
            if at not in places:
                places[at] = self._twin(*at, matched)
            place = places[at]
            if place is None:
                continue
            if (r, block) not in shares:
                found = [(k, where.share(n)) for n, k in enumerate(there)]
                shares[r, block] = sorted(found, key=lambda one: -one[1])[:NAMED]
            named = [(self._names[1][run.theirs[k][place]], share) for k, share in shares[r, block]]
            first, last = (self._name(run, k, place) for k in (there[0], there[-1]))
            one = first if len(there) == 1 else f"one of the {len(there)} alike from {first} to {last}"
            yield row, tuple(named), f"ambiguous: {one}{', or nothing' * where.more}"

    def _name(self, run: Run, block: int, place: int) -> str:
        scopes = run.names[1]
        return display(scopes[block].rstrip("./") if scopes else self._names[1][run.theirs[block][place]])

    def _twin(self, r: int, place: int, matched: Mapping[int, int]) -> int | None:
        """Which node of their blocks is the one at this place of ours, by most of the pairs."""
        run = self.runs[r]
        theirs = {j: k for block in run.theirs for k, j in enumerate(block)}
        found = Counter(theirs.get(matched.get(block[place], -1)) for block in run.ours)
        found.pop(None, None)
        return found.most_common(1)[0][0] if found else None


def _ways(many: int, few: int) -> float:
    """The logarithm of how many choices of ``few`` out of ``many`` there are."""
    return lgamma(many + 1) - lgamma(few + 1) - lgamma(many - few + 1)


def _blocks(side: Sequence[Block], size: int) -> Index:
    """The block of each node; -1 for those in none."""
    out = np.full(size, -1, np.intp)
    for at, block in enumerate(side):
        out[list(block)] = at
    return out


def _rising(values: Sequence[int]) -> list[int]:
    """Positions of a longest rising subsequence."""
    tails: list[int] = []
    ends: list[int] = []
    before = [-1] * len(values)
    for at, value in enumerate(values):
        place = bisect_left(tails, value)
        before[at] = ends[place - 1] if place else -1
        tails[place : place + 1] = [value]
        ends[place : place + 1] = [at]
    out = []
    at = ends[-1] if ends else -1
    while at >= 0:
        out.append(at)
        at = before[at]
    return out[::-1]


_Look = tuple[tuple[int, ...], ...]


def _looks(side: Features, nodes: Iterable[int]) -> Counter[_Look]:
    """How often layers with weights of each shape occur, whatever their kind."""
    return Counter(side.params[i] for i in nodes if any(len(shape) > 1 for shape in side.params[i]))


def _uneven(a: Features, b: Features) -> list[Run]:
    counts = _looks(a, range(len(a.nodes))), _looks(b, range(len(b.nodes)))
    if all(counts[0][look] == counts[1][look] for look in counts[0].keys() & counts[1].keys()):
        return []
    runs = _outermost(a), _outermost(b)
    blocks_ = [
        [(_looks(side, nodes[0]), nodes, names) for nodes, names in found]
        for side, found in zip((a, b), runs, strict=True)
    ]
    options = sorted(
        (-_alike(x[0], y[0]), abs(p - q), p, q) for p, x in enumerate(blocks_[0]) for q, y in enumerate(blocks_[1])
    )
    partner: dict[int, int] = {}
    for worse, _, p, q in options:
        if worse < 0 and p not in partner and q not in partner.values():
            partner[p] = q
    out = []
    for p, (looks, ours, names) in enumerate(blocks_[0]):
        if p in partner:
            others, theirs, scopes = blocks_[1][partner[p]]
        else:
            theirs, scopes = _single(b, looks, counts[1], a, ours[0]), ()
            others = looks
        out.append((looks, others, Run(ours, theirs, (names, scopes))))
    for q, (looks, theirs, scopes) in enumerate(blocks_[1]):
        if q not in partner.values():
            out.append((looks, looks, Run(_single(a, looks, counts[0], b, theirs[0]), theirs, ((), scopes))))
    found = []
    for looks, others, run in out:
        more = len(run.ours) - len(run.theirs)
        same = [look for look in looks if looks[look] == others[look] and counts[0][look] and counts[1][look]]
        # The rest of the models must say so too: else the runs were merely cut otherwise. A block that leads to the
        # next stage may be in the run of one side only.
        spare = [(counts[0][look] - counts[1][look]) / looks[look] for look in same]
        fits = sum(one * more > 0 and abs(one - more) <= 1 for one in spare)
        apart = _told_apart(a, run.ours) and _told_apart(b, run.theirs)
        if more and run.ours and run.theirs and 2 * fits > len(same) and not apart:
            found.append(run)
    return found


def _alike(x: Counter[_Look], y: Counter[_Look]) -> float:
    return (x & y).total() / max(1, (x | y).total())


def _outermost(side: Features) -> list[tuple[tuple[Block, ...], tuple[str, ...]]]:
    """The runs of repeated blocks that lie in no others: their blocks, and what the names in each begin with."""
    numbers: dict[object, int] = {}
    looks = zip((node.kind for node in side.nodes), side.dims, side.params, strict=True)
    codes: NDArray[np.int64] = np.array([numbers.setdefault(look, len(numbers)) for look in looks], np.int64)
    taken: set[int] = set()
    out = []
    for run in blocks.repeated(side.nodes, codes, side.direct):
        found = tuple(tuple(side.index[name] for name in block) for block in run.blocks)
        inside = {i for block in found for i in block}
        if not inside & taken:
            taken |= inside
            out.append((found, run.scopes or _scopes(side, found)))
    return sorted(out)


def _scopes(side: Features, run: Sequence[Block]) -> tuple[str, ...]:
    """What the names of each block's layers begin with, up to a separator; none where that does not tell them apart.

    Operations between the layers have names that the framework counts: these say nothing.
    """
    found = []
    for block in run:
        names = [side.nodes[i].name.replace("/preactivation", "") for i in block if side.params[i]]
        # Between the first and the last in the order of the alphabet all others lie.
        first, last = min(names, default=""), max(names, default="")
        same = next((at for at, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first))
        shared = first[:same]
        found.append(shared[: max(shared.rfind(mark) for mark in "._/") + 1])
    return tuple(found) if len({*found}) == len(found) else ()


def _without(run: Run, ignored: tuple[Nodes, Nodes], a: Features, b: Features) -> Run:
    """The run without the blocks whose layers are all ignored."""
    kept = [
        [at for at, block in enumerate(blocks_) if not {i for i in block if side.params[i]} <= nodes]
        for blocks_, nodes, side in zip((run.ours, run.theirs), ignored, (a, b), strict=True)
    ]
    ours, theirs = (
        tuple(blocks_[at] for at in chosen) for blocks_, chosen in zip((run.ours, run.theirs), kept, strict=True)
    )
    names = tuple(
        tuple(found[at] for at in chosen) if found else () for found, chosen in zip(run.names, kept, strict=True)
    )
    return Run(ours, theirs, (names[0], names[1]))


def _single(
    side: Features, looks: Counter[_Look], counts: Counter[_Look], other: Features, block: Block
) -> tuple[Block, ...]:
    """The one block of a side that looks like those of a run of the other; none where it has not just one."""
    if not looks or any(counts[look] != count for look, count in looks.items()):
        return ()
    found = [i for i, params in enumerate(side.params) if params in looks]
    # A loop over a cell is what the recurrent layer is.
    if {side.nodes[i].kind for i in found} != {other.nodes[i].kind for i in block if other.params[i] in looks}:
        return ()
    last = found[-1]
    plain = {(other.nodes[i].kind, other.dims[i]) for i in block if not other.params[i]}
    while len(side.below[last]) == 1 and last - found[0] + 1 < len(block):
        reader = side.below[last][0][0]
        if reader != last + 1 or side.params[reader] or (side.nodes[reader].kind, side.dims[reader]) not in plain:
            break
        last = reader
    return (tuple(range(found[0], last + 1)),)


def _told_apart(side: Features, run: Sequence[Block]) -> bool:
    """Whether settings tell the blocks of a run apart (dilations that grow)."""
    return any(
        bool(differences(side.nodes[i], side.nodes[k]))
        for block in run[1:]
        for i, k in zip(run[0], block, strict=False)
    )
