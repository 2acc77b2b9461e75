"""Whose weights go where, for every kind of layer: weights carried over by the map make the outputs equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import torch
from torch import nn

import tracer
from benchmarks.corpus.parameters import score
from tests import parameter_models as models
from tracer.alignment import align, relayout, twins
from tracer.alignment.features import extract
from tracer.alignment.parameters import ParameterMap, ParameterPair, parameter_map
from tracer.alignment.twins import Weights
from tracer.store import Recording, Trace

Truth = Mapping[tuple[str, str], list[tuple[str, str]]]


def mapped(ours: Recording, theirs: Recording, *, values: bool = True) -> ParameterMap:
    """The parameter map of two recordings, or of their structures alone."""
    alignment = align(ours, theirs) if values else align(ours.structure, theirs.structure)
    weights = (Weights.of(ours), Weights.of(theirs)) if values else None
    same = twins.twins(*weights) if weights else None
    return parameter_map(ours.structure, theirs.structure, alignment.pairs, weights, same)


def singles(found: ParameterMap) -> dict[Any, set[Any]]:
    out: dict[Any, set[Any]] = {}
    for pair in found.pairs:
        for key in pair.reference:
            out.setdefault(key, set()).update(pair.candidate)
    return out


def carry(pairs: tuple[ParameterPair, ...], ours: Recording, theirs: Recording, module: Any) -> None:
    """Fill a PyTorch module with the reference's weights, as the map says."""
    arrays = {key: np.array(theirs.read_stored(stored)) for key, stored in theirs.weights.items()}
    for pair in pairs:
        for piece in pair.pieces:
            values = relayout.read(piece.reference_steps, [ours.read_stored(ours.weights[k]) for k in piece.reference])
            relayout.write(piece.candidate_steps, [arrays[k] for k in piece.candidate], values)
    state = {".".join(filter(None, key)): torch.from_numpy(values) for key, values in arrays.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def outputs(keras: Any, module: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        moved = np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x
        return np.asarray(keras(x, training=False)), module(torch.from_numpy(moved)).numpy()


IMAGES = np.random.default_rng(0).standard_normal((5, models.HEIGHT, models.WIDTH, 3)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 30, (5, models.WORDS)).astype(np.int32)
NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Any], np.ndarray, Truth]] = {
    "image": (models.keras_image, models.torch_image, IMAGES, models.IMAGE),
    "sequence": (models.keras_sequence, models.torch_sequence, IDS, models.sequence_truth(False)),
    "fused": (models.keras_sequence, lambda: models.torch_sequence(True), IDS, models.sequence_truth(True)),
}

