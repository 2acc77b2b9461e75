"""Small ONNX graphs and exported networks for the tests of the ONNX adapter."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tracer.adapter import LoadRequest, MemorySink, NotRecorded
from tracer.graph import Structure
from tracer_onnx import OnnxAdapter
from tracer_onnx.model import OnnxModel


def floats(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    """An input of single precision."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """``node("Add", "a b", "c")``; ``_`` is an input that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: str,
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 21,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model of one graph; ``weights`` are its initializers."""
    initial = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        list(nodes), "graph", list(inputs), [onnx.ValueInfoProto(name=name) for name in outputs.split()],
        [*initial, *initializers],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def wrap(proto: onnx.ModelProto) -> OnnxModel:
    loaded = OnnxAdapter().wrap(proto)
    assert isinstance(loaded, OnnxModel)
    return loaded


def load(path: Path, **more: Any) -> OnnxModel:
    loaded = OnnxAdapter().load(LoadRequest(path, **more))
    assert isinstance(loaded, OnnxModel)
    return loaded


def recorded(loaded: OnnxModel, inputs: dict[str, Any]) -> tuple[Structure, dict[str, Any]]:
    """The structure, and the value of every node, as they were announced."""
    structure, sink = loaded.structure(inputs), MemorySink()
    loaded.capture(inputs, sink)
    assert set(sink.values) == {n.name for n in structure}
    for found in structure:
        value = sink.values[found.name]
        if not isinstance(value, NotRecorded):
            assert (value.shape, str(value.dtype)) == (found.shape, found.dtype), found.name
    return structure, sink.values


def random(*shape: int) -> Any:
    """Standard normal numbers of single precision, the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def packaged(package: str, file: str) -> Path | None:
    """A model that an installed package carries; the package is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / file
    return path if path.is_file() else None


def torch_net() -> Any:
    """A network with what exporters write in several ways; no batch normalisation behind a convolution, which they
    would fold."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(width)
            self.relu = nn.ReLU()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width)

        def forward(self, x: Any) -> Any:
            y = self.relu(self.conv1(self.relu(self.bn(x))))
            return x + self.conv2(y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.layer1 = nn.Sequential(Block(8), Block(8))
            self.pos = nn.Parameter(torch.randn(1, 16, 8))
            self.proj = nn.Linear(8, 12)
            self.act = nn.GELU()
            self.ln = nn.LayerNorm(12)
            self.lstm = nn.LSTM(12, 6, batch_first=True)
            self.fc = nn.Linear(12, 5)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                        nn.init.uniform_(tensor, 0.5, 1.5)
            nn.init.uniform_(self.ln.weight, 0.5, 1.5)

        def forward(self, x: Any) -> Any:
            x = functional.max_pool2d(functional.silu(self.stem(x)), 2)
            x = self.layer1(x).flatten(2).transpose(1, 2) + self.pos
            x = self.ln(self.act(self.proj(x)))
            y, _ = self.lstm(x)
            return self.fc(x.mean(1)), y

    torch.manual_seed(0)
    return Net().eval()


def export(net: Any, path: Path, shape: Sequence[int], *, opset: int, dynamo: bool = False) -> Path:
    """Export with torch's older exporter, or its newer one."""
    import torch

    x = torch.zeros(*shape)
    if dynamo:
        torch.onnx.export(net, (x,), path, dynamo=True, opset_version=opset, input_names=["x"], verbose=False)
    else:
        torch.onnx.export(
            net, (x,), path, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
        )
    return path
