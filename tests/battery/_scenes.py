"""What is interrupted: commands that write, the folder that each begins with, and what must be read afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tracer
from tests.battery._forked import Mark
from tracer.alignment import align, dumping
from tracer.cli.settings import write_text
from tracer.compare import diff
from tracer.errors import TraceError
from tracer.live import judging, wire
from tracer.live.session import Session
from tracer.recording import refine
from tracer.store import Recording, Trace, remote
from tracer.store.packing import rewrite

torch.set_num_threads(1)  # a fork has none of the others

DONE = "done"
Found = dict[str, str]
"""What can be read, by its place: digests of tensors and files, and states of recordings."""
X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype("f4")
LARGE = np.random.default_rng(1).normal(size=(3, 3, 96, 96)).astype("f4")


class Net(torch.nn.Module):
    """Tensors of some hundred bytes, or with a larger input of some hundred kilobytes."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, 5)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))) * self.scale
        found: torch.Tensor = self.fc(x.mean((2, 3)))
        return found


def net(seed: int, scale: float = 1.0) -> Net:
    torch.manual_seed(seed)
    return Net(scale).eval()


@dataclass(frozen=True)
class Scene:
    """A command that writes.

    Attributes:
        prepare: makes what it begins with in an empty folder.
        act: the command; ends with the mark :data:`DONE` where it has succeeded.
        durable: whether it promises something about power cuts, and so is to be tried with them.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, Mark], None]
    durable: bool = False


def _nothing(folder: Path) -> None:
    pass


def _reference(folder: Path) -> None:
    tracer.record(net(0), X, name="ref", trace=folder / "t")


def _two(folder: Path) -> None:
    _reference(folder)
    tracer.record(net(1), name="pt", trace=folder / "t")


def _first(folder: Path, mark: Mark) -> None:
    tracer.record(net(0), X, name="ref", trace=folder / "t", durable=True)
    mark(DONE)


def _second(folder: Path, mark: Mark) -> None:
    tracer.record(net(0), name="pt", trace=folder / "t", loss="square", durable=True)
    mark(DONE)


def _large(folder: Path, mark: Mark) -> None:
    tracer.record(net(0), LARGE, name="pt", trace=folder / "t", durable=True)
    mark(DONE)


def _batches(folder: Path, mark: Mark) -> None:
    tracer.record(net(0), X, name="pt", trace=folder / "t", batch=1, durable=True)
    mark(DONE)


def _replaced(folder: Path, mark: Mark) -> None:
    tracer.record(net(2), name="pt", trace=folder / "t", force=True, durable=True)
    mark(DONE)


def _steps(folder: Path, mark: Mark) -> None:
    model = net(0)
    attached = tracer.attach(model, to=folder / "t", name="pt", weights=True, durable=True)
    with torch.no_grad():
        for step in range(3):
            model(torch.from_numpy(X + step))
            attached.flush()
            if attached.fault is None:
                mark(f"pt@{step}")
    attached.detach()
    if attached.fault is None:
        mark(DONE)
    else:
        raise TraceError(attached.fault)


def _realigned(folder: Path, mark: Mark) -> None:
    trace = Trace.at(folder / "t", durable=True)
    ours, theirs = trace.recording("ref"), trace.recording("pt")
    found = align(ours, theirs)
    refine(trace, ours, theirs, replace(found, pairs=found.pairs[:-1]))
    mark(DONE)


def _mapped(folder: Path, text: str, force: bool) -> None:
    ours, theirs = Trace.open(folder / "t").recordings()
    write_text(folder / "mapping.yaml", text + dumping.dump(align(ours, theirs), ours.name, theirs.name), force)


def _with_mapping(folder: Path) -> None:
    _two(folder)
    _mapped(folder, "", False)


def _edited(folder: Path, mark: Mark) -> None:
    _mapped(folder, "# edited\n", True)
    mark(DONE)


def _transferred(folder: Path, mark: Mark) -> None:
    trace = Trace.open(folder / "t")
    tracer.transfer(trace.recording("ref"), trace.recording("pt"), model=net(1), out=folder / "pt.safetensors")
    mark(DONE)


def _packed(folder: Path, mark: Mark) -> None:
    for recording in Trace.open(folder / "t").recordings():
        rewrite(recording, True)
    mark(DONE)


def _with_steps(folder: Path) -> None:
    _reference(folder)
    _steps(folder, lambda what: None)


def _deleted(folder: Path, mark: Mark) -> None:
    Trace.at(folder / "t", durable=True).delete("pt")
    mark(DONE)


def _compared(folder: Path, mark: Mark) -> None:
    found = diff(*Trace.open(folder / "t").recordings())
    assert len(found.pairs) > 3
    mark(DONE)


def _store(folder: Path) -> str:
    (folder / "store").mkdir(exist_ok=True)
    return f"file://{folder}/store"


class _Counted(remote.Bucket):
    """Each call to the store as one of :mod:`os`, which is what can fail here: the store itself is not in Python."""

    def _count(self) -> None:
        with self._said():
            os.truncate(f"{self.url.removeprefix('file://')}/../asked", 0)

    def upload(self, path: Path, key: str) -> None:
        self._count()
        super().upload(path, key)

    def delete(self, keys: list[str]) -> None:
        self._count()
        super().delete(keys)


def _pushed(folder: Path, mark: Mark) -> None:
    remote.Bucket = _Counted  # type: ignore[misc]
    remote.push(Trace.open(folder / "t"), _store(folder), force=True)
    mark(DONE)


def _with_store(folder: Path) -> None:
    _two(folder)
    remote.push(Trace.open(folder / "t"), _store(folder))
    (folder / "asked").touch()
    Trace.open(folder / "t").delete("pt")
    tracer.record(net(3), name="pt", trace=folder / "t")


def _pulled(folder: Path, mark: Mark) -> None:
    remote.pull(_store(folder), folder / "copy")
    mark(DONE)


def _ingested(folder: Path, mark: Mark) -> None:
    """What a daemon does with the steps that come."""
    structure = Trace.open(folder / "t").recording("ref").structure.to_json()
    said: list[wire.Message] = []

    def committed(session: Session, step: int, ended: float) -> None:
        mark(f"pt@{step}")
        recording = session.trace.recording("pt")
        judging.begin_looking(recording, 0)
        judging.looked_at(str(folder / "t"), "pt", step, {})

    hello = wire.Hello(protocol=wire.PROTOCOL, role="recorder")
    session = Session(hello, folder / "t", said.append, committed, durable=True)
    session.take(wire.Open(name="pt", structure=structure, attributes={"framework": "pytorch"}), memoryview(b""))
    for step in range(3):
        session.take(wire.Begin(step=step), memoryview(b""))
        for name, values in (("conv", LARGE[:1] + step), ("fc", np.full((2, 5), step, "f4"))):
            put = wire.Put(part="value", name=name, dtype="float32", shape=list(values.shape))
            session.take(put, memoryview(values.tobytes()))
        session.take(wire.Commit(step=step, ended=0.0), memoryview(b""))
    session.take(wire.Close(), memoryview(b""))
    while not session.over:
        time.sleep(0.002)
    session.end(None)
    if session.fault is not None:
        raise TraceError(session.fault)
    mark(DONE)


SCENES = (
    Scene("first recording", _nothing, _first, True),
    Scene("recording", _reference, _second, True),
    Scene("large tensors", _reference, _large, True),
    Scene("batches", _reference, _batches, True),
    Scene("replacing", _two, _replaced, True),
    Scene("steps", _reference, _steps, True),
    Scene("realigning", _two, _realigned, True),
    Scene("edited mapping", _with_mapping, _edited, True),
    Scene("transferring", _two, _transferred),
    Scene("packing", _with_steps, _packed, True),
    Scene("deleting", _two, _deleted, True),
    Scene("comparing", _two, _compared),
    Scene("pushing", _with_store, _pushed),
    Scene("pulling", _with_store, _pulled),
    Scene("daemon", _reference, _ingested, True),
)


# -- reading it back -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> Found:
    """All that can be read below a folder. What is damaged is ``damaged``. Raises TracerError for a trace that cannot
    be opened."""
    found: Found = {}
    for name in ("t", "copy", "store"):
        if (folder / name).is_dir() and ((folder / name / "zarr.json").exists() or name != "store"):
            found |= {f"{name}/{place}": value for place, value in _trace(folder / name).items()}
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith(".tracer-"):  # of who was killed
            found[path.name] = _digest(path.read_bytes())
    return found


def _trace(root: Path) -> Found:
    found: Found = {}
    trace = Trace.open(root)
    for recording in trace.recordings():
        found[recording.name] = recording.state
        if recording.state == "damaged":
            continue
        if recording.attributes.get("steps"):
            for step in recording.steps:
                found[f"{recording.name}@{step}"] = "step"
                found |= _tensors(f"{recording.name}@{step}", partial(recording.at, step))
        else:
            found |= _tensors(recording.name, partial(trace.recording, recording.name))
            if recording.state == "complete":
                found[f"{recording.name} input"] = _inputs(trace, recording.input_id)
                found[f"{recording.name} file"] = _file(recording)
                found[f"{recording.name} aligned"] = _digest(repr(recording.attributes.get("alignment")).encode())
    return found


def _inputs(trace: Trace, name: str) -> str:
    try:
        return _digest(b"".join(values.tobytes() for values, _ in trace.inputs(name).values()))
    except TraceError as error:
        return f"damaged: {error}"


def _file(recording: Recording) -> str:
    """Whether the file of a complete recording has its directory, which other readers go by."""
    try:
        return f"{sum(1 for _ in recording.pack.arrays())} arrays"
    except TraceError as error:
        return f"damaged: {error}"


def _tensors(name: str, opened: Callable[[], Recording]) -> Found:
    found: Found = {}
    try:
        recording = opened()
        for index in ("activations", "gradients", "weights", "weight_gradients"):
            for whose, stored in getattr(recording, index).items():
                place = f"{name} {index} {whose}"
                try:
                    values = recording.read_stored(stored)
                    found[place] = _described(values)
                except TraceError as error:
                    found[place] = f"damaged: {error}"
    except TraceError as error:
        found[name] = f"damaged: {error}"
    return found


def beginnings(folder: Path) -> frozenset[str]:
    """What of the tensors of a recording may be there when it was not finished: their first samples."""
    recording = Trace.open(folder / "t").recording("pt")
    whole = [recording.read_stored(stored) for stored in recording.activations.values()]
    return frozenset(_described(values[:count]) for values in whole for count in range(len(values)))


def _described(values: np.ndarray[Any, Any]) -> str:
    return f"{values.dtype} {values.shape} {_digest(values.tobytes())}"


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


@contextlib.contextmanager
def copied(folder: Path, to: Path) -> Iterator[Path]:
    """A copy of a folder, which is gone afterwards."""
    shutil.copytree(folder, to)
    try:
        yield to
    finally:
        shutil.rmtree(to, ignore_errors=True)
