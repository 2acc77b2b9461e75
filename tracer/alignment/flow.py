"""What each axis of each tensor of one graph is made of, followed from the inputs through every operation.

A *strand* is one thing that an axis can stand for: the batch, an image's rows, the channels of one layer. An operation
hands strands on (a pooled image still has rows), moves them (permute), multiplies them into one axis (flatten), splits
them (attention heads) or makes new ones (the channels of a convolution). Where two tensors are added, the strands of
their axes are the same. So an axis of a pair that is known says which axis is which wherever its strand occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tracer import kinds
from tracer.alignment.labels import axes_of, channels_at, integers, only_axis, reduced
from tracer.graph import Node

Factor = tuple[int, int]
"""A strand and its length here: a stride shortens an axis, but its strand stays."""
Axis = tuple[Factor, ...]
"""The factors of one axis, slowest first; none for an axis of length one."""
Tensor = tuple[Axis, ...]
Key = tuple[tuple[int, ...], int]
"""Which part of a strand: the lengths that it is split into, and the place among them."""

_COLUMN: Key = ((), 0)
"""Not a part: the same strand a second time in one tensor."""
_KEEPING = kinds.NORMALISATIONS | kinds.ACTIVATIONS | {"identity", "dropout", "cast", "clip", "power"}
_WINDOWED = frozenset({"pad", "crop", "upsample", "resize", "adaptive_avg_pool", "adaptive_max_pool"}) | {
    kind for kind in kinds.POOLS if kind[-2:] in ("1d", "2d", "3d")
}
_REGROUPING = frozenset({"flatten", "reshape", "squeeze", "expand_dims"})
_REDUCING = kinds.REDUCTIONS | {"global_avg_pool", "global_max_pool"}
_TOGETHER = kinds.ELEMENTWISE | kinds.COMPARISONS | kinds.LOGICAL | kinds.INDEXING | kinds.REPEATING | kinds.RARE
_TOGETHER |= {"add", "sub", "mul", "div", "average", "maximum", "minimum", "roll", "flip"}


class Flow:
    """The factors of every tensor of a graph; nodes whose shape is not known have none."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._above: list[int] = []
        self._parts: dict[int, dict[Key, int]] = {}
        self._origin: dict[int, tuple[int, Key]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        labelled: dict[str, str] = {}
        for node in nodes:
            if node.shape is None:
                continue
            labelled[node.name] = node.kind
            sources = (node.alias_of,) if node.alias_of is not None else node.parents
            read = [(self.tensors[name], shapes[name]) for name in sources if name in self.tensors]
            if node.alias_of is not None:
                found = self.keep(read[0][0], node.shape) if read else None
            else:
                # A further part of a split is as the first; other items may be anything.
                part = node.kind == "item" and labelled.get(node.parents[0] if node.parents else "") == "split"
                # Traces from before a word was listed call it "other:".
                kind = "split" if part else node.kind.removeprefix("other:")
                found = self._through(node, kind, node.shape, read)
            self.tensors[node.name] = found if found is not None else self.fresh(node.shape)
            shapes[node.name] = node.shape

    # Strands

    def strand(self) -> int:
        self._above.append(len(self._above))
        return len(self._above) - 1

    def find(self, strand: int) -> int:
        while self._above[strand] != strand:
            self._above[strand] = self._above[self._above[strand]]
            strand = self._above[strand]
        return strand

    def union(self, one: int, other: int) -> None:
        """Take two strands for one, and the parts that both were split into likewise."""
        one, other = self.find(one), self.find(other)
        if (
            one == other
            or self._parts.get(one, {}).get(_COLUMN) == other
            or self._parts.get(other, {}).get(_COLUMN) == one
        ):
            return  # a mask over the keys of a self-attention does not make them its queries
        self._above[other] = one
        kept = self._parts.setdefault(one, {})
        for key, part in self._parts.pop(other, {}).items():
            if key in kept:
                self.union(kept[key], part)
            else:
                kept[key] = part
        if other in self._origin:
            self._origin.setdefault(one, self._origin[other])

    def parts(self, strand: int) -> Mapping[Key, int]:
        """What a strand was split into, by the lengths of the split and the place in it."""
        return self._parts.get(self.find(strand), {})

    def origin(self, strand: int) -> tuple[int, Key] | None:
        """The strand that this one is a part of."""
        return self._origin.get(self.find(strand))

    def part(self, strand: int, key: Key) -> int:
        strand = self.find(strand)
        found = self._parts.setdefault(strand, {})
        if key not in found:
            found[key] = self.strand()
            self._origin[found[key]] = (strand, key)
        return self.find(found[key])

    def split(self, factor: Factor, lengths: Sequence[int]) -> Axis:
        real = tuple(length for length in lengths if length != 1)
        if len(real) <= 1:
            return (factor,) if real else ()
        return tuple((self.part(factor[0], (real, k)), length) for k, length in enumerate(real))

    def splits(self, factor: Factor) -> list[Axis]:
        """The ways in which a factor of this length is split anywhere in the graph."""
        ways = {key[0] for key in self.parts(factor[0]) if key != _COLUMN}
        return [self.split(factor, way) for way in sorted(ways) if math.prod(way) == factor[1]]

    # Tensors

    def fresh(self, shape: Sequence[int]) -> Tensor:
        return tuple(self.new(length) for length in shape)

    def new(self, length: int) -> Axis:
        return () if length == 1 else ((self.strand(), length),)

    def axis(self, axis: Axis, length: int) -> Axis:
        """``axis`` where it may have become longer or shorter."""
        if math.prod(f[1] for f in axis) == length:
            return axis
        if len(axis) == 1 and length != 1:
            return ((axis[0][0], length),)
        return self.new(length)

    def keep(self, tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
        if len(tensor) != len(shape):
            return None
        return tuple(self.axis(axis, length) for axis, length in zip(tensor, shape, strict=True))

    def regroup(self, tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
        """The factors of a reshaped tensor: axes whose lengths multiply to the same go over as a group."""
        if math.prod(f[1] for axis in tensor for f in axis) != math.prod(shape) or 0 in shape:
            return None
        factors = [f for axis in tensor for f in axis]
        out: list[Axis] = [()] * len(shape)
        wanted = [place for place, length in enumerate(shape) if length != 1]
        while wanted:
            ours, theirs = [factors.pop(0)], [wanted.pop(0)]
            left, right = ours[0][1], shape[theirs[0]]
            while left != right:
                if left < right:
                    ours.append(factors.pop(0))
                    left *= ours[-1][1]
                else:
                    theirs.append(wanted.pop(0))
                    right *= shape[theirs[-1]]
            for place, axis in zip(theirs, self._group(ours, [shape[t] for t in theirs]), strict=True):
                out[place] = axis
        return tuple(out)

    def _group(self, factors: Sequence[Factor], lengths: Sequence[int]) -> list[Axis]:
        if len(factors) == 1:
            parts = self.split(factors[0], lengths)
            return [(part,) for part in parts]
        if len(lengths) == 1:
            return [self._joined(factors)]
        # Cut at every length on either side; where one does not divide the other, the axes are new.
        queue, out = list(factors), []
        for length in lengths:
            axis: list[Factor] = []
            left = length
            while left > 1:
                factor = queue.pop(0)
                if left % factor[1] == 0:
                    axis.append(factor)
                    left //= factor[1]
                elif factor[1] % left == 0:
                    first, second = self.split(factor, (left, factor[1] // left))
                    axis.append(first)
                    queue.insert(0, second)
                    left = 1
                else:
                    return [self.new(n) for n in lengths]
            out.append(self._joined(axis))
        return out

    def _joined(self, factors: Sequence[Factor]) -> Axis:
        """The factors of one axis; all parts of one strand in their order are that strand again."""
        out: list[Factor] = []
        for factor in factors:
            out.append(factor)
            origin = self.origin(factor[0])
            if origin is None or origin[1] == _COLUMN:
                continue
            strand, (way, place) = origin
            tail = out[-len(way) :]
            if place + 1 == len(way) == len(tail) and [f[1] for f in tail] == list(way):
                whole = [self.part(strand, (way, k)) for k in range(len(way))]
                if [self.find(f[0]) for f in tail] == whole:
                    out[-len(way) :] = [(self.find(strand), math.prod(way))]
        return tuple(out)

    def together(self, tensors: Sequence[tuple[Tensor, tuple[int, ...]]], shape: Sequence[int]) -> Tensor:
        """The result of an elementwise operation, with axes of length one broadcast."""
        out: list[Axis] = []
        united = not self._turned([t for t, s in tensors if s == tuple(shape)])
        for back in range(len(shape), 0, -1):
            length = shape[-back]
            found = [t[-back] for t, s in tensors if len(s) >= back and s[-back] == length and t[-back]]
            if length == 1 or not found:
                out.append(self.new(length))
                continue
            finest = max(found, key=len)
            for axis in found if united else ():
                self._same(finest, axis)
            out.append(finest)
        return tuple(out)

    def _turned(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a strand stands at different places of tensors that are added, as in ``x + x.T``."""
        places: dict[int, set[int]] = {}
        for tensor in tensors:
            for place, axis in enumerate(tensor):
                for factor in axis:
                    places.setdefault(self.find(factor[0]), set()).add(place)
        return any(len(found) > 1 for found in places.values())

    def _same(self, finest: Axis, axis: Axis) -> None:
        """Unite the strands of two axes that are added to each other."""
        if len(axis) == 1 < len(finest):
            axis = self.split(axis[0], [f[1] for f in finest])
        if [f[1] for f in axis] == [f[1] for f in finest]:
            for mine, other in zip(finest, axis, strict=True):
                self.union(mine[0], other[0])

    # Operations

    def _through(
        self, node: Node, kind: str, shape: tuple[int, ...], read: list[tuple[Tensor, tuple[int, ...]]]
    ) -> Tensor | None:
        config = node.config
        if not read:
            return None
        first, before = read[0]
        found: Tensor | None = None
        if kind == "permute":
            order = integers(config.get("permutation"))
            if order is not None and len(order) == len(before) - 1:
                order = [0, *order]  # as Keras counts, from one and without the batch
            if order is not None and sorted(order) == list(range(len(before))):
                found = self.keep(tuple(first[k] for k in order), shape)
        elif kind in _REGROUPING:
            if kind == "flatten" and config.get("data_format") == "channels_first" and len(first) > 2:
                first = (first[0], *first[2:], first[1])  # Keras moves the channels last before it flattens
            found = self.regroup(first, shape)
        elif kind in _KEEPING:
            found = self.keep(first, shape)
        elif kind in kinds.CONVOLUTIONS or kind in _WINDOWED:
            found = self._windowed(node, first, shape)
        elif kind in ("dense", "bilinear") or (kind in kinds.RECURRENT and node.role != "item"):
            if len(first) == len(shape):
                found = (*(self.axis(a, n) for a, n in zip(first[:-1], shape[:-1], strict=True)), self.new(shape[-1]))
            elif kind in kinds.RECURRENT and len(shape) == 2 and len(first) == 3:
                batch = 1 if config.get("batch_first") is False or config.get("time_major") else 0
                found = (self.axis(first[batch], shape[0]), self.new(shape[1]))
        elif kind == "embedding" and len(shape) == len(first) + 1:
            found = (*(self.axis(a, n) for a, n in zip(first, shape[:-1], strict=True)), self.new(shape[-1]))
        elif kind == "attention":
            found = self._attention(node, read, shape)
        elif kind in ("matmul", "dot"):
            found = self._product(node, read, shape)
        elif kind in _REDUCING:
            gone = reduced(node, len(before), len(shape))
            kept = [axis for k, axis in enumerate(first) if k not in (gone or ())]
            if gone is not None and len(kept) == len(shape):
                found = self.keep(tuple(kept), shape)
            elif gone is not None and len(first) == len(shape):
                found = self.keep(tuple(() if k in gone else axis for k, axis in enumerate(first)), shape)
        elif kind == "concat":
            found = self._concat(node, read, shape)
        elif kind == "stack":
            place = only_axis(config, len(shape))
            if place is not None and len(first) == len(shape) - 1:
                inner = self.together(read, before)
                found = (*inner[:place], self.new(shape[place]), *inner[place:])
        elif kind in ("slice", "split"):
            found = self._slice(node, first, shape)
        if found is None and kind in _TOGETHER:
            found = self._spread(read, shape)
        return found if found is not None else self._guarded(first, before, shape, kind != "permute")

    def _concat(
        self, node: Node, read: Sequence[tuple[Tensor, tuple[int, ...]]], shape: tuple[int, ...]
    ) -> Tensor | None:
        longest = max(read, key=lambda pair: math.prod(pair[1]))[0]
        place = only_axis(node.config, len(shape))
        if place is not None and all(len(s) == len(shape) for _, s in read):
            rest = [(t[:place] + t[place + 1 :], s[:place] + s[place + 1 :]) for t, s in read]
            self.together(rest, shape[:place] + shape[place + 1 :])
        return self.keep(longest, shape)

    def _windowed(self, node: Node, first: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        kept = self.keep(first, shape)
        place = channels_at(node, len(shape))
        if kept is None or place is None or node.kind not in kinds.CONVOLUTIONS:
            return kept
        if node.kind.startswith("depthwise") and kept[place] == first[place]:
            return kept
        return (*kept[:place], self.new(shape[place]), *kept[place + 1 :])

    def _attention(
        self, node: Node, read: Sequence[tuple[Tensor, tuple[int, ...]]], shape: tuple[int, ...]
    ) -> Tensor | None:
        query = read[0][0]
        if len(query) != len(shape) or node.role == "item":
            return None
        leading = tuple(self.axis(a, n) for a, n in zip(query[:-1], shape[:-1], strict=True))
        values = read[2][0] if len(read) > 2 and len(read[2][1]) == len(shape) else None
        functional = not node.params and values is not None
        last = self.axis(values[-1], shape[-1]) if functional and values is not None else self.new(shape[-1])
        return (*leading, last)

    def _product(
        self, node: Node, read: Sequence[tuple[Tensor, tuple[int, ...]]], shape: tuple[int, ...]
    ) -> Tensor | None:
        equation = next((w for w in node.config.get("args", ()) if isinstance(w, str)), node.config.get("equation"))
        if len(read) < 2:  # the other operand is a constant, on either side
            if isinstance(equation, str):
                return self._alone(equation, *read[0], shape)
            kept = None if _is_einsum(node) else self.keep(read[0][0], shape)
            return None if kept is None else (*kept[:-2], *(self.new(n) for n in shape[-2:]))
        (a, left), (b, right) = read[0], read[1]
        if isinstance(equation, str):
            return self._einsum(equation, [a, b], shape)
        if _is_einsum(node):
            return self._untold(read[:2], shape)
        if len(left) < 2 or len(right) < 2 or len(shape) != max(len(left), len(right)):
            return None
        crossed = right[-2] != left[-1]
        if right[-2] == right[-1] == left[-1]:  # the lengths do not say which axis of the second is summed over
            crossed = bool(node.config.get("transpose_b") or node.config.get("adj_y") or node.config.get("adjoint_b"))
            crossed |= set(axes_of(node.config, len(right)) or ()) == {len(right) - 1}  # as Keras' Dot says it
        column, summed = (b[-2], b[-1]) if crossed else (b[-1], b[-2])
        self._same(a[-1], summed)
        lead = [(t[:-2], s[:-2]) for t, s in read[:2]]
        return (*self.together(lead, shape[:-2]), self.axis(a[-2], shape[-2]), self._apart(column, [a[-2]]))

    def _apart(self, axis: Axis, others: Iterable[Axis]) -> Axis:
        """``axis``, told from an equal one of the same tensor: the keys of a self-attention are not its queries."""
        taken = {self.find(f[0]) for other in others for f in other}
        return tuple((self.part(f[0], _COLUMN) if self.find(f[0]) in taken else f[0], f[1]) for f in axis)

    def _einsum(self, equation: str, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor | None:
        sides = equation.replace(" ", "").split("->")
        terms = sides[0].split(",")
        if len(sides) != 2 or "." in equation or len(terms) != len(tensors) or len(sides[1]) != len(shape):
            return None
        named: dict[str, Axis] = {}
        for term, tensor in zip(terms, tensors, strict=True):
            if len(term) != len(tensor):
                return None
            for letter, axis in zip(term, tensor, strict=True):
                self._same(named.setdefault(letter, axis), axis)
        out: list[Axis] = []
        for letter, length in zip(sides[1], shape, strict=True):
            out.append(self._apart(self.axis(named.get(letter, ()), length), out))
        return tuple(out)

    def _alone(self, equation: str, tensor: Tensor, before: tuple[int, ...], shape: tuple[int, ...]) -> Tensor | None:
        """The product of a tensor with a constant."""
        sides = equation.replace(" ", "").split("->")
        if len(sides) != 2 or "." in equation or len(sides[1]) != len(shape):
            return None
        lengths = dict(zip(sides[1], shape, strict=True))
        fitting = {
            term
            for term in sides[0].split(",")
            if len(term) == len(before) and all(lengths.get(k, n) == n for k, n in zip(term, before, strict=True))
        }
        if len(fitting) != 1:
            return None
        named = dict(zip(fitting.pop(), tensor, strict=True))
        return tuple(named[k] if k in named else self.new(n) for k, n in zip(sides[1], shape, strict=True))

    def _untold(self, read: Sequence[tuple[Tensor, tuple[int, ...]]], shape: tuple[int, ...]) -> Tensor:
        """A product of two tensors whose equation is not recorded: the axes that their lengths tell, the others new."""
        (a, left), (b, right) = read
        out = [self.new(length) for length in shape]
        for length in {*left, *right} - {1}:
            places = [[k for k, n in enumerate(lengths) if n == length] for lengths in (left, right, shape)]
            if len(places[0]) == len(places[1]) == 1 >= len(places[2]):  # summed over, or the same in all
                self._same(a[places[0][0]], b[places[1][0]])
            found = [tensor[place[0]] for tensor, place in zip((a, b), places[:2], strict=True) if len(place) == 1]
            if found and len(places[2]) == 1 >= max(map(len, places[:2])):
                out[places[2][0]] = found[0]
        if shape and left[:1] == right[:1] == shape[:1]:
            self._same(a[0], b[0])
            out[0] = a[0]
        return tuple(out)

    def _slice(self, node: Node, first: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        if len(first) == len(shape):
            return self.keep(first, shape)
        index = node.config.get("index")
        parts = list(index) if isinstance(index, list | tuple) else []
        place = only_axis(node.config, len(first))
        if not parts and place is not None and len(first) == len(shape) + 1:
            return self.keep((*first[:place], *first[place + 1 :]), shape)  # one of a stack
        if "..." in parts:
            at = parts.index("...")
            real = sum(part is not None for part in parts) - 1
            parts[at : at + 1] = [":"] * (len(first) - real)
        out: list[Axis] = []
        axes = list(first)
        for part in parts:
            if part is None:
                out.append(())
            elif not axes:
                return None
            elif isinstance(part, int) and not isinstance(part, bool):
                axes.pop(0)
            else:
                out.append(axes.pop(0))
        return self.keep((*out, *axes), shape) if parts else None

    def _spread(self, read: Sequence[tuple[Tensor, tuple[int, ...]]], shape: tuple[int, ...]) -> Tensor | None:
        """What works element by element, perhaps after broadcasting, or along one axis whose length may change."""
        fits = all(
            len(s) <= len(shape) and all(n in (1, m) for n, m in zip(s[::-1], shape[::-1], strict=False))
            for _, s in read
        )
        if fits:
            return self.together(read, shape)
        alike = [pair for pair in read if pair[1] == shape]
        if alike:
            return self.together(alike, shape)
        first, before = read[0]
        if len(before) != len(shape):
            return None
        return tuple(a if n == m else self.new(n) for a, m, n in zip(first, before, shape, strict=True))

    def _guarded(self, first: Tensor, before: tuple[int, ...], shape: tuple[int, ...], batched: bool) -> Tensor:
        """An operation that may move axes: those go over whose length occurs once, and the batch."""
        return tuple(
            first[before.index(n)]
            if n != 1 and before.count(n) == 1 == shape.count(n)
            else first[0]
            if batched and k == 0 and before[:1] == (n,)
            else self.new(n)
            for k, n in enumerate(shape)
        )


def _is_einsum(node: Node) -> bool:
    return "einsum" in node.label.lower()
