"""Functions that do several things in one, kernels that are not used as they are kept, two findings of one mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_causes_smallest import Function, named, said
from torch import nn
from torch.nn import functional as F

from tests.test_causes import story

ROWS = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
MAPS = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(3))
TIMES = torch.randn(2, 3, 14, generator=torch.Generator().manual_seed(4))


def three() -> dict[str, nn.Module]:
    return {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "o": nn.Linear(8, 3)}


def highway(x: Any, a: Any, b: Any, o: Any) -> Any:
    return o(x * (1 - torch.sigmoid(b(x))) + F.relu(a(x)) * torch.sigmoid(b(x)))


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (lambda x, a, b, o: o(a(x) + torch.sigmoid(b(x)) * x),
         lambda x, a, b, o: o(torch.addcmul(a(x), torch.sigmoid(b(x)), x)), None),
        (lambda x, a, b, o: o(a(x) + torch.sigmoid(b(x)) * x),
         lambda x, a, b, o: o(torch.addcmul(a(x), torch.tanh(b(x)), x)), "activation-kind"),
        (lambda x, a, b, o: o(a(x) + torch.sigmoid(b(x)) * x),
         lambda x, a, b, o: o(torch.addcmul(a(x), torch.sigmoid(b(x)), x, value=0.5)), "scale"),
        (highway, lambda x, a, b, o: o(torch.lerp(x, F.relu(a(x)), torch.sigmoid(b(x)))), None),
        (highway, lambda x, a, b, o: o(torch.lerp(x, F.relu(a(x)), F.hardsigmoid(b(x)))), "activation-kind"),
        (lambda x, a, b, o: (a(x) * b(x)).sum(-1) / (a(x).norm(dim=-1) * b(x).norm(dim=-1)),
         lambda x, a, b, o: F.cosine_similarity(a(x), b(x), dim=-1), None),
        (lambda x, a, b, o: o(a(x).topk(3, dim=1)[0].mean(1)),
         lambda x, a, b, o: o(a(x).topk(3, dim=1, largest=False)[0].mean(1)), "operation-kind"),
        (lambda x, a, b, o: o(a(x).flip(1, 2)), lambda x, a, b, o: o(F.relu(a(x)).flip(1, 2)), "activation-extra"),
    ],
)  # fmt: skip
def test_functions_that_do_several_things(trace_path: Path, right: Function, wrong: Function, name: str | None) -> None:
    told = said(trace_path, right, wrong, ROWS, three)
    assert named(told) == ({name} if name else set()), str(told)


def placed(x: Any) -> Any:
    y = torch.zeros(4, 8, 8)
    y[:, 1:7] = x
    return y


def around(x: Any) -> Any:
    return torch.tanh(x[:, None, :, :2]).repeat(1, 5, 1, 1)


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (lambda x, a, b, o: torch.cat([a(x)[:, 1:] - a(x)[:, :-1], x], 1),
         lambda x, a, b, o: torch.cat([torch.diff(a(x), dim=1), x], 1), None),
        (lambda x, a, b, o: o(F.pad(a(x), (0, 0, 1, 1))), lambda x, a, b, o: o(placed(a(x))), None),
        (lambda x, a, b, o: torch.fft.rfft(a(x), dim=-1, norm="ortho").abs(),
         lambda x, a, b, o: torch.fft.rfft(F.relu(a(x)), dim=-1, norm="ortho").abs(), "activation-extra"),
        (lambda x, a, b, o: torch.cdist(a(x), b(x)), lambda x, a, b, o: torch.cdist(a(x), torch.tanh(b(x))),
         "activation-extra"),
        (lambda x, a, b, o: o(a(x).unfold(1, 2, 1).mean(-1)), lambda x, a, b, o: o(a(x).unfold(1, 2, 1).amax(-1)),
         "pool-kind"),
        (lambda x, a, b, o: F.grid_sample(a(x)[:, None], around(x), align_corners=False),
         lambda x, a, b, o: F.grid_sample(a(x)[:, None], around(x), align_corners=True), "resize-align-corners"),
        (lambda x, a, b, o: F.grid_sample(a(x)[:, None], around(x), align_corners=False),
         lambda x, a, b, o: F.grid_sample(a(x)[:, None], around(x), mode="nearest", align_corners=False),
         "resize-mode"),
    ],
)  # fmt: skip
def test_functions_that_few_networks_have(trace_path: Path, right: Function, wrong: Function, name: str | None) -> None:
    told = said(trace_path, right, wrong, ROWS, three)
    assert named(told) == ({name} if name else set()), str(told)


def levelled(weight: Any, ddof: int = 0, eps: float = 1e-4, *, root: bool = True) -> Any:
    middle = weight - weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), keepdim=True, correction=ddof)
    return middle / ((variance + eps).sqrt() if root else variance.sqrt() + eps)


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (levelled, None),
        (lambda weight: levelled(weight, 1), "std-ddof"),
        (lambda weight: levelled(weight, eps=1e-5), "ln-eps"),
        (lambda weight: weight, "weights-perturbed"),
    ],
)
def test_a_kernel_that_is_standardised_as_it_is_used(trace_path: Path, use: Any, name: str | None) -> None:
    def convolved(use: Any) -> Function:
        return lambda x, conv: F.relu(F.conv2d(x, use(conv.weight), conv.bias, padding=1))

    told = said(trace_path, convolved(levelled), convolved(use), MAPS, lambda: {"conv": nn.Conv2d(4, 5, 3)})
    assert named(told) == ({name} if name else set()), str(told)
    assert "use_" not in " ".join(line for one in told.findings for line in one.fixes)


def test_a_masked_kernel(trace_path: Path) -> None:
    mask = torch.ones(3, 3).tril()
    told = said(
        trace_path, lambda x, conv: F.relu(F.conv2d(x, conv.weight * mask, conv.bias)),
        lambda x, conv: F.gelu(F.conv2d(x, conv.weight * mask, conv.bias)), MAPS, lambda: {"conv": nn.Conv2d(4, 5, 3)},
    )  # fmt: skip
    assert named(told) == {"activation-kind"}, str(told)


class Unrolled(nn.Module):
    """An LSTM whose products are convolutions, a step at a time, with Keras's weights."""

    def __init__(self, keras_layer: Any, gate: Function = torch.sigmoid, *, back: bool = False) -> None:
        super().__init__()
        given, kept, bias = (torch.tensor(weight.numpy()) for weight in keras_layer.weights)
        self.given, self.kept = nn.Conv2d(2, 12, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.given.weight.data, self.kept.weight.data = given.permute(3, 2, 0, 1), kept.permute(3, 2, 0, 1)
        self.given.bias.data, self.gate, self.back = bias, gate, back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(len(x), 3, *x.shape[3:])
        steps = list(x.unbind(2))
        for step in reversed(steps) if self.back else steps:
            i, f, g, o = (self.given(step) + self.kept(h)).chunk(4, 1)
            c = self.gate(f) * c + self.gate(i) * torch.tanh(g)
            h = self.gate(o) * torch.tanh(c)
        return h


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ({}, set()),
        ({"gate": F.hardsigmoid}, {"rnn-activation"}),
        ({"gate": F.hardsigmoid, "back": True}, {"rnn-activation", "rnn-direction"}),
    ],
)
def test_a_recurrent_convolution(trace_path: Path, own: dict[str, Any], names: set[str]) -> None:
    keras = pytest.importorskip("keras")
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    layer = keras.layers.ConvLSTM2D(3, 3, padding="same", recurrent_activation="sigmoid")
    reference = keras.Sequential([keras.Input((3, 5, 6, 2)), layer])
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 6, 2)).astype("f4") * 2
    told = story(trace_path, reference, Unrolled(layer, **own).eval(), values)
    assert named(told) == names, str(told)


