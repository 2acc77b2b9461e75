"""How the settings of two paired layers differ, and what that means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tracer import kinds
from tracer.configuration import windows
from tracer.configuration.canonical import number, settings
from tracer.configuration.vocabulary import WORDS, Pairs, Settings, Word
from tracer.graph import Node, Structure

_UNTOLD = Word("", told=False)
_NONNEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "exponential", "softmax", "square"})
_PASSED_ON = frozenset({"identity", "dropout", "cast"})
_WINDOW = frozenset({"kernel_size", "strides", "dilation", "padding", "padding_mode"})


@dataclass(frozen=True)
class Difference:
    """A setting that differs.

    Attributes:
        word: of :data:`~tracer.configuration.WORDS`, or of an adapter.
        reference, candidate: both values as a person reads them.
        means: what it does, in words; empty where that is plain.
        training: whether it makes a difference only while a model is trained.
        nodes: the reference's and the candidate's node that are set so.
    """

    word: str
    reference: str
    candidate: str
    means: str
    training: bool
    nodes: tuple[str, str]

    @property
    def computes(self) -> bool:
        """Whether it makes the layer compute something else; another type only rounds otherwise."""
        return not self.training and self.word != "dtype"

    @property
    def values(self) -> str:
        return f"{self.word} {self.reference} against {self.candidate}"

    def __str__(self) -> str:
        return self.values + (f": {self.means}" if self.means else "")


def apart(
    ours: Sequence[str],
    theirs: Sequence[str],
    reference: Structure,
    candidate: Structure,
    axes: Sequence[int | None] | None,
) -> tuple[Difference, ...]:
    """What the layers ``ours`` of the reference and their twins ``theirs`` are set to differently.

    Args:
        ours, theirs: names of nodes; of groups those are compared that are of one kind and as many on both sides.
        axes: which axis of the candidate each of the reference's is; None where that is not known: then nothing that
            goes by axes is said.
    """
    left = [reference.by_name[name] for name in ours]
    right = [candidate.by_name[name] for name in theirs]
    found: dict[tuple[str, str, str], Difference] = {}
    for one, other, words in _matched(left, right):
        if kinds.similarity(one.kind, other.kind) < 0.6:
            continue
        for difference in _between(one, other, reference, candidate, axes):
            if difference.word == "bias" and sorted(n.kind for n in left) != sorted(n.kind for n in right):
                continue  # the norm that was folded into it, or an addition, is the bias on the other side
            if words is None or difference.word in words:
                found.setdefault((difference.word, difference.reference, difference.candidate), difference)
    for difference in _epsilons(left, right):
        found.setdefault((difference.word, difference.reference, difference.candidate), difference)
    return tuple(found.values())


def _epsilons(left: list[Node], right: list[Node]) -> Iterator[Difference]:
    """The epsilon of a norm against that of one that is written out."""
    for ours, theirs, turned in ((left, right, False), (right, left, True)):
        norms = [n for n in ours if n.kind in kinds.NORMALISATIONS and "epsilon" in n.config]
        if len(norms) != 1 or any(n.kind in kinds.NORMALISATIONS for n in theirs):
            continue
        for node, value in _added(theirs):
            sides = [(norms[0].config["epsilon"], norms[0].name), (value, node.name)]
            (a, one), (b, other) = sides[::-1] if turned else sides
            if not _same(a, b):
                yield Difference("epsilon", _text(a), _text(b), WORDS["epsilon"].means, False, (one, other))


def _added(nodes: list[Node]) -> Iterator[tuple[Node, float]]:
    """Small constants that are added to what a root is then taken of."""
    roots = {parent for node in nodes if node.kind in ("sqrt", "rsqrt", "power") for parent in node.parents}
    for node in nodes:
        said = node.config.get("args", node.config.get("value"))
        value = said[0] if isinstance(said, list) and len(said) == 1 else said
        if node.kind == "add" and node.name in roots and isinstance(value, float) and 0 < value < 0.1:
            yield node, value


def _matched(left: list[Node], right: list[Node]) -> Iterator[tuple[Node, Node, frozenset[str] | None]]:
    """The nodes that stand for each other, and by which words they are compared where not by all."""
    if len(left) == len(right) == 1:
        yield left[0], right[0], None
        return
    sides = [
        {kind: list(nodes) for kind, nodes in groupby(sorted(side, key=lambda n: n.kind), key=lambda n: n.kind)}
        for side in (left, right)
    ]
    for kind, nodes in sides[0].items():
        twins = sides[1].get(kind, [])
        if len(twins) == len(nodes):
            yield from ((one, other, None) for one, other in zip(nodes, twins, strict=True))
    rest = [[n for kind, nodes in a.items() if kind not in b for n in nodes] for a, b in (sides, sides[::-1])]
    windowed = [[n for n in side if n.kind in kinds.CONVOLUTIONS] for side in rest]
    for one, other in ((a, b) for a in windowed[0] for b in windowed[1]):
        pair = {one.kind.partition("_conv")[0], other.kind.partition("_conv")[0]}
        if pair == {"separable", "depthwise"}:
            yield one, other, _WINDOW
        elif len(windowed[0]) == len(windowed[1]) == 1:
            yield one, other, None


def _between(
    one: Node, other: Node, reference: Structure, candidate: Structure, axes: Sequence[int | None] | None
) -> Iterator[Difference]:
    a, b = settings(one, reference), settings(other, candidate)
    if windows.rank_of(one) is not None and windows.rank_of(one) == windows.rank_of(other):
        if all(_same(a.get(word), b.get(word)) for word in ("kernel_size", "strides", "dilation")):
            a, b = _with_pads(one, other, a, b, reference, candidate)
        else:  # how far the windows reach differs anyway
            a, b = a.but(padding=_written(one, reference)), b.but(padding=_written(other, candidate))
    for word in a:
        if word not in b:
            continue
        kept = WORDS.get(word, _UNTOLD)
        x, y = a[word], b[word]
        if word not in WORDS:
            plain = axes is not None and list(axes) == list(range(len(axes)))
            if not plain or isinstance(x, str) != isinstance(y, str) or isinstance(x, list) != isinstance(y, list):
                continue
        elif not kept.told:
            continue
        moved = _moved(kept, y, one, other, axes)
        if moved is None or _same(x, moved):
            continue
        if word == "count_include_pad" and not (any(map(any, a.get("padding", ()))) and
                                                any(map(any, b.get("padding", ())))):  # fmt: skip
            continue
        means = _means_of_padding(x, moved) if word == "padding" else kept.means
        said = (_said(word, side) for side in (a, b))
        yield Difference(word, next(said), next(said), means, kept.training, (one.name, other.name))


def _written(node: Node, structure: Structure) -> Pairs | None:
    """The padding as it is stated, with what a layer before it pads."""
    own, pad = windows.given(node.config.get("padding"), windows.rank_of(node) or 0), _pad_before(node, structure)
    if own is None or pad is None:
        return own
    outer = _outer(node, settings(pad, structure))
    if outer is None:
        return None
    return tuple((start + more, end + behind) for (start, end), (more, behind) in zip(own, outer, strict=True))


def _outer(node: Node, put: Settings) -> Pairs | None:
    """What a layer that pads, of settings ``put``, puts around the axes that a node's window slides over."""
    around: Pairs | None = put.get("paddings")
    places = windows.spatial(node)
    if around is None or places is None or len(around) != len(node.shape or ()):
        return None
    return tuple(around[axis] for axis in places)


