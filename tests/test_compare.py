"""Statistics against numpy's own expressions, and verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracer.compare import Tolerance, Verdict
from tracer.compare.stats import compare
from tracer.compare.verdict import judge, rounding_floor

FLOATS = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(st.data(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=6))
def test_statistics_are_those_of_numpy(data: st.DataObject, shape: tuple[int, ...]) -> None:
    a = data.draw(hnp.arrays(np.float32, shape, elements=FLOATS))
    b = data.draw(hnp.arrays(np.float32, shape, elements=FLOATS))
    stats = compare(a, b, 1e-3, 1e-2)
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(x - y)
    assert stats.max_abs == error.max()
    assert error[stats.argmax] == error.max()
    assert stats.mean_abs == pytest.approx(error.mean())
    if np.linalg.norm(x):
        assert stats.rel_l2 == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x))
    if np.linalg.norm(x) and np.linalg.norm(y):
        expected = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
        assert stats.cosine == pytest.approx(expected, abs=1e-9)
    assert stats.outside == (error > 1e-3 + 1e-2 * np.abs(x)).sum()
    assert stats.passes(1e-3, 1e-2) == np.allclose(y, x, atol=1e-3, rtol=1e-2)
    assert stats.passes(stats.sufficient_atol(1e-2), 1e-2)


def test_blocks_and_views_change_nothing() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 300, 700)).astype("f4")
    b = a + rng.normal(size=a.shape).astype("f4") * 1e-3
    b[2, 17, 33] += 5
    moved = np.ascontiguousarray(b.transpose(0, 2, 1)).transpose(0, 2, 1)
    stats = compare(a, moved)
    assert stats.argmax == (2, 17, 33)
    assert stats.worst == (float(a[2, 17, 33]), float(b[2, 17, 33]))
    assert stats.mean_abs == pytest.approx(np.abs(a.astype("f8") - b).mean())
    assert stats.size == a.size


@pytest.mark.parametrize(
    ("a", "b", "nonfinite"),
    [
        ([np.nan, 1], [np.nan, 1], 0),
        ([np.inf, 1], [np.inf, 1], 0),
        ([np.inf, 1], [-np.inf, 1], 1),
        ([np.nan, 1], [0, 1], 1),
        ([0, 1], [np.inf, 1], 1),
        ([np.nan, np.inf], [np.inf, np.nan], 2),
    ],
)
def test_nan_and_inf_agree_only_with_their_like(a: list[float], b: list[float], nonfinite: int) -> None:
    stats = compare(np.array(a), np.array(b))
    assert stats.nonfinite == nonfinite
    assert stats.max_abs == 0
    assert stats.passes(1e-5, 1e-5) == (nonfinite == 0)


def test_small_types_neither_wrap_nor_overflow() -> None:
    assert compare(np.array([0], "u1"), np.array([255], "u1")).max_abs == 255
    assert compare(np.array([6e4], "f2"), np.array([-6e4], "f2")).max_abs == pytest.approx(1.2e5, rel=1e-3)
    assert compare(np.array([True, False]), np.array([False, False])).max_abs == 1
    assert compare(np.array([1j]), np.array([1 + 0j])).max_abs == pytest.approx(np.sqrt(2))


def test_empty_and_scalar() -> None:
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).passes(0, 0)
    assert compare(np.array(1.0), np.array(1.5)).max_abs == 0.5
    with pytest.raises(ValueError, match="shapes differ"):
        compare(np.zeros((4, 1)), np.zeros(4))


def test_needed_tolerances_really_are_enough() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=1000)
    b = a * (1 + 1e-3 * rng.normal(size=1000))
    stats = compare(a, b, 1e-5, 1e-5)
    assert np.allclose(b, a, atol=1e-5, rtol=stats.needed_rtol * (1 + 1e-12))
    assert not np.allclose(b, a, atol=1e-5, rtol=stats.needed_rtol * 0.999)


def test_verdicts() -> None:
    rng = np.random.default_rng(2)
    a = 100 * rng.normal(size=10_000)
    floor, epsilon = rounding_floor("float32", 10), float(np.finfo("f4").eps)

    def verdict(
        candidate: np.ndarray, atol: float = 1e-6, off: str | None = None, before: float = 1e-8, odd: bool = False
    ) -> Verdict:
        stats = compare(a, candidate, atol, 0)
        return judge(stats, Tolerance(atol, 0), floor, epsilon, off, before, odd)[0]

    close = a * (1 + 2e-7 * rng.normal(size=a.size))
    assert verdict(close) is Verdict.NOISE
    assert verdict(close, atol=1e-3) is Verdict.MATCH
    assert verdict(close, off="x") is Verdict.INHERITED
    scaled = a * 1.0005  # a BatchNorm epsilon: 1 − cosine is zero
    assert compare(a, scaled).cosine == pytest.approx(1, abs=1e-15)
    assert verdict(scaled) is Verdict.DIVERGED
    one_element = a.copy()
    one_element[7] += 0.5
    assert verdict(one_element) is Verdict.DIVERGED
    # An error that a layer takes over is noise; one that it makes out of nothing, or with other settings, is not.
    off_a_little = a * (1 + 1e-5)
    assert verdict(off_a_little, before=5e-6) is Verdict.NOISE
    assert verdict(off_a_little, before=3e-7) is Verdict.DIVERGED
    assert verdict(off_a_little, before=2e-6, odd=False) is Verdict.NOISE
    assert verdict(off_a_little, before=2e-6, odd=True) is Verdict.DIVERGED
    zero = compare(a * 0, a, 1e-6, 0)
    assert judge(zero, Tolerance(1e-6, 0), floor, epsilon, None, 0.0, False)[0] is Verdict.DIVERGED
