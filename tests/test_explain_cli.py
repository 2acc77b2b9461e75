"""Causes as the user meets them: ``tracer explain``, a line of ``tracer diff``, the Python interface, what is kept."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from torch import nn

import tracer
from tests.cli import refused, run
from tracer.causes import kept, registry
from tracer.causes.explain import explain
from tracer.causes.finding import Finding
from tracer.compare import diff
from tracer.report import explain as report
from tracer.report.causes import short
from tracer.store import comparisons
from tracer.worker.failure import WorkerError
from tracer.worker.results import parse_verify

X = np.random.default_rng(0).normal(size=(3, 6)).astype("f4")
SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, eps=1e-3, slope=0.3, turned=False, odd=False, momentum=0.1):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, eps=eps, momentum=momentum), nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8, eps=eps, momentum=momentum)
        self.slope, self.odd = slope, odd
        self.head = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if name.endswith("running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.02 + 0.002)
                elif tensor.dtype.is_floating_point:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if turned:
                self.body[2].weight.copy_(self.body[2].weight.T.clone())
        self.eval()

    def forward(self, x):
        x = self.norm(self.body(x))
        x = nn.functional.leaky_relu(x, self.slope)
        if self.odd:
            x = x + 0.01 * torch.sin(50 * x) * x.mean()
        return self.head(nn.functional.leaky_relu(x, 1.0))  # a second call: a patch could not say which is meant
"""
WRONG: dict[str, Any] = {"eps": 1e-5, "slope": 0.1, "turned": True}


def build(**wrong: Any) -> nn.Module:
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(SOURCE, "net.py", "exec"), space)
    return space["Net"](**wrong)


def recorded(path: Path, **wrong: Any) -> tuple[tracer.Recording, tracer.Recording]:
    a = tracer.record(build(), X, name="a", trace=path / "trace.zarr")
    return a, tracer.record(build(**wrong), name="b", trace=path / "trace.zarr")


def test_each_cause_has_its_proof_and_its_fix(tmp_path: Path) -> None:
    recorded(tmp_path, **WRONG)
    shown = run("explain", cwd=tmp_path, code=1).stdout
    assert "✗ 3 causes: 4 pairs of" in shown
    assert "bn-eps: epsilon is 0.001 in the reference, 1e-05 in the candidate" in shown
    assert "in 2 layers: body.1, norm" in shown
    assert "fix    model.body[1].eps = 0.001   (and so in the other)" in shown
    assert "fix    model.body[2].weight.data = model.body[2].weight.data.permute(1, 0).contiguous()" in shown
    assert re.search(r"fix    net\.py:\d+: F\.leaky_relu\(…\) with negative_slope=0\.3\n   at     net\.py:\d+", shown)
    proofs = [line.split() for line in shown.splitlines() if line.strip().startswith("proof")]
    assert len(proofs) == 3
    for words in proofs:
        before, after = float(words[2]), float(words[4])
        assert before > 1e-4
        assert after < 1e-6
    order = [shown.index(text) for text in ("bn-eps:", "dense-transpose:", "activation-param:")]
    assert order == sorted(order)


def test_json_is_documented(tmp_path: Path) -> None:
    a, b = recorded(tmp_path, **WRONG)
    told = json.loads(run("explain", "--json", cwd=tmp_path, code=1).stdout)
    assert told["schema"] == "tracer-explain/1"
    assert [cause["cause"] for cause in told["causes"]] == ["bn-eps", "dense-transpose", "activation-param"]
    for cause in told["causes"]:
        assert {"pair", "cause", "candidates", "proof", "fix"} <= cause.keys()
        assert cause["proof"]["after"] < cause["proof"]["floor"] < cause["proof"]["before"]
        assert cause["fix"]
    assert told["causes"][0]["pairs"] == ["body.1", "norm"]
    assert Finding.from_json(told["causes"][0]).to_json() == told["causes"][0]
    compared = json.loads(run("diff", "--json", cwd=tmp_path, code=1).stdout)
    assert [cause["cause"] for cause in compared["causes"]] == ["bn-eps"]
    assert compared["causes"][0]["pair"] == compared["first_divergence"] == "body.1"
    assert json.loads(run("diff", "--json", "--no-explain", cwd=tmp_path, code=1).stdout)["causes"] == []
    assert tracer.diff(a, b).to_json()["causes"] == compared["causes"]


def test_diff_says_the_cause_of_what_diverged(tmp_path: Path) -> None:
    recorded(tmp_path, **WRONG)
    shown = run("diff", cwd=tmp_path, code=1).stdout
    assert "  Cause: bn-eps: epsilon is 0.001 in the reference, 1e-05 in the candidate (error " in shown
    assert "  Fix: model.body[1].eps = 0.001\n" in shown
    without = run("diff", "--no-explain", cwd=tmp_path, code=1).stdout
    assert without == "".join(
        line for line in shown.splitlines(keepends=True) if not line.startswith(("  Cause:", "  Fix:"))
    )


