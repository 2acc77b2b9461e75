"""Stand-ins for the modules that a program (TorchScript, torch.export) was made of.

A program keeps each module's path, the name of its class and its tensors. What it has not kept of the settings of
torch.nn's own classes stands in the arguments of the operators they became. Stand-ins are made of both, so that a
program's layers read like those of the nn.Module it came from. Nothing of the program is changed.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

SETTINGS = (  # noqa: SIM905
    "in_channels out_channels kernel_size stride padding dilation transposed output_padding groups padding_mode eps "
    "momentum affine track_running_stats num_features normalized_shape elementwise_affine num_groups num_channels "
    "in_features out_features input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size mode "
    "nonlinearity num_embeddings embedding_dim padding_idx max_norm scale_grad_by_freq embed_dim num_heads "
    "ceil_mode count_include_pad divisor_override output_size return_indices negative_slope alpha beta threshold value "
    "min_val max_val approximate dim p start_dim end_dim unflattened_size size scale_factor align_corners "
    "upscale_factor num_parameters lower upper scale zero_point"
).split()
"""Settings of torch.nn's classes, by the names under which their instances keep them."""
_LARGEST_INT = 1 << 62


@functools.cache
def torch_class(name: str) -> type[nn.Module] | None:
    """torch's own module class of that full name; None for anyone else's."""
    if not name.startswith(("torch.nn.modules.", "torch.ao.nn.", "torch.nn.quantized.")):
        return None
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


@functools.cache
def _class(name: str) -> type[nn.Module]:
    known = torch_class(name)
    if known is not None:
        return known
    # The program's own class: its forward is not known here, which also keeps it from being taken for a leaf.
    return type(name.rpartition(".")[2] or "Module", (nn.Module,), {"__module__": "tracer_torch.shadows"})


def make(name: str, tensors: Mapping[str, tuple[torch.Tensor, bool]], settings: Mapping[str, Any]) -> nn.Module:
    """The stand-in for a module of class ``name`` (``torch.nn.modules.conv.Conv2d``) without its children.

    ``tensors`` are its own, each with whether it is a parameter; ``settings`` what the program has kept.
    """
    cls = _class(name)
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    module.training = False
    optional = {"weight": None, "bias": None} if _has_weights(module) else {}
    for key, (tensor, parameter) in {**{k: (v, True) for k, v in optional.items()}, **tensors}.items():
        (module._parameters if parameter else module._buffers)[key] = tensor  # type: ignore[assignment]
    if torch_class(name) is None:
        return module
    for key in SETTINGS:
        if key in settings and key not in module._parameters and key not in module._buffers:
            _put(module, key, settings[key])
    _from_shapes(module)
    return module


