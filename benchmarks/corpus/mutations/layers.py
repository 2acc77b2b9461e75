"""Defects of single layers: settings, weights, activations, normalisation, pooling, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.subject import Call, Subject, Work, around, kind

Site = str
_BATCH = nn.modules.batchnorm._BatchNorm
_CONV = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.PReLU, nn.Softplus,
)  # fmt: skip
_OTHER: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.SiLU, "ReLU6": nn.ReLU, "GELU": nn.ReLU, "SiLU": nn.Hardswish, "Hardswish": nn.SiLU, "ELU": nn.ReLU,
    "LeakyReLU": nn.ReLU, "PReLU": nn.ReLU, "Sigmoid": nn.Hardsigmoid, "Hardsigmoid": nn.Sigmoid, "Tanh": nn.Softsign,
    "SELU": nn.ELU, "Mish": nn.SiLU, "Softplus": nn.ReLU, "CELU": nn.ReLU,
}  # fmt: skip
_OTHER_FUNCTION: dict[str, Callable[[Any], Any]] = {
    "relu": F.silu, "relu6": F.relu, "gelu": F.relu, "silu": F.hardswish, "hardswish": F.silu, "elu": F.relu,
    "leaky_relu": F.relu, "sigmoid": F.hardsigmoid, "tanh": F.softsign,
}  # fmt: skip


def of(*classes: type[nn.Module]) -> Callable[[Subject], Iterable[Site]]:
    """Every layer of these classes."""
    return lambda subject: subject.modules(*classes)


def every(*classes: type[nn.Module]) -> Callable[[Subject], Iterable[list[Site]]]:
    """All layers of these classes at once: what a wrong default does."""
    return lambda subject: [found] if (found := list(subject.modules(*classes))) else []


def calls(*ops: str) -> Callable[[Subject], Iterable[Call]]:
    """Every call of these functions, those of a layer called several times once."""

    def sites(subject: Subject) -> Iterable[Call]:
        return {(c.scope, c.op, c.ordinal): c for c in reversed(subject.calls) if c.op in ops}.values()

    return sites


def weighted(subject: Subject) -> Iterable[Site]:
    """Convolutions and dense layers."""
    return subject.weighted


def _own_norms(subject: Subject) -> Iterable[Site]:
    """Normalisations that are no module of torch's (transformers' T5LayerNorm)."""
    for path, module in subject.paths.items():
        own = path in subject.gives and path not in subject.leaves and not list(module.children())
        if own and "Norm" in type(module).__name__:
            yield path


def _assign(layer: Any, name: str, value: torch.Tensor) -> None:
    with torch.no_grad():
        getattr(layer, name).copy_(value)


# --- normalisation ------------------------------------------------------------------------------------------


@kind("bn-eps", every(_BATCH))
@kind("ln-eps", every(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
@kind("ln-eps", lambda subject: [found] if (found := list(_own_norms(subject))) else [])
def _(work: Work, paths: list[Site]) -> None:
    for path in paths:
        layer = work.at(path)
        for name in ("eps", "variance_epsilon"):
            if hasattr(layer, name):
                setattr(layer, name, 1e-5 if (getattr(layer, name) or 0) > 1e-4 else 1e-3)


@kind("bn-stats", of(_BATCH))
def _(work: Work, path: Site) -> None:
    work.at(path).reset_running_stats()


@kind("bn-swapped", of(_BATCH))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    gamma = layer.weight.detach().clone()
    _assign(layer, "weight", layer.bias)
    _assign(layer, "bias", gamma)


@kind("bn-mode", of(_BATCH))
@kind("dropout-mode", of(nn.modules.dropout._DropoutNd))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.training = True
    layer.train = lambda mode=True: layer


@kind("bn-momentum", every(_BATCH), latent=True)
def _(work: Work, paths: list[Site]) -> None:
    for path in paths:
        layer = work.at(path)
        layer.momentum = 1 - (layer.momentum or 0.1)


@kind("std-ddof", of(nn.LayerNorm))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    axes = tuple(range(-len(layer.normalized_shape), 0))

    def run(forward: Any, x: torch.Tensor) -> Any:
        normal = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, correction=1) + layer.eps).sqrt()
        normal = normal if layer.weight is None else normal * layer.weight
        return normal if layer.bias is None else normal + layer.bias

    around(layer, run)


@kind("norm-axis", of(nn.LayerNorm))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if len(layer.normalized_shape) != 1 or len(work.subject.reads[path][0]) < 3:
        return False

    def run(forward: Any, x: torch.Tensor) -> Any:
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + layer.eps).sqrt()
        normal = normal if layer.weight is None else normal * layer.weight
        return normal if layer.bias is None else normal + layer.bias

    around(layer, run)
    return True


@kind("norm-axis", of(nn.GroupNorm))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    others = [n for n in (1, 2, 4, 8, 16, 32) if layer.num_channels % n == 0 and n not in (layer.num_groups,)]
    layer.num_groups = others[-1] if others else layer.num_groups
    return bool(others)


# --- activations --------------------------------------------------------------------------------------------


@kind("activation-kind", of(*_ACTIVATIONS))
def _(work: Work, path: Site) -> bool:
    new = _OTHER.get(type(work.at(path)).__name__)
    if new is None:
        return False
    work.replace(path, new())
    return True


@kind("activation-kind", calls(*_OTHER_FUNCTION))
def _(work: Work, call: Call) -> None:
    new = _OTHER_FUNCTION[call.op]
    work.edit(call, lambda func, args, named: new(args[0]))


@kind("activation-param", of(nn.LeakyReLU, nn.ELU, nn.CELU, nn.PReLU, nn.Softplus))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    if isinstance(layer, nn.PReLU):
        _assign(layer, "weight", layer.weight * 2 + 0.1)
    for name in ("negative_slope", "alpha", "beta"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name) * 2 + 0.1)


@kind("activation-param", calls("leaky_relu", "elu", "celu"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(args[0], 0.3))


@kind("activation-missing", of(*_ACTIVATIONS))
@kind("layer-missing", _own_norms)
@kind("layer-missing", of(_BATCH, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm))
def _(work: Work, path: Site) -> None:
    work.remove(path)


@kind("activation-missing", calls(*_OTHER_FUNCTION))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: args[0])


@kind("activation-extra", of(_CONV, nn.Linear, _BATCH, nn.LayerNorm))
def _(work: Work, path: Site) -> None:
    work.insert(path, nn.ReLU())


@kind("gelu-approx", of(nn.GELU))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.approximate = "none" if layer.approximate == "tanh" else "tanh"


@kind("gelu-approx", calls("gelu"))
def _(work: Work, call: Call) -> None:
    def change(func: Any, args: Any, named: Any) -> Any:
        old = named.get("approximate", args[1] if len(args) > 1 else "none")
        return func(args[0], approximate="none" if old == "tanh" else "tanh")

    work.edit(call, change)


@kind("softmax-axis", of(nn.Softmax, nn.LogSoftmax))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    rank = len(work.subject.reads[path][0])
    axis = (layer.dim if layer.dim is not None else 1) % rank
    layer.dim = axis - 1 if axis > 1 or rank == 2 else axis + 1


@kind("softmax-axis", calls("softmax", "log_softmax"))
def _(work: Work, call: Call) -> None:
    rank = len(call.shapes[0])

    def change(func: Any, args: Any, named: Any) -> Any:
        axis = named.get("dim", args[1] if len(args) > 1 else -1) % rank
        return func(args[0], dim=axis - 1 if axis > 1 or rank == 2 else axis + 1)

    work.edit(call, change)


# --- kernels and weights ------------------------------------------------------------------------------------


@kind("kernel-layout", of(_CONV))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    weight = layer.weight
    if weight.dim() == 4 and weight.shape[2] == weight.shape[3] > 1:
        _assign(layer, "weight", weight.transpose(2, 3).clone())
    elif weight.shape[0] == weight.shape[1] > 1 and layer.groups == 1:
        _assign(layer, "weight", weight.transpose(0, 1).clone())
    else:
        return False
    return True


@kind("kernel-flip", of(_CONV))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    _assign(layer, "weight", layer.weight.flip(tuple(range(2, layer.weight.dim()))).clone())


@kind("dense-transpose", weighted)
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight.dim() != 2 or layer.weight.shape[0] != layer.weight.shape[1]:
        return False
    _assign(layer, "weight", layer.weight.t().clone())
    return True


@kind("dense-row-order", of(nn.Linear))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    structure = work.subject.structure
    node = next(node for node in structure if node.owner == path)
    while node.parents:
        node = structure.by_name[node.parents[0]]
        shape = node.shape or ()
        if node.kind not in ("flatten", "reshape", "dropout", "identity"):
            break
    if len(shape) < 3 or shape[1] < 2:
        return False
    inner = tuple(shape[1:])
    if layer.in_features != torch.Size(inner).numel() or layer.in_features == inner[0]:
        return False
    order = torch.arange(layer.in_features).reshape(inner).movedim(0, -1).reshape(-1)
    _assign(layer, "weight", layer.weight[:, order].clone())
    return True


@kind("depthwise-order", of(_CONV))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.groups != layer.in_channels or layer.groups == 1 or isinstance(layer, _TRANSPOSED):
        return False
    weight, times = layer.weight, layer.out_channels // layer.groups
    turned = (
        weight.unflatten(0, (layer.groups, times)).transpose(0, 1).flatten(0, 1) if times > 1 else weight.roll(1, 0)
    )
    _assign(layer, "weight", turned.clone())
    return True


@kind("bias-missing", weighted)
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.bias is None:
        return False
    layer.bias = None
    return True


@kind("weights-not-loaded", weighted)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
    else:
        nn.init.normal_(layer.weight, std=layer.weight.shape[0] ** -0.5)


@kind("weights-perturbed", weighted)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    spread = layer.weight.detach().std() if layer.weight.numel() > 1 else layer.weight.detach().abs()
    _assign(layer, "weight", layer.weight + 0.05 * spread * torch.randn_like(layer.weight))


def _twins(subject: Subject) -> list[tuple[Site, Site]]:
    """Layers with weights of equal shapes, next to each other in running order."""
    found: list[tuple[Site, Site]] = []
    last: dict[Any, Site] = {}
    for path in weighted(subject):
        layer: Any = subject.weighted[path]
        key = type(layer), layer.weight.shape, layer.bias is None
        if key in last:
            found.append((last[key], path))
        last[key] = path
    return found


@kind("weights-swapped", _twins)
def _(work: Work, paths: tuple[Site, Site]) -> None:
    first, second = work.at(paths[0]), work.at(paths[1])
    for name in ("weight", "bias"):
        if getattr(first, name) is not None:
            value = getattr(first, name).detach().clone()
            _assign(first, name, getattr(second, name))
            _assign(second, name, value)


@kind("dtype", of(_CONV, nn.Linear))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)

    def run(forward: Any, x: torch.Tensor) -> Any:
        kept = {name: value.data for name, value in layer.named_parameters()}
        for value in layer.parameters():
            value.data = value.data.bfloat16()
        try:
            return forward(x.bfloat16()).to(x.dtype)
        finally:
            for name, value in layer.named_parameters():
                value.data = kept[name]

    around(layer, run)


# --- convolution and pooling settings -----------------------------------------------------------------------


def _step(subject: Subject, path: Site) -> int:
    convolution: Any = subject.leaves[path]
    return int(max(convolution.stride))


def _padded(subject: Subject) -> list[Site]:
    """Convolutions with symmetric padding, those with a stride first."""
    found = []
    for path in subject.modules(nn.Conv1d, nn.Conv2d, nn.Conv3d):
        layer: Any = subject.leaves[path]
        if isinstance(layer.padding, tuple) and max(layer.padding) > 0:
            found.append(path)
    strided = [path for path in found if _step(subject, path) > 1]
    return strided or found


@kind("pad-asymmetry", _padded)
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if isinstance(layer, nn.Conv3d):
        return False
    sides = [side for wide in reversed(layer.padding) for side in (0, 2 * wide)]
    layer.padding = (0,) * len(layer.padding)
    layer._reversed_padding_repeated_twice = [0] * len(sides)
    pad = nn.ConstantPad1d if len(sides) == 2 else nn.ConstantPad2d
    # The reference may pad by a layer of its own, which this then is the twin of.
    work.insert(path, pad(tuple(sides), 0.0), before=True, moving=True)  # type: ignore[arg-type]
    return True


@kind("pad-mode", _padded)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.padding_mode = "reflect"


@kind("pad-valid", _padded)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.padding = (0,) * len(layer.padding)


_POOLS = {"MaxPool": "AvgPool", "AvgPool": "MaxPool", "AdaptiveAvgPool": "AdaptiveMaxPool",
          "AdaptiveMaxPool": "AdaptiveAvgPool"}  # fmt: skip


@kind("pool-kind", lambda subject: (p for p, m in subject.leaves.items() if type(m).__name__[:-2] in _POOLS))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    name = type(layer).__name__
    cls = getattr(nn, _POOLS[name[:-2]] + name[-2:])
    if name.startswith("Adaptive"):
        work.replace(path, cls(layer.output_size))
    else:
        work.replace(path, cls(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode))


@kind("pool-kind", calls("mean", "max_pool2d", "max_pool1d", "avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d"))
def _(work: Work, call: Call) -> bool:
    new: Any = {"mean": torch.amax, "max_pool2d": F.avg_pool2d, "max_pool1d": F.avg_pool1d, "avg_pool2d": F.max_pool2d,
           "avg_pool1d": F.max_pool1d, "adaptive_avg_pool2d": F.adaptive_max_pool2d}[call.op]  # fmt: skip
    if call.op == "mean" and call.node.kind != "global_avg_pool":
        return False
    work.edit(call, lambda func, args, named: new(*args[:4], **named))
    return True


@kind("pool-count-include-pad", of(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.count_include_pad = not layer.count_include_pad


@kind("pool-count-include-pad", calls("avg_pool2d"))
def _(work: Work, call: Call) -> None:
    def change(func: Any, args: Any, named: Any) -> Any:
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
        named = {**dict(zip(names, args[1:], strict=False)), **named}
        return func(args[0], **{**named, "count_include_pad": not named.get("count_include_pad", True)})

    work.edit(call, change)


@kind("pool-ceil-mode", of(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.ceil_mode = not layer.ceil_mode


def _strides(subject: Subject) -> list[tuple[Site, Site]]:
    """Two convolutions of one block, one of which has a stride."""
    blocks: dict[str, list[Site]] = {}
    for path in subject.modules(nn.Conv1d, nn.Conv2d):
        parts = path.split(".")
        for depth in range(1, min(3, len(parts))):  # a block may wrap its convolutions once more
            blocks.setdefault(".".join(parts[:-depth]) + f"|{depth}", []).append(path)
    found = []
    for paths in blocks.values():
        moving = [p for p in paths if _step(subject, p) > 1]
        still = [p for p in paths if _step(subject, p) == 1]
        found += [(a, b) for a in moving[:1] for b in still[:2]] if len(paths) <= 6 else []
    return list(dict.fromkeys(found))


@kind("stride-position", _strides)
def _(work: Work, paths: tuple[Site, Site]) -> None:
    first, second = work.at(paths[0]), work.at(paths[1])
    first.stride, second.stride = second.stride, first.stride


@kind("dilation", of(nn.Conv1d, nn.Conv2d))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if max(layer.kernel_size) < 2 or not isinstance(layer.padding, tuple) or max(layer.dilation) > 2:
        return False
    more = 2 if max(layer.dilation) == 1 else -1
    layer.padding = tuple(
        p + (k - 1) * (1 if more == 2 else -1) // 2 for p, k in zip(layer.padding, layer.kernel_size, strict=True)
    )
    layer.dilation = tuple(2 if more == 2 else 1 for _ in layer.dilation)
    layer._reversed_padding_repeated_twice = [side for p in reversed(layer.padding) for side in (p, p)]
    return all(side >= 0 for side in layer.padding)


@kind("groups", of(nn.Conv1d, nn.Conv2d))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.groups != 1 or layer.in_channels % 2 or layer.out_channels % 2:
        return False
    layer.groups = 2
    layer.weight = nn.Parameter(layer.weight.detach()[:, : layer.in_channels // 2].clone(), layer.weight.requires_grad)
    return True


class Crop(nn.Module):
    """A window of the last axes; zeros where it reaches past the end."""

    def __init__(self, start: int, lengths: tuple[int, ...]) -> None:
        super().__init__()
        self.start, self.lengths = start, lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = []
        for axis, length in enumerate(reversed(self.lengths), start=1):
            sides += [-self.start, self.start + length - x.shape[-axis]]
        return F.pad(x, sides)


@kind("transposed-conv-shift", of(nn.ConvTranspose1d, nn.ConvTranspose2d))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if max(layer.stride) < 2:
        return False
    start = 0 if max(layer.padding) else 1
    layer.padding = layer.output_padding = (0,) * len(layer.padding)
    lengths = work.subject.gives[path][2:]
    work.insert(path, Crop(start, lengths))
    # The tensor that must be equal is the cropped one.
    raw, crop = _around(work, path)
    work.moved |= {raw: None, crop: path, f"{crop}.pad": path}
    return True


def _around(work: Work, path: Site) -> tuple[str, str]:
    """Where a layer and what was inserted behind it are now."""
    raw = next(new for new, old in work.moved.items() if old == path)
    above, _, key = raw.rpartition(".")
    return raw, f"{above}.{int(key) + 1}" if above else str(int(key) + 1)


@kind("depth-to-space-order", of(nn.PixelShuffle))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)

    def run(forward: Any, x: torch.Tensor) -> Any:
        times = layer.upscale_factor**2
        return forward(x.unflatten(1, (times, -1)).transpose(1, 2).flatten(1, 2))

    around(layer, run)


# --- resizing -----------------------------------------------------------------------------------------------


@kind("resize-align-corners", of(nn.Upsample))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.mode not in ("linear", "bilinear", "bicubic"):
        return False
    layer.align_corners = not layer.align_corners
    return True


_MODES = {"nearest": {3: "linear", 4: "bilinear", 5: "trilinear"}}


@kind("resize-mode", of(nn.Upsample))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    smooth = layer.mode != "nearest"
    layer.mode = "nearest" if smooth else _MODES["nearest"][len(work.subject.reads[path][0])]
    layer.align_corners = None


@kind("resize-align-corners", calls("interpolate"))
@kind("resize-mode", calls("interpolate"))
def _(work: Work, call: Call) -> None:
    corners = work.kind == "resize-align-corners"

    def change(func: Any, args: Any, named: Any) -> Any:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        named = {**dict(zip(names, args, strict=False)), **named}
        smooth = named.get("mode", "nearest") not in ("nearest", "area", "nearest-exact")
        if corners and smooth:
            named["align_corners"] = not named.get("align_corners")
        elif not corners:
            named["mode"] = "nearest" if smooth else _MODES["nearest"][named["input"].dim()]
            named.pop("align_corners", None)
        return func(**named)

    work.edit(call, change)
