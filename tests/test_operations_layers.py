"""Every operation in float64 against the framework's own layer, read from a recording of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tracer.causes import operations, reading
from tracer.causes.step import Step, Unknown
from tracer.store import Recording, Trace

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

_MOST = 2e-6
"""Of the largest value: float32's rounding of sums."""


def _off(recording: Recording, name: str) -> float:
    """How far a node's step is off what was recorded, of the largest value."""
    node = recording.structure.by_name[name]
    step = reading.read(recording, name)
    made = operations.run(step, [recording.read(recording.resolve(parent)) for parent in node.parents])
    wanted = recording.read(recording.resolve(name))
    assert made.shape == wanted.shape, f"{name}: {made.shape}, not {wanted.shape}: {dict(step.settings)}"
    if wanted.dtype.kind in "bi":
        return float(not np.array_equal(made, wanted))
    return float(np.abs(made - wanted).max() / max(1e-30, np.abs(wanted).max()))


def _check(recording: Recording, kinds: Mapping[str, str]) -> None:
    """That all nodes of a recording are read and give what was recorded, and that the named ones have these kinds."""
    found: dict[str, str] = {}
    bad: list[str] = []
    for node in recording.structure.nodes:
        if node.role in ("input", "container", "item") or node.alias_of is not None:
            continue
        try:
            off = _off(recording, node.name)
        except (Unknown, AssertionError) as error:
            bad.append(f"{node.name} ({node.label}): {error}")
            continue
        if not off <= _MOST:
            bad.append(f"{node.name} ({node.label}): off by {off:.1e}, {dict(node.config)}")
        found[node.owner.rpartition(".")[2]] = node.kind
    assert not bad, "\n".join(bad)
    assert {name: found.get(name) for name in kinds} == dict(kinds)


def _settings(recording: Recording, kind: str, word: str) -> set[Any]:
    return {reading.read(recording, node.name).settings[word] for node in recording.structure if node.kind == kind}


class _Each(nn.Module):
    """Every layer on the same input."""

    def __init__(self, layers: Mapping[str, Any], function: Callable[[Any], list[Any]] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, x: Any) -> list[Any]:
        found = [layer(x) for layer in self.layers.values()]
        return found + (self.function(x) if self.function is not None else [])


def _shaken(model: Any) -> Any:
    """A model in which no weight and no statistic is at its start."""
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.5)
    return model.eval()


def _torch(tmp_path: Path, model: Any, *shape: int, **options: Any) -> Recording:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32) * 2
    tracer.record(_shaken(model), x, trace=tmp_path / "t.zarr", name="pt", **options)
    return Trace.open(tmp_path / "t.zarr").recording("pt")


@pytest.mark.filterwarnings("ignore:Using padding=")
def test_pictures_of_pytorch(tmp_path: Path) -> None:
    """Strides, dilation, groups, every padding, ceil modes, transposed convolutions and their output padding."""
    layers = {
        "plain": nn.Conv2d(6, 4, 3, stride=2, padding=1),
        "one": nn.Conv2d(6, 4, 1, stride=2, bias=False),
        "dilated": nn.Conv2d(6, 4, (3, 2), dilation=(2, 1), padding=(2, 0)),
        "grouped": nn.Conv2d(6, 9, 3, groups=3, padding=1),
        "depthwise": nn.Conv2d(6, 12, 3, groups=6, stride=(2, 1)),
        "same": nn.Conv2d(6, 4, (4, 3), padding="same", dilation=(1, 2)),
        "reflect": nn.Conv2d(6, 4, 3, padding=2, padding_mode="reflect"),
        "replicate": nn.Conv2d(6, 4, 3, padding=2, padding_mode="replicate"),
        "circular": nn.Conv2d(6, 4, 3, padding=2, padding_mode="circular"),
        "up": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        "up_more": nn.ConvTranspose2d(6, 4, 2, stride=3, output_padding=2),
        "up_grouped": nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2, dilation=2, padding=1),
        "max": nn.MaxPool2d(3, 2, padding=1),
        "max_ceil": nn.MaxPool2d((3, 2), 2, ceil_mode=True),
        "max_dilated": nn.MaxPool2d(2, 1, dilation=2),
        "avg": nn.AvgPool2d(3, 2, padding=1),
        "avg_inside": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        "avg_ceil": nn.AvgPool2d(2, 2, padding=1, ceil_mode=True),
        "avg_ceil_inside": nn.AvgPool2d(4, 3, padding=2, ceil_mode=True, count_include_pad=False),
        "avg_divided": nn.AvgPool2d(2, divisor_override=3),
        "adaptive": nn.AdaptiveAvgPool2d((4, None)),
        "adaptive_max": nn.AdaptiveMaxPool2d((2, 5)),
        "global": nn.AdaptiveAvgPool2d(1),
        "pad": nn.ZeroPad2d((1, 2, 0, 3)),
        "pad_reflect": nn.ReflectionPad2d((1, 2, 0, 3)),
        "pad_constant": nn.ConstantPad2d((1, -1, 0, 0), 2.5),
    }
    kinds = {
        "grouped": "conv2d", "depthwise": "depthwise_conv2d", "up": "conv_transpose2d", "global": "global_avg_pool"
    }  # fmt: skip
    _check(_torch(tmp_path, _Each(layers), 2, 6, 9, 7), kinds)


