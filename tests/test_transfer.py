"""Weights carried over to another model: filled, run, written only where both compute the same, or nothing done."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import tf_keras
import torch
from torch import nn

import tracer
from tests.cli import COMMAND, ENVIRONMENT, refused, run
from tracer.adapter import LoadRequest, for_object
from tracer.adapter import get as adapter
from tracer.alignment.engine import IGNORED
from tracer.alignment.mapping import Mapping as MappingFile
from tracer.compare import Tolerance
from tracer.compare.verdict import Verdict
from tracer.errors import InputError, ReplayError, TraceError, TransferError
from tracer.store import Trace
from tracer.weighing import filling, writing
from tracer.weighing.transfer import Asked, agrees, transfer
from tracer.worker.failure import WorkerError
from tracer.worker.results import parse_transfer

X = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype("f4")
EPS = 1e-3


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 0.5 + 0.05).astype("f4")


def keras_net(library: Any = keras, epsilon: float = EPS) -> Any:
    layers = library.layers
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(epsilon=epsilon, name="norm")(x)
    x = layers.Dense(5, name="head")(layers.Flatten(name="flat")(x))
    model = library.Model(inputs, x)
    for seed, weight in enumerate(model.weights):
        weight.assign(drawn(tuple(weight.shape), seed))
    return model


def torch_net(eps: float = EPS, head: int = 5) -> Any:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4, eps=eps), nn.Flatten(), nn.Linear(256, head)
    )
    return net.eval()


def outputs(keras_model: Any, torch_model: Any) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        return np.asarray(keras_model(X)), torch_model(torch.from_numpy(X.transpose(0, 3, 1, 2).copy())).numpy()


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before: dict[str, torch.Tensor], model: Any) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def names(path: Path) -> list[str]:
    return [recording.name for recording in tracer.open(path).recordings()]


# -- the live models ---------------------------------------------------------------------------------------------------


def test_a_live_model_is_filled_in_both_directions(trace_path: Path, tmp_path: Path) -> None:
    source, net = keras_net(), torch_net()
    ours = tracer.record(source, X, name="tf", trace=trace_path)
    theirs = tracer.record(net, name="pt", trace=trace_path, batch=2)
    done = tracer.transfer(ours, theirs, tmp_path / "net.pt", model=net)
    assert done
    assert done.carried.whole
    assert done.carried.made["4", "weight"] == "transpose, row order (H,W,C)→(C,H,W)"
    assert len(done.carried.values) == 8
    assert done.recording is not None
    assert done.recording.name == "pt-transferred"
    assert done.recording.attributes["batches"] == 2
    assert "8 carried" in str(done)
    np.testing.assert_allclose(*outputs(source, net), rtol=1e-4)
    again = torch_net()
    again.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert same(state(net), again)

    other = keras_net()
    for weight in other.weights:
        weight.assign(weight * 0.5)
    empty = tracer.record(other, X, name="empty", trace=trace_path)
    back = tracer.transfer(done.recording, empty, model=other)
    assert back.path is None
    np.testing.assert_allclose(*outputs(other, net), rtol=1e-4)


def test_what_weights_alone_cannot_make_equal_is_refused(trace_path: Path, tmp_path: Path) -> None:
    net = torch_net(eps=0.3)
    ours = tracer.record(keras_net(), X, name="tf", trace=trace_path)
    theirs = tracer.record(net, name="pt", trace=trace_path)
    before, file = state(net), tmp_path / "net.safetensors"
    with pytest.raises(TransferError, match=r"stay apart by .* with these weights: .*bn-eps") as caught:
        tracer.transfer(ours, theirs, file, model=net)
    refusal = caught.value.transferred
    assert not refusal
    assert "epsilon is 0.001 in the reference, 0.3 in the candidate" in str(refusal)
    assert same(before, net)
    assert not file.exists()
    assert names(trace_path) == ["tf", "pt"]
    assert not list(trace_path.rglob("*transferred*"))

    done = tracer.transfer(ours, theirs, file, model=net, anyway=True)
    assert not done.agrees
    assert not same(before, net)
    assert file.exists()


class Wide(nn.Module):
    """With a second head, of which the source knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch_net()
        self.more = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.net(x)
        return y, self.more(y)


