"""``tracer diff --local`` and baselines, through the command line and its workers, on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tracer
from tests.cli import refused, run
from tracer.compare.baseline import load
from tracer.errors import ExitCode, InputError, ReplayError

CODE = """
from torch import nn
import torch


class Net(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8, eps=eps)
        self.fc = nn.Linear(8 * 12, 4)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.norm(self.conv(x)))
        return self.fc(x.permute(0, 2, 1).flatten(1))


def build(eps=1e-3):
    return Net(eps)
"""


@pytest.fixture
def ported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Keras model, its port with another epsilon, both recorded into ``trace.zarr``."""
    import keras

    monkeypatch.chdir(tmp_path)
    (tmp_path / "port.py").write_text(CODE)
    layers = keras.layers
    i = keras.Input((12, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv1D(8, 5, padding="same", name="conv")(i))
    x = layers.Dense(4, name="fc")(layers.Flatten()(layers.Activation("gelu", name="act")(x)))
    model = keras.Model(i, x)
    model.save("model.keras")
    space: dict[str, Any] = {}
    exec(CODE, space)
    net = space["build"]()
    weight = {name: np.array(model.get_layer(name).kernel) for name in ("conv", "fc")}
    with torch.no_grad():
        net.conv.weight.copy_(torch.tensor(weight["conv"]).permute(2, 1, 0))
        net.fc.weight.copy_(torch.tensor(weight["fc"]).T)
        net.conv.bias.zero_()
        net.fc.bias.zero_()
    torch.save(net.state_dict(), "port.pt")
    run("record", "tf", "model.keras", cwd=tmp_path)
    return tmp_path


def record(eps: float, name: str = "pt", *more: str) -> None:
    arch = ["--weights", "port.pt", "--arch", "port.py:build", "--arch-args", json.dumps({"eps": eps})]
    run("record", "pt", *arch, "--name", name, *more, cwd=Path.cwd())


def found(*more: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("diff", "--json", *more, cwd=Path.cwd(), code=None).stdout)
    return answer


def test_a_small_epsilon_is_found_and_a_right_port_is_right(ported: Path) -> None:
    record(1e-3)
    right = found("--local", "--atol", "0", "--rtol", "0")
    assert right["verdict"] in ("match", "noise"), right["first_divergence"]
    measured = [pair for pair in right["pairs"] if pair["local"] is not None]
    assert len(measured) == len(right["pairs"])
    assert all(pair["local"] <= pair["floor"] for pair in measured)
    record(1.01e-3, "off")
    assert found("tf", "off", "--atol", "1e-3")["verdict"] == "match"
    wrong = found("tf", "off", "--local", "--atol", "1e-3")
    assert wrong["first_divergence"] == "norm"
    assert [pair["verdict"] for pair in wrong["pairs"]].count("diverged") == 1
    assert found("tf", "off", "--atol", "1e-3") == wrong  # it is known from now on
    record(1.01e-3, "off", "--force")
    assert found("tf", "off", "--atol", "1e-3")["verdict"] == "match"
    assert "what float32 rounding explains" in next(p["reason"] for p in wrong["pairs"] if p["aligned"] == "norm")


def test_a_recording_in_batches_is_run_again_in_its_worker(ported: Path) -> None:
    record(1e-4)
    record(1e-4, "parts", "--batch", "1")
    assert tracer.open("trace.zarr").recording("parts").attributes["batches"] > 1
    one, parts = (found("tf", name, "--local", "--atol", "1") for name in ("pt", "parts"))
    assert [pair["verdict"] for pair in parts["pairs"]] == [pair["verdict"] for pair in one["pairs"]]
    assert parts["first_divergence"] == "norm"
    off = [next(pair["local"] for pair in side["pairs"] if pair["aligned"] == "norm") for side in (one, parts)]
    assert off[0] == pytest.approx(off[1], rel=1e-3)


def test_the_files_must_be_those_that_were_recorded(ported: Path) -> None:
    record(1e-3)
    (ported / "port.pt").write_bytes((ported / "port.pt").read_bytes() + b"\0")
    refused("diff", "--local", cwd=ported, code=ExitCode.PARTIAL, says="has changed since 'pt' was recorded")
    (ported / "port.pt").unlink()
    refused("diff", "--local", cwd=ported, code=ExitCode.PARTIAL, says="the model of 'pt' is gone")
    run("diff", cwd=ported)  # what was recorded can be compared as before


def test_a_live_model_must_be_given(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    x = np.ones((2, 3), np.float32)
    a = tracer.record(model, x, name="a", trace=tmp_path / "trace.zarr")
    b = tracer.record(model, x, name="b", trace=tmp_path / "trace.zarr")
    refused("diff", "--local", cwd=tmp_path, code=ExitCode.PARTIAL, says="models=")
    assert tracer.diff(a, b, models=(model, model))
    with pytest.raises(InputError, match="the candidate's"):
        tracer.diff(a, b, models=(model,))  # type: ignore[arg-type]
    other = torch.nn.Linear(3, 2)
    with pytest.raises(ReplayError, match=r"weight of .* has other values"):
        tracer.diff(a, b, models=(model, other))
    with pytest.raises(ReplayError, match="other operations"):
        tracer.diff(a, b, models=(model, torch.nn.Sequential(model, torch.nn.ReLU())))


def test_code_that_has_changed_since_is_not_what_was_recorded(ported: Path) -> None:
    record(1e-3)
    (ported / "port.py").write_text(CODE.replace("eps=eps", "eps=1e-5"))
    refused("diff", "--local", cwd=ported, code=ExitCode.PARTIAL, says="epsilon of norm is 1e-05, and was 0.001")


def test_a_baseline_lets_pass_what_was_accepted_until_it_grows(ported: Path) -> None:
    record(1.2e-3)
    run("diff", cwd=ported, code=ExitCode.DIVERGED)
    run("diff", "--write-baseline", "known.json", cwd=ported)
    refused("diff", "--write-baseline", "known.json", cwd=ported, says="--force")
    run("diff", "--baseline", "known.json", cwd=ported)
    accepted = json.loads(Path("known.json").read_text())
    accepted["accepted"][0]["reason"] = "seen by Ada"
    Path("known.json").write_text(json.dumps(accepted))
    said = run("diff", "--baseline", "known.json", cwd=ported).stdout
    assert "seen by Ada" in " ".join(said.split())
    run("diff", "--baseline", "known.json", "--write-baseline", "known.json", "--force", cwd=ported)
    assert json.loads(Path("known.json").read_text()) == accepted  # judged afresh, the reasons kept
    for entry in accepted["accepted"]:
        entry["max_abs"] /= 3
    Path("less.json").write_text(json.dumps(accepted))
    said = run("diff", "--baseline", "less.json", cwd=ported, code=ExitCode.DIVERGED).stdout
    assert "its greatest difference grew" in " ".join(said.split())


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "tracer-baseline/1", "accepted": [{}]}', "[" * 10_000])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match="is no baseline"):
        load(tmp_path / "b.json")
    with pytest.raises(InputError, match="no such baseline"):
        load(tmp_path / "none.json")
