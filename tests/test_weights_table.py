"""``tracer weights``: whether two models hold the same weights, and what those that differ would equal."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import torch
from torch import nn

import tracer
from tests import parameter_models as models
from tests.cli import refused, run
from tests.test_parameter_map import IDS, IMAGES, NETWORKS, outputs
from tracer.alignment import declared
from tracer.alignment.declared import LayerWeights
from tracer.errors import InputError
from tracer.store import Recording
from tracer.store.recordings import VALUES
from tracer.weighing.carrying import carry
from tracer.weighing.plan import plan
from tracer.weighing.table import Status, WeightTable

X = np.random.default_rng(0).standard_normal((3, 3, 8, 10)).astype(np.float32)


def fill(module: nn.Module, ours: Recording, theirs: Recording) -> None:
    """Give a PyTorch module the other model's weights."""
    values = carry(plan(tracer.align(ours, theirs), ours, theirs), ours, theirs).values
    with torch.no_grad():
        for (owner, name), array in values.items():
            layer, _, inner = f"{owner}.{name}".lstrip(".").rpartition(".")
            held, tensor = module.get_submodule(layer), torch.from_numpy(np.array(array))
            if nn.utils.parametrize.is_parametrized(held, inner):
                setattr(held, inner, tensor)
            else:
                getattr(held, inner).copy_(tensor)


def record(module: nn.Module, trace: Path, name: str, x: Any = None, reference: str | None = None) -> Recording:
    return tracer.record(module.eval(), x, name=name, trace=trace, reference=reference)


def odd(table: WeightTable) -> dict[str, tuple[str, str]]:
    return {row.aligned: (str(row.status), row.says) for row in table.rows if row.status is not Status.EQUAL}


# --- every kind of layer ----------------------------------------------------------------------------------------------


def test_weights_of_every_kind_are_equal_in_their_own_layouts(trace_path: Path) -> None:
    keras, module = models.keras_volume(), models.torch_volume()
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 8, 3)).astype(np.float32)
    ours, theirs = tracer.record(keras, x, name="tf", trace=trace_path), record(module, trace_path, "pt")
    before = tracer.weights(ours, theirs)
    assert {row.status for row in before.rows} == {Status.DIFFERS}
    fill(module, ours, theirs)
    np.testing.assert_allclose(
        module(torch.from_numpy(x).permute(0, 4, 1, 2, 3)).detach().numpy(), np.asarray(keras(x)), rtol=1e-3, atol=1e-4
    )
    after = tracer.weights(ours, record(module, trace_path, "filled"))
    assert bool(after), str(after)
    assert len(after.rows) == 33
    said = {row.aligned: row.relation for row in after.rows}
    assert said["c3/kernel"] == said["wn/kernel"] == "transpose"
    assert said["d1/kernel"] == "depthwise"
    assert said["rnn/backward/bias"] == "sum of two biases"
    # One bias more for each direction of each layer.
    more = after.to_json()["summary"]["difference"]["parameters"]
    assert (more["count"], round(more["percent"], 1)) == (70, 0.9)


@pytest.mark.parametrize("name", ["image", "fused"])
def test_weights_that_were_carried_over_are_equal(trace_path: Path, name: str) -> None:
    build_keras, build_torch, x, _ = NETWORKS[name]
    keras, module = build_keras(), build_torch()
    ours, theirs = tracer.record(keras, x, name="tf", trace=trace_path), record(module, trace_path, "pt")
    fill(module, ours, theirs)
    np.testing.assert_allclose(*outputs(keras, module, x), rtol=1e-3, atol=1e-4)
    table = tracer.weights(ours, record(module, trace_path, "filled"))
    assert odd(table) == {}
    assert table.counts[Status.EQUAL] == {"image": 27, "fused": 31}[name]


def test_a_bare_leaf_module_is_compared(trace_path: Path) -> None:
    import keras

    inputs = keras.Input((5, 4))
    model = models.randomise(keras.Model(inputs, keras.layers.LSTM(6, return_sequences=True, name="lstm")(inputs)))
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    module = nn.LSTM(4, 6, batch_first=True)
    ours, theirs = tracer.record(model, x, name="tf", trace=trace_path), record(module, trace_path, "pt")
    fill(module, ours, theirs)
    table = tracer.weights(ours, record(module, trace_path, "filled"))
    assert bool(table), str(table)
    assert [[one.text for one in row.candidate] for row in table.rows] == [
        ["weight_ih_l0"], ["weight_hh_l0"], ["bias_ih_l0", "bias_hh_l0"],
    ]  # fmt: skip