def run_by(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Make calling ``module`` call ``forward``, with torch's classes still taken for what they are."""
    forward.__module__ = type(module).__module__
    object.__setattr__(module, "forward", forward)
    object.__setattr__(module, "extra_repr", str)


def _has_weights(module: nn.Module) -> bool:
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    return isinstance(module, kinds)


def _put(module: nn.Module, key: str, value: Any) -> None:
    if isinstance(value, list):
        value = tuple(value)
    object.__setattr__(module, key, value)


def _default(module: nn.Module, **values: Any) -> None:
    for key, value in values.items():
        if key not in module.__dict__:
            _put(module, key, value)


def _tensor(module: nn.Module, name: str) -> torch.Tensor | None:
    found = module._parameters.get(name)
    return found if found is not None else module._buffers.get(name)


def _from_shapes(module: nn.Module) -> None:
    """Sizes that the shapes of the weights tell."""
    weight = _tensor(module, "weight")
    if isinstance(module, nn.modules.conv._ConvNd):
        _default(module, transposed="Transpose" in type(module).__name__, padding_mode="zeros", groups=1)
        _channels(module)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        known = next((t for k in ("weight", "running_mean") if (t := _tensor(module, k)) is not None), None)
        tracked = _tensor(module, "running_mean") is not None
        _default(module, affine=weight is not None, track_running_stats=tracked)
        _default(module, num_features=known.shape[0] if known is not None else 0)
    elif isinstance(module, nn.Linear) and weight is not None:
        _default(module, out_features=weight.shape[0], in_features=weight.shape[1])
    elif isinstance(module, nn.Linear):
        _default(module, out_features=0, in_features=0)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and weight is not None:
        _default(module, num_embeddings=weight.shape[0], embedding_dim=weight.shape[1])
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        _default(module, normalized_shape=tuple(weight.shape), elementwise_affine=True)
    elif isinstance(module, nn.GroupNorm):
        _default(module, affine=weight is not None)
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        _recurrent(module)
    elif isinstance(module, nn.MultiheadAttention):
        out = module._parameters.get("in_proj_weight")
        if out is not None:
            _default(module, embed_dim=out.shape[1])


def _recurrent(module: nn.Module) -> None:
    cell = isinstance(module, nn.RNNCellBase)
    inward, back = (_tensor(module, f"weight_{way}{'' if cell else '_l0'}") for way in ("ih", "hh"))
    if inward is None or back is None:
        return
    _default(module, input_size=inward.shape[1])
    if cell:
        _default(module, hidden_size=back.shape[1])
        return
    gates = {"LSTM": 4, "GRU": 3}.get(type(module).__name__, 1)
    projected = back.shape[1] if "weight_hr_l0" in module._parameters else 0
    layers = sum(key.startswith("weight_ih_l") and not key.endswith("_reverse") for key in module._parameters)
    _default(module, hidden_size=inward.shape[0] // gates, proj_size=projected, num_layers=layers)
    _default(module, bidirectional="weight_ih_l0_reverse" in module._parameters, batch_first=False)
    _default(module, mode=type(module).__name__.upper())


def _channels(module: nn.Module) -> None:
    weight = _tensor(module, "weight")
    if weight is None:
        _default(module, in_channels=0, out_channels=0, kernel_size=())
        return
    ways = (weight.shape[1] * int(module.groups), weight.shape[0])  # type: ignore[arg-type]
    if module.transposed:
        ways = (weight.shape[0], weight.shape[1] * int(module.groups))  # type: ignore[arg-type]
    _default(module, in_channels=ways[0], out_channels=ways[1], kernel_size=tuple(weight.shape[2:]))


_SAID: dict[str, dict[str, str]] = {
    "batch_norm": {"eps": "eps", "momentum": "momentum"},
    "instance_norm": {"eps": "eps", "momentum": "momentum"},
    "layer_norm": {"eps": "eps", "normalized_shape": "normalized_shape"},
    "group_norm": {"eps": "eps", "num_groups": "num_groups"},
    "rms_norm": {"eps": "eps", "normalized_shape": "normalized_shape"},
    "leaky_relu": {"negative_slope": "negative_slope"},
    "elu": {"alpha": "alpha"}, "celu": {"alpha": "alpha"}, "gelu": {"approximate": "approximate"},
    "softmax": {"dim": "dim"}, "log_softmax": {"dim": "dim"}, "glu": {"dim": "dim"},
    "hardtanh": {"min_val": "min_val", "max_val": "max_val"},
    "softplus": {"beta": "beta", "threshold": "threshold"},
    "threshold": {"threshold": "threshold", "value": "value"},
    "dropout": {"p": "p"}, "feature_dropout": {"p": "p"}, "alpha_dropout": {"p": "p"},
    "flatten": {"start_dim": "start_dim", "end_dim": "end_dim"},
    "unflatten": {"dim": "dim", "sizes": "unflattened_size"},
    "pixel_shuffle": {"upscale_factor": "upscale_factor"},
    "pad": {"pad": "padding", "value": "value"}, "constant_pad_nd": {"pad": "padding", "value": "value"},
    "embedding": {"padding_idx": "padding_idx"}, "_softmax": {"dim": "dim"}, "_log_softmax": {"dim": "dim"},
    "native_layer_norm": {"eps": "eps", "normalized_shape": "normalized_shape"},
    "native_group_norm": {"eps": "eps", "group": "num_groups"}, "native_dropout": {"p": "p"},
    "_native_batch_norm_legit_no_training": {"eps": "eps", "momentum": "momentum"},
}  # fmt: skip
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
for _rank in ("1d", "2d", "3d"):
    _SAID[f"max_pool{_rank}"] = _SAID[f"max_pool{_rank}_with_indices"] = {
        key: key for key in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    }
    _SAID[f"avg_pool{_rank}"] = {
        key: key for key in ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    }
    _SAID[f"adaptive_avg_pool{_rank}"] = _SAID[f"adaptive_max_pool{_rank}"] = {"output_size": "output_size"}
    _SAID[f"conv{_rank}"] = {key: key for key in ("stride", "padding", "dilation", "groups")}
    _SAID[f"conv_transpose{_rank}"] = {**_SAID[f"conv{_rank}"], "output_padding": "output_padding"}
    for _mode in ("reflection", "replication"):
        _SAID[f"{_mode}_pad{_rank}"] = {"padding": "padding"}
_SAID["_convolution"] = _SAID["convolution"] = {**_SAID["conv_transpose2d"], "transposed": "transposed"}


def learn(module: nn.Module, operator: str, arguments: Mapping[str, Any]) -> None:
    """Take from an operator in ``module``'s program (``conv2d``) the settings that the program had not kept.

    ``arguments`` by the names of the operator's schema, as far as they are known.
    """
    own = type(module).__module__
    if not own.startswith("torch."):
        return
    operator = operator.rstrip("_") if operator != "_" else operator
    if isinstance(module, nn.MultiheadAttention):
        _learn_attention(module, operator, arguments)
        return
    if operator in RECURRENT:
        wanted = {key: key for key in ("batch_first", "bidirectional", "num_layers", "dropout")}
        if isinstance(module, nn.RNN):
            _default(module, nonlinearity=operator.removeprefix("rnn_"))
        for key in wanted:  # told better than by the shapes
            module.__dict__.pop(key, None) if key in arguments else None
    else:
        wanted = _SAID.get(operator, {})
    if isinstance(module, nn.modules.conv._ConvNd) and "groups" in wanted:
        for key in ("groups", "transposed", "in_channels", "out_channels"):
            if key in arguments or key.endswith("channels"):
                module.__dict__.pop(key, None)
    if isinstance(module, nn.modules.conv._ConvNd) and operator == "pad" and "mode" in arguments:
        _put(module, "padding_mode", arguments["mode"])
        _put(module, "padding", arguments["pad"][::-2])
        return
    for argument, attribute in wanted.items():
        if argument not in arguments:
            continue
        value = arguments[argument]
        if attribute == "stride" and value == [] and "kernel_size" in arguments:
            value = arguments["kernel_size"]
        if attribute == "padding_idx" and value == -1:
            continue
        if isinstance(value, int) and abs(value) >= _LARGEST_INT:
            continue
        _default(module, **{attribute: value})
    if isinstance(module, nn.modules.conv._ConvNd):
        _from_shapes(module)
    if operator.startswith("max_pool") and not operator.endswith("_with_indices"):
        _default(module, return_indices=False)
    if operator == "mean" and "AdaptiveAvgPool" in type(module).__name__:
        _default(module, output_size=1)  # what it is taken apart into
    if operator.strip("_").startswith("upsample_"):
        _upsample(module, operator, arguments)


def _learn_attention(module: nn.MultiheadAttention, operator: str, arguments: Mapping[str, Any]) -> None:
    if operator == "_native_multi_head_attention":
        _default(module, num_heads=arguments.get("num_head"), embed_dim=arguments.get("embed_dim"), batch_first=True)
    elif operator == "transpose" and (arguments.get("dim0"), arguments.get("dim1")) == (1, 0):
        _default(module, batch_first=True)  # the only use of this order: batch and time change places


def _upsample(module: nn.Module, operator: str, arguments: Mapping[str, Any]) -> None:
    _default(module, mode=interpolation(operator))
    for key, attribute in (("output_size", "size"), ("scale_factors", "scale_factor"), ("align_corners",) * 2):
        if arguments.get(key) is not None:
            _default(module, **{attribute: arguments[key]})


def interpolation(operator: str) -> str:
    """The ``mode`` of ``F.interpolate`` that ``upsample_nearest2d`` is."""
    return operator.strip("_").removeprefix("upsample_").rstrip("123d").replace("_", "-")
