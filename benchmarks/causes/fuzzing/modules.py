"""Random changes of layers: their settings, their weights, their place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.causes.fuzzing.registry import Random, operator
from benchmarks.corpus.mutations import Subject
from benchmarks.corpus.mutations.layers import of, weighted
from benchmarks.corpus.mutations.subject import Work, around

_BATCH = nn.modules.batchnorm._BatchNorm
_CONV = nn.modules.conv._ConvNd
_NORMS = (_BATCH, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
                nn.Hardswish, nn.Hardsigmoid, nn.PReLU, nn.Softplus)  # fmt: skip
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "elu": F.elu, "selu": F.selu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish,
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus, "leaky_relu": F.leaky_relu, "softsign": F.softsign, "tanhshrink": F.tanhshrink,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x), "square": lambda x: F.relu(x).square(), "abs": torch.abs,
}  # fmt: skip
_WEIGHTS = "weights-perturbed weights-not-loaded"


def _one(rng: Random, found: list[Any]) -> Any:
    return found[int(rng.integers(len(found)))]


def _put(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether that changes it."""
    with torch.no_grad():
        if torch.equal(tensor, value):
            return False
        tensor.copy_(value.clone())
    return True


# --- activations --------------------------------------------------------------------------------------------------


@operator(of(*_ACTIVATIONS))
def activation_exchanged(work: Work, path: str, rng: Random) -> str | None:
    name = _one(rng, list(FUNCTIONS))
    around(work.at(path), lambda forward, x: FUNCTIONS[name](x))
    return "activation-kind activation-param gelu-approx | operation-kind"


@operator(of(nn.LeakyReLU, nn.ELU, nn.Softplus, nn.PReLU))
def activation_number(work: Work, path: str, rng: Random) -> str | None:
    layer, factor = work.at(path), float(rng.choice([0.1, 0.3, 0.5, 2.0, 3.0]))
    for name in ("negative_slope", "alpha", "beta"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name) * factor)
    if isinstance(layer, nn.PReLU):
        _put(layer.weight, layer.weight * factor)
    return "activation-param weights-perturbed activation-kind scale"


@operator(of(_CONV, nn.Linear, *_NORMS))
def activation_added(work: Work, path: str, rng: Random) -> str | None:
    name = _one(rng, list(FUNCTIONS))
    around(work.at(path), lambda forward, *given: FUNCTIONS[name](forward(*given)))
    return "activation-extra | block-extra operation-kind"


# --- normalisation ------------------------------------------------------------------------------------------------


