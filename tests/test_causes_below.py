"""Below a mistake nothing else is said: axes, lengths and pairs are read as in a model without it."""

from __future__ import annotations

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
from tests.test_causes import names, story
from tests.zoo.weights import as_torch
from tracer.alignment.flow import Flow
from tracer.causes.explain import explain
from tracer.causes.reading.reshaping import followed
from tracer.graph import Node

PICTURES = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype("f4")
TOKENS = np.random.default_rng(0).normal(size=(3, 7, 8)).astype("f4")


def seeded(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in module.parameters():
        nn.init.normal_(value, 0.2 if value.ndim == 1 else 0.0, 0.5)
    return module


class Patches(nn.Module):
    """Square patches as tokens, as a picture again, and what is in its corners side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.wide = nn.Conv2d(3, 6, 2, stride=2), nn.LayerNorm(6), nn.Linear(6, 12)
        self.act, self.narrow = nn.GELU(), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.act(self.wide(self.norm(x))).view(-1, 8, 8, 12)
        return self.narrow(torch.cat([x[:, ::2, ::2], x[:, 1::2, ::2]], -1).view(-1, 16, 24))  # type: ignore[no-any-return]


def test_square_tensors_below_an_exchanged_kernel_keep_their_axes(trace_path: Path) -> None:
    model, other = seeded(Patches()), Patches()
    other.load_state_dict(model.state_dict())
    other.patch.weight = nn.Parameter(model.get_parameter("patch.weight").detach().transpose(2, 3).contiguous())
    x = PICTURES + PICTURES.transpose(0, 1, 3, 2) + 0.9 * PICTURES[::-1]  # turned, what lies below is more alike
    assert set(names(story(trace_path, model, other, x))) == {"patch"}


def test_products_whose_equation_is_not_recorded_say_only_what_their_lengths_say() -> None:
    def node(name: str, kind: str, shape: tuple[int, ...], *parents: str, label: str = "", **config: Any) -> Node:
        return Node(name, kind, label or kind, parents=parents, shape=shape, config=config)

    flow = Flow(
        (
            node("q", "input", (3, 4, 4, 6)),
            node("k", "input", (3, 7, 4, 6)),
            node("untold", "matmul", (3, 4, 4, 7), "q", "k", label="tf.Einsum"),
            node("told", "matmul", (3, 4, 4, 2), "q", label="torch.einsum", args=["bind,snd->bnis"]),
            node("constant", "matmul", (3, 4, 4, 2), "q", label="tf.Einsum"),
        )
    )
    found = {name: [flow.find(axis[0][0]) for axis in tensor] for name, tensor in flow.tensors.items()}
    q, untold = found["q"], found["untold"]
    assert (untold[0], untold[3]) == (q[0], found["k"][1])
    assert not {untold[1], untold[2]} & {*q}  # heads and queries are as many: either may be either
    assert found["k"][3] == q[3]
    assert found["told"][:3] == [q[0], q[2], q[1]]
    assert not {*found["constant"][1:]} & {*q}


@pytest.mark.parametrize(
    ("before", "after", "given", "seen", "wanted"),
    [
        ((5, 4, 3, 24), (5, 12, 24), (5, 3, 2, 24), (), (5, 6, 24)),
        ((5, 12, 24), (5, 12, 4, 6), (5, 6, 24), (), (5, 6, 4, 6)),
        ((5, 48, 24), (5, 8, 6, 24), (5, 35, 24), ((5, 24, 7, 5),), (5, 7, 5, 24)),
        ((5, 48, 24), (5, 8, 6, 24), (5, 30, 24), (), (5, 5, 6, 24)),
        ((3, 4, 15, 2), (3, 15, 4, 2), (3, 7, 11, 2), (), (3, 11, 7, 2)),
        ((5, 12), (5, 1, 12), (5, 8), (), (5, 1, 8)),
        ((5, 48), (5, 6, 8), (5, 7), (), None),
        ((5, 1, 4), (5, 4), (5, 3, 4), (), None),
    ],
)
def test_a_reshape_of_other_lengths(
    before: tuple[int, ...],
    after: tuple[int, ...],
    given: tuple[int, ...],
    seen: tuple[tuple[int, ...], ...],
    wanted: tuple[int, ...] | None,
) -> None:
    assert followed(before, after, given, seen) == wanted


class Mixer(nn.Module):
    """Tokens of a picture that are made a picture again for a convolution of each channel."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 4, 3, padding=padding), nn.LayerNorm(4, eps=1e-3)
        self.wide, self.each, self.head = nn.Linear(4, 6), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x)
        size = x.shape[2:]
        x = self.wide(self.norm(x.flatten(2).transpose(1, 2)))
        x = self.each(x.transpose(1, 2).reshape(-1, 6, *size))
        return self.head(F.gelu(x.flatten(2).transpose(1, 2)))  # type: ignore[no-any-return]


