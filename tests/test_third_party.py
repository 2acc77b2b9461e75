"""The packages of examples/, installed as a stranger's: found, used by the commands, and as short as is said."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli import ENVIRONMENT, run

EXAMPLES = Path(__file__).parent.parent / "examples"

NETS = """
import torch

@torch.library.custom_op("kernels::relu8", mutates_args=())
def relu8(x: torch.Tensor) -> torch.Tensor:
    step = x.max() / 127
    return torch.round(torch.relu(x) / step) * step

class Net(torch.nn.Module):
    def __init__(self, relu):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.relu = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4), relu

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))

def right():
    return Net(torch.relu)

def quantised():
    return Net(relu8)
"""
"""The ReLU of the second is a kernel of somebody's own, which rounds to 8 bits: one node that says nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path with both packages installed as pip does it."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("third")
    packages = [
        shutil.copytree(EXAMPLES / name, folder / name) for name in ("adapter", "cause")
    ]  # building leaves files
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    bare = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--target", folder / "site"]
    subprocess.run([*pip, *map(str, (*bare, *packages))], check=True, capture_output=True, text=True)
    return f"{ENVIRONMENT['PYTHONPATH']}:{folder / 'site'}"


@pytest.mark.parametrize("path", ["adapter/tracer_onnxref.py", "cause/tracer_quantised.py"])
def test_an_example_is_less_than_sixty_lines(path: str) -> None:
    """Beside imports, comments, docstrings and blank lines."""
    lines: set[int] = set()
    tree = ast.parse((EXAMPLES / path).read_text("utf-8"))
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not isinstance(node, ast.stmt) or isinstance(node, ast.Import | ast.ImportFrom) or text:
            continue
        body = getattr(node, "body", None)
        lines.update(range(node.lineno, (body[0].lineno if body else (node.end_lineno or 0) + 1)))
    assert 20 < len(lines) < 60


def test_the_adapter_keeps_the_contract(site: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    shutil.copy(EXAMPLES / "adapter" / "test_onnxref.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_onnxref.py"],
        cwd=tmp_path, capture_output=True, text=True, env={**ENVIRONMENT, "PYTHONPATH": site},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "35 passed" in done.stdout


def test_the_adapter_records_what_ours_is_compared_with(site: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str, *shape: int) -> object:
        return numpy_helper.from_array(np.random.default_rng(len(name)).standard_normal(shape).astype("f4"), name)

    operations = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        operations, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])],
        [tensor("conv.weight", 4, 3, 3, 3), tensor("conv.bias", 4), tensor("fc.weight", 4, 5)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    run("record", "onnx", "net.onnx", cwd=tmp_path)
    done = run("record", "onnxref", "net.onnx", cwd=tmp_path, PYTHONPATH=site)
    assert "7 of 7 activations" in done.stdout
    assert "7 pairs: ✓ 7 match" in run("diff", "onnx", "onnxref", "--strict", cwd=tmp_path).stdout
    assert "✓ 3 equal" in run("weights", "onnx", "onnxref", cwd=tmp_path).stdout


def test_the_cause_is_named_and_proven(site: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "nets.py").write_text(NETS)
    for name in ("right", "quantised"):
        shape = ("--input-shape", "2,3,8,8") if name == "right" else ()
        run("record", "pt", "--arch", f"nets.py:{name}", "--name", name, *shape, cwd=tmp_path)
    assert "unknown cause" in run("explain", cwd=tmp_path, code=1).stdout
    said = run("explain", cwd=tmp_path, code=1, PYTHONPATH=site).stdout
    assert "activation-quantised: the candidate rounds what relu gives to multiples of 0.0" in said
    assert "fix    round on both sides or on none" in said
    assert "unknown" not in said