def test_other_ranks_of_pytorch(tmp_path: Path) -> None:
    """One and three axes, and pictures without a batch."""
    cubes = {
        "conv": nn.Conv3d(3, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)),
        "up": nn.ConvTranspose3d(3, 2, 2, stride=2),
        "max": nn.MaxPool3d(2),
        "avg": nn.AvgPool3d((2, 3, 1), padding=(1, 1, 0)),
        "norm": nn.InstanceNorm3d(3, affine=True),
        "batch": nn.BatchNorm3d(3),
    }
    _check(_torch(tmp_path / "a", _Each(cubes), 2, 3, 4, 5, 6), {"conv": "conv3d"})
    lines = {
        "conv": nn.Conv1d(6, 4, 5, stride=2, padding=2),
        "depthwise": nn.Conv1d(6, 6, 3, groups=6),
        "up": nn.ConvTranspose1d(6, 3, 4, stride=2, padding=1),
        "max": nn.MaxPool1d(3, 2, ceil_mode=True),
        "avg": nn.AvgPool1d(3, 2, padding=1),
        "batch": nn.BatchNorm1d(6),
        "norm": nn.InstanceNorm1d(6),
        "mean": nn.AdaptiveAvgPool1d(3),
    }
    _check(_torch(tmp_path / "b", _Each(lines), 4, 6, 11), {"conv": "conv1d"})
    alone = {"conv": nn.Conv2d(3, 4, 3), "pool": nn.MaxPool2d(2), "norm": nn.InstanceNorm2d(3), "soft": nn.Softmax2d()}
    _check(_torch(tmp_path / "c", _Each(alone), 3, 8, 9), {})


def test_normalisations_of_pytorch(tmp_path: Path) -> None:
    """Epsilons that matter, axes, groups, statistics that are and are not tracked."""
    layers = {
        "batch": nn.BatchNorm2d(6, eps=0.1),
        "batch_plain": nn.BatchNorm2d(6, affine=False),
        "batch_untracked": nn.BatchNorm2d(6, track_running_stats=False),
        "instance": nn.InstanceNorm2d(6, eps=0.1),
        "instance_affine": nn.InstanceNorm2d(6, affine=True),
        "instance_tracked": nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        "group": nn.GroupNorm(3, 6, eps=0.1),
        "group_plain": nn.GroupNorm(2, 6, affine=False),
        "layer": nn.LayerNorm(7, eps=0.1),
        "layer_two": nn.LayerNorm((9, 7)),
        "layer_plain": nn.LayerNorm((6, 9, 7), elementwise_affine=False),
        "rms": nn.RMSNorm(7, eps=0.1),
        "rms_default": nn.RMSNorm((9, 7)),
        "local": nn.LocalResponseNorm(4, alpha=0.5, beta=0.6, k=2.0),
    }

    def functions(x: Any) -> list[Any]:
        return [F.normalize(x), F.normalize(x, dim=(2, 3)), F.normalize(x, p=1, dim=-1), F.layer_norm(x, (7,))]

    _check(_torch(tmp_path, _Each(layers, functions), 3, 6, 9, 7), {"batch_untracked": "batchnorm"})


