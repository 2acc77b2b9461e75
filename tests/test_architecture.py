"""What may import what, measured at run time: the core and its readers need no framework and no screen."""

from __future__ import annotations

import ast
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


def test_reading_commands_import_no_framework(folder: Path) -> None:
    commands = ["--help", "record --help", "runs", "diff", "diff --json", "map", "weights", "info", "show a"]
    commands += ["export a -o a.npz", "export --model-explorer a.json"]
    code = f"""
import sys
from tracer.cli.main import run
for command in {commands!r}:
    assert run(command.split()) == 0, command
    found = {HEAVY!r}.intersection(sys.modules)
    assert not found, (command, found)
"""
    assert imported(code, folder) == set()


READING = {"scipy", "zmq", "yaml", "psutil", "asyncio", "multiprocessing"}
"""What takes long to import, and what the commands that only read do without."""


def loaded(code: str, cwd: Path) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (["--help"], {*READING, "numpy", "pydantic", "tracer.store", "tracer.alignment"}),
        (["runs"], {*READING, "tracer.alignment.engine", "tracer.compare.comparing", "tracer.causes.explain"}),
        (["diff", "--no-explain"], {*READING, "tracer.causes.explain", "tracer.alignment.mapping"}),
    ],
)
def test_a_command_imports_what_it_needs(arguments: list[str], without: set[str], folder: Path) -> None:
    found = loaded(f"from tracer.cli.main import run; assert run({arguments!r}) in (0, 1)", folder)
    assert not without & found


def test_the_first_screen_needs_no_comparison(folder: Path) -> None:
    """What compares is imported once that is drawn."""
    found = loaded("import tracer_tui.app", folder)
    assert "tracer_tui.screens.layers" in found
    heavy = {"tracer.alignment.engine", "tracer.compare.comparing", "tracer.causes.explain", "tracer.live.judging"}
    assert not {*heavy, "pydantic", "scipy", "zarr", "zmq", "yaml"} & found


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


_SINCE_311 = {
    "Self", "StrEnum", "tomllib", "file_digest", "exception", "UTC", "ExceptionGroup", "assert_never", "Never",
    "LiteralString", "Required", "NotRequired", "Unpack", "TypeVarTuple", "reveal_type", "chdir", "timeout_at",
}  # fmt: skip
_WATCHING = {"tapping.py", "lightning.py", "callback.py", "eager.py", "handover.py", "outlet.py"}
"""Of the adapters, what only a program that has tracer itself runs."""


def test_what_a_worker_in_another_environment_imports(folder: Path) -> None:
    """Only numpy besides the framework, and nothing that Python 3.10 lacks."""
    lacking = ("pydantic", "yaml", "zarr", "psutil", "platformdirs", "zmq", "rich", "typer", "google_crc32c", "scipy")
    code = f"""
import sys
for name in {lacking!r}: sys.modules[name] = None
from importlib import import_module
from tracer.worker.main import COMMANDS
from tracer.causes import operations
operations.known("conv")
for where in COMMANDS.values(): import_module(where.partition(":")[0])
print(*(m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "tracer" and m.__file__), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) > 100
    adapters = Path(__file__).parent.parent / "adapters"
    files += [path for path in adapters.rglob("*.py") if path.name not in _WATCHING]
    for path in files:
        assert not _newer(ast.parse(path.read_text(), feature_version=(3, 10))), path


def _newer(tree: ast.AST) -> set[str]:
    """Names of the standard library that Python 3.10 lacks; what only a type checker sees is nothing."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.alias):
            found.add(node.name)
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("sys", "hashlib")
        ):
            found.add(node.attr)
        found |= _newer(node)
    return found & _SINCE_311


def test_no_module_outgrows_one_room() -> None:
    root = Path(__file__).parent.parent
    for package in ("tracer", "adapters", "tui"):
        for path in (root / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 600, path
