"""Weights carried from one framework's model to the other's compute the same there, or it is said what does not fit."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import tensorflow as tf
import tf_keras
import torch
from keras import layers as kl
from torch import nn

import tracer
from tests import parameter_models as models
from tests.parameter_models import randomise
from tracer.alignment import align
from tracer.errors import InputError, TransferError
from tracer.store import Recording
from tracer.weighing.carrying import Carried, carry
from tracer.weighing.plan import Plan, plan
from tracer.weighing.script import script

IMAGES = np.random.default_rng(0).standard_normal((4, 12, 12, 3)).astype(np.float32)
SHAPED = np.random.default_rng(0).standard_normal((5, models.HEIGHT, models.WIDTH, 3)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 30, (5, models.WORDS)).astype(np.int32)


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


@pytest.mark.parametrize(("name", "back"), [("image", True), ("sequence", False), ("sequence", True), ("fused", False)])
def test_a_script_carries_every_kind_of_layer(trace_path: Path, name: str, back: bool) -> None:
    build_keras, build_torch, x = NETWORKS[name]
    keras_model, module = build_keras(), build_torch()
    source, target = recorded(trace_path, keras_model, module, x, back)
    made, found = carried(source, target)
    assert found.whole
    assert_script(script(made, found, source, target), keras_model, module, found, back, trace_path)
    ours, theirs = outputs(keras_model, module, x)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


class Directed(keras.layers.Layer):
    """A Dense whose kernel is a direction with lengths, as one writes weight normalisation by hand."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, shape: Any) -> None:
        self.v = self.add_weight(name="v", shape=(shape[-1], self.units))
        self.g = self.add_weight(name="g", shape=(self.units,))
        self.bias = self.add_weight(name="bias", shape=(self.units,))

    def call(self, x: Any) -> Any:
        return x @ (self.v * self.g / keras.ops.norm(self.v, axis=0)) + self.bias


class Positions(tf_keras.layers.Conv1D):
    """A grouped convolution that is normalised over its channels and keeps its weights as PyTorch does."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.kernel = self.weight_v = tf.Variable(tf.transpose(self.kernel), name="weight_v")
        self.weight_g = self.add_weight(name="weight_g", shape=(self.kernel_size[0], 1, 1))

    def call(self, x: Any) -> Any:
        direction = tf.nn.l2_normalize(self.weight_v, axis=[0, 1])
        self.kernel = tf.transpose(direction * tf.transpose(self.weight_g))
        return super().call(x)


class Apart(nn.Module):
    """A separable convolution that adds its bias itself."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(5, 4)
        self.deep = nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False)
        self.point = nn.Conv1d(4, 10, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(10, 1))
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.deep(self.into(x).transpose(1, 2))) + self.bias
        return self.head(x.transpose(1, 2))


class Swapped(nn.Module):
    """What is within reads the channels first."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.into, self.inside, self.head = nn.Linear(5, 8), nn.Sequential(*inside), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inside(self.into(x).transpose(1, 2)).transpose(1, 2))


def chain(library: Any, *layers: Any) -> Any:
    x = inputs = library.layers.Input((9, 5))
    for layer in layers:
        x = layer(x)
    return randomise(library.Model(inputs, x))


def directed(weight_norm: Any) -> tuple[Any, nn.Module]:
    into, head = (weight_norm(nn.Linear(a, b)) for a, b in ((5, 6), (6, 3)))
    return chain(keras, Directed(6, name="a"), kl.ReLU(), Directed(3, name="b")), nn.Sequential(into, nn.ReLU(), head)


def positions(weight_norm: Any) -> tuple[Any, nn.Module]:
    tk = tf_keras.layers
    inside = weight_norm(nn.Conv1d(8, 8, 3, padding=1, groups=2), dim=2)
    pad, convolution = tk.ZeroPadding1D(1), Positions(8, 3, groups=2, name="pos")
    return chain(tf_keras, tk.Dense(8, name="into"), pad, convolution, tk.Dense(3, name="head")), Swapped(inside)


def added() -> tuple[Any, nn.Module]:
    layers = kl.Dense(4, name="into"), kl.SeparableConv1D(10, 3, padding="same", name="s"), kl.Dense(3, name="head")
    return chain(keras, *layers), Apart()


def bare() -> tuple[Any, nn.Module]:
    norm = kl.GroupNormalization(2, epsilon=1e-5, center=False, scale=False, name="norm")
    return chain(keras, kl.Dense(8, name="into"), norm, kl.Dense(3, name="head")), Swapped(nn.GroupNorm(2, 8))


def equation() -> tuple[Any, nn.Module]:
    heads = kl.EinsumDense("abc,cde->abde", (9, 2, 3), bias_axes="de", name="e")
    return chain(keras, heads, kl.Reshape((9, 6)), kl.Dense(4, name="d")), nn.Sequential(
        nn.Linear(5, 6), nn.Linear(6, 4)
    )


class Cell(nn.Module):
    """A GRU that resets before the product with the state, under the names of nn.GRUCell or of Keras's layer."""

    def __init__(self, as_keras: bool) -> None:
        super().__init__()
        shapes = {"kernel": (5, 21), "recurrent_kernel": (7, 21), "bias": (21,)} if as_keras else {
            "weight_ih": (21, 5), "weight_hh": (21, 7), "bias_ih": (21,), "bias_hh": (21,)
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * 0.3))
        self.as_keras, self.head = as_keras, nn.Linear(7, 3)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        given, state = (self.kernel, self.recurrent_kernel) if self.as_keras else (self.weight_ih.T, self.weight_hh.T)
        gates = x @ given + (self.bias if self.as_keras else self.bias_ih + self.bias_hh)
        first, second = torch.sigmoid(gates[:, :14] + h @ state[:, :14]).chunk(2, 1)
        update, reset = (first, second) if self.as_keras else (second, first)
        new = torch.tanh(gates[:, 14:] + (reset * h) @ state[:, 14:])
        return update * h + (1 - update) * new

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, found = x.new_zeros(x.shape[0], 7), []
        for at in range(x.shape[1]):
            h = self.step(x[:, at], h)
            found.append(h)
        return self.head(torch.stack(found, 1))


