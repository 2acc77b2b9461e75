"""Models of Keras that are hard to watch."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SCENES: dict[str, Callable[[], Any]] = {}
TRAINED = frozenset({"in training", "frozen parts", "keeps what it saw in a variable"})
"""Called in training mode, with gradients."""


def _scene(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def keep(build: Callable[[], Any]) -> Callable[[], Any]:
        SCENES[name] = build
        return build

    return keep


def net(*more: Any) -> Any:
    """A layer, a normalisation with statistics, something drawn, what is given, a layer."""
    parts = [
        layers.Dense(4, activation="tanh", name="one"), layers.BatchNormalization(name="bn"),
        layers.Dropout(0.5, seed=3, name="drop"), *more, layers.Dense(3, name="two"),
    ]  # fmt: skip
    model = keras.Sequential(parts)
    model.build((None, 4))
    return model


class _Odd(layers.Layer):  # type: ignore[misc]
    """Does ``act`` to its input, and counts its calls."""

    def __init__(self, act: Callable[[int, Any], Any]) -> None:
        super().__init__(name="odd")
        self.act = act
        self.called = [0]

    def call(self, x: Any) -> Any:
        self.called[0] += 1
        return self.act(self.called[0], x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


SCENES["as it is"] = net
SCENES["in training"] = net


@_scene("raises")
def _() -> Any:
    def act(call: int, x: Any) -> Any:
        raise ValueError("no")

    return keras.Sequential([layers.Dense(4), _Odd(act)])


@_scene("raises MemoryError")
def _() -> Any:
    def act(call: int, x: Any) -> Any:
        raise MemoryError

    return keras.Sequential([layers.Dense(4), _Odd(act)])


@_scene("asks for too much memory")
def _() -> Any:
    return keras.Sequential([layers.Dense(4), _Odd(lambda call, x: x + tf.ones((1 << 44, 1)))])


@_scene("a thread of its own")
def _() -> Any:
    def act(call: int, x: Any) -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(np.tanh(np.ones(4, np.float32))))
        thread.start()
        thread.join()
        return x + found[0]

    return net(_Odd(act))


@_scene("recursion")
def _() -> Any:
    class Recursive(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = layers.Dense(4)

        def call(self, x: Any, depth: int = 3) -> Any:
            y = self.fc(x)
            return self(y, depth - 1) if depth else y

    return Recursive()


@_scene("a call of its own")
def _() -> Any:
    class Calling(layers.Dense):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs) + 1

    return net(Calling(4))


@_scene("attributes of its own making")
def _() -> Any:
    class Guarded(layers.Dense):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            if name.startswith("magic"):
                return 7.0
            raise AttributeError(name)

        @property
        def strides(self) -> Any:
            raise ValueError("not to be read")

        def call(self, x: Any) -> Any:
            return super().call(x) * self.magic_number

    return net(Guarded(4))


@_scene("keeps what it saw in a variable")
def _() -> Any:
    class Counting(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

        def call(self, x: Any) -> Any:
            self.seen.assign_add(1.0)
            return x + self.seen

    return net(Counting())


@_scene("a state between calls")
def _() -> Any:
    x = keras.Input(batch_shape=(5, 4))
    y = layers.GRU(4, stateful=True, return_sequences=True)(layers.Reshape((2, 2))(x))
    return keras.Model(x, layers.Flatten()(y))


@_scene("draws of all generators")
def _() -> Any:
    def act(call: int, x: Any) -> Any:
        return x + tf.random.uniform((4,)) + random.random() + np.float32(np.random.rand()) + keras.random.uniform((4,))

    return net(_Odd(act))


@_scene("half precision")
def _() -> Any:
    return net(layers.Dense(4, dtype="mixed_bfloat16"))


@_scene("a layer that is used twice")
def _() -> Any:
    layer = layers.Dense(4)
    return keras.Sequential([layer, layers.ReLU(), layers.Lambda(lambda x: layer(x) + layer(x * 2))])


@_scene("a model in a model in a model")
def _() -> Any:
    return keras.Sequential([keras.Sequential([net(), layers.Dense(4)]), net()])


@_scene("frozen parts")
def _() -> Any:
    model = net()
    model.get_layer("one").trainable = False
    model.get_layer("bn").trainable = False
    return model


@_scene("compiled, with a loss of a layer's own")
def _() -> Any:
    model = net(layers.ActivityRegularization(0.1))
    model.compile("sgd", "mse")
    return model


@_scene("a tf.function inside")
def _() -> Any:
    inner = tf.function(lambda x: tf.tanh(x) * 2)
    return net(_Odd(lambda call, x: inner(x)))
