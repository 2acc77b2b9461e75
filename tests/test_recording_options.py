"""What a user chooses about a recording: samples, batches, layers, statistics, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.cli import refused, run
from tracer import graph
from tracer.compare import Verdict
from tracer.errors import InputError, ModelError, TraceError
from tracer.store import Recording

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """Convolution, a tensor that does not depend on the batch, time-major LSTM, batch folded into another axis."""

    def __init__(self, eps: float = 1e-5, limit: float = np.inf) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4, eps=eps)
        self.lstm = nn.LSTM(4, 5)
        self.head = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
        self.limit = limit

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.norm(self.conv(x)))
        if float(x.max()) > self.limit:
            raise ValueError("too large")
        sequence, _ = self.lstm(y.permute(2, 0, 1))
        scaled = sequence * (x[0, 0, :5].abs() * 0 + 1.5)
        folded = scaled.reshape(-1, 5)
        return self.head(folded).reshape(sequence.shape[0], -1, 2)[-1]


def net(**more: Any) -> Any:
    torch.manual_seed(0)
    model = Net(**more)
    model.norm.running_var.fill_(0.02)
    return model


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(0).normal(size=(7, 3, 12)).astype("float32")


def values(recording: Recording) -> dict[str, Any]:
    return {name: recording.read(name) for name in recording.activations}


def test_a_model_of_more_operations_than_are_read_is_not_recorded(
    trace_path: Path, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tracer.record(net(), x, name="a", trace=trace_path)
    monkeypatch.setattr(graph, "MOST_NODES", len(kept.structure) - 1)
    with pytest.raises(InputError, match="are not recorded: record a part"):
        tracer.record(net(), x, name="a", trace=trace_path, force=True)
    with pytest.raises(TraceError, match="damaged: the structure of recording 'a'"):
        _ = tracer.open(trace_path).recording("a").structure


def test_batches_are_joined_along_the_axis_that_follows_them(trace_path: Path, x: Any) -> None:
    whole = values(tracer.record(net(), x, name="whole", trace=trace_path))
    recording = tracer.record(net(), x, name="parts", trace=trace_path, batch=3)
    parts = values(recording)
    assert recording.skipped.keys() == {"max", "slice", "abs"}
    assert "differs from batch to batch" in recording.skipped["max"]
    assert parts.keys() == whole.keys() - recording.skipped.keys()
    for name, value in whole.items():
        if name in recording.skipped:
            continue
        if name == "reshape":  # time and batch in one axis: the order of its rows is that of the batches
            np.testing.assert_allclose(np.sort(parts[name], 0), np.sort(value, 0), rtol=1e-5, atol=1e-6)
            continue
        if name.startswith("head"):
            continue
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert parts["lstm"].shape == (10, 7, 5)
    assert parts["add"].shape == (5,)
    assert recording.attributes["batches"] == 3
    assert recording.structure.by_name["lstm"].shape == (10, 7, 5)


def test_batches_record_an_image_model_as_one_run_does(trace_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    a = tracer.record(model, np.ones((5, 3, 8, 8), "float32"), name="a", trace=trace_path)
    b = tracer.record(model, np.ones((5, 3, 8, 8), "float32"), name="b", trace=trace_path, batch=2)
    assert tracer.diff(a, b)


def test_a_model_that_raises_in_a_later_batch_keeps_the_earlier_ones(trace_path: Path, x: Any) -> None:
    x[5] = 100
    with pytest.raises(ModelError, match="too large"):
        tracer.record(net(limit=50), x, name="r", trace=trace_path, batch=2)
    recording = tracer.open(trace_path).recording("r")
    assert recording.state == "failed"
    assert recording.read("conv").shape == (6, 4, 10)  # its third batch ran before the fault
    assert recording.read("lstm").shape == (10, 4, 5)


def test_a_model_of_one_fixed_batch_size_runs_batch_by_batch(trace_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((6,), batch_size=1, name="x")
    model = keras.Model(inputs, keras.layers.Dense(3, name="fc")(inputs))
    given = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    recording = tracer.record(model, given, trace=trace_path)
    expected = np.concatenate([model(given[i : i + 1]).numpy() for i in range(4)])
    np.testing.assert_allclose(recording.read("fc"), expected, rtol=1e-6)


def test_samples_are_the_first_of_an_input(tmp_path: Path, x: Any) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef make(): return torch.nn.Conv1d(3, 2, 3)\n")
    np.savez(tmp_path / "x.npz", input=x)
    run("record", "pt", "--arch", "net.py:make", "--input", "x.npz", "--samples", "4", cwd=tmp_path)
    recording = tracer.open(tmp_path / "trace.zarr").recording("pt")
    np.testing.assert_array_equal(recording.read("input"), x[:4])
    more = ("--samples", "8", "--name", "b")
    refused("record", "pt", "--arch", "net.py:make", "--input", "x.npz", *more, cwd=tmp_path, says="has 7")
    run(
        "record", "pt", "--arch", "net.py:make", "--input-shape", "2,3,9", "--samples", "5", "--name", "g", cwd=tmp_path
    )
    assert tracer.open(tmp_path / "trace.zarr").recording("g").read("input").shape == (5, 3, 9)


def test_a_table_is_not_cut_where_the_samples_are(trace_path: Path) -> None:
    class Lookup(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def forward(self, table: Any, x: Any) -> Any:
            return x * table

    given = {"table": np.arange(4, dtype="float32"), "x": np.ones((6, 4), "float32")}
    recording = tracer.record(Lookup(), given, trace=trace_path, samples=5, batch=2)
    assert recording.read("x").shape == (5, 4)
    np.testing.assert_array_equal(recording.read("mul"), np.tile(given["table"], (5, 1)))


def test_only_the_layers_that_are_wanted_are_recorded(trace_path: Path, x: Any) -> None:
    full = tracer.record(net(), x, name="full", trace=trace_path)
    some = tracer.record(net(), x, name="some", trace=trace_path, layers=["head", "op:conv*"], exclude=["head.1"])
    assert set(some.activations) == {"x", "conv", "head.0", "head.2"}
    assert {owner for owner, _ in some.weights} == {"conv", "head.0", "head.2"}
    assert some.state == "complete"
    diff = tracer.diff(full, some)
    assert diff, str(diff)
    assert diff.counts[Verdict.MATCH] == 4
    assert "left out on request" in str(diff)
    with pytest.raises(InputError, match="--layers 'haed\\*' matches no layer; there is head"):
        tracer.record(net(), x, name="c", trace=trace_path, layers=["haed*"])
    with pytest.raises(InputError, match="leave nothing"):
        tracer.record(net(), x, name="c", trace=trace_path, exclude=["*"])
    assert not tracer.open(trace_path).has("c")


def test_what_was_left_out_is_not_said_to_agree(trace_path: Path, x: Any) -> None:
    full = tracer.record(net(), x, name="full", trace=trace_path)
    right = tracer.record(net(), x, name="right", trace=trace_path, layers=["head.2"])
    assert tracer.diff(full, right)
    wrong = tracer.record(net(eps=1e-3), x, name="wrong", trace=trace_path, layers=["head.2"])
    first = tracer.diff(full, wrong).first
    assert first is not None
    assert first.aligned == "head.2"
    assert "between was not: the difference may come from there" in first.reason


def test_the_second_recording_knows_the_first_ones_names(trace_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    torch.manual_seed(0)
    first = nn.Sequential()
    first.add_module("encode", nn.Linear(5, 4))
    first.add_module("decode", nn.Linear(4, 5))
    second = nn.Sequential(*first.children())
    tracer.record(first, x, name="first", trace=trace_path)
    recording = tracer.record(second, x, name="second", trace=trace_path, layers=["decode"])
    assert set(recording.activations) == {"input", "1"}


def test_statistics_alone_tell_a_difference_but_never_agreement(trace_path: Path, x: Any) -> None:
    full = tracer.record(net(), x, name="full", trace=trace_path)
    same = tracer.record(net(), x, name="same", trace=trace_path, statistics_only=True)
    other = tracer.record(net(eps=1e-3), x, name="other", trace=trace_path, statistics_only=True)
    assert not same.activations
    assert same.summaries["norm"] == full.summaries["norm"]
    assert not [place for place, _, _ in same.pack.so_far() if not place.startswith("weights/")]
    agreeing = tracer.diff(full, same)
    assert agreeing.verdict is Verdict.NOT_COMPARABLE
    assert not agreeing
    assert "its statistics agree" in agreeing.pairs[1].reason
    differing = tracer.diff(full, other)
    assert differing.first is not None
    assert differing.first.aligned == "norm"
    assert "its statistics differ" in differing.first.reason
    assert differing.counts[Verdict.DIVERGED] == 1
    assert differing.counts[Verdict.INHERITED] > 1


def test_precision_rounds_what_is_stored_and_the_comparison_knows(trace_path: Path, x: Any) -> None:
    full = tracer.record(net(), x, name="full", trace=trace_path)
    for precision in ("float16", "bfloat16"):
        rounded = tracer.record(net(), x, name=precision, trace=trace_path, precision=precision)
        assert rounded.read("conv").dtype.name == precision
        assert rounded.structure.by_name["conv"].dtype == "float32"
        expected = full.read("conv").astype(rounded.read("conv").dtype)
        np.testing.assert_array_equal(rounded.read("conv"), expected)
        diff = tracer.diff(full, rounded)
        assert diff, str(diff)
        assert diff.verdict is Verdict.NOISE
        assert rounded.read_stored(rounded.weights["conv", "weight"]).dtype == np.float32
    wrong = tracer.record(net(eps=1e-3), x, name="wrong", trace=trace_path, precision="float16")
    first = tracer.diff(full, wrong).first
    assert first is not None
    assert first.aligned == "norm"


def test_what_overflows_the_precision_keeps_its_own(trace_path: Path) -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(torch.eye(2))
    given = np.array([[1.0, 1e6], [2.0, 3.0]], "float32")
    recording = tracer.record(model, given, trace=trace_path, precision="float16")
    np.testing.assert_array_equal(recording.read("linear"), given)
    assert "linear" in recording.attributes["kept_wide"]
    batched = tracer.record(model, given[::-1], trace=trace_path, name="b", precision="float16", batch=1)
    assert "overflow" in batched.skipped["linear"]


def test_wrong_choices_are_one_line(tmp_path: Path) -> None:
    for options, text in [
        (("--precision", "float8"), "--precision is one of float32, float16, bfloat16"),
        (("--precision", "float16", "--stats-only"), "keeps none"),
        (("--grad", "median"), "--grad"),
        (("--grad", "sum", "--batch", "2"), "leave --batch out"),
        (("--mode", "test"), "--mode"),
        (("--samples", "0"), "--samples"),
        (("--input-shape", "y=2,3"), "a shape of 'y', the model takes input"),
        (("--input-shape", "2,3", "--input-shape", "2,3"), "2 shapes, the model takes input"),
        (("--input-shape", "2,3", "--input", "x.npy"), "leave one out"),
        (("--outputs", "y"), "a PyTorch model is run whole"),
    ]:
        refused("record", "pt", "--arch", "torch.nn:Identity", *options, cwd=tmp_path, says=text)


def test_a_recording_is_not_aligned_to_the_one_that_it_replaces(trace_path: Path, x: Any) -> None:
    tracer.record(net(), x, name="a", trace=trace_path)
    again = ("record", "pt", "--arch", "torch.nn:Identity", "--trace", trace_path, "--name", "a", "--force")
    refused(*again, "--reference", "a", cwd=trace_path.parent, says="the recording that is replaced")


@pytest.mark.parametrize(
    "options",
    [{"mode": None}, {"precision": 16}, {"batch": "2"}, {"samples": 1.5}, {"loss": torch.sum}, {"layers": [3]}],
)
def test_an_option_of_a_wrong_type_is_refused_in_words(trace_path: Path, x: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        tracer.record(net(), x, trace=trace_path, **options)
    assert not trace_path.exists()


def test_one_pattern_needs_no_list(trace_path: Path, x: Any) -> None:
    recording = tracer.record(net(), x, trace=trace_path, layers="conv", exclude="op:input")
    assert set(recording.activations) == {"conv"}
