"""How a recording gets its tensors: the small ones together, the large ones at once, their numbers afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.test_store import as_zarr, chain, write
from tracer.store import RecordingWriter, Trace
from tracer.store.runs import RunWriter
from tracer.store.summary import summaries, summarize

LARGE = np.random.default_rng(1).normal(size=(3, 40, 300)).astype("f4")
NUMBERS = ("min", "max", "mean", "rms", "cube")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            st.sampled_from(["bool", "int8", "uint64", "float16", "float32", "float64", "complex64"]).map(np.dtype),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=6,
    )
)
def test_numbers_of_many_tensors_are_those_of_each(tensors: list[np.ndarray]) -> None:
    for one, together in zip(map(summarize, tensors), summaries(tensors), strict=True):
        assert one.keys() == together.keys()
        for key, value in one.items():
            scale = 1e-9 * max(abs(one.get("rms", 0)), 1e-300) ** (3 if key == "cube" else 1)
            assert together[key] == pytest.approx(value, rel=1e-9, abs=scale)


def test_numbers_of_other_types_and_of_what_is_not_finite() -> None:
    values = np.array([1, -2, np.nan, np.inf, 0], "f4")
    found = summaries([values, values.astype(ml_dtypes.bfloat16), np.ones(3, "f4")])
    assert [f["nan"] for f in found] == [1, 1, 0]
    assert [f["zeros"] for f in found] == [1, 1, 0]
    assert found[0]["min"] == found[1]["min"] == -2


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1, 1e10, 1e20])
@pytest.mark.parametrize("size", [700, 513 * 1024])
def test_quick_numbers_are_near_the_exact_ones(scale: float, size: int) -> None:
    values = (np.random.default_rng(2).normal(0.3, 1, size) * scale).astype("f4")
    values[::7] = 0
    exact, quick = summarize(values), summarize(values, quick=True)
    assert exact.keys() == quick.keys()
    for key in ("size", "zeros", "nan", "inf", "min", "max"):
        assert quick[key] == exact[key]
    for key in NUMBERS:
        assert quick[key] == pytest.approx(exact[key], rel=1e-6)


def test_quick_numbers_count_what_is_not_finite() -> None:
    values = np.ones(200_000, "f4")
    values[[5, 150_000]] = np.nan, -np.inf
    quick = summarize(values, quick=True)
    assert (quick["nan"], quick["inf"], quick["mean"]) == (1, 1, 1.0)


def test_what_was_written_is_read_in_pieces(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "p.zip")
    starts = writer.put_all([("a", np.arange(5, dtype="i2"), "{}", ["x"]), ("b", LARGE, "{}", ["x", "y", "z"])])
    assert starts[1] is not None
    pieces = [piece.copy() for piece in writer.read(starts[1], LARGE.dtype, LARGE.size, np.empty(4099, "u1"))]
    writer.close()
    assert {len(piece) for piece in pieces[:-1]} == {1024}
    np.testing.assert_array_equal(np.concatenate(pieces), LARGE.reshape(-1))


def test_large_and_small_tensors_of_one_recording(trace_path: Path) -> None:
    values = {"a": np.ones((2, 3), "f4"), "b": LARGE, "c": np.zeros((0, 2), "f4"), "d": LARGE.transpose(2, 0, 1)}
    write(Trace.create(trace_path), "tf", values)
    recording, group = Trace.open(trace_path).recording("tf"), as_zarr(trace_path, "tf")
    for name, array in values.items():
        np.testing.assert_array_equal(recording.read(name), array)
        np.testing.assert_array_equal(group[f"layers/{name}"][...], array)
        exact = summarize(array)
        assert {k: pytest.approx(v, rel=1e-6) for k, v in exact.items()} == dict(recording.summaries[name])


def test_a_large_tensor_that_changes_later_is_kept_as_it_was(trace_path: Path) -> None:
    values = LARGE.copy()
    with RecordingWriter(Trace.create(trace_path), "tf", chain("a", "b"), {}, {}) as writer:
        writer("a", values)
        values += 1
        writer("b", values)
    recording = Trace.open(trace_path).recording("tf")
    np.testing.assert_array_equal(recording.read("a"), LARGE)
    assert recording.summaries["b"]["mean"] == pytest.approx(recording.summaries["a"]["mean"] + 1, rel=1e-5)


def test_the_numbers_of_a_recording_without_an_end_are_computed(trace_path: Path) -> None:
    """A writer that is killed has not come to the numbers of large tensors."""
    write(Trace.create(trace_path), "tf", {"a": LARGE, "b": np.ones((2, 3), "f4")})
    file = trace_path / "recordings/tf/zarr.json"
    metadata = json.loads(file.read_text())
    for key in ("activations", "weights"):
        del metadata["attributes"][key]
    metadata["attributes"]["state"] = "recording"
    file.write_text(json.dumps(metadata))
    recording = Trace.open(trace_path).recording("tf")
    assert recording.state == "interrupted"
    assert recording.summaries["a"]["rms"] == pytest.approx(math.sqrt(float((LARGE.astype("f8") ** 2).mean())))
    assert recording.summaries["b"]["mean"] == 1
