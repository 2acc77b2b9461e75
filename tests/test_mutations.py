"""The defect bench's defects: each changes the model, leaves the original alone, and says what it did to the graph."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations import KINDS, Mutation, Subject, differ, observe
from tracer.graph import Structure

pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act = nn.LeakyReLU(0.1)
        self.short = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Any) -> Any:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return F.relu(out + self.short(x))


class Vision(nn.Module):
    """Residual blocks, a depthwise convolution, branches, pools, an upsampling decoder, a flatten, dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.stage = nn.Sequential(Residual(8), Residual(8), Residual(8), Residual(8, 2))
        self.depthwise = nn.Conv2d(8, 16, 3, 1, 1, groups=8)
        self.norm = nn.GroupNorm(4, 16)
        self.left, self.right = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 10, 3, 1, 1)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.bigger = nn.Upsample(scale_factor=2, mode="bilinear")
        self.shuffle = nn.PixelShuffle(2)
        self.drop = nn.Dropout(0.3)
        self.dense = nn.Sequential(nn.Linear(2 * 8 * 8, 24), nn.GELU(), nn.Linear(24, 24), nn.Tanh())
        self.head = nn.Linear(24, 5)

    def forward(self, image: Any) -> Any:
        x = self.norm(F.gelu(self.depthwise(self.stage(self.stem(image)))))
        x = self.pool(torch.cat([self.left(x), self.right(x)], 1))
        x = self.shuffle(self.bigger(self.up(x)))
        x = F.interpolate(x, scale_factor=0.5, mode="nearest")
        x = self.head(self.dense(self.drop(torch.flatten(x, 1))))
        return torch.softmax(x, 1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, steps, width = x.shape
        q, k, v = (
            p(x).view(batch, steps, self.num_heads, -1).transpose(1, 2) for p in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / (width // self.num_heads) ** 0.5
        scores = scores.masked_fill(torch.ones(steps, steps).tril() == 0, -1e9)
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, steps, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Language(nn.Module):
    """Two embeddings, attention blocks, nn.MultiheadAttention, recurrent layers, the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, 12), nn.Embedding(9, 12)
        self.blocks = nn.ModuleList(Block(12) for _ in range(3))
        self.mixing = nn.MultiheadAttention(12, 3, batch_first=True)
        self.lstm = nn.LSTM(12, 7, batch_first=True)
        self.gru = nn.GRU(7, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, ids: Any) -> Any:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.mixing(x, x, x)[0]
        x = self.gru(self.lstm(x)[0])[0]
        return self.head(x[:, -1])


def drawn(model: nn.Module) -> nn.Module:
    """Weights and statistics that are not what layers begin with: else not loading them were no defect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif value.dim() > 1:
                value.copy_(noise * (1.6 / value[0].numel()) ** 0.5)
            else:
                value.add_(0.3 * noise)
    return model.eval()


MOVING = (".movedim", ".reshape", ".transpose", ".flip", "ConstantPad2d")


@cache
def subjects() -> dict[str, Subject]:
    rng = np.random.default_rng(0)
    return {
        "vision": Subject(drawn(Vision()), {"image": rng.standard_normal((2, 3, 32, 32), dtype=np.float32)}),
        "language": Subject(drawn(Language()), {"ids": rng.integers(0, 30, (3, 9))}),
    }


@cache
def mutated(name: str) -> dict[str, Mutation]:
    found = {kind: subjects()[name].mutate(kind) for kind in KINDS}
    return {kind: mutation for kind, mutation in found.items() if mutation is not None}


def values_of(model: nn.Module, subject: Subject) -> tuple[Structure, dict[str, Any]]:
    """The graph, and what each node holds."""
    seen: list[Any] = []
    structure, _ = observe(model, subject.inputs, lambda event, tensor: seen.append(tensor.detach().clone()))
    return structure, {node.name: tensor for node, tensor in zip(structure, seen, strict=True)}


def far(a: Any, b: Any) -> bool:
    return a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def unexplained(
    mutation: Mutation, old: tuple[Structure, dict[str, Any]], new: tuple[Structure, dict[str, Any]]
) -> list[str]:
    """Nodes that differ from the one they are said to be, though nothing that they read does."""
    changed: set[str] = set()
    found = []
    for node in new[0]:
        twin = mutation.names.get(node.name)
        if twin is not None and not far(old[1][twin], new[1][node.name]):
            continue
        changed.add(node.name)
        if twin is None:
            continue
        meant = any(
            twin == place or twin.startswith((f"{place}.", f"{place}#", f"{place}[")) for place in mutation.where
        )
        lost = any(parent in mutation.gone for parent in old[0].by_name[twin].parents)
        if not (meant or lost or any(read in changed for read in (*node.parents, node.alias_of))):
            found.append(node.name)
    return found


@pytest.mark.parametrize("name", ["vision", "language"])
def test_defects_change_the_model_where_they_say_and_leave_the_original_alone(name: str) -> None:
    subject = subjects()[name]
    before = values_of(subject.model, subject)
    for kind, mutation in mutated(name).items():
        after = values_of(mutation.model, subject)
        outputs = [[values[out] for out in structure.outputs] for structure, values in (before, after)]
        assert differ(*outputs) != mutation.latent, kind
        kept = set(mutation.names.values()) - {None}
        assert mutation.names.keys() <= after[0].by_name.keys(), kind
        left_out = [after[0].by_name[node] for node in after[0].by_name.keys() - mutation.names.keys()]
        assert all(node.alias_of or node.label.endswith(MOVING) for node in left_out), kind
        assert kept | mutation.gone == before[0].by_name.keys(), kind
        assert not kept & mutation.gone, kind
        assert mutation.added | mutation.renamed.keys() <= after[0].by_name.keys(), kind
        # Only what passes on another's tensor may be that other as well.
        own = [old for new, old in mutation.names.items() if old and not after[0].by_name[new].alias_of]
        assert len(own) == len(set(own)), kind
        assert not unexplained(mutation, before, after), kind
    again = values_of(subject.model, subject)
    assert again[0].to_json() == subject.structure.to_json()
    assert all(torch.equal(again[1][node], values) for node, values in before[1].items())


def test_every_kind_is_tried_and_drawn_alike() -> None:
    applied = {kind for name in subjects() for kind in mutated(name)}
    assert len(applied) >= 60
    assert set(KINDS) - applied <= {"residual-order", "stack-order", "pool-ceil-mode"}
    again = subjects()["vision"].mutate("weights-not-loaded")
    assert again is not None
    assert again.where == mutated("vision")["weights-not-loaded"].where
    one, two = (m.state_dict() for m in (again.model, mutated("vision")["weights-not-loaded"].model))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_was_removed_or_inserted_is_told_by_name() -> None:
    missing = mutated("vision")["block-missing"]
    (block,) = missing.where
    assert missing.gone == {
        n.name for n in subjects()["vision"].structure if n.name.startswith(f"{block}.") or n.name == block
    }
    assert missing.renamed["stage.2.conv1"] == "stage.3.conv1"
    extra = mutated("language")["block-extra"]
    assert {name.split(".")[1] for name in extra.added} == {str(int(extra.where[0].split(".")[1]) + 1)}
    shortcut = mutated("vision")["residual-missing"]
    assert [name.rpartition(".")[2] for name in shortcut.gone] == ["add"]
    moved = mutated("vision")["flatten-order"]
    assert "movedim" not in moved.names  # it holds what the node before it holds
    assert moved.names["flatten"] == "flatten"


def test_a_second_defect_leaves_the_first_in_place() -> None:
    subject = subjects()["vision"]
    first = mutated("vision")["flatten-order"]  # built into the model's own forward
    assert "forward" in vars(first.model)
    own = Subject(first.model, subject.inputs)
    assert not differ(own.outputs, observe(first.model, subject.inputs)[1])
    second, alone = (one.mutate("bn-eps") for one in (own, subject))
    assert second is not None
    assert alone is not None
    both = observe(second.model, subject.inputs)[1]
    assert differ(both, own.outputs)
    assert differ(both, observe(alone.model, subject.inputs)[1])
    with torch.no_grad():
        for value in second.model.parameters():
            value.zero_()
    assert differ(both, observe(second.model, subject.inputs)[1])  # the copy computes with weights of its own
    assert not differ(own.outputs, observe(first.model, subject.inputs)[1])
