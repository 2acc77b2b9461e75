"""Arithmetic between tensors, with operands that the recording does not show as inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.step import Array, Step, Unknown

_LETTERS = "abcdefghijklm"


def weights_of(node: Read) -> dict[str, Array]:
    """All of the node's own weights by name; those that were not recorded are left out."""
    found = {}
    names = [param.name for param in node.node.params]
    if node.node.role == "inner":  # the layer that it is a part of lists them
        names = [name for owner, name in node.recording.weights if owner == node.node.owner]
    for name in names:
        try:
            found[name] = node.named(name)
        except Unknown:
            continue
    return found


@reader("add", "sub", "mul", "div", "floor_div", "mod", "maximum", "minimum", "average", "power", "squared_difference")
def arithmetic(node: Read) -> Step:
    """One operation, with the operand that is no recorded tensor where there is one."""
    if not node.node.parents:
        return constant(node)
    scalar = _scalar(node)
    if scalar is not None:
        return scalar
    weight = next(_learnt(node), None)
    if weight is not None:
        return weight
    usual = inferring.step_of(node)
    if "alpha" in node.config:
        usual = usual.set(alpha=float(node.config["alpha"]))
    if len(node.node.parents) > 1:
        usual = inferring.widened(node, usual, *(node.source(k) for k in range(len(node.node.parents))))
        return inferring.likely(node, usual, lambda: _others(node))
    twice = usual.set(order=(0, 0))
    if node.node.kind != "div" and node.node.kind != "sub" and inferring.reproduces(node, twice):
        return twice
    found = next(_others(node), None)
    if found is None:
        raise Unknown("its other operand was not recorded")
    return found


def _scalar(node: Read) -> Step | None:
    """With a number among the settings; the side on which it stands is not always told."""
    numbers = node.config.get("args")
    number = numbers[0] if isinstance(numbers, list) and numbers else node.config.get("value")
    if number is None or len(node.node.parents) > 1:
        return None
    right = inferring.widened(node, inferring.step_of(node, operand=float(number), side="right"), node.source())
    if node.node.label.rsplit(".", 1)[-1].lstrip("_").startswith("r") or "value" in node.config:
        left = right.set(side="left")
        return left if not inferring.reproduces(node, right) and inferring.reproduces(node, left) else right
    if node.node.kind in ("sub", "div", "power") and not inferring.reproduces(node, right):
        left = right.set(side="left")
        return left if inferring.reproduces(node, left) else right
    return right


def _learnt(node: Read) -> Iterator[Step]:
    """With a weight of its own as the operand."""
    if len(node.node.parents) != 1:
        return
    found = weights_of(node)
    usual = inferring.step_of(node)
    for value in found.values():
        for shape in _shapes(node, value):
            for side in ("right", "left"):
                step = usual.set(side=side).weigh(operand=value.reshape(shape))
                if inferring.reproduces(node, step):
                    yield step
                    return
    if len(found) == 1:
        value = next(iter(found.values()))
        told = inferring.operand(node, node.node.parents[0])
        if told is not None:
            yield _multiple(node, told, value)
        elif np.broadcast_shapes(value.shape, node.shape) == node.shape:
            yield usual.set(side="right").weigh(operand=value)


def _multiple(node: Read, told: Step, weight: Array) -> Step:
    """The step with a multiple of the weight where that is what the operand is."""
    value = np.asarray(told.settings["operand"], np.float64)
    if node.node.kind not in ("add", "sub") or told.settings["side"] != "right" or value.size != weight.size:
        return told
    flat, own = value.reshape(-1), weight.reshape(-1)
    alpha = float(np.float32(flat @ own / max(float(own @ own), 1e-300)))
    settings = {key: item for key, item in told.settings.items() if key not in ("operand", "inferred")}
    step = inferring.step_of(node).set(**settings, alpha=alpha).weigh(operand=weight.reshape(value.shape))
    return step if inferring.reproduces(node, step) else told


def _shapes(node: Read, value: Array) -> Iterator[tuple[int, ...]]:
    """The shapes in which a weight may be meant: its own, and its values along one axis of the result."""
    yield value.shape
    if value.size > 1:
        for axis, length in enumerate(node.shape):
            if length == value.size:
                yield tuple(length if k == axis else 1 for k in range(len(node.shape)))


def _others(node: Read) -> Iterator[Step]:
    """With an input that is read twice, or with one and an operand that its values tell."""
    count = len(node.node.parents)
    if 1 < count < 4:
        for place in range(count):
            yield inferring.step_of(node, order=(*range(count), place))
    for name in dict.fromkeys(node.node.parents):
        found = inferring.operand(node, name)
        if found is not None:
            yield found