def test_every_tensor_is_accounted_for(trace_path: Path) -> None:
    wide, net = Wide().eval(), torch_net()
    ours = tracer.record(keras_net(), X, name="tf", trace=trace_path)
    theirs = tracer.record(wide, name="wide", trace=trace_path)
    before = state(wide)
    with pytest.raises(TransferError, match=r"more\.weight \(.*\) and 1 more of the target have no source"):
        tracer.transfer(ours, theirs, model=wide)
    assert same(before, wide)
    done = tracer.transfer(ours, theirs, model=wide, partial=True)
    assert set(done.missing) == {("more", "weight"), ("more", "bias")}
    assert done.agrees
    assert done.unproven == ("'wide-transferred' returns more, which 'tf' has not",)
    assert torch.equal(wide.more.weight, before["more.weight"])

    assert done.recording is not None
    plain = tracer.record(net, name="pt", trace=trace_path)
    with pytest.raises(TransferError, match=r"more\.weight \(.*\) and 1 more of the source have no place"):
        tracer.transfer(done.recording, plain, model=net)
    assert set(tracer.transfer(done.recording, plain, model=net, partial=True).left_over) == set(done.missing)


def test_what_stops_it_half_way_leaves_nothing(trace_path: Path) -> None:
    net = torch_net()
    ours = tracer.record(torch_net(), X.transpose(0, 3, 1, 2), name="a", trace=trace_path)
    theirs = tracer.record(net, name="b", trace=trace_path)
    earlier = tracer.transfer(ours, theirs, model=net).recording
    assert earlier is not None

    def stopped(*_: object) -> None:
        tracer.record(net, name="b-transferred.new", trace=trace_path)
        raise KeyboardInterrupt

    asked = Asked.of(theirs, None, force=True)
    with pytest.raises(KeyboardInterrupt):
        transfer(ours, theirs, asked, stopped, lambda: None)
    before = state(net)
    fill = filling.Live(ours, theirs, net, None)

    def full() -> None:
        raise TraceError("no space left")

    with pytest.raises(TraceError):
        transfer(ours, theirs, asked, fill, full)
    fill.undo()
    assert same(before, net)
    assert names(trace_path) == ["a", "b", "b-transferred"]
    assert Trace.open(trace_path).recording("b-transferred").created == earlier.created


def test_arguments_that_cannot_be(trace_path: Path, tmp_path: Path) -> None:
    net = torch_net()
    image = X.transpose(0, 3, 1, 2)
    ours = tracer.record(torch_net(), image, name="a", trace=trace_path)
    theirs = tracer.record(net, name="b", trace=trace_path)
    bare = tracer.record(torch_net(), name="bare", trace=trace_path, weights=False)
    elsewhere = tracer.record(torch_net(), image, name="c", trace=tmp_path / "other.zarr")
    taken = tmp_path / "taken.pt"
    taken.write_bytes(b"mine")
    wrong: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("source and target", ours, ours, {}),
        ("of different traces", elsewhere, theirs, {}),
        ("without weights", bare, theirs, {}),
        ("is one of the two", ours, theirs, {"name": "a"}),
        ("'bare' exists already", ours, theirs, {"name": "bare"}),
        ("exists already: --force", ours, theirs, {"out": taken}),
        ("is a folder", ours, theirs, {"out": tmp_path}),
        ("there is no folder", ours, theirs, {"out": tmp_path / "none" / "a.pt"}),
        ("are written to .pt, .pth, .safetensors", ours, theirs, {"out": tmp_path / "a.h5"}),
    ]
    for says, source, target, more in wrong:
        with pytest.raises(InputError, match=says):
            tracer.transfer(source, target, model=net, **more)
    with pytest.raises(InputError, match="nothing to fill"):
        tracer.transfer(ours, theirs)
    with pytest.raises(ReplayError, match="recorded from a live model"):
        tracer.transfer(ours, theirs, tmp_path / "b.pt")
    with pytest.raises(ReplayError, match="not the one that was recorded"):
        tracer.transfer(ours, theirs, model=torch_net(eps=0.5))
    assert taken.read_bytes() == b"mine"
    assert names(trace_path) == ["a", "b", "bare"]


@pytest.mark.parametrize("named", [True, False], ids=["by its names", "by what was recorded first"])
def test_a_mapping_file_serves_in_both_directions(trace_path: Path, named: bool) -> None:
    """It is written for the Keras model against the PyTorch one, and the weights go the other way."""
    net, model = torch_net(), keras_net()
    tf = tracer.record(model, X, name="tf", trace=trace_path)
    pt = tracer.record(net, name="pt", trace=trace_path)
    names_said = {"reference": "tf", "candidate": "pt"} if named else {}
    written = MappingFile.model_validate({
        **names_said, "pairs": [{"reference": "conv", "candidate": "1", "axes": [0, 2, 3, 1]}],
        "ignore": {"reference": ["flat"], "candidate": ["3"]},
        "tolerances": [{"match": "norm", "atol": 0.25, "reason": "as wished"}],
    })  # fmt: skip
    done = tracer.transfer(pt, tf, model=model, map=written)
    assert done.diff is not None
    np.testing.assert_allclose(*outputs(model, net), rtol=1e-4)
    pairs = {pair.aligned: pair for pair in done.diff.pairs}
    assert pairs["1"].pair.candidate == ("conv",)
    assert pairs["1"].pair.axes == (0, 3, 1, 2)
    assert pairs["2"].tolerance == Tolerance(0.25, 1e-5)
    assert "3" not in pairs
    assert done.diff.alignment.unmatched_reference["3"] == IGNORED
    assert done.recording is not None
    assert done.recording.attributes["reference"] == "pt"


