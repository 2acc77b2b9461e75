"""What a recording does not say of an operation, found from its own recorded tensors and proven on them.

Frameworks do not show constants as tensors of the graph: the other operand of an addition, the ids of a look-up, the
start of a slice. They are taken from the node's own recorded input and output only where they reproduce the output
and say more than it does (one number, one for each channel, rows of a table).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes import operations
from tracer.causes.reading import Read
from tracer.causes.step import Array, Step, Unknown

_EPS = {"float64": 2.2e-16, "float16": 9.8e-4, "bfloat16": 7.8e-3}
_SLACK = 32.0
_LARGE = 1e3
_DIGITS = 7


def step_of(node: Read, inputs: Sequence[str] | None = None, kind: str | None = None, **settings: Any) -> Step:
    """A step for a node with these settings; its inputs are the node's unless others are given."""
    own = node.node
    read = own.parents if inputs is None else tuple(inputs)
    return Step(own.name, kind or own.kind, settings, {}, read, own.shape, own.source)


def result(node: Read) -> Array:
    """The node's own recorded tensor. Raises Unknown."""
    return node.recorded(node.node.name)


def agrees(node: Read, found: Array, *, terms: float = 1, slack: float = _SLACK) -> bool:
    """Whether values are the recorded ones up to rounding; ``terms`` are summed up for each."""
    wanted = result(node)
    return found.shape == wanted.shape and same(found, wanted, node.node.dtype or "", terms=terms, slack=slack)


def same(found: Array, wanted: Array, dtype: str, *, terms: float = 1, slack: float = _SLACK) -> bool:
    """Whether values equal recorded ones of that dtype up to rounding; huge ones, of masks, give others no slack."""
    if wanted.dtype.kind in "iub":
        return bool(np.array_equal(np.asarray(found, np.float64), np.asarray(wanted, np.float64)))
    size = np.abs(wanted)
    usual = size[np.isfinite(size) & (size < _LARGE)]
    scale = float(usual.max()) if usual.size else 0.0
    tolerance = slack * _EPS.get(dtype, 1.2e-7) * np.sqrt(terms) * np.maximum(size, scale)
    with np.errstate(invalid="ignore"):
        close = (np.abs(found - wanted) <= tolerance) | (found == wanted)
        huge = (np.abs(found) > 3e38) & (size > 3e38) & (np.sign(found) == np.sign(wanted))
    return bool(np.all(close | huge | (np.isnan(found) & np.isnan(wanted))))


def reproduces(node: Read, step: Step, *, terms: float = 1, slack: float = _SLACK) -> bool:
    """Whether a step gives the node's recorded tensor from the recorded tensors of its inputs."""
    try:
        found = operations.run(step, [node.recorded(name) for name in step.inputs])
    except Unknown:
        return False
    return agrees(node, np.asarray(found), terms=terms, slack=slack)


def first(node: Read, steps: Iterable[Step], why: str, *, terms: float = 1) -> Step:
    """The first step that reproduces the node. Raises Unknown with ``why`` where none does."""
    for step in steps:
        if reproduces(node, step, terms=terms):
            return step
    raise Unknown(why)


def likely(node: Read, usual: Step, others: Callable[[], Iterable[Step]], *, terms: float = 1) -> Step:
    """The usual reading, unless its result has another shape or another reading alone gives the recorded values.

    A layer with a defect hidden in it gives something else than any reading: it is read as what it says it is.
    """
    if reproduces(node, usual, terms=terms):
        return usual
    for step in others():
        if reproduces(node, step, terms=terms):
            return step
    try:
        shape = np.shape(operations.run(usual, [node.recorded(name) for name in usual.inputs]))
    except Unknown:
        shape = None
    if shape != node.node.shape:
        raise Unknown("the recording does not show all that it reads")
    return usual


_Solve = Callable[[Array, Array], tuple[Array, Array]]


def _ratio(x: Array, y: Array) -> tuple[Array, Array]:
    return np.where(x == 0, 0, y / np.where(x == 0, 1, x)), np.square(x)


def _distance(x: Array, y: Array) -> tuple[Array, Array]:
    gap = np.where(np.isinf(y), y, y - np.where(np.isinf(y), 0, x))
    return gap, 1 / (np.abs(np.where(np.isfinite(x), x, 0)) + np.abs(np.where(np.isfinite(y), y, 0)) + 1e-30) ** 2


