"""The trace against what it promises: a model of it, several processes at once, full and read-only disks, and the
properties of keys, axes and mapping files."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.battery import Tally
from tests.battery._forked import MEMORY, REFUSED, forked, said
from tests.battery._properties import properties
from tracer.errors import InputError, TracerError
from tracer.graph import Node, Param, Structure
from tracer.store import RecordingWriter, Trace
from tracer.store.packing import rewrite
from tracer.store.series import SeriesWriter

CASES = 300
Values = dict[str, np.ndarray[Any, Any]]
_TEXT = st.text(max_size=12) | st.sampled_from(["", "/", "..", "Conv", "conv", "a/b", "a", "zarr.json", "é", "\ud800"])
_TYPES = ["bool", "int8", "int64", "float16", "float32", "float64", "complex64", "bfloat16", "float8_e4m3fn"]


@st.composite
def _arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if draw(st.integers(0, 9)) == 0:
        shape = (*shape, 70_000)  # in several pieces
    name = draw(st.sampled_from(_TYPES))
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    seed = draw(st.integers(0, 1 << 30))
    size = math.prod(shape) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    if dtype == np.bool_:
        raw &= 1
    return raw.view(dtype).reshape(shape)


_TENSORS = st.dictionaries(_TEXT, _arrays(), min_size=1, max_size=4)


def structure(values: Values) -> Structure:
    nodes = [Node(name, "dense", "Dense", shape=array.shape) for name, array in values.items()]
    return Structure(tuple(nodes), tuple(values)[-1:])


def record(trace: Trace, name: str, values: Values, weights: Values | None = None) -> None:
    """A recording of made-up tensors, some of which have twins."""
    trace.make()
    keys = {node: f"the {node}" for number, node in enumerate(values) if number % 2}
    with RecordingWriter(trace, name, structure(values), {"framework": "made up"}, keys) as writer:
        for param, array in (weights or {}).items():
            writer.put_weights("all", Param(param, array.shape, array.dtype.name), array, ("all", param))
        for node, array in values.items():
            writer(node, array)


def same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    alike = found.dtype == wanted.dtype and found.shape == wanted.shape
    return alike and found.tobytes() == wanted.tobytes()


class Store(RuleBasedStateMachine):
    """A trace and a dictionary of what must be in it: whatever is done to one is done to the other."""

    done = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tracer-battery-", dir=MEMORY))
        self.trace = Trace.create(self.folder / "t")
        self.whole: dict[str, tuple[Values, Values]] = {}
        self.steps: dict[str, dict[int, Values]] = {}
        self.notes: dict[str, Any] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def known(self) -> list[str]:
        return [*self.whole, *self.steps]

    def _one(self, data: st.DataObject, of: Sequence[str]) -> str:
        return data.draw(st.sampled_from(sorted(of)), "name")

    @rule(name=_TEXT, values=_TENSORS, weights=_TENSORS)
    def records(self, name: str, values: Values, weights: Values) -> None:
        if name in self.known:
            told = ""
            try:
                record(self.trace, name, values)
            except InputError as error:
                told = str(error)
            assert "exists already" in told, "a recording was replaced without being asked"
            return
        record(self.trace, name, values, weights)
        self.whole[name] = values, weights

    @rule(name=_TEXT, values=_TENSORS)
    def is_interrupted(self, name: str, values: Values) -> None:
        """It stays as failed, with what came."""
        if name in self.known:
            return
        try:
            with RecordingWriter(self.trace, name, structure(values), {}, {}) as writer:
                for node, array in values.items():
                    writer(node, array)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert self.trace.recording(name).state == "failed"
            self.whole[name] = values, {}

    @rule(name=_TEXT, steps=st.dictionaries(st.integers(0, 1 << 33), _TENSORS, max_size=3), ends=st.booleans())
    def steps_on(self, name: str, steps: dict[int, Values], ends: bool) -> None:
        if name in self.whole:
            return
        every = {node: array for values in steps.values() for node, array in values.items()}
        writer = SeriesWriter(self.trace, name, structure(every or {"x": np.zeros(1)}), {}, {}, {}, resume=True)
        writer.__enter__()
        for step, values in steps.items():
            writer.begin(step)
            for node, array in values.items():
                writer.put("value", node, array)
            writer.commit()
        writer.begin(1)  # and never committed
        if ends:
            writer.finish()
        else:
            writer.leave()
        self.steps.setdefault(name, {}).update(steps)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def is_deleted(self, data: st.DataObject) -> None:
        name = self._one(data, self.known)
        self.trace.delete(name)
        for what in (self.whole, self.steps, self.notes):
            what.pop(name, None)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), new=_TEXT)
    def is_renamed(self, data: st.DataObject, new: str) -> None:
        old = self._one(data, self.known)
        if new == old:
            return
        self.trace.rename(old, new)
        for what in (self.whole, self.steps, self.notes):
            what.pop(new, None)
            if old in what:
                what[new] = what.pop(old)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), note=st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
    def is_realigned(self, data: st.DataObject, note: dict[str, int]) -> None:
        name = self._one(data, self.known)
        if self.trace.recording(name).state in ("complete", "failed"):
            self.trace.update(name, {"alignment": note})
            self.notes[name] = note

    @precondition(lambda self: self.known)
    @rule(data=st.data(), compress=st.booleans())
    def is_packed(self, data: st.DataObject, compress: bool) -> None:
        recording = self.trace.recording(self._one(data, self.known))
        if recording.state in ("complete", "failed"):
            rewrite(recording, compress)

    @rule()
    def is_opened_again(self) -> None:
        self.trace = Trace.open(self.folder / "t")

    @invariant()
    def holds_what_it_should(self) -> None:
        Store.done += 1
        assert sorted(one.name for one in self.trace.recordings()) == sorted(self.known)
        for name, (values, weights) in self.whole.items():
            recording = self.trace.recording(name)
            assert recording.activations.keys() == values.keys()
            assert all(same(recording.read(node), array) for node, array in values.items())
            assert {param for _, param in recording.weights} == weights.keys()
            for (_, param), stored in recording.weights.items():
                assert same(recording.read_stored(stored), weights[param])
        for name, steps in self.steps.items():
            recording = self.trace.recording(name)
            assert recording.steps == tuple(sorted(steps))
            for number, values in steps.items():
                step = recording.at(number)
                assert step.activations.keys() == values.keys()
                assert all(same(step.read(node), array) for node, array in values.items())
        for name, note in self.notes.items():
            assert self.trace.recording(name).attributes["alignment"] == note


# -- several processes, and disks that do not take what they should -----------------------------------------------


def _tensors(seed: int, count: int = 12) -> Values:
    rng = np.random.default_rng(seed)
    shapes = [(3, 5), (2, 40, 300), (), (4, 64, 64)]
    return {f"n{number}": rng.normal(size=shapes[number % 4]).astype("f4") for number in range(count)}


def _intact(trace: Trace, name: str, seed: int) -> bool:
    recording = trace.recording(name)
    wanted = _tensors(seed)
    return recording.activations.keys() == wanted.keys() and all(same(recording.read(n), wanted[n]) for n in wanted)


def two_recorders(folder: Path, rng: random.Random) -> str:
    """Two processes record at once, under one name or two."""
    trace, one_name = Trace.at(folder / "t"), rng.random() < 0.7
    other = "a" if one_name else "b"
    late, pause = rng.uniform(0, 0.03), rng.random() < 0.5

    def second(mark: Callable[[str], None]) -> None:
        time.sleep(late if pause else 0)
        record(Trace.at(folder / "t"), other, _tensors(2))
        mark("done")

    def first(mark: Callable[[str], None]) -> None:
        record(trace, "a", _tensors(1))
        mark("done")

    ends = forked(first, second)
    won = [number for number, end in enumerate(ends, 1) if "done" in end.marks]
    for end in ends:
        assert end.code in (0, REFUSED), end.said
        assert not end.said or "exists already" in end.said or "written by another" in end.said, end.said
    assert len(won) == (1 if one_name else 2), [end.said for end in ends]
    for number in won:
        assert _intact(trace, "a" if number == 1 else other, number)
    return "one won" if one_name else "both succeeded"


def readers_meanwhile(folder: Path, rng: random.Random) -> str:
    """One process records, replaces, packs, renames and deletes while others read: all that is read is right."""
    record(Trace.at(folder / "t"), "a", _tensors(1))

    def writes(mark: Callable[[str], None]) -> None:
        trace = Trace.open(folder / "t")
        for turn in range(2, 6):
            record(trace, "a.new", _tensors(turn))
            trace.rename("a.new", "a")
            rewrite(trace.recording("a"), compress=turn % 2 == 0)
            with SeriesWriter(trace, "s", structure(_tensors(9)), {}, {}, {}) as writer:
                for step in range(3):
                    writer.begin(step)
                    for name, array in _tensors(step).items():
                        writer.put("value", name, array)
                    writer.commit()
            trace.delete("s")
        mark("done")

    known = {seed: {name: array.tobytes() for name, array in _tensors(seed).items()} for seed in range(6)}

    def reads(mark: Callable[[str], None]) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not (folder / "over").exists():
            for recording in Trace.open(folder / "t").recordings():
                assert recording.state != "damaged", recording.attributes
                of = recording.steps if recording.attributes.get("steps") else (None,)
                for step in of:
                    try:
                        at = recording if step is None else recording.at(step)
                        found = {name: at.read(name).tobytes() for name in at.activations}
                    except TracerError:  # deleted or replaced since
                        assert not _as_it_was(folder, recording.name, recording.attributes), "it is there, and not read"
                        continue
                    fits = any(all(found[n] == known[s][n] for n in found) for s in known)
                    assert fits, "values that nobody wrote together"
            mark("read")

    def writes_and_ends(mark: Callable[[str], None]) -> None:
        try:
            writes(mark)
        finally:
            (folder / "over").touch()

    ends = forked(writes_and_ends, reads, reads)
    for end in ends:
        assert end.code == 0, end.said
    return "all read was right"


def _as_it_was(folder: Path, name: str, attributes: Any) -> bool:
    """Whether a recording is still the one that was listed."""
    try:
        now = Trace.open(folder / "t").recording(name).attributes
    except TracerError:
        return False
    return now.get("created") == attributes.get("created") and now.get("state") == attributes.get("state")


def read_only(folder: Path, rng: random.Random) -> str:
    """Who may only read a trace reads it; what wants to write says so."""
    for name in ("a", "b"):
        record(Trace.at(folder / "t"), name, _tensors(1))
    commands = (("runs",), ("diff", "a", "b"), ("map", "a", "b"), ("steps", "a", "b"), ("pack", "x"))
    for command in commands:  # whoever is not root may not be able to import them
        said(*command, "--trace", str(folder / "t"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    others = os.geteuid() == 0

    def reads(mark: Callable[[str], None]) -> None:
        if others:  # root may write everywhere
            os.setgroups([])
            os.setuid(65534)
        trace = str(folder / "t")
        for command in commands:
            code, told = said(*command, "--trace", trace)
            assert (code, told.count("\n")) == ((2, 1) if command[0] in ("steps", "pack") else (0, 0)), told
        assert _intact(Trace.open(folder / "t"), "a", 1)
        for attempt in (
            lambda: record(Trace.at(folder / "t"), "c", _tensors(1)), lambda: Trace.open(folder / "t").delete("a"),
            lambda: Trace.open(folder / "t").rename("a", "d"), lambda: Trace.create(folder / "new"),
            lambda: rewrite(Trace.open(folder / "t").recording("a"), compress=True),
            lambda: Trace.open(folder / "t").update("a", {"alignment": {}}),
        ):  # fmt: skip
            try:
                attempt()
            except TracerError as error:
                refused = str(error)
            else:
                refused = "it was written to"
            assert "ermission denied" in refused, refused
        code, told = said("pack", "--trace", trace)
        assert code in (2, 3), told
        assert told.count("\n") == 1, told
        assert "ermission denied" in told, told
        mark("done")

    [end] = forked(reads)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    assert end.code == 0, end.said
    return "read, and not written"


_SMALL_DISK = """
import sys
from pathlib import Path
from tests.battery import store
store.fill(Path(sys.argv[1]), int(sys.argv[2]))
"""


def fill(folder: Path, seed: int) -> None:
    """Record until the disk is full, then read what is there; for a process of its own."""
    done = 0
    told = ""
    try:
        for number in range(100):
            record(Trace.at(folder / "t"), f"r{number}", _tensors(number))
            done += 1
    except TracerError as error:
        told = str(error)
    assert "No space left" in told, told
    trace = Trace.open(folder / "t")
    for number in range(done):
        assert _intact(trace, f"r{number}", number)
    for recording in trace.recordings():
        for name in recording.activations:
            assert same(recording.read(name), _tensors(int(recording.name[1:]))[name])
    for command in (("runs",), ("diff", "r0", "r1")):
        code, told = said(*command, "--trace", str(folder / "t"))
        assert code in (0, 1, 3), told
        assert told.count("\n") <= 1, told
    trace.delete("r0")
    if f"r{done}" in [one.name for one in trace.recordings()]:
        trace.delete(f"r{done}")
    record(Trace.at(folder / "t"), "again", _tensors(5))
    assert _intact(trace, "again", 5)


def full_disk(folder: Path, rng: random.Random) -> str:
    """A small file system of its own, where the kernel gives us one."""
    size = rng.randint(1_600_000, 4_000_000)
    script = 'mount -t tmpfs -o size="$1" none "$2" || exit 77; exec "$3" -c "$4" "$2" "$5"'
    own = ["unshare", "-rm"] if os.geteuid() else ["unshare", "-m"]
    if shutil.which("unshare") is None:
        return "no file system to fill"
    code = subprocess.run(
        [*own, "sh", "-c", script, "sh", str(size), str(folder), sys.executable, _SMALL_DISK, "0"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    if code.returncode == 77 or "unshare failed" in code.stderr:
        return "no file system to fill"
    assert code.returncode == 0, code.stderr[-2000:]
    return "full, and said"


_RARE = {"two recorders": (two_recorders, 10), "readers": (readers_meanwhile, 1), "read-only": (read_only, 1),
         "full disk": (full_disk, 1)}  # fmt: skip
"""Each with how many times it is tried of a hundred cases."""


def run(seed: int, cases: int | None = None, *, groups: frozenset[str] = frozenset()) -> Tally:
    """``cases`` examples of each property, a fifth of them of the store's, and fewer of what takes processes."""
    tally, rng, count = Tally(), random.Random(seed), CASES if cases is None else cases
    how = hypothesis.settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(
        hypothesis.HealthCheck), print_blob=False)  # fmt: skip

    def tried(group: str, work: Callable[[], str]) -> None:
        if groups and group not in groups:
            return
        try:
            tally.add(group, work())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.breaks(group, f"seed {seed}", f"{type(error).__name__}: {error}"[:3000])

    with tempfile.TemporaryDirectory(prefix="tracer-battery-", dir=MEMORY) as name:
        folder = Path(name)
        folder.chmod(0o711)  # for who may only read

        def holds() -> str:
            Store.done = 0
            machine = hypothesis.settings(how, max_examples=max(2, count // 5), stateful_step_count=12)
            run_state_machine_as_test(hypothesis.seed(seed)(Store), settings=machine)
            tally.outcomes["store", "equal after each operation"] += Store.done - 1
            return "equal after each operation"

        tried("store", holds)
        for group, test in properties(folder).items():

            def given(group: str = group, test: Any = test) -> str:
                hypothesis.seed(seed)(how(test))()
                tally.outcomes[group, "holds"] += count - 1
                return "holds"

            tried(group, given)
        for group, (trial, often) in _RARE.items():
            for number in range(max(1, often * count // 100)):
                own = folder / f"{group} {number}"
                own.mkdir()
                tried(group, lambda trial=trial, own=own: trial(own, rng))  # type: ignore[misc]
                shutil.rmtree(own, ignore_errors=True)
    return tally
