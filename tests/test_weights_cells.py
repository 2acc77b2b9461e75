"""Weights of recurrent cells that somebody wrote out of layers, and of layers whose rows other layers arrange."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from keras import layers as kl
from torch import nn

import tracer
from tests.parameter_models import randomise
from tracer.errors import TransferError

SEQUENCES = np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)
FILMS = np.random.default_rng(0).standard_normal((2, 4, 6, 7, 3)).astype(np.float32)
IMAGES = np.random.default_rng(0).standard_normal((4, 9, 8, 3)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 20, (3, 5)).astype(np.int32)


class Unrolled(nn.Module):
    """Steps of a cell over a sequence, and a head on the last state."""

    def __init__(self, width: int = 9) -> None:
        super().__init__()
        self.width, self.head = width, nn.Linear(width, 4)

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(x.shape[0], self.width)
        for at in range(x.shape[1]):
            h, c = self.step(x[:, at], h, c)
        return self.head(h)


class GruOfSix(Unrolled):
    """Each gate has two layers, each with a bias; it resets before the product."""

    def __init__(self) -> None:
        super().__init__()
        self.given = nn.ModuleDict({gate: nn.Linear(6, 9) for gate in "zrn"})
        self.state = nn.ModuleDict({gate: nn.Linear(9, 9) for gate in "rnz"})

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        z, r = (torch.sigmoid(self.given[gate](x) + self.state[gate](h)) for gate in "zr")
        n = torch.tanh(self.given["n"](x) + self.state["n"](r * h))
        return (1 - z) * n + z * h, c


class GruOfTwo(Unrolled):
    """As nn.GRU computes, in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.state = nn.Linear(6, 27), nn.Linear(9, 27)

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        (a, b, n), (d, e, m) = self.given(x).chunk(3, 1), self.state(h).chunk(3, 1)
        z = torch.sigmoid(a + d)
        return z * h + (1 - z) * torch.tanh(n + torch.sigmoid(b + e) * m), c


class LstmOfFour(Unrolled):
    """A layer a gate, which reads state and input side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.i, self.g, self.o = (nn.Linear(15, 9) for _ in range(4))

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        both = torch.cat([h, x], 1)
        c = torch.sigmoid(self.f(both)) * c + torch.sigmoid(self.i(both)) * torch.tanh(self.g(both))
        return torch.sigmoid(self.o(both)) * torch.tanh(c), c


class LstmAhead(nn.Module):
    """One layer for the whole sequence before the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.state, self.head = nn.Linear(6, 36), nn.Linear(9, 36, bias=False), nn.Linear(9, 4)

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(x.shape[0], 9)
        ahead = self.given(x)
        for at in range(x.shape[1]):
            o, i, g, f = (ahead[:, at] + self.state(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class Plain(Unrolled):
    def __init__(self) -> None:
        super().__init__()
        self.given, self.state = nn.Linear(6, 9), nn.Linear(9, 9, bias=False)

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        return torch.tanh(self.given(x) + self.state(h)), c


class ConvLstm(nn.Module):
    """One convolution of input and state, its outputs the gates i, f, o, g."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 + 4, 16, 3, padding=1)

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(x.shape[0], 4, *x.shape[3:])
        for at in range(x.shape[1]):
            i, f, o, g = self.conv(torch.cat([x[:, at], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


class Named(Unrolled):
    """A cell of functions, with one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh = nn.Parameter(torch.randn(27, 6) * 0.3), nn.Parameter(torch.randn(27, 9) * 0.3)
        self.bias = nn.Parameter(torch.randn(27) * 0.3)

    def step(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        a, b, n = nn.functional.linear(x, self.weight_ih, self.bias).chunk(3, 1)
        d, e, m = self.weight_hh.chunk(3, 0)
        r, z = torch.sigmoid(a + h @ d.T), torch.sigmoid(b + h @ e.T)
        return z * h + (1 - z) * torch.tanh(n + (r * h) @ m.T), c


class Branches(nn.Module):
    """Two branches, flattened and normalised, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 5)
        self.norm, self.head = nn.BatchNorm1d(7 * 6 * 4, eps=1e-3), nn.Linear(7 * 6 * 4 + 5 * 4 * 2, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.cat([self.norm(self.a(x).flatten(1)), self.b(x).flatten(1)], 1))


def branches() -> Any:
    x = keras.Input((9, 8, 3))
    first = kl.BatchNormalization()(kl.Flatten()(kl.Conv2D(4, 3)(x)))
    return randomise(keras.Model(x, kl.Dense(3)(kl.Concatenate()([first, kl.Flatten()(kl.Conv2D(2, 5)(x))]))))


class Spanning(nn.Module):
    """A convolution that reads all of its input in place of a flatten and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, (7, 6))

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.conv(x))).flatten(1)