def test_batch_statistics_in_training(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, momentum=0.3), nn.ReLU())
    x = np.random.default_rng(0).normal(2, 3, (5, 4, 3, 2)).astype(np.float32)
    tracer.record(model, x, trace=tmp_path / "t.zarr", name="pt", mode="train")
    recording = Trace.open(tmp_path / "t.zarr").recording("pt")
    step = reading.read(recording, "0")
    assert (step.settings["mode"], step.settings["momentum"]) == ("train", 0.7)
    assert _off(recording, "0") < _MOST


def test_a_frozen_layer_in_training_keeps_its_statistics(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[2].running_mean.fill_(1.5)
    model[2].eval()
    model[3].eval()
    x = np.random.default_rng(0).normal(2, 3, (6, 4)).astype(np.float32)
    tracer.record(model, x, trace=tmp_path / "t.zarr", name="pt", mode="train")
    recording = Trace.open(tmp_path / "t.zarr").recording("pt")
    assert [reading.read(recording, name).settings["mode"] for name in "02"] == ["train", "eval"]
    assert max(_off(recording, name) for name in "023" if not recording.structure.by_name[name].alias_of) < _MOST
    with pytest.raises(Unknown, match="random numbers"):
        reading.read(recording, "1")


_ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": lambda: nn.LeakyReLU(0.3), "prelu": lambda: nn.PReLU(6),
    "prelu_one": nn.PReLU, "elu": lambda: nn.ELU(0.7), "selu": nn.SELU, "celu": lambda: nn.CELU(0.6), "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"), "silu": nn.SiLU, "mish": nn.Mish, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_tanh": lambda: nn.Hardtanh(-0.5, 2.0),
    "softmax": lambda: nn.Softmax(1), "softmin": lambda: nn.Softmin(-1), "softmax2d": nn.Softmax2d,
    "log_softmax": lambda: nn.LogSoftmax(2), "softplus": lambda: nn.Softplus(2.0, 1.5), "softsign": nn.Softsign,
    "log_sigmoid": nn.LogSigmoid, "threshold": lambda: nn.Threshold(0.2, -3.0), "glu": lambda: nn.GLU(1),
    "hard_shrink": nn.Hardshrink, "soft_shrink": nn.Softshrink, "tanh_shrink": nn.Tanhshrink,
    "identity": nn.Identity, "dropout": lambda: nn.Dropout(0.4),
}  # fmt: skip


def test_activations_of_pytorch(tmp_path: Path) -> None:
    layers = {name: make() for name, make in _ACTIVATIONS.items()}

    def functions(x: Any) -> list[Any]:
        return [F.relu(x), F.leaky_relu(x), F.elu(x, 0.5), F.gelu(x), F.softmax(x, -1), x.softmax(1), torch.sigmoid(x),
                F.glu(x, 1), F.softplus(x), F.hardtanh(x), x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=1.0),
                torch.exp(x), F.prelu(x, layers["prelu"].weight)]  # fmt: skip

    _check(_torch(tmp_path, _Each(layers, functions), 2, 6, 9, 7), {"softmin": "softmax", "silu": "silu"})


