"""``tracer pack``: smaller afterwards, the same to every reader, whole whenever it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scale
from tests import cli
from tests.test_store import VALUES, as_zarr, write
from tracer.compare import diff
from tracer.errors import InputError, TraceError
from tracer.store import Trace, packed
from tracer.store.packing import rewrite
from tracer.store.packs import Pack
from tracer.store.trace import lock


def arrays() -> dict[str, np.ndarray]:
    """Of every kind of shape: several chunks and edges, one chunk, one element, none."""
    rng = np.random.default_rng(0)
    return {
        "rows": np.maximum(rng.normal(size=(3, 700, 513)), 0).astype("f4"),
        "deep": rng.normal(size=(2, 2, 150_000)).round(2),
        "bytes": rng.integers(0, 9, (1 << 20) + 3).astype("i1"),
        "half": rng.normal(size=(2, 5)).astype(ml_dtypes.bfloat16),
        "complex": rng.normal(size=(5, 1, 1)) + 1j,
        "scalar": np.array(3, "f4"),
        "empty": np.zeros((0, 3), "f4"),
    }


def same(trace: Path, expected: dict[str, np.ndarray]) -> bool:
    recording = Trace.open(trace).recording("tf")
    return all(
        (found := recording.read(name)).dtype == values.dtype
        and found.shape == values.shape
        and found.tobytes() == values.tobytes()
        for name, values in expected.items()
    )


def test_a_packed_recording_reads_as_before(trace_path: Path) -> None:
    trace, values = Trace.create(trace_path), arrays()
    write(trace, "tf", values)
    recording = trace.recording("tf")
    before, after = rewrite(recording, True)
    assert after < 0.8 * before
    assert recording.pack.packed  # what was read of the recording before knows other places in the file
    assert same(trace_path, values)
    assert not recording.read("rows").flags.writeable
    group = as_zarr(trace_path, "tf")["layers"]
    for name, array in values.items():
        bits = array.view("u2") if name == "half" else array
        np.testing.assert_array_equal(group[name][...], bits)
        assert group[name].attrs["node"] == name
    store = zarr.storage.ZipStore(trace_path / "recordings/tf" / VALUES, mode="r")
    assert set(xarray.open_zarr(store, group="layers", consolidated=False, zarr_format=3)) == set(values)
    assert rewrite(recording, True) == (after, after)
    assert rewrite(recording, False)[1] == pytest.approx(before, abs=100)
    assert same(trace_path, values)


def test_a_reader_reads_on_while_it_is_packed(trace_path: Path) -> None:
    trace, values = Trace.create(trace_path), arrays()
    write(trace, "tf", values)
    reader = trace.recording("tf")
    lazy = reader.read("rows", verify=False)
    rewrite(trace.recording("tf"), True)
    np.testing.assert_array_equal(lazy, values["rows"])
    np.testing.assert_array_equal(reader.read("deep"), values["deep"])


def test_a_reader_of_a_packed_recording_that_is_deleted_is_told(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", arrays())
    rewrite(trace.recording("tf"), True)
    reader = trace.recording("tf")
    assert isinstance(reader.pack, Pack)
    trace.delete("tf")
    with pytest.raises(TraceError, match="deleted or replaced while it was read"):
        reader.read("rows")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=4), st.sampled_from(["?", "i2", "f4", "c16"]), st.integers(64, 4096))
def test_chunks_cover_an_array_once(shape: list[int], dtype: str, chunk: int) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", chunk)
        chunks = dict(packed.encoded(values))
        metadata = packed.metadata_of(values.shape, values.dtype, {}, [f"d{axis}" for axis in range(values.ndim)])
        raw = b"".join(map(bytes, packed.decoded(values.shape, values.dtype, chunks.__getitem__, "here")))
    assert raw == values.tobytes()
    store = zarr.storage.MemoryStore()
    files = {"zarr.json": json.dumps(metadata).encode(), **chunks}
    store._store_dict.update({key: zarr.core.buffer.cpu.Buffer.from_bytes(file) for key, file in files.items()})
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], values)


def test_a_packed_file_that_was_tampered_with_is_an_error(trace_path: Path) -> None:
    trace, values = Trace.create(trace_path), {"a": np.arange(600_000, dtype="f4").reshape(2, 300_000)}
    write(trace, "tf", values)
    rewrite(trace.recording("tf"), True)
    path = trace_path / "recordings/tf" / VALUES
    whole = path.read_bytes()
    pack = Pack(path)
    at = pack._find("layers/a/c.1.0", None)[1]
    for place in range(at, at + 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with pytest.raises(TraceError, match="checksum"):
            trace.recording("tf").read("a")
        # Whoever makes such a file makes its checksums fit.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pack, "_check", lambda *_: None)
            sizes = place - at in (0, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15)  # of the format, flags, an element, the whole
            with pytest.raises(TraceError, match="cannot be unpacked") if sizes else suppress(TraceError):
                trace.recording("tf").read("a")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match="not a whole zip"):
        trace.recording("tf").read("a")


@pytest.mark.parametrize("packed", [False, True])
def test_memory_stays_flat_however_large_the_tensors_are(tmp_path: Path, packed: bool) -> None:
    """Two tensors of 96 MB, one with its axes moved, in processes of their own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        pool.apply(scale.made, (96, str(tmp_path)))
        for recording in Trace.open(tmp_path / "t.zarr").recordings() if packed else ():
            rewrite(recording, True)
        found = pool.apply(scale.permuted, (str(tmp_path),))
    assert found["compare_MB"] < 90


_PACK = """
import sys
from tracer.store import Trace
from tracer.store.packing import rewrite
print("go", flush=True)
while True:
    for compress in (True, False):
        rewrite(Trace.open(sys.argv[1]).recording("tf"), compress)
"""


def test_killed_at_any_time_it_is_the_former_file_or_the_new_one(trace_path: Path) -> None:
    trace, values = Trace.create(trace_path), arrays()
    write(trace, "tf", values)
    folder = trace_path / "recordings/tf"
    packed_ones = set()
    for turn in range(8):
        process = subprocess.Popen([sys.executable, "-c", _PACK, str(trace_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.01 + 0.023 * turn)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert same(trace_path, values)
        packed_ones.add(Pack(folder / VALUES).packed)
    rewrite(trace.recording("tf"), not Pack(folder / VALUES).packed)
    assert sorted(path.name for path in folder.iterdir()) == [VALUES, "zarr.json"]


def test_what_is_being_written_or_has_no_end_is_not_packed(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", {"a": np.zeros((2, 3), "f4")})
    recording = trace.recording("tf")
    with lock(recording.folder), pytest.raises(TraceError, match="being written"):
        rewrite(recording, True)
    trace.update("tf", {"state": "recording"})
    with pytest.raises(InputError, match="is interrupted"):
        rewrite(trace.recording("tf"), True)


def test_the_command_says_sizes_and_the_comparison_stays_the_same(made: Path) -> None:
    before = diff(*Trace.open(made).recordings()).to_json()
    done = cli.run("pack", "--trace", made, cwd=made.parent)
    assert all("→" in line and "%" in line for line in done.stdout.splitlines())
    found = json.loads(cli.run("pack", "--unpack", "--json", "--trace", made, cwd=made.parent).stdout)
    assert [set(one) for one in found["recordings"]] == [{"name", "before", "after"}] * 2
    cli.run("pack", "--trace", made, cwd=made.parent)
    assert diff(*Trace.open(made).recordings()).to_json() == before
    refused = cli.run("pack", "nobody", "--trace", made, cwd=made.parent, code=2)
    assert refused.stderr.count("\n") == 1
