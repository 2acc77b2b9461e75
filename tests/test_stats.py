"""Statistics against plain numpy over whole tensors: all types, views, scales, and where an error sits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracer import compiled as loading
from tracer.compare import compiled, walk
from tracer.compare import stats as stats_
from tracer.compare import ulps as ulps_
from tracer.compare.envelope import Gathering
from tracer.compare.places import words_of
from tracer.compare.plain import from_plain, to_plain
from tracer.compare.stats import Stats, compare, outside
from tracer.compare.walk import Grid
from tracer.graph import Layout, Node

TYPES = [
    "bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64", "complex64", "complex128",
    "bfloat16", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
TOLERANCES = [(0.0, 0.0), (1e-5, 1e-5), (1e-3, 0.0), (0.0, 1e-2), (0.1, 0.3), (0.0, 5.0)]


def plain(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both sides in long double where both are finite, else zero; and what is finite, and what is off otherwise."""
    wide = np.clongdouble if "c" in (a.dtype.kind, b.dtype.kind) else np.longdouble
    x, y = (np.asarray(side, np.float64 if side.dtype.kind == "V" else None).astype(wide) for side in (a, b))
    good = np.isfinite(x) & np.isfinite(y)
    same = (np.isnan(x) & np.isnan(y)) | (x == y)
    return np.where(good, x, 0), np.where(good, y, 0), good, ~good & ~same


def check(a: np.ndarray, b: np.ndarray, stats: Stats) -> None:
    with np.errstate(all="ignore"):
        x, y, good, off = plain(a, b)
        error, magnitude = np.abs(x - y), np.abs(x)
        assert stats.size == a.size
        assert stats.nonfinite == off.sum()
        if not a.size:
            assert (stats.max_abs, stats.mean_abs, stats.cosine, stats.argmax, stats.where) == (0, 0, None, None, None)
            return
        assert stats.max_abs == pytest.approx(float(error.max()), rel=1e-12)
        if stats.max_abs > 0:
            assert error[stats.argmax] == pytest.approx(error.max(), rel=1e-12)
            assert stats.where is not None
            assert stats.where.unequal == np.count_nonzero(error)
        assert stats.mean_abs == pytest.approx(float(error.mean()), rel=1e-9)
        norm, other = np.sqrt((magnitude**2).sum()), np.sqrt((np.abs(y) ** 2).sum())
        if norm > 0:
            assert stats.rel_l2 == pytest.approx(float(np.sqrt((error**2).sum()) / norm), rel=1e-9)
            if stats.rel_l2 > 0:
                assert stats.snr_db == pytest.approx(-20 * math.log10(stats.rel_l2))
        if norm > 0 and other > 0:
            cosine = (np.conj(x) * y).sum().real / norm / other
            assert stats.cosine == pytest.approx(float(cosine), abs=1e-12)
            assert stats.angle == pytest.approx(float(1 - cosine), abs=1e-12)
        assert stats.reference_max == pytest.approx(float(magnitude.max()), rel=1e-12)
        one = (x == 0) != (y == 0)
        assert stats.zeros == (one.sum(), pytest.approx(float(error[one].max(initial=0)), rel=1e-12))
        both = np.asarray(a, "f8") if a.dtype.kind == "V" else a, np.asarray(b, "f8") if b.dtype.kind == "V" else b
        found = stats.nonfinites
        assert [found.nan_reference, found.nan_candidate] == [int(np.isnan(side).sum()) for side in both]
        assert [found.inf_reference, found.inf_candidate] == [int(np.isinf(side).sum()) for side in both]
        for side, constant in zip((a, b), stats.constant, strict=True):
            assert (constant is not None) == bool((side == side.reshape(-1)[0]).all())
        for atol, rtol in TOLERANCES:
            over = error - np.longdouble(rtol) * magnitude
            needed = max(0.0, float(over.max()))
            assert stats.sufficient_atol(rtol) == pytest.approx(needed, rel=1e-9, abs=1e-12 * stats.max_abs)
            if abs(needed - atol) > 1e-9 * max(atol, stats.max_abs, rtol * stats.reference_max):
                assert stats.passes(atol, rtol) == (needed <= atol and not off.any())
            bound = atol + np.longdouble(rtol) * magnitude
            surely, maybe = (int((error > bound * edge).sum() + off.sum()) for edge in (1 + 1e-12, 1 - 1e-12))
            assert surely <= outside(a, b, atol, rtol) <= maybe
            known = stats.at(atol, rtol).outside
            assert known is None or surely <= known <= maybe
        if "bool" not in (a.dtype.name, b.dtype.name) and stats.ulps is not None and stats.max_abs > 0:
            floor = np.maximum(magnitude, stats.ulps.floor)
            unit = np.exp2(np.floor(np.log2(floor.astype("f8")))) * float(ml_dtypes.finfo(stats.ulps.dtype).eps)
            ulps = np.sort((error / unit)[good].astype("f8"))
            assert stats.ulps.largest == pytest.approx(ulps[-1], rel=1e-9)
            for share, shown in ((0.5, stats.ulps.median), (0.99, stats.ulps.p99)):
                true = min(ulps[math.ceil(share * ulps.size) - 1], 2.0**64)
                off = 1e-9 if a.size <= ulps_.ALL else 0.1  # of large tensors some elements are counted
                assert true * (1 - 1 / 8 - off) - 1e-6 <= shown <= true * (1 + off) + 1e-6
        assert to_plain(from_plain(to_plain(stats))) == to_plain(stats)