class Flattening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(7 * 6 * 4, 5)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.conv(x)).flatten(1))


class Bare(nn.Module):
    """A normalisation without gamma and beta."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, affine=False)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class Generator(nn.Module):
    """A vector that is normalised before it is made a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(6, 4 * 3 * 5), nn.BatchNorm1d(4 * 3 * 5, eps=1e-3)
        self.up = nn.ConvTranspose2d(5, 2, 2, 2)

    def forward(self, x: Any) -> Any:
        return self.up(torch.relu(self.norm(self.dense(x))).view(-1, 5, 4, 3))


class WholeNorm(nn.Module):
    """A normalisation over all of a picture, with a weight for each element."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.LayerNorm([3, 9, 8]), nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        return self.conv(self.norm(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        nn.init.uniform_(self.attention.in_proj_bias)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


def attention() -> Any:
    x = keras.Input((5, 6))
    return randomise(keras.Model(x, kl.MultiHeadAttention(2, 3, use_bias=False)(x, x)))


def generator() -> Any:
    return of(
        (6,), kl.Dense(60), kl.BatchNormalization(), kl.ReLU(), kl.Reshape((4, 3, 5)), kl.Conv2DTranspose(2, 2, 2)
    )


def of(shape: tuple[int, ...], *layers: Any) -> Any:
    return randomise(keras.Sequential([keras.Input(shape), *layers]))


def recurrent(layer: Any) -> Any:
    return of((5, 6), layer, kl.Dense(4))


def normalised() -> Any:
    model = of((9, 8, 3), kl.Conv2D(4, 3), kl.BatchNormalization(name="norm"))
    gamma = model.get_layer("norm").gamma
    gamma.assign(np.abs(np.asarray(gamma)) + 0.5)  # a negative one has no place in a variance
    return model


def convolution() -> Any:
    return kl.Conv2D(4, 3, activation="relu")


Build = Callable[[], Any]
CASES: dict[str, tuple[Build, Build, np.ndarray]] = {
    "a GRU of six layers": (lambda: recurrent(kl.GRU(9, reset_after=False)), GruOfSix, SEQUENCES),
    "a GRU of two layers": (lambda: recurrent(kl.GRU(9)), GruOfTwo, SEQUENCES),
    "a GRU of functions": (lambda: recurrent(kl.GRU(9, reset_after=False)), Named, SEQUENCES),
    "an LSTM of four layers": (lambda: recurrent(kl.LSTM(9)), LstmOfFour, SEQUENCES),
    "an LSTM read ahead": (lambda: recurrent(kl.LSTM(9)), LstmAhead, SEQUENCES),
    "a plain cell": (lambda: recurrent(kl.SimpleRNN(9)), Plain, SEQUENCES),
    "a ConvLSTM": (lambda: of((4, 6, 7, 3), kl.ConvLSTM2D(4, 3, padding="same")), ConvLstm, FILMS),
    "flattened branches": (branches, Branches, IMAGES),
    "a convolution for a dense layer": (lambda: of((9, 8, 3), convolution(), kl.Flatten(), kl.Dense(5)), Spanning,
                                        IMAGES),
    "a dense layer for a convolution": (lambda: of((9, 8, 3), convolution(), kl.Conv2D(5, (7, 6)), kl.Flatten()),
                                        Flattening, IMAGES),
    "a picture of a vector": (generator, Generator, SEQUENCES[:, 0]),
    "a normalisation of all elements": (lambda: of((9, 8, 3), kl.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5),
                                                   kl.Conv2D(4, 3)), WholeNorm, IMAGES),
    "a normalisation without gamma and beta": (normalised, Bare, IMAGES),
}  # fmt: skip


@pytest.mark.parametrize("back", [False, True], ids=["to PyTorch", "to Keras"])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same_and_so_does_the_script(trace_path: Path, name: str, back: bool) -> None:
    build, twin, x = CASES[name]
    model, module = build(), twin().eval()
    recorded = tracer.record(model, x, name="tf", trace=trace_path), tracer.record(module, name="pt", trace=trace_path)
    source, target = recorded[::-1] if back else recorded
    filled = model if back else module
    before = [np.array(weight) for weight in model.weights] if back else {
        key: value.clone() for key, value in module.state_dict().items()
    }  # fmt: skip
    done = tracer.transfer(source, target, model=filled)  # which raises where a tensor is lost, or the outputs differ
    assert done.agrees
    assert done.diff is not None
    assert bool(done.diff), str(done)
    expected = outputs(filled, target)
    filled.set_weights(before) if back else filled.load_state_dict(before)
    file = trace_path.parent / "carry.py"
    file.write_text(done.script)
    space = runpy.run_path(str(file))
    space["write"](filled, space["carry"](space["read"](module.state_dict() if back else model)))
    np.testing.assert_allclose(outputs(filled, target), expected, rtol=1e-5, atol=1e-6)


def outputs(model: Any, recording: Any) -> np.ndarray:
    (name,) = (node.name for node in recording.structure.inputs)
    x = np.array(recording.read(name))
    with torch.inference_mode():
        return model(torch.from_numpy(x)).numpy() if isinstance(model, nn.Module) else np.asarray(model(x))


def test_biases_that_the_source_lacks_are_zero(trace_path: Path) -> None:
    model, module = attention(), Attention().eval()
    tf = tracer.record(model, SEQUENCES, name="tf", trace=trace_path)
    pt = tracer.record(module, name="pt", trace=trace_path)
    tracer.transfer(tf, pt, model=module)
    assert not module.attention.in_proj_bias.any()


class Tied(nn.Module):
    def __init__(self, words: int = 20) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(words, 6), nn.Linear(6, 6), nn.Linear(6, words, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Any) -> Any:
        return self.head(torch.tanh(self.body(self.table(ids))))


def test_a_tied_table_fills_both_and_two_fill_one_if_they_are_equal(trace_path: Path) -> None:
    def untied() -> Any:
        ids = keras.Input((5,), dtype="int32")
        x = kl.Dense(6, activation="tanh")(kl.Embedding(20, 6, name="table")(ids))
        return randomise(keras.Model(ids, kl.Dense(20, use_bias=False, name="head")(x)))

    model, module = untied(), Tied().eval()
    tf = tracer.record(model, IDS, name="tf", trace=trace_path)
    pt = tracer.record(module, name="pt", trace=trace_path)
    with pytest.raises(TransferError, match=r"head\.kernel \(the target has one where this and table\.embeddings"):
        tracer.transfer(tf, pt, model=module)
    done = tracer.transfer(pt, tf, model=model)
    table, head = (np.asarray(model.get_layer(name).weights[0]) for name in ("table", "head"))
    np.testing.assert_array_equal(head, table.T)
    assert done.recording is not None
    back = tracer.transfer(done.recording, pt, model=module, name="back")
    assert back.carried.spent["head", "kernel"] == "the same values as table.embeddings, which stands for both"
    more = tracer.record(Tied(25).eval(), name="more", trace=trace_path)
    with pytest.raises(TransferError, match=r"table\.embeddings \(no parameter of shape 20×6 is left"):
        tracer.transfer(more, tf, model=model, name="other words")