def test_of_the_two_biases_of_a_gru_only_what_counts_is_compared(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.g(x)[0]

    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    one, two = Net(), Net()
    two.load_state_dict(one.state_dict())
    with torch.no_grad():  # r and z add both up; of n the reset gate stands between them
        two.g.bias_ih_l0[:10] += two.g.bias_hh_l0[:10]
        two.g.bias_hh_l0[:10] = 0
    ours = record(one, trace_path, "a", x)
    same = tracer.weights(ours, record(two, trace_path, "b"))
    assert bool(same)
    assert "sum of the two biases" in same.rows[-1].reason
    with torch.no_grad():
        two.g.bias_ih_l0[10:] += two.g.bias_hh_l0[10:]
        two.g.bias_hh_l0[10:] = 0
    assert list(odd(tracer.weights(ours, record(two, trace_path, "c")))) == ["g.bias_ih_l0"]


def test_a_gru_without_reset_after_is_not_comparable(trace_path: Path) -> None:
    import keras

    inputs = keras.Input((7, 4))
    model = keras.Model(inputs, keras.layers.GRU(5, reset_after=False, return_sequences=True, name="gru")(inputs))
    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    ours = tracer.record(model, x, name="tf", trace=trace_path)
    table = tracer.weights(ours, record(nn.GRU(4, 5, batch_first=True), trace_path, "pt"))
    found = odd(table)["gru/bias"]
    assert found[0] == "not-comparable"
    assert found[1].startswith("no exact twin")
    assert table.exit_code() == 1
    model.layers[1].set_weights([w + (w.ndim == 1) for w in model.layers[1].get_weights()])
    changed = tracer.weights(ours, tracer.record(model, None, name="changed", trace=trace_path))
    assert list(odd(changed)) == ["gru/bias"]
    assert changed.rows[-1].status is Status.DIFFERS


# --- what differs -----------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 4 * 5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 64),
    ).eval()  # fmt: skip
    with torch.no_grad():  # heavy tails, as trained weights have
        for parameter in net.parameters():
            parameter.copy_(torch.distributions.Laplace(0.0, 0.2).sample(parameter.shape))
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net


def _rows(net: Any) -> None:
    net[7].weight.copy_(net[7].weight.reshape(64, 8, 4, 5).permute(0, 2, 3, 1).reshape(64, -1))


def _swapped(net: Any) -> None:
    first, second = net[9].weight.clone(), net[11].weight.clone()
    net[9].weight.copy_(second)
    net[11].weight.copy_(first)


def _quantised(net: Any) -> None:
    step = net[9].weight.abs().amax(1, keepdim=True) / 127
    net[9].weight.copy_((net[9].weight / step).round() * step)


def _one(net: Any) -> None:
    net[9].weight[3, 4] = 7.0


def _not_a_number(net: Any) -> None:
    net[9].weight[3, 4] = float("nan")


def _step(net: Any) -> None:
    for parameter in net.parameters():
        parameter.add_(1e-3 * parameter.std() * torch.randn_like(parameter))


def _exchanged(net: Any) -> None:
    scale = net[1].weight.clone()
    net[1].weight.copy_(net[1].bias)
    net[1].bias.copy_(scale)


