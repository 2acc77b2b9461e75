"""A pair of the alignment corpus: its weights are carried over, and its truth of the parameters names equal ones."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import tracer
from benchmarks.corpus.port import Built
from benchmarks.corpus.transfer import Carried, carry, disagreement
from benchmarks.corpus.vision import PORTS
from benchmarks.corpus.vision_tuned import mobilenet_v2
from tracer.store import Recording

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")


@cache
def pair() -> Built:
    return mobilenet_v2(alpha=0.35, size=65)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Recording]:
    trace = tmp_path_factory.mktemp("corpus") / "trace.zarr"
    built = pair()
    return tracer.record(built.reference, built.inputs, trace=trace), tracer.record(built.candidate, trace=trace)


def test_both_models_compute_the_same() -> None:
    assert disagreement(pair()) < 1e-4


def test_an_epsilon_that_is_not_set_shows_in_the_outputs() -> None:
    """The agreement above is no accident of numbers too small to tell."""
    norm = pair().candidate.features[0][1]
    eps, norm.eps = norm.eps, 0.1
    try:
        assert disagreement(pair()) > 1e-3
    finally:
        norm.eps = eps


def test_the_truth_names_every_weight_and_its_equal(recorded: tuple[Recording, Recording]) -> None:
    ours, theirs = recorded
    parameters = pair().parameters
    assert (ours.state, theirs.state) == ("complete", "complete")
    assert set(parameters) == set(ours.weights)
    assert set(parameters.values()) == {key for key in theirs.weights if key[1] != "num_batches_tracked"}
    for key, twin in parameters.items():
        a, b = ours.read_stored(ours.weights[key]), theirs.read_stored(theirs.weights[twin])
        # A depthwise kernel's multiplier of one is another axis than the one input channel that PyTorch writes.
        assert sorted(n for n in a.shape if n > 1) == sorted(n for n in b.shape if n > 1), key
        np.testing.assert_array_equal(np.sort(a, axis=None), np.sort(b, axis=None), err_msg=str(key))


def test_every_output_of_a_layer_varies(recorded: tuple[Recording, Recording]) -> None:
    """What is constant or zero cannot be told from its like."""
    deviations = [float(np.std(recorded[0].read(node.name))) for node in recorded[0].structure.stored()]
    assert min(deviations) > 0.05
    assert max(deviations) < 20


def test_a_weight_without_a_twin_is_not_passed_over() -> None:
    built = pair()
    twins = {path: twin for (path, _), (twin, _) in built.parameters.items()}
    lost = {path: twin for path, twin in twins.items() if path != "predictions"}
    with pytest.raises(AssertionError, match=r"no twin for .'predictions'"):
        carry(built.reference, built.candidate, Carried(lost))
    with pytest.raises(AssertionError, match=r"nothing goes to .'classifier"):
        carry(built.reference, built.candidate, Carried(lost, left_out=["predictions"]))
    assert carry(built.reference, built.candidate, Carried(twins)) == built.parameters


def test_tuning_and_held_out_pairs_are_apart() -> None:
    names = [port.name for port in PORTS]
    assert len(set(names)) == len(names)
    assert sum(port.held_out for port in PORTS) >= 6
