"""Ports into which no weights were carried: said once, and what else differs is not lost among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from torch import nn

import tracer
from tracer.causes.explain import Explained
from tracer.causes.kept import attached
from tracer.compare import Verdict
from tracer.configuration import apart
from tracer.report.formats.rows import table_of

X = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype("f4")


def convolutions(stride: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            *(keras.layers.Conv2D(6, 3, padding="same", activation="relu", name=f"conv{i}") for i in range(4)),
            keras.layers.ZeroPadding2D(1, name="pad"),
            keras.layers.Conv2D(6, 3, strides=stride, name="last"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, name="head"),
        ]
    )


class Port(nn.Module):
    """The same with a convolution of one place as its head."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(6, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1))
        self.keep = nn.Identity()
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.keep(self.body(x))).flatten(1)


def explained(trace: Path, stride: int, port: nn.Module) -> Explained:
    ours = tracer.record(convolutions(stride), X, trace=trace, name="tf")
    return tracer.explain(ours, tracer.record(port, trace=trace, name="pt"))


def test_a_model_without_the_weights_is_one_finding_beside_which_the_stride_stands(trace_path: Path) -> None:
    found = explained(trace_path, 2, Port())
    assert [one.names[0] for one in found.parting] == ["weights-not-loaded", "stride-position"]
    first, stride = found.parting
    assert len(first.pairs) == 6
    assert first.pairs[-1] == "head"
    assert first.fixes == ("tracer transfer --from tf --to pt -o weights.pt",)
    assert stride.names == ("stride-position",)
    assert "6 pairs of" in str(found)
    assert len([one for one in found.each if "weights-not-loaded" in one.names]) == 6  # each is kept for --verify
    told = attached(found.diff, found)
    own = {pair.aligned: pair.finding for pair in told.pairs if pair.finding is not None}
    assert own[stride.pair].pairs == (stride.pair,)  # in no other layer is the stride wrong
    assert own[first.pair].pairs == first.pairs
    # As --local would judge them.
    parting = (replace(pair, verdict=Verdict.DIVERGED) if pair.finding is not None else pair for pair in told.pairs)
    document = replace(told, pairs=tuple(parting)).to_json()
    causes = {row["reference"]: row["cause"] for row in table_of(document).rows(document) if row.get("cause")}
    (at,) = (pair.pair.reference for pair in told.pairs if pair.aligned == stride.pair)
    assert [name for name, cause in causes.items() if "stride" in cause] == [" + ".join(at)]


def test_a_dense_layer_and_a_convolution_of_one_place_are_weighed(trace_path: Path) -> None:
    port, model = Port(), convolutions(1)
    for i, layer in enumerate([m for m in port.modules() if isinstance(m, nn.Conv2d)]):
        kernel, bias = model.layers[i if i < 4 else {4: 5, 5: 7}[i]].get_weights()
        kernel = kernel.reshape(1, 1, *kernel.shape[-2:]) if kernel.ndim == 2 else kernel
        layer.weight.data, layer.bias.data = torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias + 0.0)  # type: ignore[union-attr]
    ours = tracer.record(model, X, trace=trace_path, name="tf")
    same = tracer.diff(ours, tracer.record(port, trace=trace_path, name="same"))
    assert list(same.alignment.unmatched_candidate) == ["keep", "flatten"]
    assert same.unmatched == 1  # nn.Identity does nothing
    with torch.no_grad():
        port.head.weight.copy_(port.head.weight.flip(0))
    (one,) = tracer.explain(ours, tracer.record(port, trace=trace_path, name="pt")).parting
    assert (one.status, one.names) == ("proven", ("channel-order",))


class Halved(nn.Module):
    """A layer in half precision between two others."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        for layer, dense in zip((self.first, self.second, self.last), model.layers, strict=True):
            layer.weight.data, layer.bias.data = (torch.tensor(value.T) for value in dense.get_weights())
        self.second.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).bfloat16()).float())


def test_a_layer_in_lower_precision_is_proven_where_its_rounding_shows(trace_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((12,)), *(keras.layers.Dense(n, name=f"d{n}{i}") for i, n in enumerate((8, 8, 3)))]
    )
    x = np.random.default_rng(0).normal(size=(4, 12)).astype("f4")
    ours = tracer.record(model, x, trace=trace_path, name="tf")
    found = tracer.explain(ours, tracer.record(Halved(model), trace=trace_path, name="pt"))
    (one,) = found.parting
    assert (one.names, one.pair, one.status) == (("dtype",), "d81", "proven")
    assert one.after is not None
    assert one.before is not None
    assert one.after < 1e-5 < one.before
    assert one.fixes == ("compute second in float32",)


def test_a_pad_is_counted_in_where_the_strides_differ(trace_path: Path) -> None:
    ours = tracer.record(convolutions(2), X, trace=trace_path, name="tf").structure
    theirs = tracer.record(Port(), trace=trace_path, name="pt").structure
    found = apart(("pad", "last"), ("body.8",), ours, theirs, (0, 2, 3, 1))
    assert [difference.values for difference in found] == ["strides 2 against 1"]
