"""What layers are set to in shared words, and what is said of settings that differ: real layers of both frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from tracer import kinds
from tracer.compare import Diff, Verdict
from tracer.configuration import WORDS, Settings, apart, differences, settings
from tracer.graph import Node, Structure
from tracer.store import Recording

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 12, 9, 3)).astype("f4")
WORDS_IN = RNG.normal(size=(2, 7, 6)).astype("f4")


def recorded(path: Path, model: Any, inputs: np.ndarray | None = None, name: str = "a", **options: Any) -> Recording:
    return tracer.record(model, inputs, trace=path, name=name, **options)


def read(recording: Recording) -> dict[str, Settings]:
    structure = recording.structure
    return {node.name: settings(node, structure) for node in structure}


def stacked(*layers: Any, shape: tuple[int, ...] = (12, 9, 3)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


class Chain(nn.Module):
    """Layers one after another, reading images with the channels first."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.names = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x


def carried(model: Any, module: nn.Module, *names: str) -> nn.Module:
    """A port with the kernels of the Keras layers of these names."""
    with torch.no_grad():
        for name in names:
            kernel, *bias = (torch.tensor(np.array(weight)) for weight in model.get_layer(name).weights)
            module.get_submodule(name).weight.copy_(kernel.permute(3, 2, 0, 1))
            if bias:
                module.get_submodule(name).bias.copy_(bias[0])
    return module.eval()


def compared(path: Path, model: Any, module: nn.Module, inputs: np.ndarray = IMAGES) -> Diff:
    a = recorded(path, model, inputs)
    return tracer.diff(a, recorded(path, module.eval(), name="b"))


def told(diff: Diff) -> dict[str, list[str]]:
    return {pair.aligned: [setting.values for setting in pair.settings] for pair in diff.pairs if pair.settings}


def test_same_padding_is_told_in_numbers(trace_path: Path) -> None:
    model = stacked(
        keras.layers.Conv2D(4, 3, strides=2, padding="same", name="conv"),
        keras.layers.MaxPooling2D(3, 2, padding="same", name="pool"),
        keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up"),
    )
    found = read(recorded(trace_path, model, IMAGES))
    assert found["conv"]["padding"] == ((0, 1), (1, 1))  # 12 is even, 9 is not
    assert found["conv"].stated["padding"] == "same"
    assert found["pool"]["padding"] == ((0, 1), (1, 1))  # of 6×5
    assert found["up"]["padding"] == ((0, 1), (0, 1))  # cut off
    port = Chain(up=nn.ConvTranspose2d(3, 4, 3, 2, padding=1, output_padding=1))
    assert read(recorded(trace_path, port, name="b"))["up"]["padding"] == ((1, 0), (1, 0))


def test_a_padding_that_differs_is_named_and_one_that_does_the_same_is_not(tmp_path: Path) -> None:
    model = stacked(keras.layers.Conv2D(4, 3, strides=2, padding="same", name="conv"), keras.layers.ReLU(name="relu"))
    shifted = carried(model, Chain(conv=nn.Conv2d(3, 4, 3, 2, padding=1), relu=nn.ReLU()), "conv")
    diff = compared(tmp_path / "a.zarr", model, shifted)
    assert told(diff) == {"conv": ["padding same (= ((0, 1), 1)) against ((1, 0), 1)"]}
    assert "as many zeros, but elsewhere" in str(diff)
    padded = Chain(pad=nn.ZeroPad2d((1, 1, 0, 1)), conv=nn.Conv2d(3, 4, 3, 2), relu=nn.ReLU())
    assert told(compared(tmp_path / "b.zarr", model, carried(model, padded, "conv"))) == {}


def test_a_pad_before_a_pool_is_counted_in(tmp_path: Path) -> None:
    """Zeros below a maximum are seen where all of a window is negative; behind a relu nothing is."""

    def model(activation: str | None) -> Any:
        return stacked(
            keras.layers.Conv2D(4, 3, activation=activation, name="conv"),
            keras.layers.ZeroPadding2D(1, name="pad"),
            keras.layers.MaxPooling2D(3, 2, name="pool"),
        )

    for activation, said in (("relu", {}), (None, {"pool": ["fill 0 against -inf"]})):
        reference = model(activation)
        act = nn.ReLU() if activation else nn.Identity()
        port = carried(reference, Chain(conv=nn.Conv2d(3, 4, 3), act=act, pool=nn.MaxPool2d(3, 2, 1)), "conv")
        diff = compared(tmp_path / f"{activation}.zarr", reference, port)
        assert told(diff) == said
        assert (diff.first is None) == (activation == "relu")