def test_a_coarse_type_does_not_prove_just_anything(trace_path: Path) -> None:
    net = torch_net().half()
    ours = tracer.record(keras_net(), X, name="tf", trace=trace_path)
    theirs = tracer.record(net, name="pt", trace=trace_path)
    done = tracer.transfer(ours, theirs, model=net)
    assert done.agrees
    assert len(done.carried.rounded) == 8
    (pair,) = done.outputs
    assert pair.verdict is Verdict.NOISE
    assert pair.stats is not None
    assert agrees(pair)
    assert not agrees(replace(pair, stats=replace(pair.stats, rel_l2=0.5)))


# -- the adapters ------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Tied, and computed of others in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.new = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        with pytest.warns(FutureWarning):
            self.old = nn.utils.weight_norm(nn.Linear(4, 4))
        self.unit = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.last = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.unit(self.old(self.new(self.table(x))))))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_torch_weights_that_are_shared_or_computed(suffix: str, tmp_path: Path) -> None:
    tokens = np.arange(6).reshape(2, 3)
    net = Odd().eval()
    loaded = for_object(net)[1].wrap(net)
    loaded.structure({"x": tokens})
    values = {
        (owner, param.name): drawn(param.shape, 3).astype("f8")
        for owner, param, _ in loaded.parameters()
        if owner != "unit"
    }
    assert ("head", "weight") not in values
    loaded.assign(values)
    for owner, param, value in loaded.parameters():
        if owner != "unit":
            np.testing.assert_allclose(value, values[owner, param.name], rtol=1e-5)
    with pytest.raises(ReplayError, match=r"unit\.weight is computed of other tensors"):
        loaded.assign({("unit", "weight"): drawn((4, 4), 4), ("last", "bias"): np.zeros(4)})
    assert bool(net.last.bias.any())
    loaded.save_weights(tmp_path / f"net{suffix}")
    (tmp_path / "odd.py").write_text("from tests.test_transfer import Odd as build\n")
    request = LoadRequest(None, arch=f"{tmp_path}/odd.py:build")
    again = adapter("pt").load(adapter("pt").filled(request, tmp_path / f"net{suffix}"))
    fresh: Any = again.live()
    assert fresh.head.weight is fresh.table.weight
    with torch.inference_mode():
        assert torch.equal(fresh.eval()(torch.from_numpy(tokens)), net(torch.from_numpy(tokens)))


def test_lazy_modules_get_theirs() -> None:
    net = nn.Sequential(nn.LazyLinear(3))
    loaded = for_object(net)[1].wrap(net)
    loaded.structure({"input": np.ones((2, 4), "f4")})
    loaded.assign({("0", "weight"): drawn((3, 4), 0)})
    np.testing.assert_array_equal(net.state_dict()["0.weight"].numpy(), drawn((3, 4), 0))


def test_torch_weights_that_do_not_fit() -> None:
    net = nn.Linear(2, 2).half()
    before = state(net)
    loaded = for_object(net)[1].wrap(net)
    good = {("", "bias"): np.zeros(2)}
    for says, bad in (
        ("cannot hold all of its values", {("", "weight"): np.full((2, 2), 1e6)}),
        (r"has shape \[2, 2\], and was given \[4\]", {("", "weight"): np.zeros(4)}),
        ("cannot hold complex numbers", {("", "weight"): np.zeros((2, 2), complex)}),
        ("no parameter else", {("", "else"): np.zeros(2)}),
    ):
        with pytest.raises(InputError, match=says):
            loaded.assign({**good, **bad})
    assert same(before, net)
    script = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ReplayError, match="keeps its weights"):
        for_object(script)[1].wrap(script).assign(good)


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_keras_weights_in_each_of_its_files(library: Any, tmp_path: Path) -> None:
    net = keras_net(library)
    loaded = for_object(net)[1].wrap(net)
    values = {(owner, param.name): drawn(param.shape, 9) for owner, param, _ in loaded.parameters()}
    loaded.assign({key: value.astype("f8") for key, value in values.items()})
    wanted = np.asarray(net(X))
    (tmp_path / "net.json").write_text(net.to_json())
    for name in ("a.weights.h5", "a.keras", "a.h5"):
        loaded.save_weights(tmp_path / name)
        request = adapter("tf").filled(LoadRequest(tmp_path / "net.json", tmp_path / "old.h5"), tmp_path / name)
        assert (request.path == tmp_path / "net.json") == (name == "a.weights.h5")
        model: Any = adapter("tf").load(request).live()
        assert type(model).__module__.startswith(f"{library.__name__}.")
        np.testing.assert_array_equal(np.asarray(model(X)), wanted)
    with pytest.raises(InputError, match=r"head\.bias has shape"):
        loaded.assign({("conv", "bias"): np.zeros(4), ("head", "bias"): np.zeros(4)})
    np.testing.assert_array_equal(np.asarray(net(X)), wanted)


