"""torch.nn's modules in the shared vocabulary: kind, configuration, layout, and the parameters they own."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tracer.graph import Layout, Param
from tracer_torch import quantized
from tracer_torch.tensors import dtype_name

Config = dict[str, Any]

_SHOWN = (bool, int, float, str, tuple, list)
_KINDS = {
    "Linear": "dense", "NonDynamicallyQuantizableLinear": "dense", "LazyLinear": "dense", "Bilinear": "bilinear",
    "Embedding": "embedding", "EmbeddingBag": "embedding", "LSTM": "lstm", "GRU": "gru", "RNN": "rnn",
    "LSTMCell": "lstm_cell", "GRUCell": "gru_cell", "RNNCell": "rnn_cell", "MultiheadAttention": "attention",
    "SyncBatchNorm": "batchnorm", "LayerNorm": "layernorm", "GroupNorm": "groupnorm", "RMSNorm": "rmsnorm",
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "ELU": "elu", "SELU": "selu",
    "CELU": "celu", "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "Hardsigmoid": "hard_sigmoid", "Hardswish": "hard_silu", "Hardtanh": "hard_tanh", "Softmax": "softmax",
    "Softmax2d": "softmax", "LogSoftmax": "log_softmax", "Softplus": "softplus", "Softsign": "softsign",
    "LogSigmoid": "log_sigmoid", "Threshold": "threshold", "GLU": "glu", "Unflatten": "reshape",
    "Identity": "identity", "Dropout": "dropout", "Dropout1d": "dropout", "Dropout2d": "dropout",
    "Dropout3d": "dropout", "AlphaDropout": "dropout", "FeatureAlphaDropout": "dropout", "Flatten": "flatten",
    "Upsample": "upsample", "UpsamplingNearest2d": "upsample", "UpsamplingBilinear2d": "upsample",
    "PixelShuffle": "pixel_shuffle", "PixelUnshuffle": "pixel_unshuffle", "ChannelShuffle": "permute",
    "CrossMapLRN2d": "lrn", "LocalResponseNorm": "lrn", "Fold": "fold", "Unfold": "unfold", "Softmin": "softmax",
    "Hardshrink": "hard_shrink", "Softshrink": "soft_shrink", "Tanhshrink": "tanh_shrink", "Quantize": "quantize",
    "DeQuantize": "cast",
}  # fmt: skip
_SAME_WORD = {
    "eps": "epsilon", "momentum": "momentum", "dilation": "dilation", "groups": "groups", "stride": "strides",
    "kernel_size": "kernel_size", "padding": "padding", "output_padding": "output_padding", "ceil_mode": "ceil_mode",
    "count_include_pad": "count_include_pad", "divisor_override": "divisor_override", "alpha": "alpha", "beta": "beta",
    "negative_slope": "negative_slope", "approximate": "approximate", "align_corners": "align_corners",
    "mode": "mode", "scale_factor": "scale_factor", "size": "size", "dim": "axis", "threshold": "threshold",
    "value": "value", "min_val": "min_value", "max_val": "max_value", "batch_first": "batch_first",
    "num_layers": "num_layers", "bidirectional": "bidirectional", "hidden_size": "units",
    "proj_size": "projection", "nonlinearity": "activation", "num_heads": "num_heads", "embed_dim": "embed_dim",
    "num_groups": "groups", "normalized_shape": "normalized_shape", "num_embeddings": "input_dim",
    "embedding_dim": "output_dim", "padding_idx": "padding_idx", "max_norm": "max_norm", "upscale_factor": "factor",
    "start_dim": "start_axis", "end_dim": "end_axis", "unflattened_size": "args", "output_size": "output_size",
    "affine": "affine", "elementwise_affine": "affine", "track_running_stats": "track_running_stats", "p": "rate",
    "return_indices": "return_indices", "dropout": "dropout",
}  # fmt: skip
_OPAQUE = (nn.MultiheadAttention,)
"""torch.nn modules with children that compute as one piece (their children are read, not called)."""
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WITH_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_TORCHS = ("torch.nn.modules.", "torch.ao.nn.")
_UNINITIALIZED = (nn.UninitializedParameter, nn.UninitializedBuffer)


def is_torch_forward(module: nn.Module) -> bool:
    """Whether ``module`` computes as torch.nn's class does, even if the user subclassed it."""
    own = module.__dict__.get("forward")
    if own:
        return _of_torch(own) and not isinstance(module, torch.jit.ScriptModule)
    kind = type(module)
    # Asking a ScriptModule's class for the forward raises.
    return not _is_script(kind) and _of_torch_class(kind.forward)  # type: ignore[arg-type]


