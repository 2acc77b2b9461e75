"""How a recording gets its tensors: the small ones together, the large ones at once, their numbers afterwards."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.test_store import as_zarr, chain, write
from tracer import compiled
from tracer.collecting import rarely_collected
from tracer.graph import Param
from tracer.store import RecordingWriter, Trace, entries, streaming, summing, zarr3
from tracer.store.packs import Pack
from tracer.store.recordings import VALUES
from tracer.store.runs import RunWriter
from tracer.store.summary import Summary, summaries, summarize

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


def test_a_nan_that_signals_is_one_of_many() -> None:
    values = np.array([0x7FA00000, 0], "u4").view("f4")
    assert [found["nan"] for found in summaries([values, np.ones(3, "f4")])] == [1, 0]


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


@pytest.mark.parametrize("memory", [1 << 14, 1 << 20])
def test_what_was_written_is_read_in_pieces_from_memory_and_file(tmp_path: Path, memory: int) -> None:
    writer = RunWriter(tmp_path / "p.zip", memory)
    starts = writer.put_all([("a", np.arange(5, dtype="i2"), "{}", ["x"]), ("b", LARGE, "{}", ["x", "y", "z"])])
    assert starts[1] is not None
    start, found = writer.start(starts[1]), bytearray()
    for piece in writer.pieces(start, start + LARGE.nbytes, np.empty(4096, "u1")):
        found += piece.tobytes()
    writer.close()
    assert bytes(found) == LARGE.tobytes()


@pytest.mark.parametrize("cached", [0, 1 << 30])
def test_a_stream_writes_what_it_is_given_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    """Pieces of all sizes through four pages of memory; shown, skipped and looked at in between."""
    monkeypatch.setattr(streaming, "_CACHED", cached)
    rng = np.random.default_rng(3)
    path, left = tmp_path / "s", []
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    stream = streaming.Stream(path, file, 1 << 14, left.append)
    expected, own = bytearray(), 0
    for turn in range(400):
        piece = rng.bytes(int(rng.choice([1, 100, 4096, 5000, 20_000])))
        stream.append(piece)
        expected += piece
        if turn % 50 == 7:
            stream.push()
        if turn % 90 == 8:
            gap = int(rng.integers(1, 9000))
            stream.skip(gap)
            os.pwrite(file, b"x" * gap, len(expected))
            expected += b"x" * gap
            own = len(expected)
        if turn % 20 == 3:
            stream.flush()
            first = int(rng.integers(own, len(expected)))
            seen = b"".join(piece.tobytes() for piece in stream.pieces(first, len(expected), np.empty(999, "u1")))
            assert seen == expected[first:]
    stream.flush()
    assert stream.good == stream.end == len(expected)
    stream.close()
    os.close(file)
    assert path.read_bytes() == expected
    assert left == sorted(left)
    assert left[-1] <= len(expected)


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


def recording_kernels() -> Any:
    pytest.importorskip("numba")
    if compiled.load("tracer.store.kernels") is None:
        compiled.make("tracer.store.kernels")
    return compiled.load("tracer.store.kernels")


@pytest.mark.parametrize("kind", ["plain", "small", "with NaN", "with Inf", "huge", "negative NaN", "constant"])
def test_compiled_kernels_find_what_numpy_finds(kind: str) -> None:
    kernels = recording_kernels()
    values = np.random.default_rng(5).normal(-0.2, 1, 300_001).astype("f4")
    values[::3] = 0
    values[::7] = -0.0
    values *= {"small": 1e-30, "huge": 1e30}.get(kind, 1)
    values[77_777:77_779] = {"with NaN": np.nan, "with Inf": -np.inf, "negative NaN": -np.float32(np.nan)}.get(kind, 1)
    if kind == "constant":
        values[:] = -2.5
    copied, summary = np.empty_like(values), Summary(quick=True)
    for start in (0, 100_000, 262_144):
        stop = {0: 100_000, 100_000: 262_144}.get(start, values.size)
        summary.copy(values[start:stop], copied[start:stop], kernels)
    assert copied.tobytes() == values.tobytes()
    exact, found = summarize(values), summary.result()
    assert found.keys() == exact.keys()
    for key, value in exact.items():
        scale = 1e-6 * abs(exact["rms"]) ** (3 if key == "cube" else 1) if key in NUMBERS else 0
        assert found[key] == pytest.approx(value, rel=1e-6, abs=scale)


def test_numbers_of_a_recording_come_from_compiled_kernels(trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = recording_kernels()
    monkeypatch.setattr(summing, "kernels", lambda elements: kernels)
    values = {
        "a": LARGE,
        "b": LARGE.astype("f8"),
        "c": LARGE.transpose(2, 0, 1),
        "d": np.where(LARGE > 2, np.nan, LARGE),
    }
    write(Trace.create(trace_path), "tf", values)
    recording = Trace.open(trace_path).recording("tf")
    for name, array in values.items():
        np.testing.assert_array_equal(recording.read(name), array)
        exact = summarize(array)
        assert {k: pytest.approx(v, rel=1e-6) for k, v in exact.items()} == dict(recording.summaries[name])


def test_a_forked_child_neither_writes_nor_ends_the_recording(trace_path: Path) -> None:
    """It may come to the end of the block that records, by an exception: the file is its parent's."""
    with RecordingWriter(Trace.create(trace_path), "tf", chain("a", "b", "c"), {}, {}) as writer:
        writer("a", LARGE)
        child = os.fork()
        if child == 0:
            try:
                for _ in range(3):
                    writer("b", np.zeros_like(LARGE))
                writer.__exit__(None, None, None)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        writer("b", LARGE + 1)
        writer("c", np.ones((2, 3), "f4"))
    recording = Trace.open(trace_path).recording("tf")
    assert recording.state == "complete"
    for name, values in {"a": LARGE, "b": LARGE + 1, "c": np.ones((2, 3), "f4")}.items():
        np.testing.assert_array_equal(recording.read(name), values)


