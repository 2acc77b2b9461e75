"""Functions that few networks have: of each value, of two tensors, along an axis.

======================  =============================================================================================
kinds                   settings
======================  =============================================================================================
``exp2`` ``logit`` …    none
``logaddexp`` ``hypot``  none
``xlogy``
``outer``               none; of two vectors
``cdist``               ``order`` (2: the usual length): rows of the one from rows of the other
``pairwise_distance``   ``order``, ``epsilon`` (added to the difference), ``keepdims``: along the last axis
``inverse``             none; of matrices over the last two axes
``diff``                ``axis``
``diagonal``            ``axes`` (two), ``offset``
``cummax`` ``cummin``   ``axis``
``logcumsumexp``
``quantile``            ``axes``, ``keepdims``, ``share``
``index_add``           ``axis``, ``indices`` or a second input, ``count``: slices that are summed where they belong
``setitem``             ``index``, ``value`` where no second input is, ``base`` where what is read is put into it
``masking``             ``value``: steps of that alone are zeros
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tracer.causes.operations import operation, special
from tracer.causes.step import Array, Step, Unknown

_EACH: dict[str, Callable[[Array], Array]] = {
    "exp2": np.exp2,
    "log10": np.log10,
    "trunc": np.trunc,
    "frac": lambda x: x - np.trunc(x),
    "logit": lambda x: np.log(x) - np.log1p(-x),
    "expit": special.expit,
    "sinc": np.sinc,
    "sgn": np.sign,
    "real": np.real,
    "imag": np.imag,
    "angle": np.angle,
    "conj": np.conj,
    "view_as_real": lambda x: np.stack([np.real(x), np.imag(x)], -1),
    "view_as_complex": lambda x: x[..., 0] + 1j * x[..., 1],
    "squareplus": lambda x: (x + np.sqrt(x * x + 4)) / 2,
}
_TWO: dict[str, Callable[[Array, Array], Array]] = {
    "logaddexp": np.logaddexp,
    "hypot": np.hypot,
    "outer": np.outer,
    "complex": lambda real, imaginary: real + 1j * imaginary,
    "polar": lambda size, angle: size * np.exp(1j * angle),
    "xlogy": lambda x, y: np.where(x == 0, 0, x * np.log(np.where(x == 0, 1, y))),
}


@operation(*_EACH)
def of_each(step: Step, inputs: Sequence[Array]) -> Array:
    """A function of each value."""
    return np.asarray(_EACH[step.kind](inputs[0]))


@operation(*_TWO)
def of_two(step: Step, inputs: Sequence[Array]) -> Array:
    """A function of two tensors."""
    return np.asarray(_TWO[step.kind](inputs[0], inputs[1]))


@operation("cdist", "pairwise_distance")
def distances(step: Step, inputs: Sequence[Array]) -> Array:
    """How far rows are from one another: of two tensors each from each, or each from its own."""
    one, other = inputs
    gap = one[..., :, None, :] - other[..., None, :, :] if step.kind == "cdist" else one - other
    gap = gap + step.settings.get("epsilon", 0.0)
    return np.asarray(np.linalg.norm(gap, step.settings["order"], -1, bool(step.settings.get("keepdims"))))


@operation("inverse")
def inverse(step: Step, inputs: Sequence[Array]) -> Array:
    """The inverse of matrices."""
    try:
        return np.asarray(np.linalg.inv(inputs[0]))
    except np.linalg.LinAlgError as error:
        raise Unknown(str(error)) from None


@operation("diff")
def steps(step: Step, inputs: Sequence[Array]) -> Array:
    """Each value less the one before."""
    return np.diff(inputs[0], axis=step.settings["axis"])


@operation("diagonal")
def diagonal(step: Step, inputs: Sequence[Array]) -> Array:
    """The diagonal of two axes, along the last."""
    return np.diagonal(inputs[0], step.settings.get("offset", 0), *step.settings["axes"])


@operation("cummax", "cummin", "logcumsumexp")
def up_to_each(step: Step, inputs: Sequence[Array]) -> Array:
    """The largest, the smallest or the logarithm of the sum of exponentials of all up to each."""
    own = {"cummax": np.maximum, "cummin": np.minimum, "logcumsumexp": np.logaddexp}[step.kind]
    return np.asarray(own.accumulate(inputs[0], step.settings["axis"]))


@operation("quantile")
def quantile(step: Step, inputs: Sequence[Array]) -> Array:
    """What a share of the values are below, between two of them as far as the share says."""
    keeps = bool(step.settings.get("keepdims"))
    return np.asarray(np.quantile(inputs[0], step.settings["share"], step.settings["axes"], keepdims=keeps))


@operation("index_add")
def index_add(step: Step, inputs: Sequence[Array]) -> Array:
    """Slices along an axis, each added to the one of the result that its number says."""
    axis = step.settings["axis"]
    values = np.moveaxis(inputs[0], axis, 0)
    places = np.asarray(inputs[1] if len(inputs) > 1 else step.settings["indices"]).astype(np.int64)
    found = np.zeros((step.settings["count"], *values.shape[1:]))
    np.add.at(found, places, values)
    return np.moveaxis(found, 0, axis)


@operation("setitem")
def put(step: Step, inputs: Sequence[Array]) -> Array:
    """A tensor with other values at some places."""
    base, index = step.settings.get("base"), step.settings["index"]
    found = np.array(inputs[0] if base is None else base)
    value = inputs[-1] if base is not None or len(inputs) > 1 else step.settings["value"]
    found[tuple(slice(*part) if isinstance(part, tuple) else ... if part == "..." else part for part in index)] = value
    return found


@operation("masking")
def masking(step: Step, inputs: Sequence[Array]) -> Array:
    """Zeros where all features of a step are one value, as Keras's Masking."""
    return np.asarray(inputs[0] * np.any(inputs[0] != step.settings["value"], axis=-1, keepdims=True))
