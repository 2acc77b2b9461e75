"""The trace on disk: read by zarr-python and xarray, whole after every fault."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracer.adapter import NotRecorded
from tracer.compare import diff as compare
from tracer.errors import InputError, TraceError, TracerError
from tracer.graph import Node, Param, Structure
from tracer.names import encode
from tracer.store import RecordingWriter, Trace, zarr3
from tracer.store.packs import Pack, Walk
from tracer.store.runs import RunWriter
from tracer.store.summary import summarize
from tracer.store.trace import lock

VALUES = "values.zarr.zip"
DTYPES = ["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128"]


def chain(*names: str) -> Structure:
    return Structure(tuple(Node(name, "dense", "Dense", shape=(2, 3)) for name in names), names[-1:])


def write(trace: Trace, name: str, values: dict[str, np.ndarray], keys: dict[str, str] | None = None) -> None:
    structure = chain(*values)
    trace.make()
    with RecordingWriter(
        trace, name, structure, {"input": "x"}, keys if keys is not None else {n: n for n in values}
    ) as w:
        for node, array in values.items():
            w(node, array)


def as_zarr(trace: Path, name: str) -> zarr.Group:
    """A recording's tensors as zarr-python reads them."""
    store = zarr.storage.ZipStore(trace / "recordings" / name / VALUES, mode="r")
    return zarr.open_group(store, mode="r", zarr_format=3)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(DTYPES).map(np.dtype),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements=None,
    )
)
def test_zarr_python_reads_what_we_write_and_so_do_we(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("array") / "a"
    zarr3.write_array(folder, values, {"k": 1}, [f"d{i}" for i in range(values.ndim)])
    theirs = zarr.open_array(store=str(folder), mode="r", zarr_format=3)
    assert theirs.dtype == values.dtype
    assert theirs.attrs["k"] == 1
    assert np.asarray(theirs[...]).tobytes() == values.tobytes()
    assert zarr3.read_array(folder).tobytes() == values.tobytes()
    assert zarr3.read_array(folder).shape == values.shape


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_reduced_precision_keeps_its_bits(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(-3, 3, 12).reshape(3, 4).astype(getattr(ml_dtypes, dtype))
    zarr3.write_array(tmp_path / "a", values, {}, ["x", "y"])
    back = zarr3.read_array(tmp_path / "a")
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()
    theirs = zarr.open_array(store=str(tmp_path / "a"), mode="r")
    assert theirs.dtype.kind == "u"
    assert theirs.attrs["dtype"] == dtype
    assert np.asarray(theirs[...]).tobytes() == values.tobytes()


def test_layout_is_the_documented_one(trace_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours = {"conv": rng.normal(size=(2, 5, 3)).astype("f4"), "fc/Out": rng.normal(size=(2, 4)).astype("f4")}
    theirs = {"c1": rng.normal(size=(2, 3, 5)).astype("f4"), "alone": rng.normal(size=(2,)).astype("f4")}
    trace = Trace.create(trace_path)
    write(trace, "tf", ours)
    write(trace, "pt", theirs, {"c1": "conv"})
    trace.save_inputs("x", {"in": np.zeros((2, 3), "f4")}, {"in": {"layout": "channels_last"}})
    root = zarr.open_group(str(trace_path), mode="r")
    assert root.attrs["format"] == "tracer-trace"
    assert root.attrs["version"] == 2
    assert root["recordings/tf"].attrs["state"] == "complete"
    assert {name for name, _ in root.groups()} == {"recordings", "inputs"}
    tf, pt = as_zarr(trace_path, "tf"), as_zarr(trace_path, "pt")
    np.testing.assert_array_equal(tf["layers/conv"][...], ours["conv"])
    np.testing.assert_array_equal(tf[f"layers/{encode('fc/Out')}"][...], ours["fc/Out"])
    np.testing.assert_array_equal(pt["layers/conv"][...], theirs["c1"])
    np.testing.assert_array_equal(pt["unaligned/alone"][...], theirs["alone"])
    assert pt["layers/conv"].attrs["node"] == "c1"
    store = zarr.storage.ZipStore(trace_path / "recordings/tf" / VALUES, mode="r")
    dataset = xarray.open_zarr(store, group="layers", consolidated=False, zarr_format=3)
    assert set(dataset) == {"conv", encode("fc/Out")}
    np.testing.assert_array_equal(dataset["conv"].values, ours["conv"])
    tree = xarray.open_datatree(store, engine="zarr", consolidated=False)
    np.testing.assert_array_equal(tree["layers/conv"].values, ours["conv"])


def test_weights_lie_under_the_aligned_layer(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    values = np.arange(6, dtype="f4").reshape(2, 3)
    with RecordingWriter(trace, "tf", chain("a"), {}, {"a": "a"}) as writer:
        writer("a", values)
        writer.put_weights("a", Param("kernel", (2, 3), "float32"), values, ("b", "weight"))
    np.testing.assert_array_equal(as_zarr(trace_path, "tf")["weights/b/weight"][...], values)
    recording = trace.recording("tf")
    np.testing.assert_array_equal(recording.read_stored(recording.weights["a", "kernel"]), values)
    assert recording.weight_keys == {("a", "kernel"): ("b", "weight")}


def test_what_is_handed_over_is_copied_at_once(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    values = np.ones((2, 3), "f4")
    with RecordingWriter(trace, "tf", chain("a", "b"), {}, {"a": "a", "b": "b"}) as writer:
        writer("a", values)
        values[:] = 7
        writer("b", values)
    assert trace.recording("tf").read("a").max() == 1


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "another"])
def test_damage_is_an_error_never_zeros(trace_path: Path, damage: str) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", {"b": np.ones((2, 3), "f4"), "a": np.ones((2, 3), "f4")})
    pack, at = trace_path / "recordings/tf" / VALUES, trace.recording("tf").activations["a"].at
    assert at is not None
    raw = bytearray(pack.read_bytes())
    data = -(-(raw.index(b"c.0.0", at) + 9) // 64) * 64  # behind the name and what fills up to the next 64 bytes
    if damage == "missing":
        pack.unlink()
    elif damage == "short":
        pack.write_bytes(raw[: data + 20])
    elif damage == "flipped":
        raw[data + 5] ^= 1
        pack.write_bytes(raw)
    else:
        attributes = json.loads((trace_path / "recordings/tf/zarr.json").read_text())
        entries = attributes["attributes"]["activations"]
        entries[1][-1] = entries[0][-1]  # where the other one's data are
        (trace_path / "recordings/tf/zarr.json").write_text(json.dumps(attributes))
    with pytest.raises(TraceError, match="damaged"):
        trace.recording("tf").read("a")
    if damage != "missing":
        assert trace.recording("tf").read("b").sum() == 6


def test_a_received_trace_leads_nowhere_else(trace_path: Path, tmp_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", {"a": np.ones((2, 3), "f4")})
    pack = trace_path / "recordings/tf" / VALUES
    pack.rename(tmp_path / "secret")
    pack.symlink_to(tmp_path / "secret")
    with pytest.raises(TraceError, match="link"):
        trace.recording("tf").read("a")


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Trace.open(tmp_path / "no")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x").touch()
    with pytest.raises(InputError, match="not a trace"):
        Trace.create(tmp_path / "folder")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(InputError, match="not one of tracer's"):
        Trace.open(tmp_path / "other.zarr")
    newer = Trace.create(tmp_path / "newer.zarr").root / "zarr.json"
    newer.write_text(newer.read_text().replace('"version":2', '"version":99'))
    with pytest.raises(InputError, match="newer"):
        Trace.open(tmp_path / "newer.zarr")
    newer.write_text(newer.read_text().replace('"version":99', '"version":1'))
    with pytest.raises(InputError, match="earlier tracer"):
        Trace.open(tmp_path / "newer.zarr")


def test_what_cannot_be_stored_is_said(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    with RecordingWriter(trace, "tf", chain("a", "b", "c"), {}, {}) as writer:
        writer("a", np.ones(3, "f4"))
        writer("b", NotRecorded("a sparse tensor"))
        writer("c", np.array(["text"], dtype=object))
    recording = trace.recording("tf")
    assert recording.state == "complete"
    assert recording.skipped == {"b": "a sparse tensor", "c": "elements of type object"}


def test_tensors_that_never_come_make_it_failed(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    with pytest.raises(TraceError, match="incomplete"), RecordingWriter(trace, "tf", chain("a", "b"), {}, {}) as writer:
        writer("a", np.ones(3, "f4"))
    recording = trace.recording("tf")
    assert recording.state == "failed"
    assert list(recording.activations) == ["a"]


def test_an_exception_keeps_what_was_saved(trace_path: Path) -> None:
    trace = Trace.create(trace_path)

    def interrupted() -> None:
        with RecordingWriter(trace, "tf", chain("a", "b"), {}, {}) as writer:
            writer("a", np.ones(3, "f4"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    recording = trace.recording("tf")
    assert recording.state == "failed"
    assert recording.attributes["error"] == "interrupted"
    assert recording.read("a").sum() == 3


def test_a_name_is_not_taken_twice_and_one_writer_holds_the_lock(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "tf", {"a": np.ones(3, "f4")})
    with pytest.raises(InputError, match="--force"):
        write(trace, "tf", {"a": np.ones(3, "f4")})
    with lock(trace.recording("tf").folder), pytest.raises(TraceError, match="another process"):
        trace.delete("tf")
    write(trace, "pt", {"a": np.ones(3, "f4")})
    trace.delete("tf")
    assert [r.name for r in trace.recordings()] == ["pt"]
    assert trace.recording("pt").read("a").sum() == 3
    assert [path.name for path in (trace_path / "recordings").iterdir() if path.is_dir()] == ["pt"]


KILLED = """
    import sys, os, time
    import numpy as np
    from tracer.store import Trace, RecordingWriter
    from tracer.graph import Node, Structure
    names = [f"n{i}" for i in range(200)]
    s = Structure(tuple(Node(n, "dense", "Dense", shape=(64, 64)) for n in names))
    with RecordingWriter(Trace.create(sys.argv[1]), "tf", s, {}, {n: n for n in names}) as w:
        print("go", flush=True)
        for i, n in enumerate(names):
            w(n, np.full((64, 64), i, "f4"))
            time.sleep(0.002)
"""


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2])
def test_killed_at_any_moment_what_was_committed_is_readable(trace_path: Path, delay: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(trace_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    assert Trace.open(trace_path).recording("tf").state == "recording"
    try:
        process.wait(delay or 0.001)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    trace = Trace.open(trace_path)
    recording = trace.recording("tf")
    assert recording.state == "interrupted"
    for name in recording.activations:
        assert (recording.read(name) == int(name[1:])).all()
    assert len(recording.activations) < 200
    trace.delete("tf")
    write(trace, "tf", {"n0": np.ones(3, "f4")})
    assert trace.recording("tf").state == "complete"


def test_a_full_disk_is_one_line_and_loses_nothing_else(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: both fail the write half way."""
    path = tmp_path / "trace.zarr"
    write(Trace.create(path), "tf", {"a": np.ones(3, "f4")})
    code = f"""
        import resource, signal, numpy as np
        from tracer.errors import TraceError
        from tracer.store import Trace, RecordingWriter
        from tracer.graph import Node, Structure
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        s = Structure(tuple(Node(n, "dense", "Dense", shape=(200, 200)) for n in "ab"))
        try:
            with RecordingWriter(Trace.open({str(path)!r}), "pt", s, {{}}, {{"a": "a"}}) as w:
                w("b", np.ones((10, 10), "f4"))
                w("a", np.ones((200, 200), "f4"))
        except TraceError as error:
            print(error, error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "cannot write the trace" in done.stdout
    assert done.stdout.strip().endswith("3")
    trace = Trace.open(path)
    assert trace.recording("tf").read("a").sum() == 3
    assert trace.recording("pt").state == "failed"
    assert trace.recording("pt").read("b").sum() == 100
    assert list(trace.recording("pt").activations) == ["b"]


def test_a_run_that_was_cut_off_anywhere_reads_up_to_there(tmp_path: Path) -> None:
    """Every length that a file can have after a crash: what is whole before it is found, nothing else is."""
    rng = np.random.default_rng(0)
    values = {f"layers/n{i}": rng.normal(size=shape).astype("f4") for i, shape in enumerate([(3, 5), (), (0, 2), (7,)])}
    writer = RunWriter(tmp_path / "p.zip")
    ends = []
    for place, array in values.items():
        writer.put(place, array, {"node": place}, [f"{place}{axis}" for axis in range(array.ndim)])
        writer.settle()
        ends.append((tmp_path / "p.zip").stat().st_size)
    writer.close()
    raw = (tmp_path / "p.zip").read_bytes()
    walk, seen = Walk(), list[str]()
    for length in range(len(raw) + 1):
        (tmp_path / "cut.zip").write_bytes(raw[:length])
        pack = Pack(tmp_path / "cut.zip")
        found = list(pack.so_far())
        assert len(found) == sum(end <= length for end in ends)
        seen += [place for place, _, _ in pack.so_far(walk)]  # each once, as the file grows
        assert seen == [place for place, _, _ in found]
        for place, at, metadata in found:
            array = pack.read_array(place, tuple(metadata["shape"]), np.dtype("f4"), at)
            np.testing.assert_array_equal(array, values[place])


def test_an_array_in_pieces_is_whole_or_what_came(trace_path: Path) -> None:
    trace_path.mkdir()
    values = np.arange(24, dtype="f4").reshape(2, 4, 3)
    writer = RunWriter(trace_path / "p.zip")
    whole, part = (writer.reserve(f"layers/{name}", values.shape, values.dtype, 1) for name in ("whole", "part"))
    for array in (whole, part):
        array.append(values[:, :1])
    whole.append(values[:, 1:])
    with pytest.raises(ValueError, match="does not fit"):
        whole.append(values)
    one, two = whole.finish({}, list("abc")), part.finish({}, list("def"))
    writer.commit({})
    pack = Pack(trace_path / "p.zip")
    np.testing.assert_array_equal(pack.read_array("layers/whole", one[0], values.dtype, one[1]), values)
    np.testing.assert_array_equal(pack.read_array("layers/part", two[0], values.dtype, two[1]), values[:, :1])
    group = zarr.open_group(zarr.storage.ZipStore(trace_path / "p.zip", mode="r"), mode="r", zarr_format=3)
    np.testing.assert_array_equal(group["layers/whole"][...], values)
    np.testing.assert_array_equal(group["layers/part"][...], values[:, :1])


def test_summaries_do_not_depend_on_the_layout() -> None:
    values = np.random.default_rng(0).normal(size=(3, 700, 501))
    values[0, 0, :2] = np.nan, np.inf
    a, b = summarize(values), summarize(np.ascontiguousarray(values.transpose(2, 0, 1)))
    assert a["nan"] == b["nan"] == 1
    assert a["inf"] == b["inf"] == 1
    for key in ("min", "max", "mean", "rms", "cube"):
        assert a[key] == pytest.approx(b[key], rel=1e-9)
    finite = values[np.isfinite(values)]
    assert a["rms"] == pytest.approx(float(np.sqrt((finite**2).mean())))
    assert summarize(np.zeros((0, 3)))["size"] == 0


def test_a_trace_whose_parts_are_links_is_refused(tmp_path: Path) -> None:
    """A received trace must not make us write, or delete, in other folders."""
    victim = tmp_path / "victim"
    (victim / "pt").mkdir(parents=True)
    (victim / "pt" / VALUES).touch()
    for part in ("inputs", "recordings"):
        path = tmp_path / f"{part}.zarr"
        write(Trace.create(path), "tf", {"a": np.ones(3, "f4")})
        (path / part).rename(tmp_path / f"{part}.old")
        (path / part).symlink_to(victim)
        with pytest.raises(InputError, match="link"):
            Trace.create(path)
    path = tmp_path / "deeper.zarr"
    trace = Trace.create(path)
    (path / "recordings/pt").symlink_to(victim / "pt")
    with pytest.raises(TraceError, match="link"):
        write(trace, "pt", {"a": np.ones(3, "f4")})
    (path / "recordings/tf").mkdir()
    (path / "recordings/tf" / VALUES).symlink_to(victim / "pt" / VALUES)
    write(trace, "tf", {"a": np.ones(3, "f4")})
    assert sorted(p.name for p in victim.rglob("*")) == ["pt", VALUES]
    assert (victim / "pt" / VALUES).stat().st_size == 0


def test_a_recording_is_renamed_over_another(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    write(trace, "pt", {"a": np.zeros(3, "f4"), "old": np.zeros(3, "f4")}, {"a": "a"})
    write(trace, "pt.new", {"a": np.ones(3, "f4"), "b": np.ones(3, "f4")}, {"a": "a"})
    trace.rename("pt.new", "pt")
    assert [r.name for r in trace.recordings()] == ["pt"]
    recording = trace.recording("pt")
    assert recording.attributes["name"] == "pt"
    assert set(recording.activations) == {"a", "b"}
    assert recording.read("a").sum() == recording.read("b").sum() == 3
    assert not list(trace_path.rglob("*new*"))


def test_threads_may_write_different_recordings_at_once(trace_path: Path) -> None:
    trace = Trace.create(trace_path)
    values = {f"n{i}": np.full((4, 4), i, "f4") for i in range(40)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write(trace, f"r{number}", values), range(8)))
    for recording in trace.recordings():
        assert recording.state == "complete"
        assert all((recording.read(name) == array).all() for name, array in values.items())


WRONG = [None, 5, -1, 1e300, "x", [], {}, [[]], [{}], {"a": []}, True, "\x1b[2J", ["a", 1], 2**70]


def test_metadata_of_any_shape_is_an_error_of_ours(trace_path: Path) -> None:
    """Every field of a recording's metadata replaced by values of every kind: errors are TracerErrors, nothing else."""
    trace = Trace.create(trace_path)
    write(trace, "tf", {"a": np.ones((2, 3), "f4"), "b": np.ones((2, 3), "f4")})
    write(trace, "pt", {"a": np.ones((2, 3), "f4"), "b": np.ones((2, 3), "f4")})
    path = trace_path / "recordings/tf/zarr.json"
    good = json.loads(path.read_text())

    def places(value: object, at: tuple = ()) -> Iterator[tuple]:
        yield at
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield from places(inner, (*at, key))

    tried = 0
    for place in list(places(good["attributes"], ("attributes",)))[:160]:
        for wrong in WRONG:
            bad = json.loads(json.dumps(good))
            inner = bad
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            path.write_text(json.dumps(bad))
            tried += 1
            try:
                for recording in Trace.open(trace_path).recordings():
                    _ = recording.created, recording.model, recording.planned, recording.nbytes, recording.skipped
                    assert isinstance(recording.state, str)
                ours = Trace.open(trace_path).recording("tf")
                bool(compare(ours, trace.recording("pt")))
            except TracerError:
                pass
    assert tried > 500