def test_only_some_layers(tmp_path: Path) -> None:
    recorded(tmp_path, **WRONG)
    shown = run("explain", "--only", "norm", "--only", "leaky*", cwd=tmp_path, code=1).stdout
    assert "2 causes: 2 pairs" in shown
    assert "dense-transpose" not in shown
    refused("explain", "--only", "nothing*", cwd=tmp_path, says="no pair is called 'nothing*'")
    refused("explain", "--seconds", "0", cwd=tmp_path, says="seconds")
    refused("explain", "a", "zzz", cwd=tmp_path, says="zzz")


def test_nothing_parts(tmp_path: Path) -> None:
    a, b = recorded(tmp_path)
    shown = run("explain", cwd=tmp_path, code=0).stdout
    assert "nothing parts" in shown
    found = tracer.explain(a, b)
    assert found
    assert found.parting == ()
    assert tracer.diff(a, b).causes == ()


def test_what_differs_only_in_training_is_said_apart(tmp_path: Path) -> None:
    a, b = recorded(tmp_path, momentum=0.3)
    found = tracer.explain(a, b)
    assert found
    assert {one.status for one in found.findings} == {"latent"}
    text = str(found)
    head, _, rest = text.partition("will differ in training or on other inputs\n")
    assert "training-bn-momentum" not in head
    assert "training-bn-momentum: momentum is 0.9 in the reference, 0.7 in the candidate" in rest
    assert "in 2 layers: body.1, norm" in rest
    assert "fix    model.body[1].momentum = 0.1" in rest


def test_an_unknown_cause_says_what_was_tried(tmp_path: Path) -> None:
    a, b = recorded(tmp_path, odd=True)
    found = tracer.explain(a, b)
    assert not found
    for one in found.parting:
        assert one.status == "unknown" or one.after is not None
    unknown = Finding("x", "unknown", before=0.25, after=0.125, floor=1e-6, notes=("nearest: a guess",))
    assert short(unknown) == (
        "unknown cause (error 2.5e-01, of which rounding explains 1.0e-06; the nearest hypothesis leaves 1.2e-01)"
    )


@pytest.mark.parametrize("width", [80, 160])
def test_sentences_keep_to_the_screen(width: int, tmp_path: Path) -> None:
    found = tracer.explain(*recorded(tmp_path, **WRONG))
    lines = report.text(found, width=width).plain.splitlines()
    code = [line for line in lines if line.startswith(("   fix", "   at"))]
    assert max(cell_len(line) for line in lines if line not in code) <= width
    assert report.text(found, ascii_only=True).plain.isascii()


def test_several_causes_of_one_pair_and_what_cannot_be_told_apart(tmp_path: Path) -> None:
    found = tracer.explain(*recorded(tmp_path, **WRONG))
    first, second = found.findings[:2]
    both = replace(
        first, causes=(replace(first.causes[0], without=0.5), replace(second.causes[0], without=0.25)),
        candidates=(replace(first.causes[0], id="scale", what="everything is doubled"),), status="ambiguous",
        apart="an input with small variance would tell", seen=("a constant ratio",),
    )  # fmt: skip
    text = report.text(replace(found, findings=(both,), unread={"head": "no reason"}, left=("z",)), width=100).plain
    assert "(without it 5.0e-01 is left)" in text
    assert "(without it 2.5e-01 is left)" in text
    assert "cannot be told apart here from scale (everything is doubled). An input with small variance" in " ".join(
        text.split()
    )
    assert "seen   a constant ratio" in text
    assert "1 pair could not be computed again: --all says why" in text
    assert "1 pair not looked at for want of time" in text
    assert "head: no reason" in report.text(replace(found, unread={"head": "no reason"}), everything=True).plain


def test_findings_are_kept_and_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = recorded(tmp_path, **WRONG)
    first = tracer.explain(a, b)
    monkeypatch.setattr("tracer.causes.explain._look", lambda *rest: pytest.fail("looked again"))
    assert tracer.explain(a, b).to_json() == first.to_json()
    assert tracer.diff(a, b).first.cause == "bn-eps"  # type: ignore[union-attr]
    monkeypatch.undo()
    looked: list[str] = []
    real = explain.__globals__["_look"]

    def look(make: Any, index: int, pair: Any, *rest: Any) -> Any:
        looked.append(pair.aligned)
        return real(make, index, pair, *rest)

    monkeypatch.setattr("tracer.causes.explain._look", look)
    again = tracer.record(build(eps=1e-5), name="b", trace=tmp_path / "trace.zarr", force=True)
    assert tracer.explain(a, again).findings[0].names == ("bn-eps",)
    assert "norm" in looked


