"""Recordings of many steps: whole packs that zarr-python reads, what a crash leaves, what damage says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

import tracer
from tracer.cli.main import run
from tracer.graph import Node, Structure
from tracer.store import Trace
from tracer.store.packs import Pack, PackWriter, Slot
from tracer.store.series import SeriesWriter

STRUCTURE = Structure(
    (
        Node("x", "input", "input", "input", (), (2, 3), "float32", (), {}, ""),
        Node("a/b", "dense", "Dense", "layer", ("x",), (2, 4), "float32", (), {}, "a/b"),
    ),
    ("a/b",),
)


def series(trace: Trace, name: str = "pt", **more: bool) -> SeriesWriter:
    keys = {node.name: node.name for node in STRUCTURE.stored()}
    return SeriesWriter(trace, name, STRUCTURE, {"framework": "pytorch", "mode": "train"}, keys, {}, **more)


def write(writer: SeriesWriter, step: int) -> None:
    writer.begin(step)
    writer.put("value", "x", np.full((2, 3), step, np.float32))
    writer.put("value", "a/b", np.arange(8, dtype=np.float32).reshape(2, 4) + step)
    writer.put("weight", "kernel", np.ones((3, 4), np.float32), "a/b")
    writer.put("gradient", "a/b", np.zeros((2, 4), np.float32))
    writer.commit(ended=1.0)


@pytest.mark.parametrize(
    "values",
    [
        np.float64(3).reshape(()),
        np.empty((0, 3), np.float32),
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1],
        np.array([1.5, -2], ml_dtypes.bfloat16),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
    ],
    ids=["scalar", "empty", "reversed", "bfloat16", "bool", "complex"],
)
def test_a_pack_gives_back_what_it_was_given(tmp_path: Path, values: np.ndarray) -> None:
    writer = PackWriter(tmp_path / "p.zarr.zip")
    axes = [f"axis{i}" for i in range(values.ndim)]
    writer.put(Slot.of("layers/x~2fy", values, {"node": "x/y"}, axes), values)
    assert not (tmp_path / "p.zarr.zip").exists()
    writer.commit({"step": 3})
    pack = Pack(tmp_path / "p.zarr.zip")
    found = pack.read_array("layers/x~2fy", values.shape, values.dtype)
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert found.tobytes() == values.tobytes()
    assert pack.attributes == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.zarr.zip"]


def test_a_pack_of_many_gigabytes_is_a_zip_of_wide_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.store.zips._limits", (1000, 4))  # so that a small one is written as those are
    writer = PackWriter(tmp_path / "p.zarr.zip")
    values = {f"layers/{i}": np.arange(i * 100, dtype=np.float32) for i in range(6)}
    for place, one in values.items():
        writer.put(Slot.of(place, one, {}, ["axis0"]), one)
    writer.commit({"step": 1})
    with zipfile.ZipFile(tmp_path / "p.zarr.zip") as whole:
        assert whole.testzip() is None
    pack = Pack(tmp_path / "p.zarr.zip")
    for place, one in values.items():
        assert np.array_equal(pack.read_array(place, one.shape, one.dtype), one)


def test_a_pack_like_the_one_before_holds_its_own_values(tmp_path: Path) -> None:
    shapes: list[dict[str, tuple[int, ...]]] = [
        {"a": (3,), "b/c": (200, 200), "d": (0, 2), "e": ()},
        {"a": (3,), "b/c": (200, 200), "d": (0, 2), "e": ()},  # the same again
        {"a": (3,), "b/c": (100, 200), "d": (0, 2), "e": ()},  # what follows lies elsewhere
        {"b/c": (100, 200), "a": (3,), "e": ()},  # another order, and fewer
        {"b/c": (100, 200), "a": (3,), "e": (), "f": (1,)},
    ]
    slots: dict[tuple[str, tuple[int, ...]], Slot] = {}
    before = None
    for step, wanted in enumerate(shapes):
        writer = PackWriter(tmp_path / f"{step}.zarr.zip", before)
        values = {place: np.random.default_rng(step).standard_normal(shape) for place, shape in wanted.items()}
        for place, one in values.items():
            slot = slots.setdefault((place, one.shape), Slot.of(place, one, {}, [f"axis{i}" for i in range(one.ndim)]))
            given = one.copy()
            writer.put(slot, given)
            given[...] = 7.0
        writer.commit({"step": step}, {"more": ['["x",1]', "2"]})
        with zipfile.ZipFile(writer.path) as whole:
            assert whole.testzip() is None
        pack = Pack(writer.path)
        assert pack.attributes == {"step": step, "more": [["x", 1], 2]}
        assert all(np.array_equal(pack.read_array(place, one.shape, one.dtype), one) for place, one in values.items())
        before = writer


def test_zarr_python_reads_a_step(tmp_path: Path) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    with series(trace) as writer:
        write(writer, 7)
    path = trace.recording("pt").folder / "steps" / "0000000007.zarr.zip"
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    array = group["layers/a~2fb"]
    assert array.attrs["node"] == "a/b"
    assert np.array_equal(array[:], np.arange(8, dtype=np.float32).reshape(2, 4) + 7)
    assert group["weights/a~2fb/kernel"].shape == (3, 4)
    assert sorted(group.group_keys()) == ["gradients", "layers", "weights"]


def test_a_step_reads_as_a_recording(tmp_path: Path) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    for name in ("one", "two"):
        with series(trace, name) as writer:
            for step in range(0, 30, 10):
                write(writer, step)
    recording = trace.recording("one")
    assert recording.steps == (0, 10, 20)
    assert recording.state == "complete"
    step = trace.recording("one@20")
    assert step.read("a/b")[0, 0] == 20
    assert step.weights.keys() == {("a/b", "kernel")}
    assert tracer.diff(step, trace.recording("two@20"))
    with pytest.raises(tracer.InputError, match=r"no step 5 \(have: 0, 10, 20\)"):
        trace.recording("one@5")
    with pytest.raises(tracer.InputError, match="different inputs"):
        tracer.diff(trace.recording("one@10"), trace.recording("two@20"))


def test_recordings_of_steps_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.zarr"
    trace = Trace.create(path)
    for name, more in (("one", 0.0), ("two", 1e-3), ("three", 0.0)):
        with series(trace, name) as writer:
            for step in range(0, 30, 10):
                writer.begin(step)
                writer.put("value", "x", np.ones((2, 3), np.float32))
                writer.put("value", "a/b", np.ones((2, 4), np.float32) + np.float32(more * (step > 0)))
                writer.commit(ended=1.0)
    with series(trace, "late") as writer:
        write(writer, 99)

    def printed(*arguments: str, code: int) -> str:
        assert run([*arguments, "--trace", str(path)]) == code
        said = capsys.readouterr()
        return said.out + said.err

    assert re.search(r"one .* 2 a step +0, 10, 20 ", printed("runs", code=0))
    assert "they part at step 10, first at a/b" in printed("steps", "one", "two", code=1)
    assert (trace.recording("two").folder / "compared.jsonl").exists()
    again = json.loads(printed("steps", "one", "two", "--json", code=1))
    assert [one["first_error"] is None for one in again["steps"]] == [True, False, False]
    assert "every step agrees" in printed("steps", "one", "three", code=0)
    assert "one@20 (?) ⇄ two@20" in printed("diff", "one", "two", code=1)
    assert "one@10 (?) ⇄ two@10" in printed("diff", "one@10", "two", code=1)
    assert "no step is in both: 'one' has 0, 10, 20 and 'late' has 99" in printed("diff", "one", "late", code=2)
    assert "is one run, not a recording of many steps" in printed("steps", "one@0", "two", code=2)


def test_a_step_is_whole_or_not_there(tmp_path: Path) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    writer = series(trace).__enter__()
    write(writer, 0)
    writer.begin(1)
    writer.put("value", "x", np.zeros((2, 3), np.float32))
    assert trace.recording("pt").steps == (0,)
    writer.begin(2)  # the one before was not committed
    writer.leave()
    folder = trace.recording("pt").folder / "steps"
    assert [entry.name for entry in folder.iterdir()] == ["0000000000.zarr.zip"]
    assert trace.recording("pt").state == "interrupted"
    with series(trace, resume=True) as again:
        write(again, 5)
    assert trace.recording("pt").steps == (0, 5)
    with pytest.raises(tracer.InputError, match="exists already"):
        series(trace).__enter__()


def test_a_killed_writer_leaves_its_steps(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from tests.test_steps import *\n"
        f"writer = series(Trace.create({str(tmp_path / 't.zarr')!r})).__enter__()\n"
        "write(writer, 0); write(writer, 1); writer.begin(2)\n"
        "writer.put('value', 'x', np.zeros((2, 3), np.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGKILL
    trace = Trace.open(tmp_path / "t.zarr")
    assert trace.recording("pt").state == "interrupted"
    assert trace.recording("pt").steps == (0, 1)
    assert trace.recording("pt@1").read("x")[0, 0] == 1
    with series(trace, resume=True) as writer:  # and its half step is swept away
        write(writer, 2)
    assert len(list((trace.recording("pt").folder / "steps").iterdir())) == 3


@pytest.mark.parametrize("how", ["bit", "cut", "compressed", "link", "outside"])
def test_damage_is_said(tmp_path: Path, how: str) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    with series(trace) as writer:
        write(writer, 0)
    path = trace.recording("pt").folder / "steps" / "0000000000.zarr.zip"
    with zipfile.ZipFile(path) as whole:
        info = whole.getinfo("layers/a~2fb/c.0.0")
        entries = [(item.filename, whole.read(item)) for item in whole.infolist()]
    if how == "bit":
        raw = bytearray(path.read_bytes())
        raw[raw.index(np.arange(8, dtype=np.float32).tobytes()) + 5] ^= 0xFF
        path.write_bytes(raw)
    elif how == "cut":
        os.truncate(path, info.header_offset + 20)
    elif how == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as other:
            for name, data in entries:
                other.writestr(name, data)
    elif how == "link":
        path.rename(tmp_path / "elsewhere.zip")
        path.symlink_to(tmp_path / "elsewhere.zip")
    else:
        raw = bytearray(path.read_bytes())
        whole_name = b"zarr.json"
        at = max(i for i in range(len(raw)) if raw.startswith(whole_name, i) and raw[i - 1 : i] != b"/")
        at -= 4  # where the directory says that the entry lies
        raw[at : at + 4] = (1 << 30).to_bytes(4, "little")
        path.write_bytes(raw)
    if how == "link":
        assert trace.recording("pt").steps == ()
    with pytest.raises(tracer.TracerError):
        trace.recording("pt").at(0).read("a/b")


def test_a_full_disk_loses_no_step_that_was_written(tmp_path: Path) -> None:
    import resource

    trace = Trace.create(tmp_path / "t.zarr")
    writer = series(trace).__enter__()
    write(writer, 0)
    writer.begin(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(tracer.TraceError, match="cannot write"):
            writer.put("value", "x", np.zeros(1 << 19, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    write(writer, 2)
    writer.finish()
    assert trace.recording("pt").steps == (0, 2)