def values(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if name == "bool":
        return rng.random(shape) < 0.5
    if name.startswith(("int", "uint")):
        info = np.iinfo(name)
        low, high = (info.min, info.max) if rng.random() < 0.5 else (max(info.min, -100), 100)
        return rng.integers(low, high, shape, dtype=name, endpoint=True)
    drawn = rng.normal(size=shape) * 10.0 ** rng.integers(-2, 2)
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return (drawn + 1j * rng.normal(size=shape) if dtype.kind == "c" else drawn).astype(dtype)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("other", [None, "float32"])
def test_every_type_in_every_shape(name: str, other: str | None) -> None:
    rng = np.random.default_rng(len(name))
    for shape in ((), (1,), (0, 3), (7,), (3, 0, 2), (2, 5, 4), (2, 3, 70, 90), (20_000,), (3, 9000), (9001, 2)):
        a, b = values(name, rng, shape), values(other or name, rng, shape)
        if shape and a.size and rng.random() < 0.5:
            b = a.copy() if other is None else (a.real if a.dtype.kind == "c" else a).astype(b.dtype)
            part = b.reshape(-1)[: max(1, b.size // 3)]
            part[...] = values(b.dtype.name, rng, part.shape)
        check(a, b, compare(a, b, 1e-3, 1e-3, channels=len(shape) - 1 if len(shape) > 1 else None))


def test_views_give_what_copies_give() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 17, 19, 21)).astype("f4")
    b = a + (rng.normal(size=a.shape) * 1e-3).astype("f4")
    for order in ((0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 3, 2)):
        moved = np.ascontiguousarray(b.transpose(order)).transpose(np.argsort(order))
        assert compare(a, moved, channels=3) == compare(a, b, channels=3)
    read_only = a[::-1].copy()
    read_only.setflags(write=False)
    check(a[::-1], b[::-1], compare(read_only, b[::-1]))


NUMBERS = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1.0])


@given(st.data(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), st.sampled_from(["f4", "f8", "f2"]))
def test_any_numbers(data: st.DataObject, shape: tuple[int, ...], kind: str) -> None:
    with np.errstate(all="ignore"):
        a, b = (data.draw(hnp.arrays(np.float32, shape, elements=NUMBERS)).astype(kind) for _ in range(2))
        if data.draw(st.booleans()):
            b = np.where(data.draw(hnp.arrays(bool, shape)), a, b)
    check(a, b, compare(a, b, 1e-3, 1e-2, channels=len(shape) - 1 if len(shape) > 1 else None))


@pytest.mark.parametrize("scales", [(1e300, 1e300), (1e-300, 1e-300), (1e-310, 1.0), (1.0, 1e305), (1e-200, 1e200)])
@pytest.mark.parametrize("kind", ["f8", "c16"])
def test_scales_whose_squares_no_double_holds(scales: tuple[float, float], kind: str) -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(2, 9000))
    a = (a * np.array(scales)[:, None]).astype(kind)
    for b in (a * (1 + 1e-9 * rng.normal(size=a.shape)), a[:, ::-1].copy(), -a):
        stats = compare(a, b)
        x, y, _, _ = plain(a, b)
        error = np.abs(x - y)
        assert stats.max_abs == pytest.approx(float(error.max()), rel=1e-9)
        assert stats.rel_l2 == pytest.approx(float(np.sqrt((error**2).sum() / (np.abs(x) ** 2).sum())), rel=1e-6)
        assert stats.mean_abs == pytest.approx(float(error.mean()), rel=1e-6)
        assert stats.sufficient_atol(1e-10) == pytest.approx(float((error - 1e-10 * np.abs(x)).max()), rel=1e-6)
        assert to_plain(from_plain(to_plain(stats))) == to_plain(stats)


