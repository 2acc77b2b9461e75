"""One function under two names, in one step or in two, and tensors that are no matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

import keras
import numpy as np
import torch
from keras import layers
from test_causes_ends import filled as weighted
from test_causes_smallest import named, said
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.alignment.mapping import Entry, Mapping
from tracer.compare.verdict import Verdict

ROWS = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
MAPS = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(4))
STEPS = np.random.default_rng(3).standard_normal((2, 5, 4)).astype("f4")


def dense() -> dict[str, nn.Module]:
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 5)}


class Nearest(nn.Module):
    def __init__(self, *, values: bool) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        apart = ((x[:, :, None] - x[:, None]) ** 2).sum(3)
        found = apart.topk(3, dim=2, largest=False)
        return torch.tanh(x[:, :, :3] + (found.values if self.values else found.indices.float()))


def nearest_said(path: Path, *, values: bool) -> Any:
    keras.backend.clear_session()
    x = layers.Input((5, 4))
    ops = keras.ops
    apart = ops.sum(ops.square(ops.expand_dims(x, 2) - ops.expand_dims(x, 1)), axis=3)
    found = ops.top_k(-apart, 3)
    read = found[0] if values else ops.cast(found[1], "float32")
    reference = keras.Model(x, ops.tanh(x[:, :, :3] + read))
    candidate = Nearest(values=values).eval()
    sides = [tracer.record(one, STEPS, trace=path, layout="same") for one in (reference, candidate)]
    same = Mapping(pairs=(Entry(reference=("top_k",), candidate=("topk",)),))
    return tracer.explain(*sides, map=same, seconds=20)


def test_values_that_nothing_reads_are_no_cause(trace_path: Path) -> None:
    found = nearest_said(trace_path, values=False)
    assert not found.parting, str(found)
    (pair,) = [pair for pair in found.diff.pairs if pair.aligned == "top_k"]
    assert (pair.verdict, pair.reason) == (Verdict.MATCH, "it differs, but nothing reads it on either side")
    assert found.diff.verdict is Verdict.MATCH


def test_values_that_are_read_are_one(trace_path: Path) -> None:
    found = nearest_said(trace_path, values=True)
    assert found.diff.first is not None
    assert found.parting


@pytest.mark.parametrize(("eps", "weighs", "name"), [(1e-5, True, "ln-eps"), (1e-3, False, "weights-not-loaded")])
def test_groups_of_one_channel_are_an_instance_norm(trace_path: Path, eps: float, weighs: bool, name: str) -> None:
    def grouped(x, conv, norm):
        return F.relu(F.group_norm(conv(x), 4, norm.weight, norm.bias, 1e-3))

    def each(x, conv, norm):
        weights = (norm.weight, norm.bias) if weighs else (None, None)
        return F.relu(F.instance_norm(conv(x), weight=weights[0], bias=weights[1], eps=eps))

    def made() -> dict[str, nn.Module]:
        return {"conv": nn.Conv2d(4, 4, 3), "norm": nn.GroupNorm(4, 4)}

    found = said(trace_path, grouped, each, MAPS * 0.1, made)
    assert name in named(found), str(found)
    assert "norm-axis" not in named(found)


class Shares(nn.Module):
    def __init__(self, reference: Any, axis: int, **wrong: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)
        self.axis, self.wrong = axis, wrong
        with torch.no_grad():
            for linear, name in ((self.first, "first"), (self.last, "last")):
                layer = reference.get_layer(name)
                linear.weight.copy_(torch.from_numpy(layer.kernel.numpy().T.copy()))
                linear.bias.copy_(torch.from_numpy(layer.bias.numpy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(self.last(torch.tanh(self.first(x))), dim=self.axis)


@pytest.mark.parametrize(("axis", "expected"), [(2, set()), (1, {"softmax-axis"})])
def test_a_softmax_that_a_layer_ends_with_and_one_behind_it(trace_path: Path, axis: int, expected: set[str]) -> None:
    x = layers.Input((5, 4))
    y = layers.Dense(6, activation="tanh", name="first")(x)
    reference = weighted(keras.Model(x, layers.Dense(5, activation="softmax", name="last")(y)))
    sides = [tracer.record(one, STEPS, trace=trace_path, layout="same") for one in (reference, Shares(reference, axis))]
    found = tracer.explain(*sides, seconds=20)
    assert named(found) == expected, str(found)


class Waves(nn.Module):
    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + self.made(torch.fft.fft2(x)))


@pytest.mark.parametrize(
    ("made", "expected"),
    [(torch.real, set()), (torch.abs, {"operation-kind"})],
)
def test_the_size_of_complex_numbers_in_place_of_their_real_part(
    trace_path: Path, made: Any, expected: set[str]
) -> None:
    x = layers.Input((5, 4))
    y = keras.ops.fft2((x, keras.ops.zeros_like(x)))[0]
    reference = keras.Model(x, keras.ops.tanh(x + y))
    sides = [tracer.record(one, STEPS, trace=trace_path, layout="same") for one in (reference, Waves(made).eval())]
    found = tracer.explain(*sides, seconds=20)
    assert named(found) == expected, str(found)


def test_the_norm_of_a_transform_is_a_factor(trace_path: Path) -> None:
    def run(x, one, two, norm="backward"):
        return two(torch.fft.fft(one(x), norm=norm).real)

    found = said(trace_path, run, lambda x, one, two: run(x, one, two, "ortho"), ROWS, dense)
    assert named(found) == {"scale"}, str(found)


def test_a_round_that_is_left_out_is_a_block(trace_path: Path) -> None:
    def rounds(count: int):
        def run(x, one, two):
            x, by = one(x), torch.tanh(two(x))
            for place in range(count):
                x = x + by[:, place : place + 1] * (x**2 - x)
            return x

        return run

    found = said(trace_path, rounds(3), rounds(2), ROWS * 0.1, dense)
    assert named(found) == {"block-missing"}, str(found)


def test_constants_of_a_product_of_tensors_are_compared(trace_path: Path) -> None:
    links = np.random.default_rng(1).random((8, 8)).astype("f4")

    def spread(values: np.ndarray):
        def run(x, one, two):
            return two(F.relu(torch.einsum("mn,bn->bm", torch.from_numpy(values.copy()), one(x))))

        return run

    found = said(trace_path, spread(links), spread(links.T), ROWS, dense)
    assert named(found) == {"axis-permutation"}, str(found)


def test_what_was_given_is_off_as_far_as_what_it_reads(trace_path: Path) -> None:
    def run(x, one, two, approximate="none"):
        x = torch.fft.rfft(F.gelu(one(x), approximate=approximate))
        weight = torch.complex(two.weight[:, :5], two.weight[:, :5])
        return torch.fft.irfft(torch.einsum("bm,om->bo", x, weight), n=8)

    found = said(trace_path, run, lambda x, one, two: run(x, one, two, "tanh"), ROWS * 0.1, dense)
    assert named(found) == {"gelu-approx"}, str(found)
    assert all(one.status == "proven" for one in found.parting), str(found)


class Spectrum(nn.Module):
    def __init__(self, *, norm: str, bent: bool) -> None:
        super().__init__()
        self.norm, self.bent = norm, bent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        waves = torch.fft.fft2(torch.complex(x[..., :4], x[..., 4:]))
        share = torch.tanh(x[..., :4]) if self.bent else torch.sigmoid(x[..., :4])
        made = torch.fft.ifft2(share * waves + (1 - share) * waves.conj(), norm=self.norm)
        return torch.cat([made.real, made.imag], -1)


@pytest.mark.parametrize(
    ("norm", "bent", "expected"),
    [("backward", False, set()), ("ortho", False, {"scale"}), ("backward", True, {"activation-kind"})],
)
def test_complex_numbers_for_two_tensors(trace_path: Path, norm: str, bent: bool, expected: set[str]) -> None:
    ops = keras.ops
    x = layers.Input((5, 8))
    waves = ops.fft2((x[..., :4], x[..., 4:]))
    share = ops.sigmoid(x[..., :4])
    y = ops.ifft2(tuple(share * part + (1 - share) * sign * part for part, sign in zip(waves, (1, -1), strict=True)))
    reference = keras.Model(x, ops.concatenate(y, -1))
    values = np.random.default_rng(3).standard_normal((2, 5, 8)).astype("f4")
    models = reference, Spectrum(norm=norm, bent=bent).eval()
    sides = [tracer.record(one, values, trace=trace_path, layout="same") for one in models]
    found = tracer.explain(*sides, seconds=20)
    assert named(found) == expected, str(found)
    types = [(pair.node.dtype, pair.candidate_node.dtype) for pair in found.diff.pairs]
    assert not any((one or "").startswith("complex") or (other or "").startswith("complex") for one, other in types)


class Lengths(layers.Layer):  # type: ignore[misc]
    """A convolution whose kernels have learnt lengths, as Keras users write it."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, shape[-1], 5))
        self.length = self.add_weight(name="length", shape=(5,))

    def call(self, x: Any) -> Any:
        kernel = self.kernel / keras.ops.sqrt(keras.ops.sum(keras.ops.square(self.kernel), axis=(0, 1, 2)))
        return keras.ops.conv(x, kernel * self.length, padding="same")


