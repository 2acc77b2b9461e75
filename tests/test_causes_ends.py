"""Layers that the other side writes in several operations: their twin is where these end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes.explain import Explained

RNG = np.random.default_rng(8)
STEPS = RNG.standard_normal((2, 12, 3)).astype("f4")
ROWS = RNG.standard_normal((3, 5)).astype("f4")
PLACES = np.sin(np.arange(12)[:, None] / 50 ** (np.arange(6) / 6)).astype("f4")


def filled(model: Any) -> Any:
    """The same numbers at every run, none of them special."""
    for number, weight in enumerate(model.weights):
        weight.assign(0.3 + 0.5 * np.random.default_rng(number).standard_normal(weight.shape))
    return model


def told(place: Path, reference: Any, candidate: Any, values: Any, **options: Any) -> Explained:
    models = reference, candidate.eval()
    first, second = (tracer.record(model, values, trace=place, **options) for model in models)
    return tracer.explain(first, second, seconds=20, verify=True, models=models)


class Causal(nn.Module):
    """Two convolutions padded on both ends, of which the steps beyond the last are cut off."""

    def __init__(self, reference: Any, first: int = 0, ahead: int = 4, dilation: int = 2) -> None:
        super().__init__()
        self.one = nn.Conv1d(3, 4, 3, padding=2)
        self.two = nn.Conv1d(4, 5, 3, padding=ahead, dilation=dilation)
        self.first, self.ahead = first, ahead
        with torch.no_grad():
            for conv, layer in ((self.one, reference.get_layer("one")), (self.two, reference.get_layer("two"))):
                conv.weight.copy_(torch.from_numpy(layer.kernel.numpy().transpose(2, 1, 0).copy()))
                conv.bias.copy_(torch.from_numpy(layer.bias.numpy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.one(x.transpose(1, 2))[:, :, self.first : self.first + 12 or None])
        return torch.tanh(self.two(x)[:, :, : -self.ahead]).mean(2)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({}, None), ({"first": 2}, "pad-asymmetry"), ({"ahead": 2, "dilation": 1}, "dilation")],
)
def test_a_convolution_that_is_cropped_is_padded_less(
    trace_path: Path, wrong: dict[str, int], name: str | None
) -> None:
    x = layers.Input((12, 3))
    y = layers.Conv1D(4, 3, padding="causal", name="one")(x)
    y = layers.Conv1D(5, 3, padding="causal", dilation_rate=2, name="two")(keras.ops.tanh(y))
    reference = filled(keras.Model(x, keras.ops.mean(keras.ops.tanh(y), axis=1)))
    found = told(trace_path, reference, Causal(reference, **wrong), STEPS, layout="same")
    assert {cause for one in found.parting for cause in one.names} == ({name} if name else set()), str(found)
    assert found.verified is not None
    assert found.verified.agrees, str(found)  # the crop is still there when it is padded otherwise


class Placed(layers.Layer):
    """Of somebody's own."""

    def call(self, x: Any) -> Any:
        return x * math.sqrt(6) + PLACES


class Written(nn.Module):
    """The same written out, behind a projection of which the bias is lost."""

    def __init__(self, reference: Any, *, bias: bool) -> None:
        super().__init__()
        self.project, self.norm, self.last = nn.Linear(3, 6, bias=bias), nn.LayerNorm(6, eps=1e-3), nn.Linear(6, 2)
        pairs = ((self.project, "project"), (self.norm, "norm"), (self.last, "last"))
        with torch.no_grad():
            for module, name in pairs:
                for param, value in zip(module.parameters(), reference.get_layer(name).weights, strict=False):
                    value = value.numpy()
                    param.copy_(torch.from_numpy(value.T.copy() if value.ndim > 1 else value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.project(x) * math.sqrt(6) + torch.from_numpy(PLACES)
        return self.last(x + self.norm(x))


@pytest.mark.parametrize("bias", [True, False])
def test_what_a_layer_of_ones_own_is_written_as_is_not_extra(trace_path: Path, bias: bool) -> None:
    x = layers.Input((12, 3))
    y = Placed(name="places")(layers.Dense(6, name="project")(x))
    y = layers.Dense(2, name="last")(layers.Add()([y, layers.LayerNormalization(name="norm")(y)]))
    reference = filled(keras.Model(x, y))
    found = told(trace_path, reference, Written(reference, bias=bias), STEPS, layout="same")
    assert [one.names for one in found.parting] == ([] if bias else [("bias-missing",)]), str(found)


class Tower(nn.Module):
    """One network for two inputs, one after the other or at once."""

    def __init__(self, *, batched: bool) -> None:
        super().__init__()
        self.wide, self.narrow, self.batched = nn.Linear(5, 8), nn.Linear(8, 4), batched

    def tower(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.narrow(F.relu(self.wide(x * 0.5))))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        both = self.tower(torch.cat([left, right])).chunk(2) if self.batched else map(self.tower, (left, right))
        one, two = both
        return (one - two).abs()


def test_all_calls_of_a_layer_at_once_are_no_defect(trace_path: Path) -> None:
    reference, candidate = Tower(batched=False), Tower(batched=True)
    candidate.load_state_dict(reference.state_dict())
    found = told(trace_path, reference.eval(), candidate, (ROWS, ROWS[::-1].copy()))
    assert not found.parting, str(found)
