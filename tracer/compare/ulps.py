"""Errors in units of the last place, as a histogram that grows block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes

_EXPONENT = 0x7FF0000000000000
_MANTISSA = 52
_ONE = 1023 << _MANTISSA
_GREATEST = 1900 << _MANTISSA
_FINE = 3
"""Bits of the mantissa that tell bins apart: eight bins an octave, whole numbers up to 16 are exact."""
ALL, STRIDE = 1 << 14, 61
"""Elements of a part of the tensors of which all are counted, and of the others one in so many."""
_LOWEST, _HIGHEST = -20, 64
"""Octaves that the bins reach over."""
BINS = ((_HIGHEST - _LOWEST) << _FINE) + 2


@dataclass(frozen=True)
class Ulps:
    """Errors in units of the last place of max(|reference|, ``floor``), in the coarser element type of the two.

    Near zero the unit is so small that any error is millions of them: elements below ``floor``, the root mean square
    of the reference down to a power of two, are measured in the unit of the floor.

    Attributes:
        median, p99: quantiles over the finite elements (in large tensors over the first 16 384 of every four million,
            and one in 61 of the others), exact up to 16, above rounded down by at most an eighth, and never above 2⁶⁴.
        largest: exact.
        floor: as above, in the units of the tensor.
        dtype: the coarser type.
    """

    median: float
    p99: float
    largest: float
    floor: float
    dtype: str


class Counting:
    """Counts the errors of blocks; ``scale`` is what all blocks were multiplied by (a power of two)."""

    def __init__(self, dtype: str, rms: float) -> None:
        self._dtype = dtype
        floor = max(rms if math.isfinite(rms) else 0.0, dtypes.smallest_normal(dtype))
        self.floor = math.ldexp(0.5, math.frexp(floor)[1])
        self._digits = -math.frexp(dtypes.epsilon(dtype))[1] + 1
        self._counts = np.zeros(BINS)
        self._seen = self._blocks = 0
        self._largest = 0.0

    @property
    def floor_bits(self) -> int:
        """The bits of the floor as a double: a power of two."""
        return int(np.float64(self.floor).view(np.int64))

    @property
    def shift(self) -> int:
        """What is added to a difference of bits for its upper ones to be the number of a bin."""
        return ((self._digits - _LOWEST) << _MANTISSA) + (1 << (_MANTISSA - _FINE))

    def add(
        self,
        magnitude: NDArray[np.float64],
        error: NDArray[np.float64],
        scale: float,
        room: NDArray[np.int64],
    ) -> None:
        """Take a block of finite elements; ``room`` is worked in."""
        # e / 2^⌊log₂ m⌋ is a difference of exponents, so the bits are subtracted as whole numbers.
        floor = int(np.float64(self.floor * scale).view(np.int64)) & _EXPONENT
        ratio = np.bitwise_and(magnitude.view(np.int64), _EXPONENT, out=room)
        np.maximum(ratio, floor, out=ratio)
        np.subtract(error.view(np.int64), ratio, out=ratio)
        top = int(np.maximum.reduce(ratio))
        self._raise(top)
        if self._seen >= ALL:
            ratio = ratio[self._blocks % STRIDE :: STRIDE]
        self._blocks += 1
        self._seen += ratio.size
        # Bin 0 is for what is equal or below the lowest octave.
        ratio += self.shift
        ratio >>= _MANTISSA - _FINE
        np.maximum(ratio, 0, out=ratio)
        if top > (_HIGHEST - self._digits) << _MANTISSA:
            np.minimum(ratio, BINS - 1, out=ratio)
        weight = 1 if ratio.size == magnitude.size else magnitude.size / ratio.size
        self._counts += np.bincount(ratio, minlength=BINS) * weight

    def merge(self, other: Counting) -> None:
        """Take what was counted in another part of the same tensors."""
        self._counts += other._counts
        self._largest = max(self._largest, other._largest)

    def take(self, counts: NDArray[np.float64], top: int) -> None:
        """Take a histogram made elsewhere, and the greatest difference of the bits of |d| and of its unit's."""
        self._counts += counts
        self._raise(top)

    def _raise(self, top: int) -> None:
        if top > -_ONE:
            value = np.int64(min(top + _ONE, _GREATEST)).view(np.float64)
            self._largest = max(self._largest, math.ldexp(float(value), self._digits))

    def result(self, finite: int) -> Ulps:
        """The figures; of ``finite`` elements those that were not handed in are equal."""
        return Ulps(self._quantile(0.5, finite), self._quantile(0.99, finite), self._largest, self.floor, self._dtype)

    def _quantile(self, share: float, finite: int) -> float:
        """The smallest bin up to which at least ``share`` of the elements lie."""
        above = np.cumsum(self._counts[:0:-1])[::-1]  # elements in this bin or a higher one
        most = finite - max(1, math.ceil(share * finite))  # how many may lie above the quantile
        # The quantile lies in the highest bin that has more than `most` elements in it or above.
        places = np.flatnonzero(above > most)
        if not places.size:
            return 0.0
        octave, part = divmod(int(places[-1]), 1 << _FINE)
        return min(math.ldexp(1 + part / (1 << _FINE), octave + _LOWEST), self._largest)