@operator(of(*_NORMS))
def epsilon(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    new = float(rng.choice([1e-12, 1e-7, 1e-6, 1e-5, 1e-3, 1e-2, 0.1]))
    layer.eps = new
    return "bn-eps ln-eps"


@operator(of(*_NORMS))
def norm_weights(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    held = {name: value for name, value in layer.state_dict(keep_vars=True).items() if value.is_floating_point()}
    if len(held) < 1:
        return None
    name = _one(rng, list(held))
    other = _one(rng, [*held, ""])
    value = held[name].detach()
    ways = ["ones", "zeros", "noise", "roll", "other", "scaled"]
    way = _one(rng, ways)
    if way == "other" and other in ("", name):
        way = "roll"
    new = {
        "ones": torch.ones_like(value), "zeros": torch.zeros_like(value), "noise": value + torch.randn_like(value) / 4,
        "roll": value.roll(1), "other": held.get(other, value).detach(), "scaled": value * 1.5,
    }[way]  # fmt: skip
    if "var" in name:
        new = new.abs() + 1e-3 if way == "noise" else new
    if not _put(held[name], new):
        return None
    right = {"ones": "weights-not-loaded bn-stats", "zeros": "weights-not-loaded bn-stats bias-missing",
             "noise": "weights-perturbed bn-stats", "roll": "channel-order weights-perturbed bn-stats",
             "other": "bn-stats weights-swapped weights-not-loaded", "scaled": "scale bn-stats"}[way]  # fmt: skip
    return f"{right} | {_WEIGHTS}"


@operator(of(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BATCH))
def other_norm(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    rank = len(work.subject.reads[path][0])
    if isinstance(layer, nn.GroupNorm) and rng.random() < 0.5:
        others = [n for n in range(1, layer.num_channels + 1) if layer.num_channels % n == 0 and n != layer.num_groups]
        layer.num_groups = _one(rng, others)
        return "norm-axis groups"
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    last = isinstance(layer, nn.LayerNorm | nn.RMSNorm)
    if weight is None or weight.dim() != 1:
        return None
    axes = sorted(int(a) for a in rng.choice(rank, int(rng.integers(1, rank)), replace=False))
    centred = not isinstance(layer, nn.RMSNorm) or bool(rng.random() < 0.3)
    shape = [-1 if k == (rank - 1 if last else 1) else 1 for k in range(rank)]

    def run(forward: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(axes, keepdim=True) if centred else 0.0
        normal = (x - mean) / ((x - mean).square().mean(axes, keepdim=True) + (layer.eps or 1e-7)).sqrt()
        return normal * weight.reshape(shape) + (0 if bias is None else bias.reshape(shape))

    around(layer, run)
    return "norm-axis bn-mode | operation-kind"


@operator(of(nn.LayerNorm))
def unbiased(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    axes = tuple(range(-len(layer.normalized_shape), 0))

    def run(forward: Any, x: torch.Tensor) -> torch.Tensor:
        normal = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True) + layer.eps).sqrt()
        normal = normal if layer.weight is None else normal * layer.weight
        return normal if layer.bias is None else normal + layer.bias

    around(layer, run)
    return "std-ddof | scale operation-kind"


@operator(of(_BATCH, nn.modules.dropout._DropoutNd))
def in_training(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    layer.training = True
    layer.train = lambda mode=True: layer
    return "bn-mode norm-axis" if isinstance(layer, _BATCH) else "dropout-mode"


# --- kernels and biases -------------------------------------------------------------------------------------------


def _kernels(subject: Subject) -> Iterator[tuple[str, str]]:
    """Weights of at least two axes: the layer's path, the parameter."""
    for path, layer in subject.leaves.items():
        for name, value in layer.named_parameters(recurse=False):
            if value.dim() > 1 and value.is_floating_point():
                yield path, name


def _biases(subject: Subject) -> Iterator[tuple[str, str]]:
    for path, layer in subject.leaves.items():
        for name, value in layer.named_parameters(recurse=False):
            if value.dim() == 1 and "bias" in name and bool(value.any()):
                yield path, name


def _of(layer: Any) -> str:
    """Names that are as right for the weights of this kind of layer."""
    if isinstance(layer, _RECURRENT):
        gates = {nn.LSTM: " lstm-gate-order", nn.GRU: " gru-gate-order"}
        return "rnn-direction channel-order weights-perturbed" + gates.get(type(layer), "")
    if isinstance(layer, nn.Embedding):
        return "embedding-offset channel-order"
    return "channel-order dense-row-order head-layout qkv-order concat-order axis-permutation depthwise-order"


@operator(_kernels)
def kernel_flipped(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1])
    axis = int(rng.integers(value.dim()))
    if not _put(value, value.detach().flip(axis)):
        return None
    return f"kernel-flip {_of(layer) if axis < 2 else 'kernel-layout'} | {_WEIGHTS}"


@operator(_kernels)
def kernel_turned(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    axes = [(a, b) for a in range(value.dim()) for b in range(a) if value.shape[a] == value.shape[b] > 1]
    if not axes:
        return None
    if not _put(getattr(layer, site[1]), value.transpose(*_one(rng, axes))):
        return None
    return f"kernel-layout dense-transpose {_of(layer)} | {_WEIGHTS}"


@operator(_kernels)
def kernel_refilled(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    """Read in another order of its axes."""
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    order = [int(a) for a in rng.permutation(value.dim())]
    if not _put(getattr(layer, site[1]), value.permute(order).reshape(value.shape)):
        return None
    return f"kernel-layout dense-transpose depthwise-order {_of(layer)} | {_WEIGHTS}"


@operator(_kernels)
def kernel_mixed(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    """Along one axis in another order."""
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    axis = int(rng.integers(value.dim()))
    count = value.shape[axis]
    order = [torch.randperm(count), torch.arange(count).roll(1), torch.arange(count).flip(0)][int(rng.integers(3))]
    if count % 2 == 0 and rng.random() < 0.3:
        order = torch.arange(count).reshape(2, -1).T.reshape(-1)
    if not _put(getattr(layer, site[1]), value.index_select(axis, order)):
        return None
    return f"kernel-flip kernel-layout depthwise-order {_of(layer)} shift | {_WEIGHTS}"


@operator(_kernels)
def kernel_noise(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    spread = value.std() * float(rng.choice([1e-4, 1e-3, 1e-2, 0.1, 0.3]))
    if rng.random() < 0.3:  # of some numbers alone
        new = value.clone().reshape(-1)
        which = torch.randperm(len(new))[: int(rng.integers(1, 4))]
        new[which] += value.std()
        new = new.reshape(value.shape)
    else:
        new = value + spread * torch.randn_like(value)
    _put(getattr(layer, site[1]), new)
    return "weights-perturbed | dtype weights-not-loaded"


@operator(_kernels)
def kernel_scaled(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    factor = float(_one(rng, [-1.0, 0.5, 2.0, math.sqrt(2), 1.1, 10.0]))
    _put(getattr(layer, site[1]), value * factor)
    return f"scale attention-scale embedding-scale | {_WEIGHTS}"


@operator(_kernels)
def kernel_new(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    new = torch.empty_like(value)
    _one(rng, [nn.init.kaiming_uniform_, nn.init.xavier_uniform_, nn.init.normal_, nn.init.zeros_])(new)
    if rng.random() < 0.3:  # half of it
        half = value.shape[0] // 2
        new[:half] = value[:half]
    _put(getattr(layer, site[1]), new)
    return "weights-not-loaded weights-perturbed"


@operator(_kernels)
def kernel_rounded(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    value = getattr(layer, site[1]).detach()
    _put(getattr(layer, site[1]), value.to(_one(rng, [torch.float16, torch.bfloat16])).float())
    return "dtype | weights-perturbed"


def _alike(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """Two layers' parameters of one shape."""
    found: dict[Any, list[tuple[str, str]]] = {}
    for path, name in _kernels(subject):
        shape = getattr(subject.leaves[path], name).shape
        for other, named in found.setdefault((type(subject.leaves[path]), shape), []):
            if named == name and other != path:
                yield other, path, name
        found[type(subject.leaves[path]), shape].append((path, name))


@operator(_alike)
def kernels_exchanged(work: Work, site: tuple[str, str, str], rng: Random) -> str | None:
    one, two = (getattr(work.at(path), site[2]) for path in site[:2])
    kept = one.detach().clone()
    _put(one, two.detach())
    if rng.random() < 0.6:
        _put(two, kept)
    return f"weights-swapped qkv-order rnn-direction wiring | {_WEIGHTS}"


@operator(_biases)
def bias_changed(work: Work, site: tuple[str, str], rng: Random) -> str | None:
    layer = work.at(site[0])
    parameter = getattr(layer, site[1])
    value = parameter.detach()
    new, right = _one(rng, [
        (torch.zeros_like(value), "bias-missing bn-stats"), (value * 2, "scale"), (-value, "scale"),
        (value.roll(1), "channel-order"), (value + 0.1, "shift bias-missing bias-extra"),
        (value + 0.1 * torch.randn_like(value), "weights-perturbed"), (torch.randn_like(value), "weights-not-loaded"),
        (value.half().float(), "dtype"),
    ])  # fmt: skip
    if not _put(parameter, new):
        return None
    more = " rnn-bias lstm-gate-order gru-gate-order" if isinstance(layer, _RECURRENT) else ""
    return f"{right}{more} | {_WEIGHTS}"


@operator(weighted)
def bias_added(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    if getattr(layer, "bias", 0) is not None:
        return None
    layer.bias = nn.Parameter(0.2 * torch.randn(work.subject.gives[path][-1 if isinstance(layer, nn.Linear) else 1]))
    return "bias-extra bias-missing"


@operator(of(_CONV, nn.Linear, *_NORMS))
def half(work: Work, path: str, rng: Random) -> str | None:
    layer, kind = work.at(path), _one(rng, [torch.float16, torch.bfloat16])

    def run(forward: Any, x: torch.Tensor) -> torch.Tensor:
        kept = {name: value.data for name, value in layer.named_parameters()}
        for value in layer.parameters():
            value.data = value.data.to(kind)
        try:
            return forward(x.to(kind)).to(x.dtype)  # type: ignore[no-any-return]
        finally:
            for name, value in layer.named_parameters():
                value.data = kept[name]

    around(layer, run)
    return "dtype"


# --- recurrent layers, embeddings ---------------------------------------------------------------------------------


@operator(of(nn.LSTM, nn.GRU))
def gates(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    count = 4 if isinstance(layer, nn.LSTM) else 3
    order = torch.from_numpy(rng.permutation(count))
    if torch.equal(order, torch.arange(count)):
        return None
    for name, value in layer.named_parameters():
        if name.startswith(("weight_ih", "weight_hh", "bias")):
            _put(value, value.detach().unflatten(0, (count, -1))[order].flatten(0, 1))
    return "lstm-gate-order gru-gate-order | weights-perturbed weights-swapped"


@operator(of(*_RECURRENT))
def backwards(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    axis, way = int(layer.batch_first), int(rng.integers(3))

    def run(forward: Any, x: torch.Tensor, *more: Any) -> Any:
        out, state = forward(x.flip(axis) if way != 1 else x, *more)
        return (out.flip(axis) if way != 0 else out), state

    around(layer, run)
    return "rnn-direction axis-permutation | block-extra rnn-last-step shift"


@operator(of(*_RECURRENT))
def recurrent_bias(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    held = [value for name, value in layer.named_parameters() if name.startswith("bias")]
    if not held:
        return None
    way = int(rng.integers(3))
    if way == 0:
        for value in held:
            _put(value, torch.zeros_like(value))
    elif way == 1:
        _put(held[1], held[1].detach() + held[0].detach())
    else:
        size = layer.hidden_size
        with torch.no_grad():
            held[0][size : 2 * size] += 1
    return f"rnn-bias bias-missing | {_WEIGHTS}"


@operator(of(nn.Embedding))
def other_ids(work: Work, path: str, rng: Random) -> str | None:
    layer, by = work.at(path), int(rng.choice([-1, 1, 2]))
    around(layer, lambda forward, ids: forward((ids + by) % layer.num_embeddings))
    return "embedding-offset shift"


@operator(of(nn.Embedding))
def embedding_scaled(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    factor = float(_one(rng, [layer.embedding_dim**0.5, layer.embedding_dim**-0.5, 2.0]))
    around(layer, lambda forward, ids: forward(ids) * factor)
    return "embedding-scale | scale block-extra"


# --- settings of convolutions and pools ---------------------------------------------------------------------------


def _padded(subject: Subject) -> Iterator[str]:
    for path in subject.modules(nn.Conv1d, nn.Conv2d):
        layer: Any = subject.leaves[path]
        if isinstance(layer.padding, tuple) and max(layer.padding) > 0 and layer.padding_mode == "zeros":
            yield path


@operator(_padded)
def padded_otherwise(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    wide, way = list(layer.padding), int(rng.integers(4))
    if way < 2:
        layer.padding_mode = str(rng.choice(["reflect", "replicate", "circular"]))
        return "pad-mode | block-extra"
    layer.padding = (0,) * len(wide)
    layer._reversed_padding_repeated_twice = [0] * (2 * len(wide))
    by = [int(rng.integers(-w, w + 1)) for w in wide]
    sides = [n for w, b in zip(reversed(wide), reversed(by), strict=True) for n in (w + b, w - b)]
    value = 0.0 if way == 2 else float(rng.choice([1.0, -1.0]))
    if not any(by) and value == 0.0:
        return None
    around(layer, lambda forward, x: forward(F.pad(x, sides, value=value)))
    return "pad-asymmetry pad-mode shift | block-extra" if value == 0.0 else "pad-mode | block-extra pad-asymmetry"


@operator(of(nn.Conv1d, nn.Conv2d))
def conv_setting(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    if not isinstance(layer.padding, tuple):
        return None
    way, rank = _one(rng, ["stride", "dilation", "padding", "groups"]), len(layer.stride)
    if way == "stride":
        layer.stride = tuple(2 if s == 1 else 1 for s in layer.stride)
        return "stride-position | wiring"
    if way == "dilation":
        new = 2 if max(layer.dilation) == 1 else 1
        change = [(new - d) * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        layer.padding = tuple(max(0, p + c) for p, c in zip(layer.padding, change, strict=True))
        layer.dilation = (new,) * rank
        layer._reversed_padding_repeated_twice = [side for p in reversed(layer.padding) for side in (p, p)]
        return "dilation | pad-mode"
    if way == "padding":
        by = int(rng.choice([-1, 1]))
        layer.padding = tuple(max(0, p + by) for p in layer.padding)
        layer._reversed_padding_repeated_twice = [side for p in reversed(layer.padding) for side in (p, p)]
        return "pad-mode pad-asymmetry"
    if layer.groups != 1:
        return None
    counts = [n for n in range(2, 9) if layer.in_channels % n == 0 and layer.out_channels % n == 0]
    if not counts:
        return None
    layer.groups = _one(rng, counts)
    layer.weight = nn.Parameter(layer.weight.detach()[:, : layer.in_channels // layer.groups].clone())
    return "groups | weights-not-loaded kernel-layout weights-perturbed"


_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


@operator(of(*_POOLS))
def pool_setting(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    way = _one(rng, ["kind", "ceil", "counted", "wider"])
    if way == "ceil":
        layer.ceil_mode = not layer.ceil_mode
        return "pool-ceil-mode pad-mode"
    if way == "counted":
        layer.count_include_pad = not getattr(layer, "count_include_pad", True)
        return "pool-count-include-pad"
    if way == "wider":
        layer.kernel_size = 3 if layer.kernel_size in (2, (2, 2)) else 2
        return "pool-kind pad-mode"
    name = type(layer).__name__
    other = getattr(F, ("avg" if name.startswith("Max") else "max") + f"_pool{name[-2]}d")
    around(
        layer, lambda forward, x: other(x, layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    )
    return "pool-kind | operation-kind"


@operator(of(nn.ConvTranspose1d, nn.ConvTranspose2d))
def transposed_crop(work: Work, path: str, rng: Random) -> str | None:
    by, axis = int(rng.choice([-1, 1])), -int(rng.integers(1, len(work.subject.gives[path]) - 1))
    around(work.at(path), lambda forward, x: F.pad(forward(x), [0, 0] * (-axis - 1) + [by, -by]))
    return "transposed-conv-shift shift pad-asymmetry | pad-mode block-extra"


# --- layers ---------------------------------------------------------------------------------------------------------


def _keeping(subject: Subject) -> Iterator[str]:
    """Layers that give the shape that they take."""
    return (path for path in subject.leaves if subject.reads[path][:1] == (subject.gives.get(path),))


@operator(_keeping)
def layer_removed(work: Work, path: str, rng: Random) -> str | None:
    layer = work.subject.leaves[path]
    if isinstance(layer, nn.Identity | nn.modules.dropout._DropoutNd):
        return None
    work.remove(path)
    return "activation-missing" if isinstance(layer, _ACTIVATIONS) else "block-missing"


@operator(_keeping)
def layer_doubled(work: Work, path: str, rng: Random) -> str | None:
    layer = work.subject.leaves[path]
    if isinstance(layer, nn.Identity | nn.modules.dropout._DropoutNd | nn.modules.rnn.RNNBase):
        return None
    work.insert(path, copy.deepcopy(layer), before=bool(rng.random() < 0.5))
    if path.rpartition(".")[2].isdecimal():  # the others of a list move up, whichever of them a forward takes
        return "block-extra activation-extra weights-swapped"
    return "activation-extra" if isinstance(layer, _ACTIVATIONS) else "block-extra"


@operator(_keeping)
def around_layer(work: Work, path: str, rng: Random) -> str | None:
    """A skip connection past one layer."""
    if isinstance(work.subject.leaves[path], nn.Identity | nn.modules.dropout._DropoutNd | nn.modules.rnn.RNNBase):
        return None
    around(work.at(path), lambda forward, x: x + forward(x))
    return "residual-extra"


def _beside(subject: Subject) -> Iterator[tuple[str, str]]:
    """Two layers, the one reading the other."""
    for path in _keeping(subject):
        name = next((node.name for node in subject.structure if node.owner == path), "")
        readers = subject.structure.children.get(name, ())
        owner = subject.structure.by_name[readers[0]].owner if len(readers) == 1 else ""
        if owner in subject.leaves and subject.reads[owner][:1] == (subject.gives.get(owner),) != ():
            yield path, owner


@operator(_beside)
def exchanged(work: Work, paths: tuple[str, str], rng: Random) -> str | None:
    """Two layers in the other order."""
    first, second = (copy.deepcopy(work.model.get_submodule(path)) for path in paths)
    quiet = (nn.Identity, nn.modules.dropout._DropoutNd)
    if isinstance(first, quiet) or isinstance(second, quiet) or type(first) is type(second):
        return None
    work.replace(paths[0], second)
    work.replace(paths[1], first)
    return ("residual-order wiring block-missing block-extra activation-missing activation-extra"
            " weights-swapped | operation-kind")  # fmt: skip


@operator(_keeping, weighted)
def another_input(work: Work, path: str, rng: Random) -> str | None:
    """A layer reads what another one gives that is of the same shape."""
    wanted = work.subject.reads[path][:1]
    order = list(work.subject.leaves)
    others = [p for p in order[: order.index(path)] if (work.subject.gives.get(p),) == wanted]
    node = next((node for node in work.subject.structure if node.owner == path), None)
    read = {work.subject.structure.by_name[name].owner for name in node.parents} if node is not None else set()
    others = [p for p in others if p not in read]
    if not others:
        return None
    held: dict[str, torch.Tensor] = {}

    def keep(forward: Any, *given: Any) -> Any:
        held["is"] = forward(*given)
        return held["is"]

    around(work.model.get_submodule(_one(rng, others)), keep)
    around(work.at(path), lambda forward, x, *more: forward(held["is"], *more))
    return "wiring block-missing activation-missing residual-missing residual-order | operation-kind"


@operator(of(nn.Upsample))
def upsampled_otherwise(work: Work, path: str, rng: Random) -> str | None:
    layer = work.at(path)
    if layer.mode != "nearest" and rng.random() < 0.5:
        layer.align_corners = not layer.align_corners
        return "resize-align-corners"
    layer.mode = "bilinear" if layer.mode == "nearest" else "nearest"
    layer.align_corners = None if layer.mode == "nearest" else bool(rng.random() < 0.5)
    return "resize-mode"
