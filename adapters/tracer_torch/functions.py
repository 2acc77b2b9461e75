"""Functional operations in the shared vocabulary: name, kind and configuration of a call that torch intercepted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from tracer.kinds import ELEMENTWISE, INDEXING, LOGICAL, MAKING, RARE, REDUCTIONS, powered, reduction
from tracer_torch.layers import Config, json_value
from tracer_torch.tensors import shape_of, walk

_NAMES = {
    "rsub": "sub", "rdiv": "div", "rmul": "mul", "radd": "add", "rpow": "pow", "rmatmul": "matmul", "iadd": "add",
    "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div", "rtruediv": "div", "idiv": "div",
    "ipow": "pow", "imatmul": "matmul", "getitem": "slice", "setitem": "setitem", "true_divide": "div",
    "rfloordiv": "floor_divide", "floordiv": "floor_divide", "subtract": "sub", "multiply": "mul", "divide": "div",
    "concat": "cat", "concatenate": "cat",
}  # fmt: skip
_KINDS = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "matmul": "matmul", "mm": "matmul", "bmm": "matmul",
    "cat": "concat", "stack": "stack", "hstack": "concat", "maximum": "maximum", "minimum": "minimum",
    "fmax": "maximum", "fmin": "minimum", "dot": "dot", "linear": "dense", "bilinear": "bilinear",
    "embedding": "embedding", "embedding_bag": "embedding", "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention", "batch_norm": "batchnorm", "layer_norm": "layernorm",
    "group_norm": "groupnorm", "instance_norm": "instancenorm", "rms_norm": "rmsnorm", "normalize": "l2_normalize",
    "relu": "relu", "relu6": "relu6", "leaky_relu": "leaky_relu", "prelu": "prelu", "elu": "elu", "selu": "selu",
    "celu": "celu", "gelu": "gelu", "silu": "silu", "mish": "mish", "sigmoid": "sigmoid", "expit": "sigmoid",
    "hardsigmoid": "hard_sigmoid", "hardswish": "hard_silu", "tanh": "tanh", "hardtanh": "hard_tanh",
    "softmax": "softmax", "log_softmax": "log_softmax", "softplus": "softplus", "softsign": "softsign",
    "exp": "exponential", "logsigmoid": "log_sigmoid", "log_sigmoid": "log_sigmoid", "threshold": "threshold",
    "glu": "glu", "flatten": "reshape", "view": "reshape", "reshape": "reshape", "unflatten": "reshape",
    "view_as": "reshape", "reshape_as": "reshape", "ravel": "reshape", "permute": "permute", "transpose": "permute",
    "movedim": "permute", "moveaxis": "permute", "swapaxes": "permute", "swapdims": "permute", "t": "permute",
    "T": "permute", "mT": "permute", "H": "permute", "mH": "permute", "adjoint": "permute", "squeeze": "squeeze",
    "unsqueeze": "expand_dims", "dropout": "dropout", "dropout1d": "dropout", "dropout2d": "dropout",
    "dropout3d": "dropout", "alpha_dropout": "dropout", "feature_dropout": "dropout",
    "feature_alpha_dropout": "dropout", "slice": "slice", "narrow": "slice", "select": "slice",
    "chunk": "split", "split": "split", "tensor_split": "split", "unbind": "split", "split_with_sizes": "split",
    "pad": "pad", "interpolate": "upsample", "upsample": "upsample", "pixel_shuffle": "pixel_shuffle",
    "to": "cast", "float": "cast", "half": "cast", "double": "cast", "bfloat16": "cast", "long": "cast",
    "int": "cast", "type": "cast", "type_as": "cast", "mean": "mean", "amax": "amax",
    "lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn", "rnn_relu": "rnn", "lstm_cell": "lstm_cell",
    "gru_cell": "gru_cell", "einsum": "matmul", "tensordot": "matmul", "inner": "matmul", "pow": "power",
    "float_power": "power", "clamp_min": "clip", "clamp_max": "clip", "addmm": "matmul", "addbmm": "matmul",
    "baddbmm": "matmul", "mv": "matmul", "addmv": "matmul", "chain_matmul": "matmul", "multi_dot": "matmul",
    "negative": "neg", "absolute": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2",
    "floor_divide": "floor_div", "remainder": "mod", "fmod": "mod", "eq": "equal", "ne": "not_equal", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal", "less": "less", "greater": "greater",
    "gather": "gather", "index_select": "gather", "take": "gather", "take_along_dim": "gather", "index": "gather",
    "masked_select": "gather", "scatter": "scatter", "scatter_add": "scatter", "scatter_reduce": "scatter",
    "index_add": "scatter", "index_put": "setitem", "index_copy": "setitem", "index_fill": "setitem",
    "masked_scatter": "setitem", "copy": "setitem", "repeat": "tile", "tile": "tile", "repeat_interleave": "repeat",
    "expand": "expand", "flip": "flip", "fliplr": "flip", "flipud": "flip", "roll": "roll",
    "channel_shuffle": "permute", "pixel_unshuffle": "pixel_unshuffle", "unfold": "unfold", "im2col": "unfold",
    "fold": "fold", "col2im": "fold", "min": "amin", "max": "amax", "nansum": "sum", "nanmean": "mean",
    "std_mean": "std", "var_mean": "var", "linalg_norm": "norm", "linalg_vector_norm": "norm", "frobenius_norm": "norm",
    "hardshrink": "hard_shrink", "softshrink": "soft_shrink", "tanhshrink": "tanh_shrink", "logit": "other:logit",
    "local_response_norm": "lrn", "movement": "permute", "fft_fft": "fft", "fft_rfft": "fft", "fft_ifft": "fft",
    "fft_irfft": "fft", "fft_fft2": "fft", "fft_ifft2": "fft", "fft_rfft2": "fft", "fft_irfft2": "fft", "stft": "fft",
    "istft": "fft", "hsplit": "split", "vsplit": "split", "dsplit": "split", "vstack": "concat", "dstack": "concat",
    "column_stack": "concat", "swish": "silu", "quantize_per_tensor": "quantize", "dequantize": "cast",
    "rand_like": "random", "randn_like": "random", "bernoulli": "random", "as_tensor": "identity",
    "linalg_inv": "inverse",
}  # fmt: skip
_KINDS |= {word: word for word in ELEMENTWISE | LOGICAL | REDUCTIONS | INDEXING | MAKING | RARE if word not in _KINDS}
TRANSPARENT = frozenset(
    "data detach detach_ contiguous clone alias cpu requires_grad_ to float half double bfloat16 type "  # noqa: SIM905
    "type_as cuda "
    "expand expand_as broadcast_to lift_fresh real".split()
)
"""Operations that give the same values and type (a cast that changes the type is told apart by its result).