def test_a_padding_goes_with_its_dilation(trace_path: Path) -> None:
    def causal(dilation: int) -> Function:
        return lambda x, conv: F.relu(F.conv1d(F.pad(x, (2 * dilation, 0)), conv.weight, conv.bias, dilation=dilation))

    told = said(trace_path, causal(2), causal(1), TIMES, lambda: {"conv": nn.Conv1d(3, 4, 3)})
    assert named(told) == {"dilation"}, str(told)


def test_a_mean_behind_the_norm_and_before_it(trace_path: Path) -> None:
    layers = lambda: {"norm": nn.LayerNorm(8), "o": nn.Linear(8, 3)}  # noqa: E731
    told = said(trace_path, lambda x, norm, o: o(norm(x.mean(1))), lambda x, norm, o: o(norm(x).mean(1)), ROWS, layers)
    assert named(told) == {"residual-order"}, str(told)


def test_masks_of_ids_are_masks(trace_path: Path) -> None:
    ids = torch.randint(1, 9, (3, 7), generator=torch.Generator().manual_seed(1))

    def mean(least: int) -> Function:
        def made(x: Any, table: Any, o: Any) -> Any:
            there = (x > least).float()[..., None]
            return o((table(x) * there).sum(1) / there.sum(1).clamp(min=1))

        return made

    told = said(trace_path, mean(2), mean(3), ids, lambda: {"table": nn.Embedding(9, 8), "o": nn.Linear(8, 3)})
    assert named(told) == {"attention-mask"}, str(told)


def test_features_turned_before_a_recurrent_layer_are_no_direction(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {"lstm": nn.LSTM(8, 5, batch_first=True), "o": nn.Linear(5, 2)}

    for axis, name in ((2, "channel-order"), (1, "rnn-direction")):
        told = said(
            trace_path.with_name(f"{axis}.zarr"), lambda x, lstm, o: o(lstm(x)[0][:, -1]),
            lambda x, lstm, o, axis=axis: o(lstm(x.flip(axis))[0][:, -1]), ROWS, layers,
        )  # fmt: skip
        assert named(told) == {name}, str(told)