def constant(node: Read) -> Step:
    """A node that reads nothing recorded: what it gave is what it is."""
    return inferring.step_of(node, kind="full", value=inferring.result(node), inferred=True)


@reader("rescaling")
def rescaling(node: Read) -> tuple[dict[str, Any], dict[str, Array]]:
    """Keras's: numbers, or one for each channel."""
    return {"scale": node.config["scale"], "offset": node.config.get("offset", 0.0)}, {}


@reader("normalization")
def normalization(node: Read) -> Step:
    """Keras's: over the axes that are kept, the last as a rule."""
    mean, variance = node.weight("mean"), node.weight("variance")
    axes = node.config.get("axis", -1)
    kept = {int(axis) % node.rank for axis in (axes if isinstance(axes, list) else [axes] if axes is not None else [])}
    shape = tuple(length if k in kept else 1 for k, length in enumerate(node.source()))
    settings = {"epsilon": 1e-7, "invert": bool(node.config.get("invert", False))}
    if mean is not None and variance is not None:
        step = inferring.step_of(node).set(**settings).weigh(mean=mean.reshape(shape), variance=variance.reshape(shape))
        return inferring.likely(node, step, lambda: [step.set(invert=not settings["invert"])])
    # Given by the caller instead of learnt, its numbers are no weights: what it does is a scale and an offset.
    return inferring.step_of(node, epsilon=1e-7).weigh(**_fitted(node, shape))


def _fitted(node: Read, shape: tuple[int, ...]) -> dict[str, Array]:
    x, y = node.recorded(node.node.parents[0]), inferring.result(node)
    over = tuple(axis for axis, length in enumerate(shape) if length == 1)
    centre, middle = x.mean(over, keepdims=True), y.mean(over, keepdims=True)
    slope = ((x - centre) * (y - middle)).sum(over, keepdims=True) / np.square(x - centre).sum(over, keepdims=True)
    mean, deviation = centre - middle / slope, 1 / slope
    if not inferring.agrees(node, (x - mean) / deviation):
        raise Unknown("its mean and variance were not recorded")
    return {"mean": mean, "variance": np.square(deviation)}


@reader("matmul")
def matmul(node: Read) -> Step:
    """Products of two tensors, or of one with a weight; which axes they share is told by the equation or found."""
    equation = _equation(node)
    weights = weights_of(node)
    terms = _terms(node)
    if len(node.node.parents) == 1 and equation is not None and "," not in equation:  # a trace, a sum
        return inferring.step_of(node, equation=equation)
    if len(node.node.parents) == 1:
        steps = itertools.chain(
            _with_weights(node, weights, equation),
            _products(node, inferring.step_of(node, order=(0, 0)), equation, [node.source()] * 2),
            _solved(node, equation),
        )
        return inferring.first(node, steps, "its other operand was not recorded", terms=terms)
    if len(node.node.parents) > 2 and equation is not None and equation.count(",") == len(node.node.parents) - 1:
        return inferring.step_of(node, equation=equation)
    if len(node.node.parents) == 3 and not weights:
        factors = {word: float(node.config[word]) for word in ("alpha", "beta") if word in node.config}
        summed = inferring.step_of(node, added=0).set(**factors)
        return inferring.first(node, [summed], "how its operands are joined is not told", terms=terms)
    if len(node.node.parents) > 2 or len(weights) > 1:
        raise Unknown("which of its operands are multiplied is not told")
    usual = inferring.step_of(node, equation=equation).weigh(bias=next(iter(weights.values()), None))
    shapes = [node.source(0), node.source(1)]
    if equation is not None:
        return inferring.likely(node, usual, lambda: _products(node, usual, None, shapes), terms=terms)
    flags = {key: bool(node.config[key]) for key in ("transpose_a", "transpose_b") if key in node.config}
    return inferring.likely(node, usual.set(**flags), lambda: _products(node, usual, None, shapes), terms=terms)


def _terms(node: Read) -> float:
    return float(max(node.source(), default=1) ** 2)


def _equation(node: Read) -> str | None:
    args = node.config.get("args")
    found = node.config.get("equation") or (args[0] if isinstance(args, list) and args else None)
    return found.replace(" ", "") if isinstance(found, str) and "->" in found else None


def _with_weights(node: Read, weights: dict[str, Array], equation: str | None) -> Iterator[Step]:
    for value in weights.values():
        for side in ("right", "left"):
            step = inferring.step_of(node, side=side).weigh(operand=value)
            shapes = [node.source(), value.shape]
            yield from _products(node, step, equation, shapes if side == "right" else shapes[::-1])


