"""What is said of a port when its layers are run again on the reference's activations, story by story."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.zoo import PAIRS
from tests.zoo.weights import as_torch
from tracer.causes.explain import explain
from tracer.compare import Diff, Tolerance, Verdict
from tracer.compare.pair import PairDiff

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8)).astype("f4")
WORDS = RNG.normal(size=(3, 5, 8)).astype("f4")
IMAGES = RNG.normal(size=(3, 10, 9, 4)).astype("f4")


def again(path: Path, reference: Any, candidate: Any, inputs: Any, **options: Any) -> Diff:
    """The comparison of two live models, run again."""
    a = tracer.record(reference, inputs, trace=path, name="a", **options)
    b = tracer.record(candidate, trace=path, name="b", **options)
    return tracer.diff(a, b, models=(reference, candidate))


def plain_and_again(path: Path, reference: Any, candidate: Any, inputs: Any) -> tuple[Diff, Diff]:
    """The comparison of what was recorded, and then with the models run again."""
    a = tracer.record(reference, inputs, trace=path, name="a")
    b = tracer.record(candidate, trace=path, name="b")
    return tracer.diff(a, b), tracer.diff(a, b, models=(reference, candidate))


def diverged(diff: Diff) -> set[str]:
    return {pair.aligned for pair in diff.pairs if pair.verdict is Verdict.DIVERGED}


def named(diff: Diff, name: str) -> PairDiff:
    return next(pair for pair in diff.pairs if pair.aligned == name)


def measured(diff: Diff) -> bool:
    return all(pair.local is not None and pair.local.known for pair in diff.pairs)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make().eval()


def carried(model: Any, module: nn.Module, twins: dict[str, str]) -> nn.Module:
    """Keras weights in a PyTorch module, by names of layers."""
    for ours, theirs in twins.items():
        arrays = {key: torch.from_numpy(np.array(value)) for key, value in as_torch(model.get_layer(ours)).items()}
        module.get_submodule(theirs).load_state_dict(arrays, strict=False)
    return module.eval()


# --- rounding -------------------------------------------------------------------------------------------------


def test_large_activations_of_an_exact_port_are_rounding(trace_path: Path) -> None:
    pair = PAIRS["ecg_pathology_lbbb"]
    diff = again(trace_path, pair.keras(), pair.torch(), pair.inputs())
    assert diff.verdict is Verdict.NOISE
    assert measured(diff)
    elu = named(diff, "activation_3")
    assert elu.stats is not None
    assert elu.stats.max_abs > 3e-5
    assert elu.verdict is Verdict.NOISE
    assert "on the same inputs" in elu.reason
    assert "each in its own precision, which settles it" in elu.reason
    assert "float32 floor" in elu.reason
    assert "its inputs differ by" in elu.reason
    conv = named(diff, "conv1d_3")
    assert conv.local is not None
    assert conv.local.ratio <= 0.75
    assert 0 < conv.local.relative(conv.local.floor) < 1e-5
    assert named(diff, "activation_7").verdict is Verdict.MATCH


def test_no_verdict_on_an_exact_port_rests_on_the_tolerance(trace_path: Path) -> None:
    pair = PAIRS["ecg_generic"]
    diff = again(trace_path, pair.keras(), pair.torch(), 1e3 * pair.inputs()).at(Tolerance(0.0, 0.0))
    assert measured(diff)
    assert not diverged(diff)


def test_a_model_in_bfloat16_has_the_floor_of_bfloat16(trace_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8), nn.Softmax(-1))

    reference, candidate, wrong = seeded(make), seeded(make).bfloat16(), seeded(make).bfloat16()
    diff = again(trace_path, reference, candidate, X)
    assert measured(diff)
    assert not diverged(diff)
    assert named(diff, "3").verdict is Verdict.NOISE
    assert "bfloat16 floor" in named(diff, "3").reason
    wrong[1].eps = 0.1
    assert diverged(again(trace_path.with_name("wrong.zarr"), reference, wrong, X)) == {"1"}


def test_a_layer_that_computes_in_less_than_its_type_says_is_wrong(trace_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Softmax(-1))

    candidate = seeded(make)
    layer = candidate[2]

    @functools.wraps(layer.forward)  # still nn.Linear's own as far as anyone can see
    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()).to(x.dtype)

    layer.forward = forward
    diff = again(trace_path, seeded(make), candidate, X)
    assert diverged(diff) == {"2"}
    assert "the candidate computes in less precision than float32" in named(diff, "2").reason
    changed = seeded(make)
    changed[1] = nn.Hardtanh()  # not what was recorded, so that it cannot be run in float64
    alone = tracer.diff(diff.reference, diff.candidate, models=(changed, candidate))
    assert any("not the one that was recorded" in note for note in alone.notes)
    assert diverged(alone) == {"2"}
    assert "the candidate computes in less precision than float32" in named(alone, "2").reason


def test_cancellation_is_no_lack_of_precision(trace_path: Path) -> None:
    def folded(norm: nn.BatchNorm1d) -> Callable[[torch.Tensor], torch.Tensor]:
        @functools.wraps(norm.forward)
        def forward(x: torch.Tensor) -> torch.Tensor:
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            return (x - norm.running_mean) * factor + norm.bias

        return forward

    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))
        nn.init.constant_(model[0].bias, 1e5)
        model[1].running_mean.fill_(1e5)
        return model

    reference, candidate = seeded(make), seeded(make)
    candidate[1].forward = folded(candidate[1])
    diff = again(trace_path, reference, candidate, X)
    assert not diverged(diff)
    local = named(diff, "1").local
    assert local is not None
    assert local.sensitivity is not None
    assert "cancellation" in named(diff, "1").reason


def test_float64_cannot_tell_the_rounding_of_what_is_float64(trace_path: Path) -> None:
    """Its error on the same inputs is rounding itself, which cancellation makes large."""

    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)).double()
        nn.init.constant_(model[0].bias, 1e5)
        model[1].running_mean.fill_(1e5)
        return model

    def folded(model: nn.Module) -> nn.Module:
        norm = model[1]

        @functools.wraps(norm.forward)
        def forward(x: torch.Tensor) -> torch.Tensor:
            return (x - norm.running_mean) * (norm.weight / (norm.running_var + norm.eps).sqrt()) + norm.bias

        norm.forward = forward
        return model

    diff = again(trace_path, seeded(make), folded(seeded(make)), X.astype("f8"))
    local = named(diff, "1").local
    assert local is not None
    assert local.error > 100 * local.epsilon * local.scale
    assert diff.verdict is Verdict.MATCH
    wrong = folded(seeded(make))
    wrong[1].eps = 1.001e-5
    assert diverged(again(trace_path.with_name("wrong.zarr"), seeded(make), wrong, X.astype("f8"))) == {"1"}


def test_what_is_nan_on_one_side_only_is_no_rounding(trace_path: Path) -> None:
    """TensorFlow's maximum passes NaN over and gives the lowest number, PyTorch's gives NaN."""
    model = keras.Sequential(
        [keras.Input((6, 8)), keras.layers.MaxPooling1D(2), keras.layers.Conv1D(3, 1, name="conv")]
    )

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool1d(2), nn.Conv1d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.pool(x.transpose(1, 2)))

    words = np.concatenate([WORDS, WORDS[:, :1]], 1)
    words[0, 2:4] = np.nan
    for diff in plain_and_again(trace_path, model, carried(model, Pooled(), {"conv": "conv"}), words):
        assert [pair.node.kind for pair in diff.pairs if pair.verdict is Verdict.DIVERGED] == ["max_pool1d"]


# --- small defects --------------------------------------------------------------------------------------------


def normalised(epsilon: float) -> Any:
    x = inputs = keras.layers.Input((10, 9, 4), name="image")
    x = keras.layers.Conv2D(6, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(epsilon=epsilon, name="norm")(x)
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


class Normalised(nn.Module):
    def __init__(self, epsilon: float = 1e-3, **conv: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3, **conv), nn.BatchNorm2d(6, eps=epsilon)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


TWINS = {"conv": "conv", "norm": "norm", "head": "head"}


def test_an_epsilon_diverges_although_the_outputs_are_within_the_tolerance(trace_path: Path) -> None:
    model = normalised(1e-3)
    large = [value * 100 if "variance" in weight.path else value
             for weight, value in zip(model.weights, model.get_weights(), strict=True)]  # fmt: skip
    model.set_weights(large)  # a variance of 100 hides 1e-3
    assert not diverged(again(trace_path, model, carried(model, Normalised(1e-3), TWINS), IMAGES))
    diff = again(trace_path.with_name("b.zarr"), model, carried(model, Normalised(1e-5), TWINS), IMAGES)
    assert diverged(diff) == {"norm"}
    head = named(diff, "head")
    assert head.verdict is Verdict.MATCH
    assert named(diff, "norm").stats is not None
    assert 1 - named(diff, "norm").stats.cosine < 1e-5  # type: ignore[union-attr]


def test_the_approximation_of_gelu_diverges(trace_path: Path) -> None:
    def make(approximate: str) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate), nn.Linear(16, 4))

    diff = again(trace_path, seeded(make("none")), seeded(make("tanh")), X / 30)
    assert diff.pairs[-1].verdict is Verdict.MATCH
    assert diverged(diff) == {"1"}
    assert named(diff, "1").stats.passes(1e-5, 1e-5)  # type: ignore[union-attr]
    known = trace_path.with_name("map.yaml")
    known.write_text("tolerances:\n  - {match: '1', atol: 1e-3, reason: accepted in review}\n")
    accepted = tracer.diff(diff.reference, diff.candidate, map=known)  # by what was measured
    assert not diverged(accepted)
    assert "let pass: tolerance of '1': accepted in review: 1" in str(accepted)


# --- several at once, shapes, orders --------------------------------------------------------------------------


class Tower(nn.Module):
    """Residual blocks between a stem and a head."""

    def __init__(self, *, eps: float = 1e-5, act: Any = F.gelu, bias: bool = True, skip: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 12)
        self.norms = nn.ModuleList(nn.LayerNorm(12, eps=eps if i == 0 else 1e-5) for i in range(4))
        self.dense = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))
        self.head = nn.Linear(12, 3)
        self.act, self.skip = act, skip
        if not bias:
            nn.init.zeros_(self.dense[3].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i, (norm, dense) in enumerate(zip(self.norms, self.dense, strict=True)):
            y = dense(norm(x))
            y = self.act(y) if i == 2 else F.gelu(y)
            x = x + y if self.skip or i != 1 else y
        return self.head(x)


def test_three_defects_at_once_are_all_found(trace_path: Path) -> None:
    diff = again(trace_path, seeded(Tower), seeded(lambda: Tower(eps=1e-3, act=F.silu, bias=False)), X)
    assert diverged(diff) == {"norms.0", "gelu_2", "dense.3"}
    assert named(diff, "head").verdict is Verdict.INHERITED
    assert measured(diff)


def test_a_missing_join_is_found_where_it_joins(trace_path: Path) -> None:
    diff = again(trace_path, seeded(Tower), seeded(lambda: Tower(skip=False)), X)
    found = diverged(diff)
    assert found
    assert all("add" in " ".join(named(diff, name).between[0]) or "add" in name for name in found)
    assert len(found) <= 2  # what the missing node fed: the next layer and the next join
    assert named(diff, "head").verdict is Verdict.INHERITED


def test_behind_a_change_of_shape_everything_is_fed_the_right_one(trace_path: Path) -> None:
    reference, candidate = seeded(lambda: Normalised(padding=1)), seeded(lambda: Normalised(padding=0))
    diff = again(trace_path, reference, candidate, np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))
    assert diverged(diff) == {"conv"}
    assert "the shape 3×6×8×7" in named(diff, "conv").reason
    below = [pair for pair in diff.pairs if pair.aligned not in ("x", "conv")]
    assert len(below) == 4
    assert all(pair.local is not None and pair.local.ratio < 0.1 for pair in below)
    assert {pair.verdict for pair in below} == {Verdict.INHERITED}


def flattened() -> Any:
    x = inputs = keras.layers.Input((10, 9, 4), name="image")
    x = keras.layers.Conv2D(6, 3, name="conv")(x)
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(inputs, keras.layers.Dense(5, name="head")(x))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 6, 3), nn.Linear(8 * 7 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.conv(x), 1))


def test_a_kernel_that_does_not_follow_the_order_of_its_flatten_is_blamed_and_one_that_does_is_right(
    trace_path: Path,
) -> None:
    model = flattened()
    wrong = carried(model, Flattened(), {"conv": "conv", "head": "head"})
    plain, found = plain_and_again(trace_path, model, wrong, IMAGES)
    assert diverged(plain) == {"flat"}
    assert "the same values in another order: n (h w c) → n (c h w), which head does not" in named(plain, "flat").reason
    assert [cause.id for one in explain(plain).parting for cause in one.causes] == ["flatten-order"]
    assert diverged(found) == {"head"}
    assert "reads n (h w c) → n (c h w): the rows of its kernel" in named(found, "head").reason
    assert [cause.id for one in explain(found).parting for cause in one.causes] == ["dense-row-order"]
    assert named(found, "flat").verdict is Verdict.MATCH
    assert "which head should expect" in named(found, "flat").reason
    with torch.no_grad():
        rows = wrong.head.weight.view(5, 8, 7, 6).permute(0, 3, 1, 2).reshape(5, -1).clone()
        wrong.head.weight.copy_(rows)
    right = again(trace_path.with_name("right.zarr"), model, wrong, IMAGES)
    assert not diverged(right)
    assert named(right, "flat").verdict is Verdict.MATCH
    assert "as the next layer expects" in named(right, "flat").reason
    with torch.no_grad():
        wrong.head.bias += 1
    assert diverged(again(trace_path.with_name("bias.zarr"), model, wrong, IMAGES)) == {"head"}


class Turned(nn.Module):
    """A flatten in the order of the channels, or behind a permutation; the kernel fits either way."""

    def __init__(self, last: bool = False, fits: bool = True) -> None:
        super().__init__()
        self.conv, self.head, self.last = nn.Conv2d(4, 6, 3), nn.Linear(8 * 7 * 6, 5), last
        if last and fits:
            rows = self.head.weight.detach().view(5, 6, 8, 7).permute(0, 2, 3, 1).reshape(5, -1)
            self.head.weight = nn.Parameter(rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head(torch.tanh(torch.flatten(x.permute(0, 2, 3, 1) if self.last else x, 1)))


def test_a_layer_behind_an_order_that_fits_is_wrong_by_itself(trace_path: Path) -> None:
    images = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    reference, wrong = seeded(Turned), seeded(lambda: Turned(last=True))
    with torch.no_grad():
        wrong.head.bias += 1
    assert diverged(again(trace_path, reference, wrong, images)) == {"head"}
    unfit = seeded(lambda: Turned(last=True, fits=False))
    assert diverged(again(trace_path.with_name("unfit.zarr"), reference, unfit, images)) == {"flatten"}


# --- kinds of layers ------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM with a state that is given, whose last state feeds a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 6)
        self.lstm, self.gru = nn.LSTM(8, 6, batch_first=True), nn.GRU(6, 7, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.start(x[:, 0]))[None]
        y, (h, c) = self.lstm(x, (h, torch.zeros_like(h)))
        y, _ = self.gru(y + c[-1][:, None])
        return self.head(y[:, -1])


def test_recurrent_layers_with_states(trace_path: Path) -> None:
    reference, candidate = seeded(Recurrent), seeded(Recurrent)
    assert not diverged(again(trace_path, reference, candidate, WORDS).at(Tolerance(0.0, 0.0)))
    with torch.no_grad():  # the GRU's reset and update gates the other way round, and a bias of the LSTM
        for value in candidate.gru.parameters():
            value.copy_(value.unflatten(0, (3, 7))[[1, 0, 2]].flatten(0, 1))
        candidate.lstm.bias_hh_l0.add_(1e-3)
    diff = again(trace_path.with_name("b.zarr"), reference, candidate, WORDS)
    found = diverged(diff)
    first = {pair.pair.reference[0].partition("[")[0] for pair in diff.pairs if pair.aligned in found}
    assert first == {"lstm", "gru"}  # the GRU perhaps as one with the step that is taken of it
    assert measured(diff)


def test_keras_recurrent_layers_against_pytorchs(trace_path: Path) -> None:
    inputs = keras.layers.Input((5, 8), name="x")
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(keras.layers.LSTM(6, name="lstm")(inputs)))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    port = carried(model, Port(), {"head": "head"})
    kernel, recurrent, bias = (torch.from_numpy(np.array(v)) for v in model.get_layer("lstm").get_weights())
    port.lstm.load_state_dict({"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias,
                               "bias_hh_l0": torch.zeros_like(bias)})  # fmt: skip
    diff = again(trace_path, model, port, WORDS).at(Tolerance(0.0, 0.0))
    assert not diverged(diff)
    assert any("lstm" in pair.aligned and pair.local is not None and pair.local.known for pair in diff.pairs)
    with torch.no_grad():
        port.lstm.bias_hh_l0[6:12] += 1.0  # Keras's unit_forget_bias, twice
    wrong = again(trace_path.with_name("b.zarr"), model, port, WORDS)
    assert diverged(wrong)
    assert all("lstm" in name for name in diverged(wrong))


class Attending(nn.Module):
    """Attention with a causal mask, written out; ``scale`` and ``masked`` make defects."""

    def __init__(self, scale: float = 2.0, hidden: float = -1e9, causal: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 8)
        self.scale, self.hidden, self.causal = scale, hidden, causal

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / self.scale
        if self.causal:
            scores = scores + (1 - mask)[:, None, None] * self.hidden
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


def test_attention_with_a_mask(trace_path: Path) -> None:
    mask = np.ones((3, 5), "f4")
    mask[1, 3:] = mask[2, 2:] = 0
    fed = {"x": WORDS, "mask": mask}
    # A mask of another size hides the same, although the scores are apart by 1e9.
    same = again(trace_path, seeded(Attending), seeded(lambda: Attending(hidden=-1e4)), fed)
    assert not diverged(same)
    scaled = again(trace_path.with_name("b.zarr"), seeded(Attending), seeded(lambda: Attending(scale=2.1)), fed)
    assert len(diverged(scaled)) == 1
    assert "div" in next(iter(diverged(scaled)))
    blind = again(trace_path.with_name("c.zarr"), seeded(Attending), seeded(lambda: Attending(causal=False)), fed)
    assert len(diverged(blind)) == 1
    assert next(iter(diverged(blind))) in {"add", "softmax"}


class Causal(nn.Module):
    """Scores of which those of later words are hidden, by a buffer or not."""

    def __init__(self, hidden: float | None) -> None:
        super().__init__()
        self.dense, self.hidden = nn.Linear(8, 5), hidden
        if hidden is None:
            self.register_buffer("seen", torch.ones(5, 5).tril().bool())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.tanh(self.dense(x))
        if self.hidden is None:  # the smallest number of the type, which in float64 is another one
            scores = torch.where(self.seen, scores, torch.finfo(scores.dtype).min)
        else:
            scores = torch.where(torch.ones(5, 5).tril().bool(), scores, self.hidden)
        return torch.softmax(scores, -1)


def test_what_is_masked_is_no_value_though_the_mask_is_a_buffer(trace_path: Path) -> None:
    diff = again(trace_path, seeded(lambda: Causal(-1e9)), seeded(lambda: Causal(None)), WORDS)
    assert measured(diff)
    assert not diverged(diff)
    hidden = next(pair for pair in diff.pairs if "where" in pair.aligned).local
    assert hidden is not None
    assert hidden.ratio <= 1
    assert hidden.error < 1e-6


def test_an_output_without_its_last_activation_diverges_behind_another_defect(trace_path: Path) -> None:
    def make(*last: nn.Module, eps: float = 1e-5) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6, eps=eps), nn.Linear(6, 4), *last)

    reference, candidate = seeded(make(nn.Softmax(-1))), seeded(make(nn.Identity(), eps=0.1))
    diff = again(trace_path, reference, candidate, X)
    assert measured(diff)
    assert "1" in diverged(diff)
    assert diverged(diff) - {"1"} <= {"2", "3"}
    assert len(diverged(diff)) == 2


class Joined(nn.Module):
    def __init__(self, order: int = 1) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 3)
        self.order = order

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        both = torch.cat([torch.tanh(self.left(a)), torch.sigmoid(self.right(b))][:: self.order], -1)
        return {"scores": self.head(both), "features": both}


def test_several_inputs_and_outputs(trace_path: Path) -> None:
    fed = {"a": X, "b": X[::-1].copy() + 1}
    assert not diverged(again(trace_path, seeded(Joined), seeded(Joined), fed).at(Tolerance(0.0, 0.0)))
    diff = again(trace_path.with_name("b.zarr"), seeded(Joined), seeded(lambda: Joined(order=-1)), fed)
    assert len({pair.candidate_node.alias_of or pair.candidate_node.name for pair in diff.pairs
                if pair.verdict is Verdict.DIVERGED}) == 1  # fmt: skip
    assert "cat" in next(iter(diverged(diff)))
    assert named(diff, "head").verdict is Verdict.INHERITED


# --- training mode --------------------------------------------------------------------------------------------


def test_dropout_that_draws_says_why_it_is_not_judged(trace_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))

    diff = again(trace_path, seeded(make), seeded(make), X, mode="train")
    drawn = named(diff, "1")
    assert drawn.local is not None
    assert "random" in drawn.local.why
    head = named(diff, "2")
    assert head.local is not None
    assert head.local.ratio < 0.1
    assert head.verdict is not Verdict.DIVERGED


def test_batch_normalisation_in_training_mode(trace_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

    reference, candidate = seeded(make), seeded(make)
    before = {key: value.clone() for key, value in candidate.state_dict().items()}
    assert not diverged(again(trace_path, reference, candidate, X, mode="train").at(Tolerance(0.0, 0.0)))
    assert all(torch.equal(value, before[key]) for key, value in candidate.state_dict().items())
    candidate[1].eps = 1e-3
    assert diverged(again(trace_path.with_name("b.zarr"), reference, candidate, X, mode="train")) == {"1"}


# --- masks ----------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Attention that looks back: what lies ahead is filled in, or multiplied away and then taken down."""

    def __init__(self, ahead: int = 0, fill: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.ahead, self.fill = ahead, fill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        seen = torch.tril(torch.ones(x.shape[1], x.shape[1]), self.ahead)
        if self.fill:
            scores = torch.where(seen.bool(), scores, torch.tensor(-1e9))
        else:
            scores = scores * seen
            scores = scores - 1e4 * (1 - seen)
        return self.head(torch.softmax(scores, -1) @ self.value(x))


def test_two_ways_to_mask_are_no_difference_and_another_mask_is_one(trace_path: Path) -> None:
    multiplied, filled = seeded(lambda: Masked(fill=False)), seeded(Masked)
    for found in plain_and_again(trace_path, multiplied, filled, WORDS):
        assert {pair.verdict for pair in found.pairs} == {Verdict.MATCH}
        assert "computed from what lies above it, softmax is the same on both sides" in named(found, "mul").reason
    shifted = seeded(lambda: Masked(ahead=1))
    for name, reference, at in (("filled", filled, "where"), ("multiplied", multiplied, "mul")):
        for found in plain_and_again(trace_path.with_name(f"{name}.zarr"), reference, shifted, WORDS):
            assert found.first is not None
            assert found.first.aligned == at
            assert named(found, "head").verdict is Verdict.INHERITED
