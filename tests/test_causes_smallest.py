"""Of several true statements the one that a porter would make: a mistake has one name, a correct port none."""

from __future__ import annotations

import math
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
from tests.test_causes import names, story
from tracer.causes.explain import explain

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 3, 8, 8)).astype("f4")
ROWS = RNG.normal(size=(4, 6, 8)).astype("f4")
Function = Callable[..., torch.Tensor]


def filled(module: nn.Module) -> nn.Module:
    """The module with weights that are no defaults, the same ones each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            nn.init.normal_(value, 0.3 if value.ndim == 1 else 0.0, 0.5)
        for name, value in module.named_buffers():
            if "running" in name:
                nn.init.uniform_(value, 0.4, 1.6)
    return module.eval()


class Written(nn.Module):
    """Some layers, and what a function makes of them and the input."""

    def __init__(self, made: Function, **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.made = nn.ModuleDict(layers), made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.made(x, **self.layers)


def said(path: Path, right: Function, wrong: Function, inputs: Any, layers: Callable[[], dict[str, nn.Module]]) -> Any:
    first, second = (filled(Written(made, **layers())) for made in (right, wrong))
    return story(path, first, second, inputs)


def rows_said(path: Path, reference: Any, candidate: nn.Module) -> Any:
    """What is said of a port of a model on rows, whose axes stay."""
    first = tracer.record(reference, ROWS, trace=path, name="a")
    return explain(tracer.diff(first, tracer.record(candidate, trace=path, name="b")), seconds=20.0)


def named(told: Any) -> set[str]:
    return {name for found in names(told).values() for name in found}


# --- a normalisation in the weights of the layer in front of it --------------------------------------------------


def folded(*, mean: bool = True, beta: bool = True, eps: float = 1e-3, bias: bool = True) -> nn.Module:
    model = filled(normed())
    conv, norm = model[0], model[1]
    factor = norm.weight.data / (norm.running_var + eps).sqrt()
    own = conv.bias.data.clone() if bias else torch.zeros(6)
    conv.bias.data = (norm.bias.data if beta else 0) + (own - (norm.running_mean if mean else 0)) * factor
    conv.weight.data = conv.weight.data * factor[:, None, None, None]
    return nn.Sequential(conv, nn.Identity(), *list(model)[2:]).eval()


def normed() -> Any:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=1e-3), nn.ReLU(), nn.Conv2d(6, 2, 1))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({}, None),
        ({"mean": False}, "bn-stats"),
        ({"beta": False}, "bn-stats"),
        ({"eps": 1e-5}, "bn-eps"),
        ({"bias": False}, "bias-missing"),
    ],
)
def test_a_normalisation_that_was_folded_wrongly(trace_path: Path, wrong: dict[str, Any], name: str | None) -> None:
    told = story(trace_path, filled(normed()), folded(**wrong), IMAGES)
    assert named(told) == ({name} if name else set()), str(told)


# --- what stands elsewhere ---------------------------------------------------------------------------------------


def branches() -> dict[str, nn.Module]:
    return {"one": nn.Conv2d(3, 4, 1), "two": nn.Conv2d(4, 4, 1), "last": nn.Linear(8, 3)}


def summed(x: torch.Tensor, add: Function, one: Any, two: Any, last: Any) -> torch.Tensor:
    x = F.relu(one(x))
    x = add(x, two(x))
    return last(torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda x, branch: 0.2 * (x + branch), "scale"),  # both pools read it, and it is said once
        (lambda x, branch: x + branch, "scale"),
        (lambda x, branch: (x + 0.2 * branch) / 2, "scale"),
    ],
)
def test_a_factor_is_a_factor_wherever_it_stands(trace_path: Path, wrong: Function, name: str) -> None:
    def right(x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * branch

    told = said(
        trace_path, lambda x, **m: summed(x, right, **m), lambda x, **m: summed(x, wrong, **m), IMAGES, branches
    )
    assert [found.names for found in told.parting] == [(name,)], str(told)


def test_channels_that_are_put_back_further_down_are_no_defect(trace_path: Path) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    right, wrong, back = filled(normed()), filled(normed()), filled(normed())
    for model in (wrong, back):
        for value in (*model[0].parameters(), *model[1].parameters(), model[1].running_mean, model[1].running_var):
            value.data = value.data[order]
    back[3].weight.data = back[3].weight.data[:, order]
    assert names(story(trace_path, right, back, IMAGES)) == {}
    assert named(story(trace_path.with_name("other.zarr"), right, wrong, IMAGES)) == {"channel-order"}


# --- what is done to the input -----------------------------------------------------------------------------------

MEAN, SPREAD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x / 255,
        lambda x: (x - 127.5) / 255,
        lambda x: (x / 255 - MEAN) / SPREAD,
        lambda x: (x - x.amin((2, 3), keepdim=True)) / (x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)),
    ],
)
def test_another_preparation_is_that_whatever_its_operations(trace_path: Path, wrong: Function) -> None:
    told = said(
        trace_path, lambda x, conv: conv(x / 127.5 - 1), lambda x, conv: conv(wrong(x)), IMAGES * 50 + 120,
        lambda: {"conv": nn.Conv2d(3, 4, 3)},
    )  # fmt: skip
    assert named(told) <= {"input-scale", "input-normalisation"}, str(told)
    assert told.parting


def test_what_is_added_to_a_branch_is_not_done_to_the_input(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, up, down: down(x + F.silu(up(x))), lambda x, up, down: down((x + F.silu(up(x))) / 2),
        ROWS, lambda: {"up": nn.Linear(8, 8), "down": nn.Linear(8, 2)},
    )  # fmt: skip
    assert named(told) == {"scale"}, str(told)


# --- by hand -----------------------------------------------------------------------------------------------------


def standard(x: torch.Tensor, axis: int = -1, eps: float = 1e-3, *, root: bool = True) -> torch.Tensor:
    gap = x - x.mean(axis, keepdim=True)
    spread = x.var(axis, keepdim=True, correction=0)
    return gap / (torch.sqrt(spread + eps) if root else torch.sqrt(spread) + eps)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda x: standard(x, eps=0.1), "ln-eps"),
        (lambda x: standard(x, root=False), "ln-eps"),
        (lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 0.1), "ln-eps"),
        (lambda x: standard(x, 1), "norm-axis"),
        (lambda x: F.layer_norm(x, (8,), eps=0.1), "ln-eps"),
    ],
)
def test_a_norm_that_is_written_out_is_one(trace_path: Path, wrong: Function, name: str) -> None:
    told = said(
        trace_path, lambda x, up, down: down(standard(up(x))), lambda x, up, down: down(wrong(up(x))), ROWS * 0.3,
        lambda: {"up": nn.Linear(8, 8), "down": nn.Linear(8, 2)},
    )  # fmt: skip
    assert named(told) == {name}, str(told)


class Norm(keras.layers.Layer):  # type: ignore[misc]
    """A normalisation of somebody's own, whose epsilon nothing tells."""

    def build(self, shape: Any) -> None:
        self.g = self.add_weight(shape=(shape[-1],), initializer="ones", name="g")
        self.b = self.add_weight(shape=(shape[-1],), initializer="zeros", name="b")

    def call(self, x: Any) -> Any:
        gap = x - keras.ops.mean(x, axis=-1, keepdims=True)
        return gap / keras.ops.sqrt(keras.ops.var(x, axis=-1, keepdims=True) + 1e-5) * self.g + self.b