@pytest.mark.parametrize("harm", ["list", "status", "change", "pair"])
def test_what_is_kept_is_not_trusted(harm: str, tmp_path: Path) -> None:
    a, b = recorded(tmp_path, **WRONG)
    first = tracer.explain(a, b)
    entries = comparisons.load(a, b, kept.ENTRIES)
    entry = next(one for one in entries if one[0] == "causes")
    key = next(name for name, one in entry[4].items() if one["finding"] is not None)
    if harm == "list":
        entry[4] = [1]
    elif harm == "status":
        entry[4][key]["finding"]["status"] = "sure"
    elif harm == "change":
        entry[4][key]["finding"]["details"][0]["changes"][0]["what"] = "run"
    else:
        entry[4][key] = 7
    assert comparisons.save(a, b, kept.ENTRIES, entries)
    assert tracer.explain(a, b).to_json() == first.to_json()


def test_the_time_of_a_diff_is_bounded(tmp_path: Path) -> None:
    a, b = recorded(tmp_path, **WRONG)
    compared = diff(a, b)
    assert kept.told(compared, within=0.0).causes == ()
    assert kept.explained(compared, within=0.0).left
    registry.load()
    began = time.monotonic()
    kept.told(compared, within=0.5)
    assert time.monotonic() - began < 10


def test_a_cause_engine_that_fails_leaves_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("odd")

    monkeypatch.setattr("tracer.causes.explain._look", fail)
    compared = tracer.diff(*recorded(tmp_path, **WRONG))
    assert compared.first is not None
    assert compared.first.cause is None
    assert "the causes could not be looked for (RuntimeError: odd)" in compared.notes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models recorded from files, as the command line loads them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(SOURCE)
    np.save(folder / "x.npy", X)
    run("record", "pt", "--arch", "net.py:Net", "--input", "x.npy", "--name", "a", cwd=folder)
    run("record", "pt", "--arch", "net.py:Net", "--arch-args", json.dumps(WRONG), "--name", "b", cwd=folder)
    return folder


def test_the_fixes_are_verified_in_the_sandbox(files: Path) -> None:
    done = run("explain", "--verify", "--patch", "fix.py", cwd=files, code=1)
    line = next(line for line in done.stdout.splitlines() if line.startswith("✓ outputs: "))
    words = line.split()
    assert float(words[2]) > 1e-3
    assert float(words[4].rstrip(",")) < 1e-6
    assert line.endswith("equal to within rounding")
    assert "3 fixes made in memory; 1 fix in code, for which the reference's layer stood in: leaky_relu" in done.stdout
    assert "3 of 4 fixes written to fix.py" in done.stderr
    space: dict[str, Any] = {"__name__": "fix"}
    exec((files / "fix.py").read_text(), space)
    mended = space["apply"](build(**{**WRONG, "slope": 0.3}))
    with torch.no_grad():
        assert torch.allclose(mended(torch.tensor(X)), build()(torch.tensor(X)), atol=1e-6)
    refused("explain", "--patch", "fix.py", cwd=files, says="exists already: --force replaces it")
    told = json.loads(run("explain", "--verify", "--json", "--patch", "fix.py", "--force", cwd=files, code=1).stdout)
    assert told["verified"]["agrees"]
    assert told["verified"]["stood_in"] == ["leaky_relu"]


def test_a_live_model_cannot_be_verified(tmp_path: Path) -> None:
    recorded(tmp_path, **WRONG)
    refused("explain", "--verify", cwd=tmp_path, code=3, says="was recorded from a live model")


@pytest.mark.parametrize(
    "answer", [None, {}, {"outputs": [], "failed": {}}, {"outputs": [{"max_abs": "x"}], "failed": {}}]
)
def test_an_answer_that_makes_no_sense(answer: object) -> None:
    with pytest.raises(WorkerError, match="makes no sense"):
        parse_verify(answer, 1)


def test_the_example_of_a_cause_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs" / "causes.md").read_text("utf-8")
    (code,) = [part.split("```")[0] for part in text.split("```python\n") if "@suggests" in part]
    registry.load()
    monkeypatch.setattr(registry, "_suggestions", [])
    exec(code, {"__name__": "mine"})
    model, candidate = (nn.Sequential(nn.Linear(6, 4), nn.Softmax(-1)).eval() for _ in range(2))
    candidate.load_state_dict(model.state_dict())

    def forward(x: torch.Tensor) -> torch.Tensor:
        x.numpy()[...] /= 10  # in memory, where no recording sees it
        return torch.softmax(x, -1)

    candidate[1].forward = forward
    a = tracer.record(model, X, name="a", trace=tmp_path / "trace.zarr")
    found = tracer.explain(a, tracer.record(candidate, name="b", trace=tmp_path / "trace.zarr"))
    assert [one.names for one in found.parting] == [("my-temperature",)], str(found)
    assert "the candidate divides the logits by 10" in str(found)
    assert "fix    divide the logits as the reference does" in str(found)


def test_nothing_to_patch_writes_nothing(tmp_path: Path) -> None:
    recorded(tmp_path, slope=0.1)
    done = run("explain", "--patch", "fix.py", cwd=tmp_path, code=1)
    assert "nothing written to fix.py: none of the fixes can be made in memory" in done.stderr
    assert not (tmp_path / "fix.py").exists()
