"""Groups of several nodes on real models: what one layer is on one side and several nodes on the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tracer.alignment import Alignment, align
from tracer.compare import Verdict

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

Groups = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


def recorded(reference: Any, candidate: Any, x: np.ndarray[Any, Any], path: Path) -> list[tracer.Recording]:
    for model in (reference, candidate):
        if isinstance(model, nn.Module):
            model.eval()
    return [
        tracer.record(reference, x, name="a", trace=path),
        tracer.record(candidate, name="b", trace=path),
    ]


def both_ways(recordings: list[tracer.Recording]) -> list[Alignment]:
    """With values and from the structures alone."""
    a, b = recordings
    return [align(a, b), align(a.structure, b.structure)]


def groups_of(alignment: Alignment) -> Groups:
    return {p.aligned: (p.reference, p.candidate) for p in alignment.pairs if len(p.reference) + len(p.candidate) > 2}


def lonely(alignment: Alignment) -> tuple[set[str], set[str]]:
    return set(alignment.unmatched_reference), set(alignment.unmatched_candidate)


class HandLayerNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.w, self.b = norm.weight, norm.bias

    def forward(self, x: Any) -> Any:
        mean = x.mean(-1, keepdim=True)
        var = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.w * ((x - mean) / torch.sqrt(var + 1e-5)) + self.b


class HandRmsNorm(nn.Module):
    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.w = norm.weight

    def forward(self, x: Any) -> Any:
        return self.w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Do(nn.Module):
    """A function of one's own."""

    def __init__(self, do: Callable[[Any], Any]) -> None:
        super().__init__()
        self.do = do

    def forward(self, x: Any) -> Any:
        return self.do(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


class HandBatchNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = (norm.weight, norm.bias)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var

    def forward(self, x: Any) -> Any:
        mean, var, scale, shift = (
            t.view(1, -1, 1, 1) for t in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


class SeparateBias(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Any) -> Any:
        return x @ self.weight.t() + self.bias


def softmax(x: Any) -> Any:
    e = torch.exp(x - x.max(-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def erf_gelu(x: Any) -> Any:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def tanh_gelu(x: Any) -> Any:
    return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


def glu(x: Any) -> Any:
    left, right = x.chunk(2, -1)
    return left * torch.sigmoid(right)


def norm(width: int = 12, kind: type[nn.Module] = nn.LayerNorm) -> Any:
    made = kind(width, eps=1e-6) if kind is nn.RMSNorm else kind(width)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return made


SINGLE: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "layernorm": lambda: (layer := norm(), HandLayerNorm(layer)),
    "rmsnorm": lambda: (layer := norm(kind=nn.RMSNorm), HandRmsNorm(layer)),
    "gelu": lambda: (nn.GELU(), Do(erf_gelu)),
    "gelu_tanh": lambda: (nn.GELU("tanh"), Do(tanh_gelu)),
    "silu": lambda: (nn.SiLU(), Do(lambda x: x * torch.sigmoid(x))),
    "hard_silu": lambda: (nn.Hardswish(), Do(lambda x: x * F.relu6(x + 3) / 6)),
    "hard_sigmoid": lambda: (nn.Hardsigmoid(), Do(lambda x: F.relu6(x + 3) / 6)),
    "mish": lambda: (nn.Mish(), Do(lambda x: x * torch.tanh(F.softplus(x)))),
    "softmax": lambda: (nn.Softmax(-1), Do(softmax)),
    "log_softmax": lambda: (nn.LogSoftmax(-1), Do(lambda x: x - x.logsumexp(-1, keepdim=True))),
    "l2": lambda: (
        Do(lambda x: F.normalize(x, dim=-1)),
        Do(lambda x: x / torch.sqrt((x * x).sum(-1, keepdim=True).clamp(min=1e-12))),
    ),
    "glu": lambda: (nn.GLU(), Do(glu)),
    "bias": lambda: (layer := nn.Linear(12, 12), SeparateBias(layer)),
}  # fmt: skip


def towers(one: nn.Module, other: nn.Module, width: int = 12) -> tuple[nn.Module, nn.Module]:
    """Two networks that share what stands around ``one`` and ``other``."""
    head, tail = nn.Linear(10, 12), nn.Linear(width, 5)
    return nn.Sequential(head, one, tail, nn.ReLU()), nn.Sequential(head, other, tail, nn.ReLU())


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", SINGLE)
def test_a_layer_is_paired_with_its_arithmetic(name: str, trace_path: Path) -> None:
    one, other = SINGLE[name]()
    a, b = towers(one, other, 6 if name == "glu" else 12)
    recordings = recorded(a, b, numbers(3, 7, 10), trace_path)
    inner = {n.name for n in recordings[1].structure if n.name.startswith("1.") and n.alias_of is None}
    for alignment in both_ways(recordings):
        (found,) = groups_of(alignment).values()
        assert found[0][-1].startswith("1")
        assert set(found[1]) == inner
        assert found[1][-1] == [n.name for n in recordings[1].structure if n.name in inner][-1]
        assert lonely(alignment) == (set(), set())
        assert {p.aligned for p in alignment.pairs} >= {"0", "2", "3"}
    turned = align(recordings[1], recordings[0])
    (found,) = groups_of(turned).values()
    assert set(found[0]) == inner
    diff = tracer.diff(*recordings)
    assert diff.counts[Verdict.MATCH] + diff.counts[Verdict.NOISE] == len(diff.pairs), str(diff)
    assert not any(side for pair in diff.pairs for side in pair.between)


DEFECTS: dict[str, tuple[Callable[[nn.Module], nn.Module], set[str]]] = {
    "relu after": (lambda hand: nn.Sequential(hand, nn.ReLU()), {"1.1"}),
    "relu before": (lambda hand: nn.Sequential(nn.ReLU(), hand), {"1.0"}),
    "factor after": (lambda hand: nn.Sequential(hand, Do(lambda x: x * 3.0)), {"1.1.mul"}),
    "factor before": (lambda hand: nn.Sequential(Do(lambda x: x * 2.0), hand), {"1.0.mul"}),
    "residual": (Residual, {"1.add"}),
}


HARMLESS = {("softmax", "relu after"), ("layernorm", "factor before")}


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("name", ["layernorm", "gelu", "silu", "softmax"])
def test_what_is_no_part_of_a_layer_stays_without_a_twin(name: str, defect: str, trace_path: Path) -> None:
    one, other = SINGLE[name]()
    spoil, extra = DEFECTS[defect]
    recordings = recorded(*towers(one, spoil(other)), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        assert lonely(alignment) == (set(), extra)
        assert list(groups_of(alignment)) == ["1"]
    if (name, defect) not in HARMLESS:
        assert not tracer.diff(*recordings)


def test_a_layer_that_was_written_twice_is_one_too_many(trace_path: Path) -> None:
    one, other = SINGLE["silu"]()
    recordings = recorded(*towers(one, nn.Sequential(other, other)), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        assert groups_of(alignment) == {"1": (("1",), ("1.0.sigmoid#0", "1.0.mul#0"))}
        assert lonely(alignment) == (set(), {"1.0.sigmoid#1", "1.0.mul#1"})


def test_a_residual_that_was_forgotten_is_no_part_of_what_follows(trace_path: Path) -> None:
    one, other = SINGLE["layernorm"]()
    gelu = nn.Sequential(Residual(one), nn.GELU()), nn.Sequential(other, Do(erf_gelu))
    recordings = recorded(*towers(*gelu), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        assert lonely(alignment) == ({"1.0.add"}, set())
        assert set(groups_of(alignment)) == {"1.0.inner", "1.1"}


def convolutions() -> nn.Sequential:
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 6, 1),
    )  # fmt: skip
    for layer in made:
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return made.eval()


def fused(layers: nn.Sequential, at: int) -> nn.Module:
    return torch.nn.utils.fuse_conv_bn_eval(layers[at], layers[at + 1])  # type: ignore[no-any-return,arg-type]


def unpadded(layer: Any) -> nn.Sequential:
    made = copy.deepcopy(layer)
    made.padding = 0 if isinstance(layer, nn.MaxPool2d) else (0, 0)
    pad = nn.ConstantPad2d(1, -1e30 if isinstance(layer, nn.MaxPool2d) else 0.0)
    return nn.Sequential(pad, made)


def test_folded_normalisations_are_compared_with_the_convolution(trace_path: Path) -> None:
    a = convolutions()
    b = nn.Sequential(fused(a, 0), nn.ReLU(), fused(a, 3), nn.ReLU(), a[6], a[7])
    recordings = recorded(a, b, numbers(2, 3, 17, 19), trace_path)
    for alignment in both_ways(recordings):
        assert groups_of(alignment) == {"1": (("0", "1"), ("0",)), "4": (("3", "4"), ("2",))}
        assert lonely(alignment) == (set(), set())
    assert tracer.diff(*recordings).first is None


def test_padding_on_its_own_is_part_of_the_layer_that_it_is_for(trace_path: Path) -> None:
    a = convolutions()
    b = nn.Sequential(*unpadded(fused(a, 0)), nn.ReLU(), *unpadded(fused(a, 3)), nn.ReLU(), *unpadded(a[6]), a[7])
    recordings = recorded(a, b, numbers(2, 3, 17, 19), trace_path)
    for alignment in both_ways(recordings):
        assert groups_of(alignment) == {
            "1": (("0", "1"), ("0", "1")), "4": (("3", "4"), ("3", "4")), "6": (("6",), ("6", "7")),
        }  # fmt: skip
    diff = tracer.diff(*recordings)
    assert diff.first is None, str(diff)
    assert not diff.latent, "that one side pads within the layer is no setting that differs"


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("which", [0, 3])
def test_a_normalisation_that_was_forgotten_is_not_folded(which: int, biased: bool, trace_path: Path) -> None:
    a = convolutions()
    layers = [layer for at, layer in enumerate(a) if at != which + 1]
    if biased and which == 0:
        layers[0] = nn.Conv2d(3, 8, 3, padding=1)
    recordings = recorded(a, nn.Sequential(*layers), numbers(2, 3, 17, 19), trace_path)
    for alignment in both_ways(recordings):
        assert lonely(alignment) == ({str(which + 1)}, set())
        assert not groups_of(alignment)


@pytest.mark.parametrize("related", [False, True])
def test_normalisations_that_the_other_model_lacks_altogether(related: bool, trace_path: Path) -> None:
    """Biases on both sides: folded where nothing speaks against it, forgotten where the layers before agree."""

    def layers() -> list[nn.Module]:
        return [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]

    a = nn.Sequential(*layers())
    nn.init.uniform_(a[1].weight, 0.5, 1.5)  # type: ignore[arg-type]
    source = a if related else nn.Sequential(*layers())
    b = nn.Sequential(*(layer for layer in copy.deepcopy(source) if not isinstance(layer, nn.BatchNorm2d)))
    recordings = recorded(a, b, numbers(2, 3, 17, 19), trace_path)
    folded = {"1": (("0", "1"), ("0",)), "4": (("3", "4"), ("2",))}
    with_values, by_structure = both_ways(recordings)
    assert groups_of(by_structure) == folded
    assert groups_of(with_values) == ({} if related else folded)
    assert lonely(with_values) == ({"1", "4"} if related else set(), set())
    back = align(*reversed(recordings))
    assert groups_of(back) == ({} if related else {"0": (("0",), ("0", "1")), "2": (("2",), ("3", "4"))})


def test_a_padding_too_many_is_no_part(trace_path: Path) -> None:
    a = convolutions()[:3]
    recordings = recorded(a, nn.Sequential(nn.ZeroPad2d(1), *a), numbers(2, 3, 17, 19), trace_path)
    for alignment in both_ways(recordings):
        assert lonely(alignment)[1] == {"0"}


def test_batch_normalisation_crop_and_pooling_in_steps(trace_path: Path) -> None:
    layers = convolutions()
    up, cut = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 4, stride=2)
    cut.load_state_dict(up.state_dict())
    a = nn.Sequential(layers[0], layers[1], nn.ReLU(), up, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    b = nn.Sequential(
        layers[0], HandBatchNorm(layers[1]), nn.ReLU(),  # type: ignore[arg-type]
        nn.Sequential(cut, Do(lambda x: x[..., 1:-1, 1:-1])), Do(lambda x: x.mean(3).mean(2)), nn.Identity(), a[6],
    )  # fmt: skip
    recordings = recorded(a, b, numbers(2, 3, 9, 11), trace_path)
    for alignment in both_ways(recordings):
        found = groups_of(alignment)
        assert found["1"][1][-1] == "1.add_1"
        assert {"1.sub", "1.sqrt", "1.div", "1.mul"} <= set(found["1"][1])
        assert found["3"][1] == ("3.0", "3.1.slice")
        assert found["4"][1] == ("4.mean", "4.mean_1")
    assert tracer.diff(*recordings).first is None


class Recurrent(nn.Module):
    """An LSTM in several guises, all with the same weights."""

    def __init__(self, how: str, source: nn.LSTM, between: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        self.how, self.between = how, between
        self.head, self.tail = nn.Linear(12, 12), nn.Linear(12, 4)
        nn.init.eye_(self.head.weight)
        nn.init.ones_(self.tail.weight)
        for layer in (self.head, self.tail):
            nn.init.zeros_(layer.bias)
        ends = [""] if how in ("one", "cells", "hand") else ["_reverse", ""]
        if how in ("one", "whole"):
            self.lstm = source
        elif how == "cells":
            self.cell = nn.LSTMCell(12, 12)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(self.cell, name).data = getattr(source, f"{name}_l0").data
        elif how == "hand":
            self.i, self.h = nn.Linear(12, 48), nn.Linear(12, 48)
            for layer, word in ((self.i, "ih"), (self.h, "hh")):
                layer.weight.data = getattr(source, f"weight_{word}_l0").data
                layer.bias.data = getattr(source, f"bias_{word}_l0").data
        else:
            count = source.num_layers if how == "stack" else 2
            self.parts = nn.ModuleList(nn.LSTM(12, 12 if how == "stack" else 6, batch_first=True) for _ in range(count))
            for at, part in enumerate(self.parts):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    end = f"_l{at}" if how == "stack" else f"_l0{ends[1 - at]}"
                    getattr(part, f"{name}_l0").data = getattr(source, name + end).data

    def forward(self, x: Any) -> Any:
        return self.tail(self.inner(self.head(x)))

    def inner(self, x: Any) -> Any:
        if self.how in ("one", "whole"):
            return self.lstm(x)[0]
        if self.how == "directions":
            return torch.cat([self.parts[0](x)[0], self.parts[1](x.flip(1))[0].flip(1)], -1)
        if self.how == "stack":
            for at, part in enumerate(self.parts):
                x = part(x)[0] if at else self.between(part(x)[0])
            return x
        h = c = x.new_zeros(x.shape[0], 12)
        out = []
        for at in range(x.shape[1]):
            if self.how == "cells":
                h, c = self.cell(x[:, at], (h, c))
            else:
                i, f, g, o = (self.i(x[:, at]) + self.h(h)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize("how", ["stack", "directions", "cells", "hand"])
def test_a_recurrent_layer_is_paired_with_what_it_is_made_of(how: str, trace_path: Path) -> None:
    if how == "directions":
        source = nn.LSTM(12, 6, batch_first=True, bidirectional=True)
    else:
        source = nn.LSTM(12, 12, num_layers=3 if how == "stack" else 1, batch_first=True)
    recordings = recorded(Recurrent("one", source), Recurrent(how, source), numbers(3, 5, 12), trace_path)
    for alignment in both_ways(recordings):
        found = groups_of(alignment)["lstm"]
        assert found[0][-1] == "lstm"
        ran = [n.name for n in recordings[1].structure if n.name not in ("head", "tail") and n.role in ("op", "layer")]
        last = {"stack": "parts.2", "directions": "cat"}.get(how, "stack")
        assert found[1][-1] == last
        assert set(ran) - set(found[1]) <= {n.name for n in recordings[1].structure if n.name in alignment.by_candidate}
        assert not [name for name in alignment.unmatched_candidate if "[" not in name]
    assert tracer.diff(*recordings).first is None


def test_an_activation_between_recurrent_layers_is_no_part(trace_path: Path) -> None:
    source = nn.LSTM(12, 12, num_layers=3, batch_first=True)
    stacked = Recurrent("stack", source, torch.relu)
    recordings = recorded(Recurrent("one", source), stacked, numbers(3, 5, 12), trace_path)
    for alignment in both_ways(recordings):
        assert "relu" in alignment.unmatched_candidate


class Attention(nn.Module):
    def __init__(self, how: str, source: nn.MultiheadAttention, after: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        self.how, self.after = how, after
        self.out = nn.Linear(12, 12)
        self.out.load_state_dict(source.out_proj.state_dict())
        if how == "layer":
            self.layer = source
            del self.out
        elif how == "fused":
            self.qkv = nn.Linear(12, 36)
            self.qkv.weight, self.qkv.bias = source.in_proj_weight, source.in_proj_bias
        else:
            self.projections = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
            for part, w, b in zip(
                self.projections, source.in_proj_weight.chunk(3), source.in_proj_bias.chunk(3), strict=True
            ):
                part.weight.data, part.bias.data = w.data.clone(), b.data.clone()

    def forward(self, x: Any) -> Any:
        if self.how == "layer":
            return self.layer(x, x, x, need_weights=False)[0]
        batch, length, width = x.shape
        if self.how == "fused":
            q, k, v = self.qkv(x).reshape(batch, length, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (part(x).view(batch, length, 3, 4).transpose(1, 2) for part in self.projections)
        if self.how == "hand":
            a = self.after(torch.softmax(q @ k.transpose(-1, -2) / 2, -1)) @ v
        else:
            a = F.scaled_dot_product_attention(q, k, v)
        return self.out(a.transpose(1, 2).reshape(batch, length, width))


def attentions(one: str, other: str, **changed: Any) -> tuple[nn.Module, nn.Module]:
    source = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.uniform_(source.in_proj_bias)
    return towers(Residual(Attention(one, source)), Residual(Attention(other, source, **changed)))


@pytest.mark.parametrize("other", ["hand", "sdpa", "fused"])
def test_attention_is_paired_with_its_projections_and_products(other: str, trace_path: Path) -> None:
    recordings = recorded(*attentions("layer", other), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        ((ours, theirs),) = groups_of(alignment).values()
        assert ours == ("1.inner.layer",)
        assert theirs[-1] == "1.inner.out"
        assert lonely(alignment) == (set(), set())
        assert alignment.by_reference["1.add"].candidate == ("1.add",)
    assert tracer.diff(*recordings).first is None


@pytest.mark.parametrize("other", ["sdpa", "fused"])
def test_two_ways_to_write_attention_are_one_group(other: str, trace_path: Path) -> None:
    recordings = recorded(*attentions("hand", other), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        # The transposed keys come before the group, and compute nothing.
        assert lonely(alignment) == ({"1.inner.transpose_3"} if other == "sdpa" else set(), set())
        assert alignment.by_reference["1.inner.out"].candidate == ("1.inner.out",)
        assert alignment.by_reference["1.inner.softmax"].candidate[-1] == "1.inner.scaled_dot_product_attention"


def test_an_activation_within_attention_is_no_part(trace_path: Path) -> None:
    recordings = recorded(*attentions("layer", "hand", after=torch.relu), numbers(3, 7, 10), trace_path)
    for alignment in both_ways(recordings):
        assert lonely(alignment) == (set(), {"1.inner.relu"})


def test_what_a_third_party_adds_is_grouped_too(trace_path: Path) -> None:
    from tracer.alignment import composites

    recordings = recorded(*towers(nn.Tanhshrink(), Do(lambda x: x - torch.tanh(x))), numbers(3, 7, 10), trace_path)
    (kind,) = (node.kind for node in recordings[0].structure if node.name == "1")
    parts = frozenset({"sub", "tanh"})
    assert recordings[0].structure.by_name["1"].kind == kind
    before = list(composites.COMPOSITES)
    try:
        composites.add(composites.Composite(frozenset({kind}), parts, (parts,), "shrinking in steps", forks=True))
        (found,) = groups_of(align(recordings[0].structure, recordings[1].structure)).values()
    finally:
        composites.COMPOSITES[:] = before
    assert found == (("1",), ("1.tanh", "1.sub"))


def test_a_group_is_judged_by_what_comes_before_it(trace_path: Path) -> None:
    one, other = SINGLE["layernorm"]()
    other.b = nn.Parameter(other.b + 0.1)  # type: ignore[operator]
    recordings = recorded(*towers(one, other), numbers(3, 7, 10), trace_path)
    diff = tracer.diff(*recordings)
    assert diff.first is not None
    assert diff.first.pair.reference == ("1",)
    assert diff.first.pair.candidate[-1] == "1.add_1"
    assert "its inputs agree" in diff.first.reason
    assert not any(diff.first.between)
    assert [pair.verdict for pair in diff.pairs[3:]] == [Verdict.INHERITED] * 2
    text = str(diff)
    assert "1 ⇄ 1.(mean … add_1), 10 nodes   normalisation against its arithmetic" in text
    again = diff.to_json()["pairs"][2]
    assert (len(again["reference"]), len(again["candidate"]), again["aligned"]) == (1, 10, "1")


class Block(nn.Module):
    """A residual block whose last scale starts at zero, as timm's and torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        nn.init.uniform_(self.bn1.running_mean, -0.5, 0.5)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_export_with_folded_normalisations_agrees_with_its_source(trace_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    file = trace_path.with_suffix(".onnx")
    x = numbers(2, 3, 10, 12)
    torch.onnx.export(model.eval(), (torch.from_numpy(x),), str(file), dynamo=False, input_names=["x"])
    recordings = recorded(model, onnx.load(str(file)), x, trace_path)
    for alignment in both_ways(recordings):
        found = {ours: theirs for ours, (_, theirs) in groups_of(alignment).items()}
        convolutions_ = {f"{block}.bn{at}": (f"{block}/conv{at}",) for block in (1, 2) for at in (1, 2)}
        assert {ours: tuple(n.replace(".", "/") for n in found[ours]) for ours in found} == convolutions_
        assert not alignment.unmatched_reference
    diff = tracer.diff(*recordings)
    assert diff.first is None, str(diff)
    assert diff.counts[Verdict.INHERITED] == 0


class LastStates(nn.Module):
    """A stack of recurrent layers of which only the last states go on."""

    def __init__(self, count: int, both: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, count, batch_first=True, bidirectional=both)
        self.dense = nn.Linear(12 if both else 6, 3)

    def forward(self, x: Any) -> Any:
        states = self.rnn(x)[1][0]
        return self.dense(torch.cat([states[-2], states[-1]], -1) if self.rnn.bidirectional else states[-1])


@pytest.mark.parametrize(("count", "both"), [(2, True), (3, False)])
def test_last_states_of_a_stack_are_those_of_the_last_of_several_layers(
    count: int, both: bool, trace_path: Path
) -> None:
    keras = pytest.importorskip("keras")
    source = LastStates(count, both)
    x = start = keras.Input((7, 5))
    for k in range(count):
        layer = keras.layers.LSTM(6, return_sequences=k < count - 1, name=f"inner{k}" if both else f"r{k}")
        x = keras.layers.Bidirectional(layer, name=f"r{k}")(x) if both else layer(x)
    model = keras.Model(start, keras.layers.Dense(3)(x))
    values = []
    for k in range(count):
        for end in ("", "_reverse")[: 1 + both]:
            w, r, b, c = (
                getattr(source.rnn, f"{n}_l{k}{end}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            values += [w.T, r.T, b + c]
    values += [source.dense.weight.T, source.dense.bias]
    model.set_weights([value.detach().numpy() for value in values])
    recordings = recorded(model, source, numbers(2, 7, 5), trace_path)
    for alignment in both_ways(recordings):
        ours, theirs = groups_of(alignment)[f"r{count - 1}"]
        assert ours == tuple(f"r{k}" for k in range(count))
        assert (theirs[0], theirs[-1]) == ("rnn", "cat" if both else "slice")
        assert lonely(alignment) == (set(), set())
    assert tracer.diff(*recordings).first is None


class Separable(nn.Module):
    def __init__(self, between: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        self.depth, self.point = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), nn.Conv2d(3, 8, 1, bias=False)
        self.between = between
        self.forwards, self.backwards = (nn.LSTM(8, 5, batch_first=True) for _ in range(2))
        self.stack, self.dense = nn.LSTM(10, 6, 2, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        x = self.point(self.between(self.depth(x)))
        x = (x * torch.sigmoid(x)).mean(2).transpose(1, 2)
        x = torch.cat([self.forwards(x)[0], self.backwards(x.flip(1))[0].flip(1)], -1)
        return self.dense(self.stack(x)[0][:, -1])


def keras_twin(source: Separable) -> Any:
    """The same network, its weights included, in Keras's layers."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    start = keras.Input((9, 11, 3))
    x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, activation="silu", name="separable")(start)
    x = keras.ops.mean(x, axis=1)
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both")(x)
    x = layers.LSTM(6, name="second")(layers.LSTM(6, return_sequences=True, name="first")(x))
    model = keras.Model(start, layers.Dense(4)(x))

    def lstm(module: nn.LSTM, at: int = 0) -> list[Any]:
        bias = getattr(module, f"bias_ih_l{at}") + getattr(module, f"bias_hh_l{at}")
        return [getattr(module, f"weight_ih_l{at}").T, getattr(module, f"weight_hh_l{at}").T, bias]

    values = [source.depth.weight.permute(2, 3, 0, 1), source.point.weight.permute(2, 3, 1, 0)]
    values += [*lstm(source.forwards), *lstm(source.backwards), *lstm(source.stack), *lstm(source.stack, 1)]
    values += [source.dense.weight.T, source.dense.bias]
    model.set_weights([value.detach().numpy() for value in values])
    return model


@pytest.mark.parametrize("spoiled", [False, True])
def test_layers_of_keras_are_paired_with_several_of_torch(spoiled: bool, trace_path: Path) -> None:
    source = Separable(torch.relu if spoiled else lambda x: x)
    recordings = recorded(keras_twin(source), source, numbers(3, 9, 11, 3), trace_path)
    for alignment in both_ways(recordings):
        found = groups_of(alignment)
        assert found["separable/preactivation"][1] == ("depth", "point")
        assert found["separable"][1] == ("sigmoid", "mul")
        assert found["both"][1][-1] == "cat"
        assert set(found["second"][0]) == {"first", "second"}
        assert {"stack", "slice"} <= set(found["second"][1])
        assert lonely(alignment) == (set(), {"relu", "transpose"} if spoiled else {"transpose"})
    diff = tracer.diff(*recordings)
    assert (None if diff.first is None else diff.first.aligned) == ("separable/preactivation" if spoiled else None)
    assert "kernel_size" not in str(diff)  # of the two convolutions the first has it
    if spoiled:
        assert diff.first is not None
        assert diff.first.between == ((), ("relu",))


class CellLoop(nn.Module):
    """A recurrent cell called step by step: the last state, all of them stacked, or written into a buffer."""

    def __init__(self, kind: str, how: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, f"{kind}Cell")(4, 8), nn.Linear(8, 2)
        self.how = how

    def forward(self, x: Any) -> Any:
        state, steps = None, []
        filled = torch.zeros(len(x), x.shape[1], 8) if self.how == "filled" else None
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
            out = state[0] if isinstance(state, tuple) else state
            steps.append(out)
            if filled is not None:
                filled[:, at] = out
        if filled is not None:
            return self.head(filled)
        return self.head(torch.stack(steps, 1) if self.how == "stacked" else steps[-1])


@pytest.mark.parametrize("how", ["last", "stacked", "filled"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_keras_layer_against_a_loop_over_a_cell(kind: str, how: str, trace_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((5, 4))
    layer = getattr(keras.layers, kind)(8, return_sequences=how != "last", name="layer")
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(layer(inputs)))
    loop = CellLoop(kind, how)
    kernel, recurrent, bias = layer.get_weights()
    if kind == "GRU":  # Keras keeps the update gate first, PyTorch the reset gate
        kernel, recurrent, bias = (
            np.concatenate([np.split(w, 3, -1)[k] for k in (1, 0, 2)], -1) for w in (kernel, recurrent, bias)
        )
    biases = bias if kind == "GRU" else (bias, np.zeros_like(bias))
    for name, value in (
        ("weight_ih", kernel.T),
        ("weight_hh", recurrent.T),
        ("bias_ih", biases[0]),
        ("bias_hh", biases[1]),
    ):
        getattr(loop.cell, name).data = torch.from_numpy(value.copy())
    loop.head.weight.data = torch.from_numpy(model.layers[-1].get_weights()[0].T.copy())
    loop.head.bias.data.zero_()
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    recordings = recorded(model, loop, x, trace_path)
    for alignment in both_ways(recordings):
        (pair,) = (pair for pair in alignment.pairs if pair.reference == ("layer",))
        assert {f"cell#{step}" for step in range(5)} <= set(pair.candidate)
        assert pair.candidate[-1] == {"last": "cell#4", "stacked": "stack", "filled": "setitem_4"}[how]
        assert pair.what == "recurrent layer against its cell, step by step"
        assert not alignment.unmatched_reference
        parameters = alignment.parameters
        assert {key for p in parameters.pairs for key in p.reference} == {
            *(("layer", name) for name in ("kernel", "recurrent_kernel", "bias")), ("head", "kernel"), ("head", "bias"),
        }  # fmt: skip
        assert not parameters.unmatched_reference
        assert not parameters.unmatched_candidate
    assert tracer.diff(*recordings).verdict in (Verdict.MATCH, Verdict.NOISE)
