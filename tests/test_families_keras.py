"""Real Keras model families are recorded whole: nothing that an independent count sees is missing."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from tests import completeness_keras as completeness
from tests.families import FAMILIES, Family, missing
from tracer.errors import InputError
from tracer_keras.adapter import KerasAdapter

TESTED = [family for family in FAMILIES.values() if family.framework == "keras" and family.tested]


def called(model: Any, tensors: dict[str, Any]) -> Any:
    return model(next(iter(tensors.values())) if len(tensors) == 1 else tensors, training=False)


def counted(model: Any, inputs: dict[str, Any]) -> tuple[completeness.Recording, list[tuple[str, Any]]]:
    recording = completeness.Recording.of(KerasAdapter().wrap(model), inputs)
    return recording, completeness.count(model, lambda tensors: called(model, tensors), inputs)


@pytest.mark.parametrize("family", TESTED, ids=lambda family: family.name)
def test_nothing_is_missing(family: Family) -> None:
    package = missing(family)
    if package is not None:
        pytest.skip(f"needs {package}")
    model = family.build()
    inputs = family.inputs()
    if list(inputs) == [""]:
        inputs = {KerasAdapter().wrap(model).signature()[0].name: inputs[""]}
    recording, found = counted(model, inputs)
    assert not recording.structure.fault
    assert not recording.reasons
    assert len(found) > len(model.layers) / 2, "the count itself saw too little"
    assert completeness.lacking(found, recording) == []
    if hasattr(getattr(model, "_functional", None) or model, "_nodes_by_depth"):
        assert len(list(completeness.stated(model))) > 100
        assert completeness.lacking_of_stated(model, recording) == []


def small() -> Any:
    ops, layers = keras.src.ops, keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="in"), layers.ReLU(name="act")], name="inner")
    x = keras.Input((4,), name="x")
    y = inner(ops.numpy.Multiply(name="mul")(ops.numpy.Tanh(name="tanh")(x), 2.0))
    y = inner(ops.numpy.Roll(1, axis=0, name="roll")(y))
    return keras.Model(x, layers.Add(name="add")([y, x]))


INPUT = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


class Written(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(4)
        self.last = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return self.last(tf.roll(self.first(x), 1, 0) * 2.0)


def test_a_count_agrees_with_reading_the_code() -> None:
    paths = Counter(path for path, _ in completeness.stated(small()))
    # Keras counts a shared model's layers once for each of its calls.
    assert paths == {"inner": 2, "inner/in": 2, "inner/act": 2, "add": 1, "mul": 1, "roll": 1, "tanh": 1}
    model = Written()
    model(INPUT["x"])
    recording, found = counted(model, INPUT)
    assert [what.split(" ")[0] for what, _ in found] == ["Roll", "Mul", "layer", "layer"]
    assert completeness.lacking(found, recording) == []


@pytest.mark.parametrize("word", ["Roll", "Mul"])
def test_a_recorder_blind_to_an_operation_is_found_out(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer_keras import opwatch

    model = Written()
    model(INPUT["x"])
    monkeypatch.setattr(opwatch, "_CUT", opwatch._CUT | {word})
    recording, found = counted(model, INPUT)
    assert [what.split(" ")[0] for what in completeness.lacking(found, recording)] == [word]


@pytest.mark.parametrize("name", ["roll", "inner"])
def test_a_recorder_blind_to_a_call_is_found_out(name: str) -> None:
    model = small()
    recording = completeness.Recording.of(KerasAdapter().wrap(model), INPUT)
    assert completeness.lacking_of_stated(model, recording) == []
    kept = tuple(n for n in recording.structure if n.owner != name or (name == "inner" and n.call == 1))
    blinded = completeness.Recording(type(recording.structure)(kept), recording.values, {})
    assert [item.split(" ")[0] for item in completeness.lacking_of_stated(model, blinded)] == [name]


class Optional(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(4, name="dense")

    def call(self, x: Any, weight: Any = None, flag: bool = False) -> Any:
        x = self.dense(x)
        return x if weight is None else x * weight


def test_optional_arguments_are_passed_on_where_they_are_given() -> None:
    wrapped = KerasAdapter().wrap(Optional())
    assert [spec.name for spec in wrapped.signature()] == ["x"]
    assert [spec.name for spec in wrapped.optional()] == ["weight"]
    assert [node.kind for node in wrapped.structure(INPUT)] == ["input", "dense"]
    weight = np.full((3, 1), 3, np.float32)
    recording = completeness.Recording.of(wrapped, {**INPUT, "weight": weight})
    assert [node.name for node in recording.structure] == ["x", "weight", "dense", "mul"]
    np.testing.assert_allclose(recording.values["mul"], recording.values["dense"] * 3, rtol=1e-6)
    assert len(wrapped.structure(INPUT).nodes) == 2
    with pytest.raises(InputError, match="inputs are x"):
        wrapped.structure({**INPUT, "flag": weight})


class Looked(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = self.add_weight(shape=(9, 4), name="table")
        self.places = self.add_weight(shape=(5, 4), name="places")
        self.dense = keras.layers.Dense(2, name="dense")

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        words = tf.gather(self.table.value, tf.cast(x, "int32"))
        return self.dense(words + tf.gather(self.places.value, tf.range(3))[None])


def test_rows_taken_from_a_weight_are_an_embedding() -> None:
    recording = completeness.Recording.of(
        KerasAdapter().wrap(Looked()), {"x": np.array([[1, 2, 3], [4, 5, 8]], "int32")}
    )
    found = {node.name: ([p.name for p in node.params], node.kind) for node in recording.structure}
    assert found["embedding"] == (["table"], "embedding")
    assert found["embedding_1"] == (["places"], "embedding")
    assert found["add"] == ([], "add")
