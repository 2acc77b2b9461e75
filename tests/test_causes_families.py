"""Causes of defects that no recording states, and of weights: one small model for each, recorded as it runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from benchmarks.corpus.mutations.subject import around
from tracer import relations
from tracer.causes.explain import explain
from tracer.causes.fingerprints import seen
from tracer.compare.comparing import diff
from tracer.store import Trace

Spoil = Callable[[Any], None]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Any, Path]]:
    """Each model with its input and the trace in which it was recorded."""
    found = {}
    for name, make in {"pictures": pictures, "upwards": upwards, "squares": squares, "attending": attending}.items():
        torch.manual_seed(0)
        found[name] = (*make(), tmp_path_factory.mktemp(name) / "trace.zarr")
    for kind in (nn.LSTM, nn.GRU):
        torch.manual_seed(0)
        found[kind.__name__] = (*sequence(kind), tmp_path_factory.mktemp(kind.__name__) / "trace.zarr")
    for model, values, place in found.values():
        tracer.record(model, values.numpy(), trace=place, name="reference")
    return found


def findings(made: tuple[nn.Module, Any, Path], spoil: Spoil, name: str) -> list[Any]:
    """What is found of a model against itself with a defect."""
    model, values, place = made
    worse = copy.deepcopy(model)
    spoil(worse)
    tracer.record(worse, values.numpy(), trace=place, name=name)
    trace = Trace.open(place)
    compared = diff(trace.recording("reference"), trace.recording(name))
    return [one for one in explain(compared, seconds=20).findings if one.status != "latent"]


def assert_named(found: list[Any], wanted: str) -> None:
    assert [set(one.names) for one in found] == [{wanted}], [
        (one.pair, one.names, one.notes, one.seen) for one in found
    ]
    assert found[0].after <= found[0].floor < found[0].before


# --- models ------------------------------------------------------------------------------------------------------


def trained(model: nn.Module) -> nn.Module:
    """With statistics and weights of a norm that are not those of a new one."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.3, 2)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.InstanceNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return model.eval()


