"""Random input decides what the recorded one leaves open: causes that are one function on it, real models run again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from benchmarks.corpus.mutations.subject import around
from tests.cli import run
from tests.zoo.weights import as_torch
from tracer.causes import probes
from tracer.causes.explain import Explained
from tracer.causes.finding import Finding
from tracer.errors import ReplayError
from tracer.worker import arrays
from tracer.worker.failure import WorkerError
from tracer.worker.results import parse_probe

ROWS = np.random.default_rng(0).normal(size=(6, 6)).astype("f4")


class Written(keras.layers.Layer):  # type: ignore[misc]
    """A layer of somebody's own: what it computes nobody can read."""

    def __init__(self, function: Callable[[Any], Any], **named: Any) -> None:
        super().__init__(**named)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def in_keras(act: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="sigmoid", name="first"),  # nothing negative comes out
            act,
            keras.layers.Dense(3, name="last"),
        ]
    )


def in_torch(model: Any, act: nn.Module) -> nn.Sequential:
    found = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), act, nn.Linear(8, 3)).eval()
    for place, name in ((0, "first"), (3, "last")):
        found[place].load_state_dict({k: torch.tensor(v) for k, v in as_torch(model.get_layer(name)).items()})
    return found


def hidden(layer: nn.Module, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Another computation in a layer that is recorded as what it was."""
    around(layer, lambda _, x: compute(x))


def told(path: Path, reference: Any, candidate: Any, inputs: Any = ROWS, **options: Any) -> Explained:
    trace = tracer.open(path) if path.exists() else None
    if trace is None:
        tracer.record(reference, inputs, trace=path, name="a")
        tracer.record(candidate, trace=path, name="b")
        trace = tracer.open(path)
    return tracer.explain(trace.recording("a"), trace.recording("b"), seconds=20, **options)


def only(found: Explained) -> Finding:
    (one,) = found.findings
    return one


# --- decided ---------------------------------------------------------------------------------------------------------


def test_which_activation_a_port_computes_that_is_never_given_anything_negative(trace_path: Path) -> None:
    model = in_keras(keras.layers.Activation("tanh", name="act"))
    port = in_torch(model, nn.Tanh())
    hidden(port[2], torch.relu)
    before = only(told(trace_path, model, port))
    assert (before.status, before.names) == ("ambiguous", ("activation-missing",))
    assert before.apart == "negative values at first would tell them apart"
    assert {"relu", "leaky_relu (negative_slope 0.1)"} <= {c.what.partition("candidate ")[2] for c in before.candidates}
    assert "(--probe makes such input)" in str(told(trace_path, model, port))
    found = told(trace_path, model, port, probe=True, models=(model, port))
    one = only(found)
    assert (one.status, one.names, one.candidates) == ("proven", ("activation-kind",), ())
    assert one.causes[0].what == "the reference computes tanh, the candidate relu"
    assert one.probed is not None
    assert one.probed.said == "on random input only activation-kind holds"
    left = {what: error for _, what, error in one.probed.errors}
    assert left["act (tanh) does nothing in the candidate"] > 0.1 < left["nothing differs"]
    assert left[one.causes[0].what] < 1e-6
    assert "probe  on random input only activation-kind holds: error " in str(found)
    # What was decided stays with the trace, and in the JSON.
    assert only(told(trace_path, model, port)).probed == one.probed
    assert Finding.from_json(json.loads(json.dumps(one.to_json()))).to_json() == one.to_json()


def test_what_no_hypothesis_was_is_found_on_random_input(trace_path: Path) -> None:
    candidate = in_keras(Written(lambda x: keras.ops.leaky_relu(x, 0.17), name="act"))
    model = in_torch(candidate, nn.Tanh())
    assert "0.17" not in str(told(trace_path, model, candidate))
    one = only(told(trace_path, model, candidate, probe=True, models=(model, candidate)))
    assert (one.status, one.names) == ("proven", ("activation-kind",))
    assert one.causes[0].what == "the reference computes tanh, the candidate leaky_relu (negative_slope 0.17)"
    assert one.probed is not None
    assert one.probed.said == "found on random input, where it alone holds"


def test_the_reference_is_asked_where_it_is_what_cannot_be_read(trace_path: Path) -> None:
    model = in_keras(Written(lambda x: keras.ops.leaky_relu(x, 0.3), name="act"))
    port = in_torch(model, nn.Tanh())
    assert only(told(trace_path, model, port)).status == "ambiguous"
    without = only(told(trace_path, model, port, probe=True, models=(None, port)))
    assert without.status == "ambiguous"
    assert without.probed is not None
    assert "'a' was recorded from a live model" in without.probed.why
    one = only(told(trace_path, model, port, probe=True, models=(model, None)))
    assert one.status == "proven"
    assert one.causes[0].what == "the reference computes leaky_relu (negative_slope 0.3), the candidate tanh"


def test_which_border_a_convolution_has_that_sees_one_number(trace_path: Path) -> None:
    torch.manual_seed(0)
    model, port = (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten()).eval() for _ in range(2))
    port.load_state_dict(model.state_dict())
    layer = port[0]
    hidden(layer, lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), layer.weight, layer.bias))
    ones = np.ones((2, 2, 6, 5), np.float32)
    before = only(told(trace_path, model, port, ones))
    assert before.status == "ambiguous"
    assert set(before.names) == {"pad-mode"}
    assert (
        before.apart
        == "other values at input would tell them apart: what was recorded there is the same number everywhere"
    )
    one = only(told(trace_path, model, port, probe=True, models=(model, port)))
    assert (one.status, one.causes[0].values) == ("proven", ("zeros", "reflect"))


def test_a_proof_that_does_not_hold_elsewhere_is_mended(trace_path: Path) -> None:
    """Rows of one variance: epsilon beside the root is another epsilon under it."""
    row = ROWS[0]
    rows = np.stack([np.roll(row, k) for k in range(6)])
    model, port = (nn.Sequential(nn.LayerNorm(6, eps=0.1), nn.Tanh()).eval() for _ in range(2))
    hidden(port[0], lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 0.1))
    before = only(told(trace_path, model, port, rows))
    assert before.names == ("ln-eps",)
    assert before.causes[0].key == "epsilon"
    one = only(told(trace_path, model, port, probe=True, models=(model, port)))
    assert (one.status, one.names) == ("proven", ("ln-eps",))
    assert "adds epsilon to the deviation, not under the root" in one.causes[0].what


def test_what_is_no_function_of_the_input_alone_stays_open(trace_path: Path) -> None:
    model = in_keras(keras.layers.Activation("tanh", name="act"))
    port = in_torch(model, nn.Tanh())
    hidden(port[2], lambda x: torch.where(x.min() > 0, x, x.flip(0) * x.abs().sum()))
    one = only(told(trace_path, model, port, probe=True, models=(model, port)))
    assert (one.status, one.names) == ("ambiguous", ("activation-missing",))
    assert one.probed is not None
    assert one.probed.said.startswith("none of these holds on random input")


def test_a_setting_that_this_input_does_not_show(trace_path: Path) -> None:
    model = in_keras(keras.layers.ReLU(name="act"))
    found = told(trace_path, model, in_torch(model, nn.ReLU6()), probe=True, models=(None, None))
    (one,) = found.latent
    assert one.probed is not None
    assert "recorded from a live model" in one.probed.why
    found = told(trace_path, model, None, probe=True, models=(None, in_torch(model, nn.ReLU6())))
    (one,) = found.latent
    assert one.probed is not None
    assert one.probed.said == "random input shows it"
    (_, _, before), (_, _, after) = one.probed.errors
    assert after < 1e-6 < 1 < before
    assert "probe  random input shows it: error " in str(found)


def test_ids_stay_within_the_table(trace_path: Path) -> None:
    torch.manual_seed(0)
    model, port = (nn.Sequential(nn.Embedding(20, 6), nn.LayerNorm(6)).eval() for _ in range(2))
    port.load_state_dict(model.state_dict())
    layer = port[0]
    hidden(layer, lambda ids: layer.weight[ids] * 6**0.5)
    ids = np.array([[3, 4, 5, 7], [5, 3, 4, 4]])
    one = only(told(trace_path, model, port, ids, probe=True, models=(model, port)))
    assert (one.status, one.names) == ("proven", ("embedding-scale",))
    assert one.probed is not None
    assert one.probed.said == "it holds on random input as well"
    assert len(one.probed.inputs) == len(probes.KINDS)


def test_what_only_training_shows_is_not_asked(trace_path: Path) -> None:
    model, port = (nn.Sequential(nn.BatchNorm1d(6, momentum=momentum)).eval() for momentum in (0.1, 0.2))
    (one,) = told(trace_path, model, port, probe=True, models=(model, port)).latent
    assert (one.names, one.probed) == (("training-bn-momentum",), None)


def test_what_comes_behind_the_layer_may_fail_on_random_input(trace_path: Path) -> None:
    model = in_keras(keras.layers.Activation("tanh", name="act"))
    port = in_torch(model, nn.Tanh())
    hidden(port[2], torch.relu)

    def careful(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].min() <= 0:
            raise ValueError("a dead unit")

    port[3].register_forward_pre_hook(careful)
    one = only(told(trace_path, model, port, probe=True, models=(model, port)))
    assert (one.status, one.causes[0].what) == ("proven", "the reference computes tanh, the candidate relu")


class Leaky(nn.Module):
    """An activation as operations, of which a recording does not show the condition."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_recording_does_not_show_of_an_operation(trace_path: Path, turned: bool) -> None:
    model = in_keras(keras.layers.Activation("tanh", name="act"))
    both = (model, in_torch(model, Leaky()))
    both = both[::-1] if turned else both
    before = only(told(trace_path, *both))
    assert before.names == ("activation-extra" if turned else "activation-missing",)
    one = only(told(trace_path, *both, probe=True, models=both))
    words = ["tanh", "leaky_relu (negative_slope 0.2)"]
    first, second = words[::-1] if turned else words
    assert (one.status, one.causes[0].what) == (
        "proven", f"the reference computes {first}, the candidate {second}"
    )  # fmt: skip


# --- through the command line ------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn


class Leaky(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, 0.2 * x)


def make(act):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), act, nn.Linear(8, 3)).eval()


