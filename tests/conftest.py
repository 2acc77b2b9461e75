"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("tracer", deadline=None)
hypothesis.settings.load_profile("tracer")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


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