def _of_torch(forward: Callable[..., Any]) -> bool:
    name, home = getattr(forward, "__name__", ""), str(getattr(forward, "__module__", ""))
    return name != "_forward_unimplemented" and home.startswith(_TORCHS)


_of_torch_class = functools.lru_cache(maxsize=1024)(_of_torch)
"""The same of a class's own, which no module is kept alive by."""


@functools.lru_cache(maxsize=1024)
def _is_script(kind: type[nn.Module]) -> bool:
    return issubclass(kind, torch.jit.ScriptModule)


def is_leaf(module: nn.Module) -> bool:
    """Whether ``module`` is one node, its inside not shown."""
    if isinstance(module, _HOLDERS) or not is_torch_forward(module):
        return False
    if not module._modules or quantized.layer(module) is not None:
        return True
    # torch.nn.utils.parametrize puts its parametrisations into a child of that name.
    return isinstance(module, _OPAQUE) or all(
        child is None or name == "parametrizations" for name, child in module._modules.items()
    )


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` is torch.compile's wrapper of another."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def torch_class(module: nn.Module) -> str:
    """The name of torch.nn's class that ``module`` computes as, or of its own class."""
    if is_torch_forward(module):
        return quantized.layer(module) or _torchs_class(type(module))  # type: ignore[arg-type]
    return type(module).__name__


@functools.lru_cache(maxsize=1024)
def _torchs_class(kind: type[nn.Module]) -> str:
    named = (cls.__name__ for cls in kind.__mro__ if cls.__module__.startswith("torch.nn.modules."))
    return next(named, kind.__name__)


def kind(module: nn.Module) -> str:
    """The module's operation in the vocabulary of :mod:`tracer.kinds`."""
    name = torch_class(module).removeprefix("Lazy")
    if not is_torch_forward(module):
        return "dropout" if name.endswith(("DropPath", "StochasticDepth")) else f"other:{name}"
    if name in _KINDS:
        return _KINDS[name]
    rank = name[-2:].lower()
    if quantized.layer(module) is not None and name.startswith(("Conv", "BatchNorm")):
        stem = {"ConvT": "conv_transpose", "Batch": "batchnorm"}.get(name[:5], "conv")
        depthwise = stem == "conv" and getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1
        return stem if stem == "batchnorm" else f"{'depthwise_' if depthwise else ''}{stem}{rank}"
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return f"conv_transpose{rank}"
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups == module.in_channels and module.groups > 1
        return f"depthwise_conv{rank}" if depthwise else f"conv{rank}"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith("Instance"):
        return "batchnorm"
    if name.startswith("InstanceNorm"):
        return "instancenorm"
    if name.startswith("Adaptive") and "Pool" in name:
        stem = "avg" if "Avg" in name else "max"
        one = all(size == 1 for size in _list(getattr(module, "output_size", None)))
        return f"global_{stem}_pool" if one else f"adaptive_{stem}_pool"
    if name.startswith(("MaxPool", "AvgPool")):
        return f"{name[:3].lower()}_pool{rank}"
    return "pad" if "Pad" in name else f"other:{name}"


def config(module: nn.Module) -> Config:
    """What matters for porting, in the shared words, JSON values only."""
    if not is_torch_forward(module):
        return {}
    out: Config = {}
    for attribute, word in _settings(type(module), (*vars(module),)):  # type: ignore[arg-type]
        value = getattr(module, attribute, None)
        if isinstance(value, _SHOWN):
            out[word] = json_value(value)
    normed = [list(held) for held in _weight_normed(module)]
    if normed:
        out["weight_norm"] = normed
    packed = quantized.layer(module)
    if packed is not None:
        out.pop("mode", None)
        if not packed.startswith("ConvTranspose"):
            out.pop("output_padding", None)
        return out | quantized.config(module, packed)
    if isinstance(module, nn.RNNBase):
        del out["mode"]  # the class again: "LSTM"
    if isinstance(module, nn.modules.conv._ConvNd):
        if not module.transposed:
            out.pop("output_padding", None)
        out |= {"filters": module.out_channels, "in_channels": module.in_channels, "bias": module.bias is not None}
        if module.padding_mode != "zeros":
            out["padding_mode"] = module.padding_mode
    elif isinstance(module, nn.Linear):
        biased = module._parameters.get("bias") is not None or module.bias is not None
        out |= {"units": module.out_features, "in_features": module.in_features, "bias": biased}
    elif isinstance(module, nn.modules.pooling._MaxPoolNd | nn.modules.pooling._AvgPoolNd):
        rank = int(torch_class(module)[-2])
        for word in ("kernel_size", "strides", "padding", "dilation"):
            if isinstance(out.get(word), int):
                out[word] = [out[word]] * rank
    elif "Pad" in type(module).__name__:
        name = torch_class(module)
        out["mode"] = next((m for m in ("Reflection", "Replication", "Circular") if name.startswith(m)), "constant")
        out["mode"] = {"Reflection": "reflect", "Replication": "replicate"}.get(out["mode"], out["mode"].lower())
    elif isinstance(module, nn.Softmax2d):
        out["axis"] = -3
    return out


@functools.lru_cache(maxsize=1024)
def _settings(kind: type[nn.Module], held: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The items of :data:`_SAME_WORD` that a module of a class has, or may have, which holds attributes of these names:
    asking a module for what it has not is slow."""
    if kind.__getattr__ is not nn.Module.__getattr__:
        return tuple(_SAME_WORD.items())
    return tuple(item for item in _SAME_WORD.items() if item[0] in held or hasattr(kind, item[0]))


_MOODY = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.dropout._DropoutNd,
)


def own_mode(module: nn.Module, root: nn.Module) -> Config:
    """``training`` of a layer that computes otherwise in training and is in another mode than the whole model."""
    if not isinstance(module, _MOODY) or module.training == root.training:
        return {}
    return {"training": bool(module.training)}


def layout(module: nn.Module) -> Layout | None:
    """``channels_first`` for modules that have a channel axis next to the batch."""
    name = torch_class(module)
    if isinstance(module, _WITH_CHANNELS) or ("Pool" in name and name[-2:] in ("1d", "2d", "3d")):
        return "channels_first"
    return None


def json_value(value: object, depth: int = 0) -> Any:
    """``value`` as JSON; what JSON has not becomes text, and so does what nests too deep or is too long to show."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        if depth > 2 or len(value) > (256 if depth == 0 else 16):
            return f"{type(value).__name__} of {len(value)}"
        return [json_value(item, depth + 1) for item in value]
    if isinstance(value, slice):
        ends = ("" if end is None else str(json_value(end)) for end in (value.start, value.stop))
        return ":".join(ends) + ("" if value.step is None else f":{value.step}")
    if value is Ellipsis:
        return "..."
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, torch.Tensor):
        return int(value) if value.numel() == 1 and not value.is_floating_point() and not value.is_meta else "tensor"
    # numpy's scalars (a kernel size computed with numpy) and whatever else is a number.
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return type(value).__name__


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def clean(path: str) -> str:
    """A module's path without torch.compile's wrappers."""
    if "_orig_mod" not in path:
        return path
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def paths(root: nn.Module) -> tuple[dict[nn.Module, str], set[str]]:
    """Every module with its first path, and the paths of all."""
    first: dict[nn.Module, str] = {}
    every: set[str] = set()
    for name, module in root.named_modules(remove_duplicate=False):
        path = clean(name)
        first.setdefault(module, path)
        every.add(path)
    return first, every


@dataclass(frozen=True)
class Computed:
    """A weight that is made of others whenever it is used (weight_norm, spectral_norm, parametrize, prune).

    ``make`` computes it and changes nothing. It is read from ``chain`` where it has one; otherwise a hook before the
    module's forward sets it.
    """

    module: nn.Module
    name: str
    parts: tuple[torch.Tensor, ...]
    make: Callable[[], torch.Tensor]
    chain: nn.Module | None = None


def _parametrizations(module: nn.Module) -> Mapping[str, Any]:
    """What torch.nn.utils.parametrize puts before a module's weights, by their names."""
    return getattr(module, "parametrizations", None) or {} if "parametrizations" in module._modules else {}


def _computed(module: nn.Module) -> Iterable[Computed]:
    return _computed_by(module) if module._forward_pre_hooks or module._modules else ()


def _computed_by(module: nn.Module) -> Iterator[Computed]:
    for name, chain in _parametrizations(module).items():
        held = (*chain.parameters(), *chain.buffers())
        yield Computed(module, name, held, partial(_asked, module, name, chain), chain)
    ends: tuple[str, ...]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            name, make, ends = hook.name, partial(hook.compute_weight, module), ("g", "v")
        elif isinstance(hook, SpectralNorm):
            name, ends = hook.name, ("orig", "u", "v")
            make = partial(hook.compute_weight, module, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod):
            name, make, ends = hook._tensor_name, partial(hook.apply_mask, module), ("orig", "mask")
        else:
            continue
        yield Computed(module, name, tuple(getattr(module, f"{name}_{end}") for end in ends), make)


def _weight_normed(module: nn.Module) -> Iterator[tuple[str, int | None, str, str]]:
    """Weights that are kept as a direction and its lengths: the name, the axis along which the lengths stand (None: one
    for all), and what lengths and direction are called in a state dict."""
    for name, chain in _parametrizations(module).items():
        if len(chain) == 1 and isinstance(chain[0], _WeightNorm):
            parts = f"parametrizations.{name}.original"
            yield name, _axis(chain[0].dim), f"{parts}0", f"{parts}1"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield hook.name, _axis(hook.dim), f"{hook.name}_g", f"{hook.name}_v"


def _axis(dim: int) -> int | None:
    """torch.nn.utils takes -1 for all axes."""
    return None if dim == -1 else dim


def _asked(module: nn.Module, name: str, chain: nn.Module) -> torch.Tensor:
    training = [part for part in chain.modules() if part.training]
    for part in training:
        part.training = False  # in training mode spectral_norm would take a step when asked
    try:
        made = getattr(module, name)
        assert isinstance(made, torch.Tensor)
        return made
    finally:
        for part in training:
            part.training = True


def parts(root: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """The modules that hold tensors: owner's path, prefix of their tensors' names, module.

    A leaf owns what its children hold (``out_proj.weight`` of MultiheadAttention).
    """
    below = "\0"  # the leaf whose inside comes next
    every = list(root.named_modules())
    hidden = computing(module for _, module in every)
    for path, module in every:
        if path.startswith(below):
            continue
        if not (module._modules and is_leaf(module)):
            if module not in hidden:
                yield clean(path), "", module
            continue
        for inner, part in module.named_modules():
            if part not in hidden:
                yield clean(path), f"{inner}." if inner else "", part
        below = f"{path}." if path else ""


def computing(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """The modules of a network that compute weights: no steps of it."""
    return {part for module in modules if isinstance(module, ParametrizationList) for part in module.modules()}


Parts = Iterable[tuple[str, str, nn.Module]]


def computed(root: nn.Module, held: Parts | None = None) -> Iterator[tuple[str, str, Computed]]:
    """The weights that are computed when they are used, by owner and name as :func:`owned` gives them; ``held`` are its
    :func:`parts`, where they are known."""
    for owner, prefix, part in parts(root) if held is None else held:
        for weight in _computed(part):
            yield owner, prefix + weight.name, weight


def owned(root: nn.Module, held: Parts | None = None) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Every parameter and buffer with its owner's path and its local name; a tied one once. ``held`` as above.

    In place of the parts of a computed weight comes a copy of what they make.
    """
    seen: dict[int, torch.Tensor] = {}  # the tensors too: an id is only unique while its tensor lives
    for owner, prefix, part in parts(root) if held is None else held:
        hidden: set[int] = set()
        for weight in _computed(part):
            hidden |= {id(tensor) for tensor in weight.parts}
            with torch.no_grad():
                made = weight.make().detach().clone()
            yield owner, prefix + weight.name, made.requires_grad_(any(held.requires_grad for held in weight.parts))
        if quantized.layer(part) is not None:
            yield from ((owner, prefix + name, tensor) for name, tensor in quantized.weights(part))
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None or name == "num_batches_tracked" or id(tensor) in hidden or id(tensor) in seen:
                continue
            seen[id(tensor)] = tensor
            yield owner, prefix + name, tensor


def param(name: str, tensor: torch.Tensor) -> Param:
    """The description of a parameter or buffer."""
    shape = () if is_uninitialized(tensor) else tuple(tensor.shape)
    return Param(name, shape, dtype_name(tensor.dtype), bool(tensor.requires_grad))


def is_uninitialized(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` belongs to a lazy module that has no weights yet."""
    # Asking for the classes of parameters runs Python of torch's.
    return type(tensor) not in (torch.Tensor, nn.Parameter) and isinstance(tensor, _UNINITIALIZED)