def test_what_was_taken_is_in_the_file_while_the_model_goes_on(trace_path: Path) -> None:
    """Neither large nor small tensors wait for their memory to fill."""
    with RecordingWriter(Trace.create(trace_path), "tf", chain("a", "b", "c"), {}, {}) as writer:
        writer("a", LARGE)
        writer("b", np.ones((2, 3), "f4"))
        for _ in range(100):
            time.sleep(0.1)
            pack = Pack(trace_path / "recordings/tf" / VALUES)
            found = {place: (tuple(metadata["shape"]), at) for place, at, metadata in pack.so_far()}
            if len(found) == 2:
                break
        shape, at = found["unaligned/a"]
        np.testing.assert_array_equal(pack.read_array("unaligned/a", shape, LARGE.dtype, at), LARGE)
        writer("c", LARGE)


@pytest.mark.parametrize("ended", [True, False])
def test_parameters_that_are_written_together_are_those_that_were_given(tmp_path: Path, ended: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = [int(size) for size in rng.integers(0, 40, 600)]
    sizes[100], sizes[400] = 3_000, 30_000  # one written alone, one whose numbers come later
    given = {f"layer{place}": rng.normal(size=size).astype("f4") for place, size in enumerate(sizes)}
    trace = Trace.create(tmp_path / "t.zarr")
    with (
        pytest.raises(RuntimeError) if not ended else contextlib.nullcontext(),
        RecordingWriter(trace, "r", chain("a"), {}, {"a": "a"}) as writer,
    ):
        for owner, values in given.items():
            changing = values.copy()
            writer.put_weights(owner, Param("w", values.shape, "float32", owner != "layer7"), changing, (owner, "w"))
            changing[:] = -1
        if not ended:
            raise RuntimeError("the model broke")
        writer.weight_keys({(owner, "w"): (owner, "w") for owner in given})
        writer("a", np.ones((2, 3), "f4"))
    recording = trace.recording("r")
    assert [owner for owner, _ in recording.weights] == [*given]
    for (owner, name), stored in recording.weights.items():
        np.testing.assert_array_equal(recording.read_weight(owner, name), given[owner])
        assert stored.trainable is (owner != "layer7")
        exact = summarize(given[owner])
        assert stored.summary.keys() == exact.keys()
        for key, value in exact.items():
            assert stored.summary[key] == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["a", 'quoted " and \\', "lone \ud800", "é"])
def test_rows_of_the_index_are_json_whatever_writes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [entries.Row([name, "layers/a", (2, 3), "float32"], '{"min":-1.5}', [12, True]), entries.Row([name], "{}")]
    wanted = [[name, "layers/a", [2, 3], "float32", {"min": -1.5}, 12, True], [name, {}]]
    assert json.loads(entries.encoded(rows)) == wanted
    monkeypatch.setattr(zarr3, "orjson", None)
    assert json.loads(entries.encoded(rows)) == wanted


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_not_is_refused(value: float) -> None:
    assert zarr3.as_json({"none": None, "text": "null"}) == '{"none":null,"text":"null"}'
    with pytest.raises(ValueError, match="JSON"):
        zarr3.as_json({"settings": [{"a": value}]})


def test_the_garbage_collector_is_as_it_was() -> None:
    before = gc.get_threshold()

    @rarely_collected()
    def fails() -> None:
        raise RuntimeError(gc.get_threshold()[0])

    with pytest.raises(RuntimeError) as raised:
        fails()
    assert raised.value.args[0] > before[0]
    assert gc.get_threshold() == before