def tanh():
    return make(nn.Tanh())


def leaky():
    return make(Leaky())
"""


def test_models_are_asked_in_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    np.save(tmp_path / "x.npy", ROWS)
    for name in ("tanh", "leaky"):
        run("record", "pt", "--arch", f"net.py:{name}", "--input", "x.npy", "--name", name, cwd=tmp_path)
    told = json.loads(run("explain", "--probe", "--json", cwd=tmp_path, code=1).stdout)
    (cause,) = told["causes"]
    what = "the reference computes tanh, the candidate leaky_relu (negative_slope 0.2)"
    assert (cause["cause"], cause["details"][0]["what"]) == ("activation-kind", what)
    assert cause["probed"]["said"] == "found on random input, where it alone holds"
    assert [error["cause"] for error in cause["probed"]["errors"]] == ["", "activation-missing", "activation-kind"]
    assert cause["probed"]["inputs"] == list(probes.KINDS)
    (tmp_path / "net.py").unlink()
    again = tracer.explain(*(tracer.open(tmp_path / "trace.zarr").recording(name) for name in ("tanh", "leaky")))
    assert what in str(again)
    assert "probe  found on random input, where it alone holds: error " in str(again)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"files": {"0": "../x.npy"}, "failed": {}},
        {"files": {"0": "probe-0.npy"}, "failed": {}},
        {"files": {"0": "probe-0.npy", "1": "probe-1.npy"}, "failed": {"1": "it failed as well"}},
    ],
)
def test_an_answer_that_makes_no_sense(answer: object) -> None:
    with pytest.raises(WorkerError, match="makes no sense"):
        parse_probe(answer, 2)


def test_only_files_of_numbers_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", ROWS)
    assert np.array_equal(arrays.numbers(tmp_path / "good.npy"), ROWS)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "texts.npy", np.array(["text"]))
    (tmp_path / "link.npy").symlink_to("good.npy")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "short.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-4])
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("objects", "texts", "link", "folder", "short", "pipe", "none"):
        with pytest.raises(ValueError, match="no "):
            arrays.numbers(tmp_path / f"{name}.npy")


# --- verify in Python --------------------------------------------------------------------------------------------


def test_a_live_model_is_mended_in_a_copy(trace_path: Path) -> None:
    torch.manual_seed(0)
    model, port = (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, eps=eps)).eval() for eps in (0.1, 1e-5))
    port.load_state_dict(model.state_dict())
    found = told(trace_path, model, port, verify=True, models=(None, port))
    assert found.verified is not None
    assert found.verified.agrees
    assert found.verified.made
    assert found.to_json()["verified"]["agrees"]
    assert "✓ outputs: " in str(found)
    assert port[1].eps == 1e-5
    assert told(trace_path, model, port).verified is None
    port.kept = (number for number in ())  # type: ignore[assignment]
    with pytest.raises(ReplayError, match="the candidate cannot be copied"):
        told(trace_path, model, port, verify=True, models=(None, port))
