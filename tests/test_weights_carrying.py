"""Weights carried from one framework's model to the other's compute the same there, or it is said what does not fit."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from keras import layers as kl
from torch import nn

import tracer
from tests import parameter_models as models
from tests.parameter_models import randomise
from tracer.alignment import align
from tracer.errors import InputError
from tracer.store import Recording
from tracer.weighing.carrying import Carried, carry
from tracer.weighing.plan import Plan, plan
from tracer.weighing.script import script

IMAGES = np.random.default_rng(0).standard_normal((4, 12, 12, 3)).astype(np.float32)
SHAPED = np.random.default_rng(0).standard_normal((5, models.HEIGHT, models.WIDTH, 3)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 30, (5, 7)).astype(np.int32)


def keras_small(*, bias: bool = False, norm: bool = True, scale: bool = True, head: bool = True) -> Any:
    x = inputs = keras.Input((12, 12, 3))
    for n, filters in enumerate((8, 6)):
        x = kl.Conv2D(filters, 3, use_bias=bias, name=f"c{n}")(x)
        if norm:
            x = kl.BatchNormalization(scale=scale or n == 0, name=f"b{n}")(x)
        x = kl.ReLU(name=f"r{n}")(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    return randomise(keras.Model(inputs, kl.Dense(5, use_bias=head, name="d")(x)))


class Small(nn.Module):
    def __init__(self, bias: bool = False, norm: bool = True, head: bool = True) -> None:
        super().__init__()
        widths = (3, 8, 6)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, bias=bias), nn.BatchNorm2d(after, eps=1e-3), nn.ReLU()]
        self.f = nn.Sequential(*(layer for layer in layers if norm or not isinstance(layer, nn.BatchNorm2d)))
        self.h = nn.Linear(6, 5, bias=head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.h(self.f(x).mean((2, 3)))


def torch_small(**options: bool) -> nn.Module:
    """With statistics that are not those of a fresh BatchNorm."""
    module = Small(**options).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return module


def channels_first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x


def outputs(keras_model: Any, module: nn.Module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        given = torch.from_numpy(channels_first(x))
        return np.asarray(keras_model(x, training=False)), module(given).numpy()


def recorded(
    trace: Path, keras_model: Any, module: nn.Module, x: np.ndarray, back: bool
) -> tuple[Recording, Recording]:
    """The source and the target: Keras and PyTorch, or with ``back`` the other way."""
    if back:
        return (
            tracer.record(module, channels_first(x), name="pt", trace=trace),
            tracer.record(keras_model, None, name="tf", trace=trace),
        )
    return tracer.record(keras_model, x, name="tf", trace=trace), tracer.record(module, None, name="pt", trace=trace)


def carried(source: Recording, target: Recording) -> tuple[Plan, Carried]:
    made = plan(align(source, target), source, target)
    return made, carry(made, source, target)


def assign(found: Carried, keras_model: Any, module: nn.Module, back: bool) -> None:
    if back:
        for layer in keras_model.layers:
            for weight in layer.weights:
                weight.assign(found.values[layer.name, weight.name])
    else:
        state = {".".join(key): torch.from_numpy(np.array(values)) for key, values in found.values.items()}
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)


Build = Callable[[], Any]
CASES: dict[str, tuple[Build, Build]] = {
    "the same": (lambda: keras_small(bias=True), lambda: torch_small(bias=True)),
    "a bias before BatchNorm in Keras only": (lambda: keras_small(bias=True), torch_small),
    "a bias before BatchNorm in PyTorch only": (keras_small, lambda: torch_small(bias=True)),
    "no gamma in Keras": (lambda: keras_small(scale=False), torch_small),
    "folded in PyTorch": (keras_small, lambda: torch_small(bias=True, norm=False)),
    "folded in PyTorch, biases": (lambda: keras_small(bias=True), lambda: torch_small(bias=True, norm=False)),
    "folded in Keras": (lambda: keras_small(bias=True, norm=False), torch_small),
    "folded in Keras, biases": (lambda: keras_small(bias=True, norm=False), lambda: torch_small(bias=True)),
}


@pytest.mark.parametrize("back", [False, True], ids=["to PyTorch", "to Keras"])
@pytest.mark.parametrize("name", CASES)
def test_models_that_hold_batchnorm_otherwise_compute_the_same(trace_path: Path, name: str, back: bool) -> None:
    keras_model, module = CASES[name][0](), CASES[name][1]()
    source, target = recorded(trace_path, keras_model, module, IMAGES, back)
    made, found = carried(source, target)
    assert found.whole
    assert not found.doubtful
    assign(found, keras_model, module, back)
    ours, theirs = outputs(keras_model, module, IMAGES)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5 * float(np.abs(ours).max()))
    assert_script(script(made, found, source, target), keras_model, module, found, back, trace_path)


def test_what_has_no_place_is_left_over_unless_it_does_nothing(trace_path: Path) -> None:
    keras_model, module = keras_small(), torch_small(head=False)
    source, target = recorded(trace_path, keras_model, module, IMAGES, False)
    _, found = carried(source, target)
    assert set(found.left_over) == {("d", "bias")}
    assert not found.missing
    keras_model.get_layer("d").bias.assign(np.zeros(5))
    again = tracer.record(keras_model, None, name="zero", trace=trace_path)
    _, found = carried(again, target)
    assert found.whole
    assert "all 0" in found.spent["d", "bias"]


def test_what_has_no_source_is_missing(trace_path: Path) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = keras.Input((6,))
    narrow = keras.Model(inputs, kl.Dense(3, name="b")(kl.Dense(8, activation="relu", name="a")(inputs)))
    source, target = recorded(trace_path, randomise(narrow), wide, IMAGES[0, 0, :6].reshape(3, 6), False)
    _, found = carried(source, target)
    assert {owner for owner, _ in found.missing} == {"3"}
    assert not found.left_over
    assert not set(found.missing) & set(found.values)


def test_a_type_that_cannot_hold_a_value_is_refused(trace_path: Path) -> None:
    keras_model, module = keras_small(), torch_small()
    keras_model.get_layer("d").bias.assign(np.full(5, 1e30))
    source, target = recorded(trace_path, keras_model, module.half(), IMAGES[:1], False)
    made = plan(align(source, target), source, target)
    with pytest.raises(InputError, match=r"h\.bias is float16"):
        carry(made, source, target)


NETWORKS: dict[str, tuple[Build, Build, np.ndarray]] = {
    "image": (models.keras_image, models.torch_image, SHAPED),
    "sequence": (models.keras_sequence, models.torch_sequence, IDS),
    "fused": (models.keras_sequence, lambda: models.torch_sequence(True), IDS),
}


@pytest.mark.parametrize("back", [False, True], ids=["to PyTorch", "to Keras"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_script_carries_every_kind_of_layer(trace_path: Path, name: str, back: bool) -> None:
    build_keras, build_torch, x = NETWORKS[name]
    keras_model, module = build_keras(), build_torch()
    source, target = recorded(trace_path, keras_model, module, x, back)
    made, found = carried(source, target)
    assert found.whole
    assert_script(script(made, found, source, target), keras_model, module, found, back, trace_path)
    ours, theirs = outputs(keras_model, module, x)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def assert_script(text: str, keras_model: Any, module: nn.Module, found: Carried, back: bool, folder: Path) -> None:
    """Running it fills the live model with the very values."""
    assert "import tracer" not in text
    space = runpy.run_path(str(_written(folder, text)), run_name="carry")
    if back:
        space["write"](keras_model, space["carry"](space["read"](module.state_dict())))
        for (path, name), values in found.values.items():
            weights = {weight.path.split("/", 1)[-1]: weight for weight in keras_model.get_layer(path).weights}
            same = [weight for weight in weights.values() if weight.shape == values.shape and weight.name in name]
            assert any(np.allclose(weight, values, rtol=1e-5, atol=1e-6) for weight in same), (path, name)
    else:
        space["write"](module, space["carry"](space["read"](keras_model)))
        state = module.state_dict()
        for key, values in found.values.items():
            np.testing.assert_allclose(state[".".join(key)].numpy(), values, rtol=1e-5, atol=1e-6)


def _written(trace: Path, text: str) -> Path:
    file = trace.parent / "carry.py"
    file.write_text(text)
    return file


def test_repeated_blocks_are_a_loop(trace_path: Path) -> None:
    x = inputs = keras.Input((8, 8, 4))
    layers: list[nn.Module] = []
    for n in range(6):
        x = kl.Conv2D(4, 3, padding="same", name=f"conv_{n}")(x)
        x = kl.BatchNormalization(epsilon=1e-5, name=f"norm_{n}")(x)
        x = kl.ReLU(name=f"relu_{n}")(x)
        layers += [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    module = nn.Sequential(*layers).eval()
    data = np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32)
    source, target = recorded(trace_path, randomise(keras.Model(inputs, x)), module, data, False)
    made, found = carried(source, target)
    body = script(made, found, source, target).partition("def carry")[2].partition("\n\n\n")[0]
    assert body.count("for i in range(6):") == 1
    assert 'get(f"conv_{i}")' in body
    assert 'state[f"{i}.0.weight"] = kernel.transpose(3, 2, 0, 1)' in body
    assert len(body.splitlines()) < 16


def test_stages_of_blocks_are_loops_in_a_loop(trace_path: Path) -> None:
    """Stages of several lengths, and numbers that run on through all stages as Keras counts."""
    x = inputs = keras.Input((8, 4))
    stages: list[nn.Module] = []
    number = 0
    for length in (2, 3, 1, 2):
        blocks: list[nn.Module] = []
        for _ in range(length):
            x = kl.ReLU(name=f"relu_{number}")(kl.Conv1D(4, 3, padding="same", name=f"conv_{number}")(x))
            blocks.append(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()))
            number += 1
        stages.append(nn.Sequential(*blocks))
    named = nn.Sequential(*stages).eval()
    data = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    keras_model = randomise(keras.Model(inputs, x))
    source, target = recorded(trace_path, keras_model, named, data, False)
    made, found = carried(source, target)
    assert_script(script(made, found, source, target), keras_model, named, found, False, trace_path)

    twin = nn.Sequential(*(nn.Sequential(*(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU())
                                           for _ in range(length))) for length in (2, 3, 1, 2))).eval()  # fmt: skip
    again = tracer.record(twin, np.moveaxis(data, -1, 1).copy(), name="again", trace=trace_path)
    made, found = carried(target, again)
    body = script(made, found, target, again)
    assert "for i, end in enumerate((2, 3, 1, 2)):" in body
    assert "for j in range(end):" in body
    space = runpy.run_path(str(_written(trace_path, body)))
    space["write"](twin, space["carry"](space["read"](named.state_dict())))
    for name, values in named.state_dict().items():
        assert torch.equal(values, twin.state_dict()[name])


def test_equal_loops_are_in_a_loop_again(trace_path: Path) -> None:
    x = inputs = keras.Input((8, 4))
    parts: list[nn.Module] = []
    for stage in range(3):
        for block in range(4):
            x = kl.ReLU(name=f"relu_{4 * stage + block}")(
                kl.Conv1D(4, 3, padding="same", name=f"conv_{4 * stage + block}")(x)
            )
            parts.append(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()))
        x = kl.MaxPooling1D(1, name=f"pool_{stage}")(x)
        parts.append(nn.MaxPool1d(1))
    module = nn.Sequential(*parts).eval()
    data = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    keras_model = randomise(keras.Model(inputs, x))
    source, target = recorded(trace_path, keras_model, module, data, False)
    made, found = carried(source, target)
    text = script(made, found, source, target)
    assert 'get(f"conv_{4 * i + j}")' in text
    assert 'state[f"{5 * i + j}.0.weight"]' in text
    assert_script(text, keras_model, module, found, False, trace_path)


def test_names_from_files_are_only_text_in_a_script(trace_path: Path) -> None:
    inputs = keras.Input((4,))
    source_model = randomise(keras.Model(inputs, kl.Dense(3, name='a"]; {boom} \\ #é')(inputs)))
    module = nn.Sequential(nn.Linear(4, 3)).eval()
    source, target = recorded(trace_path, source_model, module, np.ones((2, 4), np.float32), False)
    made, found = carried(source, target)
    assert_script(script(made, found, source, target), source_model, module, found, False, trace_path)
