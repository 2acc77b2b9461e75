"""Why ports part, from two recordings alone: real models with a mistake in each, story by story."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.zoo.weights import as_torch
from tracer.causes.explain import Explained, explain
from tracer.causes.finding import Finding

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 8, 3)).astype("f4")
ROWS = RNG.normal(size=(5, 6)).astype("f4")
SLOPE = 0.3
LAYERS = ("stem", "norm", "body", "last", "head")


def story(path: Path, reference: Any, candidate: Any, inputs: Any) -> Explained:
    options = {} if not isinstance(reference, keras.Model) else {"layout": "NHWC->NCHW"}
    a = tracer.record(reference, inputs, trace=path, name="a")
    b = tracer.record(candidate, trace=path, name="b", **options)
    return explain(tracer.diff(a, b), seconds=20.0)


def proven(told: Explained) -> dict[str, Finding]:
    """What is said of pairs that part: every one of them must be reproduced."""
    found = {one.pair: one for one in told.findings if one.status != "latent"}
    for one in found.values():
        assert one.status == "proven", (one.pair, one.status, one.notes)
        assert one.before is not None
        assert one.after is not None
        assert one.floor is not None
        assert one.after <= one.floor < one.before
        assert all(cause.without is not None and cause.without > one.floor for cause in one.causes)
        assert all(cause.what and cause.fix for cause in one.causes)
    return found


def names(told: Explained) -> dict[str, tuple[str, ...]]:
    return {pair: tuple(dict.fromkeys(one.names)) for pair, one in proven(told).items()}


# --- a small network in Keras, and its ports ------------------------------------------------------------------


def network() -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input(IMAGES.shape[1:]),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", name="stem"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.LeakyReLU(SLOPE, name="act"),
            keras.layers.Conv2D(6, 3, padding="same", name="body"),
            keras.layers.LeakyReLU(SLOPE, name="act2"),
            keras.layers.Conv2D(4, 3, name="last"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(5, name="head"),
        ]
    )
    rng = np.random.default_rng(2)
    for layer in model.layers:
        values = [rng.normal(size=value.shape) * 0.5 + 0.2 for value in layer.get_weights()]
        if layer.name == "norm":
            values[3] = rng.uniform(0.01, 0.05, size=values[3].shape)
        layer.set_weights(values)
    return model


class Port(nn.Module):
    """The network as it should be, unless told otherwise."""

    def __init__(self, *, eps: float = 1e-3, momentum: float = 0.01, slopes: tuple[float, float] = (SLOPE, SLOPE),
                 symmetric: bool = False, turned: bool = True, dilation: int = 1) -> None:  # fmt: skip
        super().__init__()
        self.symmetric, self.turned = symmetric, turned
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1 if symmetric else 0)
        self.norm = nn.BatchNorm2d(4, eps=eps, momentum=momentum)
        self.act = nn.LeakyReLU(slopes[0])
        self.body = nn.Conv2d(4, 6, 3, padding=dilation, dilation=dilation)
        self.act2 = nn.LeakyReLU(slopes[1])
        self.last = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))))
        x = self.last(self.act2(self.body(x)))
        return self.head(torch.flatten(x.permute(0, 2, 3, 1) if self.turned else x, 1))  # type: ignore[no-any-return]


def port(model: Any, **options: Any) -> Port:
    module = Port(**options)
    for name in LAYERS:
        arrays = {key: torch.from_numpy(np.array(value)) for key, value in as_torch(model.get_layer(name)).items()}
        module.get_submodule(name).load_state_dict(arrays, strict=False)
    return module.eval()


def test_of_a_correct_port_nothing_is_said(trace_path: Path) -> None:
    model = network()
    told = story(trace_path, model, port(model), IMAGES)
    assert told.findings == ()
    assert told.unread == {}
    assert told.looked >= 9


def test_a_momentum_that_only_training_shows_is_latent(trace_path: Path) -> None:
    model = network()
    told = story(trace_path, model, port(model, momentum=0.1), IMAGES)
    (one,) = told.findings
    assert (one.pair, one.status, one.names) == ("norm", "latent", ("training-bn-momentum",))
    assert one.causes[0].values == pytest.approx((0.99, 0.9))


STORIES: dict[str, tuple[dict[str, Any], dict[str, set[str]]]] = {
    "epsilon": ({"eps": 1e-5}, {"norm": {"bn-eps"}}),
    "slope": ({"slopes": (0.01, SLOPE)}, {"act": {"activation-param"}}),
    "padding": ({"symmetric": True}, {"stem": {"pad-asymmetry"}}),
    # The padding that keeps the size of a wider kernel is no mistake of its own.
    "dilation": ({"dilation": 2}, {"body": {"dilation"}}),
    "flatten": ({"turned": False}, {"flat": {"flatten-order"}}),
}


@pytest.mark.parametrize("which", STORIES)
def test_one_mistake_is_named_where_it_is(trace_path: Path, which: str) -> None:
    options, expected = STORIES[which]
    model = network()
    found = names(story(trace_path, model, port(model, **options), IMAGES))
    if which == "flatten":  # it shows at the flatten, or at what reads it first
        assert set(found) <= {"flat", "head"}
        assert {name for ids in found.values() for name in ids} <= {"flatten-order", "dense-row-order"}
        assert found
    else:
        assert {pair: set(ids) for pair, ids in found.items()} == expected


def test_values_of_a_setting_are_the_two_sides(trace_path: Path) -> None:
    model = network()
    found = proven(story(trace_path, model, port(model, eps=1e-5, slopes=(0.01, SLOPE)), IMAGES))
    assert found["norm"].causes[0].values == pytest.approx((1e-3, 1e-5))
    assert found["act"].causes[0].values == pytest.approx((SLOPE, 0.01))
    assert "norm" in found["norm"].causes[0].fix


def test_mistakes_above_do_not_hide_those_below(trace_path: Path) -> None:
    model = network()
    candidate = port(model, eps=1e-5, slopes=(SLOPE, 0.1), symmetric=True)
    with torch.no_grad():
        candidate.last.bias.zero_()
    found = names(story(trace_path, model, candidate, IMAGES))
    assert found == {
        "stem": ("pad-asymmetry",), "norm": ("bn-eps",), "act2": ("activation-param",), "last": found["last"],
    }  # fmt: skip
    assert found["last"][0] in {"bias-missing", "weights-not-loaded"}


def test_two_mistakes_in_one_layer_are_both_named(trace_path: Path) -> None:
    model = network()
    candidate = port(model, eps=1e-5)
    with torch.no_grad():
        gamma = candidate.norm.weight.clone()
        candidate.norm.weight.copy_(candidate.norm.bias)
        candidate.norm.bias.copy_(gamma)
    found = names(story(trace_path, model, candidate, IMAGES))
    assert set(found) == {"norm"}
    assert set(found["norm"]) == {"bn-eps", "bn-stats"}


def test_the_same_mistake_in_several_layers_is_one_finding(trace_path: Path) -> None:
    model = network()
    told = story(trace_path, model, port(model, slopes=(0.01, 0.01)), IMAGES)
    (one,) = told.findings
    assert one.pairs == ("act", "act2")
    assert one.names == ("activation-param",)


# --- what no setting states -----------------------------------------------------------------------------------


class Rows(nn.Module):
    """A residual block of dense layers; ``change`` computes it otherwise."""

    def __init__(self, change: Callable[[Any, torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.change is not None:
            return self.change(self, x)
        x = F.gelu(self.first(x))
        return self.last(self.norm(x + self.second(x)))  # type: ignore[no-any-return]


def rows(change: Callable[[Any, torch.Tensor], torch.Tensor] | None = None) -> Rows:
    torch.manual_seed(3)
    return Rows(change).eval()


def _skipped(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.gelu(self.first(x))
    return self.last(self.norm(self.second(x)))  # type: ignore[no-any-return]


def _unbiased(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.gelu(self.first(x))
    x = x + self.second(x)
    centred = x - x.mean(-1, keepdim=True)
    x = centred / torch.sqrt(x.var(-1, keepdim=True) + self.norm.eps) * self.norm.weight + self.norm.bias
    return self.last(x)  # type: ignore[no-any-return]


def _tanh(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.gelu(self.first(x), approximate="tanh")
    return self.last(self.norm(x + self.second(x)))  # type: ignore[no-any-return]


def _dropped(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.dropout(F.gelu(self.first(x)), 0.4, training=True)
    return self.last(self.norm(x + self.second(x)))  # type: ignore[no-any-return]


def _plain(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = self.first(x)
    return self.last(self.norm(x + self.second(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_skipped, "residual-missing"),
        (_unbiased, "std-ddof"),
        (_tanh, "gelu-approx"),
        (_plain, "activation-missing"),
        (_dropped, "dropout-mode"),
    ],
)
def test_what_a_forward_does_otherwise_is_named(
    trace_path: Path, change: Callable[[Any, torch.Tensor], torch.Tensor], expected: str
) -> None:
    found = names(story(trace_path, rows(), rows(change), ROWS))
    assert set(found.values()) == {(expected,)}  # a term that is read twice shows twice


def test_a_stated_and_a_hidden_mistake_of_one_layer_are_both_named(trace_path: Path) -> None:
    candidate = rows()
    layer = candidate.second
    with torch.no_grad():
        layer.weight.copy_(layer.weight.t().clone())
    coarse = [value.detach().bfloat16() for value in (layer.weight, layer.bias)]
    # As a patched layer, which stays one: what it does inside is not recorded.
    layer.forward = functools.wraps(layer.forward)(  # type: ignore[method-assign]
        lambda x: F.linear(x.bfloat16(), *coarse).float()
    )
    told = story(trace_path, rows(), candidate, ROWS)
    (one,) = told.findings
    assert (one.pair, one.status) == ("second", "proven")
    assert set(one.names) == {"dense-transpose", "dtype"}


def _by_hand(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = self.first(x)
    x = 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))
    x = x + self.second(x)
    centred = x - x.mean(-1, keepdim=True)
    x = centred / torch.sqrt(x.var(-1, keepdim=True, correction=0) + self.norm.eps) * self.norm.weight + self.norm.bias
    return self.last(x)  # type: ignore[no-any-return]


def test_the_same_function_written_otherwise_is_no_difference(trace_path: Path) -> None:
    assert story(trace_path, rows(_tanh), rows(_by_hand), ROWS).findings == ()