SAID: dict[str, dict[tuple[str, str], tuple[str, Any]]] = {
    "image": {
        ("wide", "kernel"): ("transpose", (2, 3, 1, 0)),
        ("wide", "bias"): ("as it is", (0,)),
        ("deep", "kernel"): ("depthwise", None),
        ("separable", "depthwise_kernel"): ("depthwise", (2, 3, 0, 1)),
        ("separable", "pointwise_kernel"): ("transpose", (2, 3, 1, 0)),
        ("norm", "moving_mean"): ("statistics as they are", (0,)),
        ("prelu", "alpha"): ("reshape", (None, None, 0)),
        ("up", "kernel"): ("transpose", (2, 3, 1, 0)),
        ("fc1", "kernel"): ("transpose, row order (H,W,C)→(C,H,W)", None),
        ("fc2", "kernel"): ("transpose", (1, 0)),
    },
    "sequence": {
        ("table", "embeddings"): ("as it is", (0, 1)),
        ("lstm2", "kernel"): ("gates ifco→ifgo, transpose", (1, 0)),
        ("lstm3", "bias"): ("gates ifco→ifgo, sum of two biases", None),
        ("both", "backward/kernel"): ("gates zrh→rzn, transpose", None),
        ("last", "bias"): ("gates zrh→rzn, two biases in one", None),
        ("simple", "bias"): ("sum of two biases", None),
        ("attention", "query/kernel"): ("concat q,k,v", None),
        ("attention", "attention_output/kernel"): ("heads merged", None),
        ("point", "kernel"): ("transpose", (None, 1, 0)),
    },
    "fused": {("attention", f"query/{name}"): ("concat q,k,v", None) for name in ("kernel", "bias")},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_carried_over_by_the_map_make_the_outputs_equal(trace_path: Path, name: str) -> None:
    build_keras, build_torch, x, truth = NETWORKS[name]
    keras, module = build_keras(), build_torch()
    ours = tracer.record(keras, x, name="tf", trace=trace_path)
    theirs = tracer.record(module, None, name="pt", trace=trace_path)
    wanted = {key: set(twin) for key, twin in truth.items()}
    unrelated = mapped(ours, theirs)
    assert singles(unrelated) == wanted
    assert not unrelated.unmatched_reference
    assert not unrelated.unmatched_candidate
    assert singles(mapped(ours, theirs, values=False)) == wanted
    said = {pair.reference[0]: (pair.relation, pair.axes) for pair in unrelated.pairs}
    assert {key: said[key] for key in SAID[name]} == SAID[name]

    carry(unrelated.pairs, ours, theirs, module)
    a, b = outputs(keras, module, x)
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)

    carried = tracer.record(module, None, name="carried", trace=trace_path)
    equal = mapped(ours, carried)
    assert singles(equal) == wanted
    found = twins.evidence(
        extract(ours.structure, {}), extract(carried.structure, {}), Weights.of(ours), Weights.of(carried)
    )
    assert found.share == 1
    assert found.related


def record(module: Any, trace: Path, name: str, x: Any = None) -> Recording:
    return tracer.record(module.eval(), x, name=name, trace=trace)


def evidence(ours: Recording, theirs: Recording) -> twins.Evidence:
    sides = [extract(recording.structure, {}) for recording in (ours, theirs)]
    return twins.evidence(sides[0], sides[1], Weights.of(ours), Weights.of(theirs))