def _products(node: Read, step: Step, equation: str | None, shapes: list[tuple[int, ...]]) -> Iterator[Step]:
    """The product as the equation has it, or in each way in which tensors of these shapes give that of the node."""
    if equation is not None:
        yield step.set(equation=equation)
        return
    for one, other in ((False, False), (False, True), (True, False), (True, True)):
        yield step.set(transpose_a=one, transpose_b=other)
    for found in equations(shapes[0], shapes[1], node.shape):
        yield step.set(equation=found)


def equations(left: tuple[int, ...], right: tuple[int, ...], result: tuple[int, ...]) -> Iterator[str]:
    """The equations of einsum, products with at least one shared axis, that take these shapes to that."""
    if max(len(left), len(right), len(result)) > 5:
        return
    own = _LETTERS[: len(left)]
    for shared in itertools.product(*((None, *(k for k, n in enumerate(left) if n == size)) for size in right)):
        used = [k for k in shared if k is not None]
        if not used or len(set(used)) < len(used):
            continue
        fresh = iter(_LETTERS[len(left) :])
        other = "".join(next(fresh) if k is None else own[k] for k in shared)
        lengths = dict(zip(own, left, strict=True)) | dict(zip(other, right, strict=True))
        needed = [letter for letter in lengths if (letter in own) != (letter in other)]
        both = [letter for letter in own if letter in other]
        extra = len(result) - len(needed)
        if not 0 <= extra < len(both):
            continue
        for kept in itertools.combinations(both, extra):
            for order in itertools.permutations([*needed, *kept]):
                if tuple(lengths[letter] for letter in order) == result:
                    yield f"{own},{other}->{''.join(order)}"


def _solved(node: Read, equation: str | None) -> Iterator[Step]:
    """With the other operand as the least squares give it, where there is far more to explain than it says."""
    if equation is None or equation.count(",") != 1 or "." in equation:
        return
    own, (_, out) = equation.split("->")[0].split(","), equation.split("->")
    for place, side in ((0, "right"), (1, "left")):
        known, other = own[place], own[1 - place]
        if len(known) != node.rank:
            continue
        lengths = dict(zip(known, node.source(), strict=True)) | dict(zip(out, node.shape, strict=True))
        if any(letter not in lengths for letter in other):
            continue
        value = _least(node, known, other, out, lengths)
        if value is not None:
            yield inferring.step_of(node, equation=equation, operand=value, side=side, inferred=True)


def by_matrix(node: Read) -> Iterator[Step]:
    """A product of a matrix that is no recorded tensor with what is read, solved for."""
    if len(node.node.parents) != 1 or node.rank < 3 or len(node.shape) != node.rank:
        return
    own = _LETTERS[: node.rank]
    equation = f"z{own[-2]},{own}->{own[:-2]}z{own[-1]}"
    for step in _solved(node, equation):
        found = replace(step, kind="matmul")
        if inferring.reproduces(node, found, terms=_terms(node)):
            yield found


def _least(node: Read, known: str, other: str, out: str, lengths: dict[str, int]) -> Array | None:
    """The tensor ``other`` for which the product with the input is the result."""
    x, y = node.recorded(node.node.parents[0]), inferring.result(node)
    batch = [k for k in other if k in known and k in out]
    summed = [k for k in other if k in known and k not in out]
    free = [k for k in other if k not in known]
    rows = [k for k in known if k in out and k not in other]
    if any(k not in out and k not in summed for k in known):
        return None
    size = {name: int(np.prod([lengths[k] for k in axes])) for name, axes in
            (("batch", batch), ("summed", summed), ("free", free), ("rows", rows))}  # fmt: skip
    if size["rows"] < size["summed"] + 1 or size["batch"] * size["summed"] * size["free"] * 2 > y.size * 1.5:
        return None
    a = np.einsum(f"{known}->{''.join(batch + rows + summed)}", x).reshape(size["batch"], size["rows"], size["summed"])
    b = np.einsum(f"{out}->{''.join(batch + rows + free)}", y).reshape(size["batch"], size["rows"], size["free"])
    found = np.stack([np.linalg.lstsq(one, two, rcond=None)[0] for one, two in zip(a, b, strict=True)])
    names = "".join(batch + summed + free)
    return np.asarray(np.einsum(f"{names}->{other}", found.reshape([lengths[k] for k in names])))


@reader("dot")
def dot(node: Read) -> tuple[dict[str, Any], dict[str, Array]]:
    """Keras's Dot, and products of vectors."""
    axes = node.config.get("axes")
    return {"axes": axes if axes is None else _pair(axes), "normalize": bool(node.config.get("normalize", False))}, {}


def _pair(axes: Any) -> list[int]:
    return [axes, axes] if isinstance(axes, int) else [int(axis) for axis in axes]
