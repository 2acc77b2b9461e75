"""Layers that are called elsewhere, tensors that are read in place of others: no more is named than is proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_causes_smallest import IMAGES, ROWS, named, said
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes.explain import explain

keras = pytest.importorskip("keras")

STEPS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(5))
MATRIX = torch.randn(5, 5, generator=torch.Generator().manual_seed(6))
OTHER = MATRIX - torch.eye(5)
Layers = Callable[[], dict[str, nn.Module]]


def convolutions() -> dict[str, nn.Module]:
    return {"one": nn.Conv2d(3, 6, 3), "two": nn.Conv2d(3, 6, 3), "last": nn.Linear(6, 4)}


def squares() -> dict[str, nn.Module]:
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 8), "last": nn.Linear(8, 3)}


def wide() -> dict[str, nn.Module]:
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 8), "last": nn.Linear(24, 3)}


def directions() -> dict[str, nn.Module]:
    return {"both": nn.LSTM(8, 4, batch_first=True, bidirectional=True), "last": nn.Linear(8, 3)}


def gated(x: torch.Tensor, one: nn.Module) -> torch.Tensor:
    return x * torch.sigmoid(one(x))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def attention(x: torch.Tensor, one: nn.Module, two: nn.Module, last: nn.Module, turned: bool) -> torch.Tensor:
    query, key = (two(x), one(x)) if turned else (one(x), two(x))
    return last((query * 0.35 @ key.transpose(-1, -2)).softmax(-1) @ x)


def parts(one: torch.Tensor, strided: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return (one[..., ::2], one[..., 1::2]) if strided else one.chunk(2, -1)


def joined(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts, -1)


def counting(x: torch.Tensor) -> torch.Tensor:
    """Ones at the places that count."""
    return (x.sum(2, keepdim=True) > 0).float()


def spread(x: torch.Tensor, matrix: torch.Tensor, one: nn.Module, last: nn.Module) -> torch.Tensor:
    return last((matrix * 0.5) @ one(x))


CASES: dict[str, tuple[Any, Any, Any, Layers, set[str]]] = {
    "the sum of a map for its mean": (
        lambda x, one, two, last: last(F.relu(one(x)).mean((2, 3), keepdim=True).flatten(1)),
        lambda x, one, two, last: last(F.relu(one(x)).sum((2, 3))), IMAGES, convolutions, {"pool-kind"},
    ),
    "one convolution for both halves of a gate": (
        lambda x, one, two, last: last((torch.tanh(one(x)) * torch.sigmoid(two(x))).mean((2, 3))),
        lambda x, one, two, last: (lambda y: last((torch.tanh(y) * torch.sigmoid(y)).mean((2, 3))))(one(x)),
        IMAGES, convolutions, {"wiring"},
    ),
    "a gate of the sum": (
        lambda x, one, two, last: last(F.relu(gated(two(x), one) + x)),
        lambda x, one, two, last: last(F.relu(gated(two(x) + x, one))), ROWS, squares, {"residual-order"},
    ),
    "a term for the sum": (
        lambda x, one, two, last: (lambda y: last(torch.tanh(y) * two(y)))(one(x) + x),
        lambda x, one, two, last: (lambda y: last(torch.tanh(x) * two(y)))(one(x) + x), ROWS, squares, {"wiring"},
    ),
    "halves of two directions": (
        lambda x, both, last: last(both(x)[0]),
        lambda x, both, last: last(joined(*both(x)[0].chunk(2, -1)[::-1])), STEPS, directions, {"concat-order"},
    ),
    "steps of two directions turned round": (
        lambda x, both, last: last(both(x)[0]), lambda x, both, last: last(both(x)[0].flip(1)), STEPS, directions,
        {"rnn-direction"},
    ),
    "the last step of both directions for their last states": (
        lambda x, both, last: last(joined(*both(x)[1][0])), lambda x, both, last: last(both(x)[0][:, -1]), STEPS,
        directions, {"rnn-last-step"},
    ),
    "the cell's state for the output's": (
        lambda x, both, last: last(joined(*both(x)[1][0])), lambda x, both, last: last(joined(*both(x)[1][1])), STEPS,
        directions, {"rnn-last-step"},
    ),
    "another norm than the one written out": (
        lambda x, one, two, last: last(unit(one(x))), lambda x, one, two, last: last(F.layer_norm(one(x), (8,))),
        ROWS, squares, {"norm-axis"},
    ),
    "queries for keys": (
        lambda x, one, two, last: attention(x, one, two, last, False),
        lambda x, one, two, last: attention(x, one, two, last, True), STEPS, squares, {"qkv-order"},
    ),
    "every other channel for a half": (
        lambda x, one, two, last: (lambda a, b: a * torch.tanh(b))(*parts(one(x), False)),
        lambda x, one, two, last: (lambda a, b: a * torch.tanh(b))(*parts(one(x), True)), ROWS, squares,
        {"channel-order"},
    ),
    "joined in turn, in another order": (
        lambda x, one, two, last: last(joined(x, one(x), two(x))),
        lambda x, one, two, last: last(joined(x, joined(two(x), one(x)))), ROWS, wide, {"concat-order"},
    ),
    "a term that cannot be computed again": (
        lambda x, one, two, last: last(F.relu(one(x)) + torch.special.bessel_j0(x)),
        lambda x, one, two, last: last(F.relu(one(x))), ROWS, squares, {"residual-missing"},
    ),
    "what a layer gives that others read": (
        lambda x, one, two, last: (lambda y: last(y * torch.tanh(two(x))))(one(x)),
        lambda x, one, two, last: (lambda y: last(y * torch.tanh(two(y))))(one(x)), ROWS, squares, {"wiring"},
    ),
    "a term of a sum that is scaled": (
        lambda x, one, two, last: last((x + one(x)) * 0.7), lambda x, one, two, last: last(one(x)), ROWS, squares,
        {"scale", "residual-missing"},
    ),
    "a mean of all places": (
        lambda x, one, two, last: (lambda y, there: last((y * there).sum(1) / there.sum(1)))(one(x), counting(x)),
        lambda x, one, two, last: (lambda y, there: last((y * there).sum(1) / x.shape[1]))(one(x), counting(x)),
        STEPS, squares, {"attention-mask"},
    ),
    "another matrix of neighbours": (
        lambda x, one, two, last: spread(x, MATRIX, one, last),
        lambda x, one, two, last: spread(x, OTHER, one, last), STEPS, squares, {"weights-perturbed"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_by_what_is_read_and_where(trace_path: Path, case: str) -> None:
    right, wrong, values, layers, names = CASES[case]
    told = said(trace_path, right, wrong, values, layers)
    assert named(told) == names, str(told)


def test_a_norm_behind_the_activation_with_gamma_for_beta_is_both(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"one": nn.Linear(8, 8), "norm": nn.LayerNorm(8), "last": nn.Linear(8, 3)}

    def swapped(x, one, norm, last):
        return last(F.layer_norm(F.relu(one(x)), (8,), norm.bias, norm.weight))

    told = said(
        trace_path, lambda x, one, norm, last: last(F.relu(norm(one(x)))),
        lambda x, one, norm, last: last(norm(F.relu(one(x)))), ROWS, layers,
    )  # fmt: skip
    assert named(told) == {"residual-order"}, str(told)
    told = said(
        trace_path.with_name("b.zarr"), lambda x, one, norm, last: last(F.relu(norm(one(x)))), swapped, ROWS, layers
    )
    assert "bn-stats" in named(told), str(told)
    assert not any(name.startswith("block") for name in named(told)), str(told)


def test_a_layer_for_each_step_ends_with_its_activation_though_it_reads_other_values(trace_path: Path) -> None:
    ids = np.random.default_rng(3).integers(0, 9, (2, 4, 6)).astype("int32")

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.conv = nn.Embedding(9, 5), nn.Conv1d(5, 7, 3, padding=1)

        def forward(self, letters: torch.Tensor) -> torch.Tensor:
            x = self.table(letters.flatten(0, 1)).transpose(1, 2)
            return F.relu(self.conv(x)).amax(2).unflatten(0, letters.shape[:2])

    letters = keras.layers.Input((4, 6), dtype="int32")
    x = keras.layers.Embedding(9, 5, name="table")(letters)
    conv = keras.layers.Conv1D(7, 3, padding="same", activation="relu")
    x = keras.layers.TimeDistributed(conv, name="conv")(x)
    reference = keras.Model(letters, keras.layers.TimeDistributed(keras.layers.GlobalMaxPooling1D(), name="most")(x))
    candidate = Spelled().eval()
    candidate.conv.weight.data = torch.tensor(conv.kernel.numpy()).permute(2, 1, 0)
    candidate.conv.bias.data.zero_()
    first, second = (tracer.record(model, ids, trace=trace_path) for model in (reference, candidate))
    told = explain(tracer.diff(first, second), seconds=20.0)
    assert named(told) == {"weights-not-loaded"}, str(told)


def fields(x: torch.Tensor, one: nn.Module, pairs: Sequence[tuple[int, int]], *, second: bool, halves: bool) -> Any:
    """Products of each two fields, one of them behind a kernel, all stacked."""
    made = [x[:, i] * one(x[:, j]) if second else one(x[:, i]) * x[:, j] for i, j in pairs]
    return torch.cat([torch.stack(made[:2], 1), torch.stack(made[2:], 1)], 1) if halves else torch.stack(made, 1)


@pytest.mark.parametrize(
    ("pairs", "second", "expected"),
    [
        (((0, 1), (0, 2), (0, 3), (1, 2), (1, 3)), False, set()),
        (((0, 1), (0, 2), (1, 2), (0, 3), (1, 3)), False, {"concat-order"}),
        (((0, 1), (0, 2), (0, 3), (1, 2), (1, 3)), True, {"wiring"}),
    ],
)
def test_products_of_fields_in_another_order(
    trace_path: Path, pairs: Sequence[tuple[int, int]], second: bool, expected: set[str]
) -> None:
    plain = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))
    found = said(
        trace_path,
        lambda x, one: torch.tanh(fields(x, one, plain, second=False, halves=False)),
        lambda x, one: torch.tanh(fields(x, one, pairs, second=second, halves=True)),
        ROWS, lambda: {"one": nn.Linear(8, 8, bias=False)},
    )  # fmt: skip
    assert named(found) == expected, str(found)


def test_a_size_that_is_squared_again_is_a_root_that_is_left_out(trace_path: Path) -> None:
    found = said(
        trace_path,
        lambda x, one, two, last: last(torch.sqrt(one(x).square() + two(x).square())),
        lambda x, one, two, last: last(torch.hypot(one(x), two(x)) ** 2), ROWS, squares,
    )  # fmt: skip
    assert found.parting
    assert named(found) <= {"block-missing", "block-extra"}, str(found)
