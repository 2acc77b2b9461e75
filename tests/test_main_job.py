"""The main job on real pairs, in both directions: what pairs with what, and where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

import tracer
from tests.zoo import PAIRS, Pair, built
from tracer.compare import Diff, Verdict
from tracer.names import encode
from tracer.store.recordings import VALUES

CORRECT = [
    "ecg_generic", "ecg_pathology_avb", "ecg_pathology_isch", "ecg_pathology_lbbb", "ecg_pathology_rbbb", "deepepi",
    "tracto_ae", "tracto_ae_functional", "vgg16_small", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "spliceai1",
]  # fmt: skip
DEFECTS = [(name, cause) for name in CORRECT for cause in PAIRS[name].defects]


def compared(pair: Pair, keras_model: Any, torch_model: Any, path: Path) -> Diff:
    x = pair.inputs()[: 1 if pair.name == "spliceai1" else None]  # one sequence is 10,100 steps long
    if pair.reference == "keras":
        reference = tracer.record(keras_model, x, trace=path, weights=False)
        return tracer.diff(reference, tracer.record(torch_model, trace=path, weights=False))
    channels_first = np.ascontiguousarray(x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1)))
    reference = tracer.record(torch_model, channels_first, trace=path, weights=False)
    return tracer.diff(reference, tracer.record(keras_model, trace=path, weights=False))


def defective(pair: Pair, cause: str) -> Iterator[Any]:
    """Both models; the right one is that of the other tests."""
    return (built(make) if make in (pair.keras, pair.torch) else make() for make in pair.defective(cause))


def truth_of(pair: Pair) -> dict[str, str]:
    nodes = pair.nodes
    return nodes if pair.reference == "keras" else {theirs: ours for ours, theirs in nodes.items()}


def found_in(diff: Diff) -> dict[str, str]:
    return {p.aligned: p.pair.candidate[-1] for p in diff.pairs if "output" not in p.pair.evidence}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_port_is_paired_without_a_mistake_and_agrees(name: str, trace_path: Path) -> None:
    pair = PAIRS[name]
    diff = compared(pair, built(pair.keras), built(pair.torch), trace_path)
    found = found_in(diff)
    truth = truth_of(pair)
    assert {ours: found.get(ours) for ours in truth} == truth
    assert len(set(found.values())) == len(found)
    assert diff.first is None, str(diff)
    assert diff.counts[Verdict.MATCH] + diff.counts[Verdict.NOISE] == len(diff.pairs)
    assert bool(diff)
    assert not diff.alignment.unmatched_reference
    assert all(p.pair.axes is not None for p in diff.pairs)


@pytest.mark.parametrize(("name", "cause"), DEFECTS)
def test_a_defect_is_named_at_its_layer(name: str, cause: str, trace_path: Path) -> None:
    pair = PAIRS[name]
    keras_model, torch_model = defective(pair, cause)
    diff = compared(pair, keras_model, torch_model, trace_path)
    assert diff.first is not None
    assert diff.first.aligned == pair.defects[cause].first, str(diff)
    assert diff.exit_code() == 1
    assert diff.counts[Verdict.DIVERGED] == 1
    truth = {**truth_of(pair), **pair.defects[cause].truth}
    found = found_in(diff)
    assert {ours: found.get(ours) for ours in truth} == truth
    after = [p.verdict for p in diff.pairs[diff.pairs.index(diff.first) + 1 :]]
    assert Verdict.NOISE not in after


REVERSED = ["ecg_generic", "ecg_pathology_avb", "deepepi", "tracto_ae", "tracto_ae_functional", "mtcnn_onet"]


@pytest.mark.parametrize("name", REVERSED)
def test_the_other_direction_is_as_good(name: str, trace_path: Path) -> None:
    """What was the candidate is recorded first and is the reference, the input in its own axes."""
    pair = PAIRS[name]
    turned = replace(pair, direction="pt->tf" if pair.direction == "tf->pt" else "tf->pt")
    diff = compared(turned, built(pair.keras), built(pair.torch), trace_path)
    found, truth = found_in(diff), truth_of(turned)
    assert {ours: found.get(ours) for ours in truth} == truth
    assert diff.first is None, str(diff)
    assert bool(diff)


@pytest.mark.parametrize(("name", "cause"), [case for case in DEFECTS if case[0] in REVERSED])
def test_a_defect_is_found_from_the_other_side_too(name: str, cause: str, trace_path: Path) -> None:
    pair = PAIRS[name]
    keras_model, torch_model = defective(pair, cause)
    turned = replace(pair, direction="pt->tf" if pair.direction == "tf->pt" else "tf->pt")
    diff = compared(turned, keras_model, torch_model, trace_path)
    assert diff.first is not None
    twin = {**truth_of(pair), **pair.defects[cause].truth}[pair.defects[cause].first]
    assert diff.first.aligned == twin, str(diff)


@pytest.fixture(scope="module")
def ecg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diff]:
    pair = PAIRS["ecg_generic"]
    path = tmp_path_factory.mktemp("ecg") / "trace.zarr"
    x = pair.inputs()
    reference = tracer.record(pair.keras(), x, trace=path)
    return path, tracer.diff(reference, tracer.record(pair.torch(), trace=path))


def test_values_before_and_after_a_fused_activation_are_those_of_keras(ecg: tuple[Path, Diff]) -> None:
    import keras

    pair = PAIRS["ecg_generic"]
    model = pair.keras()
    layer = model.get_layer("conv1d")
    x = pair.inputs()
    after = np.asarray(keras.Model(model.inputs, layer.output)(x, training=False))
    recording = tracer.open(ecg[0]).recording("tf")
    np.testing.assert_allclose(recording.read("conv1d"), after, atol=1e-6)
    before = recording.read("conv1d/preactivation")
    np.testing.assert_allclose(np.maximum(before, 0), after, atol=1e-6)
    assert before.min() < 0


def test_zarr_and_xarray_see_both_sides_of_a_pair_under_one_name(ecg: tuple[Path, Diff]) -> None:
    path, diff = ecg
    root = zarr.open_group(str(path), mode="r")
    stores = {name: zarr.storage.ZipStore(path / f"recordings/{name}/{VALUES}", mode="r") for name in ("tf", "pt")}
    tf, pt = (zarr.open_group(stores[name], mode="r") for name in ("tf", "pt"))
    for pair in diff.pairs:
        if pair.node.alias_of or pair.candidate_node.alias_of:
            continue
        place = f"layers/{encode(pair.aligned)}"
        ours, theirs = np.asarray(tf[place][...]), np.asarray(pt[place][...])
        assert pt[place].attrs["node"] == pair.pair.candidate[0]
        moved = theirs.transpose([a for a in pair.pair.axes or () if a is not None])
        np.testing.assert_allclose(moved.reshape(ours.shape), ours, atol=1e-4)
    assert pt["unaligned/permute"].shape == (3, 17, 64)
    assert pt["weights/dense/kernel"].shape == (48, 17 * 64)
    assert tf["weights/dense/kernel"].shape == (17 * 64, 48)
    state = {name: root[f"recordings/{name}"].attrs["state"] for name in ("tf", "pt")}
    assert state == {"tf": "complete", "pt": "complete"}
    inputs = root[f"inputs/{root['recordings/tf'].attrs['input']}"]
    assert root["recordings/pt"].attrs["input"] == root["recordings/tf"].attrs["input"]
    np.testing.assert_array_equal(inputs["ecg_input"][...], PAIRS["ecg_generic"].inputs())
    tree = xarray.open_datatree(stores["pt"], engine="zarr", consolidated=False)
    assert tree["layers/flatten"].shape == (3, 17 * 64)


def test_the_json_is_the_documented_one(ecg: tuple[Path, Diff]) -> None:
    found = ecg[1].to_json()
    assert set(found) == {
        "schema", "reference", "candidate", "tolerance", "verdict", "pairs", "unmatched", "first_divergence", "causes",
    }  # fmt: skip
    wanted = {
        "reference", "candidate", "aligned", "axes", "confidence", "evidence", "shape", "max_abs", "mean_abs",
        "rel_l2", "cosine", "argmax", "inherited", "local", "floor", "verdict",
    }  # fmt: skip
    assert all(wanted <= set(pair) for pair in found["pairs"])
    assert found["first_divergence"] is None
    assert found["unmatched"] == {"reference": [], "candidate": ["permute"]}


def test_tolerances_change_without_rereading(ecg: tuple[Path, Diff]) -> None:
    strict = ecg[1].at(tracer.Tolerance(0.0, 0.0))
    again = tracer.diff(strict.reference, strict.candidate, atol=0, rtol=0)
    assert [p.verdict for p in strict.pairs] == [p.verdict for p in again.pairs]
    assert strict.counts[Verdict.NOISE] > 0
    assert strict.first is None


def test_a_mapping_file_sets_pairs_and_tolerances(ecg: tuple[Path, Diff], tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(
        "tolerances: [{match: 'conv1d_2*', atol: 0, rtol: 0, reason: strict}]\nignore: {reference: [dense*]}"
    )
    diff = tracer.diff(ecg[1].reference, ecg[1].candidate, map=path)
    by_name = {p.aligned: p for p in diff.pairs}
    assert "dense" not in by_name
    assert by_name["conv1d_2"].verdict is Verdict.NOISE
    assert "strict" in by_name["conv1d_2"].note
    assert by_name["flatten"].verdict is Verdict.MATCH


def test_other_inputs_are_not_compared(ecg: tuple[Path, Diff], tmp_path: Path) -> None:
    other = tracer.record(PAIRS["ecg_generic"].torch(), np.zeros((2, 12, 500), "f4"), trace=tmp_path / "t.zarr")
    with pytest.raises(tracer.InputError, match="different inputs"):
        tracer.diff(ecg[1].reference, other)


@pytest.mark.parametrize("build", [PAIRS["ecg_generic"].keras, PAIRS["ecg_generic"].torch])
def test_an_input_is_made_up_where_the_signature_allows(build: Callable[[], Any], trace_path: Path) -> None:
    import torch

    model = build()
    if isinstance(model, torch.nn.Module):
        with pytest.raises(tracer.InputError, match=r"--input-shape 2,12,LENGTH"):
            tracer.record(model, trace=trace_path)
        assert not trace_path.exists()
        return
    recording = tracer.record(model, trace=trace_path)
    ((values, attributes),) = tracer.open(trace_path).inputs(recording.input_id).values()
    assert values.shape == (2, 500, 12)
    assert attributes["source"] == "seed:0"
    again = tracer.record(model, trace=trace_path)
    assert again.name == "tf-2"
    assert again.input_id == recording.input_id
    assert bool(tracer.diff(recording, again))


def test_force_takes_the_place_of_no_other_recording(trace_path: Path) -> None:
    from torch import nn

    net, x = nn.Sequential(nn.Linear(4, 3)), np.ones((2, 4), "f4")
    kept = tracer.record(net, x, name="pt.new", trace=trace_path)
    first = tracer.record(net, x, name="pt", trace=trace_path)
    second = tracer.record(net, x, name="pt", trace=trace_path, force=True)
    trace = tracer.open(trace_path)
    assert [r.name for r in trace.recordings()] == ["pt.new", "pt"]
    assert trace.recording("pt.new").created == kept.created
    assert trace.recording("pt").created == second.created > first.created


def test_a_port_with_a_layer_of_the_wrong_width_shows_what_ran(trace_path: Path) -> None:
    """The commonest fault of a port; the input is right, for the reference took it."""
    import keras
    import torch

    reference = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="a"), keras.layers.Dense(3, name="b")])
    tracer.record(reference, np.ones((4, 6), "float32"), trace=trace_path, name="tf")

    class Subclassed(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = keras.layers.Dense(5, name="a"), keras.layers.Dense(3, name="b")
            self.b.build((None, 4))

        def call(self, x: Any) -> Any:
            return self.b(self.a(x))

    torch_port = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(4, 3))
    for name, port, ran in (("pt", torch_port, "0"), ("keras", Subclassed(), "a")):
        with pytest.raises(tracer.ModelError, match=r"'1'|'b'"):
            tracer.record(port, trace=trace_path, name=name)
        recording = tracer.open(trace_path).recording(name)
        assert recording.state == "failed"
        assert recording.read(ran).shape == (4, 5)
        with pytest.raises(tracer.InputError, match="does not take"):  # where the input is not known to be right
            tracer.record(port, np.ones((2, 6), "float32"), trace=trace_path.with_name("other.zarr"))