``expand`` is among them: it only repeats what broadcasting would.
"""
ASKING = frozenset(
    "shape size dim ndim dtype device is_cuda is_floating_point is_complex numel len item "  # noqa: SIM905
    "is_contiguous stride "
    "requires_grad layout is_sparse is_quantized is_nested is_meta names nelement element_size storage_offset "
    "data_ptr grad grad_fn is_leaf has_names untyped_storage version format repr hash".split()
)
"""What is asked of tensors and gives none: not worth a look."""
SHAPED = frozenset(
    "empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_zeros new_ones "  # noqa: SIM905
    "new_full new_empty_strided".split()
)
"""What takes nothing from a tensor but its shape and type."""
_POOL = ("kernel_size", "strides", "padding")
_POSITIONS: dict[str, tuple[str, ...]] = {
    "leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "gelu": ("approximate",),
    "softmax": ("axis",), "log_softmax": ("axis",), "cat": ("axis",), "stack": ("axis",),
    "softplus": ("beta", "threshold"),
    "chunk": ("chunks", "axis"), "split": ("sizes", "axis"), "unbind": ("axis",), "unsqueeze": ("axis",),
    "squeeze": ("axis",), "narrow": ("axis", "start", "length"), "select": ("axis", "index"),
    "pad": ("padding", "mode", "value"), "interpolate": ("size", "scale_factor", "mode", "align_corners"),
    "mean": ("axis", "keepdim"), "sum": ("axis", "keepdim"), "amax": ("axis", "keepdim"), "max": ("axis", "keepdim"),
    "amin": ("axis", "keepdim"), "min": ("axis", "keepdim"), "argmax": ("axis", "keepdim"),
    "flatten": ("start_axis", "end_axis"), "normalize": ("p", "axis", "epsilon"),
    "hardtanh": ("min_value", "max_value"),
    "dropout": ("rate", "training"), "alpha_dropout": ("rate", "training"), "feature_dropout": ("rate", "training"),
    "feature_alpha_dropout": ("rate", "training"), "glu": ("axis",), "pixel_shuffle": ("factor",),
    "threshold": ("threshold", "value"),
    "batch_norm": ("", "", "", "", "training", "momentum", "epsilon"),
    "layer_norm": ("normalized_shape", "", "", "epsilon"), "group_norm": ("groups", "", "", "epsilon"),
    "instance_norm": ("", "", "", "", "", "momentum", "epsilon"), "rms_norm": ("normalized_shape", "", "epsilon"),
    "clamp": ("min_value", "max_value"), "clip": ("min_value", "max_value"), "clamp_min": ("min_value",),
    "clamp_max": ("max_value",),
    "std": ("axis",), "var": ("axis",), "cumsum": ("axis",), "roll": ("shifts", "axis"), "flip": ("axis",),
    "scaled_dot_product_attention": ("", "", "", "dropout", "causal"),
}  # fmt: skip
for _rank in ("1d", "2d", "3d"):
    _POSITIONS[f"conv{_rank}"] = ("", "", "strides", "padding", "dilation", "groups")
    _POSITIONS[f"conv_transpose{_rank}"] = ("", "", "strides", "padding", "output_padding", "groups", "dilation")
    _POSITIONS[f"max_pool{_rank}"] = (*_POOL, "dilation", "ceil_mode")
    _POSITIONS[f"avg_pool{_rank}"] = (*_POOL, "ceil_mode", "count_include_pad", "divisor_override")
    _POSITIONS[f"adaptive_avg_pool{_rank}"] = _POSITIONS[f"adaptive_max_pool{_rank}"] = ("output_size",)
_DEFAULTS: dict[str, Config] = {
    "gelu": {"approximate": "none"}, "softplus": {"beta": 1.0, "threshold": 20.0}, "flatten": {"end_axis": -1},
}  # fmt: skip
"""What torch's C functions do where the call says nothing, which its modules say: functions in Python tell us all."""
for _rank in ("1d", "2d", "3d"):
    _DEFAULTS[f"conv{_rank}"] = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1}
    _DEFAULTS[f"conv_transpose{_rank}"] = {**_DEFAULTS[f"conv{_rank}"], "output_padding": 0}
    _DEFAULTS[f"max_pool{_rank}"] = {"padding": 0, "dilation": 1, "ceil_mode": False}
    _DEFAULTS[f"avg_pool{_rank}"] = {"padding": 0, "ceil_mode": False, "count_include_pad": True}
