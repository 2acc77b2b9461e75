"""Places of what :mod:`tracer.compare.kernels` finds, in the arrays that it is given."""

from __future__ import annotations

XX, YY, XY, XD, SQUARES, SUM, SHIFT, SIGNED, LOCATED, LARGEST, PEAK, ZEROS_MAX = range(12)
"""Places of a state's ``numbers``."""
(WORST, OUTSIDE, NONFINITE, FINITE, UNEQUAL, NAN_A, NAN_B, INF_A, INF_B, ZEROS, CONSTANT_A, CONSTANT_B, NEGATIVE,
 POSITIVE, SEEN, ULP_BLOCKS, ULP_TOP, HULL, SPREAD, SPREAD_BLOCKS, READ) = range(21)  # fmt: skip
"""Places of a state's ``counts``."""
ROUNDING, ATOL, RTOL, FIRST_A, FIRST_B = range(5)
"""Places of the settings ``given``."""
ULPS, FLOOR, SHIFTED, STRIDE, ALL, CHANNELS, STEP, MOST, EVERY, ALWAYS = range(10)
"""Places of the settings ``chosen``."""
NONE, INNER, ROW, LEAD = range(4)
"""Where the channels are: among the axes that lie whole in a block, along its rows, or above."""