def _moved(word: Word, value: Any, one: Node, other: Node, axes: Sequence[int | None] | None) -> Any:
    """The candidate's value in the order of the reference's axes; None where that cannot be known."""
    if not word.along:
        return value
    if word.along == "spatial":
        places = windows.spatial(one), windows.spatial(other)
        if axes is None or places[0] is None or places[1] is None or len(axes) != len(one.shape or ()):
            return value
        order = [axes[axis] for axis in places[0]]
        if len(value) != len(order) or any(axis not in places[1] for axis in order):
            return value
        return tuple(value[places[1].index(axis)] for axis in order if axis is not None)
    if axes is None or len(axes) != len(one.shape or ()) or None in axes:
        return None
    if word.along == "all":
        return tuple(value[axis] for axis in axes if axis is not None) if len(value) == len(axes) else None
    back = {axis: place for place, axis in enumerate(axes)}
    return tuple(sorted(back[axis] for axis in value)) if all(axis in back for axis in value) else None


def _with_pads(
    one: Node, other: Node, a: Settings, b: Settings, reference: Structure, candidate: Structure
) -> tuple[Settings, Settings]:
    """The settings with the layers counted in that pad before one of the two, which the other does itself."""
    pads = [_pad_before(node, structure) for node, structure in ((one, reference), (other, candidate))]
    if pads == [None, None]:
        return a, b
    whole = [
        own if pad is None else _joined(node, own, pad, structure)
        for node, own, pad, structure in ((one, a, pads[0], reference), (other, b, pads[1], candidate))
    ]
    if None not in pads and not _same(whole[0].get("padding"), whole[1].get("padding")):
        return a, b  # it is said of the pads, or of what is padded besides
    return whole[0], whole[1]


