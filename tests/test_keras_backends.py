"""Keras 3 on torch, JAX and NumPy: the same nodes and values as on TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tracer.errors import InputError, MissingFrameworkError
from tracer.graph import Structure

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
torch = pytest.importorskip("torch")
tf_keras = pytest.importorskip("tf_keras")

import backend_models  # noqa: E402

from tests.cli import refused  # noqa: E402
from tests.cli import run as command  # noqa: E402
from tracer_keras import KerasAdapter, backend  # noqa: E402

ROOT = Path(__file__).parent.parent
FIELDS = ("kind", "role", "parents", "shape", "dtype", "params", "config", "owner", "call", "scope", "layout", "source")


def run(name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own: a process has one backend for good."""
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "adapters", "tests"))
    environment = {**os.environ, "KERAS_BACKEND": name, "PYTHONPATH": paths, **more}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def on_tensorflow() -> dict[str, tuple[Structure, dict[str, Any]]]:
    keras.utils.clear_session()  # the names that Keras numbers begin anew, as in the other process
    made = {}
    for make in backend_models.MODELS:
        model, inputs = make()
        made[make.__name__] = backend_models.recorded(backend_models.weighted(model), inputs)
    return made


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_nodes_and_values_are_those_of_tensorflow(name: str, on_tensorflow: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"no {name}")
    done = run(name, ROOT / "tests" / "backend_models.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for key, (reference, values) in on_tensorflow.items():
        made = json.loads((tmp_path / f"{key}.json").read_text())
        assert made["loader"].startswith(f"keras {keras.__version__} on {name} ")
        assert set(made["versions"]) == {name, "keras", "numpy"}
        structure = Structure.from_json(made["structure"])
        assert [n.name for n in structure] == [n.name for n in reference]
        assert structure.outputs == reference.outputs
        assert structure.notes == reference.notes
        arrays = np.load(tmp_path / f"{key}.npz")
        for node, twin in zip(structure, reference, strict=True):
            for field in FIELDS:
                assert getattr(node, field) == getattr(twin, field), (node.name, field)
        for index, node in enumerate(structure.stored()):
            np.testing.assert_allclose(arrays[str(index)], values[node.name], rtol=1e-5, atol=1e-5, err_msg=node.name)


def test_what_else_holds_on_torch() -> None:
    done = run("torch", "-c", "import backend_checks as b; b.main()")
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_backend_that_keras_will_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.chosen() == "tensorflow"
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backend.chosen() == "tensorflow"
    assert KerasAdapter.requires == ("tensorflow", "keras")
    for text, name in (("[1]", "tensorflow"), ("{", "tensorflow"), ('{"backend": "torch"}', "torch")):
        (tmp_path / "keras.json").write_text(text)
        assert backend.chosen() == name
    assert KerasAdapter.requires == ("keras",)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    assert backend.chosen() == "numpy"
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(InputError, match=r"theano \(KERAS_BACKEND\): tracer records it on tensorflow, torch"):
        backend.check()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    with pytest.raises(MissingFrameworkError, match="pip install jax"):
        backend.check()


def test_the_command_line_takes_the_users_backend(tmp_path: Path) -> None:
    model, _ = backend_models.stateful()
    backend_models.weighted(model).save(tmp_path / "model.keras")
    done = command("record", "tf", "model.keras", cwd=tmp_path, KERAS_BACKEND="torch")
    assert f"by keras {keras.__version__} on torch {torch.__version__} (file made by Keras" in done.stdout
    says = "no gradients of Keras on torch: start with KERAS_BACKEND=tensorflow"
    line = refused(
        "record", "tf", "model.keras", "--name=x", "--grad=sum", cwd=tmp_path, says=says, KERAS_BACKEND="torch"
    )
    assert line.endswith(says)  # another input would not help


def test_the_worker_lets_tf_keras_mean_keras_2(tmp_path: Path) -> None:
    """The worker imports TensorFlow before it reads the file; its tf.keras must be the file's."""
    code = """
        import tensorflow as tf
        from tensorflow.keras.layers import Layer

        class Twice(Layer):
            def call(self, x):
                return 2 * tf.keras.activations.hard_sigmoid(x)
    """
    (tmp_path / "own.py").write_text(textwrap.dedent(code))
    space: dict[str, Any] = {"__name__": "own"}
    exec(textwrap.dedent(code).replace("tensorflow.keras", "tf_keras").replace("tf.keras", "tf_keras"), space)
    space["tf_keras"] = tf_keras
    x = tf_keras.Input((4,), name="x")
    tf_keras.Model(x, space["Twice"](name="twice")(x)).save(tmp_path / "model.h5")
    done = command("record", "tf", "model.h5", "--import", "own.py", cwd=tmp_path)
    assert "keras and tf.keras meant tf_keras in the imported code" in done.stderr
    trace = tracer.open(tmp_path / "trace.zarr")
    recording = trace.recording("tf")
    given = trace.inputs(recording.input_id)["x"][0]
    np.testing.assert_allclose(recording.read("twice"), 2 * np.clip(0.2 * given + 0.5, 0, 1), atol=1e-6)