_WORDS = {
    "dim": "axis", "dims": "axis", "eps": "epsilon", "stride": "strides", "p": "rate", "pad": "padding",
    "split_size_or_sections": "sizes", "indices_or_sections": "sizes", "num_groups": "groups",
    "upscale_factor": "factor", "is_causal": "causal", "dropout_p": "dropout", "min_val": "min_value",
    "max_val": "max_value", "min": "min_value", "max": "max_value", "start_dim": "start_axis", "end_dim": "end_axis",
}  # fmt: skip
_IN_PLACE = frozenset(
    "__setitem__ __iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ "  # noqa: SIM905
    "__iand__ __ior__ __ixor__ __ilshift__ __irshift__ __idiv__".split()
)
_UNSAID = frozenset({"out", "inplace", "_stacklevel"})
_REDUCED = {"mean": "mean", "amax": "amax", "max": "amax"}
_SHORTENING = frozenset({"embedding", "embedding_bag"})
"""Operations that may write to their table of rows."""
_COUNTING = frozenset({"batch_norm", "instance_norm"})
"""Operations that may write to running statistics."""


@functools.lru_cache(maxsize=4096)
def _writes(function: Callable[..., Any]) -> bool:
    """Whether a call changes its first argument: ``add_``, ``__iadd__``, ``x[...] = y``."""
    name = str(getattr(function, "__name__", ""))
    return name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


