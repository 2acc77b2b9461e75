"""What a recording of a Keras model must not miss, must not hold in memory and must not leave behind."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from tracer.adapter import Array, MemorySink, NotRecorded, Run
from tracer.errors import ModelError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

from tests.test_keras_adapter import BOTH, blocks, rand, recorded, wrap  # noqa: E402
from tracer_keras import runner  # noqa: E402

ZOO = ["ecg_pathology_lbbb", "tracto_ae"]


@dataclass
class Pair:
    left: Any
    right: Any


@BOTH
def test_outputs_that_are_no_tensors(library: Any) -> None:
    class Net(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc = library.layers.Dense(3, name="fc")
            self.inner = {"p": library.layers.Dense(2, name="p"), "q": [library.layers.Dense(2, name="q")]}

        def call(self, x: Any, scale: float = 2.0) -> Any:
            y = self.fc(x)
            return {
                "list": [self.inner["p"](y), self.inner["q"][0](y)],
                "pair": Pair(y * scale, None),
                "number": 3.0,
                "rows": tf.shape(y)[0],
                "constant": tf.constant([1.0, 2.0]),
            }

    structure, values = recorded(Net(), x=rand(2, 4))
    [note] = [note for note in structure.notes if "no tensor" in note]
    assert "None at [pair][right]" in note
    assert "float at [number]" in note
    assert structure.outputs == ("p", "q", "mul", "output[rows]", "output_1[constant]")
    assert values["output[rows]"] == 2
    np.testing.assert_array_equal(values["output_1[constant]"], [1, 2])


@BOTH
def test_models_in_models_in_models(library: Any) -> None:
    def nest(depth: int) -> Any:
        x = library.Input((4,), name=f"in{depth}")
        y = library.layers.Dense(4, activation="relu", name=f"fc{depth}")(x)
        if depth:
            inner = nest(depth - 1)
            y = inner(inner(y))
        return library.Model(x, y, name=f"m{depth}")

    x = library.Input((4,), name="x")
    model = nest(2)
    whole = library.Model(x, model(model(x)))
    structure, values = recorded(whole, x=rand(3, 4))
    assert sum(node.label == "Dense.relu" for node in structure) == 2 + 4 + 8
    np.testing.assert_array_equal(values[structure.outputs[0]], whole(rand(3, 4)).numpy())


@BOTH
def test_all_that_recurrent_layers_return(library: Any) -> None:
    class Cell(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = self.state_size = self.output_size = units

        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(int(shape[-1]), self.units), name="w", initializer="ones")

        def call(self, x: Any, states: Any) -> Any:
            new = tf.tanh(tf.matmul(x, self.w) + states[0])
            return new, [new]

    layers = library.layers
    x = library.Input((5, 3), name="x")
    ends = [
        *layers.RNN(Cell(4), return_state=True, return_sequences=True, name="own")(x),
        *layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_state=True, name="stack")(x),
        *layers.Bidirectional(layers.LSTM(2, return_sequences=True, return_state=True), name="bi")(x),
        layers.SimpleRNN(3, go_backwards=True, name="back")(layers.Masking(name="mask")(x)),
    ]
    model = library.Model(x, ends)
    structure, values = recorded(model, x=rand(2, 5, 3))
    flat = tf.nest.flatten(model(rand(2, 5, 3)))
    assert len(structure.outputs) == len(flat)
    for name, value in zip(structure.outputs, flat, strict=True):
        np.testing.assert_array_equal(values[name], value)
    assert {"own", "own[1]", "stack", "bi", "bi[4]", "back"} <= set(structure.outputs)
    assert "own: what the Cell inside does is not visible" in structure.notes
    assert any(note.endswith(" and 2 more: steps inside are not visible") for note in structure.notes)
    np.testing.assert_array_equal(values["own"][:, -1], values["own[1]"])


@BOTH
def test_an_activation_inside_a_wrapper(library: Any) -> None:
    layers = library.layers
    conv = layers.Conv1D(2, 3, activation="relu", name="conv")
    x = library.Input((6, 4), name="x")
    y = layers.TimeDistributed(layers.Dense(3, activation="relu"), name="each")(layers.Lambda(lambda v: v * 2)(x))
    if library is keras:  # tf_keras's own cannot be built
        y = layers.SpectralNormalization(conv, name="norm")(y)
    model = library.Model(x, layers.Dense(2, activation=layers.LeakyReLU(0.25), name="leaky")(y))
    structure, values = recorded(model, x=rand(2, 6, 4))
    if library is keras:
        before = tf.nn.conv1d(values["each"], conv.kernel, 1, "VALID") + conv.bias
        np.testing.assert_allclose(values["norm/preactivation"], before, atol=1e-6)
        np.testing.assert_array_equal(values["norm"], np.maximum(values["norm/preactivation"], 0))
        assert conv.activation is library.activations.relu
    assert "each: what goes into its activation is not visible" in structure.notes
    assert structure.by_name["leaky"].config["negative_slope"] == 0.25


@BOTH
def test_building_a_model_that_raises_is_no_loop(library: Any) -> None:
    class Boom(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            raise ValueError("no more")

    class Net(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.boom = library.layers.Dense(3, name="fc"), Boom(name="boom")

        def call(self, x: Any) -> Any:
            return self.boom(self.fc(x))

    structure = wrap(Net()).structure({"x": rand(2, 4)})
    assert "fc" in structure.by_name
    assert structure.notes == ()


@BOTH
def test_only_what_is_wanted_is_handed_over(library: Any) -> None:
    model = wrap(blocks(library))
    model.run = Run("eval", "sum")
    x = {"x": rand(3, 5)}
    stored = [node.name for node in model.structure(x).stored()]
    every, some = MemorySink(), MemorySink(only=frozenset(stored[2:5]))
    model.capture(x, every)
    model.capture(x, some)
    assert set(some.values) == set(some.gradients) == set(stored[2:5])
    for name, value in some.values.items():
        np.testing.assert_array_equal(value, every.values[name])
    # Several inputs in turn.
    other = {"x": rand(7, 5)}
    assert {node.shape[0] for node in model.structure(other).stored() if node.shape} == {7}
    assert {node.shape[0] for node in model.structure(x).stored() if node.shape} == {3}


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Weighing:
    """A sink that looks at what is alive while it takes a tensor."""

    def __init__(self) -> None:
        self.most = self.total = 0

    def wants(self, name: str) -> bool:
        return True

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        assert isinstance(value, np.ndarray)
        self.total += value.nbytes
        self.most = max(self.most, resident())

    gradient = __call__

    def weight_gradient(self, owner: str, name: str, value: Any, *, owned: bool = False) -> None:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("traced", [True, False], ids=["function", "layer by layer"])
def test_memory_does_not_grow_with_the_number_of_tensors(traced: bool) -> None:
    class Deep(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.steps = [keras.layers.ReLU(name=f"relu{number}") for number in range(40)]

        def call(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x + 1.0)
            return x

    model = wrap(Deep())
    if not traced:
        model._traced = None  # type: ignore[method-assign, assignment]
    inputs = {"x": rand(8, 64, 64, 32)}  # 4 MiB a tensor, 80 of them
    model.structure(inputs)
    model.capture(inputs, Weighing())
    before = resident()
    sink = Weighing()
    model.capture(inputs, sink)
    assert sink.total > 300e6
    assert sink.most - before < 80e6


def test_order_follows_what_each_tensor_needs() -> None:
    """Masks are needed without being inputs, and a layer may return what it made first as its second output."""

    class Swap(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            first = x * 2
            return first + 1, first

    x = keras.Input((4,), name="x")
    late, early = Swap(name="swap")(x)
    model = wrap(keras.Model(x, keras.layers.Add(name="add")([late, early])))
    structure = model.structure({"x": rand(2, 4)})
    sink = MemorySink()
    plan = next(iter(model._plans.values()))
    plan.run([tf.constant(rand(2, 4))], lambda what, value: sink(what[1], value))
    assert set(sink.values) == {node.name for node in structure.stored()} - {"x"}
    np.testing.assert_array_equal(sink.values["swap"], np.array(sink.values["swap[1]"]) + 1)


# -- nothing is missed -----------------------------------------------------------------------------------------


def operations(model: Any) -> list[Any]:
    """Every operation of a functional model's own graph, those of models inside it too; without inputs."""
    found: list[Any] = []
    for operation in getattr(model, "_operations", None) or model.layers:
        name = type(operation).__name__
        if name == "InputLayer":
            continue
        if isinstance(operation, keras.Model | tf_keras.Model):
            found.extend(operations(operation))
        else:
            found.append(operation)
    return found


