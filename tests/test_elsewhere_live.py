"""Two trainings in two virtual environments, compared by a daemon in a third, as docs/live.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tracer
from tests.environments import environment, lacks

ROOT = Path(__file__).parent.parent
RECORDS = ("numpy", "pyzmq", "pydantic", "platformdirs")
"""What an environment needs to record for a daemon, beside its framework and tracer itself."""
DAEMONS = ("zarr", "scipy", "yaml", "psutil", "google_crc32c", "typer", "textual")


def test_keras_and_torch_train_apart(tmp_path: Path) -> None:
    keras = environment(tmp_path / "keras", "tensorflow", "keras", *RECORDS, tracer=True)
    torch = environment(tmp_path / "torch", "torch", *RECORDS, tracer=True)
    assert lacks(keras, *DAEMONS, "torch")
    assert lacks(torch, *DAEMONS, "tensorflow", "keras", "ml_dtypes", "rich")
    done = subprocess.run(
        [
            sys.executable, ROOT / "scripts" / "two_trainings.py", "--keras", keras, "--torch", torch,
            "--steps", "16", "--every", "5", "--trace", tmp_path / "t.zarr",
        ],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "keras ⇄ torch-epsilon: 4 steps compared" in done.stdout
    assert "15  diverged  conv" in done.stdout
    trace = tracer.open(tmp_path / "t.zarr")
    errors = {}
    for name in ("torch", "torch-epsilon"):
        recording = trace.recording(name)
        assert (recording.steps, recording.attributes["reference"]) == ((0, 5, 10, 15), "keras")
        for step in recording.steps:
            pair = tracer.diff(trace.recording(f"keras@{step}"), recording.at(step), causes=False).pairs[-1]
            assert pair.stats is not None
            errors[name, step] = pair.stats.rel_l2
    assert errors["torch-epsilon", 0] < 1e-6
    assert errors["torch-epsilon", 5] < errors["torch-epsilon", 15]
    assert errors["torch", 15] < 0.1 * errors["torch-epsilon", 15]
    assert {"tensorflow", "keras"} <= trace.recording("keras").attributes["versions"].keys()