def _pad_before(node: Node, structure: Structure) -> Node | None:
    """The layer that pads what a node reads."""
    while node.parents and (source := structure.by_name.get(node.parents[0])) is not None:
        if source.kind == "pad":
            return source
        if source.kind not in _PASSED_ON:
            break
        node = source
    return None


def _joined(node: Node, own: Settings, pad: Node, structure: Structure) -> Settings:
    """A window's settings with those of the layer that pads before it."""
    put = settings(pad, structure)
    outer = _outer(node, put)
    if outer is None or (put.get("padding_mode") == "constant" and put.get("value") != 0):
        return own.but(padding=None, padding_mode=None)
    joined = own.but(padding=windows.padding(node, structure, outer))
    if "padding_mode" in own:
        joined = joined.but(padding_mode=put.get("padding_mode"))
    if node.kind.startswith("avg"):
        joined = joined.but(count_include_pad=True)
    if node.kind.startswith("max"):
        joined = joined.but(fill="0" if _may_be_negative(pad, structure) else None)
    return joined


def _may_be_negative(node: Node, structure: Structure) -> bool:
    """Whether what a node reads is not known to be zero or more."""
    while node.parents and (source := structure.by_name.get(node.parents[0])) is not None:
        if source.kind in _NONNEGATIVE:
            return False
        if source.kind not in _PASSED_ON and not source.kind.startswith("max_pool"):
            return True
        node = source
    return True


def _means_of_padding(ours: Any, theirs: Any) -> str:
    totals = [[sum(pair) for pair in side] for side in (ours, theirs)]
    if totals[0] == totals[1]:
        return "as many zeros, but elsewhere: what comes out is shifted"
    shifted = [pair[0] for pair in ours] != [pair[0] for pair in theirs]
    return "the border differs" + (", and all is shifted" if shifted else "")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    x, y = number(a), number(b)
    return bool(a == b) if x is None or y is None else math.isclose(x, y, rel_tol=1e-6)


def _said(word: str, side: Settings) -> str:
    value, stated = side[word], side.stated.get(word)
    if word == "momentum" and isinstance(stated, float | int):
        return f"{stated:g} (= 1 − {value:g})"
    shown = _text(value)
    if word == "padding" and isinstance(stated, str):
        return f"{stated} (= {shown})"
    return shown


def _text(value: Any) -> str:
    """``2`` for what is so along all axes, (1, 2) for one number an axis, ((0, 1), (0, 1)) for two."""
    if isinstance(value, tuple) and value:
        if all(isinstance(item, tuple) and len(item) == 2 and item[0] == item[1] for item in value):
            value = tuple(item[0] for item in value)
        if len(set(value)) == 1 and not isinstance(value[0], tuple):
            return _text(value[0])
        return f"({', '.join(map(_text, value))})"
    return f"{value:.7g}" if isinstance(value, float) else str(value)
