"""Noise that grew is named: cancellation, divisors near zero, signs near zero, ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer.compare.instability import named
from tracer.compare.stats import compare
from tracer.compare.verdict import Verdict


class Delicate(nn.Module):
    """Operations that enlarge what a last bit says; going by way of ``scale`` costs that bit."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 16)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.fc(x)
        if self.scale != 1:
            y = y * self.scale / self.scale
        small = (y - 1e-3) - self.near
        flipped = torch.relu(y - self.near)
        twins = torch.stack([y, self.near.expand_as(y)], -1).argmax(-1)
        return small, flipped, twins

    near: torch.Tensor


@pytest.fixture
def noisy(tmp_path: Path) -> tracer.Diff:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    ours, theirs = Delicate(1.0), Delicate(3.0)
    theirs.load_state_dict(ours.state_dict())
    near = (ours.fc(torch.from_numpy(x)) * (1 + 2**-23)).detach()
    ours.near = theirs.near = near
    a = tracer.record(ours, x, name="a", trace=tmp_path / "t.zarr")
    b = tracer.record(theirs, x, name="b", trace=tmp_path / "t.zarr")
    return tracer.diff(a, b, models=(ours, theirs), atol=0, rtol=0)


def test_a_last_bit_is_noise_whatever_it_grows_to(noisy: tracer.Diff) -> None:
    assert noisy.verdict is Verdict.NOISE, str(noisy)
    said = {pair.node.kind: pair.reason for pair in noisy.pairs if pair.verdict is Verdict.NOISE}
    assert "rounding decides the sign of" in said["relu"], said
    assert "a tie" in said["argmax"], said
    assert "cancellation" in said["sub"], said


@pytest.mark.parametrize(("inherited", "says"), [(1e-6, "it divides by values near zero"), (1e-2, ""), (None, "")])
def test_a_divisor_near_zero_is_named_where_errors_grow(inherited: float | None, says: str) -> None:
    ours = np.linspace(1, 2, 10)
    stats = compare(ours, ours * (1 + 1e-3))
    assert named("layernorm", False, stats, inherited, None) == says
    assert named("conv1d", False, stats, inherited, None) == ""
    assert named("layernorm", False, compare(ours, ours), inherited, None) == ""


def test_agreement_about_nothing_is_said(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    a, b = (tracer.record(model, x, name=name, trace=tmp_path / "t.zarr") for name in "ab")
    assert "nothing was tested there: 1\n" in f"{tracer.diff(a, b)}\n"
