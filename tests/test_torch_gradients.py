"""Gradients of the PyTorch adapter are those of plain autograd on the untouched model; training mode trains nothing."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import tracer
from tracer.adapter import Array, MemorySink, NotRecorded, Run
from tracer.errors import InputError, ModelError
from tracer.graph import Structure
from tracer_torch import TorchAdapter
from tracer_torch.tensors import walk


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def taken(module: nn.Module, loss: str | None = "square", mode: Any = "eval", **inputs: Array) -> tuple[Structure, Any]:
    """Structure, values and gradients; what must hold for every model is checked."""
    model = TorchAdapter().wrap(module)
    model.run = Run(mode, loss)
    structure = model.structure(inputs)
    sink = MemorySink()
    model.capture(inputs, sink)
    stored = [node.name for node in structure.stored()]
    assert list(sink.values) == stored
    if loss is None:
        return structure, sink
    assert set(sink.gradients) == set(stored)
    for name, gradient in sink.gradients.items():
        value = sink.values[name]
        if isinstance(gradient, np.ndarray) and isinstance(value, np.ndarray):
            assert (gradient.shape, gradient.dtype) == (value.shape, value.dtype), name
    trainable = {(owner, p.name): p.shape for owner, p, _ in model.parameters() if p.trainable}
    assert set(sink.weight_gradients) == set(trainable)
    for key, gradient in sink.weight_gradients.items():
        assert isinstance(gradient, NotRecorded) or gradient.shape == trainable[key]
    return structure, sink


def square(result: object) -> torch.Tensor:
    outputs = [tensor for _, tensor in walk(result) if tensor.is_floating_point()]
    return torch.stack([tensor.square().sum() / 2 for tensor in outputs]).sum()


def plain(
    module: nn.Module, *args: Array, loss: Callable[[object], torch.Tensor] = square, train: bool = False
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients of module outputs and of parameters, by ordinary backward() on a copy without in-place modules."""
    module = copy.deepcopy(module).train(train)
    seen: dict[str, torch.Tensor] = {}
    for name, part in module.named_modules():
        if hasattr(part, "inplace"):
            part.inplace = False

        def keep(_: nn.Module, __: object, output: object, name: str = name) -> None:
            first = next((tensor for _, tensor in walk(output)), None)
            if first is not None and first.requires_grad:
                first.retain_grad()
                seen[name] = first

        part.register_forward_hook(keep)
    tensors = [torch.from_numpy(a.copy()) for a in args]
    torch.manual_seed(0)
    loss(module(*[t.requires_grad_() if t.is_floating_point() else t for t in tensors])).backward()  # type: ignore[no-untyped-call]
    grads = {name: tensor.grad.numpy() for name, tensor in seen.items() if tensor.grad is not None}
    for index, tensor in enumerate(tensors):
        if tensor.grad is not None:
            grads[f"input {index}"] = tensor.grad.numpy()
    return grads, {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def agree(sink: Any, wanted: tuple[dict[str, Array], dict[str, Array]], inputs: tuple[str, ...] = ()) -> None:
    """Every gradient of ``wanted`` whose node was recorded, and every weight's, is that one."""
    nodes, weights = wanted
    renamed = {**nodes, **{name: nodes[f"input {i}"] for i, name in enumerate(inputs) if f"input {i}" in nodes}}
    compared = 0
    for name, gradient in renamed.items():
        if isinstance(sink.gradients.get(name), np.ndarray):
            np.testing.assert_allclose(sink.gradients[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)
            compared += 1
    assert compared >= 2
    found = {".".join(filter(None, key)): value for key, value in sink.weight_gradients.items()}
    assert set(weights) == {name for name, value in found.items() if isinstance(value, np.ndarray)}
    for name, gradient in weights.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)


class Block(nn.Module):
    """Residual, with every operation in place that can be."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)  # type: ignore[no-any-return]


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inplace = True
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(x), self.inplace))
        return self.head(self.drop(x.mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_in_place_residual_blocks(mode: Any) -> None:
    net, x = Cnn(), random(3, 3, 8, 8)
    structure, sink = taken(net, mode=mode, x=x)
    agree(sink, plain(net, x, train=mode == "train"), ("x",))
    # What was there before it was changed in place: the gradient goes through the ReLU.
    np.testing.assert_array_equal(
        sink.gradients["blocks.0.add"], sink.gradients["blocks.0.relu#1"] * (sink.values["blocks.0.add"] > 0)
    )
    np.testing.assert_array_equal(sink.gradients["blocks.0.bn2"], sink.gradients["blocks.0.add"])
    assert (structure.by_name["drop"].alias_of is None) == (mode == "train")


class Transformer(nn.Module):
    """Tied weights, attention, a table that is read by position."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.positions = nn.Parameter(torch.randn(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encoder(self.table(ids) + self.positions[: ids.shape[1]])
        return {"logits": self.head(hidden), "hidden": hidden}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_transformers_and_tied_weights(mode: Any) -> None:
    net, ids = Transformer(), np.arange(10).reshape(2, 5) % 7
    _, sink = taken(net, mode=mode, ids=ids)
    agree(sink, plain(net, ids, train=mode == "train"))
    assert sink.gradients["ids"] == NotRecorded("int64 tensor: no gradient")
    assert ("head", "weight") not in sink.weight_gradients
    assert isinstance(sink.weight_gradients["table", "weight"], np.ndarray)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (h, _) = self.lstm(x)
        state = torch.zeros(x.shape[0], 5)
        for step in range(y.shape[1]):
            state = self.cell(y[:, step], state)
        return state, h


def test_recurrent_layers_and_modules_called_many_times() -> None:
    net, x = Recurrent(), random(2, 4, 3)
    structure, sink = taken(net, x=x)
    agree(sink, plain(net, x), ("x",))  # of a module called several times the last call is compared
    assert [node.name for node in structure if node.owner == "cell"] == [f"cell#{i}" for i in range(4)]
    np.testing.assert_array_equal(sink.gradients["lstm[1][0]"], sink.values["lstm[1][0]"])
    assert sink.gradients["lstm[1][1]"] == NotRecorded("the loss does not depend on it")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_computed_anew_have_the_gradient_of_what_was_computed() -> None:
    net: Any = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.utils.spectral_norm(nn.Linear(4, 4)),
    )
    net[1].parametrizations.weight.original0.requires_grad_(False)
    net[1].parametrizations.weight.original1.requires_grad_(False)
    structure, sink = taken(net, input=random(3, 4))
    # y = x W' + b for each of them, so that W's gradient is the output's and the input's.
    for index, below in enumerate(("input", "0", "1", "2")):
        if index != 1:
            wanted = sink.gradients[str(index)].T @ sink.values[below]
            np.testing.assert_allclose(sink.weight_gradients[str(index), "weight"], wanted, rtol=1e-4, atol=1e-5)
    assert ("1", "weight") not in sink.weight_gradients
    assert not next(p for p in structure.by_name["1"].params if p.name == "weight").trainable