def complete(model: Any, x: Array) -> None:
    loaded = wrap(model)
    structure = loaded.structure({loaded.signature()[0].name: x})
    assert loaded._paths is not None
    paths = {id(layer): path for path, layer in loaded._paths.layers()}
    owners = {node.owner for node in structure}
    missing = [operation.name for operation in operations(model) if paths.get(id(operation)) not in owners]
    assert not missing
    leaves = [node for node in structure if node.role in ("layer", "op")]
    assert len(leaves) >= len(operations(model))
    plan = next(iter(loaded._plans.values()))
    assert plan.function is not None


@pytest.mark.parametrize("name", ZOO)
def test_every_operation_of_the_zoo_is_a_node(name: str) -> None:
    pytest.importorskip("torch")
    from tests.zoo import PAIRS

    pair = PAIRS[name]
    model = pair.keras()
    complete(model, pair.inputs())


# -- nothing stays ---------------------------------------------------------------------------------------------


def snapshot(model: Any) -> dict[str, Any]:
    """What a person could see of a model and of the libraries."""
    seen: dict[str, Any] = {}
    for layer in [model, *model._flatten_layers(include_self=False, recursive=True)]:
        for key, value in vars(layer).items():
            plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
            seen[f"{layer.name}.{key}"] = value if plain else id(value)
            if isinstance(value, (list, set, dict)):
                seen[f"{layer.name}.{key} holds"] = [id(item) for item in value]
    for number, weight in enumerate([*model.weights, *model.non_trainable_variables]):
        seen[f"variable {number}"] = np.array(weight).tobytes()
    context = import_module("tensorflow.python.eager.context").context()
    seen["callbacks"], seen["seed"] = len(context.op_callbacks), context._seed
    for library in (keras, tf_keras):
        seen[f"{library.__name__} call"] = library.layers.Layer.__call__
        seen[f"{library.__name__} policy"] = library.mixed_precision.global_policy().name
    seen["ops"] = [id(value) for value in vars(keras.ops).values()]
    seen["operation"] = keras.Operation.__call__
    seen["optimizer"] = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    state = import_module("keras.src.backend.common.global_state")
    seen["keras"] = {
        key: value if isinstance(value, (int, str, type(None))) else id(value)
        for key, value in vars(state.GLOBAL_STATE_TRACKER).items()
        if value is not None
    }
    uids = state.get_global_attribute("object_name_uids") or {}
    seen["names"] = dict(uids)
    old = import_module("tf_keras.src.backend")
    seen["old names"] = {id(graph): dict(count) for graph, count in old.PER_GRAPH_OBJECT_NAME_UIDS.items() if count}
    seen["phase"] = tf_keras.backend.learning_phase()
    return seen