@functools.lru_cache(maxsize=4096)
def may_write(function: Callable[..., Any]) -> bool:
    """Whether calls of it write to tensors without being asked for (``out``)."""
    return _writes(function) or name_of(function) in _SHORTENING | _COUNTING


def written(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that a call will write to."""
    found: list[Any] = []
    if _writes(function):
        found += args[:1] or kwargs.values()
    if "out" in kwargs:
        found.append(kwargs["out"])
    if name_of(function) in _SHORTENING:
        longest = args[3] if len(args) > 3 else kwargs.get("max_norm")
        if longest is not None:  # rows are made shorter where they lie
            found.append(args[1] if len(args) > 1 else kwargs.get("weight"))
    elif name_of(function) in _COUNTING:
        found += [*args[1:3], kwargs.get("running_mean"), kwargs.get("running_var")]
    for value in found:
        yield from (tensor for _, tensor in walk(value))


@functools.lru_cache(maxsize=4096)
def name_of(function: Callable[..., Any]) -> str:
    """The operation's plain name: ``add`` for ``torch.add``, ``Tensor.add_``, ``__iadd__``; ``T`` for ``x.T``."""
    name = str(getattr(function, "__name__", type(function).__name__))
    if name == "__get__":
        return str(getattr(getattr(function, "__self__", None), "__name__", "attribute"))
    name = name.strip("_") or name
    if name.endswith("_with_indices"):
        name = name.removesuffix("_with_indices")
    return _NAMES.get(name, name)


def label_of(function: Callable[..., Any]) -> str:
    """The operation in PyTorch's words: ``torch.nn.functional.relu``, ``torch.Tensor.add``."""
    name = str(getattr(function, "__name__", type(function).__name__))
    if name == "__get__":
        return f"torch.Tensor.{name_of(function)}"
    module = getattr(function, "__module__", None)
    if hasattr(function, "__objclass__") or str(getattr(function, "__qualname__", "")).startswith("Tensor."):
        return f"torch.Tensor.{name}"
    if module in ("torch._C._nn", "torch.nn.functional"):
        return f"torch.nn.functional.{name}"
    if module in (None, "torch", "torch.functional", "torch._VF"):
        return f"torch.{name}"
    return f"{module}.{name}"


def config_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Config:
    """What matters for porting of a call's arguments, in the shared words, JSON values only."""
    name = name_of(function)
    out: Config = {}
    for word, value in zip(_POSITIONS.get(name, ()), args[1:], strict=False):
        if word and value is not None:
            out[word] = json_value(value)
    for key, value in kwargs.items():
        if value is not None and not isinstance(value, torch.Tensor) and key not in _UNSAID:
            out[_WORDS.get(key, key)] = json_value(value)
    for word, value in _DEFAULTS.get(name, {}).items():
        out.setdefault(word, value)
    if name[-2:] in ("1d", "2d", "3d"):
        if "kernel_size" in out:
            out.setdefault("strides", out["kernel_size"])
        for word in ("kernel_size", "strides", "padding", "dilation", "output_padding"):
            if isinstance(out.get(word), int):
                out[word] = [out[word]] * int(name[-2])
            elif isinstance(out.get(word), list) and len(out[word]) == 1:
                out[word] = out[word] * int(name[-2])
    if name in ("slice", "setitem") and len(args) > 1:
        out["index"] = json_value(args[1] if isinstance(args[1], tuple) else (args[1],))
    elif name in ("view", "reshape", "unflatten") and len(args) > 1:
        out["args"] = json_value(args[1] if isinstance(args[1], list | tuple) else tuple(args[1:]))
    elif name in ("add", "sub", "mul", "div", "pow", "einsum", "floor_divide", "remainder", "fmod"):
        scalars = [json_value(arg) for arg in args if isinstance(arg, bool | int | float | str)]
        if scalars:
            out["args"] = scalars
    weight, bias = (
        args[place] if len(args) > place else kwargs.get(key) for place, key in ((1, "weight"), (2, "bias"))
    )
    if name.startswith("conv") and isinstance(weight, torch.Tensor):
        out["kernel_size"] = list(weight.shape[2:])
        groups = out.get("groups", 1)
        ways = weight.shape[1] * groups, weight.shape[0]
        out["filters"], out["in_channels"] = ways if "transpose" in name else reversed(ways)
        out["bias"] = bias is not None
    elif name == "linear" and isinstance(weight, torch.Tensor):
        out |= {"units": weight.shape[0], "in_features": weight.shape[-1], "bias": bias is not None}
    if _KINDS.get(name) == "permute":
        order = _permutation(function, args, kwargs)
        if order is not None:
            out["permutation"] = order
    return out


def kind_of(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor, config: Config
) -> str:
    """The call's operation in the vocabulary of :mod:`tracer.kinds`."""
    name = name_of(function)
    source = args[0] if args else kwargs.get("input", kwargs.get("x"))
    shape = shape_of(source) if isinstance(source, torch.Tensor) else ()
    if name[-2:] in ("1d", "2d", "3d"):
        return _ranked(name, args, kwargs, config, shape)
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return f"{name}imum"
    if name in _REDUCED and "axis" in config:
        axes = config["axis"] if isinstance(config["axis"], list) else [config["axis"]]
        return reduction(_REDUCED[name], axes, len(shape), keeps=bool(config.get("keepdim")))
    if name in ("pow", "float_power") and len(args) > 1 and isinstance(source, torch.Tensor):
        return "power" if getattr(function, "__name__", "") == "__rpow__" else powered(args[1])
    if name in ("cat", "pad") and _adds_nothing(args, kwargs, result):
        return "identity"
    if name == "slice":
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(isinstance(part, torch.Tensor | list) for part in parts):
            return "gather"
        full = all(part is None or part is Ellipsis or part == slice(None) for part in parts)
        return "expand_dims" if full and None in parts else "slice"
    if name in ("clamp", "clip"):
        return _clip(config)
    word = _KINDS.get(name, f"other:{name}")
    if word == "reshape":
        collapsed = len(shape) > 2 and result.dim() == 2 and result.shape[0] == shape[0]
        return "flatten" if collapsed or (name == "flatten" and result.dim() == 2) else "reshape"
    return word


def _ranked(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], config: Config, shape: tuple[int, ...]) -> str:
    stem, rank = name[:-2], name[-2:]
    if stem == "conv" and shape:
        channels = shape[-int(rank[0]) - 1]
        if config.get("groups", 1) == channels and channels > 1:
            return f"depthwise_conv{rank}"
    if stem in ("adaptive_avg_pool", "adaptive_max_pool"):
        size = config.get("output_size")
        sizes = size if isinstance(size, list) else [size]
        word = stem.removeprefix("adaptive_")
        return f"global_{word}" if all(item == 1 for item in sizes) else stem
    if stem in ("conv", "conv_transpose", "max_pool", "avg_pool"):
        return name
    return _KINDS.get(name, f"other:{name}")


def _clip(config: Config) -> str:
    """What a clamp to these limits is called when it is a layer."""
    limits = config.get("min_value"), config.get("max_value")
    if limits in ((0, 6), (0, None)):
        return "relu6" if limits[1] else "relu"
    return "clip"


def _adds_nothing(args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor) -> bool:
    """Whether one tensor was joined with none or empty ones (a cache at its first use), or padded by nothing."""
    joined = args[0] if args else kwargs.get("tensors", kwargs.get("input"))
    whole = [tensor for _, tensor in walk(joined) if tensor.numel()]
    return len(whole) == 1 and whole[0].numel() == result.numel()


def _permutation(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int] | None:
    """Which axis of the input each axis of the output is, by trying the call on a shape with distinct sizes."""
    if not args or not isinstance(args[0], torch.Tensor):
        return None
    probe = torch.empty(tuple(range(2, 2 + args[0].dim())), device="meta")
    try:
        return [size - 2 for size in function(probe, *args[1:], **kwargs).shape]
    except Exception:
        return None
