"""tracer show: what is known of a tensor by its name, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests.cli import Done, refused, run
from tracer.errors import InputError, TraceError
from tracer.report import found as found_
from tracer.report.page import page
from tracer.store import Recording, Trace, packs


class Net(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.LeakyReLU(slope))
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence, _ = self.gru(self.encoder(x).transpose(1, 2))
        out: torch.Tensor = self.head(sequence[:, -1])
        return out


X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("f4")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("show") / "trace.zarr"
    for name, slope in (("right", 0.0), ("wrong", 0.3)):
        tracer.record(Net(slope).eval(), X, name=name, trace=path, loss="square")
    return Trace.open(path)


@pytest.fixture
def right(trace: Trace) -> Recording:
    return trace.recording("right")


def names(recording: Recording, address: str | None) -> list[str]:
    return [one.name for one in found_.find(recording, address)]


def shown(trace: Trace, *arguments: str) -> Done:
    return run("show", *arguments, "--trace", trace.root, cwd=trace.root.parent)


def test_names_paths_and_patterns(right: Recording) -> None:
    assert names(right, "encoder.0") == ["encoder.0"]
    assert names(right, "encoder") == ["encoder"]
    assert names(right, "encoder.*") == ["encoder.0", "encoder.1"]
    assert names(right, "op:conv*") == ["encoder.0"]
    assert names(right, "gru[1]") == ["gru[1]"]
    assert names(right, "gradients/encoder.1") == ["encoder.1"]
    assert names(right, "weights/encoder.0/bias") == ["encoder.0/bias"]
    assert names(right, "encoder.0.bias") == ["encoder.0/bias"]
    assert names(right, "weights/head") == ["head/weight", "head/bias"]
    assert names(right, "gradients/weights/*bias") == ["encoder.0/bias", "head/bias"]
    assert names(right, None) == [*right.structure.by_name]
    for wrong, near in (("encodr.0", "encoder.0"), ("weights/head/bais", "head/bias"), ("gradients/hed", "head")):
        with pytest.raises(InputError, match=near):
            names(right, wrong)


def test_the_numbers_are_those_of_the_tensor(right: Recording) -> None:
    (one,) = found_.find(right, "encoder.1")
    values = right.read("encoder.1")
    assert one.statistics["size"] == values.size
    assert one.statistics["zeros"] == int((values == 0).sum()) > 0
    assert one.statistics["std"] == pytest.approx(float(values.std()), rel=1e-5)
    histogram = one.histogram(4)
    assert histogram is not None
    expected = np.histogram(values, 4)[0] / values.size
    np.testing.assert_allclose(histogram.shares[0], expected)  # type: ignore[arg-type]
    np.testing.assert_array_equal(one.part(None), values[0, :8, :8])
    np.testing.assert_array_equal(one.part("1, ::2, -1"), values[1, ::2, -1])
    np.testing.assert_array_equal(one.part("..., 1:3"), values[..., 1:3])
    for wrong, says in (("9", "does not fit"), ("0,0,0,0", "does not fit"), ("a", "wants numbers"), ("", "wants"),
                        ("::0", "wants"), ("...,...", "once"), ("1:2:3:4", "wants")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            one.part(wrong)


def test_the_page_says_where_it_stands(trace: Trace) -> None:
    before = shown(trace, "wrong", "encoder.1").stdout
    assert "not compared with 'right' yet: tracer diff" in before
    run("diff", "right", "wrong", "--trace", trace.root, cwd=trace.root.parent, code=1)
    page = shown(trace, "wrong", "encoder.1", "--values").stdout
    for said in ("encoder.1   LeakyReLU, in 'wrong' (Net)", "2×4×6 float32", "(batch, axis 1, axis 2)",
                 "negative_slope=0.3", "encoder.1 of 'right'", "✗ diverged", "Configuration differs", "█",
                 "read by", "test_show.py:"):  # fmt: skip
        assert said in page, said
    assert "✗ diverged" in shown(trace, "right", "encoder.1").stdout  # from the other side as well
    assert "✓ match" in shown(trace, "wrong", "encoder.0").stdout
    assert "weight     weight 4×3×3 float32" in shown(trace, "wrong", "encoder.0").stdout
    assert shown(trace, "wrong", "encoder.1", "--ascii").stdout.isascii()


def test_json_and_lists(trace: Trace) -> None:
    found = json.loads(shown(trace, "right", "head", "--json", "--slice", "0").stdout)
    assert (found["schema"], found["recording"]) == ("tracer-show/1", "right")
    (one,) = found["tensors"]
    assert one["values"] == Trace.open(trace.root).recording("right").read("head")[0].tolist()
    assert one["shape"] == [2, 2]
    assert [weight["name"] for weight in one["weights"]] == ["head/weight", "head/bias"]
    assert sum(one["histogram"]["shares"]) == pytest.approx(1)
    several = json.loads(shown(trace, "right", "--json").stdout)["tensors"]
    assert len(several) == len(trace.recording("right").structure)
    table = shown(trace, "right", "encoder.*").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["name", "encoder.0", "encoder.1"]
    where = {"cwd": trace.root.parent}
    refused("show", "right", "nope", "--trace", trace.root, **where, says="is no layer of 'right'")
    refused("show", "nobody", "--trace", trace.root, **where, says="have: right, wrong")


def test_what_is_not_finite_is_text() -> None:
    assert found_.plain(np.array([1.0, np.nan, -np.inf])) == [1.0, "nan", "-inf"]
    assert found_.plain(np.array([[1 + 2j]])) == [["(1+2j)"]]
    assert found_.plain(np.array([True, False])) == [True, False]
    assert json.loads(json.dumps(found_.plain(np.array(2.5)))) == 2.5


def test_a_large_tensor_is_not_read(trace: Trace, right: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound no checksum is verified, and where a part would cost the whole no histogram is made."""
    (one,) = found_.find(right, "encoder.1")
    monkeypatch.setattr(found_, "VERIFIED", 8)

    def no_checksum(*_: object) -> None:
        raise TraceError("all of it was read")

    monkeypatch.setattr(packs.Pack, "_check", no_checksum)
    with pytest.raises(TraceError):
        right.read("encoder.1")
    lines = list(page(one, None, one.part(None)))
    assert any("its checksum was not verified" in line for line in lines)
    monkeypatch.setattr(packs.Pack, "in_place", False)
    (again,) = found_.find(right, "encoder.1")
    assert again.histogram() is None
    assert any("packed or elsewhere" in line for line in page(again, None, None))


def test_what_has_no_values_says_why(tmp_path: Path) -> None:
    path = tmp_path / "t.zarr"
    recording = tracer.record(Net(0.0).eval(), X, trace=path, statistics_only=True, weights=False)
    text = str(tracer.find(recording, "encoder.1")[0])
    assert "no values: only its statistics were recorded" in text
    assert "48 elements: 26 zeros" in text
    with pytest.raises(InputError, match="has no values: only its statistics"):
        tracer.find(recording, "encoder.1")[0].values()
    assert "record it with --grad" in str(tracer.find(recording, "gradients/head")[0])