def test_numbers_and_reductions_of_pytorch(tmp_path: Path) -> None:
    """What is computed of every value, and what is taken over axes."""

    def functions(x: Any) -> list[Any]:
        small = torch.tanh(x) * 0.9
        positive = x.abs() + 0.1
        unary = [torch.neg(x), x.sign(), positive.sqrt(), positive.rsqrt(), x.square(), positive.reciprocal(),
                 positive.log(), positive.log1p(), positive.log2(), torch.expm1(x), torch.erf(x), torch.erfc(x),
                 x.sin(), x.cos(), x.tan(), small.asin(), small.acos(), x.atan(), x.sinh(), x.cosh(), x.asinh(),
                 (positive + 1).acosh(), small.atanh(), x.floor(), x.ceil(), x.round(),
                 torch.nan_to_num(x)]  # fmt: skip
        reduced = [x.sum(), x.sum(-1), x.mean((1, 2)), x.mean((2, 3), keepdim=True), x.amax(1), x.amin(2, keepdim=True),
                   x.var(1), x.var(1, unbiased=False), torch.std(x, dim=(2, 3), correction=0), x.std(), x.prod(3),
                   x.logsumexp(2), x.norm(), torch.linalg.vector_norm(x, 1, (1, 2)), x.norm(p=1, dim=1), x.argmax(1),
                   x.argmin(), x.long(), torch.atan2(x, small)]  # fmt: skip
        return [*unary, *reduced]

    recording = _torch(tmp_path, _Each({}, functions), 2, 3, 4, 5)
    bad = []
    for node in recording.structure.nodes:
        if node.role == "op":
            try:
                off = _off(recording, node.name)
            except (Unknown, AssertionError) as error:
                bad.append(f"{node.name}: {error}")
                continue
            bad += [f"{node.name}: off by {off:.1e}"] * (off > 1e-5)
    assert not bad, "\n".join(bad)


def test_dense_of_pytorch(tmp_path: Path) -> None:
    """Linear layers, and products with a matrix that may lie either way."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 5)
            self.two = nn.Bilinear(5, 5, 3)
            self.plain = nn.Linear(5, 3, bias=False)
            self.square = nn.Parameter(torch.rand(5, 5))
            self.wide = nn.Parameter(torch.rand(5, 4))
            self.shift = nn.Parameter(torch.rand(4))

        def forward(self, x: Any) -> list[Any]:
            flat = x.reshape(-1, 5)
            return [self.linear(x), self.two(x, x + 1), self.plain(x), x @ self.square, F.linear(x, self.square),
                    torch.addmm(self.shift, flat, self.wide)]  # fmt: skip

    _check(_torch(tmp_path, Products(), 2, 3, 5), {"linear": "dense"})


def test_weights_that_two_layers_share(tmp_path: Path) -> None:
    """The second lists none: they are those of the layer that has them."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.other = nn.Embedding(11, 5), nn.Embedding(11, 5)
            self.mixed, self.head = nn.Linear(5, 5), nn.Linear(5, 11)
            self.head.weight = self.words.weight

        def forward(self, x: Any) -> list[Any]:
            both = self.words(x) + self.other(x)
            once = self.mixed(both)
            return [self.head(once), self.mixed(once)]

    x = np.random.default_rng(0).integers(0, 11, (3, 4))
    tracer.record(_shaken(Tied()), x, trace=tmp_path / "t.zarr", name="pt")
    recording = Trace.open(tmp_path / "t.zarr").recording("pt")
    dense = [node.name for node in recording.structure if node.kind == "dense"]
    assert len(dense) == 3
    assert max(_off(recording, name) for name in dense) < _MOST


def _keras_record(tmp_path: Path, model: Any, x: Any, name: str = "tf") -> Recording:
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(0.1, 0.7, weight.shape) for weight in model.get_weights()])
    tracer.record(model, x, trace=tmp_path / "t.zarr", name=name)
    return Trace.open(tmp_path / "t.zarr").recording(name)


def _keras(tmp_path: Path, layers: Mapping[str, Any], *shape: int, library: Any = keras) -> Recording:
    start = library.Input(shape[1:])
    model = library.Model(start, [layer(start) for layer in layers.values()])
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32) * 2
    return _keras_record(tmp_path, model, x)