def test_keras_says_what_it_cannot_write(tmp_path: Path) -> None:
    class Stubborn(keras.layers.Layer):
        def __init__(self, size: int) -> None:
            super().__init__()

        def get_config(self) -> Any:
            raise NotImplementedError("no config")

        def call(self, x: Any) -> Any:
            return x

    net = keras.Sequential([keras.layers.Input((2,)), Stubborn(3), keras.layers.Dense(2)])
    loaded = for_object(net)[1].wrap(net)
    with pytest.raises(InputError, match=r"Keras cannot write a\.keras .*a \.weights\.h5 holds the weights alone"):
        loaded.save_weights(tmp_path / "a.keras")
    loaded.save_weights(tmp_path / "a.weights.h5")


# -- files -------------------------------------------------------------------------------------------------------------


def test_every_type_reaches_the_worker(tmp_path: Path) -> None:
    values = {
        ("a", "scalar"): np.array(3.0, "f4"),
        ("a", "empty"): np.zeros((0, 3), "f2"),
        ("", "half"): drawn((2, 3), 0).astype(ml_dtypes.bfloat16),
        ("é/'", "turned"): np.arange(6, dtype="i8").reshape(2, 3).T,
    }
    back = filling.taken(tmp_path, filling.put(tmp_path, values))
    for key, value in values.items():
        assert (back[key].dtype, back[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(back[key], value)


def test_what_holds_constants_is_said_before_it_is_loaded(tmp_path: Path) -> None:
    net = keras_net()
    net.export(tmp_path / "saved", verbose=False)
    tracer.record(net, X, name="tf", trace=tmp_path / "trace.zarr")
    run("record", "tf", "saved", "--name", "frozen", cwd=tmp_path)
    says = (
        "'frozen' is a SavedModel: its weights are constants. Fill the model that it was made from: record that one, "
    )
    refused("transfer", "--from", "tf", "--to", "frozen", "-o", "out.pt", cwd=tmp_path, says=says)
    torch.jit.script(torch_net()).save(tmp_path / "net.ts")
    for name, file, what in (
        ("pt", "net.ts", "TorchScript"),
        ("tf", "graph.pb", "a frozen graph"),
        ("tf", "net.keras", ""),
        ("onnx", "net.onnx", "an ONNX model"),
    ):
        assert adapter(name).constant(LoadRequest(tmp_path / file)) == what
    assert adapter("pt").constant(LoadRequest(tmp_path / "net.pt", arch="nets:build")) == ""


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    made, place = tmp_path / "made", tmp_path / "place"
    made.write_bytes(b"x" * 5000)
    place.mkdir()
    with file_limit(4096), pytest.raises(TraceError, match=r"cannot write .*out\.pt: File too large"):
        writing.publish(made, place / "out.pt", False)
    assert not os.listdir(place)
    writing.publish(made, place / "out.pt", False)
    made.write_bytes(b"y")
    with pytest.raises(InputError, match="exists already"):  # whatever came there after it was looked at
        writing.publish(made, place / "out.pt", False)
    assert (place / "out.pt").read_bytes() == b"x" * 5000
    writing.publish(made, place / "out.pt", True)
    assert (place / "out.pt").read_bytes() == b"y"
    secret = tmp_path / "link"
    secret.symlink_to(made)
    with pytest.raises(TraceError):
        writing.publish(secret, place / "stolen", False)
    assert os.listdir(place) == ["out.pt"]


def test_a_worker_that_makes_things_up_is_caught() -> None:
    for nonsense in ({}, {"recorded": {}}, {"recorded": None}, [], {"recorded": {"name": "x"}, "more": 1}):
        with pytest.raises(WorkerError):
            parse_transfer(nonsense)


# -- the command -------------------------------------------------------------------------------------------------------

NETS = """
import torch
from torch import nn


def build(seed, eps=1e-3):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, eps=eps), nn.ReLU(), nn.Linear(8, 3))
    net[1].running_var.mul_(0.01)
    return net


def tf():
    import keras

    return keras.Sequential([
        keras.layers.Input((6,)), keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.ReLU(),
        keras.layers.Dense(3),
    ])
"""


def record(cwd: Path, framework: str, name: str, *, function: str = "build", arguments: str = "[]") -> None:
    run("record", framework, "--arch", f"nets.py:{function}", "--arch-args", arguments, "--name", name, cwd=cwd)


def test_the_command_says_what_stays_different(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    record(tmp_path, "pt", "a", arguments="[1]")
    record(tmp_path, "pt", "b", arguments="[2, 0.1]")
    (tmp_path / "b.pt").write_bytes(b"mine")
    said = refused("transfer", "--from", "a", "-o", "b.pt", cwd=tmp_path, says="--from NAME --to NAME")
    assert "(recordings: 'a', 'b')" in said
    wanted = ("transfer", "--from", "a", "--to", "b", "-o", "b.pt")
    refused(*wanted, cwd=tmp_path, says="b.pt exists already: --force replaces it")
    done = run(*wanted, "--force", cwd=tmp_path, code=1)
    assert "✗ nothing written: the outputs stay apart by" in done.stdout
    assert "bn-eps: epsilon is 0.001 in the reference, 0.1 in the candidate" in done.stdout
    assert (tmp_path / "b.pt").read_bytes() == b"mine"
    script = f"ulimit -f 1; exec {' '.join(map(shlex.quote, COMMAND))} {' '.join(wanted)} --anyway --force"
    full = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert full.returncode == 3
    assert len(full.stderr.splitlines()) == 1, full.stderr
    assert (tmp_path / "b.pt").read_bytes() == b"mine"
    assert names(tmp_path / "trace.zarr") == ["a", "b"]

    found = json.loads(run(*wanted, "--force", "--anyway", "--name", "filled", "--json", cwd=tmp_path).stdout)
    assert found["schema"] == "tracer-transfer/1"
    assert (found["written"], found["recording"], found["outputs_agree"]) == ("b.pt", "filled", False)
    assert len(found["carried"]) == 8
    assert [cause["cause"] for cause in found["causes"]] == ["bn-eps"]
    verified = run("explain", "a", "filled", "--verify", cwd=tmp_path, code=1).stdout  # loads the file that was written
    assert "equal to within rounding" in verified
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"nets.py", "trace.zarr", "b.pt"}


def test_the_command_fills_keras(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    record(tmp_path, "pt", "pt", arguments="[1]")
    record(tmp_path, "tf", "tf", function="tf")
    shown = run("transfer", "--from", "pt", "--to", "tf", "-o", "net.weights.h5", cwd=tmp_path).stdout
    assert "✓ match" in shown
    assert "8 carried" in shown
    assert "wrote net.weights.h5 (" in shown
    loaded = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(8, name="dense"),
         keras.layers.BatchNormalization(name="batch_normalization"), keras.layers.ReLU(),
         keras.layers.Dense(3, name="dense_1")]
    )  # fmt: skip
    loaded.load_weights(tmp_path / "net.weights.h5")
    stored = Trace.open(tmp_path / "trace.zarr").recording("pt")
    kernel = stored.read_stored(stored.weights["0", "weight"])
    np.testing.assert_array_equal(np.asarray(loaded.layers[0].kernel), kernel.T)

    script = ("transfer", "--from", "pt", "--to", "tf", "--emit-python", "carry.py")
    assert "8 carried" in run(*script, cwd=tmp_path).stdout
    refused(*script, cwd=tmp_path, says="carry.py exists already: --force replaces it")
    refused(*script[:5], cwd=tmp_path, says="say which file to write: -o FILE, or --emit-python FILE.py")
    state = {".".join(key): torch.from_numpy(np.array(stored.read_stored(stored.weights[key])))
             for key in stored.weights}  # fmt: skip
    torch.save(state, tmp_path / "pt.pt")
    keras.Sequential(loaded.layers).save(tmp_path / "tf.keras")
    command = [sys.executable, "carry.py", "pt.pt", "tf.keras", "out.keras"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, capture_output=True)
    carried = keras.models.load_model(tmp_path / "out.keras")
    for ours, theirs in zip(loaded.weights, carried.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