def tower() -> Any:
    """Square layers of one shape; their biases are zero and their scales one, as before any training."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU())]
    for layer in layers[::3]:
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


X = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)


def test_what_every_untrained_layer_has_is_no_evidence(trace_path: Path) -> None:
    ours = record(tower(), trace_path, "a", X)
    unrelated = evidence(ours, record(tower(), trace_path, "b"))
    assert not unrelated.found
    assert unrelated.share == 0
    assert not unrelated.related
    nodes = [node.name for node in extract(ours.structure, {}).nodes]
    assert {nodes[i] for i in unrelated.known[0]} == {"0", "3", "6", "9"}


def test_equal_weights_name_the_layer_wherever_it_stands(trace_path: Path) -> None:
    one, other = tower(), tower()
    for here, there in ((0, 9), (3, 3), (6, 0), (9, 6)):
        other[there].load_state_dict(one[here].state_dict())
    ours, theirs = record(one, trace_path, "a", X), record(other, trace_path, "b")
    found = evidence(ours, theirs)
    names = [[node.name for node in extract(r.structure, {}).nodes] for r in (ours, theirs)]
    assert {(names[0][i], names[1][j]) for i, j, _ in found.found} == {("0", "9"), ("3", "3"), ("6", "0"), ("9", "6")}
    assert all(score == 1 for _, _, score in found.found)
    weights = Weights.of(ours), Weights.of(theirs)
    # Without any tensor map the values decide where the kernels go.
    map_ = parameter_map(ours.structure, theirs.structure, (), weights, found.twins)
    kernels = {key: twin for key, twin in singles(map_).items() if key[0] in "0369" and key[1] == "weight"}
    assert kernels == {(a, "weight"): {(b, "weight")} for a, b in (("0", "9"), ("3", "3"), ("6", "0"), ("9", "6"))}
    # Without values, the order does.
    bare = parameter_map(ours.structure, theirs.structure, ())
    assert singles(bare) == {key: {key} for key in weights[0].shapes}


def test_rounded_weights_name_the_layer_wherever_it_stands(trace_path: Path) -> None:
    def layers() -> Any:
        return nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))

    torch.manual_seed(0)
    one, other = layers(), layers()
    for here, there in ((0, 3), (1, 1), (2, 0), (3, 2)):
        other[there].load_state_dict({n: v.bfloat16().float() for n, v in one[here].state_dict().items()})
    x = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    ours, theirs = record(one, trace_path, "a", x), record(other, trace_path, "b")
    found = evidence(ours, theirs)
    assert found.related
    names = [[node.name for node in extract(r.structure, {}).nodes] for r in (ours, theirs)]
    assert {(names[0][i], names[1][j]) for i, j, _ in found.found} == {("0", "3"), ("1", "1"), ("2", "0"), ("3", "2")}
    assert not evidence(ours, record(layers(), trace_path, "c")).found


@pytest.mark.parametrize("size", [30, 3000, 300_000])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_weights_drawn_anew_are_not_near(draw: str, size: int) -> None:
    rng = np.random.default_rng(0)
    table = np.array([twins.sketch(1 + getattr(rng, draw)(size=size)) for _ in range(60)])
    assert not [k for k in range(0, 60, 2) if twins.near(table[k : k + 1], table[k + 1 : k + 2])]
    assert not twins.near(table[:30], table[30:])


def test_between_two_of_one_framework_all_is_as_it_is(trace_path: Path) -> None:
    ours = record(models.torch_sequence(), trace_path, "a", IDS)
    map_ = mapped(ours, record(models.torch_sequence(), trace_path, "b"))
    assert singles(map_) == {key: {key, *twin} for key, twin in singles(map_).items()}
    assert set(singles(map_)) == set(ours.weights)
    assert {pair.relation for pair in map_.pairs} == {"as it is"}


def test_a_shared_layer_is_two_copies_on_the_other_side(trace_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self, copies: bool) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = nn.Linear(6, 6) if copies else self.a

        def forward(self, x: Any) -> Any:
            return self.b(torch.relu(self.a(x)))

    one, two = Shared(False), Shared(True)
    two.a.load_state_dict(one.a.state_dict())
    two.b.load_state_dict(one.a.state_dict())
    ours, theirs = record(one, trace_path, "shared", X), record(two, trace_path, "copies")
    assert singles(mapped(ours, theirs))["a", "weight"] == {("a", "weight"), ("b", "weight")}
    assert singles(mapped(theirs, ours)) == {
        ("a", "weight"): {("a", "weight")}, ("a", "bias"): {("a", "bias")},
        ("b", "weight"): {("a", "weight")}, ("b", "bias"): {("a", "bias")},
    }  # fmt: skip
    assert {score for _, _, score in evidence(ours, theirs).found} == {1.0}
    assert len(evidence(ours, theirs).found) == 4


def test_a_folded_batchnorm_is_said_so(trace_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    nn.init.uniform_(plain[1].running_var, 0.5, 2)
    folded = nn.Sequential(nn.utils.fusion.fuse_conv_bn_eval(plain[0], plain[1]), nn.ReLU(), plain[3])
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    map_ = mapped(record(plain, trace_path, "a", x), record(folded, trace_path, "b"))
    said = {pair.reference: pair for pair in map_.pairs}
    kernel = said[("0", "weight"),]
    assert kernel.candidate == (("0", "weight"),)
    assert kernel.relation == "scaled by BatchNorm: 1"
    assert not kernel.comparable
    assert said[("3", "weight"),].relation == "as it is"
    shift = said[("1", "bias"),]
    assert (shift.candidate, shift.relation) == ((("0", "bias"),), "shifted by BatchNorm: 1")
    assert not shift.comparable
    assert set(map_.unmatched_reference) == {("1", n) for n in ("weight", "running_mean", "running_var")}
    assert all("folded into" in why for why in map_.unmatched_reference.values())
    assert not map_.unmatched_candidate
    back = mapped(record(folded, trace_path, "c"), record(plain, trace_path, "d"))
    assert singles(back)["0", "bias"] == {("1", "bias")}
    assert not back.unmatched_reference


def test_a_normalisation_that_is_written_out_and_what_has_no_twin(trace_path: Path) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
            self.register_buffer("steps", torch.arange(6))

        def forward(self, x: Any) -> Any:
            centred = x - x.mean(-1, keepdim=True)
            normal = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
            return normal * self.scale + self.shift

    one = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    two = nn.Sequential(nn.Linear(6, 6), Written(), nn.Linear(6, 4, bias=False))
    with torch.no_grad():
        one[1].weight.normal_()
        one[1].bias.normal_()
    map_ = mapped(record(one, trace_path, "a", X), record(two, trace_path, "b"))
    found = singles(map_)
    assert found["1", "weight"] == {("1", "scale")}
    assert found["1", "bias"] == {("1", "shift")}
    assert map_.unmatched_reference == {("2", "bias"): "'2' has none"}
    assert map_.unmatched_candidate == {("1", "steps"): "whole numbers, not learned"}


def test_a_gru_without_reset_after_has_no_exact_twin(trace_path: Path) -> None:
    import keras

    inputs = keras.Input((7, 4))
    model = keras.Model(inputs, keras.layers.GRU(5, reset_after=False, return_sequences=True, name="gru")(inputs))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.g(x)[0]

    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    map_ = mapped(tracer.record(model, x, name="tf", trace=trace_path), record(Net(), trace_path, "pt"))
    said = {pair.reference[0][1]: pair for pair in map_.pairs}
    assert said["kernel"].relation == "gates zrh→rzn, transpose"
    assert said["bias"].relation.startswith("no exact twin")
    assert not said["bias"].comparable


def test_weights_are_known_under_the_names_of_a_later_alignment(trace_path: Path) -> None:
    model = tower()
    trace = Trace.open(record(model, trace_path, "a", X).root)
    where = {("0", "weight"): ("3", "weight"), ("3", "weight"): ("0", "weight"), ("6", "bias"): ("head", "beta")}
    trace.update("a", {"weight_keys": [[*own, *aligned] for own, aligned in where.items()]})
    after = trace.recording("a")
    assert after.weight_keys == {key: key for key in after.weights} | where
    for key in after.weights:
        np.testing.assert_array_equal(after.read_stored(after.weights[key]), model.state_dict()[".".join(key)])
    assert Weights.of(after).sketches


@pytest.mark.parametrize(
    "steps",
    [
        (("move", 1, 0), ("blocks", 0, 1, 0, 2)),
        (("part", 0, 1, 3), ("move", 1, 0)),
        (("shape", 2, 3, 2), ("move", 1, 0, 2), ("shape", 3, 4)),
        relayout.rows(0, (6, 2), (2, 3), (1, 0)),
    ],
)
def test_what_is_written_is_what_is_read(steps: relayout.Steps) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((6, 2) if steps[0][0] != "move" else (3, 6))
    (value,) = relayout.read(steps, [array])
    fresh = np.full_like(array, 7)
    relayout.write(steps, [fresh], [value * 2])
    np.testing.assert_array_equal(relayout.read(steps, [fresh])[0], value * 2)
    assert (fresh == 7).sum() == array.size - value.size


def test_added_up_biases_are_written_into_the_first() -> None:
    one, two = np.ones(3), np.ones(3)
    relayout.write((("sum",),), [one, two], [np.arange(3.0)])
    assert one.tolist() == [0, 1, 2]
    assert not two.any()


def test_five_thousand_layers_are_compared_in_an_instant() -> None:
    rng = np.random.default_rng(0)
    count = 15_000
    size = rng.choice([64, 4096, 589_824], count).astype(float)
    spread = 1 / np.sqrt(size)
    rows = np.stack(
        [size, -3 * spread, *(spread * rng.uniform(low, 1, count) for low in (0.9, -0.1, 0.99, -0.1))], axis=1
    )
    rows[:, 5] *= spread**2
    order = rng.permutation(count)
    began = time.perf_counter()
    found = twins.equal(rows, rows[order] * (1, *[1 + 1e-7] * 5))
    assert time.perf_counter() - began < 2
    assert sorted(found) == sorted(zip(order.tolist(), range(count), strict=True))


def test_a_score_counts_single_parameters() -> None:
    truth = {("a", "q"): ("m", "qkv"), ("a", "k"): ("m", "qkv"), ("a", "b"): ("m", "b1"), ("c", "w"): ("n", "w")}

    def pair(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> ParameterPair:
        return ParameterPair(tuple(ours), tuple(theirs), None, "", 0.95, "")

    found = score(
        [
            pair([("a", "q"), ("a", "k")], [("m", "qkv")]),
            pair([("a", "b")], [("m", "b1"), ("m", "b2")]),
            pair([("c", "w")], [("x", "w")]),
            pair([("z", "buffer")], [("y", "buffer")]),
        ],
        truth,
    )
    assert (found.right, found.wrong, found.expected, found.sure_wrong) == (3, 1, 4, 1)
    assert found.missed == ["('c', 'w') <> ('n', 'w')"]


def keras_repeated(layer: Callable[[str], Any], shared: bool) -> Any:
    """Three times the same layer, called again or as equal copies."""
    import keras
    from keras import layers as kl

    x = inputs = keras.Input((6, 4))
    x = kl.Dense(8, name="first")(x)
    steps = [layer("step")] * 3 if shared else [layer(f"step{i}") for i in range(3)]
    for step in steps:
        x = step(x, x) if isinstance(step, kl.MultiHeadAttention) else step(x)
    model = models.randomise(keras.Model(inputs, kl.Dense(2, name="last")(x)))
    for step in steps[1:]:
        step.set_weights(steps[0].get_weights())
    return model


class TorchRepeated(nn.Module):
    def __init__(self, layer: Callable[[], nn.Module], shared: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.steps = nn.ModuleList([layer() for _ in range(1 if shared else 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for i in range(3):
            step = self.steps[i % len(self.steps)]
            x = step(x, x, x)[0] if isinstance(step, nn.MultiheadAttention) else step(x)
        return self.last(x)


def keras_block(name: str) -> Any:
    import keras
    from keras import layers as kl

    return keras.Sequential([kl.Dense(8, activation="relu"), kl.LayerNormalization(epsilon=1e-5)], name=name)


def keras_attention(name: str) -> Any:
    from keras import layers as kl

    return kl.MultiHeadAttention(2, 4, name=name)


REPEATED: dict[str, tuple[Callable[[str], Any], Callable[[], nn.Module], int]] = {
    "block": (keras_block, lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)), 4),
    "attention": (keras_attention, lambda: nn.MultiheadAttention(8, 2, batch_first=True), 4),
}


@pytest.mark.parametrize("shared", ["reference", "candidate"])
@pytest.mark.parametrize("name", REPEATED)
def test_each_copy_of_a_shared_layer_has_its_parameters(trace_path: Path, name: str, shared: str) -> None:
    keras_layer, torch_layer, count = REPEATED[name]
    keras = keras_repeated(keras_layer, shared == "reference")
    module = TorchRepeated(torch_layer, shared == "candidate").eval()
    x = np.random.default_rng(0).standard_normal((5, 6, 4)).astype(np.float32)
    ours = tracer.record(keras, x, name="tf", trace=trace_path)
    theirs = tracer.record(module, None, name="pt", trace=trace_path)
    for found in (mapped(ours, theirs), mapped(ours, theirs, values=False)):
        assert not found.unmatched_reference
        assert not found.unmatched_candidate
        assert len(found.pairs) == 3 * count + 4
    back = mapped(theirs, ours)
    assert not back.unmatched_reference
    assert not back.unmatched_candidate
    assert len(back.pairs) == 3 * count + 4
    carry(mapped(ours, theirs, values=False).pairs, ours, theirs, module)
    a, b = outputs(keras, module, x)
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