def by_hand(as_keras: bool) -> tuple[Any, nn.Module]:
    gru = kl.GRU(7, return_sequences=True, reset_after=False, name="gru")
    return chain(keras, gru, kl.Dense(3, name="head")), Cell(as_keras)


OTHERWISE: dict[str, Callable[[], tuple[Any, nn.Module]]] = {
    "weight norm by hand": lambda: directed(nn.utils.parametrizations.weight_norm),
    "weight norm by hand, one length": lambda: directed(partial(nn.utils.parametrizations.weight_norm, dim=None)),
    "weight norm by hand, plain": lambda: directed(lambda layer: layer),
    "weight norm of old": lambda: positions(nn.utils.weight_norm),
    "weight norm over positions": lambda: positions(nn.utils.parametrizations.weight_norm),
    "a bias that is added apart": added,
    "a normalisation without parameters": bare,
    "an equation": equation,
    "a cell written out, PyTorch's names": lambda: by_hand(False),
    "a cell written out, Keras's names": lambda: by_hand(True),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("back", [False, True], ids=["to PyTorch", "to Keras"])
@pytest.mark.parametrize("name", OTHERWISE)
def test_what_one_side_keeps_otherwise(trace_path: Path, name: str, back: bool) -> None:
    keras_model, module = OTHERWISE[name]()
    module.eval()
    x = np.random.default_rng(0).standard_normal((3, 9, 5)).astype(np.float32)
    source, target = recorded(trace_path, keras_model, module, x, back)
    model = keras_model if back else module
    before = snapshot(model)
    done = tracer.transfer(source, target, model=model)  # which raises where a tensor is lost, or the outputs differ
    ours, theirs = outputs(keras_model, module, x)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    restore(model, before)
    space = runpy.run_path(str(_written(trace_path, done.script)))
    given = module.state_dict() if back else keras_model
    space["write"](model, space["carry"](space["read"](given)))
    ours, theirs = outputs(keras_model, module, x)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def snapshot(model: Any) -> Any:
    if isinstance(model, nn.Module):
        return {name: value.clone() for name, value in model.state_dict().items()}
    return [np.array(weight) for weight in model.weights]


def restore(model: Any, before: Any) -> None:
    if isinstance(model, nn.Module):
        model.load_state_dict(before)
    else:
        model.set_weights(before)


@pytest.mark.parametrize("back", [False, True], ids=["to PyTorch", "to Keras"])
def test_a_gru_that_resets_elsewhere_is_carried_and_refused(trace_path: Path, back: bool) -> None:
    """nn.GRU resets after the product with the state, with a bias of its own there."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(5, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(x)[0])

    keras_model = chain(keras, kl.GRU(7, return_sequences=True, reset_after=False, name="gru"), kl.Dense(3, name="d"))
    module = Sequence().eval()
    x = np.random.default_rng(0).standard_normal((3, 9, 5)).astype(np.float32)
    source, target = recorded(trace_path, keras_model, module, x, back)
    with pytest.raises(TransferError, match="gru-reset-after") as caught:
        tracer.transfer(source, target, model=keras_model if back else module)
    found = caught.value.transferred.carried
    assert found.whole
    bias = found.values["gru", "bias" if back else "bias_ih_l0"]
    given = source.read_stored(source.weights["gru", "bias_ih_l0" if back else "bias"])
    if back:
        given = given + source.read_stored(source.weights["gru", "bias_hh_l0"])
    else:
        assert not found.values["gru", "bias_hh_l0"].any()
    np.testing.assert_allclose(np.sort(bias), np.sort(given), rtol=1e-6)


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


def test_letters_that_count_are_a_loop(trace_path: Path) -> None:
    x = inputs = keras.Input((8, 4))
    stages: list[nn.Module] = []
    for stage, length in enumerate((3, 2, 4)):
        blocks = nn.Sequential()
        for letter in "abcd"[:length]:
            x = kl.ReLU()(kl.Conv1D(4, 3, padding="same", name=f"block{stage}{letter}_conv")(x))
            blocks.append(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()))
        stages.append(blocks)
    module = nn.Sequential(*stages).eval()
    data = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    keras_model = randomise(keras.Model(inputs, x))
    source, target = recorded(trace_path, keras_model, module, data, False)
    made, found = carried(source, target)
    text = script(made, found, source, target)
    assert 'get(f"block{i}{chr(97 + j)}_conv")' in text
    assert_script(text, keras_model, module, found, False, trace_path)


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