@pytest.mark.parametrize(("eps", "expected"), [(1e-5, set()), (1e-2, {"ln-eps"})])
def test_a_norm_of_somebodys_own_is_read_off_its_values(trace_path: Path, eps: float, expected: set[str]) -> None:
    given = keras.Input((6, 8))
    reference = keras.Model(given, Norm(name="norm")(given))
    candidate = nn.Sequential(nn.LayerNorm(8, eps=eps))
    assert named(rows_said(trace_path, reference, candidate)) == expected


def test_values_times_their_own_sigmoid_are_an_activation(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, up, down: down(F.silu(up(x))),
        lambda x, up, down: down((lambda y: y * torch.sigmoid(1.702 * y))(up(x))), ROWS,
        lambda: {"up": nn.Linear(8, 8), "down": nn.Linear(8, 2)},
    )  # fmt: skip
    assert named(told) == {"activation-kind"}, str(told)


@pytest.mark.parametrize(
    ("joined", "name"),
    [
        (lambda a, b: (a + b) / 2, None),
        (lambda a, b: a + b, "scale"),
        (lambda a, b: a * b, "rnn-direction"),
    ],
)
def test_how_two_directions_are_joined(trace_path: Path, joined: Function, name: str | None) -> None:
    keras.utils.set_random_seed(0)
    given = keras.Input((6, 8))
    layer = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True), merge_mode="ave", name="both")
    reference = keras.Model(given, keras.layers.Dense(2, name="head")(layer(given)))
    rnn, head = nn.LSTM(8, 5, batch_first=True, bidirectional=True), nn.Linear(5, 2)
    with torch.no_grad():
        for end, own in (("", layer.forward_layer), ("_reverse", layer.backward_layer)):
            kernel, hidden, bias = own.get_weights()
            getattr(rnn, f"weight_ih_l0{end}").copy_(torch.tensor(kernel.T))
            getattr(rnn, f"weight_hh_l0{end}").copy_(torch.tensor(hidden.T))
            getattr(rnn, f"bias_ih_l0{end}").copy_(torch.tensor(bias))
            getattr(rnn, f"bias_hh_l0{end}").zero_()
        kernel, bias = reference.get_layer("head").get_weights()
        head.weight.copy_(torch.tensor(kernel.T))
        head.bias.copy_(torch.tensor(bias))
    candidate = Written(lambda x, rnn, head: head(joined(*rnn(x)[0].chunk(2, -1))), rnn=rnn, head=head).eval()
    assert named(rows_said(trace_path, reference, candidate)) == ({name} if name else set())


