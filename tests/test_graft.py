"""One model run on from the other's activations, and which defects explain the difference of the outputs."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests.cli import refused, run
from tracer.compare import Diff
from tracer.errors import InputError, ReplayError
from tracer.rerun import defects
from tracer.rerun.grafted import Explanation, Graft
from tracer.rerun.growth import amplification
from tracer.worker.failure import WorkerError
from tracer.worker.results import parse_graft

X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype("f4")


class Net(nn.Module):
    """A small network with a skip connection; what ``wrong`` names is not as it should be."""

    def __init__(self, *wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, eps=1e-5 if "epsilon" in wrong else 1e-3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.LeakyReLU(0.2) if "leaky" in wrong else nn.ReLU()
        self.deep = nn.Conv2d(8, 12, 3, stride=2, padding=2 if "padding" in wrong else 1)
        self.last = nn.BatchNorm2d(12, eps=1e-5 if "epsilons" in wrong else 1e-3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.act(self.conv(x))
        x = x * (1 + 1e-6 * ("faint" in self.wrong))
        x = self.act(self.last(self.deep(x)))
        return self.head(x.mean((2, 3)))


def net(*wrong: str) -> Net:
    """Always with the same weights, whatever is wrong."""
    made, generator = Net(*wrong).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.02 + 0.002)
            elif tensor.dim() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.5 / tensor[0].numel()) ** 0.5)
            elif tensor.dtype.is_floating_point:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + 0.2)
    return made


def recorded(
    models: Sequence[nn.Module], path: Path, x: np.ndarray[Any, Any] = X
) -> tuple[tracer.Recording, tracer.Recording]:
    a = tracer.record(models[0], x, name="a", trace=path)
    return a, tracer.record(models[1], name="b", trace=path)


def put(models: Sequence[nn.Module], path: Path, at: str | list[str], **more: Any) -> Graft:
    found = tracer.graft(*recorded(models, path), models=(models[0], models[1]), at=at, **more)
    assert isinstance(found, Graft)
    return found


def searched(
    models: Sequence[nn.Module], path: Path, x: np.ndarray[Any, Any] = X
) -> tuple[Explanation, dict[str, defects.Defect]]:
    found = tracer.graft(*recorded(models, path, x), models=(models[0], models[1]))
    assert isinstance(found, Explanation)
    return found, {pair.aligned: defect for defect in found.defects for pair in defect.pairs}


def unsaid_in_a_notebook(found: Explanation | Graft) -> set[str]:
    """Words of the text that are missing there."""
    shown = html.unescape(re.sub("<[^>]*>", " ", found._repr_html_()))
    return set(str(found).split()) - set(shown.split())


def difference_gone(outputs: Callable[..., torch.Tensor], wrong: Sequence[str], kept: Sequence[str]) -> float:
    """Share of the difference of the outputs that goes when the model really is repaired down to ``kept``."""
    with torch.no_grad():
        right, now, then = (outputs(*given).double() for given in ((), wrong, kept))
    whole = now - right
    return float(((now - then) * whole).sum() / (whole * whole).sum())


def test_the_shares_of_defects_are_those_of_models_that_really_are_repaired(trace_path: Path) -> None:
    wrong = ("epsilon", "leaky", "padding")
    found, by_name = searched((net(), net(*wrong)), trace_path)
    assert found.agrees, str(found)
    assert found
    assert set(by_name) == {"norm", "act#0", "act#1", "deep"}, str(found)
    assert by_name["act#0"] is by_name["act#1"]  # one mistake
    assert by_name["deep"].error == math.inf  # of another shape
    for name, defect in (("norm", "epsilon"), ("act#0", "leaky"), ("deep", "padding")):
        rest = [other for other in wrong if other != defect]
        alone = difference_gone(lambda *given: net(*given)(torch.from_numpy(X)), wrong, rest)
        last = 1 - difference_gone(lambda *given: net(*given)(torch.from_numpy(X)), wrong, [defect])
        # Two calls are two corrections, the second of which stands on the first.
        assert by_name[name].alone == pytest.approx(alone, abs=0.04 if defect == "leaky" else 1e-3), name
        assert by_name[name].last == pytest.approx(last, abs=0.04), name
    assert found.enough == (0, 1, 2)
    assert found.runs <= 2 * 3 + 10
    assert "the whole difference" in str(found)


def test_two_defects_are_weighed_exactly_and_the_one_that_matters_is_enough(trace_path: Path) -> None:
    wrong = ("faint", "epsilons")
    found, by_name = searched((net(), net(*wrong)), trace_path)
    assert set(by_name) == {"mul", "last"}, str(found)
    assert by_name["last"].explains == pytest.approx(1, abs=1e-3)
    assert found.defects[0] is by_name["last"]
    assert found.enough == (0,)
    assert not any(defect.interacts for defect in found.defects)
    assert "repairing 1 is enough" in str(found)
    assert not unsaid_in_a_notebook(found)
    written = found.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert [entry["pairs"] for entry in written["defects"]] == [["last"], ["mul"]]


def test_one_mistake_in_several_layers_is_one_defect(trace_path: Path) -> None:
    found, _ = searched((net(), net("epsilon", "epsilons")), trace_path)
    (defect,) = found.defects
    assert [pair.aligned for pair in defect.pairs] == ["norm", "last"]
    assert defect.settings == "epsilon 0.001 against 1e-05"
    assert defect.explains == pytest.approx(1, abs=1e-4)
    assert defect.settings in str(found)


def test_without_the_reference_the_shares_are_said_to_be_less_exact(trace_path: Path) -> None:
    models = (net(), net("epsilon", "leaky"))
    a, b = recorded(models, trace_path)
    measured = tracer.diff(a, b, models=models)
    found = defects.explain(measured, defects.in_process((None, models[1]), a))
    assert found.agrees
    assert any("less exact: the model of 'a' was not given" in note for note in found.notes)
    exact = defects.explain(measured, defects.in_process(models, a))
    assert [defect.alone for defect in found.defects] == pytest.approx([d.alone for d in exact.defects], abs=0.2)
    with pytest.raises(InputError, match="give both"):
        tracer.graft(a, b, models=(None, models[1]))


class Shared(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            self.fc.bias.mul_(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(torch.tanh(self.fc(x))))


def test_two_calls_of_one_layer_are_one_defect(trace_path: Path) -> None:
    models = Shared(1).eval(), Shared(1.1).eval()
    found, _ = searched(models, trace_path, np.random.default_rng(0).normal(size=(5, 6)).astype("f4"))
    (defect,) = found.defects
    assert [pair.aligned for pair in defect.pairs] == ["fc#0", "fc#1"]
    assert defect.explains == pytest.approx(1, abs=1e-4)


def test_an_accepted_difference_still_explains_what_it_explains(trace_path: Path, tmp_path: Path) -> None:
    models = (net(), net("epsilon"))
    accepted = tmp_path / "map.yaml"
    accepted.write_text("tolerances:\n  - {match: norm, atol: 1, reason: known}\n")
    found = tracer.graft(*recorded(models, trace_path), models=models, map=accepted)
    assert isinstance(found, Explanation)
    assert [pair.aligned for defect in found.defects for pair in defect.pairs] == ["norm"]
    assert found.agrees


def test_of_too_many_defects_those_with_the_smallest_errors_are_left_out(
    trace_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defects, "MOST", 1)
    found, by_name = searched((net(), net("epsilon", "faint")), trace_path)
    assert set(by_name) == {"norm"}
    assert [pair.aligned for defect in found.left_out for pair in defect.pairs] == ["mul"]
    assert "1 more pair with smaller errors left out" in str(found)


def test_a_correct_port_needs_no_explanation(trace_path: Path) -> None:
    found, by_name = searched((net(), net()), trace_path)
    assert not by_name
    assert found.agreed
    assert found.exit_code() == 0
    assert "the outputs agree within the tolerance as they are" in str(found)


def test_a_defect_is_weighed_though_rounding_could_be_as_large(trace_path: Path) -> None:
    models = (net(), net("faint"))
    found = tracer.graft(*recorded(models, trace_path), models=models, atol=0.0, rtol=1e-7)
    assert isinstance(found, Explanation)
    (defect,) = found.defects
    assert defect.pairs[0].aligned == "mul"
    assert defect.explains == pytest.approx(1, abs=0.3)
    assert found.enough == ()
    assert "within the tolerance as they are" not in str(found)
    assert "small enough to pass for rounding" in str(found)


def test_below_the_defect_the_outputs_agree_and_above_they_do_not(trace_path: Path) -> None:
    models = (net(), net("leaky"))
    a, b = recorded(models, trace_path)
    below = tracer.graft(a, b, models=(None, models[1]), at="act#1")
    assert isinstance(below, Graft)
    assert not below.agreed
    assert below.agrees
    assert below.exit_code() == 0
    assert below.after[0].max_abs == 0
    assert "what makes them differ lies there or above" in str(below)
    assert not unsaid_in_a_notebook(below)
    above = tracer.graft(a, b, models=(None, models[1]), at="norm")
    assert isinstance(above, Graft)
    assert above.exit_code() == 1
    assert above.changed == (0.0,)
    assert above.after[0].max_abs == above.before[0].max_abs > 0
    assert "what makes them differ lies elsewhere" in str(above)
    # The first call's defect goes, the second's stays: what does not depend on the tensor runs on its own inputs.
    between = tracer.graft(a, b, models=models, at=["act#0"])
    assert isinstance(between, Graft)
    assert 0 < between.after[0].max_abs != between.before[0].max_abs
    assert between.grows is not None
    assert between.grows == pytest.approx(between.after[0].changed / between.changed[0])
    every = tracer.graft(a, b, models=models, at="act#*")
    assert isinstance(every, Graft)
    assert [pair.aligned for pair in every.pairs] == ["act#0", "act#1"]
    assert every.agrees
    assert every.grows is None


def test_the_reference_may_run_on_from_the_candidate(trace_path: Path) -> None:
    models = (net(), net("leaky"))
    a, b = recorded(models, trace_path)
    found = tracer.graft(a, b, models=(models[0], None), at="act#1", into="reference")
    assert isinstance(found, Graft)
    assert found.agrees
    with torch.no_grad():
        wanted = models[1](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found.after[0].scale, np.abs(wanted).max(), rtol=1e-6)
    with pytest.raises(ReplayError, match=r"'b' was recorded from a live model, .* give the models"):
        tracer.graft(a, b, models=(models[0], None), at="act#1")


def test_names_that_are_no_pair_are_told_with_the_nearest(trace_path: Path) -> None:
    models = (net(), net())
    with pytest.raises(InputError, match=r"no pair is named 'nrm'; did you mean norm\?"):
        put(models, trace_path, "nrm")


class Flat(nn.Module):
    """Flattens over (channels, positions), or the other way round; the kernel may expect that order or not."""

    def __init__(self, *, turned: bool, expected: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.turned = nn.Conv1d(3, 4, 3), nn.Linear(4 * 6, 5), turned
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if expected:
                self.fc.weight.copy_(self.fc.weight.reshape(5, 4, 6).permute(0, 2, 1).reshape(5, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.fc((x.permute(0, 2, 1) if self.turned else x).flatten(1))


@pytest.mark.parametrize("expected", [False, True])
def test_values_in_another_order_are_put_in_as_what_reads_them_expects(expected: bool, trace_path: Path) -> None:
    models = (Flat(turned=False, expected=False).eval(), Flat(turned=True, expected=expected).eval())
    a, b = recorded(models, trace_path, np.random.default_rng(0).normal(size=(2, 3, 8)).astype("f4"))
    found = tracer.graft(a, b, models=models, at="flatten")
    assert isinstance(found, Graft)
    assert found.agreed is expected
    assert found.agrees, str(found)
    assert found.reordered == (("flatten",) if expected else ())
    whole = tracer.graft(a, b, models=models)
    assert isinstance(whole, Explanation)
    assert whole.agrees
    assert len(whole.defects) == (not expected), str(whole)
    assert all(defect.explains == pytest.approx(1, abs=1e-4) for defect in whole.defects)
    assert ("order" in str(whole)) is not expected


def test_what_was_not_recorded_is_not_put_in(trace_path: Path) -> None:
    models = (net(), net("leaky"))
    a = tracer.record(models[0], X, name="a", trace=trace_path)
    b = tracer.record(models[1], name="b", trace=trace_path, layers=["head"])
    found = tracer.graft(a, b, models=models, at="act#1")
    assert isinstance(found, Graft)
    assert found.agrees
    with pytest.raises(InputError, match="cannot be put in: left out by --layers"):
        tracer.graft(a, b, models=models, at="act#1", into="reference")


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 3.0
        return y + 50.0


def test_a_small_perturbation_grows_as_calculated(trace_path: Path) -> None:
    models = (Plain().eval(), Plain().eval())
    a, b = recorded(models, trace_path)
    diff: Diff = tracer.diff(a, b)
    run_ = defects.in_process(models, a)
    grows = amplification(diff.alignment.pairs, a, b, run_)
    named = {diff.alignment.pairs[index].aligned: value for index, value in grows.items()}
    wanted = float(np.linalg.norm(3 * X) / np.linalg.norm(3 * X + 50))
    assert named["mul"] == pytest.approx(wanted, rel=1e-2)
    assert named["x"] == pytest.approx(wanted, rel=1e-2)
    assert named["add"] == pytest.approx(1, rel=1e-2)
    few = amplification(diff.alignment.pairs, a, b, run_, most=2)
    assert len(few) == 2


def test_an_answer_that_contradicts_the_question_is_refused() -> None:
    good = {"rows": [], "runs": 1}
    with pytest.raises(WorkerError):
        parse_graft("explain", good, 1, 1, 1)
    with pytest.raises(WorkerError):
        parse_graft("walk", {"files": {"conv": "../../x.npy"}, "runs": 1}, 0, 1, 0)
    with pytest.raises(WorkerError):
        parse_graft("amplify", {"grows": [1.0], "runs": 1}, 1, 2, 0)
    assert parse_graft("amplify", {"grows": [math.nan], "runs": 1}, 1, 1, 0)["runs"] == 1


PORT = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self, epsilon=1e-3, slope=0.0):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6, eps=epsilon)
        self.act = nn.LeakyReLU(slope) if slope else nn.ReLU()
        self.head = nn.Linear(6 * 7, 4)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        return torch.softmax(self.head(x.permute(0, 2, 1).flatten(1)), -1)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of a Keras file and of its port in PyTorch with two defects, recorded as a user does."""
    import keras

    folder = tmp_path_factory.mktemp("graft")
    (folder / "port.py").write_text(PORT)
    layers, rng = keras.layers, np.random.default_rng(0)
    x = inputs = keras.Input((9, 3), name="signal")
    x = layers.Conv1D(6, 3, name="conv")(x)
    x = layers.ReLU(name="act")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(4, activation="softmax", name="head")(layers.Flatten(name="flat")(x))
    model = keras.Model(inputs, x)
    norm = [rng.uniform(0.5, 1.5, 6), rng.normal(size=6), rng.normal(size=6), rng.uniform(0.02, 0.1, 6)]
    conv = [rng.normal(size=(3, 3, 6)) * 0.2, rng.normal(size=6) * 0.1]
    head = [rng.normal(size=(42, 4)) * 0.03, rng.normal(size=4) * 0.1]  # a softmax that is saturated hides everything
    for name, weights in (("conv", conv), ("norm", norm), ("head", head)):
        model.get_layer(name).set_weights(weights)
    model.save(folder / "net.keras")
    state = {"conv.weight": conv[0].transpose(2, 1, 0), "conv.bias": conv[1], "head.weight": head[0].T}
    state |= {"head.bias": head[1], "norm.weight": norm[0], "norm.bias": norm[1]}
    state |= {"norm.running_mean": norm[2], "norm.running_var": norm[3], "norm.num_batches_tracked": np.array(0)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    torch.save({name: t.float() if t.dim() else t for name, t in tensors.items()}, folder / "net.pt")
    run("record", "tf", folder / "net.keras", cwd=folder)
    wrong = '{"epsilon": 1e-5, "slope": 0.3}'
    run("record", "pt", folder / "net.pt", "--arch", "port.py:Port", "--arch-args", wrong, cwd=folder)
    return folder


def test_defects_of_a_port_from_files_are_explained(files: Path) -> None:
    done = run("graft", cwd=files)
    assert "2 defects explain the whole difference of the outputs" in done.stdout
    assert "act ⇄ act" in done.stdout or " act " in done.stdout
    assert "grows" in done.stdout


def test_a_port_from_files_runs_on_from_a_layer(files: Path) -> None:
    found = json.loads(run("graft", "--at", "norm", "--json", cwd=files, code=1).stdout)
    assert found["schema"] == "tracer-graft/1"
    assert 0 < found["explained"] < 1
    done = run("graft", "tf", "pt", "--at", "act", "--into", "tf", "--ascii", cwd=files)
    assert done.stdout.isascii()
    assert "'tf' ran on from the activation of 'pt'" in done.stdout
    refused("graft", "--at", "atc", cwd=files, says="no pair is named 'atc'; did you mean act")
    refused("graft", "--at", "act", "--into", "tb", cwd=files, says="--into takes one of the two recordings")
    grows = json.loads(run("graft", "--grows", "--json", cwd=files).stdout)
    assert [pair["aligned"] for pair in grows["pairs"]] == [
        "signal",
        "conv",
        "norm",
        "act",
        "flat",
        "head/preactivation",
        "head",
    ]
    assert grows["pairs"][-1]["grows"] == pytest.approx(1, rel=0.05)
    refused("graft", "--into", "tf", cwd=files, says="name a pair too")
