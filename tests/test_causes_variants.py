"""Mistakes in masks, states and constants, and two on top of each other: each named as a porter would name it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes import operations
from tracer.causes.explain import Explained, explain
from tracer.causes.step import Step
from tracer.store import Trace

RNG = np.random.default_rng(5)
IDS = RNG.integers(1, 20, (3, 7)).astype("i4")
IDS[0, 5:] = IDS[1, 3:] = 0
Change = Callable[[Any], Any]


def told(place: Path, reference: Any, candidate: Any, values: Any, layout: str | None = None) -> Explained:
    tracer.record(reference, values, trace=place, name="reference")
    tracer.record(candidate.eval(), trace=place, name="candidate", **({} if layout is None else {"layout": layout}))
    trace = Trace.open(place)
    return explain(tracer.diff(trace.recording("reference"), trace.recording("candidate")), seconds=20)


def names(found: Explained) -> list[str]:
    """The ids of all causes, each of which must be proven."""
    assert all(one.status == "proven" for one in found.parting), str(found)
    return sorted({name for one in found.parting for name in one.names})


# --- a transformer by hand -------------------------------------------------------------------------------------------

PLACES = np.sin(np.arange(7)[:, None] / 50 ** (np.arange(8) / 8)).astype("f4")
FAR = (-0.4 * np.abs(np.arange(7)[:, None] - np.arange(7)) - 0.2 * np.tri(7)).astype("f4")


class Text(nn.Module):
    """Words and their places, one head with a bias by distance and a mask, a mean without the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8, eps=1e-3)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def places(self) -> torch.Tensor:
        angles = torch.arange(7.0)[:, None] / 50 ** (torch.arange(8) / 8)
        return torch.sin(angles)

    def given(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q(x), self.k(x), self.v(x)

    def far(self) -> torch.Tensor:
        return torch.tensor(FAR)

    def hide(self, scores: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(~shown[:, None], -1e9)

    def mixed(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def pool(self, x: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        kept = shown[:, :, None].float()
        return (x * kept).sum(1) / kept.sum(1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        shown = ids != 0
        x = self.words(ids) + self.places()
        q, k, v = self.given(self.norm(x))
        scores = self.hide(q @ k.transpose(1, 2) / math.sqrt(8) + self.far(), shown)
        return self.head(self.pool(self.mixed(x, torch.softmax(scores, -1) @ v), shown))


def text() -> Any:
    keras.backend.clear_session()
    ids = layers.Input((7,), dtype="int32")
    padding = ops.cast(ops.equal(ids, 0), "float32")
    x = layers.Embedding(20, 8, name="words")(ids) + PLACES
    y = layers.LayerNormalization(name="norm")(x)
    q, k, v = (layers.Dense(8, name=name)(y) for name in "qkv")
    scores = ops.matmul(q, ops.transpose(k, (0, 2, 1))) / math.sqrt(8) + FAR
    weights = ops.softmax(scores + padding[:, None, :] * -1e9, axis=-1)
    x = x + ops.matmul(weights, v)
    kept = (1.0 - padding)[:, :, None]
    x = ops.sum(x * kept, axis=1) / ops.sum(kept, axis=1)
    return keras.Model(ids, layers.Dense(3, name="head")(x))


def ported(model: Any) -> Text:
    port = Text()
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape) + (1 if weight.path.endswith("gamma") else 0))
    for layer in model.layers:
        if layer.weights:
            own = getattr(port, layer.name)
            own.weight.data = torch.tensor(np.asarray(layer.weights[0]).T if layer.name in "qkvhead" else
                                           np.asarray(layer.weights[0]))  # fmt: skip
            if len(layer.weights) > 1:
                own.bias.data = torch.tensor(np.asarray(layer.weights[1]))
    return port


MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "none": (lambda port: {}, []),
    "keys for queries": (
        lambda port: {"given": lambda x: (port.k(x), port.q(x), port.v(x))}, ["qkv-order"],
    ),
    "padding seen": (lambda port: {"hide": lambda scores, shown: scores}, ["attention-mask"]),
    "mask of ones": (lambda port: {"hide": lambda scores, shown: scores + shown[:, None].float()}, ["attention-mask"]),
    "mask too weak": (
        lambda port: {"hide": lambda scores, shown: scores.masked_fill(~shown[:, None], -1.0)}, ["attention-mask"],
    ),
    "distances mirrored": (lambda port: {"far": lambda: torch.tensor(FAR.T.copy())}, ["attention-mask"]),
    "places from one": (
        lambda port: {"places": lambda: torch.sin(torch.arange(1.0, 8)[:, None] / 50 ** (torch.arange(8) / 8))},
        ["embedding-offset"],
    ),
    "padding counted": (lambda port: {"pool": lambda x, shown: x.mean(1)}, ["pool-kind"]),
    "first word": (lambda port: {"pool": lambda x, shown: x[:, 0]}, ["pool-kind"]),
    "norm behind the sum": (
        lambda port: {"after": port.norm, "norm": nn.Identity(), "mixed": lambda x, y: port.after(x + y)},
        ["residual-order"],
    ),
    "mask and places": (
        lambda port: {"hide": lambda scores, shown: scores, "places": lambda: torch.tensor(PLACES[:, ::-1].copy())},
        ["attention-mask", "channel-order"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> Any:
    keras.utils.set_random_seed(0)
    model = text()
    ported(model)
    return model


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_masks_and_constants(tmp_path: Path, reference: Any, mistake: str) -> None:
    change, wanted = MISTAKES[mistake]
    port = carried(reference)
    for name, value in change(port).items():
        setattr(port, name, value)
    assert names(told(tmp_path / "t.zarr", reference, port, IDS)) == wanted


def carried(model: Any) -> Text:
    """The port with the model's weights."""
    port = Text()
    for layer in model.layers:
        for weight, name in zip(layer.weights, ("weight", "bias"), strict=False):
            values = np.asarray(weight)
            turned = values.T if values.ndim == 2 and layer.name != "words" else values
            getattr(getattr(port, layer.name), name).data = torch.tensor(turned.copy())
    return port


# --- recurrent layers ------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    def __init__(self, run: Callable[..., Any], **made: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in made.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def gru(run: Callable[..., Any], seed: int = 0) -> Steps:
    torch.manual_seed(seed)
    return Steps(run, rnn=nn.GRU(4, 5, batch_first=True, bidirectional=True), head=nn.Linear(10, 3))


SERIES = RNG.normal(size=(3, 6, 4)).astype("f4")


def last(m: Any, x: torch.Tensor) -> torch.Tensor:
    _, h = m.rnn(x)
    return m.head(torch.cat([h[0], h[1]], -1))


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (lambda m, x: m.head(m.rnn(x)[0].amax(1)), ["rnn-last-step"]),
        (lambda m, x: m.head(m.rnn(x)[1].reshape(len(x), 10)), ["reshape-order"]),
    ],
    ids=["largest step", "states laid out as they are"],
)
def test_what_is_taken_of_a_recurrent_layer(tmp_path: Path, run: Callable[..., Any], wanted: list[str]) -> None:
    keras.backend.clear_session()
    wave = layers.Input((6, 4))
    both = layers.Bidirectional(layers.GRU(5), name="rnn")(wave)
    model = keras.Model(wave, layers.Dense(3, name="head")(both))
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    port = carried_gru(model, run)
    assert names(told(tmp_path / "t.zarr", model, port, SERIES)) == wanted


def carried_gru(model: Any, run: Callable[..., Any]) -> Steps:
    port, layer = gru(run), model.get_layer("rnn")
    order = np.r_[5:10, :5, 10:15]
    with torch.no_grad():
        for side, end in ((layer.forward_layer, ""), (layer.backward_layer, "_reverse")):
            kernel, hidden, bias = (np.asarray(weight) for weight in side.weights)
            for name, values in (("weight_ih", kernel.T), ("weight_hh", hidden.T), ("bias_ih", bias[0]),
                                 ("bias_hh", bias[1])):  # fmt: skip
                getattr(port.rnn, f"{name}_l0{end}").copy_(torch.tensor(values[order]))
        kernel, bias = (np.asarray(weight) for weight in model.get_layer("head").weights)
        port.head.weight.copy_(torch.tensor(kernel.T))
        port.head.bias.copy_(torch.tensor(bias))
    return port


def test_a_bias_that_is_lost_is_taken_from_its_row_of_the_reference(tmp_path: Path) -> None:
    keras.backend.clear_session()
    wave = layers.Input((6, 4))
    model = keras.Model(wave, layers.Dense(3, name="head")(layers.Bidirectional(layers.GRU(5), name="rnn")(wave)))
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    port = carried_gru(model, last)
    port.rnn.bias_hh_l0.data.zero_()
    found = told(tmp_path / "t.zarr", model, port, SERIES)
    (one,) = found.parting
    (cause,) = one.causes
    assert cause.id == "rnn-bias"
    assert any(change.name == "bias_hh_l0" and change.source for change in cause.changes), one.fixes


def test_one_more_in_the_forget_gate_can_be_patched(tmp_path: Path) -> None:
    keras.backend.clear_session()
    wave = layers.Input((6, 4))
    model = keras.Model(wave, layers.LSTM(5, name="rnn")(wave))
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    kernel, hidden, bias = (np.asarray(weight) for weight in model.weights)
    port = Steps(lambda m, x: m.rnn(x)[1][0][0], rnn=nn.LSTM(4, 5, batch_first=True))
    state = {"weight_ih_l0": kernel.T, "weight_hh_l0": hidden.T, "bias_ih_l0": bias, "bias_hh_l0": np.zeros(20)}
    port.rnn.load_state_dict({name: torch.tensor(values) for name, values in state.items()})
    port.rnn.bias_hh_l0.data[5:10] = 1
    found = told(tmp_path / "t.zarr", model, port, SERIES)
    (one,) = found.parting
    assert one.names == ("rnn-bias",)
    assert ("zeros", ()) in [move for change in one.causes[0].changes for move in change.moves], one.fixes


# --- masks of Keras --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attended", [False, True])
def test_padding_that_keras_masks_and_the_port_counts(tmp_path: Path, attended: bool) -> None:
    keras.backend.clear_session()
    ids = layers.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, name="words")(ids)
    x = layers.MultiHeadAttention(2, 4, name="mix")(x, x) if attended else x
    model = keras.Model(ids, layers.GlobalAveragePooling1D(name="mean")(x))
    words = nn.Embedding(20, 8)
    words.weight.data = torch.tensor(np.asarray(model.get_layer("words").weights[0]))
    mix = nn.MultiheadAttention(8, 2, batch_first=True)
    if attended:
        parts = [np.asarray(weight) for weight in model.get_layer("mix").weights]
        mix.in_proj_weight.data = torch.tensor(np.concatenate([part.reshape(8, 8).T for part in parts[:6:2]]))
        mix.in_proj_bias.data = torch.tensor(np.concatenate([part.reshape(8) for part in parts[1:6:2]]))
        mix.out_proj.weight.data = torch.tensor(parts[6].reshape(8, 8).T.copy())
        mix.out_proj.bias.data = torch.tensor(parts[7])

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.words(x)
        return (m.mix(y, y, y, need_weights=False)[0] if attended else y).mean(1)

    found = told(tmp_path / "t.zarr", model, Steps(run, words=words, **({"mix": mix} if attended else {})), IDS)
    assert names(found) == ["attention-mask"]


@pytest.mark.parametrize(
    ("whole", "twice", "expected"),
    [(False, False, []), (True, False, ["attention-mask"]), (False, True, ["rnn-bias"])],
)
def test_padded_steps_that_nothing_reads_are_no_matter(
    tmp_path: Path, whole: bool, twice: bool, expected: list[str]
) -> None:
    keras.backend.clear_session()
    ids = layers.Input((7,), dtype="int32")
    x = layers.LSTM(5, return_sequences=True)(layers.Embedding(20, 8, mask_zero=True)(ids))
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(x))
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    table, kernel, hidden, bias = (np.asarray(weight) for weight in model.weights)
    words, rnn = nn.Embedding(20, 8), nn.LSTM(8, 5, batch_first=True)
    words.weight.data = torch.tensor(table)
    state = {"weight_ih_l0": kernel.T, "weight_hh_l0": hidden.T, "bias_ih_l0": bias, "bias_hh_l0": twice * bias}
    rnn.load_state_dict({name: torch.tensor(values) for name, values in state.items()})

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y, counts = m.rnn(m.words(x))[0], (x > 0)[:, :, None]
        return y.mean(1) if whole else (y * counts).sum(1) / counts.sum(1)

    found = told(tmp_path / "t.zarr", model, Steps(run, words=words, rnn=rnn), IDS)
    assert names(found) == expected, str(found)


# --- others ----------------------------------------------------------------------------------------------------------


def test_means_in_another_order_are_the_inputs(tmp_path: Path) -> None:
    """A constant of the one side is a buffer of the other."""
    keras.backend.clear_session()
    image = layers.Input((6, 5, 3))
    means = np.array([104.0, 117.0, 124.0], "f4")
    model = keras.Model(image, layers.Conv2D(2, 3, name="conv")((image - means) * 0.02))
    port = Steps(lambda m, x: m.conv((x - m.means) * 0.02), conv=nn.Conv2d(3, 2, 3))
    port.register_buffer("means", torch.tensor(means[::-1].copy())[:, None, None])
    kernel, bias = (np.asarray(weight) for weight in model.get_layer("conv").weights)
    port.conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    port.conv.bias.data = torch.tensor(bias)
    values = RNG.uniform(0, 255, (2, 6, 5, 3)).astype("f4")
    assert names(told(tmp_path / "t.zarr", model, port, values, "NHWC->NCHW")) == ["input-normalisation"]


def test_two_hypotheses_on_top_of_each_other(tmp_path: Path) -> None:
    """The second number is solved for where the first mistake is made good: neither is stated by the recordings."""
    first, second = (Steps(run, one=nn.Linear(6, 6)) for run in (
        lambda m, x: torch.erf(m.one(x)), lambda m, x: torch.erf(F.leaky_relu(m.one(x.flip(-1)), 0.37)),
    ))  # fmt: skip
    second.load_state_dict(first.state_dict())
    found = told(tmp_path / "t.zarr", first.eval(), second, RNG.normal(size=(16, 6)).astype("f4"))
    assert names(found) == ["activation-extra", "channel-order"]


def test_corners_aligned_and_smoothed_as_pytorch_has_it() -> None:
    values = RNG.normal(size=(1, 2, 9, 7))
    wanted = F.interpolate(torch.tensor(values), (5, 4), mode="bilinear", antialias=True, align_corners=True)
    settings = {"size": (5, 4), "channels": 1, "mode": "linear", "coordinates": "align_corners", "antialias": True}
    assert operations.run(Step("x", "resize", settings), [values]) == pytest.approx(wanted.numpy(), abs=1e-12)


def test_a_result_that_depends_on_nothing_excuses_nothing(tmp_path: Path) -> None:
    """A softmax over one place gives one whatever comes in: what is wrong above it is told as well."""
    first, second = (Steps(run, one=nn.Linear(6, 7), score=nn.Linear(7, 1), head=nn.Linear(6, 3)) for run in (
        lambda m, x: m.head((torch.softmax(m.score(torch.tanh(m.one(x))), 1) * x).sum(1)),
        lambda m, x: m.head((torch.softmax(m.score(m.one(x)), -1) * x).sum(1)),
    ))  # fmt: skip
    second.load_state_dict(first.state_dict())
    found = told(tmp_path / "t.zarr", first.eval(), second, RNG.normal(size=(2, 9, 6)).astype("f4"))
    assert names(found) == ["activation-missing", "softmax-axis"]


class Picking(nn.Module):
    """Boxes of four numbers, which are read in some order."""

    def __init__(self, order: list[int] | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.boxes, self.order = nn.Linear(5, 4), order

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.boxes(x))
        x = x if self.order is None else x[..., self.order]
        return x[..., :2] * 3, torch.exp(x[..., 2:])


def test_values_picked_in_another_order_are_no_block(tmp_path: Path) -> None:
    values = np.random.default_rng(6).standard_normal((3, 7, 5)).astype("f4")
    found = told(tmp_path / "trace.zarr", Picking().eval(), Picking([1, 0, 3, 2]), values)
    assert set(names(found)) == {"channel-order"}, str(found)


class Sphere(layers.Layer):  # type: ignore[misc]
    """Cosines to some centres, times a scale: all that :class:`Steps` writes out, in one layer."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(5, 8), name="weight")

    def call(self, x: Any) -> Any:
        return 16.0 * ops.matmul(ops.normalize(x, axis=-1), ops.transpose(ops.normalize(self.weight, axis=-1)))


def test_what_two_outputs_are_does_not_rest_on_a_pair_in_doubt(tmp_path: Path) -> None:
    """The layer is paired with the product, and its result with the scaled one: no factor is missing between them."""
    keras.backend.clear_session()
    x = layers.Input((6,))
    port = keras.Model(x, Sphere(name="centres")(layers.Dense(8, name="one")(x)))
    kernel = np.asarray(port.get_layer("one").kernel)
    model = Steps(
        lambda m, x: 16.0 * F.linear(F.normalize(m.one(x)), F.normalize(m.centres.weight)),
        one=nn.Linear(6, 8), centres=nn.Linear(8, 5, bias=False),
    )  # fmt: skip
    model.one.weight.data = torch.tensor(kernel.T.copy())
    model.one.bias.data = torch.linspace(0.5, 1.5, 8)
    model.centres.weight.data = torch.tensor(np.asarray(port.get_layer("centres").weight))
    values, place = RNG.normal(size=(4, 6)).astype("f4"), tmp_path / "t.zarr"
    sides = (tracer.record(model.eval(), values, trace=place, name="a"), tracer.record(port, trace=place, name="b"))
    found = explain(tracer.diff(*sides))
    assert "scale" not in names(found), str(found)
    assert found.parting
