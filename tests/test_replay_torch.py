"""PyTorch models run again with tensors exchanged on the way (LoadedModel.replay)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tracer.adapter import MemorySink, NotRecorded
from tracer.errors import ModelError, ReplayError
from tracer_torch.adapter import TorchAdapter

Array = NDArray[Any]


class Exchange:
    """Notes what it is given, and gives back what it was told to."""

    def __init__(self, instead: dict[str, Array] | None = None, only: set[str] | None = None) -> None:
        self.instead, self.only = instead or {}, only
        self.seen: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only

    def __call__(self, name: str, value: Array) -> Array | None:
        self.seen[name] = np.array(value)
        return self.instead.get(name)


class Joined(nn.Module):
    """A residual join, an in-place activation, a view that is written to, and operations between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv(x))
        y = self.norm(x) + x
        y[:, 0] = 0.5
        first, second = torch.chunk(y, 2, dim=1)
        y = torch.cat([second, first.transpose(1, 2).transpose(1, 2)], dim=1)
        return torch.softmax(self.fc(torch.flatten(y, 1)), -1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)
        self.norm = nn.LayerNorm(10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (h, _) = self.lstm(x)
        mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        z, _ = self.attention(y, y, y, attn_mask=mask, need_weights=False)
        return self.norm(z + y), h.to(torch.float32)


MODELS = {"joined": (Joined, (2, 3, 6)), "recurrent": (Recurrent, (2, 7, 3))}


def _recorded(name: str) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    build, shape = MODELS[name]
    inputs = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    model = TorchAdapter().wrap(build().eval())
    model.structure(inputs)
    sink = MemorySink()
    model.capture(inputs, sink)
    return model, inputs, {k: v for k, v in sink.values.items() if not isinstance(v, NotRecorded)}


@pytest.mark.parametrize("name", MODELS)
def test_left_alone_it_is_the_run_that_was_recorded(name: str) -> None:
    model, inputs, values = _recorded(name)
    exchange = Exchange()
    model.replay(inputs, exchange)
    assert exchange.seen.keys() == values.keys()
    assert all(np.array_equal(exchange.seen[key], values[key]) for key in values)
    itself = Exchange(values)
    model.replay(inputs, itself)
    assert all(np.array_equal(itself.seen[key], values[key]) for key in values)


def test_what_takes_a_tensors_place_reaches_all_that_reads_it_and_nothing_before() -> None:
    model, inputs, values = _recorded("joined")
    relu = np.abs(np.random.default_rng(2).standard_normal(values["act"].shape)).astype(np.float32)
    exchange = Exchange({"act": relu})
    model.replay(inputs, exchange)
    assert np.array_equal(exchange.seen["conv"], values["conv"])
    assert np.array_equal(exchange.seen["act"], values["act"])
    module = model.module
    with torch.no_grad():
        fed = torch.from_numpy(relu)
        assert np.allclose(exchange.seen["add"], (module.norm(fed) + fed).numpy())  # both readers, the residual too


def test_another_shape_goes_on() -> None:
    model, inputs, _ = _recorded("joined")
    longer = np.ones((2, 4, 9), np.float32)
    exchange = Exchange({"conv": longer, "flatten": np.ones((2, 24), np.float32)})
    model.replay(inputs, exchange)
    assert exchange.seen["add"].shape == (2, 4, 9)
    assert exchange.seen["softmax"].shape == (2, 5)


@pytest.mark.parametrize("name", MODELS)
def test_in_double_every_node_is_what_numpy_would_say(name: str) -> None:
    """Fed its own activations each node's double result is within float32 rounding of them, and not equal to them."""
    model, inputs, values = _recorded(name)
    before = copy.deepcopy(model.module.state_dict())
    exchange = Exchange(values)
    model.replay(inputs, exchange, double=True)
    narrow = 0.0
    for key, value in values.items():
        if value.dtype.kind != "f":
            continue
        assert exchange.seen[key].dtype == np.float64, key
        error = np.abs(exchange.seen[key] - value).max() / np.abs(value).max()
        assert error < 2e-6, key
        narrow = max(narrow, error)
    assert narrow > 1e-9
    after = model.module.state_dict()
    assert all(torch.equal(before[key], after[key]) and after[key].dtype == before[key].dtype for key in before)
    assert torch.get_default_dtype() is torch.float32


def test_double_is_exact_to_the_last_digits() -> None:
    model, inputs, values = _recorded("joined")
    exchange = Exchange(values, only={"conv", "fc", "flatten"})
    model.replay(inputs, exchange, double=True)
    weight, bias = (t.detach().numpy().astype(np.float64) for t in (model.module.fc.weight, model.module.fc.bias))
    wanted = values["flatten"].astype(np.float64) @ weight.T + bias
    assert np.abs(exchange.seen["fc"] - wanted).max() < 1e-14 < np.abs(values["fc"] - wanted).max()


def test_a_cast_to_a_narrower_type_is_one_to_float64() -> None:
    class Casting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.to(torch.float16).float() * 3
            return torch.softmax(x.type_as(torch.ones(1, dtype=torch.float32)), -1, dtype=torch.float32)

    inputs = {"x": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)}
    model = TorchAdapter().wrap(Casting())
    model.structure(inputs)
    exchange = Exchange()
    model.replay(inputs, exchange, double=True)
    last = [v for v in exchange.seen.values() if v.dtype == np.float64][-1]
    e = np.exp(inputs["x"].astype(np.float64) * 3)
    assert np.abs(last - e / e.sum(-1, keepdims=True)).max() < 1e-15


def test_what_the_exchange_raises_is_passed_on_and_the_model_is_as_it_was() -> None:
    model, inputs, _ = _recorded("joined")

    class Broken(Exchange):
        def __call__(self, name: str, value: Array) -> Array | None:
            raise KeyError(name)

    with pytest.raises(KeyError):
        model.replay(inputs, Broken())
    assert not any(module._forward_hooks for module in model.module.modules())


def test_a_model_that_raises_says_where() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.fc(x)
            if y.dtype == torch.float64 or bool((y > 1e6).any()):
                raise ValueError("too much")
            return y

    inputs = {"x": np.ones((2, 3), np.float32)}
    model = TorchAdapter().wrap(Picky())
    model.structure(inputs)
    with pytest.raises(ReplayError, match=r"float64: .*too much"):
        model.replay(inputs, Exchange(), double=True)
    with pytest.raises(ModelError, match="too much"):
        model.replay(inputs, Exchange({"fc": np.full((2, 2), 1e9, np.float32)}))
