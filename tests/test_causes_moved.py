"""What stands elsewhere: sums, gates and crops that are made further on, and what a model gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.test_causes_smallest import IMAGES, ROWS, Function, filled, named, rows_said, said
from tracer.causes.explain import explain


def test_a_sum_behind_the_norm_or_before_it(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8), "n": nn.LayerNorm(8), "b": nn.Linear(8, 4)}

    right = lambda x, a, n, b: b(x + n(torch.tanh(a(x))))  # noqa: E731
    told = said(trace_path, right, lambda x, a, n, b: b(n(x + torch.tanh(a(x)))), ROWS, layers)
    assert named(told) == {"residual-order"}


def test_one_gate_before_the_other(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Conv2d(3, 3, 1), "where": nn.Conv2d(1, 1, 3, padding=1), "which": nn.Linear(3, 3)}

    def gated(x: torch.Tensor, a: nn.Module, where: nn.Module, which: nn.Module, *, first: str) -> torch.Tensor:
        def one(y: torch.Tensor) -> torch.Tensor:
            return y * torch.sigmoid(which(y.mean((2, 3))))[:, :, None, None]

        def other(y: torch.Tensor) -> torch.Tensor:
            return y * torch.sigmoid(where(y.mean(1, keepdim=True)))

        y = torch.tanh(a(x))
        return other(one(y)) if first == "which" else one(other(y))

    right = lambda x, **of: gated(x, **of, first="which")  # noqa: E731
    told = said(trace_path, right, lambda x, **of: gated(x, **of, first="where"), IMAGES, layers)
    assert named(told) <= {"residual-order", "wiring", "operand-order"}
    assert named(told)


def crossed() -> keras.Model:
    keras.backend.clear_session()
    x = keras.Input((8, 3))
    parts = [
        keras.layers.Cropping1D((0, 1), name=f"{name}_cut")(keras.layers.Conv1DTranspose(4, 3, strides=2, name=name)(x))
        for name in ("a", "b")
    ]
    y = keras.ops.tanh(parts[0] - parts[1])
    model = keras.Model(x, keras.layers.Conv1D(2, 1, name="last")(y))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape).astype("f4") for w in model.get_weights()])
    return model


class Crossed(nn.Module):
    """The port, which crops what the two kernels come to, and not each of them."""

    def __init__(self, reference: keras.Model) -> None:
        super().__init__()
        self.a, self.b = (nn.ConvTranspose1d(3, 4, 3, stride=2) for _ in range(2))
        self.last = nn.Conv1d(4, 2, 1)
        for layer, own in ((reference.get_layer(n), getattr(self, n)) for n in ("a", "b", "last")):
            kernel, bias = map(torch.tensor, layer.get_weights())
            own.weight.data, own.bias.data = kernel.permute(2, 1, 0).contiguous(), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh((self.a(x) - self.b(x))[..., :-1]))


def test_what_is_cut_off_behind_a_difference_is_no_mistake(trace_path: Path) -> None:
    model = crossed()
    steps = np.random.default_rng(2).normal(size=(2, 8, 3)).astype("f4")
    first = tracer.record(model, steps, trace=trace_path, name="a")
    found = tracer.diff(
        first, tracer.record(Crossed(model).eval(), steps, trace=trace_path, name="b", layout="NHWC->NCHW")
    )
    assert found
    assert not explain(found).parting


def test_an_output_that_is_rounded_behind_the_last_layer(trace_path: Path) -> None:
    layers = lambda: {"a": nn.Linear(8, 4)}  # noqa: E731
    told = said(
        trace_path, lambda x, a: torch.sigmoid(a(x)), lambda x, a: torch.sigmoid(a(x)).half().float(), ROWS, layers
    )
    assert not told.diff
    assert named(told) == {"dtype"}


def test_an_output_whose_values_are_laid_out_otherwise(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Conv2d(3, 2, 1)}

    right = lambda x, a: torch.sigmoid(a(x)).flatten(1)  # noqa: E731
    wrong = lambda x, a: torch.sigmoid(a(x).permute(0, 2, 3, 1).flatten(1))  # noqa: E731
    told = said(trace_path, right, wrong, IMAGES, layers)
    assert not told.diff
    assert named(told) & {"flatten-order", "axis-permutation"}


def test_what_only_lends_its_shape_takes_nothing_back(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 4), "b": nn.Linear(8, 1)}

    def right(x: torch.Tensor, a: nn.Module, b: nn.Module, *, whole: bool = True) -> tuple[torch.Tensor, ...]:
        shares = F.softmax(a(x), dim=2)
        rate = shares * x.sum(2, keepdim=True) if whole else shares
        return rate, torch.tanh(b(x)).expand_as(rate)

    told = said(trace_path, right, lambda x, a, b: right(x, a, b, whole=False), ROWS, layers)
    assert named(told) & {"block-missing", "scale"}


def test_one_is_not_added_to_a_gain(trace_path: Path) -> None:
    class Gains(nn.Module):
        def __init__(self, more: float) -> None:
            super().__init__()
            self.more, self.a, self.gain = more, nn.Linear(8, 8), nn.Parameter(torch.zeros(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = y * torch.rsqrt((y**2).mean(-1, keepdim=True) + 1e-6)
            return torch.tanh(y * (self.gain + self.more))

    told = rows_said(trace_path, filled(Gains(1.0)), filled(Gains(0.0)))
    assert "residual-missing" not in named(told)
    assert named(told)


def test_states_that_are_exchanged_are_no_other_step(trace_path: Path) -> None:
    def made(first: int) -> Function:
        def run(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
            states = a(x)[1]
            return b(torch.cat([states[first][0], torch.tanh(states[1 - first][0])], dim=1))

        return run

    layers = lambda: {"a": nn.LSTM(8, 5, batch_first=True), "b": nn.Linear(10, 3)}  # noqa: E731
    told = said(trace_path, made(0), made(1), ROWS, layers)
    assert named(told)
    assert "rnn-last-step" not in named(told)


@pytest.mark.parametrize(("place", "name"), [(1, "shift"), (-1, "rnn-last-step")])
def test_the_next_place_is_not_the_last(trace_path: Path, place: int, name: str) -> None:
    layers = lambda: {"a": nn.Linear(8, 8), "b": nn.Linear(8, 3)}  # noqa: E731
    told = said(trace_path, lambda x, a, b: b(a(x)[:, 0]), lambda x, a, b: b(a(x)[:, place]), ROWS, layers)
    assert named(told) == {name}


def test_squares_for_magnitudes_are_no_activation(trace_path: Path) -> None:
    layers = lambda: {"a": nn.Linear(8, 8), "b": nn.Linear(8, 3)}  # noqa: E731
    told = said(trace_path, lambda x, a, b: b(a(x).square()), lambda x, a, b: b(a(x).abs()), ROWS, layers)
    assert named(told) == {"operation-kind"}


def test_a_tensor_is_multiplied_by_what_is_left_to_one(trace_path: Path) -> None:
    layers = lambda: {"a": nn.Linear(8, 8), "b": nn.Linear(8, 3)}  # noqa: E731
    right = lambda x, a, b: b(x * torch.sigmoid(a(x)))  # noqa: E731
    told = said(trace_path, right, lambda x, a, b: b(x * (1 - torch.sigmoid(a(x)))), ROWS, layers)
    assert "shift" not in named(told)
    assert named(told)


def test_a_token_that_is_joined_behind_is_taken_from_there(trace_path: Path) -> None:
    class Token(nn.Module):
        def __init__(self, *, behind: bool) -> None:
            super().__init__()
            self.behind, self.token = behind, nn.Parameter(torch.zeros(1, 1, 8))
            self.places, self.norm, self.last = nn.Parameter(torch.zeros(7, 8)), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            token = self.token.expand(len(x), -1, -1)
            y = torch.cat([x, token] if self.behind else [token, x], dim=1)
            y = self.norm(y + self.places)
            y = torch.softmax(y @ y.mT, dim=2) @ y
            return self.last(y[:, -1 if self.behind else 0])

    told = rows_said(trace_path, filled(Token(behind=False)), filled(Token(behind=True)))
    assert named(told) == {"concat-order"}
    (one,) = told.parting
    assert "what reads it there goes with it" in str(one.notes)


def test_a_mistake_in_what_is_given_hides_none_above_it(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8), "b": nn.Linear(16, 4), "c": nn.Linear(4, 3)}

    def made(x: torch.Tensor, a: nn.Module, b: nn.Module, c: nn.Module, *, right: bool) -> torch.Tensor:
        parts = [x, torch.tanh(a(x))]
        y = c(torch.tanh(b(torch.cat(parts if right else parts[::-1], dim=2))))
        return torch.sigmoid(y) if right else y

    told = said(
        trace_path, lambda x, **of: made(x, **of, right=True), lambda x, **of: made(x, **of, right=False), ROWS, layers
    )
    assert named(told) in ({"concat-order", "activation-missing"}, {"concat-order", "logits"})