@dataclass
class Answer:
    logits: torch.Tensor
    more: OrderedDict[str, Any]
    note: str = "text"


class Cuts(nn.Module):
    """What has no gradient: integers, what ran without autograd, what leads nowhere, what is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student, self.aside = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Answer:
        with torch.no_grad():
            target = self.teacher(x)
        y = self.frozen(self.student(x))
        self.aside(x)
        return Answer(y - target, OrderedDict(best=y.argmax(1), none=None, half=y.detach().sigmoid()))


def test_what_has_no_gradient_says_why() -> None:
    net, x = Cuts(), random(3, 4)
    _, sink = taken(net, "sum", x=x)
    y = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(sink.gradients["frozen"], y)
    np.testing.assert_array_equal(sink.gradients["student"], y @ net.frozen.weight.numpy())
    reasons = {name: value.reason for name, value in sink.gradients.items() if isinstance(value, NotRecorded)}
    assert set(reasons) == {"teacher", "aside", "argmax", "sigmoid"}
    assert reasons["argmax"] == "int64 tensor: no gradient"
    assert reasons["aside"] == "the loss does not depend on it"
    assert "no_grad" in reasons["teacher"]
    assert {key for key, value in sink.weight_gradients.items() if isinstance(value, np.ndarray)} == {
        ("student", "weight"), ("student", "bias")
    }  # fmt: skip
    assert {owner for owner, _ in sink.weight_gradients} == {"teacher", "student", "aside"}


def test_the_three_losses() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x * 2, {"b": (x[:1] * 3).to(torch.bfloat16), "n": x.argmax()}

    x = random(2, 3)
    a, b = x * 2, (x[:1] * 3).astype("float32")
    for loss, wanted in (("sum", 1.0), ("mean", 1 / 9)):
        _, sink = taken(Two(), loss, x=x)
        np.testing.assert_allclose(sink.gradients["mul"], np.full((2, 3), wanted), rtol=1e-6)
        np.testing.assert_allclose(sink.gradients["to"].astype("float32"), np.full((1, 3), wanted), rtol=1e-2)
    _, sink = taken(Two(), "square", x=x)
    np.testing.assert_allclose(sink.gradients["mul"], a, rtol=1e-6)
    np.testing.assert_allclose(sink.gradients["to"].astype("float32"), b, rtol=1e-2)


def cross_entropy(result: Any) -> torch.Tensor:
    return F.cross_entropy(result, torch.tensor([0, 1, 2]))


def test_a_loss_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), random(3, 4)
    _, sink = taken(net, f"{Path(__file__)}:cross_entropy", input=x)
    agree(sink, plain(net, x, loss=cross_entropy), ("input",))
    file = tmp_path / "losses_of_mine.py"
    file.write_text(
        "import torch\n"
        "def vector(y): return y.sum(0)\n"
        "def number(y): return float(y.sum().detach())\n"
        "def cut(y): return y.detach().sum()\n"
        "def broken(y): return y['logits']\n"
        "def whole(y): return y.argmax()\n"
        "plain = 3\n"
    )
    for name, match in {
        "vector": r"gave a Tensor of shape \(3,\) and type float32, not a scalar",
        "number": "gave a float, not a scalar tensor",
        "cut": "cut off from the model",
        "broken": "raised IndexError|raised TypeError",
        "whole": "type int64, not a scalar tensor of floating type",
        "plain": "is a int, not a callable",
        "none": "has no 'none'",
    }.items():
        model = TorchAdapter().wrap(net)
        model.run = Run(loss=f"{file}:{name}")
        with pytest.raises(InputError, match=match) as caught:
            model.structure({"input": x})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tail", "match"),
    [
        (lambda y: y.argmax(1), "returns no floating tensor; --grad pkg.mod:callable"),
        (lambda y: y.detach(), "cut off from weights and inputs"),
    ],
)
def test_an_output_without_gradient_is_refused_before_anything_is_recorded(tail: Any, match: str) -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tail(self.fc(x))  # type: ignore[no-any-return]

    model = TorchAdapter().wrap(Tail())
    model.run = Run(loss="sum")
    with pytest.raises(InputError, match=match):
        model.structure({"x": random(2, 4)})


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * 7


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: Any = Scaled.apply
        reversed_: Any = Reversed.apply
        x = checkpoint(self.part, scaled(self.a(x)), use_reentrant=False)
        return self.c(reversed_(x))  # type: ignore[no-any-return]

    def part(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.b(x))


def test_custom_functions_and_checkpointed_parts() -> None:
    net, x = Custom(), random(3, 4)
    structure, sink = taken(net, x=x)
    agree(sink, plain(net, x), ("x",))
    assert [node.owner for node in structure].count("b") == 1
    np.testing.assert_allclose(sink.gradients["a"], sink.gradients["mul"] * 7, rtol=1e-6)
    assert structure.by_name["b"].parents == ("mul",)
    assert "tanh" in {parent for node in structure for parent in node.parents}
    assert not any("unknown origin" in note for note in structure.notes)


class Reenters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda y: self.b(y).tanh(), self.a(x), use_reentrant=True)  # type: ignore[no-any-return]


def test_reentrant_checkpoints_have_the_gradients_of_their_weights() -> None:
    net, x = Reenters(), random(3, 4)
    net.b.bias.grad = kept = torch.ones(4)
    _, sink = taken(net, x=x)
    agree(sink, plain(net, x), ("x",))
    assert "checkpoint" in sink.gradients["b"].reason
    assert net.b.bias.grad is kept
    assert (kept == 1).all()
    assert net.a.weight.grad is None


class Spoils(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(self.fc(x))
        z = y * 2
        y.zero_()
        return z


def test_a_backward_that_raises_keeps_the_values() -> None:
    net = Spoils()
    model = TorchAdapter().wrap(net)
    model.run = Run(loss="sum")
    sink = MemorySink()
    structure = model.structure({"x": random(2, 4)})
    with pytest.raises(ModelError, match=r"no gradients: RuntimeError: .*modified by an inplace operation") as caught:
        model.capture({"x": random(2, 4)}, sink)
    assert re.search(r"expected version 0 instead, going backward from 'sigmoid'; the values are", str(caught.value))
    assert "\n" not in str(caught.value)
    assert list(sink.values) == [node.name for node in structure.stored()]
    assert all(p.grad is None for p in net.parameters())


def test_inputs_that_may_not_require_gradients() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.from_numpy(x.numpy() * 2)
            y.requires_grad = True
            return self.fc(y)  # type: ignore[no-any-return]

    structure, sink = taken(Own(), x=random(3, 4))
    assert any("no gradients of the inputs" in note for note in structure.notes)
    assert isinstance(sink.gradients["x"], NotRecorded)
    assert isinstance(sink.gradients["fc"], np.ndarray)
    assert isinstance(sink.weight_gradients["fc", "weight"], np.ndarray)


def test_modules_with_backward_hooks() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)))
    x = random(3, 4)
    called: list[int] = []
    for part in (net[0], net[1], net[1][0]):
        part.register_full_backward_hook(lambda module, below, above: called.append(1))
    structure, sink = taken(net, input=x)
    agree(sink, plain(net, x), ("input",))
    assert {node.name: node.parents for node in structure} == {
        "input": (), "0": ("input",), "1.0": ("0",), "1.1": ("1.0",), "1": ("0",),
    }  # fmt: skip
    assert not any("unknown origin" in note for note in structure.notes)


def test_only_what_the_sink_wants_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer_torch import model as module_of_the_model

    module: Any = module_of_the_model
    copied: list[int] = []
    real = module.taken

    def counted(tensor: torch.Tensor) -> Any:
        copied.append(1)
        return real(tensor)

    monkeypatch.setattr(module, "taken", counted)
    model = TorchAdapter().wrap(Cnn())
    model.run = Run(loss="sum")
    sink = MemorySink(only=frozenset({"blocks.0.bn1", "head"}))
    model.capture({"x": random(2, 3, 8, 8)}, sink)
    assert list(sink.values) == ["blocks.0.bn1", "head"]
    assert set(sink.gradients) == {"blocks.0.bn1", "head"}
    assert len(copied) == 2


def test_structures_of_several_inputs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    passes: list[int] = []
    net.register_forward_pre_hook(lambda module, args: passes.append(1))
    model = TorchAdapter().wrap(net)
    for batch in (2, 3, 2, 3):
        assert model.structure({"input": random(batch, 4)}).by_name["0"].shape == (batch, 4)
    assert len(passes) == 2
    for batch in range(1, 40):
        model.structure({"input": random(batch, 4)})
    assert len(model._known) < 20  # type: ignore[attr-defined]


def test_training_mode_draws_the_same_each_time_and_trains_nothing() -> None:
    net: Any = Cnn().eval()
    x = random(4, 3, 8, 8)
    net.blocks[0].bn1.running_mean.fill_(0.25)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, again = taken(net, None, "train", x=x)[1], taken(net, None, "train", x=x)[1]
    assert (first.values["drop"] == 0).any()
    for name, value in first.values.items():
        np.testing.assert_array_equal(value, again.values[name])
    bn, conv = first.values["blocks.0.bn1"], first.values["blocks.0.conv1"]
    wanted = (conv - conv.mean((0, 2, 3), keepdims=True)) / np.sqrt(conv.var((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(bn, wanted, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    model = TorchAdapter().wrap(net)
    kept = {(owner, p.name): value for owner, p, value in model.parameters()}
    assert (kept["blocks.0.bn1", "running_mean"] == 0.25).all()


def test_parts_that_were_frozen_stay_frozen_in_training_mode() -> None:
    net: Any = Cnn().train()
    net.blocks[0].eval()
    structure, sink = taken(net, None, "train", x=random(4, 3, 8, 8))
    frozen, live = (sink.values[f"blocks.{i}.bn1"].mean((0, 2, 3)) for i in (0, 1))
    assert abs(live).max() < 1e-4 < abs(frozen).max()
    assert any("kept in evaluation mode, as found: blocks.0" in note for note in structure.notes)
    assert not net.blocks[0].training
    assert net.blocks[1].training


def test_gradients_are_stored_under_the_names_of_the_values(tmp_path: Path) -> None:
    net, x = Cnn(), random(3, 3, 8, 8)
    recording = tracer.record(net, x, trace=tmp_path / "t.zarr", mode="train", loss="square")
    assert recording.state == "complete"
    assert recording.attributes["mode"] == "train"
    assert set(recording.gradients) == set(recording.activations)
    _, sink = taken(net, mode="train", x=x)
    np.testing.assert_array_equal(recording.read_gradient("blocks.0.bn1"), sink.gradients["blocks.0.bn1"])


def test_a_wrong_loss_is_not_blamed_on_the_input(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"^--grad '[^']*:nosuch': .* has no 'nosuch'$"):
        tracer.record(net, random(3, 3, 8, 8), trace=tmp_path / "t.zarr", loss=f"{__file__}:nosuch")
    assert not (tmp_path / "t.zarr").exists()


def test_weights_made_in_inference_mode_have_no_gradients(trace_path: Path) -> None:
    x = random(2, 3)
    with torch.inference_mode(), pytest.raises(ModelError, match=r"'0\.weight' was made in torch\.inference_mode"):
        tracer.record(nn.Sequential(nn.Linear(3, 2)), x, trace=trace_path, loss="sum")
    outside = nn.Sequential(nn.Linear(3, 2))
    with torch.inference_mode():
        recording = tracer.record(outside, x, trace=trace_path, name="outside", loss="sum")
    np.testing.assert_array_equal(recording.read_gradient("0"), np.ones((2, 2)))
