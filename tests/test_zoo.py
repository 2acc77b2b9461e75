"""The zoo itself, with plain frameworks: correct ports agree at every layer, defective ones part where they say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow")
pytest.importorskip("torch")

from tests.zoo import PAIRS, Pair, built, ecg_pathology
from tests.zoo.run import relative, run_keras, run_torch
from tests.zoo.weights import as_torch, before_activation, weighted_layers

# 138 million weights are too slow for here, and the files of SpliceAI differ in their weights alone.
NAMES = [name for name in PAIRS if name not in ("vgg16", "spliceai2", "spliceai3", "spliceai4", "spliceai5")]
DEFECTS = [(name, cause) for name in NAMES for cause in PAIRS[name].defects]
FUNCTIONS = {"add", "elu", "flatten", "slice", "mean", "permute", "relu", "reshape", "softmax", "view"}
# A re-ordered dense kernel stands behind it, so the orders may differ.
FREE_ORDER = {("vgg16_small", "flatten")}
PACKAGES = {"mtcnn": ("mtcnn", "facenet_pytorch"), "spliceai": ("spliceai", "openspliceai")}


@pytest.fixture(autouse=True)
def packages(request: pytest.FixtureRequest) -> None:
    """Skip pairs whose packages are not installed."""
    from importlib.util import find_spec

    name = str(getattr(request.node, "callspec", None) and request.node.callspec.params.get("name", ""))
    for stem, needed in PACKAGES.items():
        if name.startswith(stem) and not all(find_spec(package) for package in needed):
            pytest.skip(f"needs {' and '.join(needed)}")


def keras_model(name: str) -> Any:
    return built(PAIRS[name].keras)


def torch_model(name: str) -> Any:
    return built(PAIRS[name].torch)


def leaves(model: Any, prefix: str = "") -> dict[str, Any]:
    """All innermost Keras layers by path."""
    found: dict[str, Any] = {}
    for layer in model._flatten_layers(include_self=False, recursive=False):
        found |= leaves(layer, f"{prefix}{layer.name}/") or {prefix + layer.name: layer}
    return found


@contextmanager
def recorded_keras(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """The outputs of all innermost layers of an eager run, in the order of running."""
    seen: dict[str, np.ndarray] = {}
    layers = leaves(model)

    def recording(path: str, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = call(*args, **kwargs)
            seen[path] = np.array(out)
            return out

        return wrapped

    for path, layer in layers.items():
        object.__setattr__(layer, "call", recording(path, layer.call))
    try:
        yield seen
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "call")


@contextmanager
def recorded_torch(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """The outputs of all innermost modules of a run."""
    seen: dict[str, np.ndarray] = {}

    def recording(name: str) -> Any:
        return lambda _module, _inputs, out: seen.__setitem__(name, out.numpy().copy())

    inner = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(recording(name)) for name, module in inner]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def difference(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Relative, in Keras's layout; infinite if the shapes differ."""
    if candidate.ndim > 2:
        candidate = np.moveaxis(candidate, 1, -1)
    if reference.size != candidate.size:
        return np.inf
    return relative([reference], [candidate.reshape(reference.shape)])


def differences(pair: Pair, keras: Any, torch: Any) -> tuple[float, dict[str, float | None]]:
    """Of the final outputs, and by Keras layer in running order.

    None where the twin is a function, which plain hooks cannot see.
    """
    x = pair.inputs()
    with recorded_keras(keras) as ours, recorded_torch(torch) as theirs:
        outputs = run_keras(keras, x), run_torch(torch, x)
    nodes = pair.nodes
    total = relative(*(outputs if pair.reference == "keras" else outputs[::-1]))
    return total, {
        layer: difference(ours[layer], theirs[nodes[layer]]) if nodes[layer] in theirs else None
        for layer in ours
        if layer in nodes
    }


