"""What a PyTorch model does not compute again in float64, and what it computes in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tracer import adapter as adapters
from tracer.adapter import Array
from tracer_torch import depthwise

X = np.random.default_rng(5).standard_normal((2, 4, 9, 9)).astype(np.float32)


class Known(Mapping[str, Array]):
    """Says which of them was asked for."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        self.values_, self.asked = values, set[str]()

    def __getitem__(self, name: str) -> Array:
        value = self.values_[name]
        self.asked.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self.values_

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


class Seen:
    """Wants one node, and what is known."""

    def __init__(self, known: Known, wanted: str) -> None:
        self.known, self.wanted = known, wanted
        self.value: Array | None = None

    def wants(self, name: str) -> bool:
        return name == self.wanted or name in self.known

    def __call__(self, name: str, value: Array) -> Array | None:
        if name == self.wanted:
            self.value = np.array(value)
        return self.known.get(name)


class Net(nn.Module):
    """Convolution, normalisation, activation; ``between`` is done before the last convolution."""

    def __init__(self, between: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.norm, self.act, self.other = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Sigmoid()
        nn.init.zeros_(self.norm.weight)
        nn.init.ones_(self.norm.bias)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.between(self, self.norm(self.conv(x))))
        return found


@torch.jit.script
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def in_place(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.act(y)
    return y


def asked(net: Net, y: torch.Tensor) -> torch.Tensor:
    return net.act(y) if bool((y == 1).all()) else net.other(y)  # type: ignore[no-any-return]


CASES: dict[str, tuple[Callable[[Net, torch.Tensor], torch.Tensor], float, set[str]]] = {
    "modules alone": (lambda net, y: net.act(y), 3, {"act"}),
    "its input used": (in_place, 3, {"act"}),
    "a choice by its values": (asked, 3, {"norm", "act"}),
    "a sum": (lambda net, y: net.other(y) + y, 1.5, {"norm", "other"}),
    "a view": (lambda net, y: net.act(y.mT), 3, {"norm", "act"}),
    "TorchScript": (lambda net, y: doubled(y), 2, {"norm"}),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_something_reads_is_filled_in(case: str) -> None:
    between, expected, taken = CASES[case]
    torch.manual_seed(0)
    net = Net(between).eval()
    loaded = adapters.for_object(net)[1].wrap(net)
    inputs = {loaded.signature()[0].name: X}
    names = {node.name for node in loaded.structure(inputs).stored()}
    values = {"conv": 7.0, "norm": 1.0, "act": 3.0, "other": 0.5}
    known = Known({name: np.full(X.shape, value, np.float32) for name, value in values.items() if name in names})
    seen = Seen(known, "last")
    loaded.replay_rest(inputs, seen, known, double=True)
    wanted = net.last.double()(torch.full(X.shape, expected, dtype=torch.float64))
    assert seen.value is not None
    assert np.allclose(seen.value, wanted.detach().numpy(), atol=1e-12)
    assert known.asked == taken


@pytest.mark.parametrize(
    ("rank", "groups", "times", "kernel", "stride", "padding", "dilation"),
    [(1, 4, 1, 3, 1, 1, 1), (1, 6, 2, 5, 2, "valid", 2), (2, 8, 1, 3, 2, 1, 1),
     (2, 5, 3, (3, 2), (2, 1), (1, 0), (1, 2)), (2, 8, 1, 4, 1, "same", 1), (3, 4, 2, 3, 2, 1, 1),
     (2, 3000, 1, 3, 1, 1, 1)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_depthwise_convolutions_are_those_of_torch(
    rank: int, groups: int, times: int, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> None:
    x = torch.randn(2, groups, *(9, 11, 10)[:rank], dtype=torch.float64)
    sizes = (kernel,) * rank if isinstance(kernel, int) else kernel
    weight, bias = torch.randn(groups * times, 1, *sizes).double(), torch.randn(groups * times).double()
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[rank - 1]
    for added in (None, bias):
        rest = (weight, added, stride, padding, dilation, groups)
        found = depthwise.convolved(depthwise.CONVOLUTIONS[function], x, *rest)
        assert found is not None
        torch.testing.assert_close(found, function(x, *rest), rtol=0, atol=1e-12)


def test_convolutions_that_torch_refuses_or_does_well_are_left_to_it() -> None:
    x, weight = torch.zeros(1, 4, 8, 8).double(), torch.zeros(4, 1, 3, 3).double()
    assert depthwise.convolved(2, x, weight, groups=4) is not None
    assert depthwise.convolved(2, x.float(), weight, groups=4) is None
    assert depthwise.convolved(2, x[:, :2], weight, groups=4) is None
    assert depthwise.convolved(2, x, weight, groups=4, dilation=9) is None
    assert depthwise.convolved(2, x, torch.zeros(4, 2, 3, 3).double(), groups=2) is None
    assert depthwise.convolved(2, torch.zeros(1, 4, 80, 80).double(), weight, groups=4) is None