@BOTH
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fault", [None, "at once", "in the function"])
def test_model_and_library_are_as_before(library: Any, mode: Any, fault: str | None) -> None:
    class Odd(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        armed = ""

        def call(self, x: Any) -> Any:
            if Odd.armed == "at once":
                raise ValueError("no more")
            self.add_loss(tf.reduce_sum(x))
            if Odd.armed:
                with tf.control_dependencies([tf.debugging.assert_less(x, -1e9, message="too large")]):
                    return tf.identity(x)
            return x * 1.0

    layers = library.layers
    x = library.Input(batch_shape=(2, 5, 3), name="x")
    y = layers.GRU(4, stateful=True, return_sequences=True, name="gru")(x)
    y = layers.Conv1D(4, 2, activation="relu", activity_regularizer="l2", name="conv")(y)
    y = layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="bn")(y))
    model = library.Model(x, layers.Dense(2, activation="tanh", name="fc")(Odd(name="odd")(y)))
    inputs = {"x": rand(2, 5, 3)}
    model(inputs["x"], training=True)
    before = snapshot(model)
    losses = [float(loss) for loss in model.losses]
    Odd.armed = fault or ""
    loaded = wrap(model)
    loaded.run = Run(mode, "sum")
    structure = loaded.structure(inputs)
    if fault is None:
        loaded.capture(inputs, MemorySink())
    else:
        sink = MemorySink()
        with pytest.raises(ModelError, match="layer 'odd'"):
            loaded.capture(inputs, sink)
        assert list(sink.values)[:3] == ["x", "gru", "conv/preactivation"]
        assert "odd" not in sink.values
    assert structure
    after = snapshot(model)
    assert {key for key in before if before[key] != after.get(key)} == set()
    assert set(after) == set(before)
    assert [float(loss) for loss in model.losses] == losses


def test_the_function_is_used_not_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_eagerly", None)
    for library in (keras, tf_keras):
        model = blocks(library)
        model(rand(3, 5))
        recorded(model, x=rand(3, 5))