CHANGES: dict[str, tuple[Callable[[Any], Any], dict[str, str]]] = {
    "transposed": (lambda n: n[9].weight.copy_(n[9].weight.T.clone()), {"9.weight": "transposed"}),
    "flipped": (
        lambda n: n[0].weight.copy_(n[0].weight.flip(2, 3)),
        {"0.weight": "flipped along its spatial axes: a true convolution"},
    ),
    "axes": (
        lambda n: n[3].weight.copy_(n[3].weight.transpose(2, 3).clone()),
        {"3.weight": "spatial axes exchanged: axes (1,0,2,3)"},
    ),
    "rows": (_rows, {"7.weight": "its inputs in the order of another flatten: 8×4×5 permuted by (1,2,0)"}),
    "swapped": (_swapped, {"9.weight": "the values of 11.weight", "11.weight": "the values of 9.weight"}),
    "sign": (lambda n: n[9].weight.neg_(), {"9.weight": "its sign is turned: −1 times the reference's"}),
    "scaled": (lambda n: n[9].weight.mul_(0.5), {"9.weight": "0.5 times the reference's"}),
    "outputs": (
        lambda n: n[9].weight.mul_(torch.linspace(0.5, 1.5, 64)[:, None]),
        {"9.weight": "every output multiplied by another number: a normalisation folded in?"},
    ),
    "half": (lambda n: n[9].weight.copy_(n[9].weight.half()), {"9.weight": "rounded to float16"}),
    "bfloat16": (lambda n: n[9].weight.copy_(n[9].weight.bfloat16()), {"9.weight": "rounded to bfloat16"}),
    "quantised": (_quantised, {"9.weight": "quantised to 8 bits, each output on its own"}),
    "initialised": (
        lambda n: n[9].reset_parameters(),
        dict.fromkeys(
            ("9.weight", "9.bias"),
            "as a new layer begins (PyTorch's default, uniform within ±1/√fan_in): never loaded?",
        ),
    ),
    "one": (_one, {"9.weight": "1 of 4096 numbers differ"}),
    "colours": (
        lambda n: n[0].weight.copy_(n[0].weight.flip(1)),
        {"0.weight": "its inputs backwards: RGB against BGR?"},
    ),
    "deviation": (
        lambda n: n[1].running_var.copy_(n[1].running_var.sqrt()),
        {"1.running_var": "a standard deviation, not a variance"},
    ),
    "exchanged": (_exchanged, {"1.weight": "the values of 1.bias", "1.bias": "the values of 1.weight"}),
    "nan": (_not_a_number, {"9.weight": "1 of 4096 numbers are NaN or infinite here"}),
    "channels": (
        lambda n: n[9].weight.copy_(n[9].weight[torch.randperm(64)]),
        {"9.weight": "its outputs in another order"},
    ),
    "zeros": (lambda n: n[9].bias.zero_(), {"9.bias": "all zeros, as a new layer begins: never loaded?"}),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(network(), tmp_path_factory.mktemp("weights") / "trace.zarr", "ref", X)


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_weight_that_differs_would_equal(reference: Recording, name: str) -> None:
    change, wanted = CHANGES[name]
    net = network()
    with torch.no_grad():
        change(net)
    table = tracer.weights(reference, record(net, reference.root, name))
    assert odd(table) == {aligned: ("differs", says) for aligned, says in wanted.items()}
    assert table.exit_code() == 1


def test_after_a_step_of_training_all_is_a_little_off(reference: Recording) -> None:
    net = network()
    with torch.no_grad():
        _step(net)
    table = tracer.weights(reference, record(net, reference.root, "step"))
    learned = [row for row in table.rows if "running" not in row.aligned]
    assert {row.status for row in learned} == {Status.DIFFERS}
    assert all(row.says.startswith("a little off everywhere") for row in learned)
    assert all(row.figures is not None and 2e-4 < row.figures.rel_l2 < 5e-3 for row in learned)


def test_a_narrower_type_is_equal_where_it_is_as_near_as_it_can_be(reference: Recording) -> None:
    net = network().bfloat16()
    same = tracer.weights(reference, record(net, reference.root, "narrow"))
    assert bool(same), str(same)
    assert {row.reason for row in same.rows} == {"as near as bfloat16 can hold it"}
    assert "float32 ⇄ bfloat16" in str(same)
    with torch.no_grad():
        net[9].weight[5, 6] *= 1.02
    assert list(odd(tracer.weights(reference, record(net, reference.root, "nudged")))) == ["9.weight"]


@pytest.mark.parametrize("folded_first", [False, True])
def test_a_normalisation_that_is_folded_in_is_compared_after_folding(trace_path: Path, folded_first: bool) -> None:
    net = network()
    folded = nn.Sequential(nn.utils.fusion.fuse_conv_bn_eval(net[0], net[1]), *net[2:])
    first, second = (folded, net) if folded_first else (net, folded)
    table = tracer.weights(record(first, trace_path, "a", X), record(second, trace_path, "b"))
    assert bool(table), str(table)
    assert [row.relation for row in table.rows[:2]] == ["scaled by BatchNorm: 1"] * 2
    with torch.no_grad():
        net[1].running_var[2] *= 1.5
    changed = record(net, trace_path, "c", None, "a")
    sides = (changed, table.candidate) if not folded_first else (table.reference, changed)
    assert list(odd(tracer.weights(*sides))) == ["0.weight", "0.bias"]


def test_a_bias_that_the_mean_of_a_normalisation_holds_is_no_difference(trace_path: Path) -> None:
    def net(bias: bool) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()

    plain, bare = net(True), net(False)
    with torch.no_grad():
        plain[1].running_mean.normal_()
        bare.load_state_dict(plain.state_dict(), strict=False)
        bare[1].running_mean -= plain[0].bias
    ours, theirs = record(plain, trace_path, "a", X), record(bare, trace_path, "b")
    for table in (tracer.weights(ours, theirs), tracer.weights(theirs, ours)):
        assert bool(table), str(table)
        (mean,) = [row for row in table.rows if row.role == "running_mean"]
        assert "bias" in mean.relation


def test_what_is_on_one_side_alone(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, bias: bool, more: bool) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=bias), nn.Linear(6, 4)
            self.register_buffer("steps", torch.arange(6))
            self.unused = nn.Linear(2, 2) if more else None

        def forward(self, x: Any) -> Any:
            return self.b(torch.relu(self.a(x)))

    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    one, two = Net(True, True), Net(False, False)
    two.load_state_dict({k: v for k, v in one.state_dict().items() if k in two.state_dict()})
    ours = record(one, trace_path, "a", x)
    table = tracer.weights(ours, record(two, trace_path, "b"))
    found = odd(table)
    assert found.pop("a.bias") == ("missing", "'a' has none")
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(
        ("steps", "unused.weight", "unused.bias"), "aside"
    )
    assert [row.aligned for row in table.rows if row.status is Status.EQUAL] == ["a.weight", "b.weight", "b.bias"]
    assert table.exit_code() == 1
    with torch.no_grad():
        one.a.bias.zero_()
    assert bool(tracer.weights(record(one, trace_path, "c", None, "a"), table.candidate))


