"""tracer export: tensors and graphs in the formats of others, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

import tracer
from tests.cli import refused, run
from tracer.errors import InputError
from tracer.exporting import explorer
from tracer.exporting.chosen import INDEX, Wanted, choose
from tracer.graph import Node, Structure
from tracer.store import Recording, RecordingWriter, Trace
from tracer.weighing import writing


class Net(nn.Module):
    def __init__(self, epsilon: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm1d(8, eps=epsilon))
        self.dropout = nn.Dropout()
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.dropout(self.encoder(x)).mean(2))
        return out


def keras_model() -> Any:
    import keras

    x = keras.Input((12, 3), name="x")
    h = keras.layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(x)
    h = keras.layers.BatchNormalization(name="norm")(h)
    h = keras.layers.GlobalAveragePooling1D(name="pool")(h)
    return keras.Model(x, keras.layers.Dense(5, name="head")(h))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of a Keras model, a port of it with another epsilon, and that in bfloat16."""
    path = tmp_path_factory.mktemp("export")
    model, net = keras_model(), Net(0.1).eval()
    kernels = {"conv": net.encoder[0], "head": net.head}
    for name, layer in kernels.items():
        kernel, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        model.get_layer(name).set_weights([kernel.transpose(*reversed(range(kernel.ndim))), bias])
    tracer.record(model, name="tf", trace=path / "trace.zarr", loss="square")
    tracer.record(net, name="pt", trace=path / "trace.zarr", loss="square")
    half = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval().bfloat16()
    tracer.record(half, torch.ones(2, 3).bfloat16(), name="half", trace=path / "trace.zarr")
    return path


@pytest.fixture
def recordings(folder: Path) -> dict[str, Recording]:
    return {one.name: one for one in tracer.open(folder / "trace.zarr").recordings()}


def left_over(folder: Path) -> list[Path]:
    return list(folder.glob(".tracer-*"))


def arrays(path: Path) -> dict[str, Any]:
    """What numpy, or safetensors, reads of an export."""
    if path.suffix == ".safetensors":
        return dict(safetensors.numpy.load_file(path))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key != INDEX}
    index = json.loads((path / INDEX).read_text())
    return {one["key"]: np.load(path / one["file"], allow_pickle=False) for one in index["tensors"]}


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors", "out"])
def test_each_format_gives_back_what_was_recorded(name: str, recordings: dict[str, Recording], tmp_path: Path) -> None:
    recording = recordings["pt"]
    done = tracer.export(recording, tmp_path / name, weights=True, gradients=True)
    found = arrays(tmp_path / name)
    assert set(found) == set(done.keys)
    assert len(found) == sum(map(len, (
        recording.activations, recording.gradients, recording.weights, recording.weight_gradients,
    )))  # fmt: skip
    for node in recording.activations:
        np.testing.assert_array_equal(found[node], recording.read(node))
        np.testing.assert_array_equal(found[f"gradients/{node}"], recording.read_gradient(node))
    for (owner, param), stored in recording.weights.items():
        np.testing.assert_array_equal(found[f"weights/{owner}/{param}"], recording.read_stored(stored))
    assert done.index["aliases"]["dropout"] == "encoder.2"
    assert done.nbytes >= sum(values.nbytes for values in found.values())
    entry = next(one for one in done.index["tensors"] if one["key"] == "weights/head/bias")
    assert (entry["owner"], entry["parameter"], entry["dtype"], entry["shape"]) == ("head", "bias", "float32", [5])
    if name == "out.safetensors":
        with safetensors.safe_open(tmp_path / name, "np") as file:
            assert json.loads(file.metadata()["tracer"])["tensors"] == done.index["tensors"]
        assert (tmp_path / name).stat().st_mode & 0o077  # as any file that its user makes
    with pytest.raises(InputError, match="exists already: --force replaces it"):
        tracer.export(recording, tmp_path / name)
    tracer.export(recording, tmp_path / name, layers="head", force=True)
    assert set(arrays(tmp_path / name)) == {"head"}
    assert left_over(tmp_path) == []