class Levelled(nn.Conv2d):
    def __init__(self, over: tuple[int, ...]) -> None:
        super().__init__(4, 5, 3, padding=1, bias=False)
        self.length, self.over = nn.Parameter(torch.ones(5)), over

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / torch.linalg.vector_norm(self.weight, dim=self.over, keepdim=True)
        return F.conv2d(x, weight * self.length[:, None, None, None], padding=1)


@pytest.mark.parametrize(
    ("over", "loaded", "expected"),
    [((1, 2, 3), True, set()), ((0, 2, 3), True, {"norm-axis"}), ((1, 2, 3), False, {"weights-not-loaded"})],
)
def test_kernels_of_a_learnt_length(trace_path: Path, over: tuple[int, ...], loaded: bool, expected: set[str]) -> None:
    x = layers.Input((6, 6, 4))
    reference = weighted(keras.Model(x, keras.ops.tanh(Lengths(name="one")(x))))
    own, one = reference.get_layer("one"), Levelled(over)
    one.weight.data = torch.tensor(np.asarray(own.kernel)).permute(3, 2, 0, 1)
    if loaded:
        one.length.data = torch.tensor(np.asarray(own.length))
    maps = MAPS.permute(0, 2, 3, 1).contiguous().numpy()
    models = reference, nn.Sequential(one, nn.Tanh()).eval()
    layouts = {}, {"layout": "NHWC->NCHW"}
    sides = [tracer.record(one, maps, trace=trace_path, **more) for one, more in zip(models, layouts, strict=True)]
    found = tracer.explain(*sides, seconds=20)
    assert named(found) == expected, str(found)