def test_a_weight_that_the_other_side_ties_is_no_difference(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, tie: bool) -> None:
            super().__init__()
            self.e, self.m, self.h = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False)
            if tie:
                self.h.weight = self.e.weight

        def forward(self, ids: Any) -> Any:
            return self.h(self.m(self.e(ids)))

    one, two = Net(True), Net(False)
    two.load_state_dict(one.state_dict())
    ours, theirs = record(one, trace_path, "tied", np.arange(6).reshape(3, 2)), record(two, trace_path, "copies")
    for table in (tracer.weights(ours, theirs), tracer.weights(theirs, ours)):
        assert bool(table), str(table)
        assert [row.says for row in table.rows][-1] == "the same values as e.weight, which stands for both"
    with torch.no_grad():
        two.h.weight[0, 0] += 1
    (apart,) = (
        row for row in tracer.weights(ours, record(two, trace_path, "apart")).rows if row.status is not Status.EQUAL
    )
    assert (apart.status, apart.relation) == (Status.DIFFERS, "as it is: e.weight, to which its twin is tied")
    assert (apart.reference[0].text, apart.candidate[0].text) == ("e.weight", "h.weight")


def test_a_file_that_folds_and_writes_out_normalisations(trace_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
        net[1].running_var.uniform_(0.5, 2)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():  # the exporter's own
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.from_numpy(X),), path, dynamo=False, input_names=["x"])
    ours = record(net, trace_path, "pt", X)
    run("record", "onnx", path, "--reference", "pt", "--trace", trace_path, cwd=tmp_path)
    table = tracer.weights(ours, tracer.open(trace_path).recording("onnx"))
    assert bool(table), str(table)
    said = {row.aligned: row.relation for row in table.rows}
    assert said["0.weight"] == "scaled by BatchNorm: 1"
    assert said["3.weight"] == said["3.bias"] == "reshape"
    assert "-32 normalisations folded into weights" in str(table)


# --- layers of third parties ------------------------------------------------------------------------------------------


