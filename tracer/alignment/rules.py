"""What a person decided, as the alignment obeys it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.assign import PINNED
from tracer.alignment.candidates import Candidates, Values
from tracer.alignment.features import Features
from tracer.graph import Structure

if TYPE_CHECKING:
    from typing import Self

    from tracer.alignment.mapping import Entry
    from tracer.alignment.mapping import Mapping as MappingFile


@dataclass(frozen=True)
class Rules:
    """A mapping file in indices.

    Attributes:
        ignored: nodes of either side that are not paired.
        entries: the stated pairs by their compared nodes.
        taken: all nodes of either side that a stated pair holds.
        rejected: compared nodes that a person said are no pair.
        blocks: nodes of the reference, and of the candidate, that may be paired with each other only.
    """

    ignored: tuple[frozenset[int], frozenset[int]]
    entries: Mapping[tuple[int, int], Entry]
    taken: tuple[frozenset[int], frozenset[int]]
    blocks: Sequence[tuple[frozenset[int], frozenset[int]]]
    rejected: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(
        cls, mapping: MappingFile | None, a: Features, b: Features, reference: Structure, candidate: Structure
    ) -> Self:
        """The rules of a mapping file whose patterns are resolved; None for no rules at all."""
        if mapping is None:
            nothing: frozenset[int] = frozenset()
            return cls((nothing, nothing), {}, (nothing, nothing), ())
        from tracer.alignment.mapping import constraints

        return cls(
            (
                frozenset(i for i, node in enumerate(a.nodes) if mapping.ignores("reference", node.name)),
                frozenset(j for j, node in enumerate(b.nodes) if mapping.ignores("candidate", node.name)),
            ),
            {(a.index[e.reference[-1]], b.index[e.candidate[-1]]): e for e in mapping.pairs},
            (
                frozenset(a.index[name] for entry in mapping.pairs for name in entry.reference),
                frozenset(b.index[name] for entry in mapping.pairs for name in entry.candidate),
            ),
            [(_indices(ours, a), _indices(theirs, b)) for ours, theirs in constraints(mapping, reference, candidate)],
            frozenset((a.index[e.reference[-1]], b.index[e.candidate[-1]]) for e in mapping.rejected),
        )

    @property
    def pairs(self) -> NDArray[Any]:
        """The stated pairs, a row each."""
        return np.array(list(self.entries), np.intp).reshape(-1, 2)

    @property
    def laid(self) -> list[tuple[frozenset[int], frozenset[int]]]:
        """The nodes of each stated pair, and of each block that is laid on another."""
        return [*((frozenset((i,)), frozenset((j,))) for i, j in self.entries), *self.blocks]

    def decided(self, ours: Sequence[int], theirs: Sequence[int]) -> bool:
        """Whether a person has said something about any of these nodes."""
        sides = zip((ours, theirs), self.taken, self.ignored, strict=True)
        return any(i in taken or i in ignored for nodes, taken, ignored in sides for i in nodes)

    def rejects(self, i: int, j: int) -> bool:
        """Whether a person said that these two are no pair."""
        return (i, j) in self.rejected

    def crosses(self, ours: Sequence[int], theirs: Sequence[int]) -> bool:
        """Whether these nodes together lie inside a block on one side and outside its twin on the other."""
        return any(bool(block.intersection(ours)) != bool(twin.intersection(theirs)) for block, twin in self.blocks)

    def said(self, pairs: Candidates) -> Values:
        """For each pair ``PINNED`` if it is stated, 0 if it cannot be because of what is, 1 where nothing is said."""
        out: Values = np.ones(len(pairs), np.float32)
        for ours, theirs in self.blocks:
            out[np.isin(pairs.rows, list(ours)) != np.isin(pairs.cols, list(theirs))] = 0
        rows, cols = (list(taken | ignored) for taken, ignored in zip(self.taken, self.ignored, strict=True))
        out[np.isin(pairs.rows, rows) | np.isin(pairs.cols, cols)] = 0
        none = np.array(list(self.rejected), np.intp).reshape(-1, 2)
        never = pairs.find(none[:, 0], none[:, 1])
        out[never[never < len(pairs)]] = 0
        places = pairs.find(self.pairs[:, 0], self.pairs[:, 1])
        out[places] = PINNED
        return out

    def follow(self, said: Values, pairs: Candidates, a: Features, b: Features, possible: NDArray[np.bool_]) -> None:
        """Let each stated pair decide for what hangs on it alone: the one node that reads nothing else, and the one
        that nothing else reads, are paired with the same of its twin. Rivals get 0 in ``said``."""
        queue = [(int(i), int(j)) for i, j in self.pairs]
        seen: set[tuple[int, int]] = set()
        while queue:
            s, t = queue.pop()
            if (s, t) in seen:
                continue
            seen.add((s, t))
            for ours, theirs in ((_readers(a, s), _readers(b, t)), (_sources(a, s), _sources(b, t))):
                fits = [
                    (i, j, place)
                    for i in ours
                    for j in theirs
                    for place in pairs.find(np.array([i]), np.array([j]))
                    if place < len(pairs) and possible[place] and said[place] == 1
                ]
                if len(fits) == 1:
                    ((i, j, place),) = fits
                    said[(pairs.rows == i) ^ (pairs.cols == j)] = 0
                    said[place] = 1
                    queue.append((i, j))


def _readers(side: Features, index: int) -> list[int]:
    return [c for c, _ in side.below[index] if {*side.above[c]} == {index}]


def _sources(side: Features, index: int) -> list[int]:
    return [p for p in dict.fromkeys(side.above[index]) if {c for c, _ in side.below[p]} == {index}]


def _indices(names: frozenset[str], side: Features) -> frozenset[int]:
    return frozenset(side.index[name] for name in names if name in side.index)
