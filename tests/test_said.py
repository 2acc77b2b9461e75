"""What `tracer diff` says besides verdicts: what could not be compared and why, weights that no value shows, draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import tracer
from tracer.cli.main import run
from tracer.compare import Diff, Verdict
from tracer.rerun.cuts import cuts

X = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("f4")


def dense(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


def test_statistics_alone_say_why_nothing_is_compared_and_what_to_do(
    trace_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, port = dense(), dense()
    a = tracer.record(model, X, trace=trace_path, name="a")
    b = tracer.record(port, trace=trace_path, name="b", statistics_only=True)
    for sides in (["a", "b"], ["b", "a"]):
        assert run(["diff", *sides, "--trace", str(trace_path)]) == 3
        shown = capsys.readouterr().out
        assert "'b' was recorded with --stats-only" in shown
        assert "record it again without it, or run it again: tracer diff a b --local" in shown
    again = tracer.diff(a, b, models=(model, port))
    assert again.verdict is Verdict.MATCH
    assert again.pairs[-1].reason == "on the same inputs the same; its own values were not recorded"
    wrong = dense()
    with torch.no_grad():
        wrong[0].bias += 1e-3
    c = tracer.record(wrong, trace=trace_path, name="c", statistics_only=True)
    found = tracer.diff(a, c, models=(model, wrong))
    assert found.first is not None
    assert found.first.aligned == "0"


class Hidden(nn.Module):
    """A branch that is multiplied by zero, and a layer that is never called."""

    def __init__(self, branch: int, spare: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main = nn.Linear(8, 4)
        torch.manual_seed(branch)
        self.branch = nn.BatchNorm1d(5, track_running_stats=True)
        self.branch.running_var.uniform_(1, 2)
        torch.manual_seed(spare)
        self.spare = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.branch(x) if self.training else x
        return torch.tanh(self.main(x))


def test_weights_that_differ_unseen_are_said_once(trace_path: Path) -> None:
    a = tracer.record(Hidden(1, 2).eval(), X, trace=trace_path, name="a")
    same = tracer.diff(a, tracer.record(Hidden(1, 2).eval(), trace=trace_path, name="b"))
    assert "weights differ" not in str(same)
    other = tracer.diff(a, tracer.record(Hidden(3, 4).eval(), trace=trace_path, name="c"))
    assert other.exit_code() == 0
    (line,) = (line for line in str(other).splitlines() if "weights differ where the values agree" in line)
    assert "running_var of branch" in line
    assert "kernel of spare" in line
    assert "main" not in line
    assert same.to_json().keys() == other.to_json().keys()


def test_weights_that_make_a_difference_are_not_called_unseen(trace_path: Path) -> None:
    a = tracer.record(dense(), X, trace=trace_path, name="a")
    diff = tracer.diff(a, tracer.record(dense(1), trace=trace_path, name="b"))
    assert diff.exit_code() == 1
    assert "Weights differ: kernel" in str(diff)
    assert "weights differ where the values agree" not in str(diff)


@pytest.mark.parametrize(
    ("make", "rate", "draws"),
    [
        (lambda p: nn.LSTM(8, 8, 2, dropout=p, batch_first=True), 0.5, True),
        (lambda p: nn.LSTM(8, 8, 1, dropout=p, batch_first=True), 0.5, False),
        (lambda p: nn.GRU(8, 8, 2, dropout=p, batch_first=True), 0.0, False),
        (lambda p: nn.MultiheadAttention(8, 2, dropout=p, batch_first=True), 0.5, True),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_layers_that_drop_inside_are_known_to_draw(trace_path: Path, make: Any, rate: float, draws: bool) -> None:
    class Net(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = make(p)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x, x, x)[0] if isinstance(self.inner, nn.MultiheadAttention) else self.inner(x)[0]

    a = tracer.record(Net(rate), X, trace=trace_path, name="a", mode="train")
    b = tracer.record(Net(rate), trace=trace_path, name="b", mode="train")
    made, _ = cuts(tracer.diff(a, b).alignment.pairs, a, b)
    assert made["inner"].draws is draws


def test_dropout_inside_a_layer_is_judged_by_its_share(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.LSTM(8, 8, 2, dropout=p, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[0]

    def compared(ours: nn.Module, theirs: nn.Module, name: str) -> Diff:
        path = trace_path.with_name(name)
        a = tracer.record(ours, X, trace=path, name="a", mode="train")
        return tracer.diff(a, tracer.record(theirs, trace=path, name="b", mode="train"), models=(ours, theirs))

    same = compared(Net(0.3), Net(0.3), "same.zarr")
    assert same.first is None
    other = compared(Net(0.3), Net(0.6), "other.zarr")
    assert other.first is not None
    assert other.first.reason == "it drops 0.3 of what its layers give against 0.6"


def test_a_tolerance_without_a_reason_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.zarr"
    a = tracer.record(dense(), X, trace=trace, name="a")
    b = tracer.record(dense(1), trace=trace, name="b")
    file = tmp_path / "map.yaml"
    said = "the mapping file does not say why its tolerance of '0', '*' is right: add a reason to it"
    file.write_text('tolerances:\n  - {match: "0", atol: 9}\n  - {match: "*", atol: 9, reason: " "}\n')
    assert run(["diff", "--trace", str(trace), "--map", str(file)]) == 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert tracer.diff(a, b, map=file).notes == (said,)
    file.write_text('tolerances:\n  - {match: "*", atol: 9, reason: another seed}\n')
    assert tracer.diff(a, b, map=file).notes == ()