def test_heads_are_repeated_one_by_one_or_as_a_whole(trace_path: Path) -> None:
    def attend(x: torch.Tensor, share: Function, q: Any, k: Any, v: Any) -> torch.Tensor:
        queries = q(x).view(-1, 6, 4, 2).transpose(1, 2)
        keys, values = (share(part(x).view(-1, 6, 2, 2).transpose(1, 2)) for part in (k, v))
        return (queries @ keys.transpose(2, 3) / math.sqrt(2)).softmax(-1) @ values

    told = said(
        trace_path, lambda x, **m: attend(x, lambda y: y.repeat_interleave(2, 1), **m),
        lambda x, **m: attend(x, lambda y: y.repeat(1, 2, 1, 1), **m), ROWS,
        lambda: {"q": nn.Linear(8, 8), "k": nn.Linear(8, 4), "v": nn.Linear(8, 4)},
    )  # fmt: skip
    assert named(told) == {"head-layout"}, str(told)


# --- what another input may show ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "right", "wrong", "latent"),
    [
        # Nothing is negative behind a ReLU: beyond the border zeros and nothing at all are one.
        (F.relu, lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), []),
        (
            torch.abs,
            lambda x: F.interpolate(x, size=(16, 16), mode="bilinear", antialias=True),
            lambda x: F.interpolate(x, size=(16, 16), mode="bilinear"),
            [],
        ),
        (torch.tanh, F.relu, F.relu6, ["activation-kind"]),
    ],
)
def test_only_what_some_input_shows_is_said_to_differ(
    trace_path: Path, first: Function, right: Function, wrong: Function, latent: list[str]
) -> None:
    told = said(
        trace_path, lambda x, conv: right(first(conv(x))), lambda x, conv: wrong(first(conv(x))), IMAGES,
        lambda: {"conv": nn.Conv2d(3, 4, 3)},
    )  # fmt: skip
    assert not told.parting
    assert [name for found in told.latent for name in found.names] == latent


# --- what follows from what differs above --------------------------------------------------------------------------


def gated(x: torch.Tensor, norm: nn.Module, a: nn.Module, b: nn.Module, *, bend: Function = torch.sigmoid) -> Any:
    first = norm(x)
    both = F.relu(first + a(first))
    return both * bend(b(both)) + 2 * first


