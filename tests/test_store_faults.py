"""What crashes and other processes leave in a trace, case by case; many at random are in ``scripts/battery``."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests import cli
from tests.test_steps import series
from tests.test_steps import write as write_step
from tests.test_store import chain, write
from tracer.cli.settings import write_text
from tracer.errors import InputError, TraceError
from tracer.names import encode
from tracer.store import RecordingWriter, Trace, zarr3
from tracer.store.storage import Joined, Storage
from tracer.store.trace import is_locked, lock

ONE = {"a": np.ones((2, 3), "f4")}


def test_a_trace_that_was_never_whole_is_begun_again(trace_path: Path) -> None:
    trace_path.mkdir()
    (trace_path / f"{zarr3.TEMPORARY}-x").touch()  # of who was killed before it was renamed
    write(Trace.create(trace_path), "tf", ONE)
    assert Trace.open(trace_path).recording("tf").state == "complete"


def test_steps_of_a_recording_that_is_half_deleted_are_no_others(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    with series(trace) as writer:
        write_step(writer, 3)
    (trace.recording("pt").folder / "zarr.json").unlink()
    with series(trace) as writer:
        write_step(writer, 7)
    assert trace.recording("pt").steps == (7,)
    (trace.recording("pt").folder / "zarr.json").unlink()
    write(trace, "pt", ONE)
    assert sorted(path.name for path in trace.recording("pt").folder.iterdir()) == ["values.zarr.zip", "zarr.json"]


@pytest.mark.parametrize("name", ["pt", "", "Pt/x"])
def test_a_recording_has_the_name_of_its_folder(trace_path: Path, name: str) -> None:
    """Killed while it was renamed: the folder has the new name, its attributes the former one."""
    trace = Trace.create(trace_path)
    write(trace, f"{name}.new", ONE)
    os.rename(trace_path / "recordings" / encode(f"{name}.new"), trace_path / "recordings" / encode(name))
    assert [one.name for one in trace.recordings()] == [name]
    assert trace.recording(name).read("a").sum() == 6


def test_who_only_looks_at_a_lock_keeps_nobody_from_it(trace_path: Path) -> None:
    trace_path.mkdir()
    looking = os.open(trace_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_locked(trace_path)
    later = threading.Timer(0.005, os.close, [looking])
    later.start()
    with lock(trace_path):
        assert is_locked(trace_path)
        with pytest.raises(TraceError, match="another process"), lock(trace_path):
            pass
    later.join()


def test_a_recording_that_goes_while_it_is_read_is_not_there(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", ONE)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            write(trace, "pt", ONE)
            trace.delete("pt")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        until = time.monotonic() + 1
        states = {one.state for _ in iter(lambda: time.monotonic() > until, True) for one in trace.recordings()}
    finally:
        over.set()
        thread.join()
    assert "damaged" not in states
    assert "complete" in states


def test_no_room_for_a_tensor_in_batches_leaves_the_others(trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace.create(trace_path)
    storage = Storage(batches=2, joined={"big": Joined(0, (2, 4))})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    def recorded() -> None:
        with RecordingWriter(trace, "tf", chain("small", "big"), {}, {}, storage=storage) as writer:
            writer("small", np.ones(3, "f4"))
            writer("big", np.zeros((1, 4), "f4"))
            writer.next_batch()
            writer("big", np.ones((1, 4), "f4"))

    with pytest.raises(TraceError, match="No space left"):
        recorded()
    recording = trace.recording("tf")
    assert recording.state == "failed"
    assert set(recording.activations) <= {"small"}
    assert all(recording.read(name).sum() == 3 for name in recording.activations)


def test_a_file_is_replaced_and_no_other_one_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("m.yaml", "m.yaml.tmp"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="--force"):
        write_text(tmp_path / "m.yaml", "new", False)
    write_text(tmp_path / "m.yaml", "new", True)
    assert (tmp_path / "m.yaml").read_text() == "new"
    assert (tmp_path / "m.yaml.tmp").read_text() == "mine"

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(TraceError, match="Input/output error"):
        write_text(tmp_path / "m.yaml", "newer", True)
    assert (tmp_path / "m.yaml").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_two_who_save_the_same_input_do_not_spoil_it(trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one began before the first one's was there, and its disk fails."""
    trace, values = Trace.create(trace_path), {"x": np.ones((2, 3), "f4")}
    trace.save_inputs("one", values, {})
    (trace_path / "inputs/one/zarr.json").rename(trace_path / "later")
    written = os.write

    def failing(file: int, data: memoryview) -> int:
        if b"data_type" in bytes(data[:400]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, data)

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match="No space left"):
        trace.save_inputs("one", values, {})
    (trace_path / "later").rename(trace_path / "inputs/one/zarr.json")
    assert trace.inputs("one")["x"][0].sum() == 6


@pytest.mark.parametrize("how", ["group", "values", "names"])
def test_an_input_that_is_damaged_is_written_anew(trace_path: Path, how: str) -> None:
    """By a power cut, say: who has the same values puts them back."""
    trace, values = Trace.create(trace_path), {"x": np.ones((2, 3), "f4")}
    trace.save_inputs("one", values, {})
    folder = trace_path / "inputs/one"
    if how == "values":
        (folder / "x/c.0.0").write_bytes(bytes(28))
    else:
        said = b"" if how == "group" else (folder / "zarr.json").read_bytes().replace(b'["x"]', b"5")
        (folder / "zarr.json").write_bytes(said)
    with pytest.raises(TraceError, match="damaged"):
        trace.inputs("one")
    trace.save_inputs("one", values, {})
    assert trace.inputs("one")["x"][0].sum() == 6


def test_durable_waits_for_the_disk(trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What, and in which order, is tried by power cuts in ``scripts/battery crashes``."""
    synced: list[str] = []
    real = os.fsync

    def noted(file: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        real(file)

    trace = Trace.create(trace_path)
    monkeypatch.setattr(os, "fsync", noted)
    write(trace, "tf", ONE)
    assert not synced
    write(Trace.at(trace_path, durable=True), "pt", ONE)
    assert {"values.zarr.zip", "pt", "recordings", "zarr.json", "trace.zarr"} <= set(synced)
    assert json.loads((trace_path / "recordings/pt/zarr.json").read_text())["attributes"]["state"] == "complete"


def test_a_durable_recording_of_the_command(tmp_path: Path) -> None:
    """Whose worker may not open the folder that the trace is made in."""
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text("import torch\n\n\ndef net():\n    return torch.nn.Linear(4, 3)\n")
    for more in ((), ("--durable", "--trace", "other.zarr")):
        cli.run("record", "pt", "--arch", "net.py:net", "--input-shape", "2,4", *more, cwd=tmp_path)
    for name in ("trace.zarr", "other.zarr"):
        assert Trace.open(tmp_path / name).recording("pt").state == "complete"
