"""Outputs that come back in another order: the model's contract, whatever its tensors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.cli import run
from tracer.alignment import align
from tracer.alignment.mapping import Mapping
from tracer.alignment.outputs import order
from tracer.compare import Verdict, diff
from tracer.errors import ExitCode, InputError
from tracer.graph import Structure

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


class Heads(nn.Module):
    """Two heads that look the same, and what is returned of them."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk, self.u, self.v = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.returned = returned

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.trunk(x))
        return self.returned(self.u(h), self.v(h))


def heads(path: Path, name: str, returned: Any) -> tracer.Recording:
    return tracer.record(Heads(returned).eval(), X, name=name, trace=path)


def test_exchanged_outputs_diverge(trace_path: Path) -> None:
    a, b = heads(trace_path, "a", lambda u, v: (u, v)), heads(trace_path, "b", lambda u, v: (v, u))
    alignment = align(a, b)
    assert [(o.reference, o.candidate, o.place, o.at, o.moved) for o in alignment.outputs] == [
        ("u", "u", "0", "1", True), ("v", "v", "1", "0", True),
    ]  # fmt: skip
    found = tracer.diff(a, b)
    assert found.verdict is Verdict.DIVERGED
    assert found.exit_code() is ExitCode.DIVERGED
    assert [pair.verdict for pair in found.pairs] == [Verdict.MATCH] * 5
    reasons = {pair.aligned: pair.reason for pair in found.pairs}
    assert reasons["u"].endswith("output 0 of the reference is output 1 of the candidate")
    assert "outputs come in another order: reference 0, 1 = candidate 1, 0" in str(found)
    assert tracer.diff(a, a).verdict is Verdict.MATCH
    assert found.at(found.tolerance).verdict is Verdict.DIVERGED


def test_a_mapping_file_accepts_the_order(trace_path: Path, tmp_path: Path) -> None:
    a, b = heads(trace_path, "a", lambda u, v: (u, v)), heads(trace_path, "b", lambda u, v: (v, u))
    accepted = Mapping.model_validate({"outputs": [1, 0]})
    assert diff(a, b, mapping=accepted).exit_code() is ExitCode.OK
    wrong = align(a, a, accepted)
    assert order(wrong.outputs) == "outputs come not in the mapping file's order: reference 0, 1 = candidate 0, 1"

    file = tmp_path / "mapping.yaml"
    run("map", "--trace", trace_path, "--write", file, cwd=tmp_path)
    text = file.read_text()
    assert '# outputs: [1, 0]  # they come in another order; take the "# " away to accept it' in text
    run("diff", "--trace", trace_path, "--map", file, cwd=tmp_path, code=1)
    file.write_text(text.replace("# outputs", "outputs"))
    run("diff", "--trace", trace_path, "--map", file, cwd=tmp_path)
    again = tmp_path / "again.yaml"
    run("map", "--trace", trace_path, "--map", file, "--write", again, cwd=tmp_path)
    assert "outputs: [1, 0]\n" in again.read_text()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (["1", "2"], "the candidate returns no '2': it has 0, 1"),
        (["1"], r"the reference returns 2 \(0, 1\), but 1 are listed"),
        (["1", "1"], "'1' is listed twice"),
    ],
)
def test_places_that_do_not_exist(trace_path: Path, said: list[str], error: str) -> None:
    a = heads(trace_path, "a", lambda u, v: (u, v))
    with pytest.raises(InputError, match=error):
        align(a, a, Mapping.model_validate({"outputs": said}))
    with pytest.raises(InputError, match="nothing says in what order the reference"):
        align(Structure(a.structure.nodes, a.structure.outputs), a, Mapping.model_validate({"outputs": [0, 1]}))


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({"reference": "fist", "candidate": "second"}, "reference: no recording is named 'fist'; did you mean first?"),
        ({"candidate": "zz"}, r"candidate: no recording is named 'zz' \(have: first, second\)"),
        ({"reference": "second", "candidate": "first"}, "for 'second' against 'first', not the other way round"),
        ({"reference": "first", "candidate": "first"}, None),
    ],
)
def test_recordings_that_a_mapping_file_names(trace_path: Path, names: dict[str, str], error: str | None) -> None:
    a, b = (heads(trace_path, name, lambda u, v: (u, v)) for name in ("first", "second"))
    if error is None:
        align(a, b, Mapping.model_validate(names))
        return
    with pytest.raises(InputError, match=error):
        align(a, b, Mapping.model_validate(names))


def test_named_outputs_are_told_by_their_names(trace_path: Path) -> None:
    """In whatever order a dictionary lists them; a tuple against a dictionary says nothing."""
    a = heads(trace_path, "a", lambda u, v: {"score": u, "box": v})
    turned = heads(trace_path, "b", lambda u, v: {"box": v, "score": u})
    swapped = heads(trace_path, "c", lambda u, v: {"box": u, "score": v})
    plain = heads(trace_path, "d", lambda u, v: (v, u))
    assert not align(a, turned).moved
    assert not align(a, plain).moved
    assert order(align(a, swapped).outputs) == (
        "outputs come in another order: reference score, box = candidate box, score"
    )


def test_a_tensor_that_is_returned_twice_may_stand_at_either_place(trace_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)

    class Last(nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.lstm, self.turned = nn.LSTM(4, 5, batch_first=True), turned

        def forward(self, x: Any) -> Any:
            y, (h, c) = self.lstm(x)
            return (h[0], y[:, -1], c[0]) if self.turned else (y[:, -1], h[0], c[0])

    a, b = (tracer.record(Last(turned).eval(), x, name=str(turned), trace=trace_path) for turned in (False, True))
    assert tracer.diff(a, b).exit_code() is ExitCode.OK


def test_across_frameworks_and_on_the_command_line(trace_path: Path, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    trunk, u, v = (keras.layers.Dense(n, name=name) for n, name in ((6, "trunk"), (3, "u"), (3, "v")))
    x = keras.Input((4,))
    h = keras.layers.ReLU()(trunk(x))
    model = keras.Model(x, [u(h), v(h)])
    ported = Heads(lambda u, v: (v, u)).eval()
    for layer, name in ((trunk, "trunk"), (u, "u"), (v, "v")):
        twin = getattr(ported, name)
        layer.set_weights([twin.weight.detach().numpy().T, twin.bias.detach().numpy()])
    tracer.record(model, X, name="tf", trace=trace_path)
    tracer.record(ported, name="pt", trace=trace_path)
    said = "outputs come in another order: reference 0, 1 = candidate 1, 0"
    assert said in run("map", "--trace", trace_path, cwd=tmp_path).stdout
    assert said in run("diff", "--trace", trace_path, cwd=tmp_path, code=1).stdout
    told = json.loads(run("map", "--trace", trace_path, "--json", cwd=tmp_path).stdout)
    assert told["outputs"] == [
        {"reference": ["u", "0"], "candidate": ["u", "1"], "moved": True},
        {"reference": ["v", "1"], "candidate": ["v", "0"], "moved": True},
    ]


def test_an_onnx_graph_lists_its_outputs(trace_path: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "heads.onnx"
    torch.onnx.export(Heads(lambda u, v: (v, u)).eval(), (torch.from_numpy(X),), file, dynamo=False)
    a = heads(trace_path, "a", lambda u, v: (u, v))
    b = tracer.record(onnx.load(file), name="b", trace=trace_path)
    assert tracer.diff(a, b).verdict is Verdict.DIVERGED
