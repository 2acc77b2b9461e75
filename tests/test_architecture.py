"""What may import what, measured at run time: the core and its readers need no framework and no screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tracer

HEAVY = {"torch", "tensorflow", "keras", "tf_keras", "h5py", "textual", "zarr", "xarray"}


def imported(code: str, cwd: Path) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) & HEAVY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("trace")
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    for name in ("a", "b"):
        tracer.record(net, np.ones((2, 3), "f4"), name=name, trace=path / "trace.zarr")
    return path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["record", "--help"], ["runs"], ["diff"], ["diff", "--json"], ["map"], ["weights"], ["info"]],
)
def test_reading_commands_import_no_framework(arguments: list[str], folder: Path) -> None:
    assert imported(f"from tracer.cli.main import run; assert run({arguments!r}) == 0", folder) == set()


def test_the_public_face_is_lazy(folder: Path) -> None:
    code = "import tracer, sys; assert 'numpy' not in sys.modules; dir(tracer); import tracer_torch, tracer_keras"
    assert imported(code, folder) == set()
    assert all(getattr(tracer, name) is not None for name in tracer.__all__)
    with pytest.raises(AttributeError):
        _ = tracer.no_such_name


def test_one_adapter_does_not_import_the_other_framework(folder: Path) -> None:
    code = (
        "import torch, tracer; net = torch.nn.Sequential(torch.nn.Linear(3, 3)); "
        "tracer.record(net, torch.ones(2, 3).numpy(), name='c', trace='trace.zarr', force=True)"
    )
    assert imported(code, folder) == {"torch"}


def test_no_module_outgrows_one_room() -> None:
    root = Path(__file__).parent.parent
    for package in ("tracer", "adapters", "tui"):
        for path in (root / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 600, path
