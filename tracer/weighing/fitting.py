"""Values for a model's parameters: whether they fit, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.alignment.owned import Key
from tracer.errors import InputError
from tracer.graph import Param
from tracer.names import display

Array = NDArray[Any]


def fitted(values: Mapping[Key, Array], params: Mapping[Key, Param]) -> dict[Key, Array]:
    """``values`` in the types of ``params``, both by owner and name.

    Raises InputError, in one line, for a key that ``params`` lacks, another shape, values that the type cannot hold.
    """
    found = {}
    for key, value in values.items():
        param, shown = params.get(key), display(".".join(part for part in key if part))
        if param is None:
            raise InputError(f"the model has no parameter {shown}")
        if value.shape != param.shape:
            raise InputError(f"{shown} has shape {list(param.shape)}, and was given {list(value.shape)}")
        found[key] = cast(value, param.dtype, shown)
    return found


def cast(values: Array, name: str, shown: str) -> Array:
    """``values`` of the parameter ``shown`` in the type ``name``. Raises InputError where it cannot hold them."""
    dtype = dtypes.by_name(name)
    if values.dtype == dtype:
        return values
    if values.dtype.kind == "c" and dtype.kind != "c":
        raise InputError(f"{shown} is {name}, which cannot hold complex numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(dtype)
    same = np.array_equal(found, values) if dtype.kind in "biu" else np.array_equal(_finite(found), _finite(values))
    if not same:
        raise InputError(f"{shown} is {name}, which cannot hold all of its values")
    return found


def _finite(values: Array) -> NDArray[np.bool_]:
    return np.isfinite(values if values.dtype.kind in "biufc" else dtypes.as_float64(values))