def test_averages_that_count_zeros(tmp_path: Path) -> None:
    pool = keras.layers.AveragePooling2D(3, 1, padding="same", name="pool")
    model = stacked(keras.layers.Conv2D(4, 3, name="conv"), pool)
    for counts, said in ((True, {"pool": ["count_include_pad False against True"]}), (False, {})):
        port = Chain(conv=nn.Conv2d(3, 4, 3), pool=nn.AvgPool2d(3, 1, 1, count_include_pad=counts))
        diff = compared(tmp_path / f"{counts}.zarr", model, carried(model, port, "conv"))
        assert told(diff) == said
        assert (diff.first is None) == (not counts)


def test_what_shows_in_training_alone_is_told_and_excuses_nothing(tmp_path: Path) -> None:
    model = stacked(keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.5, name="drop"))
    diff = compared(tmp_path / "a.zarr", model, Chain(norm=nn.BatchNorm2d(3, eps=1e-3), drop=nn.Dropout(0.5)))
    assert told(diff) == {"norm": ["momentum 0.99 against 0.1 (= 1 − 0.9)"]}
    assert diff.exit_code() == 0
    assert "settings differ where the values agree: norm momentum 0.99 against 0.1 (= 1 − 0.9): will differ in " in str(
        diff
    )
    assert not diff.latent[0].settings[0].computes
    right = Chain(norm=nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), drop=nn.Dropout(0.5))
    assert told(compared(tmp_path / "b.zarr", model, right)) == {}
    other = Chain(norm=nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False), drop=nn.Dropout(0.2))
    found = told(compared(tmp_path / "c.zarr", model, other))
    assert found["drop"] == ["rate 0.5 against 0.2"]
    assert sorted(found["norm"]) == [
        "center True against False", "momentum 0.99 against cumulative", "scale True against False",
    ]  # fmt: skip


def test_axes_are_compared_through_the_layout(tmp_path: Path) -> None:
    model = stacked(keras.layers.Conv2D(5, 3, name="conv"), keras.layers.Softmax(-1, name="softmax"))
    for axis, said in ((1, {}), (2, {"softmax": ["axis 3 against 2"]})):
        port = carried(model, Chain(conv=nn.Conv2d(3, 5, 3), softmax=nn.Softmax(axis)), "conv")
        diff = compared(tmp_path / f"{axis}.zarr", model, port)
        assert told(diff) == said
        assert (diff.first is None) == (axis == 1)


def test_settings_in_groups_are_compared_layer_by_layer(tmp_path: Path) -> None:
    model = stacked(keras.layers.SeparableConv2D(5, 3, padding="same", use_bias=False, name="conv"))

    def port(padding: int, dilation: int) -> nn.Module:
        module = Chain(
            depthwise=nn.Conv2d(3, 3, 3, padding=padding, dilation=dilation, groups=3, bias=False),
            pointwise=nn.Conv2d(3, 5, 1, bias=False),
        )
        depth, point = (torch.tensor(np.array(weight)) for weight in model.get_layer("conv").weights)
        with torch.no_grad():
            module.get_submodule("depthwise").weight.copy_(depth.permute(2, 3, 0, 1))
            module.get_submodule("pointwise").weight.copy_(point.permute(3, 2, 0, 1))
        return module

    right = compared(tmp_path / "a.zarr", model, port(1, 1))
    assert len(right.pairs[-1].pair.candidate) == 2
    assert told(right) == {}
    wide = compared(tmp_path / "b.zarr", model, port(2, 2))
    assert told(wide) == {"conv": ["dilation 1 against 2"]}
    assert wide.pairs[-1].settings[0].nodes == ("conv", "depthwise")