def test_pictures_of_keras(tmp_path: Path) -> None:
    """SAME in numbers, depth multipliers, separable and transposed convolutions, pools."""
    k = keras.layers
    layers = {
        "same": k.Conv2D(4, 3, strides=2, padding="same"),
        "same_even": k.Conv2D(4, (4, 2), strides=(2, 3), padding="same"),
        "dilated": k.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False),
        "grouped": k.Conv2D(6, 3, groups=3, activation="relu"),
        "as_many_groups": k.Conv2D(12, 3, groups=6),
        "depthwise": k.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
        "separable": k.SeparableConv2D(4, 3, strides=2, padding="same", depth_multiplier=2, activation="tanh"),
        "up": k.Conv2DTranspose(4, 3, strides=2, padding="same"),
        "up_valid": k.Conv2DTranspose(4, 3, strides=2),
        "up_small": k.Conv2DTranspose(4, 2, strides=3, padding="same"),
        "up_more": k.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
        "max": k.MaxPooling2D(3, 2, padding="same"),
        "avg": k.AveragePooling2D(3, 2, padding="same"),
        "avg_valid": k.AveragePooling2D((2, 3)),
        "global": k.GlobalAveragePooling2D(),
        "global_kept": k.GlobalMaxPooling2D(keepdims=True),
        "pad": k.ZeroPadding2D(((1, 2), (0, 3))),
    }
    recording = _keras(tmp_path, layers, 2, 9, 7, 6)
    _check(recording, {})
    found = {node.owner: reading.read(recording, node.name) for node in recording.structure.nodes if node.params}
    same = next(step for step in found.values() if step.kind == "conv2d" and step.settings["strides"] == (2, 2))
    assert same.settings["padding"] == ((1, 1), (1, 1))
    even = next(step for step in found.values() if step.settings.get("strides") == (2, 3) and step.kind == "conv2d")
    assert even.settings["padding"] == ((1, 2), (0, 1))


def test_other_ranks_of_keras(tmp_path: Path) -> None:
    k = keras.layers
    lines = {
        "causal": k.Conv1D(4, 3, dilation_rate=2, padding="causal"),
        "same": k.Conv1D(4, 4, strides=3, padding="same"),
        "depthwise": k.DepthwiseConv1D(3, depth_multiplier=2),
        "separable": k.SeparableConv1D(5, 3, padding="same"),
        "up": k.Conv1DTranspose(4, 3, strides=2, padding="same"),
        "max": k.MaxPooling1D(3, 2, padding="same"),
        "mean": k.GlobalAveragePooling1D(),
    }
    _check(_keras(tmp_path / "a", lines, 2, 11, 6), {})
    cubes = {"conv": k.Conv3D(4, 2, padding="same"), "up": k.Conv3DTranspose(2, 3, strides=2), "max": k.MaxPooling3D(2)}
    _check(_keras(tmp_path / "b", cubes, 2, 4, 5, 6, 3), {})
    times = {"conv": k.TimeDistributed(k.Conv2D(4, 3, padding="same")), "dense": k.TimeDistributed(k.Dense(4, "relu"))}
    _check(_keras(tmp_path / "c", times, 2, 3, 6, 5, 4), {})


def test_normalisations_of_keras(tmp_path: Path) -> None:
    k = keras.layers
    layers = {
        "batch": k.BatchNormalization(epsilon=0.1),
        "batch_plain": k.BatchNormalization(center=False, scale=False),
        "batch_first": k.BatchNormalization(axis=1),
        "layer": k.LayerNormalization(epsilon=0.1),
        "layer_two": k.LayerNormalization(axis=(1, 3), center=False),
        "rms": k.RMSNormalization(epsilon=0.1),
        "group": k.GroupNormalization(3, epsilon=0.1),
        "instance": k.GroupNormalization(-1),
        "unit": k.UnitNormalization(axis=(1, 2)),
    }
    recording = _keras(tmp_path, layers, 3, 5, 4, 6)
    _check(recording, {})
    momenta = {
        reading.read(recording, n.name).settings["momentum"] for n in recording.structure if n.kind == "batchnorm"
    }
    assert momenta == {0.99}


def test_activations_of_keras(tmp_path: Path) -> None:
    """As layers, by name, and fused into other layers."""
    k = keras.layers
    names = ("relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh", "hard_sigmoid", "hard_silu",
             "softmax", "log_softmax", "softplus", "softsign", "exponential", "log_sigmoid", "leaky_relu", "celu",
             "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink", "glu", "linear")  # fmt: skip
    layers = {name: k.Activation(name) for name in names}
    layers |= {
        f"fused {name}": k.Dense(6, activation=name) for name in ("gelu", "leaky_relu", "softmax", "hard_sigmoid")
    }
    layers |= {
        "ReLU": k.ReLU(max_value=1.5, negative_slope=0.3, threshold=0.2),
        "LeakyReLU": k.LeakyReLU(negative_slope=0.25),
        "ELU": k.ELU(0.6),
        "PReLU": k.PReLU(),
        "shared": k.PReLU(shared_axes=[1, 2]),
        "Softmax": k.Softmax(axis=1),
        "dropout": k.Dropout(0.5),
    }
    _check(_keras(tmp_path, layers, 2, 4, 5, 6), {})