@pytest.mark.parametrize("name", NAMES)
def test_truth_is_complete(name: str) -> None:
    pair, keras, torch = PAIRS[name], keras_model(name), torch_model(name)
    named = {**pair.truth, **dict.fromkeys(pair.fused, "")}
    silent = {"InputLayer", "Dropout", "Permute"}
    computing = {path for path, layer in leaves(keras).items() if type(layer).__name__ not in silent}
    assert computing <= named.keys() <= leaves(keras).keys()
    assert not pair.truth.keys() & pair.fused.keys()

    twins = list(pair.nodes.values())
    modules = {module for module, _ in torch.named_modules()}
    functions = {node for node in twins if node not in modules}
    assert len(set(twins)) == len(twins)
    assert {node.rpartition(".")[2].split("_")[0] for node in functions} <= FUNCTIONS
    assert {parameter.rpartition(".")[0] for parameter in torch.state_dict()} <= set(twins)


@pytest.mark.parametrize("name", NAMES)
def test_ports_agree(name: str) -> None:
    pair, keras, torch = PAIRS[name], keras_model(name), torch_model(name)
    x = pair.inputs()
    assert x.shape == pair.input_shape
    assert x.dtype == np.float32
    total, found = differences(pair, keras, torch)
    assert total < 1e-4
    assert found.keys() == (pair.truth | pair.fused).keys()
    bad = {layer: d for layer, d in found.items() if d and d > 1e-4 and (name, layer) not in FREE_ORDER}
    assert not bad


@pytest.mark.parametrize(("name", "cause"), DEFECTS)
def test_defects_begin_where_they_say(name: str, cause: str) -> None:
    pair = PAIRS[name]
    build = pair.defects[cause].build
    keras, torch = (keras_model(name), build()) if pair.reference == "keras" else (build(), torch_model(name))
    total, found = differences(pair, keras, torch)
    assert total > 1e-3

    order = list(found)
    off = [layer for layer, d in found.items() if d and d > 1e-4 and (name, layer) not in FREE_ORDER]
    first = order.index(off[0]) if off else len(order)
    twins: Mapping[str, str] = {pair.nodes[layer]: layer for layer in order}
    reported = pair.defects[cause].first
    told = order.index(reported if pair.reference == "keras" else twins[reported])
    # Hooks see modules only: whatever lies between the reported node and the first module that is off is a function.
    assert told <= first
    assert all(found[layer] is None for layer in order[told:first])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mtcnn")])
def test_mtcnn_twins_by_weights(name: str) -> None:
    pair, state = PAIRS[name], torch_model(name).state_dict()
    twins = before_activation(pair.truth, pair.fused)
    for path, layer in weighted_layers(keras_model(name)).items():
        for key, array in as_torch(layer).items():
            same = {other for other, tensor in state.items() if np.array_equal(tensor.numpy(), array)}
            assert same == {f"{twins[path]}.{key}"}


@pytest.mark.parametrize("which", list(ecg_pathology.SEEDS))
def test_keras2_files(which: str, tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    structure, weights = ecg_pathology.write_keras2(tmp_path, which)
    model = tf_keras.models.model_from_json(structure.read_text())
    model.load_weights(weights)
    name = f"ecg_pathology_{which}"
    x = PAIRS[name].inputs()
    assert relative(run_keras(model, x), run_torch(torch_model(name), x)) < 1e-5


def test_lbbb_is_noisy_at_the_fourth_activation() -> None:
    name = "ecg_pathology_lbbb"
    x = PAIRS[name].inputs()
    with recorded_keras(keras_model(name)) as ours, recorded_torch(torch_model(name)) as theirs:
        run_keras(keras_model(name), x)
        run_torch(torch_model(name), x)
    fourth = np.moveaxis(theirs["conv4"], 1, -1)
    elu = np.where(fourth > 0, fourth, np.expm1(np.minimum(fourth, 0)))
    assert 1e-5 < np.abs(ours["activation_3"] - elu).max() < 1e-3


@pytest.mark.parametrize("name", ["spliceai1"])
def test_demo_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from scripts import demo_models

    h5 = demo_models.packaged_h5(1)
    demo_models.main(["transfer", "--h5", str(h5), "--out", str(tmp_path)])
    demo_models.main(["dna", "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "published.pt"), str(tmp_path / "dna.npy")]
    state = torch.load(tmp_path / "published.pt", weights_only=True)
    for architecture in (demo_models.published, demo_models.corrected):
        architecture().load_state_dict(state, strict=True)
    assert np.load(tmp_path / "dna.npy").shape == (2, 10_100, 4)