def pictures() -> tuple[nn.Module, torch.Tensor]:
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.1)]
    then = [nn.Conv2d(6, 8, 3, 2, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)]
    last = [nn.Flatten(), nn.Linear(8 * 3 * 2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Softmax(1)]
    model = nn.Sequential(*first, *then, *last)
    return trained(model), torch.randn(5, 3, 10, 8)


def upwards() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(
        nn.Linear(7, 24), nn.GELU(), nn.Unflatten(1, (4, 3, 2)), nn.ConvTranspose2d(4, 8, 3, 2, padding=1),
        nn.ReLU(), nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Sigmoid(),
    )  # fmt: skip
    return trained(model), torch.randn(5, 7)


def squares() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.ELU(),
        nn.InstanceNorm2d(4, affine=True), nn.Upsample(size=(3, 3), mode="bilinear"), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    return trained(model), torch.randn(4, 2, 7, 7)


class Sequence(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.norm = nn.LayerNorm(6)
        self.rnn = kind(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out = self.rnn(self.norm(self.table(ids)))[0]
        return self.head(out[:, -1])


def sequence(kind: type[nn.Module] = nn.LSTM) -> tuple[nn.Module, torch.Tensor]:
    return trained(Sequence(kind)), torch.randint(3, 17, (4, 9))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.first = nn.Linear(12, 12)
        self.last = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.last(torch.relu(self.first(x)))


def attending() -> tuple[nn.Module, torch.Tensor]:
    model = Attending()
    nn.init.normal_(model.attention.in_proj_bias)
    return trained(model), torch.randn(4, 7, 12)


# --- defects -----------------------------------------------------------------------------------------------------


def instead(path: str, run: Callable[..., Any]) -> Spoil:
    """Another computation in a layer that is recorded as what it was: ``run(layer, forward, *inputs)``."""

    def spoil(model: nn.Module) -> None:
        layer = model.get_submodule(path)
        around(layer, lambda forward, *args, **named: run(layer, forward, *args, **named))

    return spoil


def rewritten(path: str, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    """Another weight."""

    def spoil(model: nn.Module) -> None:
        value = getattr(model.get_submodule(path), name)
        with torch.no_grad():
            value.copy_(change(value.detach().clone()))

    return spoil


def layernorm(x: torch.Tensor, layer: nn.LayerNorm, axis: int = -1, eps: float = 1e-5, ddof: int = 0) -> torch.Tensor:
    mean, var = x.mean(axis, keepdim=True), x.var(axis, keepdim=True, correction=ddof)
    return (x - mean) / torch.sqrt(var + eps) * layer.weight + layer.bias


def batchnorm(x: torch.Tensor, layer: nn.BatchNorm2d, **changed: Any) -> torch.Tensor:
    own = {"weight": layer.weight, "bias": layer.bias, "training": False, "eps": layer.eps} | changed
    return F.batch_norm(x, layer.running_mean.clone(), layer.running_var.clone(), **own)


def convolved(x: torch.Tensor, layer: nn.Conv2d, **changed: Any) -> torch.Tensor:
    own = {"weight": layer.weight, "bias": layer.bias, "stride": layer.stride, "padding": layer.padding}
    return F.conv2d(x, **(own | {"groups": layer.groups} | changed))


def taken(model: nn.Module) -> None:
    model.first.load_state_dict(model.last.state_dict())


def halved(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    weight, bias = layer.weight.bfloat16(), layer.bias.bfloat16()
    return F.linear(x.bfloat16(), weight, bias).float()


def regated(order: list[int]) -> Spoil:
    """The gates of all weights in another order."""

    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            for weight in model.rnn.parameters():
                weight.copy_(weight.unflatten(0, (len(order), 5))[order].flatten(0, 1).clone())

    return spoil


def projected(change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    """Another order of the outputs of a fused projection."""

    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            for weight in (model.attention.in_proj_weight, model.attention.in_proj_bias):
                weight.copy_(change(weight.detach().clone()))

    return spoil


def headed(w: torch.Tensor) -> torch.Tensor:
    return torch.cat([w[:24], w[24:].unflatten(0, (3, 4)).transpose(0, 1).flatten(0, 1)])


def causal(layer: nn.Module, forward: Any, q: Any, k: Any, v: Any, **named: Any) -> Any:
    return forward(q, k, v, need_weights=False, attn_mask=torch.triu(torch.ones(7, 7, dtype=torch.bool), 1))


def larger(x: torch.Tensor, **named: Any) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, **named)


def turned(weight: torch.Tensor) -> torch.Tensor:
    return weight.unflatten(0, (2, 2)).transpose(0, 1).flatten(0, 1)


PICTURES: list[tuple[str, Spoil]] = [
    ("bn-eps", instead("1", lambda m, f, x: batchnorm(x, m, eps=1e-3))),
    ("bn-mode", instead("1", lambda m, f, x: batchnorm(x, m, training=True))),
    ("bn-stats", instead("1", lambda m, f, x: batchnorm(x, m, weight=m.bias, bias=m.weight))),
    ("bn-stats", rewritten("1", "running_var", torch.sqrt)),
    ("bn-stats", rewritten("1", "running_mean", torch.zeros_like)),
    ("activation-param", instead("2", lambda m, f, x: F.leaky_relu(x, 0.3))),
    ("activation-kind", instead("4", lambda m, f, x: F.silu(x))),
    ("activation-missing", instead("4", lambda m, f, x: x * 1)),
    ("activation-extra", instead("3", lambda m, f, x: F.tanh(f(x)))),
    ("pad-mode", instead("0", lambda m, f, x: convolved(F.pad(x, (1, 1, 1, 1), "reflect"), m, padding=0))),
    ("pad-asymmetry", instead("3", lambda m, f, x: convolved(F.pad(x, (0, 1, 0, 1)), m, padding=0))),
    ("dilation", instead("0", lambda m, f, x: convolved(x, m, padding=2, dilation=2))),
    ("kernel-flip", instead("0", lambda m, f, x: convolved(x, m, weight=m.weight.flip(2, 3)))),
    ("kernel-layout", instead("0", lambda m, f, x: convolved(x, m, weight=m.weight.transpose(2, 3)))),
    ("kernel-layout", rewritten("0", "weight", lambda w: w.transpose(2, 3))),
    ("kernel-flip", rewritten("3", "weight", lambda w: w.flip(2, 3))),
    ("bias-missing", instead("3", lambda m, f, x: convolved(x, m, bias=None))),
    ("channel-order", instead("0", lambda m, f, x: f(x.flip(1)))),
    ("channel-order", rewritten("3", "weight", lambda w: w[:, torch.randperm(6)])),
    ("input-scale", instead("0", lambda m, f, x: f(x / 255))),
    ("input-normalisation", instead("0", lambda m, f, x: f((x - 0.45) / 0.225))),
    ("input-normalisation", instead("0", lambda m, f, x: f((x - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
                                                           / torch.tensor([0.229, 0.224, 0.225])[:, None, None]))),
    ("pool-kind", instead("5", lambda m, f, x: F.max_pool2d(x, 3, 2, 1))),
    ("pool-count-include-pad", instead("5", lambda m, f, x: F.avg_pool2d(x, 3, 2, 1))),
    ("flatten-order", instead("6", lambda m, f, x: x.movedim(1, -1).flatten(1))),
    ("dense-row-order", rewritten("7", "weight", lambda w: w.unflatten(1, (8, 3, 2)).movedim(1, -1).flatten(1))),
    ("dense-transpose", rewritten("9", "weight", lambda w: w.t())),
    ("dense-transpose", instead("9", lambda m, f, x: F.linear(x, m.weight.t(), m.bias))),
    ("bias-missing", rewritten("9", "bias", torch.zeros_like)),
    ("dtype", instead("7", lambda m, f, x: halved(x, m))),
    ("dtype", rewritten("7", "weight", lambda w: w.half().float())),
    ("scale", instead("9", lambda m, f, x: f(x) * 1.7)),
    ("softmax-axis", instead("10", lambda m, f, x: F.softmax(x, 0))),
    ("logits", instead("10", lambda m, f, x: F.log_softmax(x, 1))),
    ("weights-perturbed", rewritten("3", "weight", lambda w: w + 0.05 * w.std() * torch.randn_like(w))),
    ("weights-not-loaded", rewritten("3", "weight", lambda w: torch.empty_like(w).uniform_(-0.136, 0.136))),
]  # fmt: skip

UPWARDS: list[tuple[str, Spoil]] = [
    ("gelu-approx", instead("1", lambda m, f, x: F.gelu(x, approximate="tanh"))),
    ("activation-kind", instead("1", lambda m, f, x: F.elu(x, 0.7))),
    ("reshape-order", instead("2", lambda m, f, x: x.reshape(-1, 3, 2, 4).movedim(-1, 1))),
    ("transposed-conv-shift", instead("3", lambda m, f, x: F.conv_transpose2d(x, m.weight, m.bias, 2)[..., :5, :3])),
    ("depth-to-space-order", instead("5", lambda m, f, x: f(x.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2)))),
    ("resize-align-corners", instead("6", lambda m, f, x: larger(x, mode="bilinear", align_corners=True))),
    ("resize-mode", instead("6", lambda m, f, x: larger(x, mode="nearest"))),
    ("depthwise-order", instead("7", lambda m, f, x: convolved(x, m, weight=turned(m.weight)))),
    ("depthwise-order", rewritten("7", "weight", lambda w: turned(w))),
]  # fmt: skip


def squashed(layer: nn.LSTM, forward: Any, x: torch.Tensor) -> Any:
    """Gates by a hard sigmoid."""
    h = c = torch.zeros(len(x), 5)
    out = []
    for step in x.unbind(1):
        both = F.linear(step, layer.weight_ih_l0, layer.bias_ih_l0) + F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
        i, f, g, o = both.chunk(4, 1)
        i, f, o = (torch.clamp(0.2 * gate + 0.5, 0, 1) for gate in (i, f, o))
        c = f * c + i * torch.tanh(g)
        h = o * torch.tanh(c)
        out.append(h)
    return torch.stack(out, 1), (h[None], c[None])


def reset_before(layer: nn.GRU, forward: Any, x: torch.Tensor) -> Any:
    """The reset gate on the state, not on its product."""
    h = torch.zeros(len(x), 5)
    out = []
    for step in x.unbind(1):
        given = F.linear(step, layer.weight_ih_l0, layer.bias_ih_l0).chunk(3, 1)
        back = F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0).chunk(3, 1)
        r, z = torch.sigmoid(given[0] + back[0]), torch.sigmoid(given[1] + back[1])
        new = torch.tanh(given[2] + F.linear(r * h, layer.weight_hh_l0[10:], layer.bias_hh_l0[10:]))
        h = z * h + (1 - z) * new
        out.append(h)
    return torch.stack(out, 1), h[None]


SQUARES: list[tuple[str, Spoil]] = [
    ("axis-permutation", instead("0", lambda m, f, x: f(x).transpose(2, 3))),
    ("shift", instead("0", lambda m, f, x: F.pad(f(x), (1, -1)))),
    ("pool-kind", instead("2", lambda m, f, x: F.avg_pool2d(x, 2, 1))),
    ("residual-extra", instead("3", lambda m, f, x: f(x) + x)),
    ("block-extra", instead("3", lambda m, f, x: F.layer_norm(f(x), (6,)))),
    ("block-missing", instead("3", lambda m, f, x: x * 1)),
    ("bias-missing", instead("3", lambda m, f, x: f(x) + m.bias[:, None, None])),
    ("activation-param", instead("4", lambda m, f, x: F.elu(x, 0.35))),
    ("ln-eps", instead("5", lambda m, f, x: F.instance_norm(x, weight=m.weight, bias=m.bias, eps=1e-2))),
    ("resize-antialias", instead("6", lambda m, f, x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True))),
    ("pool-kind", instead("7", lambda m, f, x: F.adaptive_max_pool2d(x, 1))),
]

SEQUENCES: list[tuple[str, Spoil]] = [
    ("embedding-offset", instead("table", lambda m, f, ids: f(ids + 2))),
    ("embedding-offset", rewritten("table", "weight", lambda w: w.roll(1, 0))),
    ("embedding-scale", instead("table", lambda m, f, ids: f(ids) * 6**0.5)),
    ("std-ddof", instead("norm", lambda m, f, x: layernorm(x, m, ddof=1))),
    ("norm-axis", instead("norm", lambda m, f, x: layernorm(x, m, axis=1))),
    ("ln-eps", instead("norm", lambda m, f, x: layernorm(x, m, eps=1e-3))),
    ("rnn-direction", instead("rnn", lambda m, f, x: f(x.flip(1)))),
    ("rnn-bias", rewritten("rnn", "bias_hh_l0", torch.zeros_like)),
    ("lstm-gate-order", regated([0, 2, 1, 3])),
    ("rnn-activation", instead("rnn", squashed)),
    ("activation-extra", instead("head", lambda m, f, x: torch.tanh(f(x)))),
]  # fmt: skip

GATED: list[tuple[str, Spoil]] = [
    ("gru-gate-order", regated([1, 0, 2])),
    ("gru-reset-after", instead("rnn", reset_before)),
    ("rnn-bias", rewritten("rnn", "bias_ih_l0", torch.zeros_like)),
]

ATTENDING: list[tuple[str, Spoil]] = [
    ("attention-mask", instead("attention", causal)),
    ("attention-scale", projected(lambda w: torch.cat([w[:12] * 2, w[12:]]))),
    ("qkv-order", projected(lambda w: w.unflatten(0, (3, 12))[[2, 1, 0]].flatten(0, 1))),
    ("head-layout", projected(headed)),
    ("weights-swapped", taken),
    ("residual-extra", instead("first", lambda m, f, x: f(x) + x)),
    ("activation-extra", instead("last", lambda m, f, x: f(F.silu(x)))),
]


def listed(cases: list[tuple[str, Spoil]]) -> Any:
    return pytest.mark.parametrize(
        ("name", "wanted", "spoil"), [(f"{k}-{wanted}", wanted, spoil) for k, (wanted, spoil) in enumerate(cases)]
    )


@listed(PICTURES)
def test_a_layer_of_a_picture_network(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["pictures"], spoil, name), wanted)


@listed(UPWARDS)
def test_a_layer_of_a_decoder(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["upwards"], spoil, name), wanted)


@listed(SQUARES)
def test_a_layer_of_a_square_network(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["squares"], spoil, name), wanted)


