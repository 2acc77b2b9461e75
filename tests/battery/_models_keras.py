"""The models battery for Keras."""

from __future__ import annotations

import contextlib
import pickle
import random
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tracer
from tests.battery import Tally
from tests.battery._scenes_keras import SCENES, TRAINED
from tests.test_keras_capture import snapshot
from tracer.errors import TracerError


def run(seed: int, cases: int | None, tally: Tally) -> None:
    names = sorted(SCENES) if cases is None else random.Random(seed).sample(sorted(SCENES), min(cases, len(SCENES)))
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            for how in (_recorded, _attached):
                try:
                    wrong = how(name, seed, Path(folder) / str(number))
                except Exception as error:
                    wrong = [f"{type(error).__name__}: {error}"]
                group = f"keras {how.__name__[1:]}"
                if wrong:
                    tally.breaks(group, name, "; ".join(wrong))
                else:
                    tally.add(group, "same bits, left as it was")


def _built(name: str, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    return SCENES[name]()


def _outcome(name: str, model: Any, seed: int) -> list[Any]:
    keras.utils.set_random_seed(seed + 1)
    found: list[Any] = []
    for x in np.random.default_rng(seed).standard_normal((3, 5, 4)).astype(np.float32):
        try:
            with tf.GradientTape() as tape:
                y = model(x, training=name in TRAINED)
                loss = tf.reduce_sum(tf.cast(y, tf.float32))
            found.append((str(y.dtype), np.asarray(y).tobytes()))
            if name in TRAINED:
                found += [np.asarray(g).tobytes() for g in tape.gradient(loss, model.trainable_variables)]
        except Exception as error:
            found.append(type(error).__name__)
    found += [(v.path.rpartition("/")[2], np.asarray(v).tobytes()) for v in model.variables]
    return [*found, random.random(), float(np.random.rand()), float(tf.random.uniform(()))]


def _differences(before: list[Any], after: list[Any]) -> list[str]:
    if len(before) != len(after):
        return [f"{len(before)} against {len(after)}"]
    pairs = enumerate(zip(before, after, strict=True))
    return [f"{number}: {str(one)[:80]} against {str(two)[:80]}" for number, (one, two) in pairs if one != two][:2]


def _recorded(name: str, seed: int, trace: Path) -> list[str]:
    alone, model = _built(name, seed), _built(name, seed)
    x = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
    for one in (alone, model):  # a first call builds what is not built
        with contextlib.suppress(Exception):
            one(x)
    state = snapshot(model) if model.built else {}
    state.pop("odd.called holds", None)  # not a thing of Keras's
    drawn = random.getstate(), pickle.dumps(np.random.get_state(legacy=False))
    with contextlib.suppress(TracerError):
        tracer.record(model, x, name="one", trace=trace)
    now = snapshot(model) if model.built else {}
    wrong = [f"state {key}" for key in state if state[key] != now.get(key)]
    if drawn != (random.getstate(), pickle.dumps(np.random.get_state(legacy=False))):
        wrong.append("random numbers were drawn")
    return wrong + _differences(_outcome(name, alone, seed), _outcome(name, model, seed))


def _attached(name: str, seed: int, trace: Path) -> list[str]:
    wanted = _outcome(name, _built(name, seed), seed)
    model = _built(name, seed)
    with tracer.attach(model, to=trace, name="attached") as attached:
        wrong = _differences(wanted, _outcome(name, model, seed))
    if attached.fault is not None:
        wrong.append(attached.fault)
    if not attached.recorded and not attached.lost_steps:
        wrong.append("nothing was recorded, and nothing said")
    return wrong
