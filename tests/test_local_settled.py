"""Float64 only where it can change a verdict: what is left out, and that nothing is lost by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer import adapter as adapters
from tracer.adapter import Array
from tracer.compare.local import AS_COMPUTED, BOTH, ENOUGH, SAFETY, Local
from tracer.rerun.measuring import apart

keras = pytest.importorskip("keras")
X = np.random.default_rng(5).standard_normal((3, 12, 12, 4)).astype(np.float32)


class Watching:
    """Wants some nodes, and keeps what they were."""

    def __init__(self, known: Mapping[str, Array], wanted: set[str]) -> None:
        self.known, self.wanted = known, wanted
        self.seen: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        return name in self.wanted or name in self.known

    def __call__(self, name: str, value: Array) -> Array | None:
        self.seen[name] = np.array(value)
        return self.known.get(name)


def convolutions() -> Any:
    layers = keras.layers
    i = keras.Input((12, 12, 4))
    x = layers.Conv2D(8, 3, name="a")(i)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="b")(x)
    return keras.Model(i, layers.Dense(5, name="end")(layers.GlobalAveragePooling2D(name="mean")(x)))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)).eval()


def rest(model: Any, inputs: dict[str, Array], known: dict[str, Array], wanted: set[str]) -> dict[str, Array]:
    model.structure(inputs)
    watch = Watching(known, wanted)
    model.replay_rest(inputs, watch, known, double=True)
    return watch.seen


def test_what_is_known_of_a_keras_model_is_not_computed() -> None:
    model = convolutions()
    loaded = adapters.for_object(model)[1].wrap(model)
    (name,) = (spec.name for spec in loaded.signature())
    norm = np.random.default_rng(1).standard_normal((3, 10, 10, 8)).astype(np.float32)
    seen = rest(loaded, {name: X}, {"norm": norm, "mean": np.ones((3, 8), np.float32)}, {"b", "end"})
    assert seen.keys() == {"b", "end"}
    assert seen["b"].dtype == np.float64
    kernel = [np.asarray(weight, np.float64) for weight in model.get_layer("b").get_weights()]
    patch = np.tensordot(norm[0, :3, :3].astype(np.float64), kernel[0], 3) + kernel[1]
    assert np.allclose(seen["b"][0, 0, 0], np.maximum(patch, 0), atol=1e-12)
    dense = model.get_layer("end").get_weights()
    assert np.allclose(seen["end"][0], dense[0].astype(np.float64).sum(0) + dense[1], atol=1e-12)


def test_what_is_known_of_a_saved_graph_is_not_computed(tmp_path: Path) -> None:
    model = convolutions()
    model.export(str(tmp_path / "saved"), verbose=False)
    loaded = adapters.get("tf").load(adapters.LoadRequest(tmp_path / "saved"))
    (name,) = (spec.name for spec in loaded.signature())
    structure = loaded.structure({name: X})
    stored = [node.name for node in structure.stored() if node.role != "input"]
    whole = Watching({}, set(stored))
    loaded.replay({name: X}, whole, double=True)
    last = stored[-1]
    seen = rest(loaded, {name: X}, {n: whole.seen[n] for n in stored[:-1]}, {last})
    assert seen.keys() == {last}
    assert np.allclose(seen[last], whole.seen[last], atol=1e-12)


def test_what_is_known_of_a_module_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    loaded = adapters.for_object(model)[1].wrap(model)
    inputs = {loaded.signature()[0].name: X.transpose(0, 3, 1, 2)}
    convolved = [0]
    plain = nn.Conv2d._conv_forward

    def counted(self: Any, *args: Any) -> Any:
        convolved[0] += 1
        return plain(self, *args)

    ones = np.ones((3, 8, 10, 10), np.float32)
    loaded.structure(inputs)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counted)
    seen = rest(loaded, inputs, {"0": ones, "1": ones, "2": 2 * ones}, {"3"})
    assert convolved == [1]
    assert seen.keys() == {"3"}
    monkeypatch.undo()
    last = model[3].double()
    assert np.allclose(seen["3"], last(torch.from_numpy(2.0 * ones).double()).detach().numpy(), atol=1e-12)
    assert "forward" not in vars(model[0])


def test_a_port_is_settled_without_the_reference_and_a_defect_is_not(trace_path: Path) -> None:
    torch.manual_seed(3)
    reference, candidate = network(), network()
    candidate.load_state_dict(reference.state_dict())
    inputs = X.transpose(0, 3, 1, 2)
    tracer.record(reference, inputs, trace=trace_path, name="a")
    tracer.record(candidate, inputs, trace=trace_path, name="b")
    broken = network()
    broken.load_state_dict(reference.state_dict())
    broken[1].eps = 3e-5
    tracer.record(broken, inputs, trace=trace_path, name="c")
    recordings = [tracer.open(trace_path).recording(name) for name in "abc"]
    right = tracer.diff(*recordings[:2], models=(reference, candidate))
    assert {pair.local.basis for pair in right.pairs if pair.local} <= {AS_COMPUTED, ENOUGH}
    wrong = tracer.diff(recordings[0], recordings[2], models=(reference, broken))
    off = {pair.aligned: pair.local for pair in wrong.pairs if pair.local and pair.local.diverged}
    assert off.keys() == {"1"}
    assert off["1"].basis == BOTH
    assert off["1"].rounding_reference


def test_no_rounding_could_make_a_settled_pair_diverge() -> None:
    rng = np.random.default_rng(0)
    settled = 0
    for _ in range(20_000):
        r, s, exact = rng.exponential(1.0, 3) * 1e-7 * 10 ** rng.uniform(-1, 1, 3)
        seen = abs(exact + rng.choice((-1, 1)) * r + rng.choice((-1, 1)) * s * rng.random())
        both = Local(exact, 1.0, r, s, 1.2e-7, BOTH)
        narrow = Local(seen, 1.0, None, None, 1.2e-7)
        half = Local(abs(exact + rng.choice((-1, 1)) * r), 1.0, None, s, 1.2e-7)
        for local in (narrow, half):
            settled += local.settled
            assert not (local.settled and both.diverged)
    assert settled > 1000
    assert SAFETY == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_the_largest_difference_is_where_it_is(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    a = (rng.standard_normal((5, 70, 300)) * 9).astype(dtype)
    b = a.copy()
    b[3, 11, 200] = not b[3, 11, 200] if dtype is bool else b[3, 11, 200] + 8
    assert apart(a, b)[:2] == (1.0 if dtype is bool else pytest.approx(8.0, rel=1e-6), (3, 11, 200))
    turned = np.ascontiguousarray(b.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert apart(a, turned)[1] == (3, 11, 200)
    assert apart(a[0, 0, 0], b[0, 0, 0])[:2] == (0.0, ())
    if a.dtype.kind == "f":
        a[4, 0, 0] = b[4, 0, 0] = np.nan
        a[0, 0, 0] = np.inf
        assert apart(a, b)[:2] == (math.inf, (0, 0, 0))
        masked = np.where(a == a, -1e9, a).astype(dtype)
        assert apart(masked, 2 * masked, masks=True)[0] == 0.0