def test_an_archive_is_the_same_each_time(recordings: dict[str, Recording], tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        tracer.export(recordings["pt"], tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors"])
def test_like_moves_names_and_axes(name: str, recordings: dict[str, Recording], tmp_path: Path) -> None:
    ours, theirs = recordings["tf"], recordings["pt"]
    tracer.export(theirs, tmp_path / name, like=ours, weights=True, gradients=True)
    found = arrays(tmp_path / name)
    for node in ("conv/preactivation", "conv", "pool"):
        assert found[node].shape == ours.read(node).shape
    np.testing.assert_allclose(found["conv"], ours.read("conv"), atol=1e-5)
    np.testing.assert_array_equal(found["weights/conv/kernel"], ours.read_weight("conv", "kernel"))
    np.testing.assert_array_equal(found["norm"], theirs.read("encoder.2").transpose(0, 2, 1))
    np.testing.assert_array_equal(found["gradients/norm"], theirs.read_gradient("encoder.2").transpose(0, 2, 1))
    assert not any(key.startswith("gradients/weights/") for key in found)


def test_types_that_numpy_lacks(recordings: dict[str, Recording], tmp_path: Path) -> None:
    recording = recordings["half"]
    done = tracer.export(recording, tmp_path / "a.npz")
    assert any("of bfloat16, which this format lacks, stored as float32" in note for note in done.notes)
    found = arrays(tmp_path / "a.npz")
    for node, stored in recording.activations.items():
        assert found[node].dtype == np.float32
        back = found[node].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(back.view("u2"), recording.read_stored(stored).view("u2"))
    assert {one["dtype"] for one in done.index["tensors"]} == {"bfloat16"}
    assert tracer.export(recording, tmp_path / "a.safetensors").notes == ()
    assert safetensors.torch.load_file(tmp_path / "a.safetensors")["0"].dtype == torch.bfloat16


HOSTILE = ["..", "../up", "/root", "a//b", "", "nul\0", "sur\ud800", "tracer.json", "__metadata__", "x", "x.npy",
           "X", "weights/x/y", "long" * 80, "⊗/é", "a\\b", "c:d", "new\nline", "-o"]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Nodes whose names are anything, with values of every type and shape."""
    trace = Trace.create(tmp_path_factory.mktemp("hostile") / "trace.zarr")
    values: list[Any] = [np.full((2, 3), at, "f4") for at in range(len(HOSTILE))]
    values[:9] = [
        np.array(3, "f4"), np.empty((0, 4), "f8"), np.array([True, False]), np.arange(4, dtype="u1"),
        np.arange(4).astype(ml_dtypes.float8_e4m3fnuz), np.arange(4).astype("f2"), np.array([1 + 2j], "c8"),
        np.arange(6).reshape(2, 3).T, np.array([np.nan, np.inf], "f4"),
    ]  # fmt: skip
    nodes = [
        Node(name, "other", "Op", "op", shape=value.shape, dtype=value.dtype.name)
        for name, value in zip(HOSTILE, values, strict=True)
    ]
    with RecordingWriter(trace, "odd", Structure(tuple(nodes)), {"input": "x"}, {n: n for n in HOSTILE}) as writer:
        for name, value in zip(HOSTILE, values, strict=True):
            writer(name, value)
    return trace.recording("odd")


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors", "out"])
def test_names_and_types_of_any_kind(name: str, hostile: Recording, tmp_path: Path) -> None:
    """Every name comes back through the index, keys differ, and none is a path elsewhere."""
    done = tracer.export(hostile, tmp_path / name)
    found = arrays(tmp_path / name)
    names = {entry["name"]: entry for entry in done.index["tensors"]}
    assert set(names) == set(HOSTILE)
    assert len({entry["key"] for entry in names.values()}) == len(HOSTILE)
    for own, entry in names.items():
        values, expected = found[entry["key"]], hostile.read(own)
        assert values.shape == expected.shape == tuple(entry["shape"])
        assert entry["dtype"] == expected.dtype.name
        wide = np.float32 if expected.dtype.name.startswith("float8") else expected.dtype
        np.testing.assert_array_equal(values, expected.astype(wide))
    assert names["⊗/é"]["key"] == "⊗/é"
    assert names["x"]["key"] == "x"
    if name == "out.npz":
        members = zipfile.ZipFile(tmp_path / name).namelist()
        assert not any(part in ("", "..") for member in members for part in member.split("/"))
    if name == "out":
        assert len([*(tmp_path / name).iterdir()]) == len(HOSTILE) + 1


def test_nothing_is_left_of_an_export_that_fails(
    folder: Path, recordings: dict[str, Recording], tmp_path: Path
) -> None:
    """One flipped byte of the last tensor: exit 3, no file, whatever the format; an earlier one stays."""
    copy = tmp_path / "damaged.zarr"
    shutil.copytree(folder / "trace.zarr", copy)
    recording = Trace.open(copy).recording("pt")
    values = recording.read("head").tobytes()
    file = recording.folder / "values.zarr.zip"
    raw = bytearray(file.read_bytes())
    raw[raw.index(values)] ^= 1
    file.write_bytes(raw)
    (tmp_path / "old.npz").write_bytes(b"as it was")
    for name in ("a.npz", "a.safetensors", "a", "old.npz"):
        said = refused("export", "pt", "--trace", copy, "-o", name, "--force", cwd=tmp_path, code=3, says="damaged")
        assert "checksum" in said
    assert (tmp_path / "old.npz").read_bytes() == b"as it was"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["damaged.zarr", "old.npz"]


def test_only_an_export_is_replaced_by_one(recordings: dict[str, Recording], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="no export of tracer's"):
        tracer.export(recordings["pt"], tmp_path / "mine", force=True)
    tracer.export(recordings["pt"], tmp_path / "theirs", layers="head")
    (tmp_path / "theirs" / "notes.txt").write_text("kept")
    with pytest.raises(InputError, match="no export of tracer's"):
        tracer.export(recordings["pt"], tmp_path / "theirs", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"):
        tracer.export(recordings["pt"], tmp_path / "file")


def test_what_is_chosen(recordings: dict[str, Recording]) -> None:
    def keys(**more: Any) -> list[str]:
        return [item.key for item in choose(recordings["pt"], Wanted(**more)).items]

    assert keys(layers=("encoder",)) == ["encoder.0", "encoder.1", "encoder.2"]
    assert keys(layers=("conv",)) == ["encoder.0", "encoder.1"]  # by its twin's name, a path as well
    assert keys(layers=("op:conv*", "head")) == ["encoder.0", "head"]
    assert keys(exclude=("encoder*", "x")) == ["mean", "head"]
    assert keys(layers=("head",), weights=True) == ["head", "weights/head/weight", "weights/head/bias"]
    assert keys(layers=("*bias",), weights=True, activations=False) == [
        "weights/encoder.0/bias", "weights/encoder.2/bias", "weights/head/bias",
    ]  # fmt: skip
    with pytest.raises(InputError, match="'haed' matches no layer; there is head"):
        keys(layers=("haed",))
    with pytest.raises(InputError, match="activations are switched off"):
        keys(activations=False)
    notes = choose(recordings["half"], Wanted(gradients=True)).notes
    assert notes == ("'half' has no gradients of what is wanted: record it with --grad",)


def test_statistics_alone_are_no_tensors(folder: Path, tmp_path: Path) -> None:
    recording = tracer.record(
        Net(1e-5).eval(), torch.ones(2, 3, 6), trace=tmp_path / "t.zarr", statistics_only=True, weights=False
    )
    with pytest.raises(InputError, match=r"nothing to export; .* only its statistics were recorded"):
        tracer.export(recording, tmp_path / "a.npz")


def test_a_packed_recording_and_steps_are_exported_as_any(tmp_path: Path) -> None:
    net = Net(1e-5).eval()
    with tracer.attach(net, to=tmp_path / "t.zarr", name="live", mode="eval") as attached:
        for step in range(2):
            net(torch.full((2, 3, 12), float(step)))
        attached.flush()
    trace = tracer.open(tmp_path / "t.zarr")
    step = trace.recording("live@1")
    for pack in (False, True):
        tracer.pack(trace, unpack=not pack)
        tracer.export(trace.recording("live@1"), tmp_path / "a.safetensors", layers="encoder.0", force=True)
        np.testing.assert_array_equal(arrays(tmp_path / "a.safetensors")["encoder.0"], step.read("encoder.0"))
    done = run("export", "live", "--trace", tmp_path / "t.zarr", "-o", "b.npz", cwd=tmp_path)
    assert "live@1 is the last of 2 steps" in done.stderr


def test_the_command(folder: Path, tmp_path: Path) -> None:
    trace = ("--trace", folder / "trace.zarr")
    done = run("export", "pt", "encoder", "-o", "a.npz", "--exclude", "encoder.1", *trace, cwd=tmp_path)
    assert done.stdout.startswith("a.npz: 2 tensors, ")
    found = json.loads(run("export", "half", "-o", "b.npz", "--json", *trace, cwd=tmp_path).stdout)
    assert found["schema"] == "tracer-export/1"
    assert found["path"] == "b.npz"
    refused("export", *trace, cwd=tmp_path, says="name the recording")
    refused("export", "pt", *trace, cwd=tmp_path, says="say where to")
    refused("export", "pt", "-o", "a.h5", *trace, cwd=tmp_path, says=".npz or .safetensors")
    refused("export", "pt", "-o", "no/a.npz", *trace, cwd=tmp_path, says="there is no folder")
    refused("export", "nobody", "-o", "c.npz", *trace, cwd=tmp_path, says="no recording 'nobody'")
    refused("export", "pt", "--map", "m.yaml", "-o", "c.npz", *trace, cwd=tmp_path, says="name REF")
    refused("export", "tf", "pt", "--model-explorer", "a.npz", *trace, cwd=tmp_path, says="go into a .json file")
    refused("export", "--model-explorer", "a.json", "-o", "b.npz", *trace, cwd=tmp_path, says="writes no tensors")


def test_graphs_for_model_explorer(folder: Path, tmp_path: Path) -> None:
    """Its own data classes' fields (graph_builder.py, node_data_builder.py of 0.1.34); all of it fits together."""
    done = run("export", "tf", "pt", "--model-explorer", "g.json", "--trace", folder / "trace.zarr", cwd=tmp_path)
    written = [Path(line) for line in done.stdout.splitlines()]
    assert written == list(explorer.files(Path("g.json")))
    graphs, errors, verdicts, mapping = (json.loads((tmp_path / one).read_text()) for one in written)
    assert set(graphs) == {"label", "graphs"}
    ids = {}
    for graph in graphs["graphs"]:
        assert set(graph) == {"id", "nodes", "groupNodeAttributes"}
        ids[graph["id"]] = {node["id"] for node in graph["nodes"]}
        for node in graph["nodes"]:
            assert set(node) == {"id", "label", "namespace", "attrs", "incomingEdges", "outputsMetadata"}
            assert {edge["sourceNodeId"] for edge in node["incomingEdges"]} <= ids[graph["id"]]
            assert all(isinstance(one["value"], str) for one in node["attrs"])
    nodes = {node["id"]: node for node in graphs["graphs"][1]["nodes"]}
    assert "encoder" not in nodes  # a group
    assert nodes["encoder.2"]["namespace"] == "encoder"
    assert [edge["sourceNodeId"] for edge in nodes["mean"]["incomingEdges"]] == ["dropout"]
    said = {one["key"]: one["value"] for one in nodes["encoder.2"]["attrs"]}
    assert (said["verdict"], said["twin"], said["cause"]) == ("diverged", "norm", "bn-eps")
    assert "eps" in said["fix"]
    shape = nodes["encoder.2"]["outputsMetadata"][0]["attrs"][0]
    assert shape == {"key": "shape", "value": "float32[2,8,12]"}
    for data in (errors, verdicts):
        assert set(data) == {"tf", "pt"}
        for name, one in data.items():
            assert set(one["results"]) <= ids[name]
    assert errors["pt"]["results"]["encoder.2"]["value"] == errors["tf"]["results"]["norm"]["value"] > 1e-3
    limits = [one["value"] for one in errors["pt"]["thresholds"]]
    assert limits == sorted(limits)
    assert verdicts["pt"]["results"]["encoder.2"]["value"] == "diverged"
    assert verdicts["pt"]["results"]["dropout"]["value"] in ("unmatched", "diverged", "inherited")
    assert mapping["mapping"]["norm"] == "encoder.2"
    assert {"leftNodeIds": ["norm"], "rightNodeIds": ["encoder.2"]} in mapping["mappingEntries"]
    refused(
        "export", "tf", "pt", "--model-explorer", "g.json", "--trace", folder / "trace.zarr", cwd=tmp_path,
        says="--force replaces it",
    )  # fmt: skip


def test_only_files_are_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, Path(os.devnull)):
        with pytest.raises(InputError, match=r"where a file is wanted"):
            writing.check(path, force=True)


def test_of_a_link_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept / "file")
    with pytest.raises(InputError, match="exists already"):
        writing.publish_text("one", tmp_path / "link", False)
    for text in ("one", "two"):  # it leads nowhere at first
        writing.check(tmp_path / "link", True)
        writing.publish_text(text, tmp_path / "link", True)
        assert (kept / "file").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(kept) == ["file"]


def test_a_place_that_is_none_is_a_mistake_and_no_damage(recordings: dict[str, Recording], tmp_path: Path) -> None:
    """A folder that goes while the work is done is like one that was never there."""

    def gone(out: Any) -> None:
        out.write(b"x")
        shutil.rmtree(tmp_path / "gone")

    (tmp_path / "gone").mkdir()
    with pytest.raises(InputError, match="there is no folder"):
        writing.publish_filled(gone, tmp_path / "gone" / "file", False)
    with pytest.raises(InputError, match="there is no folder"):
        writing.publish_text("x", tmp_path / "gone" / "file", True)
    for name in ("x" * 300, "x" * 300 + ".npz"):
        with pytest.raises(InputError, match="the name is too long"):
            tracer.export(recordings["half"], tmp_path / name)
    with pytest.raises(InputError, match="cannot be written on standard output"):
        tracer.export(recordings["half"], "-")
    assert not os.listdir(tmp_path)
