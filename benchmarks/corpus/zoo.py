"""The pairs of tests/zoo, ported for work and two of them by other people, as ports of the corpus."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.corpus.port import Built, Parameter, Port
from benchmarks.corpus.transfer import parameter_name
from tests.zoo import PAIRS, Pair
from tests.zoo.weights import before_activation, weighted_layers

SAMPLES = {"mtcnn_pnet": 5, "mtcnn_rnet": 5, "mtcnn_onet": 5, "vgg16_small": 5}
"""Where two is the length of another dimension as well."""
NAMES = (
    "ecg_generic", "ecg_pathology_avb", "ecg_pathology_lbbb", "deepepi", "tracto_ae", "tracto_ae_functional",
    "vgg16_small", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "spliceai1",
)  # fmt: skip
"""One of each architecture, and the one whose activations are large."""
TORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",
}


def build(pair: Pair) -> Built:
    keras, torch = pair.keras(), pair.torch()
    shape = (SAMPLES.get(pair.name, pair.input_shape[0]), *pair.input_shape[1:])
    inputs = pair.data(shape)
    ours = _parameters(pair, keras)
    if pair.reference == "keras":
        return Built(keras, torch, inputs, parameters=ours)
    moved = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
    return Built(torch, keras, moved, parameters={theirs: mine for mine, theirs in ours.items()})


def _parameters(pair: Pair, model: Any) -> dict[Parameter, Parameter]:
    twins = before_activation(pair.truth, pair.fused)
    found: dict[Parameter, Parameter] = {}
    for path, layer in weighted_layers(model).items():
        for weight in layer.weights:
            name = parameter_name(weight)
            found[path, name] = (twins[path], TORCH_NAMES.get(name, name))
    return found


PORTS: tuple[Port, ...] = tuple(
    Port(f"zoo/{name}", partial(build, PAIRS[name]), PAIRS[name].notes or "weights carried over by tests/zoo")
    for name in NAMES
)