def test_a_layer_says_itself_how_its_weights_are_laid_out(trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    class Prototypes(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.centres = self.add_weight(shape=(8, 8), name="centres")
            self.tau = self.add_weight(shape=(), name="tau", initializer="ones")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, keras.ops.tanh(self.centres)) * self.tau

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.heat = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Any) -> Any:
            return x @ torch.tanh(self.table).T * self.heat

    inputs = keras.Input((8,))
    model = models.randomise(keras.Model(inputs, Prototypes(name="p")(inputs)))
    module = nn.Sequential(Scores())
    centres, tau = model.get_weights()
    with torch.no_grad():
        module[0].table.copy_(torch.from_numpy(centres.T.copy()))
        module[0].heat.copy_(torch.tensor(float(tau)))
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    ours, theirs = tracer.record(model, x, name="tf", trace=trace_path), record(module, trace_path, "pt")
    monkeypatch.setattr(declared, "_DECLARED", {})  # a page of the docs that was run before declares some, too
    assert not tracer.weights(ours, theirs)  # square: nothing says that one is the other's transpose

    tracer.layer_weights("prototypes", {"centres": "kernel in out", "tau": "tau"})(Prototypes)
    tracer.layer_weights("prototypes", {"table": "kernel out in", "heat": "tau"})(Scores)
    table = tracer.weights(ours, theirs)
    assert bool(table), str(table)
    assert {row.aligned: row.relation for row in table.rows} == {"p/centres": "transpose", "p/tau": "as it is"}

    tracer.layer_weights("prototypes", {"table": "kernel out", "heat": "tau"})(Scores)
    with pytest.raises(InputError, match="declared as 'kernel out', which is 1 axes, and has 2"):
        tracer.weights(ours, theirs)
    with pytest.raises(ValueError, match="a different name for each axis"):
        LayerWeights("prototypes", {"table": "kernel in in"})


def test_an_installed_package_declares_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    from tracer.graph import Node, Structure

    here = f"{__name__}:MADE"
    points = EntryPoints([EntryPoint("Scores", here, declared.GROUP), EntryPoint("Odd", "json:dumps", declared.GROUP)])
    monkeypatch.setattr(declared, "entry_points", lambda **wanted: points.select(**wanted))
    monkeypatch.setattr(declared, "_DECLARED", {})
    declared._installed.cache_clear()
    found = declared.declared(Structure((Node("head", "other:scores", "Scores", owner="head"),)))
    assert found == {"head": MADE}
    with pytest.raises(InputError, match=r"is no tracer.LayerWeights"):
        declared.declared(Structure((Node("head", "other:odd", "Odd", owner="head"),)))
    declared._installed.cache_clear()


