"""The PyTorch adapter records what a model really computes, and leaves the model as it was."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tracer.adapter import Array, LoadedModel, MemorySink, NotRecorded
from tracer.errors import InputError, ModelError
from tracer.graph import Structure
from tracer_torch import TorchAdapter


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def recorded(module: nn.Module, **inputs: Array) -> tuple[Structure, dict[str, Any]]:
    """Structure and values; checks what must hold for every model."""
    before = snapshot(module)
    model = TorchAdapter().wrap(module)
    structure = model.structure(inputs)
    sink = MemorySink()
    model.capture(inputs, sink)
    assert snapshot(module) == before
    assert list(sink.values) == [node.name for node in structure.stored()]
    seen: set[str] = set()
    for node in structure:
        assert set(node.parents) <= seen, f"{node.name} runs before its parents"
        assert node.alias_of is None or structure.by_name[node.alias_of].alias_of is None
        seen.add(node.name)
        value = sink.values.get(node.name)
        if isinstance(value, np.ndarray):
            assert (value.shape, str(value.dtype)) == (node.shape, node.dtype)
    assert len(seen) == len(structure)
    params = [(node.owner, param.name) for node in structure for param in node.params]
    assert len(params) == len(set(params))
    assert set(params) <= {(owner, param.name) for owner, param, _ in model.parameters()}
    assert Structure.from_json(structure.to_json()) == structure
    return structure, sink.values


def snapshot(module: nn.Module) -> list[Any]:
    return [
        (name, {k: repr(v) if k != "_parameters" else [(n, id(p)) for n, p in v.items()] for k, v in vars(m).items()})
        for name, m in module.named_modules()
    ]


def plain(module: nn.Module, *args: Array) -> Any:
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        return module(*[torch.from_numpy(a.copy()) for a in args])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm1d(4)
        self.act = nn.ReLU(inplace=True)
        self.gamma = nn.Parameter(torch.full((4, 1), 0.5))
        self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.bn(self.conv(x))) * self.gamma
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def test_in_place_activations_do_not_change_what_was_recorded_before() -> None:
    net = Residual()
    x = random(3, 4, 9)
    structure, values = recorded(net, x=x)
    with torch.no_grad():
        net.eval()
        bn = net.bn(net.conv(torch.from_numpy(x)))
        total = bn.relu() * net.gamma + torch.from_numpy(x)
    np.testing.assert_array_equal(values["x"], x)
    np.testing.assert_array_equal(values["bn"], bn.numpy())
    assert (values["bn"] < 0).any()
    np.testing.assert_array_equal(values["act"], bn.relu().numpy())
    np.testing.assert_array_equal(values["add"], total.numpy())
    np.testing.assert_array_equal(values["relu"], total.relu().numpy())
    assert structure.by_name["act"].alias_of is None
    assert structure.by_name["add"].parents == ("mul", "shortcut")
    assert structure.by_name["shortcut"].alias_of == "x"
    assert [p.name for p in structure.by_name["mul"].params] == ["gamma"]
    assert structure.outputs == ("relu",)


class Functional(nn.Module):
    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.weight = nn.Parameter(torch.randn(6, 3, 5))
        self.head = nn.Parameter(torch.randn(6, 2))
        self.register_buffer("mean", torch.zeros(3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x - self.mean, (2, 2))
        x = F.conv1d(x, self.weight, stride=2)
        x = F.relu(x)  # the module of that name is not called here
        x = F.max_pool1d(self.relu(x), 2)
        y = F.adaptive_avg_pool1d(x, 1).flatten(1)
        z = x.mean(dim=-1)
        w = torch.cat([y, z], 1)[:, :6]
        return torch.softmax(w @ self.head, dim=1).contiguous()


def test_functional_operations_are_nodes() -> None:
    structure, values = recorded(Functional(), x=random(3, 3, 40))
    kinds = {node.name: node.kind for node in structure}
    assert kinds == {
        "x": "input", "sub": "sub", "pad": "pad", "conv1d": "conv1d", "relu_1": "relu", "relu": "relu",
        "max_pool1d": "max_pool1d", "adaptive_avg_pool1d": "global_avg_pool", "flatten": "flatten",
        "mean": "global_avg_pool", "cat": "concat", "slice": "slice", "matmul": "dense", "softmax": "softmax",
    }  # fmt: skip
    nodes = structure.by_name
    assert nodes["cat"].parents == ("flatten", "mean")
    assert nodes["conv1d"].parents == ("pad",)
    assert [(p.name, p.shape) for p in nodes["conv1d"].params] == [("weight", (6, 3, 5))]
    assert (nodes["conv1d"].owner, nodes["conv1d"].role, nodes["conv1d"].layout) == ("", "op", "channels_first")
    assert [(p.name, p.trainable) for p in nodes["sub"].params] == [("mean", False)]
    assert nodes["conv1d"].config["strides"] == [2]
    for name in ("conv1d", "relu"):  # an operation, and a module
        assert "test_torch_adapter.py:" in str(nodes[name].source)
    np.testing.assert_array_equal(values["pad"][..., 2:-2], values["sub"])


def test_operations_that_the_models_writer_never_sees() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(x.shape[0], 2, 5)
            out[:, 0] = x[:, 0]
            out[:, 1:].add_(1)
            mask = out > 0
            return torch.where(mask, out, out.detach() * 2).transpose(1, 2)

    structure, _ = recorded(Net(), x=random(3, 2, 5))
    nodes = structure.by_name
    assert nodes["setitem"].parents == ("slice",)
    assert nodes["transpose"].config["permutation"] == [0, 2, 1]
    assert nodes["transpose"].parents == ("where",)
    assert {"setitem", "add"} <= set(nodes["where"].parents)
    assert "gt" not in nodes


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Tanh(), nn.Dropout(0.5)))
        self.twin = self.encoder
        self.block = Residual()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        a, b = self.encoder(first), self.twin(second)
        both = torch.stack([a, b, a, b], 1)
        both = self.block(self.block(both))
        return both, {"sum": a + b}


def test_modules_called_twice_are_told_apart_and_containers_are_aliases() -> None:
    structure, _ = recorded(Nested(), first=random(3, 6), second=random(3, 6) + 1)
    nodes = structure.by_name
    assert nodes["encoder.0#1"].parents == ("second",)
    assert nodes["encoder.0#0"].params
    assert not nodes["encoder.0#1"].params
    assert (nodes["encoder.1.1#0"].alias_of, nodes["encoder.1.1#0"].role) == ("encoder.1.0#0", "layer")
    assert (nodes["encoder#1"].alias_of, nodes["encoder#1"].role) == ("encoder.1.0#1", "container")
    assert nodes["block.add#1"].scope == nodes["block.add#1"].owner == "block"
    assert nodes["block.conv#1"].parents == ("block.relu#0",)
    assert nodes["block#1"].alias_of == "block.relu#1"
    assert structure.outputs == ("block.relu#1", "add")


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: dict[str, torch.Tensor]
    note: str = ""


def test_further_outputs_are_items() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

        def forward(self, x: torch.Tensor) -> Answer:
            y, (h, _) = self.lstm(x)
            z, _ = self.attention(y, y, y, need_weights=True)
            a, b = z.chunk(2, dim=1)
            return Answer(a * 2, {"h": h, "b": b})

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Recurrent()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).logits  # type: ignore[no-any-return]

    structure, values = recorded(Outer(), x=random(3, 6, 4))
    nodes = structure.by_name
    assert nodes["inner.lstm[1][1]"].parents == ("inner.lstm",)
    assert nodes["inner.lstm[1][0]"].role == nodes["inner.lstm[1][0]"].kind == "item"
    assert values["inner.lstm[1][0]"].shape == (1, 3, 5)
    assert nodes["inner.attention"].parents == ("inner.lstm",) * 3
    assert "out_proj.weight" in [p.name for p in nodes["inner.attention"].params]
    assert nodes["inner.attention[1]"].shape == (3, 6, 6)
    assert nodes["inner.mul"].parents == ("inner.chunk",)
    assert nodes["inner[hidden][b]"].alias_of == "inner.chunk[1]"
    assert nodes["inner"].alias_of == "inner.mul"


def test_weights_read_without_calling_their_module() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 4)
            self.fc = nn.Linear(4, 4)
            self.bias = nn.Parameter(torch.zeros(11))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = F.linear(self.table(ids), self.fc.weight, self.fc.bias)
            return F.linear(x, self.table.weight, self.bias)

    structure, _ = recorded(Tied(), ids=np.arange(6).reshape(2, 3) % 11)
    nodes = structure.by_name
    assert [p.name for p in nodes["table"].params] == ["weight"]
    assert (nodes["linear"].owner, [p.name for p in nodes["linear"].params]) == ("fc", ["weight", "bias"])
    assert (nodes["linear_1"].owner, [p.name for p in nodes["linear_1"].params]) == ("", ["bias"])
    spec = TorchAdapter().wrap(Tied()).signature()[0]
    assert (spec.name, spec.dtype, spec.maximum, spec.shape) == ("ids", "int64", 10, (None, None))


def test_user_modules_without_children_are_scopes() -> None:
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))
            self.unseen = nn.Parameter(torch.tensor([1.0, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.scale.view(1, 2)
            return torch.from_numpy(y.numpy() + self.unseen.detach().numpy())

    class Same(nn.Conv1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv1d(F.pad(x, (1, 1)), self.weight, self.bias)

    class Kept(nn.Conv1d):
        pass

    structure, _ = recorded(nn.Sequential(Affine()), input=random(3, 2))
    assert [node.name for node in structure] == ["input", "0.mul", "0"]
    assert [p.name for p in structure.by_name["0.mul"].params] == ["scale"]
    assert [p.name for p in structure.by_name["0"].params] == ["unseen"]
    assert structure.by_name["0"].alias_of is None
    structure, _ = recorded(nn.Sequential(Same(2, 3, 3), Kept(3, 3, 1)), input=random(3, 2, 7))
    assert {n.name: n.kind for n in structure} == {
        "input": "input", "0.pad": "pad", "0.conv1d": "conv1d", "0": "other:Same", "1": "conv1d",
    }  # fmt: skip


def test_a_root_that_is_one_layer_is_a_node() -> None:
    structure, _ = recorded(nn.Linear(3, 2), input=random(4, 3))
    assert [node.name for node in structure] == ["input", "linear"]
    assert structure.outputs == ("linear",)


@pytest.mark.parametrize(
    ("module", "shape", "kind"),
    [
        (nn.Conv1d(4, 8, 3, groups=4), (3, 4, 9), "depthwise_conv1d"),
        (nn.Conv2d(4, 8, 3, groups=2, padding="same"), (3, 4, 9, 9), "conv2d"),
        (nn.ConvTranspose2d(4, 8, 3), (3, 4, 5, 5), "conv_transpose2d"),
        (nn.LazyLinear(5), (3, 4), "dense"),
        (nn.AdaptiveAvgPool2d((1, 1)), (3, 4, 5, 5), "global_avg_pool"),
        (nn.AdaptiveAvgPool1d(2), (3, 4, 6), "adaptive_avg_pool"),
        (nn.AvgPool1d(2), (3, 4, 6), "avg_pool1d"),
        (nn.ReflectionPad1d(2), (3, 4, 6), "pad"),
        (nn.Upsample(scale_factor=2), (3, 4, 6), "upsample"),
        (nn.Flatten(), (3, 4, 6), "flatten"),
        (nn.Unflatten(1, (2, 2)), (3, 4), "reshape"),
        (nn.InstanceNorm1d(4), (3, 4, 6), "instancenorm"),
        (nn.Hardswish(), (3, 4), "hard_silu"),
    ],
)
def test_kinds_of_layers(module: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    if isinstance(module, nn.LazyLinear):
        model = TorchAdapter().wrap(nn.Sequential(module))
        structure = model.structure({"input": random(*shape)})
    else:
        structure, _ = recorded(nn.Sequential(module), input=random(*shape))
    assert structure.by_name["0"].kind == kind


def test_compiled_modules_are_recorded_through_their_python() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    inner: Any = torch.compile(net, backend="eager")
    model = TorchAdapter().wrap(inner)
    x = random(2, 4)
    inner(torch.from_numpy(x))  # compiled before the hooks come: they would not fire
    structure = model.structure({"input": x})
    assert [node.name for node in structure] == ["input", "0", "1"]
    assert any("torch.compile" in note for note in model.notes)
    tail: Any = torch.compile(nn.Sequential(nn.Linear(4, 3)), backend="eager")
    outer = nn.Sequential(nn.Linear(4, 4), tail)
    outer(torch.from_numpy(x))
    structure, _ = recorded(outer, input=x)
    assert "1.0" in structure.by_name


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bad = nn.Sequential(nn.Dropout(), nn.Linear(5, 1))
        self.armed = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        return self.bad(x) if self.armed else x


def test_a_model_that_raises_is_left_as_it_was() -> None:
    net = Raises()
    net.bad[0].eval()
    before = snapshot(net)
    model = TorchAdapter().wrap(net)
    with pytest.raises(InputError) as caught:
        model.structure({"x": random(2, 4)})
    assert re.search(r"x \(2, 4\) float32: RuntimeError: .* in 'bad.1' \(Linear\(in_features=5", str(caught.value))
    assert "\n" not in str(caught.value)
    assert snapshot(net) == before
    net.armed = False
    model.structure({"x": random(2, 4)})
    net.armed = True
    sink = MemorySink()
    with pytest.raises(ModelError, match=r"RuntimeError: .* in 'bad.1'"):
        model.capture({"x": random(2, 4)}, sink)
    assert list(sink.values) == ["x", "fc"]
    assert snapshot(net) == before
    assert torch.is_grad_enabled()


def test_an_exception_the_model_catches_is_no_failure() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raises = Raises()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.raises(x)  # type: ignore[no-any-return]
            except RuntimeError:
                y: torch.Tensor = self.fc(x)
                return y + 1

    structure, _ = recorded(Tries(), x=random(2, 4))
    assert structure.by_name["add"].scope == ""
    assert structure.outputs == ("add",)


def test_state_kept_in_buffers_is_put_back() -> None:
    class Counts(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            self.last = x[0]
            return x * self.steps

    net = Counts()
    steps = net.steps
    _, values = recorded(net, x=random(2, 4))
    assert float(net.steps) == 0
    assert net.steps is steps
    np.testing.assert_array_equal(values["mul"], random(2, 4))


def test_outputs_and_random_state_are_those_of_a_plain_run() -> None:
    net = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(36, 3)).train()
    x = random(3, 4, 9)
    state = torch.get_rng_state()
    structure, values = recorded(net, input=x)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(values[structure.outputs[0]], plain(net, x).numpy())
    assert net.training


def test_types_that_numpy_lacks() -> None:
    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.to(torch.bfloat16), x.to(torch.float8_e5m2), x.to_sparse() * 2, torch.view_as_complex(x).conj()]

    _, values = recorded(Casts(), x=random(3, 4, 2))
    np.testing.assert_array_equal(values["to"], random(3, 4, 2).astype(ml_dtypes.bfloat16))
    assert values["to_1"].dtype == np.dtype(ml_dtypes.float8_e5m2)
    assert values["mul"] == NotRecorded("sparse tensor")
    assert values["conj"].imag[0, 0] == -random(3, 4, 2)[0, 0, 1]


def test_a_sink_that_fails_does_not_break_the_forward() -> None:
    model = TorchAdapter().wrap(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    got: list[str] = []

    class Full(MemorySink):
        def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
            got.append(name)
            raise OSError("disk full")

    x = {"input": random(2, 4)}
    model.structure(x)
    with pytest.raises(OSError, match="disk full"):
        model.capture(x, Full())
    assert got == ["input", "0", "1"]


def models() -> Iterator[LoadedModel]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    yield TorchAdapter().wrap(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def test_transformer_layers_show_their_inside() -> None:
    for model in models():
        structure = model.structure({"src": random(2, 5, 8)})
        nodes = structure.by_name
        assert nodes["layers.0.self_attn"].kind == "attention"
        assert {"layers.1.add", "layers.1.norm2", "layers.0.relu"} <= set(nodes)
        assert nodes["layers.1.norm1"].parents == ("layers.1.add",)
        assert not any("out_proj" in name for name in nodes)
        assert any("fast path" in note for note in structure.notes)


def test_importing_the_adapter_imports_no_torch() -> None:
    code = (
        "import sys; from tracer_torch import TorchAdapter as T; from tracer.adapter import LoadRequest as R; "
        "from pathlib import Path; T.owns(3)\n"
        "try: T().preflight(R(Path('/nonexistent')))\n"
        "except ValueError: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=".", timeout=60)


def test_signatures() -> None:
    def of(module: nn.Module) -> list[Any]:
        return [(s.name, s.shape, s.layout) for s in TorchAdapter().wrap(module).signature()]

    assert of(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))) == [("input", (None, 3, None, None), "channels_first")]
    assert of(nn.LSTM(7, 3)) == [("input", (None, None, 7), None)]
    assert of(Nested()) == [("first", None, None), ("second", None, None)]
    assert of(nn.ReLU()) == [("input", None, None)]
    assert any("batch_first" in note for note in TorchAdapter().wrap(nn.LSTM(7, 3)).notes)
    with pytest.raises(InputError, match="no parameter 'y'; it takes input"):
        TorchAdapter().wrap(nn.ReLU()).structure({"y": random(2, 2), "input": random(2, 2)})
    with pytest.raises(InputError, match="wants an input 'second'"):
        TorchAdapter().wrap(Nested()).structure({"first": random(2, 6)})


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_normalised_weights_are_what_the_layer_computes_with() -> None:
    net = nn.Sequential(
        nn.utils.weight_norm(nn.Conv1d(4, 4, 1)),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 1)),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)),
        nn.utils.spectral_norm(nn.Linear(4, 4)),
    )
    structure, values = recorded(net, input=random(3, 4, 2))
    params = {(owner, param.name): value for owner, param, value in TorchAdapter().wrap(net).parameters()}
    assert set(params) == {(str(i), name) for i in (0, 1, 3, 4) for name in ("weight", "bias")}
    for below, name in (("2", "3"), ("3", "4")):
        expected = values[below] @ params[name, "weight"].T + params[name, "bias"]
        np.testing.assert_allclose(values[name], expected, rtol=1e-4, atol=1e-5)
    assert {p.name for p in structure.by_name["0"].params} == {"weight", "bias"}


def test_tensors_of_unknown_origin_are_reported() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.ones(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table

    structure, _ = recorded(nn.Sequential(Hidden()), input=random(2, 3))
    assert any("unknown origin" in note and " 0" in note for note in structure.notes)


def test_names_made_to_collide_stay_distinct() -> None:
    net = nn.Sequential()
    net.add_module("a[1][0]", nn.Linear(4, 4))
    net.add_module("a", nn.LSTM(4, 4))
    net.add_module("input", nn.Identity())
    recorded(net, input=random(3, 2, 4))


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = [function]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function[0](x)  # type: ignore[no-any-return]


W = torch.ones(6, 4, 3, 3)
FORMS: list[tuple[nn.Module, Any, str]] = [
    (nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2), ""),
    (nn.MaxPool2d(2), lambda x: torch.max_pool2d(x, [2]), "return_indices"),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), ""),
    (nn.AvgPool2d(2), lambda x: F.avg_pool2d(x, kernel_size=2), ""),
    (nn.AvgPool2d(3, 2, 1, True, False), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), ""),
    (nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True),
     lambda x: F.interpolate(x, None, 2.0, "bilinear", True), "antialias"),
    (nn.GELU(), F.gelu, ""),
    (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh"), ""),
    (nn.Softmax(1), lambda x: F.softmax(x, 1), ""),
    (nn.Softplus(), F.softplus, ""),
    (nn.Conv2d(4, 6, 3, bias=False), lambda x: F.conv2d(x, W), ""),
    (nn.Conv2d(4, 6, 3, padding="same", bias=False), lambda x: F.conv2d(x, W, padding="same"), ""),
    (nn.Conv2d(4, 6, 3, (2, 1), 1, 2, bias=False), lambda x: F.conv2d(x, W, None, (2, 1), 1, 2), ""),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, bias=False),
     lambda x: F.conv_transpose2d(x, W.transpose(0, 1), None, 2, 1, 1), ""),
]  # fmt: skip


@pytest.mark.parametrize(("module", "function", "besides"), FORMS)
def test_functions_say_what_their_modules_say(module: nn.Module, function: Any, besides: str) -> None:
    x = random(2, 4, 8, 8)
    wanted = recorded(nn.Sequential(module), input=x)[0].by_name["0"]
    found = recorded(Calls(function), x=x)[0].nodes[-1]
    assert found.kind == wanted.kind
    left, right = dict(found.config), dict(wanted.config)
    left.pop(besides, None)
    right.pop(besides, None)
    assert left == right


def test_dropout_that_is_always_on_shows_it() -> None:
    for function in (lambda x: F.dropout(x, 0.3), lambda x: torch.dropout(x, 0.3, True)):
        node = TorchAdapter().wrap(Calls(function)).structure({"x": random(2, 4)}).by_name["dropout"]
        assert (node.kind, node.config["rate"], node.config["training"]) == ("dropout", 0.3, True)
    node = recorded(Calls(lambda x: F.dropout(x, 0.3, False)), x=random(2, 4))[0].by_name["dropout"]
    assert node.config["training"] is False


def test_settings_too_deep_or_too_long_become_text() -> None:
    relu = nn.ReLU()
    cycle: list[Any] = []
    cycle.append(cycle)
    vars(relu).update(padding=cycle, size=list(range(10**6)))
    structure, _ = recorded(nn.Sequential(relu), input=random(2, 4))
    assert structure.by_name["0"].config["size"] == "list of 1000000"
    assert "list of 1" in str(structure.by_name["0"].config["padding"])
