"""Branches that a port concatenates in another order: right where the layers behind expect it, else blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
torch = pytest.importorskip("torch")

import keras  # noqa: E402
from keras import layers as kl  # noqa: E402
from torch import nn  # noqa: E402

import tracer  # noqa: E402
from tests.parameter_models import randomise  # noqa: E402
from tests.test_parameter_map import carry, outputs  # noqa: E402
from tracer.alignment import align  # noqa: E402
from tracer.alignment.arrange import Rearrangement, Runs  # noqa: E402
from tracer.compare import Verdict  # noqa: E402

X = np.random.default_rng(0).standard_normal((5, 6, 7, 3)).astype(np.float32)


def reference() -> Any:
    """Two concatenations, the second of the first's result with itself convolved; then a flatten."""
    x = inputs = keras.Input((6, 7, 3))
    left = kl.Conv2D(4, 3, padding="same", activation="relu", name="left")(x)
    right = kl.Conv2D(6, 1, name="right")(x)
    x = kl.Concatenate(name="first")([left, right])
    x = kl.BatchNormalization(name="norm", epsilon=1e-3)(x)
    x = kl.DepthwiseConv2D(3, padding="same", name="deep")(x)
    y = kl.Conv2D(5, 3, padding="same", name="mixed")(x)
    x = kl.Concatenate(name="second")([x, y])
    x = kl.MaxPooling2D(2, name="pool")(x)
    x = kl.Flatten(name="flatten")(x)
    return randomise(keras.Model(inputs, kl.Dense(8, name="head")(x)))


class Port(nn.Module):
    """The same with both concatenations the other way round, and weights of its own."""

    def __init__(self, turned: bool = True) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10, eps=1e-3)
        self.deep = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.mixed = nn.Conv2d(10, 5, 3, padding=1)
        self.head = nn.Linear(15 * 3 * 3, 8)
        self.turned = turned

    def forward(self, x: Any) -> Any:
        def joined(a: Any, b: Any) -> Any:
            return torch.cat([b, a] if self.turned else [a, b], 1)

        x = self.deep(self.norm(joined(torch.relu(self.left(x)), self.right(x))))
        x = joined(x, self.mixed(x))
        return self.head(torch.flatten(torch.max_pool2d(x, 2), 1))


def ported(path: Path) -> tuple[Any, Port, tracer.Recording]:
    """The reference, a port with its weights as the map from the structures alone says, and the reference's trace."""
    model, port = reference(), Port().eval()
    ours = tracer.record(model, X, name="tf", trace=path)
    theirs = tracer.record(port, name="bare", trace=path)
    carry(align(ours.structure, theirs.structure).parameters.pairs, ours, theirs, port)
    return model, port, ours


def test_weights_are_carried_over_in_the_order_of_the_branches(trace_path: Path) -> None:
    model, port, ours = ported(trace_path)
    a, b = outputs(model, port, X)
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)

    found = tracer.diff(ours, tracer.record(port, name="pt", trace=trace_path))
    assert found.verdict in (Verdict.MATCH, Verdict.NOISE), str(found)
    said = {pair.aligned: pair.reason for pair in found.pairs}
    assert said["first"] == ("the same values in another order: n h w c1+c2 → n c2+c1 h w, as the next layer expects")
    arranged = {p.aligned: str(p.arrangement) for p in found.alignment.pairs if p.arrangement is not None}
    assert arranged["second"] == "n h w c1+c2+c3 → n c3+c2+c1 h w"
    assert arranged["flatten"] == "n (h w c1+c2+c3) → n (c3+c2+c1 h w)"
    assert "mixed" not in arranged
    relations = {pair.reference[0]: pair.relation for pair in found.alignment.parameters.pairs}
    assert relations["norm", "gamma"] == "channels c1+c2→c2+c1"
    assert relations["deep", "kernel"] == "depthwise, channels c1+c2→c2+c1"
    assert relations["mixed", "kernel"] == "transpose, channels c1+c2→c2+c1"
    assert relations["mixed", "bias"] == "as it is"
    assert relations["head", "kernel"] == "transpose, row order (H,W,C)→(C,H,W), channels c1+c2+c3→c3+c2+c1"