def test_what_a_missing_layer_does_further_on_is_not_said_again(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"norm": nn.LayerNorm(8), "a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}

    def bare(x: torch.Tensor, norm: nn.Module, a: nn.Module, b: nn.Module) -> Any:
        return gated(x, nn.Identity(), a, b)

    def bent(x: torch.Tensor, norm: nn.Module, a: nn.Module, b: nn.Module) -> Any:
        return gated(x, nn.Identity(), a, b, bend=torch.tanh)

    told = said(trace_path, gated, bare, ROWS, layers)
    assert [one.pair for one in told.each] == ["layers.a", "mul_1"]  # the sum of both is made right then
    told = said(trace_path.with_name("bent"), gated, bent, ROWS, layers)
    assert [one.cause for one in told.findings] == ["block-missing", "activation-kind"]


class _Moved(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.arange(8) / 8


def test_what_happens_in_each_round_of_a_loop_is_one_mistake(trace_path: Path) -> None:
    def rounds(x: torch.Tensor, a: nn.Module, *, moved: Function = torch.tanh) -> torch.Tensor:
        for _ in range(4):
            x = moved(a(x))
        return x

    def turned(x: torch.Tensor, a: nn.Module) -> torch.Tensor:
        return rounds(x, a, moved=lambda y: torch.tanh(y.flip(2)))

    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8)}

    told = said(trace_path, rounds, turned, ROWS, layers)
    assert [one.pairs for one in told.findings] == [("tanh", "tanh_1", "tanh_2", "tanh_3")]
    own = story(trace_path.with_name("own"), *(filled(Written(rounds, a=a(8, 8))) for a in (nn.Linear, _Moved)), ROWS)
    assert [(one.cause, len(one.pairs)) for one in own.findings] == [("shift", 4)]


@pytest.mark.parametrize(
    ("moved", "name"),
    [
        (lambda y: torch.tanh(y).transpose(2, 3), "axis-permutation"),
        (lambda y: torch.tanh(y.transpose(2, 3)), "axis-permutation"),
        (lambda y: torch.tanh(y).permute(0, 2, 3, 1), None),
    ],
)
def test_rows_of_an_output_are_no_columns(trace_path: Path, moved: Function, name: str | None) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Conv2d(3, 4, 3, padding=1)}

    told = said(trace_path, lambda x, a: torch.tanh(a(x)), lambda x, a: moved(a(x)), IMAGES, layers)
    assert bool(told.diff) == (name is None)
    assert named(told) == ({name} if name else set())


@pytest.mark.parametrize(
    "wrong",
    [lambda y: y.reshape(len(y), 8, 6), lambda y: y.transpose(1, 2).reshape(len(y), 6, 8).transpose(1, 2)],
)
def test_a_view_is_no_transposition_of_an_output(trace_path: Path, wrong: Function) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8)}

    right = lambda x, a: torch.tanh(a(x)).transpose(1, 2)  # noqa: E731
    told = said(trace_path, right, lambda x, a: wrong(torch.tanh(a(x))), ROWS, layers)
    assert not told.diff
    assert named(told) & {"reshape-order", "axis-permutation", "flatten-order"}


def test_columns_for_rows_are_no_other_layout(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8)}

    told = said(trace_path, lambda x, a: a(x).mean(1), lambda x, a: a(x).mean(1).T, ROWS, layers)
    assert not told.diff
    assert named(told) == {"axis-permutation"}


@pytest.mark.parametrize("reference", [lambda y: y.reshape(len(y), 3, 16), lambda y: y.unflatten(1, (3, 2)).flatten(2)])
def test_steps_that_are_joined_the_wrong_way_round(trace_path: Path, reference: Function) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8), "b": nn.Linear(16, 3)}

    def joined(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
        y = torch.tanh(a(x))
        return b(torch.cat([y[:, 1::2], y[:, ::2]], dim=2))

    told = said(trace_path, lambda x, a, b: b(reference(torch.tanh(a(x)))), joined, ROWS, layers)
    assert named(told) == {"concat-order"}


def test_a_skip_that_another_branch_has_too_is_missing(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}

    def right(x: torch.Tensor, a: nn.Module, b: nn.Module, *, skip: bool = True) -> torch.Tensor:
        y = torch.tanh(x)
        one = torch.sigmoid(a(y)) * 0.7
        return (one + y if skip else one) + (torch.sigmoid(b(y)) * 1.4 + y)

    told = said(trace_path, right, lambda x, a, b: right(x, a, b, skip=False), ROWS, layers)
    assert named(told) == {"residual-missing"}


def test_nothing_in_the_place_of_a_branch_is_no_other_activation(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}

    def right(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
        y = F.leaky_relu(a(x), 0.2)
        return torch.cat([torch.tanh(b(y)), y], dim=2)

    def wrong(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
        y = F.leaky_relu(a(x), 0.2)
        return torch.cat([torch.tanh(b(y)), torch.zeros_like(y)], dim=2)

    (one,) = said(trace_path, right, wrong, ROWS, layers).parting
    assert (one.status, one.names) == ("proven", ("residual-missing",))
    (cause,) = one.causes
    assert cause.what == "the candidate joins 0 in place of leaky_relu"