def test_activations_say_with_what_they_compute(trace_path: Path) -> None:
    dense = keras.layers.Dense
    model = stacked(
        dense(4, activation="gelu", name="gelu"),
        dense(4, activation=keras.layers.LeakyReLU(0.1), name="leaky"),
        keras.layers.Activation("leaky_relu", name="default"),
        keras.layers.Activation("elu", name="elu"),
        shape=(6,),
    )
    found = read(recorded(trace_path, model, WORDS_IN[:, 0]))
    assert found["gelu"]["approximate"] == "erf"
    assert (found["leaky"]["negative_slope"], found["default"]["negative_slope"]) == (0.1, 0.2)
    assert found["elu"]["alpha"] == 1.0

    class Port(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.leaky_relu(F.gelu(x, approximate="tanh"))

    ours = read(recorded(trace_path, Port(), name="b"))
    assert ours["gelu"]["approximate"] == "tanh"
    assert ours["leaky_relu"]["negative_slope"] == 0.01


def test_recurrent_layers_in_the_same_words(tmp_path: Path) -> None:
    model = stacked(
        keras.layers.GRU(5, return_sequences=True, reset_after=False, recurrent_activation="hard_sigmoid", name="gru"),
        shape=(7, 6),
    )

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0]

    diff = compared(tmp_path / "a.zarr", model, Port(), WORDS_IN)
    assert told(diff) == {
        "gru": ["recurrent_activation hard_sigmoid against sigmoid", "reset_after False against True"]
    }
    sides = [read(recording)["gru"] for recording in (diff.reference, diff.candidate)]
    assert [side["gate_order"] for side in sides] == ["zrh", "rzh"]  # told apart, but no difference


def test_resizing_in_the_same_words(trace_path: Path) -> None:
    class Port(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return F.interpolate(x, size=(31, 29), mode="bicubic")

    model = stacked(keras.layers.UpSampling2D(2, interpolation="bilinear", name="linear"),
                    keras.layers.Resizing(31, 29, interpolation="bicubic", name="cubic"))  # fmt: skip
    ours = read(recorded(trace_path, model, IMAGES))
    theirs = list(read(recorded(trace_path, Port(), name="b")).values())[1:]
    assert (ours["linear"]["interpolation"], ours["linear"]["coordinates"]) == ("linear", "half_pixel")
    assert (theirs[0]["interpolation"], theirs[0]["coordinates"]) == ("linear", "align_corners")
    assert "coordinates" not in theirs[1]  # twice as large: every rule takes the same neighbour
    assert (ours["cubic"]["cubic"], theirs[2]["cubic"]) == (-0.5, -0.75)


def test_a_wrong_stride_before_a_global_pool_is_named_at_the_convolution(trace_path: Path) -> None:
    model = stacked(
        keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first"),
        keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="second"),
        keras.layers.GlobalAveragePooling2D(name="mean"),
        keras.layers.Dense(3, name="head"),
    )
    port = Chain(first=nn.Conv2d(3, 4, 3, padding=1), act=nn.ReLU(), second=nn.Conv2d(4, 6, 3), last=nn.ReLU(),
                 mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(6, 3))  # fmt: skip
    diff = compared(trace_path, model, carried(model, port, "first", "second"))
    assert diff.first is not None
    assert diff.first.pair.candidate == ("second",)
    assert told(diff)["second/preactivation"] == ["strides 2 against 1"]


def test_a_norm_folded_into_a_convolution_is_its_bias(trace_path: Path) -> None:
    torch.manual_seed(0)
    apart = Chain(conv=nn.Conv2d(3, 4, 3, bias=False), norm=nn.BatchNorm2d(4), relu=nn.ReLU()).eval()
    norm = apart.get_submodule("norm")
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(1, 2)
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(apart.get_submodule("conv"), norm)
    a = recorded(trace_path, apart, np.moveaxis(IMAGES, -1, 1).copy())
    diff = tracer.diff(a, recorded(trace_path, Chain(conv=folded, relu=nn.ReLU()).eval(), name="b"))
    assert any(len(pair.pair.reference) == 2 for pair in diff.pairs)
    assert told(diff) == {}


def test_the_epsilon_of_a_norm_that_is_written_out(tmp_path: Path) -> None:
    class Written(nn.Module):
        def __init__(self, eps: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.weight, self.eps = nn.Linear(6, 8), nn.Parameter(torch.ones(8)), eps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))

    class Whole(Written):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.rms_norm(self.first(x), (8,), self.weight, self.eps)

    for eps, said in ((1e-6, {}), (1e-5, ["epsilon 1e-06 against 1e-05"])):
        a = recorded(tmp_path / f"{eps}.zarr", Whole(1e-6), WORDS_IN)
        diff = tracer.diff(a, recorded(tmp_path / f"{eps}.zarr", Written(eps), name="b"))
        assert any(len(pair.pair.candidate) > 1 for pair in diff.pairs)
        assert list(told(diff).values()) == ([said] if said else [])


