"""What eager PyTorch lets a forward do: outputs of any kind, computed weights, wrappers, odd tensors."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tracer import kinds
from tracer.adapter import Array, MemorySink, NotRecorded
from tracer.graph import Structure
from tracer_torch import TorchAdapter


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def recorded(module: nn.Module, x: Array) -> tuple[Structure, dict[str, Any]]:
    model = TorchAdapter().wrap(module)
    inputs = {model.signature()[0].name: x}
    structure = model.structure(inputs)
    sink = MemorySink()
    model.capture(inputs, sink)
    assert list(sink.values) == [node.name for node in structure.stored()]
    return structure, sink.values


class Does(nn.Module):
    """Runs a function of itself and its input; modules by keyword."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = [function]
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function[0](self, x)


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


def noted(structure: Structure, text: str) -> bool:
    return any(text in note for note in structure.notes)


class Held:
    def __init__(self, logits: torch.Tensor, hidden: torch.Tensor, **more: Any) -> None:
        self.logits, self.hidden = logits, {"last": hidden}
        self.__dict__.update(more)


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


Pair = namedtuple("Pair", "first rest")


def test_outputs_of_any_class() -> None:
    inner = Does(lambda m, x: Held(m.fc(x), x * 2, config={"a": 1}), fc=linear())
    structure, _ = recorded(Does(lambda m, x: m.inner(x).logits + 1, inner=inner), random(3, 4))
    nodes = structure.by_name
    assert nodes["inner"].alias_of == "inner.fc"
    assert nodes["inner[hidden][last]"].alias_of == "inner.mul"
    assert structure.notes == ()
    cases: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
        (lambda m, x: Held(m.fc(x), x * 2), ("fc", "mul")),
        (lambda m, x: [Slotted(m.fc(x))], ("fc",)),
        (lambda m, x: Pair(m.fc(x), [x * 2, (x,)]), ("fc", "mul", "x")),
        (lambda m, x: torch.distributions.Normal(m.fc(x), torch.exp(x)), ("fc", "exp")),
    )
    for returned, outputs in cases:
        assert recorded(Does(returned, fc=linear()), random(3, 4))[0].outputs == outputs


def test_an_object_that_is_handed_through_is_no_output() -> None:
    class Cache:
        def __init__(self) -> None:
            self.keys: list[torch.Tensor] = []

    def step(m: Any, x: torch.Tensor, cache: Cache) -> tuple[torch.Tensor, Cache]:
        cache.keys.append(m.fc(x))
        return cache.keys[-1] * 2, cache

    class Step(Does):
        def forward(self, x: torch.Tensor, cache: Cache | None = None) -> Any:
            return self.function[0](self, x, cache)

    def run(m: Any, x: torch.Tensor) -> Any:
        cache = Cache()
        for part in (m.a, m.b):
            x, cache = part(x, cache)
        return {"x": x, "cache": cache}

    structure, _ = recorded(Does(run, a=Step(step, fc=linear()), b=Step(step, fc=linear())), random(3, 4))
    assert [node.name for node in structure] == ["x", "a.fc", "a.mul", "a", "b.fc", "b.mul", "b"]
    assert structure.outputs == ("b.mul", "a.fc", "b.fc")


def test_outputs_that_are_no_tensors_are_said() -> None:
    structure, _ = recorded(
        Does(lambda m, x: {"y": m.fc(x), "n": "text", "i": 3, "no": None}, fc=linear()), random(3, 4)
    )
    assert noted(structure, "besides tensors the model returns [n] str, [i] int")
    structure, values = recorded(Does(lambda m, x: float(m.fc(x).sum()), fc=linear()), random(3, 4))
    assert noted(structure, "the model returns no tensor but float")
    assert set(values) == {"x", "fc", "sum"}
    assert noted(recorded(Does(lambda m, x: None), random(3, 4))[0], "no tensor but None")
    inner = Does(lambda m, x: "text")
    structure, _ = recorded(Does(lambda m, x: (m.inner(x), m.fc(x))[1], inner=inner, fc=linear()), random(3, 4))
    assert noted(structure, "returned no tensor: inner (str)")


class Symmetric(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w.triu() + w.triu(1).T


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w + x @ self.w


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda m, name: parametrize.register_parametrization(m, name, Symmetric()),
        lambda m, name: parametrizations.weight_norm(m, name),
        lambda m, name: parametrizations.orthogonal(m, name),
        lambda m, name: nn.utils.weight_norm(m, name),
        lambda m, name: nn.utils.spectral_norm(m, name),
        lambda m, name: prune.l1_unstructured(m, name, 0.5),  # type: ignore[no-untyped-call]
    ],
)
def test_computed_weights_are_one_weight_and_no_steps(change: Callable[[nn.Module, str], Any]) -> None:
    own, fc = Own(), linear()
    change(own, "w")
    change(fc, "weight")
    net = nn.Sequential(own, fc)
    structure, values = recorded(net, random(3, 4))
    assert [node.name for node in structure] == ["input", "0.matmul", "0.matmul_1", "0.add", "0", "1"]
    assert structure.notes == ()
    params = {(owner, p.name): value for owner, p, value in TorchAdapter().wrap(net).parameters()}
    assert set(params) == {("0", "w"), ("1", "weight"), ("1", "bias")}
    assert [p.name for p in structure.by_name["0.matmul"].params] == ["w"]
    np.testing.assert_allclose(values["0.matmul"], random(3, 4) @ params["0", "w"], rtol=1e-4, atol=1e-5)
    wanted = values["0.add"] @ params["1", "weight"].T + params["1", "bias"]
    np.testing.assert_allclose(values["1"], wanted, rtol=1e-4, atol=1e-5)


