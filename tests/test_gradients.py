"""Gradients: recorded beside the values, kept with them when the trace changes, compared from the loss upwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tracer
from tests.cli import refused, run
from tracer.compare import Verdict
from tracer.errors import InputError
from tracer.graph import Node, Param, Structure
from tracer.store import RecordingWriter, Trace
from tracer.store.recordings import VALUES

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
nn = torch.nn

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


class Half(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """ReLU whose gradient is half of what it should be: its values are right."""

    def forward(self, x: Any) -> Any:
        y = torch.relu(x)
        return (y + y.detach()) / 2


class Net(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, activation: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.second = nn.Linear(6, 8), activation, nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.second(self.activation(self.first(x))))


def test_gradients_lie_beside_the_values_and_are_those_of_autograd(trace_path: Path) -> None:
    model = Net(nn.ReLU())
    recording = tracer.record(model, X, trace=trace_path, loss="square")
    given = torch.tensor(X, requires_grad=True)
    hidden = model.first(given)
    hidden.retain_grad()
    output = torch.tanh(model.second(model.activation(hidden)))
    (output.square().sum() / 2).backward()
    store = zarr.open_group(zarr.storage.ZipStore(recording.folder / VALUES, mode="r"), mode="r")
    np.testing.assert_allclose(store["gradients/layers/first"][:], hidden.grad, rtol=1e-5)
    np.testing.assert_allclose(recording.read_gradient("x"), given.grad, rtol=1e-5)
    weight = recording.read_stored(recording.weight_gradients["second", "weight"])
    np.testing.assert_allclose(weight, model.second.weight.grad, rtol=1e-5)
    assert store["gradients/weights/second/weight"].attrs["owner"] == "second"
    assert store["gradients/layers/first"].attrs["gradient_of"] == "square"


def test_the_two_frameworks_agree_and_a_wrong_gradient_is_found(trace_path: Path) -> None:
    port = Net(nn.ReLU())
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="first")
    last = keras.layers.Dense(3, activation="tanh", name="second")
    model = keras.Model(inputs, last(hidden(inputs)))
    for layer, twin in ((hidden, port.first), (last, port.second)):
        layer.set_weights([twin.weight.detach().numpy().T, twin.bias.detach().numpy()])
    reference = tracer.record(model, X, trace=trace_path, loss="sum")
    right = tracer.record(port, trace=trace_path, name="right", loss="sum")
    wrong = tracer.record(Net(Half()), trace=trace_path, name="wrong", loss="sum")
    agreeing = tracer.diff(reference, right, of="gradients")
    assert agreeing, str(agreeing)
    assert len(agreeing.pairs) == 5
    assert tracer.diff(reference, wrong)
    differing = tracer.diff(reference, wrong, of="gradients")
    assert differing.first is not None
    assert differing.first.aligned in ("first", "first/preactivation")
    assert differing.counts[Verdict.DIVERGED] == 1
    assert "the one that it passes on does not" in str(differing)
    assert differing.to_json()["of"] == "gradients"
    square = tracer.record(port, trace=trace_path, name="square", loss="square")
    with pytest.raises(InputError, match="different losses"):
        tracer.diff(reference, square, of="gradients")
    without = tracer.record(port, trace=trace_path, name="without")
    with pytest.raises(InputError, match="'without' has no gradients"):
        tracer.diff(reference, without, of="gradients")


def test_gradients_follow_their_activations_to_new_names(trace_path: Path) -> None:
    structure = Structure((Node("a", "dense", "Dense"), Node("b", "dense", "Dense", parents=("a",))), ("b",))
    trace = Trace.create(trace_path)
    values = np.arange(3.0)
    with RecordingWriter(trace, "pt", structure, {"loss": "sum"}, {"a": "x", "b": "y"}) as writer:
        for factor, name in enumerate("ab", 1):
            writer(name, values * factor)
            writer.gradient(name, -values * factor)
        writer.put_weights("a", Param("weight", (3,), "float64"), values, ("x", "kernel"))
        writer.weight_gradient("a", "weight", values + 5)

    def check(name: str) -> None:
        recording = trace.recording(name)
        for factor, node in enumerate("ab", 1):
            np.testing.assert_array_equal(recording.read(node), values * factor)
            np.testing.assert_array_equal(recording.read_gradient(node), -values * factor)
        gradient = recording.weight_gradients["a", "weight"]
        np.testing.assert_array_equal(recording.read_stored(gradient), values + 5)

    check("pt")
    trace.rename("pt", "other")
    check("other")


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(3, 2)\n"
        "def cube(y): return (y ** 3).sum()\n"
        "def vector(y): return y\n"
    )
    model = ("--arch", "net.py:make", "--input-shape", "2,3")
    done = run("record", "pt", *model, "--grad", "--layers", "linear", cwd=tmp_path)
    assert "gradients of 2 activations and 2 weights" in done.stdout
    run("record", "pt", "--grad", "net.py:cube", *model, "--name", "cube", cwd=tmp_path)
    cubed = tracer.open(tmp_path / "trace.zarr").recording("cube")
    np.testing.assert_allclose(cubed.read_gradient("linear"), 3 * cubed.read("linear") ** 2, rtol=1e-5)
    refused("record", "pt", *model, "--grad", "net.py:vector", "--name", "v", cwd=tmp_path, says="vector")
    done = run("diff", "pt", "cube", "--gradients", "--json", cwd=tmp_path, code=None)
    assert json.loads(done.stdout)["of"] == "gradients"
