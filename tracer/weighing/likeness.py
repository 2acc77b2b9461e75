"""What a parameter that differs is of its twin: transposed, re-ordered, scaled, rounded, another layer's, never loaded.

Everything is looked at in the common layout (:mod:`tracer.alignment.relayout`), so a layer that is merely laid out
otherwise is no difference. Arrays are worked on in portions; a hypothesis is tried on a sample first where that is
cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tracer import dtypes, relations
from tracer.alignment import twins
from tracer.relations import SAME, Array, alike

What = Literal[
    "shape", "not-finite", "constant", "gates", "transposed", "flipped", "reordered", "elsewhere", "negated", "scaled",
    "rounded", "quantised", "statistics", "near", "initialised", "unrelated",
]  # fmt: skip
_SAMPLE = 1 << 15
_MOST_SORTED = 1 << 23
"""Elements up to which arrays are sorted to see whether they hold the same numbers."""
_STATISTICS = ("running_mean", "running_var")
_GATES = {"lstm": "ifgo", "gru": "rzn"}
_LEVELS = 256
_ENOUGH = 512
_RELATED = 0.5
_CHANCE = 4.0
"""Standard deviations of a correlation by chance; a model has hundreds of weights."""


@dataclass(frozen=True)
class Likeness:
    """What the candidate's parameter is of the reference's; ``text`` says it in words, with the candidate as subject.

    ``factor`` is the number it is multiplied by, ``order`` the order of axes or of equal blocks, where there is one.
    """

    what: What
    text: str
    factor: float | None = None
    order: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"what": self.what, "text": self.text}
        if self.factor is not None:
            found["factor"] = self.factor
        if self.order:
            found["order"] = list(self.order)
        return found


@dataclass(frozen=True)
class Look:
    """Two arrays of the common layout that differ, and what is known of their layers.

    Attributes:
        mine, its: the reference's and the candidate's values.
        role, kind: what the parameter is for, and the operation of its layer.
        fan: inputs and outputs that each output and each input sums over, of the layer's kernel.
        shapes: of tensors of the reference that may have been flattened into what the layer reads.
        attends: whether queries, keys and values are about.
        elsewhere: names of other parameters of the reference that hold the candidate's values.
        same: whether the two hold the same numbers in any order; None where that is not known.
    """

    mine: Array
    its: Array
    role: str
    kind: str
    fan: tuple[int, int] = (0, 0)
    shapes: Sequence[tuple[int, ...]] = ()
    attends: bool = False
    elsewhere: Sequence[str] = ()
    same: bool | None = None


def likeness(look: Look) -> Likeness:
    """The first that holds of what can be said, the certain before the likely."""
    return next(filter(None, (test(look) for test in _TESTS)), None) or _unlike(look)


def _shape(look: Look) -> Likeness | None:
    if look.mine.shape == look.its.shape:
        return None
    order = relations.transposed(look.mine, look.its)
    if order is not None:
        return Likeness("transposed", f"its axes in another order: {_order(order)}", order=order)
    return Likeness("shape", f"another shape: {_times(look.its.shape)}, not {_times(look.mine.shape)}")


def _not_finite(look: Look) -> Likeness | None:
    for values, where in ((look.its, "here"), (look.mine, "in the reference")):
        if values.dtype.kind in "fcV" and not math.isfinite(relations.peak(values)):
            count = sum(int((~np.isfinite(_wide(values[p]))).sum()) for p in relations.portions(values.shape))
            return Likeness("not-finite", f"{count} of {values.size} numbers are NaN or infinite {where}")
    return None


def _constant(look: Look) -> Likeness | None:
    """One side still has what a new layer begins with."""
    for values, where in ((look.its, ""), (look.mine, " in the reference")):
        first = complex(values.flat[0]).real if values.size else 0.0
        if values.size > 1 and first in (0.0, 1.0) and bool(np.all(values == values.flat[0])):
            word = "zeros" if first == 0 else "ones"
            return Likeness("constant", f"all {word}{where}, as a new layer begins: never loaded?")
    return None


# --- the same numbers, elsewhere --------------------------------------------------------------------------------------


def _same_numbers(look: Look) -> Likeness | None:
    if not (_alike_sketches(look.mine, look.its) if look.same is None else look.same):
        return None
    return next(filter(None, (test(look) for test in (_gates, _axes, _turned, _places))), None)


def _alike_sketches(mine: Array, its: Array) -> bool:
    """Whether numbers that no order changes are equal, as far as they say anything."""
    rows = [twins.sketch(values) for values in (mine, its)]
    if rows[0] is None or rows[1] is None:
        return mine.size <= _MOST_SORTED and relations.same_values(_wide(mine), _wide(its))
    a, b = (np.array([row], np.float64) for row in rows)
    return bool(twins.equal(a, b))


def _gates(look: Look) -> Likeness | None:
    names = _GATES.get(look.kind.removesuffix("_cell"), "")
    if not names or look.mine.shape[-1] % len(names):
        return None
    order = relations.permutation(look.mine, look.its, look.mine.ndim - 1)
    parts = None if order is None else relations.blocks(order, len(names))
    if parts is None or len(parts) != len(names):
        return None
    return Likeness("gates", f"gates in the order {', '.join(names[i] for i in parts)}, not {', '.join(names)}",
                    order=parts)  # fmt: skip


def _axes(look: Look) -> Likeness | None:
    if look.mine.ndim < 2:
        return None
    order = relations.transposed(look.mine, look.its)
    if order is None:
        return None
    if look.mine.ndim == 2:
        return Likeness("transposed", "transposed", order=order)
    words = [*("spatial axes" for _ in range(look.mine.ndim - 2)), "inputs", "outputs"]
    moved = dict.fromkeys(words[a] for a, b in enumerate(order) if a != b)
    return Likeness("transposed", f"{' and '.join(moved)} exchanged: axes {_order(order)}", order=order)


def _turned(look: Look) -> Likeness | None:
    spatial = range(max(look.mine.ndim - 2, 0) if look.kind != "embedding" else 0)
    axes = relations.flipped(look.mine, look.its, spatial)
    if axes is None:
        return None
    if len(axes) == len([a for a in spatial if look.mine.shape[a] > 1]):
        return Likeness("flipped", "flipped along its spatial axes: a true convolution", order=axes)
    return Likeness("flipped", f"flipped along axis {', '.join(map(str, axes))}", order=axes)


def _places(look: Look) -> Likeness:
    """Slices of one axis in another order; both inputs and outputs where neither alone will do."""
    mine, its = look.mine, look.its
    words = ["rows", "columns"] if look.kind == "embedding" else ["inputs", "outputs"]
    if mine.ndim == 1:
        order = relations.permutation(mine, its, 0)
        return _ordered(look, order, "elements") if order is not None else _shuffled()
    for axis, word in zip((mine.ndim - 2, mine.ndim - 1), words, strict=True):
        if (order := relations.permutation(mine, its, axis)) is not None:
            return _ordered(look, order, word)
    if mine.size <= _MOST_SORTED:
        rows = mine.ndim - 2
        order = relations.permutation(mine, its, rows, loose=True)
        if order is not None and relations.permutation(np.take(mine, order, rows), its, mine.ndim - 1) is not None:
            return Likeness("reordered", f"both its {words[0]} and its {words[1]} in another order")
    return _shuffled()


def _shuffled() -> Likeness:
    return Likeness("reordered", "the same numbers in another order")


def _ordered(look: Look, order: Array, which: str) -> Likeness:
    """An order of slices in words: that of a flatten, of parts, of heads, of joined branches."""
    size = len(order)
    if np.array_equal(order, np.arange(size)[::-1]):
        return Likeness("reordered", f"its {which} backwards{': RGB against BGR?' if size == 3 else ''}")
    if np.array_equal(np.roll(np.arange(size), -int(order[0])), order):
        shift = int(order[0]) if order[0] <= size // 2 else int(order[0]) - size
        return Likeness("reordered", f"its {which} shifted by {-shift:+d}")
    flat = relations.factored(order, look.shapes)
    if flat is not None and which != "outputs" and flat[0] in look.shapes:
        text = f"its {which} in the order of another flatten: {_times(flat[0])} permuted by {_order(flat[1])}"
        return Likeness("reordered", text, order=flat[1])
    parts = relations.blocks(order)
    if parts is not None and look.attends and len(parts) == 3:
        return Likeness("reordered", f"queries, keys and values in the order {', '.join('qkv'[i] for i in parts)}",
                        order=parts)  # fmt: skip
    if parts is not None:
        return Likeness("reordered", f"{len(parts)} equal blocks of its {which} in the order {_order(parts)}",
                        order=parts)  # fmt: skip
    if flat is not None:
        what = f"its {which} in another order: as if {_times(flat[0])} of them were permuted by {_order(flat[1])}"
        if look.attends:
            what = f"heads and features of a head the other way round in its {which}"
        return Likeness("reordered", what, order=flat[1])
    runs = relations.runs(order)
    if 1 < len(runs) <= 16 and len(runs) < size:
        lengths = " + ".join(str(length) for _, length in sorted(runs))
        return Likeness("reordered", f"its {which} in another order, in runs of {lengths}")
    return Likeness("reordered", f"its {which} in another order")


def _elsewhere(look: Look) -> Likeness | None:
    if not look.elsewhere:
        return None
    more = f" (and of {len(look.elsewhere) - 1} more)" if len(look.elsewhere) > 1 else ""
    return Likeness("elsewhere", f"the values of {look.elsewhere[0]}{more}")


# --- a number, a type -------------------------------------------------------------------------------------------------


def _multiple(look: Look) -> Likeness | None:
    x, y = _sampled(look)
    factor = relations.multiple(x, y)
    if factor is not None and alike(look.mine, look.its, change=lambda part: part * factor):
        if abs(factor + 1) < SAME:
            return Likeness("negated", "its sign is turned: −1 times the reference's", factor)
        return Likeness("scaled", f"{factor:.6g} times the reference's", factor)
    return None


def _multiples(look: Look) -> Likeness | None:
    """One number for each output."""
    if look.mine.ndim < 2 or look.mine.size > _MOST_SORTED or look.role in _STATISTICS:
        return None
    mine, its = (values.reshape(-1, values.shape[-1]) for values in (look.mine, look.its))
    few = max(2, _SAMPLE // mine.shape[-1])
    if relations.multiples(_wide(mine[:few]), _wide(its[:few])) is None:
        return None
    factors = relations.multiples(_wide(mine), _wide(its))
    if factors is None:
        return None
    changed = factors[~np.isclose(factors, 1, rtol=1e-5)]
    if changed.size and np.allclose(changed, changed[0], rtol=1e-4):
        text = f"{changed.size} of {factors.size} outputs multiplied by {changed[0]:.6g}"
        return Likeness("scaled", text, float(changed[0]))
    return Likeness("scaled", "every output multiplied by another number: a normalisation folded in?")


def _statistics(look: Look) -> Likeness | None:
    if look.role != "running_var":
        return None
    for change, text in ((np.sqrt, "a standard deviation, not a variance"), (np.square, "the variance squared")):
        changed: Callable[[Array], Array] = change
        if alike(look.mine, look.its, change=lambda part, make=changed: make(np.abs(part))):  # type: ignore[misc]
            return Likeness("statistics", text)
    return None


def _rounded(look: Look) -> Likeness | None:
    sample = _sampled(look)
    for (mine, its), where in ((sample, ""), (sample[::-1], " in the reference")):
        name = relations.rounded(mine, its)
        if name is None:
            continue
        a, b = (look.mine, look.its) if not where else (look.its, look.mine)
        if alike(a, b, 2 * dtypes.epsilon(name)):
            return Likeness("rounded", f"rounded to {name}{where}")
    return None


def _quantised(look: Look) -> Likeness | None:
    """Values on a grid of at most 256 levels, one for all or one for each output."""
    if look.its.dtype.kind not in "fV" or look.its.size < 16:
        return None
    x, y = _sampled(look)
    tries = [(x[None], y[None], "")]
    if look.mine.ndim > 1:
        first, second = (
            _wide(values[..., :64].reshape(-1, min(64, values.shape[-1]))[:_SAMPLE]).T
            for values in (look.mine, look.its)
        )
        tries.append((first, second, ", each output on its own"))
    for mine, its, which in tries:
        if its.shape[1] < 8:
            continue
        steps = [_grid(row) for row in its]
        if None not in steps and np.all(np.abs(mine - its) <= 0.75 * np.array(steps, np.float64)[:, None]):
            return Likeness("quantised", f"quantised to 8 bits{which}")
    return None


def _grid(row: Array) -> float | None:
    """The step of the grid that all values are on; None where they are on none of 256 levels."""
    levels = np.unique(row[:_ENOUGH]) if len(row) > _ENOUGH else np.unique(row)
    if len(levels) <= _LEVELS and len(row) > _ENOUGH:
        levels = np.unique(row)
    if not 1 < len(levels) <= _LEVELS:
        return None
    span = float(levels[-1] - levels[0])
    top = float(np.abs(levels).max())
    for step in (top / 127, top / 128, span / 255, float(np.diff(levels).min())):
        places = (levels - levels[0]) / step
        if span / step < _LEVELS and np.abs(places - np.round(places)).max() < 2e-2:
            return step
    return None


# --- the likely -------------------------------------------------------------------------------------------------------


def _near(look: Look) -> Likeness | None:
    size = look.mine.size
    if size > _SAMPLE:
        x, y = _sampled(look)
        if abs(relations.correlation(x, y)) < _RELATED / 2 and np.count_nonzero(x == y) < len(x) // 4:
            return None
    sums = np.zeros(5)
    apart, moved = 0.0, 0
    top = relations.peak(look.mine)
    for part in relations.portions(look.mine.shape):
        x, y = (_wide(values[part]).reshape(-1) for values in (look.mine, look.its))
        d = np.abs(x - y)
        apart += float(np.vdot(d, d).real)
        sums += [float(np.vdot(a, b).real) for a, b in ((x, x), (y, y), (x, y))] + [x.sum().real, y.sum().real]
        moved += int(np.count_nonzero(d > SAME * top))
    # About the mean: scales and variances that have nothing in common are all near one.
    own, other = sums[0] - sums[3] ** 2 / size, sums[1] - sums[4] ** 2 / size
    close = (sums[2] - sums[3] * sums[4] / size) / math.sqrt(own * other) if own > 0 and other > 0 else 0.0
    few = moved <= size // 2 and size >= 8
    # Fisher's z: of few numbers a middling correlation is chance.
    certain = close >= 1 or (close > 0 and math.atanh(close) * math.sqrt(max(0, size - 3)) > _CHANCE)
    if not few and (close < _RELATED or size < 8 or not certain):
        return None
    if few:
        return Likeness("near", f"{moved} of {size} numbers differ")
    share = math.sqrt(apart / sums[0])
    if share < 0.05 and close > 0.9:
        return Likeness("near", f"a little off everywhere, by {share:.1e} of its size: trained on, about one step?")
    return Likeness("near", f"off everywhere by {share:.2g} of its size (correlation {close:.3f}): trained on?")


def _initialised(look: Look) -> Likeness | None:
    if look.role in _STATISTICS:
        return None
    found = [_initialiser(look, values) for values in (look.mine, look.its)]
    if found[1] is None:
        return None
    if found[0] is None:
        return Likeness("initialised", f"as a new layer begins ({found[1]}): never loaded?")
    both = f"{found[1]}" if found[0] == found[1] else f"{found[0]} there, {found[1]} here"
    return Likeness("initialised", f"both as a new layer begins ({both})")


def _initialiser(look: Look, values: Array) -> str | None:
    sample = _wide(values).reshape(-1) if values.size <= _SAMPLE else _flat_sample(values)
    if "bias" in look.role and look.fan[0]:
        # Drawn as PyTorch draws them, which no other framework does; of few numbers only the bound is seen.
        bound = 1 / math.sqrt(look.fan[0])
        top = float(np.abs(sample).max(initial=0.0))
        spread = float(sample.std()) * math.sqrt(3)
        if len(sample) >= 8 and 0.75 * bound < top <= bound * 1.0001 and abs(spread / bound - 1) < 0.4:
            return "PyTorch's default, uniform within ±1/√fan_in"
        return None
    found = relations.initialiser(sample, *look.fan)
    # Few numbers have about any deviation; that they are uniform within a bound is seen all the same.
    return found if found is None or len(sample) >= _ENOUGH or "uniform" in found else None


def _unlike(look: Look) -> Likeness:
    if look.role in _STATISTICS:
        return Likeness("unrelated", f"other statistics{_correlated(look)}")
    return Likeness("unrelated", f"nothing of the reference's{_correlated(look)}")


def _correlated(look: Look) -> str:
    x, y = _sampled(look)
    if len(x) < 8 or x.dtype.kind == "c" or y.dtype.kind == "c":
        return ""
    return f" (correlation {round(relations.correlation(x, y), 2) + 0.0:.2f})"  # 0.00, never -0.00


# --- pieces -----------------------------------------------------------------------------------------------------------


def _wide(values: Array) -> Array:
    return values if values.dtype == np.float64 else dtypes.as_float64(values)


def _indices(shape: Sequence[int]) -> Iterator[Array]:
    size = math.prod(shape)
    chosen = np.arange(size) if size <= _SAMPLE else np.random.default_rng(0).integers(0, size, _SAMPLE)
    yield from np.unravel_index(chosen, tuple(shape))


def _flat_sample(values: Array) -> Array:
    return _wide(values[tuple(_indices(values.shape))])


def _sampled(look: Look) -> tuple[Array, Array]:
    """Both sides' values at the same places: all of them, or some of many."""
    where = tuple(_indices(look.mine.shape))
    if not where:
        return _wide(look.mine).reshape(-1), _wide(look.its).reshape(-1)
    return _wide(look.mine[where]), _wide(look.its[where])


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _order(axes: Sequence[int]) -> str:
    return f"({','.join(map(str, axes))})"


_TESTS: tuple[Callable[[Look], Likeness | None], ...] = (
    _shape, _not_finite, _constant, _statistics, _same_numbers, _elsewhere, _multiple, _multiples, _rounded, _quantised,
    _near, _initialised,
)  # fmt: skip


def attends(kind: str, name: str) -> bool:
    """Whether a layer's own kind or name says that it makes or takes queries, keys and values."""
    words = ("query", "key", "value", "qkv", "attn", "attention", "in_proj", "q_proj", "k_proj", "v_proj")
    return kind == "attention" or any(word in name.lower() for word in words)
