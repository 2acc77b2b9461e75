"""Mistakes in parts of layers and at several places at once, each in a small network: named by what a porter did."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes.explain import Explained, explain
from tracer.store import Trace

WIDTH, HEADS, STEPS = 8, 2, 5
RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(3, STEPS, WIDTH)).astype("f4")
IMAGES = RNG.normal(size=(2, 3, 8, 8)).astype("f4")


class Step(nn.Module):
    """A network in one function of itself, its layers and its input."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def explained(place: Path, reference: nn.Module, candidate: nn.Module, values: Any, *, load: bool = True) -> Explained:
    """``load``: the candidate has the reference's weights."""
    if load:
        candidate.load_state_dict(reference.state_dict())
    tracer.record(reference.eval(), values, trace=place, name="reference")
    tracer.record(candidate.eval(), trace=place, name="candidate")
    trace = Trace.open(place)
    return explain(tracer.diff(trace.recording("reference"), trace.recording("candidate")), seconds=20)


def named(told: Explained) -> list[str]:
    """The ids of all causes, each of which must be proven."""
    assert all(one.status == "proven" for one in told.parting), str(told)
    return sorted(name for one in told.parting for name in one.names)


# --- weights of several in one ---------------------------------------------------------------------------------------


def attending() -> Step:
    return Step(lambda m, x: m.out(m.mix(x, x, x, need_weights=False)[0]),
                mix=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), out=nn.Linear(WIDTH, 2))  # fmt: skip


def of_projections(change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> tuple[Step, Step]:
    right, wrong = attending(), attending()
    nn.init.normal_(right.mix.in_proj_bias)
    wrong.load_state_dict(right.state_dict())
    for weight in (wrong.mix.in_proj_weight, wrong.mix.in_proj_bias):
        weight.data = torch.cat(change(list(weight.data.chunk(3))))
    return right, wrong


def test_projections_that_stand_by_head_are_told(tmp_path: Path) -> None:
    def by_head(parts: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.stack([part.unflatten(0, (HEADS, -1)) for part in parts], 1).flatten(0, 2)]

    told = explained(tmp_path / "t.zarr", *of_projections(by_head), ROWS, load=False)
    assert named(told) == ["qkv-order"]
    assert "beside one another" in told.parting[0].causes[0].what


def test_a_scale_and_an_exchange_of_projections_are_two_causes(tmp_path: Path) -> None:
    told = explained(tmp_path / "t.zarr", *of_projections(lambda p: [p[2], p[1] * 2, p[0]]), ROWS, load=False)
    assert named(told) == ["attention-scale", "qkv-order"]


def recurrent(kind: Callable[..., nn.Module]) -> Step:
    """Two layers of one shape, and the last step."""
    layers = {name: kind(WIDTH, WIDTH, batch_first=True) for name in ("first", "second")}
    return Step(lambda m, x: m.head(m.second(m.first(x)[0])[0][:, -1]), **layers, head=nn.Linear(WIDTH, 3))


def swapped(model: Any) -> None:
    kept = {name: value.clone() for name, value in model.first.state_dict().items()}
    model.first.load_state_dict(model.second.state_dict())
    model.second.load_state_dict(kept)


def forgetting(model: Any) -> None:
    model.first.bias_ih_l0.data[WIDTH : 2 * WIDTH] += 1


def merged(model: Any) -> None:
    """Gates in another order, and both biases as one, which is right for an LSTM."""
    layer = model.first
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        weight = getattr(layer, name).data
        weight.copy_(weight.unflatten(0, (3, -1))[[1, 0, 2]].flatten(0, 1).clone())
    layer.bias_ih_l0.data += layer.bias_hh_l0.data
    layer.bias_hh_l0.data.zero_()


def by_samples(model: Any) -> None:
    model.second.batch_first = False


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        (nn.LSTM, swapped, ["weights-swapped", "weights-swapped"]),
        (nn.LSTM, forgetting, ["rnn-bias"]),
        (nn.GRU, merged, ["gru-gate-order", "rnn-bias"]),
        (nn.LSTM, by_samples, ["axis-permutation"]),
    ],
)
def test_what_is_wrong_in_the_weights_of_gates_is_told(
    tmp_path: Path, kind: Any, change: Callable[[Any], None], expected: list[str]
) -> None:
    right, wrong = recurrent(kind), recurrent(kind)
    wrong.load_state_dict(right.state_dict())
    change(wrong)
    told = explained(tmp_path / "t.zarr", right, wrong, ROWS, load=False)
    assert named(told) == expected
    if change is by_samples:
        assert told.parting[0].fixes == ("model.second.batch_first = True",)


