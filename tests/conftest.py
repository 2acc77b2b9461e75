"""Fixtures and settings that every test shares."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("tracer", deadline=None)
hypothesis.settings.load_profile("tracer")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# What a command remembers of the user is not this user's.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tracer-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    return tmp_path / "trace.zarr"


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    """Fresh layers draw their weights: a test that depends on the draw would fail now and then."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(0)
    for name in ("keras", "tf_keras"):
        if (keras := sys.modules.get(name)) is not None:
            keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are computed faster by one thread than handed to several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras model and a port that flattens in another order, recorded by the project itself."""
    if find_spec("keras") is None or find_spec("torch") is None:
        pytest.skip("needs keras and torch")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share one
        folder = folder.parent
    path = folder / "real" / "trace.zarr"
    with open(folder / "real.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.parent.exists():
            _record(path)
    return path


def _record(path: Path) -> None:
    """The trace appears when it is whole."""
    import tracer
    from tests.zoo.ecg_generic import PAIRS

    made = path.parent.with_suffix(".part")
    made.mkdir(exist_ok=True)
    keras, torch = PAIRS[0].defective("flatten-order")
    tracer.record(keras(), PAIRS[0].inputs(), name="tf", trace=made / path.name)
    tracer.record(torch(), None, name="pt", trace=made / path.name)
    made.rename(path.parent)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A trace of three pairs, the last of which differs."""
    from tests.tui_driving import two, values

    ours = {"x": values(1, 4), "one": values(1, 8, 8, 3, seed=1), "two": values(1, 6, 5, seed=2)}
    return two(tmp_path / "trace.zarr", ours, {**ours, "two": ours["two"] + 0.5})