MADE = LayerWeights("prototypes", {"table": "kernel out in"})


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of a Keras model, its port with a dense layer that was never loaded, and a right port."""
    path = tmp_path_factory.mktemp("cli")
    keras, module = models.keras_image(), models.torch_image()
    trace = path / "trace.zarr"
    ours, theirs = tracer.record(keras, IMAGES, name="tf", trace=trace), record(module, trace, "unrelated")
    fill(module, ours, theirs)
    record(module, trace, "right")
    module.m.reset_parameters()
    record(module, trace, "wrong")
    return path


def test_the_command_says_what_differs(folder: Path) -> None:
    right = run("weights", "tf", "right", cwd=folder)
    assert "✓ the weights are equal   ✓ 27 equal" in right.stdout
    assert len(right.stdout.splitlines()) < 20  # equal ones are folded
    wrong = run("weights", "tf", "wrong", "--ascii", "--sort", "diff", cwd=folder, code=1)
    assert wrong.stdout.isascii()
    lines = wrong.stdout.splitlines()
    assert "the weights differ   = 25 equal  X 2 differ" in lines[1]
    assert lines[4].startswith("X  fc2/")
    assert "PyTorch's default" in wrong.stdout
    assert "parameters" in wrong.stdout
    refused("weights", "tf", "wrong", "--only", "fc1*", "--only", "*.g.*", cwd=folder, says="no parameter fits '*.g.*'")
    some = run("weights", "tf", "wrong", "--only", "fc1*", "--only", "g", "--all", cwd=folder)
    assert [line.split()[1] for line in some.stdout.splitlines()[4:7]] == ["prelu/alpha", "fc1/kernel", "fc1/bias"]
    refused("weights", "tf", "nobody", cwd=folder, says="nobody")
    refused("weights", "--force", cwd=folder, says="are about the file of --export")


def test_the_json_is_as_documented(folder: Path) -> None:
    found = json.loads(run("weights", "tf", "wrong", "--json", cwd=folder, code=1).stdout)
    assert found["schema"] == "tracer-weights/1"
    assert (found["reference"], found["candidate"], found["equal"]) == ("tf", "wrong", False)
    assert found["counts"] == {
        "equal": 25, "differs": 2, "missing": 0, "extra": 0, "not-comparable": 0, "aside": 0,
    }  # fmt: skip
    (row,) = [row for row in found["rows"] if row["aligned"] == "fc2/kernel"]
    assert row["reference"] == [
        {"owner": "fc2", "name": "kernel", "shape": [12, 12], "dtype": "float32", "trainable": True}
    ]
    assert row["candidate"][0]["owner"] == "m"
    assert row["relation"] == "transpose"
    assert row["likeness"]["what"] == "initialised"
    assert row["figures"]["max_abs"] > 0.1
    assert found["summary"]["reference"]["not_trainable"] == 16
    assert found["summary"]["difference"]["parameters"] == {"count": 0, "percent": 0.0}


def test_a_parameter_is_exported_in_either_layout(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.npy"

    def export(name: str, *more: str) -> Any:
        run("weights", "tf", "right", "--export", name, out, *more, cwd=folder)
        return np.load(out)

    trace = tracer.open(folder / "trace.zarr")
    tf, pt = trace.recording("tf"), trace.recording("right")
    kernel, weight = (r.read_stored(r.weights[k]) for r, k in ((tf, ("fc1", "kernel")), (pt, ("l", "weight"))))
    np.testing.assert_array_equal(export("fc1/kernel"), kernel)
    refused("weights", "tf", "right", "--export", "fc1/kernel", out, cwd=folder, says="--force replaces it")
    np.testing.assert_array_equal(export("fc1/kernel", "--layout", "candidate", "--force"), weight)
    np.testing.assert_array_equal(export("l.weight", "--force"), weight)
    np.testing.assert_array_equal(export("l.weight", "--layout", "reference", "--force"), kernel)
    np.testing.assert_array_equal(export("fc1/kernel", "--side", "candidate", "--force"), weight)
    for name, words in (("fc1", "is several parameters"), ("fc1/kernal", "there is fc1/kernel")):
        refused("weights", "tf", "right", "--export", name, tmp_path / "x.npy", cwd=folder, says=words)
    assert not (tmp_path / "x.npy").exists()


def test_one_parameter_that_is_several_there_goes_to_several_files(trace_path: Path, tmp_path: Path) -> None:
    module = models.torch_sequence()
    ours = tracer.record(models.keras_sequence(), IDS, name="tf", trace=trace_path)
    fill(module, ours, record(module, trace_path, "pt"))
    record(module, trace_path, "right")
    out = tmp_path / "bias.npy"
    run("weights", "tf", "right", "--export", "lstm1/bias", out, "--layout", "candidate", cwd=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("bias"))
    assert names == ["bias.bias_hh_l0.npy", "bias.bias_ih_l0.npy"]
    total = sum(np.load(tmp_path / name) for name in names)
    np.testing.assert_allclose(total, (module.b.bias_ih_l0 + module.b.bias_hh_l0).detach(), rtol=1e-6)


def test_weights_that_were_not_recorded_or_are_damaged(folder: Path, tmp_path: Path) -> None:
    import shutil

    trace = tmp_path / "trace.zarr"
    shutil.copytree(folder / "trace.zarr", trace)
    tracer.record(models.torch_image(), None, name="bare", trace=trace, weights=False)
    refused("weights", "tf", "bare", cwd=tmp_path, code=3, says="holds no weights")
    recording = tracer.open(trace).recording("right")
    pack = recording.folder / VALUES
    damaged = bytearray(pack.read_bytes())
    damaged[damaged.index(recording.read_stored(recording.weights["l", "weight"]).tobytes()) + 9] ^= 1
    pack.write_bytes(damaged)
    done = run("weights", "tf", "right", cwd=tmp_path, code=3)
    assert "! 1 not comparable" in done.stdout


def test_parameters_that_hold_the_same_values_are_named(trace_path: Path) -> None:
    net = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(6, 6), nn.ReLU())))
    net[4].load_state_dict(net[0].state_dict())
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    ours = record(net, trace_path, "a", x)
    table = tracer.weights(ours, record(net, trace_path, "b"))
    assert table.tied[0] == (("0.weight", "4.weight"), ("0.bias", "4.bias"))
    assert "the same values in a: 0.weight = 4.weight" in str(table)