def test_a_layer_that_does_not_expect_the_order_is_named(trace_path: Path) -> None:
    """The port's weights as they were, its branches back in the reference's order: now that is the wrong one."""
    _, port, ours = ported(trace_path)
    port.turned = False
    found = tracer.diff(ours, tracer.record(port, name="pt", trace=trace_path))
    assert found.first is not None
    assert found.first.aligned == "norm"
    straight = Port(turned=False).eval()
    carry_from = tracer.record(straight, name="bare2", trace=trace_path)
    carry(align(ours.structure, carry_from.structure).parameters.pairs, ours, carry_from, straight)
    straight.turned = True
    found = tracer.diff(ours, tracer.record(straight, name="turned", trace=trace_path))
    assert found.first is not None
    assert found.first.aligned == "first"
    assert "n h w c1+c2 → n c2+c1 h w, which norm does not expect" in found.first.reason


def test_weights_that_are_equal_as_they_are_keep_their_order(trace_path: Path) -> None:
    """A concatenation turned round by mistake: the layers behind have the reference's weights, row for row."""
    ours = tracer.record(reference(), X, name="tf", trace=trace_path)
    port = Port(turned=False).eval()
    bare = tracer.record(port, name="bare", trace=trace_path)
    carry(align(ours.structure, bare.structure).parameters.pairs, ours, bare, port)
    port.turned = True
    found = align(ours, tracer.record(port, name="turned", trace=trace_path))
    assert {str(p.arrangement) for p in found.pairs if p.aligned == "first"} == {"n h w c1+c2 → n c2+c1 h w"}
    relations = {pair.reference[0]: pair.relation for pair in found.parameters.pairs}
    assert not [relation for relation in relations.values() if "channels" in relation]
    assert relations["head", "kernel"] == "transpose, row order (H,W,C)→(C,H,W)"


def test_branches_in_the_same_order_are_as_they_are(trace_path: Path) -> None:
    ours = tracer.record(reference(), X, name="tf", trace=trace_path)
    theirs = tracer.record(Port(turned=False).eval(), name="pt", trace=trace_path)
    for alignment in (align(ours, theirs), align(ours.structure, theirs.structure)):
        assert {p.aligned for p in alignment.pairs if p.arrangement is not None} <= {"flatten"}
        assert not any("channels" in pair.relation for pair in alignment.parameters.pairs)


def test_runs_are_written_read_and_turned_round() -> None:
    plan = Rearrangement(
        (2, 9, 4), ((0,), (1, 2)), ((0,), (1,), (2,)), ("n", "c", "h"), (1, Runs((2, 3, 4), (2, 0, 1)))
    )
    assert plan.to_json() == {
        "pattern": "n (c1+c2+c3 h) -> n c3+c1+c2 h",
        "lengths": {"n": 2, "c": 9, "h": 4, "c1": 2, "c2": 3, "c3": 4},
    }
    assert Rearrangement.parse(**plan.to_json()) == plan
    assert plan.inverse.inverse == plan
    ours = np.arange(72.0).reshape(2, 36)
    rows = ours.reshape(2, 9, 4)
    theirs = np.concatenate([rows[:, 5:], rows[:, :2], rows[:, 2:5]], 1)
    np.testing.assert_array_equal(plan.apply(theirs), ours)
    np.testing.assert_array_equal(plan.inverse.apply(ours), theirs)
    for channel in range(9):
        assert theirs[1, plan.place(1, channel), 3] == rows[1, channel, 3]
    assert plan.place(2, 3) == 3
    for pattern in ("n c1+c2 -> n c1", "n c1+c2 -> n c2+c3", "n c1+c2 m1+m2 -> n c2+c1 m1+m2"):
        with pytest.raises(ValueError, match=r"runs"):
            Rearrangement.parse(pattern, {"n": 1, "c": 3, "m": 3, "c1": 1, "c2": 2, "m1": 1, "m2": 2})
