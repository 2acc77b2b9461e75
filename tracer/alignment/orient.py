"""The axes of all pairs of an alignment, found together.

What is certain comes first: a mapping file's word, lengths that fit in one way only, values. It says which strand
(:mod:`tracer.alignment.flow`) of one graph is which of the other's, and so what the axes of every other tensor are in
which those strands occur, above and below. What is still open then follows the layers' own layouts, and is called
ambiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import arrange, labels
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.axes import Axes, apply, possible
from tracer.alignment.consistency import MASKED
from tracer.alignment.correlation import Heard, listen
from tracer.alignment.features import Beside, Features
from tracer.alignment.flow import Flow, Tensor
from tracer.alignment.links import Links
from tracer.graph import Node

How = Literal["stated", "only", "values", "parameters", "layout", "inherited", "guess", "none"]
"""How axes are known: by a person; because nothing else fits; proven by content; by what the layer's parameters or its
layout say; through the graph; not at all. ``none``: no order of the axes makes the shapes equal."""
Values = Callable[[int, int], tuple[NDArray[Any], NDArray[Any]] | None]

_WEIGHTS: Mapping[str, float] = {"stated": 50, "values": 8, "only": 4, "parameters": 3, "layout": 3, "inherited": 1.5}
_MARGIN = 0.5
"""Support by which an order must lead to be called known."""
_MOST = 120
"""Orders of the axes that are told apart: all of six equal axes behind the batch."""
_ROUNDS = 6
_CLEAR = (1.0, 0.4, 0.0)
"""By how much values that are not equal must speak for one order rather than another; the clearest come first."""
_REGROUPED = 0.4
"""The same for an order in which parts of axes change places."""
_UNPROVEN = 0.5
"""What correlations are worth where the values prove no order, beside those that prove one."""
_NATURAL = 0.1
_OWN = {"n": 1.0, "c": 1.0, "t": 1.0, "axis": 1.0}
_NEAR = 0.25
_PLACE = 0.6  # rows and columns in order are a convention, which values and neighbours may overrule


@dataclass(frozen=True)
class Found:
    """The axes of one pair.

    Attributes:
        axes: see :mod:`tracer.alignment.axes`; None where no order of the axes makes the shapes equal.
        how: how they are known.
        ambiguous: other orders that are as likely.
        arrangement: how factors of merged axes move; where ``axes`` is given as well, both have the same shape but
            hold their values in another order.
    """

    axes: Axes | None
    how: How
    ambiguous: tuple[Axes, ...] = ()
    arrangement: Rearrangement | None = None


Letters = tuple[tuple[int, int], ...]
"""Strands of the reference and of the candidate that an option takes for the same."""


@dataclass(frozen=True)
class _Option:
    axes: Axes | None
    letters: Letters
    plan: Rearrangement | None = None

    def view(self, ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.plan is not None:
            return self.plan.factored(ours, theirs)
        assert self.axes is not None
        return ours, apply(theirs, self.axes)


@dataclass
class _Open:
    """A pair on the way to its axes."""

    i: int
    j: int
    options: list[_Option]
    own: tuple[tuple[int, int, float], ...] = ()
    """Axes of both sides that the operations themselves take for the same, with what that is worth."""
    heard: Heard | None = None
    suspect: bool = False
    """What is heard and what the operations say are not believed: see :meth:`_Search._suspect`."""
    found: Found | None = None


def find(
    pairs: Sequence[tuple[int, int]],
    a: Features,
    b: Features,
    values: Values,
    stated: Mapping[tuple[int, int], Axes],
) -> list[Found]:
    """The axes of every pair, in the order of ``pairs``.

    Args:
        pairs: indices into the nodes of ``a`` (reference) and ``b`` (candidate).
        values: reads both tensors of a pair, or says None where they were not recorded. Called only for pairs with
            more than one possible order.
        stated: axes that a person wrote.
    """
    return _Search(pairs, a, b, values, stated).run()


class _Search:
    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        a: Features,
        b: Features,
        values: Values,
        stated: Mapping[tuple[int, int], Axes],
    ) -> None:
        self.a, self.b = a, b
        self.ours, self.theirs = Flow(a.nodes), Flow(b.nodes)
        self.values, self.stated = values, stated
        self.links, self.guesses = Links(self.ours, self.theirs), Links(self.ours, self.theirs)
        self.hints: dict[int, str] = {}
        self.known: dict[tuple[Tensor, Tensor], list[_Option]] = {}
        self.base: dict[tuple[int, tuple[tuple[int, int, float], ...]], list[float]] = {}
        for node in a.nodes:
            if node.shape is not None:
                self._hint(node, labels.output(node, len(node.shape)))
                above = self._read(a, node)
                if above is not None and above.shape is not None:
                    self._hint(above, labels.inputs(node, len(above.shape)))
        self.open = [self._opened(i, j) for i, j in pairs]
        self.by_reference = {pair.i: pair for pair in self.open}
        self.beside = Beside(a, self.by_reference), Beside(b, {pair.j for pair in self.open})

    def run(self) -> list[Found]:
        for pair in self.open:
            self._certain(pair)
        for pair in self.open:
            if pair.found is None and self._choosable(pair):
                self._listen(pair)
        for pair in self.open:
            if not pair.suspect:
                self._own(pair)
        self._spread()
        for least in _CLEAR:
            clear = [pair for pair in self.open if pair.found is None and _lead(pair) >= least]
            for pair in clear:
                if pair.heard is not None and pair.heard.best is not None:
                    self._settle(pair, pair.options[pair.heard.best], "values")
            if clear:
                self._spread()
        self.base.clear()
        for pair in self.open:
            if pair.found is None:
                self._guess(pair)
        return [pair.found or Found(None, "none") for pair in self.open]

    def _spread(self) -> None:
        """Let what is known say what else the graph makes of it."""
        for _ in range(_ROUNDS):
            self.base.clear()
            settled = [self._follow(pair) for pair in self.open if pair.found is None]
            if not any(settled):
                break

    # What is possible

    def _opened(self, i: int, j: int) -> _Open:
        left, right = self.a.nodes[i], self.b.nodes[j]
        if left.shape is None or right.shape is None:
            return _Open(i, j, [])
        ours, theirs = self._tensors(left, right)
        known = self.known.get((ours, theirs))
        if known is None:
            orders = possible(left.shape, right.shape)[:_MOST]
            known = [_Option(axes, self._letters(ours, theirs, axes)) for axes in orders]
            if not known or any(len(axis) > 1 for axis in (*ours, *theirs)):
                known += self._arranged(known, ours, theirs)
            for left_split, right_split in self._split_below(ours, theirs):
                known += self._arranged(known, left_split, right_split)
            self.known[ours, theirs] = known
        return _Open(i, j, known)

    def _tensors(self, left: Node, right: Node) -> tuple[Tensor, Tensor]:
        return (
            tuple(tuple((self.ours.find(f), n) for f, n in axis) for axis in self.ours.tensors[left.name]),
            tuple(tuple((self.theirs.find(f), n) for f, n in axis) for axis in self.theirs.tensors[right.name]),
        )

    @staticmethod
    def _letters(ours: Tensor, theirs: Tensor, axes: Axes) -> Letters:
        out: list[tuple[int, int]] = []
        for axis, place in zip(ours, axes, strict=True):
            other = () if place is None else theirs[place]
            if [n for _, n in axis] == [n for _, n in other]:
                out += [(f, g) for (f, _), (g, _) in zip(axis, other, strict=True)]
        return tuple(out)

    def _arranged(self, options: Sequence[_Option], ours: Tensor, theirs: Tensor) -> Iterator[_Option]:
        """The orders of factors that axes alone do not say."""
        known = {tuple(sorted(option.letters)) for option in options if len(option.letters) > 0}
        for plan, letters in self._plans(ours, theirs):
            if _whole(plan) and options:
                continue
            if tuple(sorted(letters)) in known and len(letters) == len(plan.lengths):
                continue
            same = possible(plan.shape(plan.reference), plan.shape(plan.candidate))
            straight = next((axes for axes in same if _keeps(plan, axes)), same[0] if same else None)
            yield _Option(straight, letters, plan)

    def _plans(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Rearrangement, Letters]]:
        left = [(place, f) for place, axis in enumerate(ours) for f in axis]
        right = [(place, f) for place, axis in enumerate(theirs) for f in axis]
        lengths, others = [f[1] for _, f in left], [f[1] for _, f in right]
        if not lengths or 0 in lengths or 0 in others:
            return
        if sorted(lengths) == sorted(others):
            for order in arrange.bijections(lengths, others):
                groups = tuple(tuple(k for k, (at, _) in enumerate(left) if at == place) for place in range(len(ours)))
                back = {place: k for k, place in enumerate(order)}
                across = tuple(
                    tuple(back[k] for k, (at, _) in enumerate(right) if at == place) for place in range(len(theirs))
                )
                letters = tuple((left[k][1][0], right[place][1][0]) for k, place in enumerate(order))
                yield self._named(tuple(lengths), groups, across, [strand for _, (strand, _) in left]), letters
            return
        for table in arrange.tables(lengths, others):
            sizes, rows, columns = arrange.from_table(lengths, others, table)
            first = self._pieces(self.ours, [f for _, f in left], rows, sizes)
            second = self._pieces(self.theirs, [f for _, f in right], columns, sizes)
            groups = _collected([at for at, _ in left], rows, len(ours))
            across = _collected([at for at, _ in right], columns, len(theirs))
            yield self._named(sizes, groups, across, first), tuple(zip(first, second, strict=True))

    def _split_below(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Both tensors with an axis as the factors that it is split into further on, in another order on each side.

        A decoder's dense layer that one port reshapes to (length, channels), the other to (channels, length).
        """
        for (k, left), (m, right) in product(enumerate(ours), enumerate(theirs)):
            if len(left) == len(right) == 1 and left[0][1] == right[0][1]:
                for one, other in product(self.ours.splits(left[0]), self.theirs.splits(right[0])):
                    sizes, others = [n for _, n in one], [n for _, n in other]
                    if sizes != others and sorted(sizes) == sorted(others):
                        yield (*ours[:k], one, *ours[k + 1 :]), (*theirs[:m], other, *theirs[m + 1 :])

    @staticmethod
    def _pieces(
        flow: Flow, factors: Sequence[tuple[int, int]], groups: arrange.Groups, sizes: Sequence[int]
    ) -> list[int]:
        """The strand that each letter is on one side: a factor's own, or its part where it is split for the other."""
        out = [0] * len(sizes)
        for factor, group in zip(factors, groups, strict=True):
            for letter, part in zip(group, flow.split(factor, [sizes[n] for n in group]), strict=True):
                out[letter] = flow.find(part[0])
        return out

    def _named(
        self, sizes: tuple[int, ...], reference: arrange.Groups, candidate: arrange.Groups, strands: Sequence[int]
    ) -> Rearrangement:
        known = {k: self.hints[strand] for k, strand in enumerate(strands) if strand in self.hints}
        first = next((axis for axis in reference if axis), ())
        return Rearrangement(sizes, reference, candidate, arrange.letters(sizes, known, first))

    # What is known

    def _suspect(self, pair: _Open) -> bool:
        """Whether a pair that moves no axes differs though all that it reads is equal: its own settings may be why."""
        kind = self.a.nodes[pair.i].kind, self.b.nodes[pair.j].kind
        if not set(kind) <= labels.STILL or pair.heard is None or pair.heard.equal:
            return False
        above = [self.by_reference[i] for i in self.beside[0](pair.i)[0]]
        beyond = self.beside[1](pair.j)[0]
        return bool(above) and all(near.j in beyond and near.heard is not None and near.heard.equal for near in above)

    def _own(self, pair: _Open) -> None:
        """What the two operations say of their axes, and of those that they read."""
        left, right = self.a.nodes[pair.i], self.b.nodes[pair.j]
        if left.shape is None or right.shape is None:
            return
        ours, theirs = labels.output(left, len(left.shape)), labels.output(right, len(right.shape))
        weight = 0.5 if left.role == "input" else _WEIGHTS["parameters"]
        pair.own = tuple((ours[k], theirs[k], _OWN.get(k, _PLACE)) for k in ours if k in theirs)
        self._tie(self.ours.tensors[left.name], self.theirs.tensors[right.name], pair.own, weight)
        above, beyond = self._read(self.a, left), self._read(self.b, right)
        if above is not None and beyond is not None:
            first, second = (labels.inputs(n, len(p.shape or ())) for n, p in ((left, above), (right, beyond)))
            read = [(first[k], second[k], _OWN.get(k, _PLACE)) for k in first if k in second]
            self._tie(self.ours.tensors[above.name], self.theirs.tensors[beyond.name], read, weight)

    def _hint(self, node: Node, names: Mapping[str, int]) -> None:
        tensor = self.ours.tensors[node.name]
        for name, place in names.items():
            if name != "axis" and len(tensor[place]) == 1:
                self.hints.setdefault(self.ours.find(tensor[place][0][0]), name)

    @staticmethod
    def _read(side: Features, node: Node) -> Node | None:
        known = (side.nodes[side.index[name]] for name in node.parents[:1] if name in side.index)
        return next((found for found in known if found.shape is not None), None)

    def _tie(self, ours: Tensor, theirs: Tensor, same: Sequence[tuple[int, int, float]], weight: float) -> None:
        for left, right, share in same:
            if len(ours[left]) == len(theirs[right]) == 1:
                self.links.add(ours[left][0][0], theirs[right][0][0], weight * share)

    def _certain(self, pair: _Open) -> None:
        word = self.stated.get((pair.i, pair.j))
        if word is not None:
            option = next((o for o in pair.options if o.axes == word and o.plan is None), None)
            self._settle(pair, option or _Option(word, ()), "stated")
        elif not pair.options:
            pair.found = Found(None, "none")
        elif len(pair.options) == 1 and pair.options[0].plan is None:
            self._settle(pair, pair.options[0], "only")

    def _choosable(self, pair: _Open) -> bool:
        shape = self.a.nodes[pair.i].shape
        return bool(shape) and 0 not in (shape or ())

    def _listen(self, pair: _Open) -> None:
        tensors = self.values(pair.i, pair.j)
        shapes = (self.a.nodes[pair.i].shape, self.b.nodes[pair.j].shape)
        if tensors is None or (tensors[0].shape, tensors[1].shape) != shapes:
            return
        ours, theirs = map(_unmasked, tensors)
        pair.heard = listen([partial(option.view, ours, theirs) for option in pair.options])
        pair.suspect = self._suspect(pair)
        if pair.heard.best is not None and pair.heard.equal and not pair.suspect:
            self._settle(pair, pair.options[pair.heard.best], "values")

    # What follows

    def _scores(self, pair: _Open) -> list[tuple[float, _Option]]:
        """The options with what speaks for each, the best first; the natural order stays where they are alike."""
        key = id(pair.options), pair.own
        if key not in self.base:
            self.base[key] = self._supported(pair)
        scores = self.base[key]
        if pair.heard is not None and not pair.suspect:
            heard, equal = pair.heard.correlations, pair.heard.equal
            share = 1.0 if pair.heard.best is not None else _UNPROVEN
            scores = [score + share * _strength(r) for score, r in zip(scores, heard, strict=True)]
            if equal:  # the tensors are the same under others, not under these
                scores = [score if k in equal else score - 10.0 for k, score in enumerate(scores)]
        first, second = sorted((*scores, 0.0), reverse=True)[:2]
        if first - second < _MARGIN:
            around = self._around(pair)
            near = [_NEAR * sum(axes == option.axes for axes in around) for option in pair.options]
            scores = [score + more for score, more in zip(scores, near, strict=True)]
        order = sorted(range(len(scores)), key=lambda k: -scores[k])
        return [(scores[k], pair.options[k]) for k in order]

    def _supported(self, pair: _Open) -> list[float]:
        """What the graph and the two operations say for each option."""
        out = self._linked(pair, self.links)
        for k, option in enumerate(pair.options):
            if option.axes is not None:
                out[k] += sum(share for left, right, share in pair.own if option.axes[left] == right)
        return out

    @staticmethod
    def _linked(pair: _Open, links: Links) -> list[float]:
        ours = {f for option in pair.options for f, _ in option.letters}
        theirs = {g for option in pair.options for _, g in option.letters}
        known: dict[tuple[int, int], float] = {}
        out = []
        for option in pair.options:
            for link in option.letters:
                if link not in known:
                    known[link] = links.support(*link, ours, theirs)
            out.append(sum(known[link] for link in option.letters))
        return out

    def _around(self, pair: _Open) -> list[Axes]:
        """The axes of a pair that this one reads and of one that reads it, where they are known and as many.

        A layer that nothing is known of rarely moves axes; where those on both sides of it agree, it does not.
        """
        rank = len(pair.options[0].axes or ())
        out = []
        for ours, theirs in zip(self.beside[0](pair.i), self.beside[1](pair.j), strict=True):
            for near in (self.by_reference[i] for i in ours):
                if near.j not in theirs or near.found is None or near.found.ambiguous:
                    continue
                if near.found.axes is not None and len(near.found.axes) == rank:
                    out.append(near.found.axes)
                    break
        return out

    def _follow(self, pair: _Open) -> bool:
        """Settle a pair if the graph says what its axes are."""
        ranked = self._scores(pair)
        if ranked[0][0] - max((score for score, _ in ranked[1:]), default=0.0) < _MARGIN:
            return False
        option = ranked[0][1]
        shares = [sum(s for i, j, s in pair.own if o.axes is not None and o.axes[i] == j) for _, o in ranked]
        alone = len(shares) > 1 and option.plan is None and shares[0] - max(shares[1:]) >= _MARGIN
        how: How = "inherited"
        if alone:
            how = "parameters" if self.a.nodes[pair.i].params and self.b.nodes[pair.j].params else "layout"
        self._settle(pair, option, how)
        return True

    def _settle(self, pair: _Open, option: _Option, how: How) -> None:
        weight = _WEIGHTS[how]
        for one, other in option.letters:
            self.links.add(one, other, weight)
        pair.found = Found(option.axes, how, (), option.plan)

    def _guess(self, pair: _Open) -> None:
        """The likeliest order, with those that are as likely; of these the one that goes with what was guessed before.

        A guess proves nothing, but those of tensors that are read from each other should be the same.
        """
        ranked = self._scores(pair)
        best = ranked[0][0]
        near = [(score, option) for score, option in ranked if best - score < _MARGIN]
        if len(near) > 1:
            leaning = dict(zip(map(id, pair.options), self._linked(pair, self.guesses), strict=True))
            leaning[id(pair.options[0])] += _NATURAL
            near.sort(key=lambda found: -found[0] - leaning[id(found[1])])
        option = near[0][1]
        others = tuple(dict.fromkeys(o.axes for _, o in near[1:] if o.axes is not None and o.axes != option.axes))
        if option.axes is None:
            # No order of the axes fits, and nothing says which factors these are.
            pair.found = Found(None, "none")
            return
        for letters in option.letters:
            self.guesses.add(*letters, 1.0)
        alone = None if len(near) > 1 else option.plan
        pair.found = Found(option.axes, "guess" if others else "only", others, alone)


