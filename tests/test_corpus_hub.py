"""The corpus' pairs of HuggingFace transformers: weights carried over, and the truth of where each went."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from benchmarks.corpus import hub

_NEEDED = ("torch", "torchvision", "tf_keras", "transformers")
pytestmark = pytest.mark.skipif(not all(map(find_spec, _NEEDED)), reason=f"needs {', '.join(_NEEDED)}")

_SMALL: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 1},
    "resnet": {"embedding_size": 6, "hidden_sizes": (8, 12), "depths": (1, 1)},
}


def _twin(name: str) -> hub.Twin:
    twin = hub.TWINS[name]
    return replace(twin, options={**twin.options, **_SMALL[name]})


@pytest.mark.parametrize("name", _SMALL)
def test_parameters_went_where_the_truth_says(name: str, trace_path: Path) -> None:
    built = _twin(name).build()
    assert hub.distance(built.reference, built.candidate, built.inputs) < 1e-5
    ours, theirs = built.record
    reference = tracer.record(built.reference, built.inputs, trace=trace_path, **ours)
    candidate = tracer.record(built.candidate, built.candidate_inputs, trace=trace_path, **theirs)
    assert reference.state == candidate.state == "complete"
    assert set(built.parameters) == set(reference.weights)
    left = {key for key in candidate.weights if key not in built.parameters.values()}
    assert all(parameter.endswith("_ids") for _, parameter in left)
    for ours, theirs in built.parameters.items():
        a = reference.read_stored(reference.weights[ours])
        b = candidate.read_stored(candidate.weights[theirs])
        assert a.std() > 0, ours
        assert any(np.array_equal(a, b.transpose(axes)) for axes in permutations(range(b.ndim))), (ours, theirs)


def test_is_the_same_each_time() -> None:
    first, second = (_twin("bert").build() for _ in range(2))
    assert first.parameters == second.parameters
    for a, b in zip(first.reference.weights, second.reference.weights, strict=True):
        assert a.name.partition("/")[2] == b.name.partition("/")[2]
        np.testing.assert_array_equal(a, b)


def test_a_weight_without_a_twin_is_refused() -> None:
    import torch

    built = _twin("bert").build()
    built.candidate.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"without a twin: extra\.weight, extra\.bias"):
        hub.convert(built.candidate, built.reference, built.inputs)
