"""Networks and helpers for the tests of TorchScript and torch.export."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracer.adapter import Array, LoadedModel, MemorySink, Run
from tracer.graph import Structure
from tracer_torch import TorchAdapter


class Cnn(nn.Module):
    """Layers of most kinds, functions between them, a shared module, a buffer, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.depth = nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect")
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.GroupNorm(2, 4)
        self.seq = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
        self.register_buffer("k", torch.full((4,), 0.5))
        self.drop = nn.Dropout(0.3)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.act(self.bn(self.conv(x)))
        y = self.norm(self.pool(self.depth(self.up(y))))
        y = F.max_pool2d(F.relu(y), 2)
        y = y.mean([2, 3])[:, :3]
        y = torch.cat([y, y[:, 1:2]], 1)
        y = self.drop(self.seq(self.seq(y)) * self.k + 2)
        out, (h, _) = self.lstm(y[:, None])
        return torch.softmax(self.head(out[:, -1]), -1), {"h": h}


class Loop(nn.Module):
    """Loops, branches, lists, dicts and an assignment to a part, which only scripting keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.out = nn.Linear(5, 2)
        self.steps = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])

    def forward(self, x: Tensor, n: int = 3) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        h = torch.zeros(x.shape[0], 5)
        outs: list[Tensor] = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if float(h.sum()) > 100.0:
                h = h * 0.5
            outs.append(self.out(h))
        i = 0
        while i < n:
            h = h + i
            i += 1
        y = torch.stack(outs, 1)
        for step in self.steps:
            y = step(y)
        z = torch.cat(y.chunk(2, dim=-1), -1)
        z[:, 0] = 0.0
        found: dict[str, Tensor] = {}
        found["y"] = y.mean(1)
        return z.masked_fill(z > 0, 1.0), [h, y], found


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 8)
        self.enc = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.ln = nn.LayerNorm(8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.ln(self.enc(self.emb(ids)))


class State(nn.Module):
    """Counts its calls in a buffer, a number and a list."""

    count: Tensor
    history: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.lin = nn.Linear(3, 3)
        self.calls = 0
        self.history = []

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        self.calls += 1
        self.history.append(x)
        return self.lin(x) + self.count + self.calls + len(self.history)


class Odd(nn.Module):
    """Has something in it that cannot be run step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)

    @torch.jit.ignore
    def python(self, x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.python(self.lin(x))


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if bool(y.sum() > -1e9):
            raise ValueError("not today")
        return self.b(y)


class Evil(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.place = place

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.place, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.place = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), self.place)

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def random(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def scripted(module: nn.Module) -> Any:
    script: Any = torch.jit.script
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return script(module)


def traced(module: nn.Module, *args: Tensor) -> Any:
    trace: Any = torch.jit.trace
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace(module, args, check_trace=False, strict=False)


def reloaded(script: Any) -> Any:
    buffer = io.BytesIO()
    load: Any = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(script, buffer)
        buffer.seek(0)
        return load(buffer)


def recorded(model: object, inputs: Mapping[str, Tensor], run: Run | None = None) -> tuple[Structure, MemorySink]:
    """What is recorded of a live model, or of one that is loaded already."""
    loaded = model if isinstance(model, LoadedModel) else TorchAdapter().wrap(model)
    loaded.run = run or Run()
    arrays: dict[str, Array] = {name: tensor.numpy() for name, tensor in inputs.items()}
    structure = loaded.structure(arrays)
    sink = MemorySink()
    loaded.capture(arrays, sink)
    assert list(sink.values) == [node.name for node in structure.stored()]
    assert not any("inside is not shown" in note for note in loaded.notes), loaded.notes
    params = [(node.owner, param.name) for node in structure for param in node.params]
    assert len(params) == len(set(params))
    assert set(params) <= {(owner, param.name) for owner, param, _ in loaded.parameters()}
    return structure, sink


def same_recording(
    mine: tuple[Structure, MemorySink], its: tuple[Structure, MemorySink], *, besides: tuple[str, ...] = ()
) -> None:
    """Nodes, kinds, edges, parameters and values are the same, bit for bit; configurations besides those words."""
    assert [node.name for node in mine[0]] == [node.name for node in its[0]]
    for node, other in zip(mine[0], its[0], strict=True):
        assert (node.kind, node.role, node.params, node.shape) == (other.kind, other.role, other.params, other.shape)
        # What is given as query, key and value at once is one argument of a traced module.
        assert tuple(dict.fromkeys(node.parents)) == tuple(dict.fromkeys(other.parents)), node.name
        assert node.alias_of == other.alias_of
        said = [{k: v for k, v in n.config.items() if k not in besides} for n in (node, other)]
        assert said[0] == said[1], node.name
        if node.alias_of is None:
            np.testing.assert_array_equal(mine[1].values[node.name], its[1].values[node.name], err_msg=node.name)
    assert mine[0].outputs == its[0].outputs