def test_the_extremes_of_double_stay_finite() -> None:
    top = np.array([1.7e308, -1.7e308, 1.0])
    stats = compare(top, -top)
    assert math.isfinite(stats.max_abs)
    assert stats.rel_l2 == pytest.approx(2)
    assert stats.cosine == pytest.approx(-1)


def test_large_whole_numbers_are_subtracted_as_such() -> None:
    a = np.array([2**62, 2**62 + 7, -(2**62)])
    assert compare(a, a + np.array([0, 1, 0])).max_abs == 1
    assert compare(a.astype("u8")[:2], a.astype("u8")[:2] + np.array([0, 3], "u8")).max_abs == 3


def test_the_angle_of_a_small_difference_is_exact() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=50_000)
    b = a + 1e-9 * rng.normal(size=a.size)
    stats = compare(a, b)
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    unit = x / np.sqrt((x**2).sum()) - y / np.sqrt((y**2).sum())
    assert stats.angle == pytest.approx(float((unit**2).sum() / 2), rel=1e-6)
    assert compare(a, a).angle == 0


@given(st.data())
def test_every_tolerance_is_answered_exactly(data: st.DataObject) -> None:
    """The envelope of blocks is that of all elements, whatever their order and number."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size, blocks = data.draw(st.integers(1, 900)), data.draw(st.integers(1, 5))
    shape = data.draw(st.sampled_from(["free", "relative", "zeros", "circle", "steps"]))
    gathering, all_m, all_e = Gathering(), [], []
    for _ in range(blocks):
        m, e = np.abs(rng.normal(size=(2, size)))
        if shape == "relative":
            e *= m
        elif shape == "zeros":
            m *= rng.random(size) < 0.5
        elif shape == "circle":
            turn = rng.random(size) * np.pi / 2
            m, e = 1 - np.cos(turn), np.sin(turn)
        elif shape == "steps":
            m, e = np.round(m, 1), np.round(e, 1)
        gathering.add(m, e, float(e.max()), np.empty(size), np.empty(size, bool))
        all_m.append(m)
        all_e.append(e)
    envelope, m, e = gathering.result(float), np.concatenate(all_m), np.concatenate(all_e)
    for rtol in (0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 1e3, *rng.random(5)):
        true = max(0.0, float((e - rtol * m).max()))
        if len(envelope.points) < 250:
            assert envelope.atol(rtol) == pytest.approx(true, rel=1e-9, abs=1e-12)
        else:
            assert true - 1e-12 <= envelope.atol(rtol) <= true + (1e-3 if rtol <= 1 else 0.1)
    for atol in (0.0, 0.1, 0.5, 2.0):
        over = e > atol
        with np.errstate(divide="ignore"):
            true = float(((e - atol)[over] / m[over]).max(initial=0))
        if len(envelope.points) < 250:
            assert envelope.rtol(atol) == pytest.approx(true, rel=1e-6)


def test_memory_stays_at_a_few_blocks(tmp_path: Any) -> None:
    import tracemalloc

    paths = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(paths):
        np.random.default_rng(seed).normal(size=1 << 22).astype("f4").tofile(path)
    a, b = (np.memmap(path, "f4", "r", shape=(2, 64, 32, 1024)) for path in paths)
    compare(a[:, :1], b[:, :1], channels=3)
    compiled.kernels(a.size)  # LLVM comes into memory once
    tracemalloc.start()
    try:
        stats = compare(a, b.transpose(0, 1, 2, 3), channels=3)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert stats.ulps is not None
    x, y = (np.asarray(side, "f8").reshape(-1) for side in (a, b))
    floor = np.maximum(np.abs(x), stats.ulps.floor)
    true = np.median(np.abs(x - y) / (np.exp2(np.floor(np.log2(floor))) * np.finfo("f4").eps))
    assert stats.ulps.median == pytest.approx(true, rel=0.15)  # from a fifth of the elements


# -- where it sits -------------------------------------------------------------------------------------------------

IMAGE = (2, 12, 14, 32)


def said(
    change: Any, shape: tuple[int, ...] = IMAGE, layout: Layout | None = "channels_last", noise: float = 1e-8
) -> list[str]:
    rng = np.random.default_rng(3)
    a = rng.normal(size=shape).astype("f4")
    b = (a * (1 + 1e-8 * rng.normal(size=shape))).astype("f4")
    b = change(a, b)
    channels = 1 if layout == "channels_first" else len(shape) - 1
    node = Node("x", "conv", "Conv2D", shape=shape, layout=layout)
    stats = compare(a, b, channels=channels)
    kept = from_plain(to_plain(stats))
    assert words_of(kept, node) == words_of(stats, node)
    return words_of(stats, node)


def put(*index: Any, by: float = 0.1) -> Any:
    def change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(4)
        b[index] += (by * rng.normal(size=b[index].shape)).astype("f4")
        return b

    return change


ALL = slice(None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(..., [3, 17]), ["only in channels 3, 17 of 32"]),
        (put(ALL, [0, 11]), ["only at the border (first and last row) of 12"]),
        (put(ALL, ALL, slice(-3, None)), ["only in the last 3 columns of 14"]),
        (put(1), ["only in sample 1 of 2"]),
        (
            lambda a, b: b + np.float32(0.5) * (np.arange(32) == 2).astype("f4"),
            ["only in channel 2 of 32", "a constant offset: the candidate is the reference plus 0.5, there"],
        ),
        (put(1, ..., 4), ["only in sample 1 of 2 and only in channel 4 of 32"]),
        (put(ALL, slice(4, 7)), ["only in rows 4 to 6 of 12"]),
        (put(...), ["everywhere"]),
        (lambda a, b: np.where(a < 0, b * np.float32(0.9), b), ["only where the reference is negative"]),
        (lambda a, b: b * np.float32(1.005), ["a constant ratio: the candidate is 1.005 times the reference"]),
        (lambda a, b: -b, ["a constant ratio: the candidate is -1 times the reference"]),
        (lambda a, b: b + np.float32(0.25), ["a constant offset: the candidate is the reference plus 0.25"]),
        (
            lambda a, b: b * np.linspace(0.5, 2, 32, dtype="f4"),
            ["a constant ratio per channel: the candidate is 0.5 to 2 times the reference"],
        ),
        (
            lambda a, b: b + np.linspace(-1, 1, 32, dtype="f4"),
            ["a constant offset per channel: the candidate is the reference plus -1 to 1"],
        ),
        (lambda a, b: b, []),
    ],
)
def test_where_an_error_sits_is_said(change: Any, words: list[str]) -> None:
    assert said(change) == words


def test_the_rim_of_an_image_is_seen() -> None:
    def rim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        off = put(...)(a, b.copy())
        off[:, 1:-1, 1:-1] = b[:, 1:-1, 1:-1]
        return off

    assert said(rim) == ["only at the border (first and last row and column)"]


def test_one_element_steps_and_zeros() -> None:
    def one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        b = a.copy()
        b[1, 5, 7, 3] += 1
        return b

    assert said(one)[-1] == "in a single element: [1, 5, 7, 3]"
    assert said(put(ALL, slice(-3, None)), (4, 40, 8)) == ["only in the last 3 steps of 40"]
    assert said(put(ALL, [5]), (4, 40, 8), "channels_first") == ["only in channel 5 of 40"]
    node = Node("x", "relu", "ReLU", shape=(1000,))
    a = np.maximum(np.random.default_rng(5).normal(size=1000), 0)
    b = a.copy()
    b[:10] = np.where(a[:10] == 0, 1e-3, 0)
    assert any("zero on one side only: 10 elements" in line for line in words_of(compare(a, b), node))
    assert words_of(compare(a, np.zeros(1000)), node)[0] == "the candidate is 0 everywhere"
    b[3] = math.nan
    assert "NaN: 0 elements of the reference, 1 of the candidate" in words_of(compare(a, b), node)


def test_profiles_are_the_sums_along_each_axis() -> None:
    rng = np.random.default_rng(6)
    for shape in ((3, 40, 50, 7), (9000, 3), (2, 70_000), (30, 30), (5, 20_000, 2)):
        a = rng.normal(size=shape)
        b = a + rng.normal(size=shape) * 10.0 ** rng.integers(-3, 1, size=shape)
        stats = compare(a, b)
        assert stats.where is not None
        assert len(stats.where.profiles) == len(shape)
        error = np.abs(a - b)
        for profile in stats.where.profiles:
            others = tuple(i for i in range(len(shape)) if i != profile.axis)
            starts = np.arange(0, profile.length, profile.step)
            assert len(profile.peaks) == len(starts) <= 4096
            peaks = np.maximum.reduceat(error.max(others), starts)
            squares = np.add.reduceat((error**2).sum(others), starts) / (error**2).sum()
            np.testing.assert_allclose(profile.peaks, peaks, rtol=1e-3)
            np.testing.assert_allclose(profile.squares, squares, rtol=1e-3)


def test_damaged_statistics_are_refused() -> None:
    good = to_plain(compare(np.arange(6.0).reshape(2, 3), np.ones((2, 3))))
    for key in good:
        for wrong in (object(), [1, [2]], {"a": 1}, "text", True):
            if wrong == good[key]:
                continue
            with pytest.raises((TypeError, ValueError, KeyError)):
                from_plain({**good, key: wrong})
        with pytest.raises((TypeError, ValueError, KeyError)):
            from_plain({name: value for name, value in good.items() if name != key})


def test_blocks_cover_every_element_once() -> None:
    for shape in ((), (5,), (20_000,), (3, 9000), (2, 3, 8192), (100, 3, 50), (2, 8193)):
        a = np.arange(math.prod(shape)).reshape(shape)
        seen = [(block, left) for block, left, _ in Grid.of(shape).blocks(a, a)]
        assert np.array_equal(np.concatenate([left for _, left in seen]), a.reshape(-1))
        assert all(block.start == left[0] for block, left in seen)
        assert max(left.size for _, left in seen) <= stats_.BLOCK


# -- compiled ------------------------------------------------------------------------------------------------------


def apart(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two statistics as JSON values differ by more than adding in another order does."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [line for key in ours for line in apart(ours[key], theirs[key], f"{place}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            line for i, (x, y) in enumerate(zip(ours, theirs, strict=True)) for line in apart(x, y, f"{place}[{i}]")
        ]
    exact = not isinstance(ours, float) or any(name in place for name in ("max_abs", "worst", "ulps", "reference_max"))
    close = 1e-9 if "angle" in place or "fit" in place else 1e-12
    return [] if ours == theirs or (not exact and math.isclose(ours, theirs, rel_tol=close)) else [place]


@pytest.fixture(scope="module")
def kernels() -> Any:
    pytest.importorskip("numba")
    if compiled.load() is None:
        loading.make("tracer.compare.kernels")
    return compiled.load()


def pairs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Tensors that between them need every part of the kernels."""
    rng = np.random.default_rng(7)
    for shape in ((), (30_000,), (9001, 3), (3, 12, 40, 30), (2, 9000)):
        a = rng.normal(size=shape).astype("f4")
        noise = rng.normal(size=shape)
        yield f"rounding {shape}", a, (a * (1 + 1e-7 * noise)).astype("f4")
        yield f"diverged {shape}", a, (a * 1.1 + 0.1 * noise).astype("f4")
        yield f"another {shape}", a, noise.astype("f4")
        yield f"equal {shape}", a, a.copy()
        some = np.where(rng.random(shape) < 0.01, noise, a).astype("f4")
        yield f"scattered {shape}", a, some
        yield f"relu {shape}", np.maximum(a, 0), np.maximum(some, 0)
        odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-44, -0.0, 0.0, 1], "f4")
        broken, also = (np.where(rng.random(shape) < 0.02, odd[rng.integers(0, 9, shape)], x) for x in (a, some))
        yield f"broken {shape}", broken, also
        yield f"broken alike {shape}", broken, broken.copy()
        yield f"constant {shape}", np.full(shape, 2, "f4"), np.full(shape, 3, "f4")
        yield f"tiny {shape}", (a * 1e-40).astype("f4"), (some * 1e-40).astype("f4")
        yield f"whole {shape}", rng.integers(-99, 99, shape).astype("i1"), rng.integers(0, 2, shape).astype(bool)
        yield f"halves {shape}", a.astype("f2"), a.astype(ml_dtypes.bfloat16)


