"""The published adapter kit, run on the PyTorch adapter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tracer.adapter import Array, LoadRequest
from tracer.testing import AdapterContract, Case, CodeFile
from tracer_torch import TorchAdapter

IMAGE = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
WORDS = np.random.default_rng(0).integers(0, 11, (2, 5))


class Branches(nn.Module):
    """In place, shared, functional, several outputs of which one is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        x = self.conv(x)
        x.relu_()
        y = self.twice(self.twice(x))
        y = self.drop(y + x)
        return {"mean": F.adaptive_avg_pool2d(y, 1).flatten(1), "all": y, "note": "done"}


class Tagger(nn.Module):
    """Whole numbers in, recurrent, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(self.embed(tokens))
        return self.encoder(x + self.shift)


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.bad = nn.Linear(9, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        raise RuntimeError("no weights for this day")


def made(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(1)
        return build().eval()

    return make


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2), nn.Softmax(1)
    )


def computed(model: Any, inputs: Any) -> dict[str, Array]:
    with torch.no_grad():
        conv = model[0](torch.from_numpy(inputs["input"]))
        norm = model[1](conv)
        return {"0": conv.numpy(), "1": norm.clone().numpy(), "2": F.relu(norm).numpy(), "4": model[:5](
            torch.from_numpy(inputs["input"])).numpy()}  # fmt: skip


def differentiated(model: Any, inputs: Any) -> dict[str | tuple[str, str], Array]:
    x = torch.from_numpy(inputs["input"]).requires_grad_()
    conv = model[0](x)
    conv.retain_grad()
    model[1:5](conv).sum().backward()
    return {"input": x.grad.numpy(), "0": conv.grad.numpy(), ("4", "weight"): model[4].weight.grad.numpy()}  # type: ignore[union-attr]


def state(model: nn.Module) -> object:
    modules = [
        (name, m.training, sorted(vars(m)), [len(v) for k, v in vars(m).items() if k.endswith("_hooks")], type(m))
        for name, m in model.named_modules()
    ]
    weights = [(name, p.requires_grad, p.grad is None, p._version) for name, p in model.named_parameters()]
    return modules, weights, torch.get_rng_state().tolist(), torch.is_grad_enabled()


def whole(folder: Path) -> LoadRequest:
    torch.save(made(sequential)(), folder / "whole.pt")
    return LoadRequest(folder / "whole.pt")


def weights(folder: Path) -> LoadRequest:
    torch.save(made(Branches)().state_dict(), folder / "weights.pth")
    return LoadRequest(folder / "weights.pth", arch="tests.test_contract_torch:Branches")


class Call:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def in_a_zip(folder: Path, marker: Path) -> LoadRequest:
    torch.save({"weights": torch.ones(2), "more": Call(marker)}, folder / "code.pt")
    return LoadRequest(folder / "code.pt")


def in_an_old_file(folder: Path, marker: Path) -> LoadRequest:
    torch.save({"more": Call(marker)}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return LoadRequest(folder / "old.pth")


class TestTorch(AdapterContract):
    adapter = TorchAdapter
    entry = "pt"
    cases = (
        Case(
            "sequential", {"input": IMAGE}, made(sequential), whole, expect=computed, state=state,
            nodes={"0": "conv2d", "1": "batchnorm", "2": "relu", "3": "flatten", "4": "dense", "5": "softmax"},
            other={"input": IMAGE[:1]}, wrong={"input": IMAGE[:, :2]},
        ),
        Case(
            "without softmax", {"input": IMAGE}, lambda: made(sequential)()[:5], gradients=differentiated, state=state,
        ),
        Case(
            "branches", {"x": IMAGE}, made(Branches), weights, state=state, tolerance=1e-4,
            nodes={"conv": "conv2d", "twice#0": "conv2d", "twice#1": "conv2d", "drop": "dropout", "add": "add"},
            other={"x": IMAGE[:, :, :4]},
        ),
        Case(
            "tagger", {"tokens": WORDS}, made(Tagger), state=state, tolerance=1e-4,
            nodes={"embed": "embedding", "lstm": "lstm", "encoder.self_attn": "attention", "encoder.relu": "relu"},
            other={"tokens": WORDS[:, :3]},
        ),
        Case("broken", {"x": IMAGE}, made(Broken), nodes={"first": "conv2d", "relu": "relu"}, raises="no weights for"),
    )  # fmt: skip
    code_files = tuple(CodeFile(f.__name__, f) for f in (in_a_zip, in_an_old_file))