@listed(SEQUENCES)
def test_a_layer_of_a_recurrent_network(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["LSTM"], spoil, name), wanted)


@listed(GATED)
def test_a_gated_unit(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["GRU"], spoil, name), wanted)


@listed(ATTENDING)
def test_a_layer_of_a_transformer(references: Any, name: str, wanted: str, spoil: Spoil) -> None:
    assert_named(findings(references["attending"], spoil, name), wanted)


# --- other frameworks, and several at once ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Any]:
    """A Keras model, recorded, and its port: the rows of the dense kernel are in the order of the port's flatten."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8, 3))
    x = keras.layers.Conv2D(5, 3, padding="same", activation="relu", bias_initializer="normal")(inputs)
    y = keras.layers.Conv2D(4, 1, bias_initializer="normal")(inputs)
    x = keras.layers.Flatten()(keras.layers.Concatenate()([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(7, bias_initializer="normal")(x))
    theirs = Branches()
    weights = [torch.tensor(w) for w in model.get_weights()]
    with torch.no_grad():
        for conv, kernel, bias in ((theirs.one, *weights[0:2]), (theirs.two, *weights[2:4])):
            conv.weight.copy_(kernel.permute(3, 2, 0, 1))
            conv.bias.copy_(bias)
        theirs.head.weight.copy_(weights[4].unflatten(0, (6, 8, 9)).permute(3, 2, 0, 1).flatten(1))
        theirs.head.bias.copy_(weights[5])
    place = tmp_path_factory.mktemp("port") / "trace.zarr"
    values = np.random.default_rng(0).standard_normal((5, 6, 8, 3)).astype(np.float32)
    tracer.record(model, values, trace=place, name="reference")
    return place, theirs.eval(), values


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(6 * 8 * 9, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.relu(self.one(x)), self.two(x)], 1).flatten(1))


def compared(made: tuple[Path, nn.Module, Any], spoil: Spoil, name: str) -> list[Any]:
    place, model, values = made
    worse = copy.deepcopy(model)
    spoil(worse)
    tracer.record(worse, values, trace=place, name=name, layout="NHWC->NCHW")
    trace = Trace.open(place)
    return list(explain(diff(trace.recording("reference"), trace.recording(name)), seconds=20).findings)


def test_a_kernel_in_the_order_of_its_own_flatten_is_no_difference(port: Any) -> None:
    assert compared(port, lambda model: None, "right") == []


def test_a_kernel_taken_over_as_it_is_wants_the_other_flatten(port: Any) -> None:
    rows = rewritten("head", "weight", lambda w: w.unflatten(1, (9, 6, 8)).movedim(1, -1).flatten(1))
    assert_named(compared(port, rows, "as it is"), "flatten-order")


def test_epsilon_and_slope_are_solved_for(references: Any) -> None:
    found = findings(references["pictures"], instead("1", lambda m, f, x: batchnorm(x, m, eps=7e-4)), "eps")
    assert found[0].causes[0].values == (1e-5, 7e-4)
    found = findings(references["pictures"], instead("2", lambda m, f, x: F.leaky_relu(x, 0.37)), "slope")
    assert found[0].causes[0].values == (0.1, 0.37)


def test_what_nothing_reproduces_has_its_fingerprints(references: Any) -> None:
    odd = instead("9", lambda m, f, x: f(x) + torch.sin(40 * torch.arange(12.0)) * (f(x) < 0) * torch.randn(5, 12))
    (found,) = findings(references["pictures"], odd, "odd")
    assert found.status == "unknown"
    assert "only negative values of the result differ" in found.seen


# --- fingerprints and relations --------------------------------------------------------------------------------------

X = np.random.default_rng(1).standard_normal((4, 6, 9, 9))
FACTORS = np.linspace(1, 2, 6)[:, None, None]


def framed(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[:, :, 0] += 1
    out[:, :, :, -1] -= 1
    return out


def one_channel(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[:, 2] *= np.cos(np.arange(81).reshape(9, 9))
    return out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.swapaxes(x, 2, 3), "the same numbers, at other places"),
        (lambda x: 1.5 * x, "one constant ratio: 1.5"),
        (lambda x: -x, "the sign is the other"),
        (lambda x: x + 0.25, "one constant is added: 0.25"),
        (lambda x: x * FACTORS, "each channel (axis 1) has a factor of its own"),
        (lambda x: x + FACTORS, "one constant is added to each channel (axis 1)"),
        (framed, "only the border differs, 1 wide"),
        (one_channel, "only one of the 6 channels differs: 2"),
        (lambda x: np.where(x < 0, 0.1 * x, x), "only negative values of the result differ"),
        (lambda x: np.concatenate([x[:, :, :1] * 3, x[:, :, :-1]], 2), "shifted by +1 along axis 2"),
        (np.tanh, "a function of what was to come out alone"),
        (lambda x: x + 1e-3 * np.random.default_rng(2).standard_normal(x.shape), "noise-like"),
        (lambda x: np.where(x > 2, np.nan, x), "infinite or not a number on one side"),
        (lambda x: x.reshape(4, 6, 81), "the same numbers, laid out otherwise"),
    ],
)
def test_what_a_difference_looks_like(change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    found = seen(X, change(X), channels=1)
    assert any(sentence.startswith(words) for sentence in found), found


def test_equal_tensors_have_no_order_or_ratio_to_speak_of() -> None:
    noise = X + 1e-7 * np.random.default_rng(2).standard_normal(X.shape)
    assert not any("places" in words or "border" in words for words in seen(X, noise, channels=1))


def test_relations_of_arrays() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((12, 8))
    order = np.arange(12).reshape(3, 4).T.reshape(-1)
    assert np.array_equal(relations.permutation(w, w[order], 0), order)
    assert relations.permutation(w, rng.standard_normal((12, 8)), 0) is None
    assert relations.factored(order) == ((3, 4), (1, 0))
    assert relations.blocks(np.r_[8:12, 0:4, 4:8]) == (2, 0, 1)
    assert relations.shifted(w, np.roll(w, 1, 0)) == 1
    assert relations.multiple(w, 3 * w) == pytest.approx(3)
    assert relations.rounded(w, relations.as_type(w, "bfloat16")) == "bfloat16"
    assert relations.rounded(w, w + 1e-3) is None
    wide = torch.tensor(rng.standard_normal(1000), dtype=torch.float32)
    assert np.array_equal(relations.as_type(wide.double().numpy(), "bfloat16"), wide.bfloat16().double().numpy())
    assert relations.initialiser(rng.uniform(-0.125, 0.125, 4096), 64, 64).startswith("PyTorch's default")
    assert relations.initialiser(rng.normal(0, 0.02, 4096), 64, 64) == "normal with deviation 0.02"
    assert relations.initialiser(rng.normal(0, 0.3, 4096), 64, 64) is None