def test_gains_that_one_side_keeps_around_zero_are_no_weights_of_another(tmp_path: Path) -> None:
    right, wrong = (Step(lambda m, x: m.head(m.norm(x)), norm=nn.LayerNorm(WIDTH), head=nn.Linear(WIDTH, 3))
                    for _ in range(2))  # fmt: skip
    nn.init.normal_(right.norm.weight)
    wrong.load_state_dict(right.state_dict())
    wrong.norm.weight.data += 1
    told = explained(tmp_path / "t.zarr", right, wrong, ROWS, load=False)
    assert named(told) == ["weights-perturbed"]
    assert "1 more everywhere" in told.parting[0].causes[0].what


# --- sums, norms, scores ---------------------------------------------------------------------------------------------


def blocks(*, before: bool) -> Step:
    """The sum normalised, or the branch alone."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(m.stem(x))
        y = m.branch(x)
        return m.head(F.relu(x + m.norm(y) if before else m.norm(x + y)))

    layers = {name: nn.Linear(WIDTH, WIDTH) for name in ("stem", "branch", "head")}
    return Step(run, norm=nn.LayerNorm(WIDTH), **layers)


@pytest.mark.parametrize("before", [False, True])
def test_a_norm_that_moved_before_or_behind_the_sum_is_one_cause(tmp_path: Path, before: bool) -> None:
    told = explained(tmp_path / "t.zarr", blocks(before=not before), blocks(before=before), ROWS)
    assert named(told) == ["residual-order"]
    assert len(told.parting) == 1


def scored(**options: Any) -> Step:
    """Attention that is written out, with as many steps as a causal mask has places on each side."""
    later = torch.triu(torch.ones(STEPS, STEPS), 1)
    earlier = later.T.contiguous()

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (m.query, m.key, m.value))
        if "sdpa" in options:
            y = F.scaled_dot_product_attention(q, k, v, **options["sdpa"])
        else:
            scores = q @ k.transpose(-1, -2)
            scale = (WIDTH / HEADS) ** -0.5
            scores = scores if options.get("late") else scores * scale
            if options.get("causal", True):
                hidden = earlier if options.get("turned") == "as it is made" else later
                scores = scores + (hidden.T if options.get("turned") == "as it is used" else hidden) * -1e9
            weights = torch.softmax(scores, -1)
            y = (weights * scale if options.get("late") else weights) @ v
        return m.out(y.transpose(1, 2).flatten(2))

    return Step(run, **{name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value", "out")})


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ({}, {"turned": "as it is made"}, ["attention-mask"]),
        ({}, {"turned": "as it is used"}, ["attention-mask"]),
        ({}, {"late": True}, ["attention-scale"]),
        ({"causal": False}, {"sdpa": {"is_causal": True}}, ["attention-mask"]),
        ({}, {"sdpa": {"scale": 1.0}}, ["attention-mask", "attention-scale"]),
        ({}, {"sdpa": {"is_causal": True}}, []),
    ],
)
def test_scores_are_compared_however_they_are_written(
    tmp_path: Path, right: dict[str, Any], wrong: dict[str, Any], expected: list[str]
) -> None:
    told = explained(tmp_path / "t.zarr", scored(**right), scored(**wrong), ROWS)
    assert named(told) == expected, str(told)
    if wrong == {"sdpa": {"is_causal": True}} and expected:
        assert told.parting[0].fixes[0].endswith("scaled_dot_product_attention(…) with is_causal=False")


def test_the_halves_of_a_gate_exchanged_are_an_order_of_channels(tmp_path: Path) -> None:
    def gated(place: int) -> Step:
        def run(m: Any, x: torch.Tensor) -> torch.Tensor:
            halves = m.wide(x).chunk(2, -1)
            return m.head(halves[1 - place] * torch.sigmoid(halves[place]))

        return Step(run, wide=nn.Linear(WIDTH, 2 * WIDTH), head=nn.Linear(WIDTH, 3))

    told = explained(tmp_path / "t.zarr", gated(1), gated(0), ROWS)
    assert set(named(told)) == {"channel-order"}


# --- images ----------------------------------------------------------------------------------------------------------


def seeing(**options: Any) -> Step:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        if options.get("standardised"):
            x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        x = m.conv(x)
        norm = m.norm
        x = F.instance_norm(x, None, None, norm.weight, norm.bias) if options.get("each") else norm(x)
        x = x.repeat(1, 1, 2, 2) if options.get("tiled") else F.interpolate(x, scale_factor=2)
        return m.head(F.avg_pool2d(x, 3, 2, 1, False, options.get("counted", True)))

    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.running_mean)
    return Step(run, conv=nn.Conv2d(3, 4, 3), norm=norm, head=nn.Conv2d(4, 3, 1))


@pytest.mark.parametrize(
    ("option", "expected"),
    [("standardised", "input-normalisation"), ("each", "norm-axis"), ("tiled", "resize-mode")],
)
def test_what_is_done_to_images_is_told(tmp_path: Path, option: str, expected: str) -> None:
    assert named(explained(tmp_path / "t.zarr", seeing(), seeing(**{option: True}), IMAGES)) == [expected]


def patched(told: Explained, candidate: nn.Module, folder: Path) -> nn.Module:
    from tracer.causes.patching import patch

    file = folder / "fix.py"
    file.write_text(patch(told.each, trace=str(folder / "t.zarr"), reference="reference", candidate="candidate"))
    spec = importlib.util.spec_from_file_location("fix", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.apply(candidate)
    return candidate


def test_arguments_that_are_given_by_their_place_are_patched(tmp_path: Path) -> None:
    right, wrong = seeing(), seeing(counted=False)
    told = explained(tmp_path / "t.zarr", right, wrong, IMAGES)
    assert named(told) == ["pool-count-include-pad"]
    given = torch.from_numpy(IMAGES)
    assert torch.allclose(patched(told, wrong, tmp_path)(given), right(given), atol=1e-6)


def test_a_softmax_that_is_missing_is_put_behind(tmp_path: Path) -> None:
    def ending(end: Callable[..., Any]) -> Step:
        layers = {"inner": nn.Linear(WIDTH, WIDTH), "head": nn.Linear(WIDTH, 3)}
        return Step(lambda m, x: end(m.head(torch.tanh(m.inner(x)))), **layers)

    right, wrong = ending(lambda x: torch.softmax(x, 1)), ending(lambda x: x)
    told = explained(tmp_path / "t.zarr", right, wrong, ROWS)
    assert named(told) == ["logits"]
    given = torch.from_numpy(ROWS)
    assert torch.allclose(patched(told, wrong, tmp_path)(given), right(given), atol=1e-6)


def residual(first: int, *, bias: bool) -> Step:
    """Three blocks, of which the second makes its map smaller by its first convolution or by its second."""
    layers: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 4, 3, padding=1, bias=False), "begin": nn.BatchNorm2d(4)}
    for name in "abc":
        one, two = (first, 2 // first) if name == "b" else (1, 1)
        layers |= {
            f"{name}1": nn.Conv2d(4, 4, 1, stride=one, bias=bias), f"{name}n": nn.BatchNorm2d(4),
            f"{name}2": nn.Conv2d(4, 4, 3, stride=two, padding=1, bias=bias), f"{name}m": nn.BatchNorm2d(4),
        }  # fmt: skip

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(m.begin(m.stem(x)))
        for name in "abc":
            one, norm, two, last = (getattr(m, f"{name}{part}") for part in "1n2m")
            y = last(two(F.relu(norm(one(x)))))
            x = F.relu(y if name == "b" else x + y)
        return m.head(x.mean((2, 3)))

    return Step(run, **layers, head=nn.Linear(4, 3))


def test_biases_that_a_norm_holds_are_not_named_beside_the_strides(tmp_path: Path) -> None:
    """As a transfer leaves residual blocks of the first kind in those of the second."""
    right, wrong = residual(2, bias=True), residual(1, bias=False)
    for layer in right.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.normal_(layer.bias)
    state = right.state_dict()
    wrong.load_state_dict({k: v for k, v in state.items() if not (k[1] in "12" and k.endswith(".bias"))})
    for name in "abc":
        for conv, norm in (("1", "n"), ("2", "m")):
            getattr(wrong, f"{name}{norm}").running_mean -= state[f"{name}{conv}.bias"]
    told = explained(tmp_path / "t.zarr", right, wrong, IMAGES.repeat(2, 2).repeat(2, 3), load=False)
    assert set(named(told)) == {"stride-position"}, str(told)


def test_kernels_that_are_standardised_as_they_are_used_are_told(tmp_path: Path) -> None:
    def network(*, standard: bool) -> Step:
        def run(m: Any, x: torch.Tensor) -> torch.Tensor:
            weight = m.conv.weight
            if standard:
                var, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, correction=0)
                weight = (weight - mean) / torch.sqrt(var + 1e-5)
            return m.head(F.relu(F.conv2d(x, weight, m.conv.bias)))

        return Step(run, conv=nn.Conv2d(3, 4, 3), head=nn.Conv2d(4, 3, 1))

    told = explained(tmp_path / "t.zarr", network(standard=False), network(standard=True), IMAGES)
    assert named(told) == ["weights-perturbed"], str(told)
    assert "standardised" in told.parting[0].causes[0].what


def test_a_state_that_one_side_begins_with_is_told(tmp_path: Path) -> None:
    def network(*, given: bool) -> Step:
        def run(m: Any, x: torch.Tensor) -> torch.Tensor:
            state = torch.tanh(m.first(x[:, 0]))[None] if given else None
            y, _ = m.rnn(x, state)
            return m.head(y) + m.first(x)

        layers = {"rnn": nn.GRU(WIDTH, 6, batch_first=True), "head": nn.Linear(6, 6), "first": nn.Linear(WIDTH, 6)}
        return Step(run, **layers)

    told = explained(tmp_path / "t.zarr", network(given=False), network(given=True), ROWS)
    assert named(told) == ["wiring"], str(told)
    assert "begins in a state" in told.parting[0].causes[0].what


def test_a_mask_that_keras_is_given_by_hand_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    import keras

    def network(*, masked: bool) -> Any:
        x, steps = keras.Input((STEPS, WIDTH), name="x"), keras.Input((STEPS,), dtype="bool", name="steps")
        y = keras.layers.GRU(6, name="gru")(x, mask=steps if masked else None)
        seen = keras.ops.cast(keras.ops.any(steps, axis=1, keepdims=True), "float32")
        return keras.Model([x, steps], keras.layers.Dense(3, name="head")(y) * seen)

    right, wrong = network(masked=True), network(masked=False)
    wrong.set_weights(right.get_weights())
    steps = np.arange(STEPS) < np.array([[STEPS], [3], [2]])
    reference = tracer.record(right, {"x": ROWS, "steps": steps}, trace=tmp_path / "t.zarr", name="reference")
    candidate = tracer.record(wrong, trace=tmp_path / "t.zarr", name="candidate")
    told = explain(tracer.diff(reference, candidate), seconds=20)
    assert named(told) == ["rnn-last-step"], str(told)