@pytest.mark.parametrize(("shape", "axes"), [((2, 8, 7, 3), (1, 2)), ((2, 6, 9, 5), (2, 3))])
def test_pads_of_bare_graphs_are_placed_by_their_shapes(shape: tuple[int, ...], axes: tuple[int, int]) -> None:
    """A frozen graph tells of a picture's paddings only the spatial ones, and not where they are."""
    before = (2, 6, 5, 3) if axes == (1, 2) else (2, 6, 7, 3)
    image = Node("x", "input", "Placeholder", role="input", shape=before, dtype="float32")
    pad = Node("pad", "pad", "Pad", parents=("x",), shape=shape, dtype="float32",
               config={"padding": [[1, 1], [0, 2]]})  # fmt: skip
    found = settings(pad, Structure((image, pad)))["paddings"]
    assert [found[axis] for axis in axes] == [(1, 1), (0, 2)]
    assert "paddings" not in settings(pad)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.sampled_from(["same", "valid", "x"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
_STATED = ["padding", "strides", "kernel_size", "pool_size", "dilation", "groups", "axis", "axes", "pads", "epsilon",
           "momentum", "track_running_stats", "normalized_shape", "rate", "num_layers", "num_heads", "embed_dim",
           "mode",
           "size", "alpha", "depth_radius", "activations", "value", "args", "correction", "training"]  # fmt: skip


@given(
    st.sampled_from(sorted(kinds.KNOWN)),
    st.lists(st.dictionaries(st.sampled_from(_STATED), _ANYTHING, max_size=5), min_size=2, max_size=2),
    st.sampled_from([None, (), (2, 3), (2, 5, 6, 3)]),
    st.sampled_from(["BatchNorm2d", "torch.relu", "ZeroPadding1D", "Pad", "LSTM"]),
)
def test_whatever_a_file_states_can_be_read(
    kind: str, stated: list[dict[str, Any]], shape: tuple[int, ...] | None, label: str
) -> None:
    first = Node("x", "pad", "Pad", shape=shape, dtype="float32", config=stated[1])
    sides = [
        Structure((first, Node("y", kind, label, parents=("x",), shape=shape, dtype="float32", config=own)))
        for own in stated
    ]
    axes = None if shape is None else tuple(range(len(shape)))
    found = apart(("x", "y"), ("y",), *sides, axes) + apart(("y",), ("y",), *sides, axes)
    assert all(str(difference) for difference in found)


def test_every_word_is_told(trace_path: Path) -> None:
    """Every canonical word that the layers here have is in the vocabulary."""
    model = stacked(
        keras.layers.Conv2D(4, 3, name="conv"), keras.layers.BatchNormalization(), keras.layers.LayerNormalization(),
        keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Dropout(0.1),
    )  # fmt: skip
    for name, own in read(recorded(trace_path, model, IMAGES)).items():
        assert own.keys() <= WORDS.keys(), name


def test_a_setting_further_on_is_not_hidden_by_the_first_divergence(trace_path: Path) -> None:
    def net(first: float, second: float) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, eps=first), nn.Linear(8, 8), nn.LayerNorm(8, eps=second))

    a = recorded(trace_path, net(1e-5, 1e-5), WORDS_IN)
    diff = tracer.diff(a, recorded(trace_path, net(1e-1, 1e-2), name="b"))
    assert diff.first is not None
    assert diff.first.aligned == "1"
    assert diff.pairs[-1].verdict is Verdict.INHERITED
    assert "settings differ further on: 3 epsilon 1e-05 against 0.01" in str(diff)


@pytest.mark.parametrize(
    ("ours", "theirs", "apart"),
    [
        ([":", ":", ":", "0:2"], [":", ":2"], False),  # the same channels in the two layouts
        (["...", 3], [":", 3], False),
        ([":", 3], [":", 4], True),
        ([":", -1], [":", 4], False),  # counted from the end it may be the same
    ],
)
def test_indices_are_compared_whatever_axes_they_are_of(ours: list[object], theirs: list[object], apart: bool) -> None:
    one, other = (Node("x", "slice", "GetItem", config={"index": index}) for index in (ours, theirs))
    assert bool(differences(one, other)) is apart
