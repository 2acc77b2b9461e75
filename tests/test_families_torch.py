"""Real PyTorch model families are recorded whole: nothing that an independent count sees is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests import completeness_torch as completeness
from tests.cli import run
from tests.families import FAMILIES, Family, missing
from tracer_torch import TorchAdapter, functions, layers

TESTED = [family for family in FAMILIES.values() if family.framework == "torch" and family.tested]


def built(family: Family) -> Any:
    package = missing(family)
    if package is not None:
        pytest.skip(f"needs {package}")
    return family.build()


def lacking(model: nn.Module, inputs: dict[str, Any]) -> list[str]:
    recording = completeness.Recording.of(TorchAdapter().wrap(model), inputs)
    return completeness.lacking(completeness.count(model, inputs), recording)


@pytest.mark.parametrize("family", TESTED, ids=lambda family: family.name)
def test_nothing_is_missing(family: Family) -> None:
    model, inputs = built(family), family.inputs()
    recording = completeness.Recording.of(TorchAdapter().wrap(model), inputs)
    assert not recording.structure.fault
    assert not recording.reasons
    found = completeness.count(model, inputs)
    innermost = [name for name, module in model.named_modules() if completeness.innermost(module)]
    assert len(found) > len(innermost) / 2 > 1, "the count itself saw too little"
    assert completeness.lacking(found, recording) == []
    graph = completeness.traced(model, inputs)
    if graph is not None:
        assert len(graph) >= len(found) / 2
        assert completeness.lacking_of_graph(graph, recording) == []
    elif family.name.startswith(("timm", "torchvision")):
        pytest.fail("torch.fx no longer traces it")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = nn.Tanh()

    def forward(self, x: Any) -> Any:
        x = self.act(self.first(x)) + 1
        x[:, 0] = 2
        return torch.relu_(self.second(x.roll(1, 0)))


INPUT = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def test_a_count_agrees_with_reading_the_code() -> None:
    found = completeness.count(Small(), INPUT)
    assert [item.where for item in found.modules] == ["first", "act", "second"]
    assert [item.what for item in found.functions] == ["add", "setitem", "roll", "relu"]
    assert lacking(Small(), INPUT) == []


@pytest.mark.parametrize("word", ["add", "roll", "setitem"])
def test_a_recorder_blind_to_an_operation_is_found_out(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "ASKING", functions.ASKING | {word})
    assert [item.split(" ")[0] for item in lacking(Small(), INPUT)] == [word]


def test_a_recorder_blind_to_a_module_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = layers.is_leaf
    monkeypatch.setattr(layers, "is_leaf", lambda module: not isinstance(module, nn.Tanh) and whole(module))
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    assert lacking(model, {"input": INPUT["x"]}) == ["call 0 output 0 in '1'"]


def test_a_recorder_that_shows_a_tensor_too_late_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracer_torch.model as module

    monkeypatch.setattr(module, "to_array", lambda tensor: (np.asarray(tensor.detach().numpy()), True))
    monkeypatch.setattr("tracer.adapter.np.array", np.asarray)  # the sink's copy
    assert any(item.startswith("call 0 output 0 in 'second'") for item in lacking(Small(), INPUT))


@torch.jit.script
def _scripted(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


class WithScript(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.last(_scripted(self.first(x)))


def test_what_comes_out_of_torchscript_is_a_node() -> None:
    model = WithScript()
    recording = completeness.Recording.of(TorchAdapter().wrap(model), INPUT)
    assert [node.name for node in recording.structure] == ["x", "first", "unseen", "last"]
    assert recording.structure.by_name["last"].parents == ("unseen",)
    assert any("'unseen'" in note for note in recording.structure.notes)
    with torch.no_grad():
        wanted = _scripted(model.first(torch.from_numpy(INPUT["x"])))
    assert recording.values["unseen"] == completeness.digest(wanted)


def test_tensors_that_only_have_an_activations_shape_are_constants() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            mask = x.new_zeros(x.shape)
            mask[:, 1] = 1
            return self.fc(x) * mask + torch.ones_like(x)

    recording = completeness.Recording.of(TorchAdapter().wrap(Filled()), INPUT)
    assert [(node.name, node.parents) for node in recording.structure] == [
        ("x", ()), ("fc", ("x",)), ("mul", ("fc",)), ("add", ("mul",)),
    ]  # fmt: skip


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any, weight: torch.Tensor | None = None, flag: bool | None = None) -> Any:
        return self.fc(x) if weight is None else self.fc(x) * weight


def test_optional_arguments_are_passed_on_where_they_are_given(tmp_path: Path) -> None:
    wrapped = TorchAdapter().wrap(Optional())
    assert [spec.name for spec in wrapped.signature()] == ["x"]
    assert [spec.name for spec in wrapped.optional()] == ["weight"]
    recording = tracer.record(Optional(), INPUT, trace=tmp_path / "t.zarr")
    assert [node.name for node in recording.structure] == ["x", "fc"]
    both = {**INPUT, "weight": np.full((3, 1), 3, np.float32)}
    recording = tracer.record(Optional(), both, trace=tmp_path / "u.zarr")
    assert [node.name for node in recording.structure] == ["x", "weight", "fc", "mul"]


def test_fused_attention_is_said_to_run_otherwise() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x, need_weights=False)[0]

    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    structure = TorchAdapter().wrap(Attending()).structure({"x": x})
    assert any(note.startswith("nn.MultiheadAttention runs its ordinary code") for note in structure.notes)


ARCHITECTURE = """
import torch

kept = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        kept.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from transformers import BertConfig, BertModel


def bert():
    return BertModel(BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                intermediate_size=16))
"""


def test_a_transformer_with_optional_inputs_on_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "net.py").write_text(ARCHITECTURE)
    mask = np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    np.savez(tmp_path / "in.npz", input_ids=np.arange(18).reshape(2, 9), attention_mask=mask)
    said = run("record", "pt", "--arch", "net.py:bert", "--input", "in.npz", cwd=tmp_path).stdout
    assert "2×9, 2×9" in said
    recording = tracer.open(tmp_path / "trace.zarr").recording("pt")
    assert [node.name for node in recording.structure.inputs] == ["input_ids", "attention_mask"]
    read = [parent for node in recording.structure for parent in node.parents]
    assert read.count("attention_mask") >= 1


class Shared(nn.LeakyReLU):
    """Its slope is its class's."""

    negative_slope = 0.3

    def __init__(self) -> None:
        super().__init__()
        del self.negative_slope


class Asked(nn.LeakyReLU):
    """It answers for a slope that it does not hold."""

    def __init__(self) -> None:
        super().__init__()
        del self.negative_slope

    def __getattr__(self, name: str) -> Any:
        return 0.3 if name == "negative_slope" else super().__getattr__(name)


@pytest.mark.parametrize("layer", [nn.LeakyReLU(0.3), Shared(), Asked()])
def test_settings_are_found_wherever_a_layer_keeps_them(layer: nn.Module) -> None:
    assert layers.config(layer)["negative_slope"] == 0.3
