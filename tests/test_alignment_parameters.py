"""Whose weights go where: parameters that belong to the module around the operation that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import tracer  # noqa: E402
from tracer.alignment import align  # noqa: E402
from tracer.alignment.parameters import ParameterMap  # noqa: E402

X = np.random.default_rng(1).standard_normal((5, 7, 6)).astype(np.float32)


def written(x: Any, scale: Any, shift: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * scale + shift


def functional(x: Any, scale: Any, shift: Any) -> Any:
    return F.layer_norm(x, (6,), scale, shift)


def at_once(x: Any, scale: Any, shift: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    return torch.addcmul(shift, centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5), scale)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)

    def forward(self, x: Any) -> Any:
        x = self.norm1(x + torch.relu(self.first(x)))
        return self.norm2(x + torch.relu(self.second(x)))


class Own(nn.Module):
    """The same with all normalisations' parameters its own, in no order, and the first kernel too."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.b2, self.g1, self.b1, self.g2, self.c = (nn.Parameter(torch.randn(6)) for _ in range(5))
        self.w = nn.Parameter(torch.randn(6, 6))
        self.second, self.norm = nn.Linear(6, 6), norm

    def forward(self, x: Any) -> Any:
        x = self.norm(x + torch.relu(F.linear(x, self.w, self.c)), self.g1, self.b1)
        return self.norm(x + torch.relu(self.second(x)), self.g2, self.b2)


def pairs(found: ParameterMap) -> dict[str, str]:
    return {".".join(p.reference[0]): ".".join(filter(None, p.candidate[0])) for p in found.pairs}


WANTED = {
    "first.weight": "w", "first.bias": "c", "norm1.weight": "g1", "norm1.bias": "b1", "second.weight": "second.weight",
    "second.bias": "second.bias", "norm2.weight": "g2", "norm2.bias": "b2",
}  # fmt: skip


@pytest.mark.parametrize("norm", [written, functional, at_once])
def test_normalisations_whose_parameters_are_their_modules_own(norm: Any, trace_path: Path) -> None:
    ours = tracer.record(Layers().eval(), X, name="a", trace=trace_path)
    port = Own(norm).eval()
    theirs = tracer.record(port, name="b", trace=trace_path)
    for found in (align(ours, theirs), align(ours.structure, theirs.structure)):
        assert pairs(found.parameters) == WANTED
        assert not found.parameters.unmatched_reference
        assert not found.parameters.unmatched_candidate
        assert {p.relation for p in found.parameters.pairs} == {"as it is"}
    back = align(theirs.structure, ours.structure).parameters
    assert {".".join(p.candidate[0]): ".".join(filter(None, p.reference[0])) for p in back.pairs} == WANTED
