"""Quantized layers are recorded as the numbers they stand for, under the names and kinds of the float network."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization as quantization
from torch import Tensor, nn

from tests.programs import random, recorded, reloaded, scripted, traced
from tracer.adapter import LoadRequest
from tracer_torch import TorchAdapter


class Dynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.lstm = nn.LSTM(5, 3, batch_first=True)
        self.b = nn.Linear(3, 2)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.b(torch.relu(self.lstm(self.a(x))[0]))


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = quantization.QuantStub()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.point = nn.Conv2d(4, 4, 1)
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.fc = nn.Linear(4, 2)
        self.dequant = quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(self.quant(x))))
        y = self.sum.add(y, self.point(y))
        return self.dequant(self.fc(y.mean([2, 3])))


def dynamic() -> tuple[nn.Module, Any]:
    net = Dynamic().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net, quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear, nn.LSTM}, dtype=torch.qint8)


def static() -> Any:
    """Built, calibrated and converted: also what ``--arch`` would call."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: Any = quantization.fuse_modules(Static().eval(), [["conv", "bn", "relu"]])
        net.qconfig = quantization.get_default_qconfig("x86")
        quantization.prepare(net, inplace=True)
        net(random(4, 3, 6, 6))
        return quantization.convert(net)


@pytest.fixture(autouse=True)
def _engine() -> None:
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantized engine for this processor")
    torch.backends.quantized.engine = "x86"


def test_dynamic_layers_are_layers_with_weights() -> None:
    net, packed = dynamic()
    its, plain = recorded(net, {"x": random(2, 3, 4)})
    for model in (packed, scripted(packed), reloaded(traced(packed, random(2, 3, 4)))):
        structure, sink = recorded(model, {"x": random(2, 3, 4)})
        assert [n.name for n in structure if n.role != "item"] == [n.name for n in its if n.role != "item"]
        for name in ("a", "b"):
            mine, other = structure.by_name[name], its.by_name[name]
            assert (mine.kind, mine.config) == (other.kind, other.config)
            assert [param.name for param in mine.params] == ["weight", "bias"]
            np.testing.assert_allclose(
                np.asarray(sink.values[name]), np.asarray(plain.values[name]), atol=0.05
            )  # eight bits
        assert structure.by_name["lstm"].kind == "lstm"
    values = {(owner, param.name): value for owner, param, value in TorchAdapter().wrap(packed).parameters()}
    np.testing.assert_allclose(values["a", "weight"], net.a.weight.detach().numpy(), atol=0.01)  # type: ignore[union-attr]
    assert values["lstm", "weight_hh_l0"].shape == (12, 3)


def test_static_layers_give_real_numbers() -> None:
    net = static()
    with torch.no_grad():
        inside = net.conv(net.quant(random(2, 3, 6, 6)))
    for model in (net, reloaded(traced(net, random(2, 3, 6, 6)))):
        structure, sink = recorded(model, {"x": random(2, 3, 6, 6)})
        conv, fc = structure.by_name["conv"], structure.by_name["fc"]
        assert (conv.kind, conv.dtype, conv.config["activation"]) == ("conv2d", "float32", "relu")
        assert (conv.config["quantized"], conv.config["zero_point"]) == ("quint8", inside.q_zero_point())
        assert conv.config["scale"] == inside.q_scale()
        assert (conv.config["filters"], conv.config["in_channels"], conv.config["padding"]) == (4, 3, [0, 0])
        assert [param.name for param in conv.params][:2] == ["weight", "bias"]
        assert (fc.kind, fc.config["units"]) == ("dense", 2)
        np.testing.assert_array_equal(np.asarray(sink.values["conv"]), inside.dequantize().numpy())
        kinds = {node.name: node.kind for node in structure}
        assert (kinds["quant"], kinds["dequant"], kinds["add"]) == ("quantize", "cast", "add")
    with torch.no_grad():
        np.testing.assert_array_equal(np.asarray(sink.values["dequant"]), net(random(2, 3, 6, 6)).numpy())


def test_state_dicts_and_whole_modules_load(tmp_path: Path) -> None:
    net = static()
    its = recorded(net, {"x": random(2, 3, 6, 6)})[1].values["dequant"]
    torch.save(net.state_dict(), tmp_path / "state.pt")
    torch.save({"model": net.state_dict()}, tmp_path / "checkpoint.pt")
    torch.save(net, tmp_path / "whole.pt")
    adapter = TorchAdapter()
    arch = f"{__file__}:static"
    for request in (
        LoadRequest(tmp_path / "state.pt", arch=arch),
        LoadRequest(tmp_path / "checkpoint.pt", arch=arch),
        LoadRequest(tmp_path / "whole.pt", trust=True),
    ):
        _, sink = recorded(adapter.load(request), {"x": random(2, 3, 6, 6)})
        np.testing.assert_array_equal(np.asarray(sink.values["dequant"]), np.asarray(its))


def test_eight_bit_floats_are_kept() -> None:
    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.float8_e4m3fn).to(torch.float32)

    structure, sink = recorded(Small(), {"x": random(2, 3)})
    cast = next(node for node in structure if node.dtype == "float8_e4m3fn")
    assert np.asarray(sink.values[cast.name]).dtype.name == "float8_e4m3fn"