def test_reshapes_below_another_padding_are_the_same_steps(trace_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 5, 3)),
            keras.layers.Conv2D(4, 3, padding="same", name="patch"),
            keras.layers.Reshape((30, 4), name="tokens"),
            keras.layers.LayerNormalization(epsilon=1e-3, name="norm"),
            keras.layers.Dense(6, name="wide"),
            keras.layers.Reshape((6, 5, 6), name="picture"),
            keras.layers.DepthwiseConv2D(3, padding="same", name="each"),
            keras.layers.Reshape((30, 6), name="again"),
            keras.layers.Activation("gelu", name="gelu"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    other = Mixer(padding=0)
    kernel, bias = map(np.array, model.get_layer("each").get_weights())
    other.each.load_state_dict({"weight": torch.tensor(kernel.transpose(2, 3, 0, 1)), "bias": torch.tensor(bias)})
    for name in ("patch", "wide", "head"):
        arrays = {key: torch.from_numpy(np.array(value)) for key, value in as_torch(model.get_layer(name)).items()}
        other.get_submodule(name).load_state_dict(arrays, strict=False)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype("f4")
    assert names(story(trace_path, model, other, x)) == {"patch": ("pad-mode",)}


class Attention(nn.Module):
    """Attention whose queries are scaled first, in one of two ways to write that."""

    def __init__(self, divides: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.divides = divides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(-1, 7, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = (q / 2.0 if self.divides else q * 0.5) @ k.transpose(2, 3)
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(-1, 7, 8))  # type: ignore[no-any-return]


def test_exchanged_projections_are_named_and_no_wiring(trace_path: Path) -> None:
    model, other = seeded(Attention()), Attention(divides=True)
    state = model.state_dict()
    turned = {"q": "v", "v": "q"}
    other.load_state_dict({f"{turned.get(k[0], k[0])}{k[1:]}" if k[0] != "o" else k: v for k, v in state.items()})
    assert names(story(trace_path, model, other, TOKENS)) == {"q": ("qkv-order",), "v": ("qkv-order",)}


class Written(nn.Module):
    """An RMS normalisation in single operations."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Stack(nn.Module):
    """Blocks that normalise first, and a normalisation behind the last."""

    def __init__(self, count: int, written: bool) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return Written(8) if written else nn.RMSNorm(8, eps=1e-6)

        self.norms = nn.ModuleList(norm() for _ in range(count))
        self.wide = nn.ModuleList(nn.Linear(8, 12) for _ in range(count))
        self.narrow = nn.ModuleList(nn.Linear(12, 8) for _ in range(count))
        self.final, self.head = norm(), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, wide, narrow in zip(self.norms, self.wide, self.narrow, strict=True):
            x = x + narrow(torch.relu(wide(norm(x))))
        return self.head(self.final(x))  # type: ignore[no-any-return]


def test_a_block_in_front_of_the_last_normalisation(trace_path: Path) -> None:
    model, other = seeded(Stack(2, written=False)), seeded(Stack(3, written=True))
    other.load_state_dict(model.state_dict(), strict=False)
    a = tracer.record(model, TOKENS, trace=trace_path, name="a")
    b = tracer.record(other, trace=trace_path, name="b")
    diff = tracer.diff(a, b)
    twins = {pair.reference[-1]: pair.candidate[-1] for pair in diff.alignment.pairs}
    assert twins["final"].startswith("final.")
    assert names(explain(diff, seconds=20.0)) == {"final": ("block-extra",)}