def _swapped(solve: _Solve) -> _Solve:
    return lambda x, y: solve(y, x)


def _exponent(x: Array, y: Array) -> tuple[Array, Array]:
    usable = (np.abs(x) > 0) & (np.abs(y) > 0) & (np.abs(np.abs(x) - 1) > 1e-3) & np.isfinite(y)
    logs = np.log(np.abs(np.where(usable, x, 2)))
    return np.where(usable, np.log(np.abs(np.where(usable, y, 1))) / logs, 0), usable * np.square(logs)


def _period(x: Array, y: Array) -> tuple[Array, Array]:
    whole = np.abs(x - y)
    least = whole[whole > 1e-4 * np.abs(x).max(initial=0)].min(initial=np.inf)
    return np.full_like(y, least), np.ones_like(y)


def _divisor(x: Array, y: Array) -> tuple[Array, Array]:
    positive = (y > 0) & (x > 0)
    low, high = (x / (y + 1))[positive].max(initial=0), (x / np.where(y == 0, 1, y))[positive].min(initial=np.inf)
    middle = (low + high) / 2
    short = (float(f"{middle:.{digits}g}") for digits in range(1, _DIGITS + 1)) if np.isfinite(middle) else ()
    return np.full_like(y, next((value for value in short if low < value <= high), middle)), np.ones_like(y)


_SOLVED: dict[tuple[str, str], _Solve] = {
    ("add", "right"): _distance,
    ("sub", "right"): lambda x, y: (_distance(x, y)[0] * -1, _distance(x, y)[1]),
    ("sub", "left"): lambda x, y: (x + y, _distance(x, y)[1]),
    ("mul", "right"): _ratio,
    ("div", "right"): _swapped(_ratio),
    ("div", "left"): lambda x, y: (x * y, np.ones_like(y)),
    ("maximum", "right"): lambda x, y: (y, (y > x).astype(float)),
    ("minimum", "right"): lambda x, y: (y, (y < x).astype(float)),
    ("power", "right"): _exponent,
    ("power", "left"): lambda x, y: (np.exp(np.log(y) / np.where(x == 0, 1, x)), np.square(x)),
    ("mod", "right"): _period,
    ("floor_div", "right"): _divisor,
    ("squared_difference", "right"): lambda x, y: (x - np.sqrt(y), np.ones_like(y)),
}


def operand(node: Read, source: str, kind: str | None = None) -> Step | None:
    """A step of one recorded input and one constant of fewer values than the result; None where there is none."""
    kind = kind or node.node.kind
    y, x = result(node), node.recorded(source)
    if not broadcasts(x.shape, y.shape) or not y.size:
        return None
    x_shape, whole = x.shape, y.dtype.kind in "iu" and x.dtype.kind in "iu"
    x, y = np.broadcast_to(np.asarray(x, np.float64), y.shape), np.asarray(y, np.float64)
    for (word, side), solve in _SOLVED.items():
        if word != kind:
            continue
        with np.errstate(all="ignore"):
            values, weights = solve(x, y)
        for constant in _constants(values, weights):
            constant = np.rint(constant) if whole else constant
            for value, slack in _written(constant):
                step = step_of(node, (source,), kind, operand=value, side=side, inferred=True)
                step = widened(node, step, x_shape, np.shape(value))
                if reproduces(node, step, slack=slack):
                    return step
    return None


