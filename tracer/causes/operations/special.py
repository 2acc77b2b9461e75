"""Functions of :mod:`scipy.special`; plain ones where there is no scipy: in a worker in another environment.

scipy is imported when the first of them is called: that takes longer than importing numpy, and few networks need it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["erf", "erfc", "expit", "log_softmax", "logsumexp", "softmax"]

Array = NDArray[Any]

_erf, _erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)


@cache
def _scipy() -> Any:
    try:
        from scipy import special
    except ImportError:
        return None
    return special


def erf(x: Array) -> Array:
    known = _scipy()
    return np.asarray(known.erf(x)) if known else np.asarray(_erf(x), np.float64)


def erfc(x: Array) -> Array:
    known = _scipy()
    return np.asarray(known.erfc(x)) if known else np.asarray(_erfc(x), np.float64)


def expit(x: Array) -> Array:
    known = _scipy()
    return np.asarray(known.expit(x) if known else np.exp(-np.logaddexp(0, -x)))


def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    known = _scipy()
    if known:
        return np.asarray(known.logsumexp(x, axis=axis, keepdims=keepdims))
    reduce: Any = np.logaddexp.reduce
    return np.asarray(reduce(x, axis=axis, keepdims=keepdims))


def log_softmax(x: Array, axis: Any = None) -> Array:
    known = _scipy()
    return np.asarray(known.log_softmax(x, axis=axis) if known else x - logsumexp(x, axis, True))


def softmax(x: Array, axis: Any = None) -> Array:
    known = _scipy()
    return np.asarray(known.softmax(x, axis=axis) if known else np.exp(log_softmax(x, axis)))
