"""What the alignment knows of each node before it compares: the graph without mere plumbing, depths, signatures."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.graph import Node, Param, Structure

Summary = Mapping[str, float | int]

TRANSPARENT = kinds.TRANSPARENT
"""Kinds that one side may have and the other not, without anything being computed."""


def dims(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The dimensions in ascending order, ones left out: equal for all axis orders of a tensor."""
    return None if shape is None else tuple(sorted(d for d in shape if d != 1))


@dataclass(frozen=True)
class Features:
    """The nodes to pair, in running order, with everything that is compared."""

    nodes: tuple[Node, ...]
    dims: tuple[tuple[int, ...] | None, ...]
    params: tuple[tuple[tuple[int, ...], ...], ...]
    depth_in: tuple[int, ...]
    """Weighted layers on the longest path from an input."""
    depth_out: tuple[int, ...]
    """Weighted layers on the longest path to an output."""
    parents: tuple[tuple[int, ...], ...]
    """Indices of the nodes that are read, seen through transparent ones."""
    children: tuple[tuple[int, ...], ...]
    summaries: tuple[Summary | None, ...]
    index: Mapping[str, int]
    direct: tuple[tuple[int, ...], ...]
    """Indices of the nodes that are read themselves, seen through nothing but containers."""

    @cached_property
    def above(self) -> tuple[tuple[int, ...], ...]:
        """The nodes whose values are read, seen through all that only arranges them: an entry an argument."""
        out: list[tuple[int, ...]] = []
        for i in range(len(self.nodes)):
            sources = map(self.source, self.direct[i])
            out.append(tuple(source for source in sources if source != i))
        return tuple(out)

    @cached_property
    def below(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Who reads a node's values, seen through the same, and as which argument: 0 for any of a sum's terms.

        A node that only arranges values has the readers of what it makes.
        """
        readers: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for i in range(len(self.nodes)):
            if self.arranges(i):
                continue
            for slot, parent in enumerate(self.direct[i]):
                passed: int | None = parent
                place = 0 if self.nodes[i].kind in COMMUTATIVE else slot
                while passed is not None:
                    readers[passed].append((i, place))
                    ahead = self.direct[passed][:1]
                    passed = ahead[0] if self.arranges(passed) and ahead else None
        return tuple(tuple(dict.fromkeys(found)) for found in readers)

    @cached_property
    def near(self) -> tuple[frozenset[int], ...]:
        """The nodes :attr:`above` and :attr:`below` each."""
        return tuple(
            frozenset((*above, *(c for c, _ in below))) for above, below in zip(self.above, self.below, strict=True)
        )

    @cached_property
    def links(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Every node with each of those :attr:`near` it, as two columns."""
        ends = [(i, k) for i, found in enumerate(self.near) for k in found]
        ours, others = np.array(ends, np.intp).reshape(-1, 2).T
        return ours, others

    def beside(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which nodes have one of the ``chosen`` next to them, or none at all."""
        ours, others = self.links
        out = np.ones(len(self.nodes), bool)
        out[ours] = False
        out[ours[chosen[others]]] = True
        return out

    def arranges(self, index: int) -> bool:
        """Whether a node only arranges or passes on the values of the one it reads."""
        return self.nodes[index].kind in ARRANGING and bool(self.direct[index])

    def source(self, index: int) -> int:
        """The node whose values a node only arranges or passes on, itself where it does more."""
        while self.arranges(index):
            index = self.direct[index][0]
        return index

    @cached_property
    def moments(self) -> NDArray[np.float64]:
        """:func:`moments` of every node, a row each."""
        return np.array([moments(summary) for summary in self.summaries]).reshape(len(self.nodes), 6)

    @cached_property
    def known(self) -> tuple[bool, ...]:
        """Whether the :attr:`moments` of every node say something."""
        return tuple(bool(row.all()) for row in np.isfinite(self.moments))

    @cached_property
    def words(self) -> tuple[frozenset[str], ...]:
        """The words of each node's name: those of its innermost scopes, without numbers."""
        return tuple(words(node) for node in self.nodes)

    @cached_property
    def walk(self) -> tuple[int, ...]:
        """The nodes in an order that does not depend on when parallel branches run.

        From the outputs up, the smallest one first; what a node reads first comes first, and of a sum's terms the one
        nearest to the input.
        """
        read = {p for found in self.direct for p in found}
        seen: set[int] = set()
        out: list[int] = []
        ends = [i for i in range(len(self.nodes)) if i not in read]
        for end in sorted(ends, key=lambda i: self.dims[i] or ()):
            stack = [(end, False)]
            while stack:
                i, done = stack.pop()
                if done:
                    out.append(i)
                elif i not in seen:
                    seen.add(i)
                    stack.append((i, True))
                    first = list(self.direct[i])
                    if self.nodes[i].kind in COMMUTATIVE:
                        first.sort(key=lambda p: (self.depth_in[p], p))
                    stack += [(p, False) for p in reversed(first) if p not in seen]
        return tuple(out)


COMMUTATIVE = frozenset({"add", "mul", "average", "maximum", "minimum"})
ARRANGING = (TRANSPARENT - {"split"}) | {"reshape", "flatten"}
"""Kinds that are looked through to see which computation reads which."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SPOKEN = {
    "convolution": "conv", "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "batch": "bn", "normalization": "norm",
    "batchnorm": "bn", "layernorm": "ln", "linear": "dense", "fc": "dense", "query": "q", "key": "k", "value": "v",
    "proj": "projection", "intermediate": "mid", "embeddings": "embed", "embedding": "embed", "attn": "attention",
    "activation": "act", "downsample": "shortcut", "pre": "", "tf": "", "layer": "", "layers": "", "block": "",
    "blocks": "", "model": "", "module": "", "features": "",
}  # fmt: skip


class Beside:
    """The nodes with a twin before and behind a node, through those without one that leave the shape as it is."""

    def __init__(self, side: Features, paired: Container[int]) -> None:
        self._side, self._paired = side, paired
        self._readers: list[list[int]] = [[] for _ in side.nodes]
        for i, found in enumerate(side.direct):
            for parent in found:
                self._readers[parent].append(i)

    def __call__(self, index: int) -> tuple[list[int], list[int]]:
        """Both for the node at ``index``."""
        return self._reached(index, self._side.direct), self._reached(index, self._readers)

    def _reached(self, index: int, ahead: Sequence[Sequence[int]]) -> list[int]:
        shape = self._side.nodes[index].shape
        out: dict[int, None] = {}
        queue, seen = list(ahead[index]), {index}
        while queue:
            here = queue.pop(0)
            if here in seen:
                continue
            seen.add(here)
            if here in self._paired:
                out[here] = None
            elif self._side.nodes[here].shape == shape:
                queue += ahead[here]
        return list(out)


def words(node: Node) -> frozenset[str]:
    """The words of a node's name, spelled alike for both frameworks; numbers, and words that say nothing, left out."""
    found = (_SPOKEN.get(w.lower(), w.lower()) for w in _WORD.findall(node.name.replace("preactivation", "")))
    return frozenset(w for w in found if len(w) > 0)


def pairable(node: Node) -> bool:
    """Whether a node is paired at all: not containers, parts of a layer, nor outputs that a module only passes on."""
    return node.role not in ("container", "inner") and not (node.role == "item" and node.alias_of)


def extract(structure: Structure, summaries: Mapping[str, Summary]) -> Features:
    """Features of every node but containers and what they pass through; ``summaries`` are those of the recorded
    tensors, where there are any."""
    nodes = tuple(node for node in structure.nodes if pairable(node))
    index = {node.name: i for i, node in enumerate(nodes)}
    parents = tuple(tuple(dict.fromkeys(_through(structure, node, index, TRANSPARENT))) for node in nodes)
    direct = tuple(
        tuple(p for p in _through(structure, node, index, frozenset()) if p < i) for i, node in enumerate(nodes)
    )
    children: list[list[int]] = [[] for _ in nodes]
    for i, found in enumerate(parents):
        for parent in found:
            children[parent].append(i)
    weight = [_weighted(node) for node in nodes]
    depth_in = [0] * len(nodes)
    for i in range(len(nodes)):
        depth_in[i] = weight[i] + max((depth_in[p] for p in parents[i] if p < i), default=0)
    depth_out = [0] * len(nodes)
    for i in reversed(range(len(nodes))):
        depth_out[i] = weight[i] + max((depth_out[c] for c in children[i] if c > i), default=0)
    stored = [structure.by_name[n.alias_of].name if n.alias_of in structure.by_name else n.name for n in nodes]
    return Features(
        nodes,
        tuple(dims(node.shape) for node in nodes),
        tuple(tuple(sorted(dims(p.shape) or () for p in params)) for params in _params(nodes)),
        tuple(depth_in),
        tuple(depth_out),
        parents,
        tuple(tuple(c) for c in children),
        tuple(summaries.get(name) for name in stored),
        index,
        direct,
    )


def _weighted(node: Node) -> int:
    """How many layers with weights a node stands for, as another framework may write it.

    Vectors do not count: a normalisation may be folded into the layer before it.
    """
    if node.kind == "attention":
        return 2 if node.params else 0  # the projections in front and behind; the products have none
    if node.kind.startswith("separable"):
        return 2  # depthwise, then pointwise
    stacked = sum(p.name.startswith("weight_hh_l") and not p.name.endswith("_reverse") for p in node.params)
    return max(stacked, int(node.kind in kinds.WEIGHTED or any(len(p.shape) > 1 for p in node.params)))


def _params(nodes: Sequence[Node]) -> list[tuple[Param, ...]]:
    """The parameters of each node; a further call of a shared layer has those of the first."""
    first = {(node.owner, node.kind): node.params for node in reversed(nodes) if node.params}
    return [
        node.params or (first.get((node.owner, node.kind), ()) if node.owner and node.call else ()) for node in nodes
    ]


def _through(structure: Structure, node: Node, index: Mapping[str, int], clear: frozenset[str]) -> list[int]:
    """Indices of a node's parents, looking through containers, parts of layers, and kinds that are ``clear``."""
    out: list[int] = []
    queue = list(node.parents)
    seen: set[str] = set()
    while queue:
        name = queue.pop(0)
        found = structure.by_name.get(name)
        if found is None or name in seen:
            continue
        seen.add(name)
        if found.role in ("container", "inner") or found.kind in clear:
            ahead = (found.alias_of,) if found.alias_of else found.parents
            if ahead and ahead[0] is not None:
                queue = [a for a in ahead if a is not None] + queue
                continue
        if name in index:
            out.append(index[name])
    return out


def beyond(structure: Structure, node: Node) -> set[str]:
    """The nodes whose values ``node`` only passes on, perhaps in another arrangement."""
    found: set[str] = set()
    while (
        (node.kind in TRANSPARENT or node.kind in ("flatten", "reshape"))
        and node.parents
        and node.parents[0] in structure.by_name
    ):
        node = structure.by_name[node.parents[0]]
        if node.name in found:
            break
        found.add(node.name)
    return found


def moments(summary: Summary | None) -> tuple[float, ...]:
    """Size, mean, root mean square, minimum, maximum and mean cube; NaN where they say nothing.

    That is for tensors that were not recorded, and for constant ones, which agree with too much.
    """
    values = [float((summary or {}).get(name, math.nan)) for name in ("size", "mean", "rms", "min", "max", "cube")]
    usable = all(map(math.isfinite, values)) and values[2] > 0 and values[3] != values[4]
    return tuple(values) if usable else (math.nan,) * len(values)


def agreement(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How well the :func:`moments` of one tensor, or of as many as there are others, agree with those of others (a row
    each).

    1 where they differ by less than a thousandth of the tensors' magnitude, falling to 0 at a tenth; NaN where
    either is not known; 0 where the sizes differ.
    """
    with np.errstate(all="ignore"):
        scale = np.maximum(one[..., 2], others[:, 2])
        worst = np.abs(others[:, 1:] - one[..., 1:])
        worst[:, :4] /= scale[:, None]
        worst[:, 4] /= scale**3
        value = np.clip(1 - np.log10(np.maximum(worst.max(axis=1), 1e-3) / 1e-3) / 2, 0, 1)
    value[others[:, 0] != one[..., 0]] = 0
    out: NDArray[np.float64] = np.where(np.isnan(scale), np.nan, value)
    return out


def same_content(a: Summary | None, b: Summary | None) -> float | None:
    """:func:`agreement` of two tensors; None when it is not known."""
    one, other = moments(a), moments(b)
    if one[0] == other[0] and _close(one, other):
        return 1.0
    value = float(agreement(np.array(one), np.array([other]))[0])
    return None if math.isnan(value) else value


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two tensors' :func:`moments` plainly agree: true of most pairs, and told without an array."""
    scale = max(one[2], other[2])
    off = max(abs(x - y) for x, y in zip(one[1:5], other[1:5], strict=True))
    return off < 0.99e-3 * scale and abs(one[5] - other[5]) < 0.99e-3 * scale * scale * scale < math.inf


@dataclass(frozen=True)
class Apart:
    """How far two tensors lie apart at least, by numbers that do not depend on the order of their elements.

    Attributes:
        least: a lower bound of the largest absolute difference.
        relative: the same, relative to the first tensor's root mean square.
        which: the number that shows it.
        values: that number on both sides.
    """

    least: float
    relative: float
    which: str
    values: tuple[float, float]


def least_apart(a: Summary, b: Summary) -> Apart | None:
    """A lower bound for the difference of two tensors of which only the numbers are known; None where it says nothing.

    The mean, the extremes and the root mean square of two tensors differ by no more than their largest elementwise
    difference does, however the elements are ordered.
    """
    if a.get("size") != b.get("size") or not a.get("size"):
        return None
    found = [(abs(float(b[k]) - float(a[k])), k) for k in ("mean", "rms", "min", "max") if k in a and k in b]
    if not found:
        return None
    least, which = max(found)
    rms = float(a.get("rms", 0.0))
    relative = least / rms if rms > 0 else (0.0 if least == 0 else math.inf)
    return Apart(least, relative, which, (float(a[which]), float(b[which])))