def broadcasts(own: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another."""
    try:
        return np.broadcast_shapes(tuple(own), tuple(whole)) == tuple(whole)
    except ValueError:
        return False


def widened(node: Read, step: Step, *shapes: Sequence[int]) -> Step:
    """The step with its result broadcast to the node's shape, where operands of these shapes give a smaller one."""
    if node.node.shape is None or not all(broadcasts(shape, node.node.shape) for shape in shapes):
        return step
    natural = np.broadcast_shapes(*(tuple(shape) for shape in shapes))
    return step if natural == node.node.shape else step.set(expand=node.node.shape)


def _constants(values: Array, weights: Array) -> Iterator[Array]:
    """Weighted means of ``values`` over more and more of the axes, the smallest result first."""
    axes = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    for count in range(len(axes), 0, -1):
        for over in itertools.combinations(axes, count):
            if _flat(values, weights, over):
                yield _mean(values, weights, over)
    if not axes:
        yield values


def _mean(values: Array, weights: Array, over: tuple[int, ...]) -> Array:
    with np.errstate(all="ignore"):
        usable = np.isfinite(values) & np.isfinite(weights)
        weights = np.where(usable, weights, 0)
        total = weights.sum(over, keepdims=True)
        mean = (np.where(usable, values, 0) * weights).sum(over, keepdims=True) / np.where(total == 0, 1, total)
        infinite = np.isinf(values).all(over, keepdims=True)
    return np.asarray(np.where(infinite, np.take(values, [0], over[0]).max(over, keepdims=True), mean))


def _flat(values: Array, weights: Array, over: tuple[int, ...]) -> bool:
    """A cheap look whether values may be the same along axes: two samples of each."""
    place = tuple(slice(0, 1) if axis in over else slice(None) for axis in range(values.ndim))
    other = tuple(slice(-1, None) if axis in over else slice(None) for axis in range(values.ndim))
    a, b = values[place], values[other]
    known = (weights[place] > 0) & (weights[other] > 0)
    with np.errstate(all="ignore"):
        close = np.abs(a - b) <= 0.05 * (np.abs(a) + np.abs(b)) + 1e-4
    return bool(np.all(close | ~known | (a == b)))


def _written(constant: Array) -> Iterator[tuple[Any, float]]:
    """A constant as a person would have written it first, with the slack that it must do with; at last as it is."""
    if constant.size == 1:
        number = float(constant.reshape(()))
        short = (float(f"{number:.{digits}g}") for digits in range(1, _DIGITS))
        near = (value for value in short if abs(value - number) <= 0.05 * abs(number))
        yield from ((value, 4.0) for value in dict.fromkeys([*near, float(np.float32(number)), number]))
        yield number, _SLACK
    else:
        yield constant, _SLACK


def rows(table: Array, wanted: Array) -> Array | None:
    """The number of the row of a table (rows, …) that each of ``wanted`` is; None where one is none or several.

    Rows that are equal in the table are one another's: the first of them.
    """
    if table.ndim < 1 or table.shape[1:] != wanted.shape[1:]:
        return None
    places: dict[bytes, int] = {}
    for index, row in enumerate(table):
        places.setdefault(_bytes(row), index)
    found = [places.get(_bytes(row), -1) for row in wanted]
    return None if -1 in found else np.asarray(found, np.int64)


def _bytes(row: Array) -> bytes:
    return bytes((np.asarray(row, np.float64) + 0.0).tobytes())  # -0 is 0


def slices(node: Read, source: str) -> Iterator[Step]:
    """Steps that take a regular part of one input: which values stand in the result's first place says where."""
    x, y = node.recorded(source), result(node)
    if not y.size or y.size > x.size:
        return
    hits = np.argwhere(x == y.reshape(-1)[0])
    for dropped in _dropped(x.shape, y.shape):
        kept = [axis for axis in range(x.ndim) if axis not in dropped]
        lengths = dict(zip(kept, (length for length in y.shape if True), strict=False)) if len(kept) == y.ndim else None
        if lengths is None:
            continue
        for hit in hits[:256]:
            for strides in itertools.product(*(_strides(x.shape[a], lengths[a], int(hit[a])) for a in kept)):
                by = dict(zip(kept, strides, strict=True))
                index = [
                    int(hit[a]) if a in dropped else _triple(int(hit[a]), lengths[a], by[a], x.shape[a])
                    for a in range(x.ndim)
                ]
                yield step_of(node, (source,), "slice", index=tuple(index), inferred=True)


def _dropped(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for gone in itertools.combinations(range(len(before)), max(0, len(before) - len(after))):
        left = [length for axis, length in enumerate(before) if axis not in gone]
        if len(left) == len(after) and all(new <= old for new, old in zip(after, left, strict=True)):
            yield gone


def _strides(length: int, wanted: int, start: int) -> list[int]:
    if wanted == 1 or wanted == length:
        return [1] if start + wanted <= length else [-1]
    most = (length - 1 - start) // (wanted - 1)
    return [*range(1, min(most, 4) + 1), *([-1] if start - wanted + 1 >= 0 else [])]


def _triple(start: int, count: int, by: int, length: int) -> tuple[int | None, int | None, int]:
    if by > 0:
        stop = start + (count - 1) * by + 1
        return (start or None, None if stop + by > length else stop, by)
    stop = start - count
    return (start, None if stop < 0 else stop, by)


def renamed(step: Step, **changes: Any) -> Step:
    """The step with other fields."""
    return replace(step, **changes)