def test_compiled_kernels_find_what_numpy_finds(kernels: Any) -> None:
    for name, a, b in pairs():
        sides = [(a, b)]
        if a.ndim > 2:
            order = [0, *range(2, a.ndim), 1]
            sides.append((a, np.ascontiguousarray(b.transpose(order)).transpose(np.argsort(order))))
        for x, y in sides:
            for channels in range(a.ndim) if a.ndim > 1 else (None,):
                atol = 0.1 if channels == 0 else 1e-5
                by_numpy, found = (
                    compare(x, y, atol, 1e-3, channels=channels, compiled=chosen) for chosen in (False, True)
                )
                assert not apart(to_plain(by_numpy), to_plain(found)), (name, channels)


def test_threads_change_no_bit(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SEGMENT", 20_000)
    rng = np.random.default_rng(8)
    a = rng.normal(size=(3, 90, 700)).astype("f4")
    b = (a + rng.normal(size=a.shape) * 10.0 ** rng.integers(-7, 0, size=(1, 90, 1))).astype("f4")
    with ThreadPoolExecutor(3) as pool:
        for chosen in (False, True):
            alone = compare(a, b, channels=2, compiled=chosen)
            assert compare(a, b, channels=2, compiled=chosen, pool=pool) == alone
            check(a, b, alone)


def test_kernels_are_loaded_only_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.compiled._loaded", {})
    a = np.ones(1000, "f4")
    assert compare(a, a).max_abs == 0
    assert not loading.loaded("tracer.compare.kernels")
    monkeypatch.setattr("tracer.compiled.available", lambda: False)
    assert compiled.kernels(1 << 40) is None  # as where numba is not installed
    assert compare(a, a + 1, compiled=True).max_abs == 1


def test_code_is_kept_where_nobody_else_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = loading.folder()
    assert place is not None
    assert place.is_relative_to(tmp_path)
    place.chmod(0o777)
    assert loading.folder() is None
    place.chmod(0o700)
    place.parent.chmod(0o777)
    assert loading.folder() is None
    place.parent.chmod(0o700)
    place.rmdir()
    place.symlink_to(tmp_path)
    assert loading.folder() is None
    place.unlink()
    place.write_text("")
    assert loading.folder() is None


def test_code_that_is_damaged_or_of_another_processor_is_not_loaded(
    kernels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(place for place in loading.folder().glob("*.o") if b'"tracer.compare.kernels"' in place.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tracer.compiled._loaded", {})
    place = loading.folder()
    assert place is not None
    (place / code.name).write_bytes(code.read_bytes()[:-1])
    assert compiled.load() is None
    (place / code.name.replace("-", "-0")).write_bytes(code.read_bytes())
    (place / code.name).unlink()
    assert compiled.load() is None
    (place / code.name).write_bytes(code.read_bytes())
    assert compare(np.ones(3, "f4"), np.zeros(3, "f4"), compiled=True).outside == 3
    assert compiled.load() is not None


def test_kernels_take_only_what_they_were_compiled_for(kernels: Any) -> None:
    room = np.zeros((2, 3, 4), "f4")
    kernels.gather(room.transpose(0, 2, 1), np.ones((2, 4, 3), "f4"))
    fixed = np.ones((2, 4, 3), "f4")
    fixed.flags.writeable = False
    for view, out in (
        (room, fixed),
        (room, room.astype("f8")),
        (room, room[0]),
        (room, room.transpose(0, 2, 1)),
        (1, 2),
    ):
        with pytest.raises((TypeError, AttributeError)):
            kernels.gather(view, out)
    with pytest.raises(TypeError):
        kernels.gather(room)


def test_kernels_that_are_not_kept_are_compiled_once_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tracer.compiled._loaded", {})
    begun: list[Any] = []

    def popen(command: list[str], **options: Any) -> SimpleNamespace:
        begun.append((command, options))
        return SimpleNamespace()

    monkeypatch.setattr("tracer.compiled.subprocess.Popen", popen)
    assert compiled.kernels(1 << 40) is None
    assert compiled.kernels(1 << 40) is None
    ((command, options),) = begun
    assert command[1:] == ["-P", "-m", "tracer.compiled", "--behind"]
    assert options["cwd"] == "/"
    monkeypatch.setattr("tracer.compiled._AGAIN", -1.0)  # that one came to nothing
    compiled.kernels(1 << 40)
    assert len(begun) == 2
