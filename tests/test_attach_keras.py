"""Watching a Keras model that its own program trains, serves, or calls."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

import tracer  # noqa: E402
from tests.live_driving import at_once  # noqa: E402

X = np.random.default_rng(0).normal(size=(32, 20, 3)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 32)


def network(of: Any = keras, **compiled: Any) -> Any:
    of.utils.set_random_seed(0)
    layers = of.layers
    model = of.Sequential(
        [
            of.Input((20, 3), name="ecg") if of is keras else layers.InputLayer((20, 3), name="ecg"),
            layers.Conv1D(8, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="act"),
            layers.Dropout(0.2 if of is keras else 0.0, name="drop"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="fc", activation="softmax"),
        ]
    )
    model.compile(of.optimizers.SGD(0.01), "sparse_categorical_crossentropy", **compiled)
    return model


def fit(model: Any, **more: Any) -> Any:
    return model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, **more).history["loss"]


def test_fit_is_recorded_and_not_changed(trace_path: Path) -> None:
    plain, watched = network(), network()
    expected = fit(plain)
    callback = tracer.KerasCallback(to=trace_path, every=3, gradients=True, weights=True)
    assert np.allclose(fit(watched, callbacks=[callback], validation_data=(X[:4], Y[:4])), expected, rtol=1e-5)
    for mine, theirs in zip(plain.get_weights(), watched.get_weights(), strict=True):
        assert np.allclose(mine, theirs, atol=1e-6)
    assert (callback.attached.step, callback.attached.recorded, callback.attached.lost_steps) == (7, 3, {})
    assert "make_train_function" not in vars(watched)
    assert not hasattr(watched.train_function, "_tracer_under")
    assert not hasattr(keras.layers.Layer.__call__, "autograph_info__")
    recording = tracer.open(trace_path).recording("tf")
    assert (recording.steps, recording.attributes["mode"]) == ((0, 3, 6), "train")
    step = recording.at(0)
    assert np.array_equal(step.read("ecg"), X[:8])
    assert step.activations.keys() >= {"conv", "bn", "act", "drop", "flat", "fc/preactivation", "fc"}
    assert step.gradients.keys() >= {"conv", "fc/preactivation"}
    assert np.array_equal(step.read_stored(step.weights["conv", "kernel"]), network().get_weights()[0])
    assert step.weight_gradients.keys() == {
        ("conv", "kernel"), ("bn", "gamma"), ("bn", "beta"), ("fc", "kernel"), ("fc", "bias"),
    }  # fmt: skip


def test_models_are_watched_side_by_side_and_left_in_any_order(trace_path: Path) -> None:
    called, differentiated = keras.layers.Layer.__call__, tf.GradientTape.gradient
    one, other = network(), network()
    first = tracer.attach(one, to=trace_path, name="first", mode="train")
    second = tracer.attach(one, to=trace_path, name="second", mode="train", every=3, gradients=True)
    third = tracer.attach(other, to=trace_path, name="third", mode="train", gradients=True)
    one.fit(X, Y, batch_size=8, verbose=0)
    first.detach()
    for model in (one, other):
        model.fit(X, Y, batch_size=8, verbose=0)
    second.detach()
    one.fit(X, Y, batch_size=8, verbose=0)
    other.fit(X, Y, batch_size=8, verbose=0)
    third.detach()
    trace = tracer.open(trace_path)
    assert [trace.recording(name).steps for name in ("first", "second", "third")] == [
        (0, 1, 2, 3), (0, 3, 6), (0, 1, 2, 3, 4, 5, 6, 7),
    ]  # fmt: skip
    assert (keras.layers.Layer.__call__, tf.GradientTape.gradient) == (called, differentiated)
    assert "make_train_function" not in vars(one)
    assert not hasattr(one.train_function, "_tracer_under")


def test_every_fit_of_one_callback_is_a_recording(trace_path: Path) -> None:
    model = network()
    callback = tracer.KerasCallback(to=trace_path, name="net", every=3)
    for _ in range(2):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    assert [r.name for r in tracer.open(trace_path).recordings()] == ["net", "net-2"]


def test_what_cannot_be_seen_is_said(trace_path: Path) -> None:
    model = network()
    attached = tracer.attach(model, to=trace_path)
    with pytest.warns(RuntimeWarning, match=r"in a tf.function of the program's") as said:
        _ = [tf.function(model)(tf.constant(X[:size])) for size in (4, 5, 6)]
    assert len(said) == 1
    with pytest.warns(RuntimeWarning, match="no call of the model was seen"):
        attached.detach()


def test_gradients_are_those_of_the_tape(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path, gradients=True):  # a training loop of one's own
        with tf.GradientTape() as tape:
            out = model(X[:4], training=True)
            loss = tf.reduce_sum(tf.square(out))
        expected = tape.gradient(loss, model.trainable_weights)
    step = tracer.open(trace_path).recording("tf@0")
    assert np.array_equal(step.read("fc"), out.numpy())
    assert np.allclose(step.read_gradient("fc"), 2 * out.numpy())
    found = step.read_stored(step.weight_gradients["conv", "kernel"])
    assert np.array_equal(found, expected[0].numpy())


def test_serving_is_recorded(trace_path: Path) -> None:
    model = network()
    expected = model.predict(X[:6], batch_size=2, verbose=0)
    with tracer.attach(model, to=trace_path) as attached:
        assert np.allclose(model.predict(X[:6], batch_size=2, verbose=0), expected, atol=1e-6)
        model(X[:3])
        model(X[:3], training=True)  # another mode than the first call's
    assert (attached.step, attached.recorded) == (3, 4)
    trace = tracer.open(trace_path)
    assert np.allclose(trace.recording("tf@1").read("fc"), expected[2:4], atol=1e-6)
    assert trace.recording("tf@3").read("fc").shape == (3, 4)


def test_a_server_of_several_threads(trace_path: Path) -> None:
    model = network()
    shape = model.input_shape[1:]
    with tracer.attach(model, to=trace_path, every=2) as attached:
        at_once(lambda size: model(np.full((size, *shape), size, np.float32)), range(1, 5), 10)
    assert (attached.fault, attached.lost_steps) == (None, {})
    recording = tracer.open(trace_path).recording("tf")
    assert len(recording.steps) == attached.recorded > 1
    for step in map(recording.at, recording.steps):  # each is one thread's, and whole
        size = len(step.read(step.structure.inputs[0].name))
        assert (step.read(step.structure.inputs[0].name) == size).all()
        assert {len(step.read(name)) for name in step.summaries} == {size}
    before = model(np.ones((2, *shape), np.float32))
    assert attached.step < 40
    assert np.array_equal(before, model(np.ones((2, *shape), np.float32)))


def test_a_fit_that_was_interrupted_is_left_at_the_next(trace_path: Path) -> None:
    model = network()
    callback = tracer.KerasCallback(to=trace_path, name="tf")

    def interrupt(batch: int, logs: object) -> None:
        raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[callback, stop])
    fit(model, callbacks=[callback])
    trace = tracer.open(trace_path)
    assert trace.recording("tf").steps == (0,)
    assert trace.recording("tf").state == "complete"
    assert trace.recording("tf-2").steps == tuple(range(8))


def test_several_steps_in_one_execution(trace_path: Path) -> None:
    plain, watched = network(steps_per_execution=2), network(steps_per_execution=2)
    expected = fit(plain)
    callback = tracer.KerasCallback(to=trace_path, every=3)
    assert np.allclose(fit(watched, callbacks=[callback]), expected, rtol=1e-5)
    assert tracer.open(trace_path).recording("tf").steps == (0, 3, 6)


def test_a_model_that_raises_is_left_alone(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path) as attached:
        model(X[:2])
        with pytest.raises(ValueError, match=r"expected axis -1|incompatible"):
            model(np.zeros((2, 20, 4), np.float32))
        model(X[:2])
    assert list(attached.lost_steps.values()) == ["the model raised"]
    assert tracer.open(trace_path).recording("tf").steps == (0, 2)


def test_keras_2(trace_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    plain, watched = network(tf_keras), network(tf_keras)
    expected = fit(plain)
    with tracer.attach(watched, to=trace_path, every=3, gradients=True) as attached:
        assert np.allclose(fit(watched), expected, rtol=1e-5)
    assert (attached.recorded, attached.lost_steps) == (3, {})
    step = tracer.open(trace_path).recording("tf@6")
    assert step.weight_gradients.keys() >= {("conv", "kernel")}


def test_one_callback_is_for_both_where_both_are_imported(trace_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    callback = importlib.reload(importlib.import_module("tracer_keras.callback")).KerasCallback
    for of in (keras, tf_keras):
        network(of).fit(X, Y, batch_size=8, verbose=0, callbacks=[callback(to=trace_path, name=of.__name__, every=2)])
    assert [r.steps for r in tracer.open(trace_path).recordings()] == [(0, 2), (0, 2)]


def test_the_same_training_in_both_frameworks_agrees_step_by_step(trace_path: Path) -> None:
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(0)
    ours = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)])
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    for mine, its in zip(ours.get_weights(), theirs.state_dict().values(), strict=True):
        its.copy_(torch.from_numpy(mine.T))
    x, y = X[:, :2].reshape(32, 6), X[:, 2]
    ours.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3), "mse")
    with tracer.attach(ours, to=trace_path, gradients=True):
        ours.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2, eps=1e-8)
    with tracer.attach(theirs, to=trace_path, gradients=True):
        for start in range(0, 32, 8):
            optimizer.zero_grad()
            out = theirs(torch.from_numpy(x[start : start + 8]))
            torch.nn.functional.mse_loss(out, torch.from_numpy(y[start : start + 8])).backward()
            optimizer.step()
    trace = tracer.open(trace_path)
    found = [tracer.diff(trace.recording(f"tf@{n}"), trace.recording(f"pt@{n}"), causes=False) for n in range(4)]
    assert bool(found[0])
    assert not any(map(bool, found[1:]))
    assert tracer.diff(trace.recording("tf@0"), trace.recording("pt@0"), of="gradients")
    with pytest.raises(tracer.InputError, match="different inputs"):
        tracer.diff(trace.recording("tf@0"), trace.recording("pt@1"))