def _unmasked(values: NDArray[Any]) -> NDArray[Any]:
    """Values with what only says that something is masked next to the others: beside it all others are alike, and where
    it stands may be the mistake."""
    if values.dtype.kind != "f" or not values.size or not float(values.min()) <= MASKED < -float(values.max()):
        return values
    seen = values > MASKED
    return np.where(seen, values, values[seen].min()) if seen.any() else values


def _strength(correlation: float | None) -> float:
    """What a correlation is worth beside the graph: little where it is weak, for a defect above makes such ones."""
    return math.atanh(min(max(0.0, correlation or 0.0), 0.999))


def _lead(pair: _Open) -> float:
    """By how much the option that the values speak for leads; negative where they speak for none."""
    if pair.heard is None or pair.heard.best is None or pair.suspect:
        return -1.0
    best, *others = sorted((_strength(r) for r in pair.heard.correlations), reverse=True)
    lead = best - max(others, default=0.0)
    return -1.0 if pair.options[pair.heard.best].plan is not None and lead < _REGROUPED else lead


def _collected(places: Sequence[int], groups: arrange.Groups, count: int) -> arrange.Groups:
    """Groups over factors as groups over the axes that the factors belong to."""
    return tuple(
        tuple(letter for at, group in zip(places, groups, strict=True) if at == place for letter in group)
        for place in range(count)
    )


def _whole(plan: Rearrangement) -> bool:
    """Whether only whole axes move, which axes alone can say."""
    return {axis for axis in plan.reference if axis} <= set(plan.candidate)


def _keeps(plan: Rearrangement, axes: Axes) -> bool:
    """Whether axes take over the plan's factors, whatever their order within an axis."""
    return all(
        place is None or sorted(axis) == sorted(plan.candidate[place])
        for axis, place in zip(plan.reference, axes, strict=True)
    )