def test_hooks_of_the_users_change_what_is_recorded() -> None:
    def with_hooks(module: nn.Module) -> nn.Module:
        module.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
        module.register_forward_hook(lambda m, args, output: output * 2)
        return module

    fc, box = with_hooks(linear()), with_hooks(nn.Sequential(nn.Tanh()))
    structure, values = recorded(nn.Sequential(fc, box), random(3, 4))
    with torch.no_grad():
        first = (fc(torch.from_numpy(random(3, 4)))).numpy()
    np.testing.assert_array_equal(values["0"], first)
    np.testing.assert_array_equal(values["add"], random(3, 4) + 1)
    np.testing.assert_array_equal(values["1.mul"], values["1.0"] * 2)
    assert structure.by_name["0"].parents == ("add",)
    assert structure.by_name["1"].alias_of == "1.mul"


def test_parts_that_torch_compiles_appear_once() -> None:
    part: Any = torch.compile(nn.Sequential(linear(), nn.ReLU()), backend="eager")

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice: Any = torch.compile(double, backend="eager")
    structure, _ = recorded(Does(lambda m, x: twice(m.part(x)), part=part), random(3, 4))
    assert [node.name for node in structure] == ["x", "part.0", "part.1", "part", "mul"]
    assert noted(structure, "compiled by torch.compile, recorded through their Python: part")


class Tagged(torch.Tensor):
    pass


def test_subclasses_of_tensor_keep_their_origin() -> None:
    structure, values = recorded(Does(lambda m, x: m.fc(x.as_subclass(Tagged)).relu(), fc=linear()), random(3, 4))
    assert {node.name: node.parents for node in structure} == {"x": (), "fc": ("x",), "relu": ("fc",)}
    assert type(values["relu"]) is np.ndarray
    assert structure.notes == ()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_tensors_without_plain_values_say_why() -> None:
    def nest(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.fc(torch.nested.as_nested_tensor([x[:1], x])).to_padded_tensor(0.0)  # type: ignore[no-any-return]

    structure, values = recorded(Does(nest, fc=linear()), random(3, 4))
    assert values["fc"] == NotRecorded("nested tensor")
    assert values["to_padded_tensor"].shape == (2, 3, 4)
    assert structure.notes == ()
    structure, values = recorded(Does(lambda m, x: torch.vmap(m.fc)(x), fc=linear()), random(3, 4))
    assert values["fc"] == NotRecorded("tensor inside a torch.func transform (vmap, grad)")
    assert noted(structure, "what made an output is not visible")
    assert structure.outputs == ("output",)


def test_padded_packed_and_projected() -> None:
    def run(m: Any, x: torch.Tensor) -> Any:
        y, (h, _) = m.lstm(pack_padded_sequence(x, [5, 4, 2], batch_first=True))
        return m.fc(pad_packed_sequence(y, batch_first=True)[0]), h

    lstm = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True, proj_size=3)
    structure, values = recorded(Does(run, lstm=lstm, fc=nn.Linear(6, 2)), random(3, 5, 4))
    assert structure.outputs == ("fc", "lstm[1][0]")
    assert structure.by_name["lstm"].parents == ("pack_padded_sequence", "pack_padded_sequence[1]")
    assert values["lstm"].shape == (11, 6)
    assert values["lstm[1][1]"].shape == (4, 3, 6)


def test_low_precision_and_autocast() -> None:
    def run(m: Any, x: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.a(x)
        return m.b(x.half()), y.float()

    structure, _ = recorded(Does(run, a=linear(), b=linear().half()), random(3, 4))
    assert {node.name: node.dtype for node in structure} == {
        "x": "float32", "a": "bfloat16", "half": "float16", "b": "float16", "float": "float32"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "kind", "config"),
    [
        (lambda x: x.clamp(-1, 1), "clip", {"min_value": -1, "max_value": 1}),
        (lambda x: torch.clip(x, max=3.0), "clip", {"max_value": 3.0}),
        (lambda x: x.clamp(0, 6), "relu6", {"min_value": 0, "max_value": 6}),
        (lambda x: x.clamp(min=0), "relu", {"min_value": 0}),
        (lambda x: x**2, "square", {"args": [2]}),
        (lambda x: torch.pow(x, 3), "power", {"args": [3]}),
        (lambda x: torch.einsum("bi,bj->bij", x, x), "matmul", {"args": ["bi,bj->bij"]}),
    ],
)
def test_kinds_that_the_frameworks_share(function: Any, kind: str, config: dict[str, Any]) -> None:
    node = recorded(Does(lambda m, x: function(x)), random(3, 4))[0].nodes[-1]
    assert (node.kind, dict(node.config)) == (kind, config)
    assert kind in kinds.KNOWN


def test_draws_in_evaluation_are_said_and_are_the_same_each_time() -> None:
    net = Does(lambda m, x: m.fc(x) + torch.randn_like(x), fc=linear())
    structure, first = recorded(net, random(3, 4))
    np.testing.assert_array_equal(recorded(net, random(3, 4))[1]["add"], first["add"])
    assert noted(structure, "draws random numbers in evaluation")
    assert not noted(recorded(Does(lambda m, x: F.relu(x)), random(3, 4))[0], "random")
