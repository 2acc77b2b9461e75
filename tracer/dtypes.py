"""Element types by name: numpy's own, and the reduced-precision ones of ml_dtypes.

Zarr-python has no bfloat16 or float8; such arrays are stored as unsigned integers of the same width, and the
attribute ``dtype`` of the array says what the bits mean.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.errors import InputError

_NATIVE = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)
_EXTENDED = frozenset(
    [
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float8_e4m3b11fnuz",
    ]
)


@lru_cache(maxsize=64)
def by_name(name: str) -> np.dtype[Any]:
    """The numpy dtype called ``name``. Raises InputError for one that cannot be stored."""
    if name in _NATIVE:
        return np.dtype(name)
    if name in _EXTENDED:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    raise InputError(f"element type {name!r} cannot be stored")


@lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """``dtype.name``, which numpy puts together anew each time."""
    return dtype.name


def storable(dtype: np.dtype[Any]) -> bool:
    return name_of(dtype) in _NATIVE or name_of(dtype) in _EXTENDED


@lru_cache(maxsize=64)
def stored_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The Zarr data type whose bits stand for ``dtype``."""
    return dtype if name_of(dtype) in _NATIVE else np.dtype(f"uint{8 * dtype.itemsize}")


@lru_cache(64)
def epsilon(name: str) -> float:
    """Machine epsilon of a floating type (distance from 1 to the next number); 0 for the others."""
    if name in _EXTENDED:
        import ml_dtypes

        return float(ml_dtypes.finfo(by_name(name)).eps)
    dtype = np.dtype(name) if name in _NATIVE else None
    return float(np.finfo(dtype).eps) if dtype is not None and dtype.kind in "fc" else 0.0


def smallest_normal(name: str) -> float:
    """The smallest positive number of a floating type that has its full precision."""
    if name in _EXTENDED:
        import ml_dtypes

        return float(ml_dtypes.finfo(by_name(name)).smallest_normal)
    return float(np.finfo(by_name(name)).smallest_normal)


def as_float64(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in double precision (complex stays complex), for differences that neither wrap nor overflow."""
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