def test_keras_two_has_another_hard_sigmoid(tmp_path: Path) -> None:
    old = pytest.importorskip("tf_keras")
    layers = {"hard": old.layers.Activation("hard_sigmoid"), "fused": old.layers.Dense(6, activation="hard_sigmoid"),
              "over": old.layers.ThresholdedReLU(0.4), "leaky": old.layers.LeakyReLU(), "gelu":
              old.layers.Activation("gelu")}  # fmt: skip
    recording = _keras(tmp_path, layers, 2, 5, 6, library=old)
    _check(recording, {})
    slopes = {
        reading.read(recording, n.name).settings["slope"] for n in recording.structure if n.kind == "hard_sigmoid"
    }
    assert slopes == {0.2}


def test_dense_of_keras(tmp_path: Path) -> None:
    k = keras.layers
    layers = {
        "dense": k.Dense(4, activation="relu"),
        "plain": k.Dense(4, use_bias=False),
        "heads": k.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"),
        "joined": k.EinsumDense("abc,bcd->ad", output_shape=5),
    }
    _check(_keras(tmp_path, layers, 2, 3, 6), {})


def test_operations_of_tensorflow(tmp_path: Path) -> None:
    """Functions between layers, whose settings are constants that the recording does not keep."""
    tf = pytest.importorskip("tensorflow")

    class Functions(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(6)

        def call(self, x: Any) -> Any:
            y = self.first(x)
            return [tf.nn.gelu(y), tf.nn.gelu(y, approximate=True), tf.nn.l2_normalize(y, -1), tf.nn.l2_normalize(y, 1),
                    tf.clip_by_value(y, -0.2, 0.3), tf.nn.leaky_relu(y, 0.15), tf.reduce_max(y, 1), tf.reduce_sum(y),
                    tf.reduce_std(y, axis=1) if hasattr(tf, "reduce_std") else tf.math.reduce_std(y, axis=1),
                    tf.argmax(y, -1), tf.norm(y, axis=1), tf.nn.softmax(y, axis=1),
                    tf.nn.avg_pool2d(y[..., None], 2, 2, "SAME")]  # fmt: skip

    model = Functions()
    x = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
    model(x)
    recording = _keras_record(tmp_path, model, x)
    _check(recording, {})


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Random numbers, and weights that were not kept, are unknown and never guessed."""
    x = np.ones((2, 3), np.float32)
    tracer.record(
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), x, trace=tmp_path / "t.zarr", name="pt", mode="train"
    )
    recording = Trace.open(tmp_path / "t.zarr").recording("pt")
    with pytest.raises(Unknown, match="random numbers"):
        reading.read(recording, "1")
    wrong = Step("x", "dense", {}, {"kernel": np.ones((4, 2))}, ("y",))
    with pytest.raises(Unknown, match="does not fit"):
        operations.run(wrong, [np.ones((2, 3))])
    with pytest.raises(Unknown, match="epsilon"):
        operations.run(Step("x", "layernorm", {"axes": (-1,)}, {}, ("y",)), [np.ones((2, 3))])


def test_a_large_convolution_is_quick_and_small() -> None:
    """A layer of a ResNet-50 at 224 pixels, two pictures."""
    import time

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 64, 64))
    settings = {"strides": 1, "padding": ((1, 1), (1, 1)), "channels": -3}
    step = Step("x", "conv2d", settings, {"kernel": kernel}, ("y",))
    x = rng.normal(size=(2, 64, 56, 56))
    began = time.perf_counter()
    y = operations.run(step, [x])
    # Half a second on two slow cores; a loop over the pixels takes minutes.
    assert time.perf_counter() - began < 5
    patch = np.moveaxis(x[1, :, 9:12, 19:22], 0, -1)
    np.testing.assert_allclose(y[1, :, 10, 20], np.tensordot(patch, kernel, 3), rtol=1e-12)
