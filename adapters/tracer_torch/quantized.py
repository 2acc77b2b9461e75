"""torch's quantized layers and tensors: what they stand for in floating point.

Quantized values are recorded as the real numbers they stand for (float32), so that they compare with those of the
network in floating point; the configuration of their node says how they were stored. Weights likewise.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_PACKAGES = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")
_FUSED = re.compile(r"(?:ReLU|Add)(?=\dd$|$)")


def layer(module: nn.Module) -> str | None:
    """The name of the class in torch.nn that ``module`` is the quantized form of (``Conv2d`` for ``ConvReLU2d``).

    None for modules that compute in floating point.
    """
    return _layer(type(module))  # type: ignore[arg-type]  # typeshed holds classes for unhashable


@functools.lru_cache(maxsize=1024)
def _layer(kind: type[nn.Module]) -> str | None:
    for cls in kind.__mro__:
        if cls.__module__.startswith(_PACKAGES):
            name = cls.__name__
            if name.startswith(("ConvReLU", "ConvAdd", "LinearReLU", "BNReLU")):
                name = _FUSED.sub("", name.replace("AddReLU", "Add"))
            return name.replace("BN", "BatchNorm").replace("LinearLeakyReLU", "Linear").replace("LinearTanh", "Linear")
    return None


def config(module: nn.Module, name: str) -> dict[str, Any]:
    """What its class in torch.nn would say besides the settings of the same name, and what is fused into it."""
    out: dict[str, Any] = {}
    held = {**module._parameters, **module._buffers, **dict(weights(module))}
    weight, bias = held.get("weight"), held.get("bias") is not None
    if name.startswith("Conv") and weight is not None:
        ways = weight.shape[1] * int(getattr(module, "groups", 1)), weight.shape[0]
        out = {"filters": ways[1], "in_channels": ways[0], "bias": bias}
        if name.startswith("ConvTranspose"):
            out = {"filters": weight.shape[1] * int(getattr(module, "groups", 1)), "in_channels": weight.shape[0]}
            out["bias"] = bias
    elif name == "Linear" and weight is not None:
        out = {"units": weight.shape[0], "in_features": weight.shape[1], "bias": bias}
    own = type(module).__name__
    fused = next((word for word in ("LeakyReLU", "ReLU", "Tanh") if word in own and word not in name), None)
    if fused is not None:
        out["activation"] = {"LeakyReLU": "leaky_relu"}.get(fused, fused.lower())
    return out


def weights(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights a quantized layer keeps packed, as the numbers they stand for, by the names torch.nn gives them."""
    for name in ("weight", "bias"):
        if name not in module._parameters and name not in module._buffers:
            tensor = _asked(module, name)
            if isinstance(tensor, torch.Tensor):
                yield name, real(tensor)
    for ask in ("get_weight", "get_bias"):  # recurrent layers
        found = _asked(module, ask)
        if isinstance(found, dict):
            yield from ((str(key), real(tensor)) for key, tensor in found.items() if isinstance(tensor, torch.Tensor))


def complete(root: nn.Module) -> None:
    """Give layers what every module has and what unpickling torch's quantized convolutions leaves out."""
    usual = vars(nn.Module())
    waiting, seen = [root], set()
    while waiting:
        module = waiting.pop()
        if id(module) in seen or not isinstance(module, nn.Module):
            continue
        seen.add(id(module))
        if layer(module) is not None:
            for name, value in usual.items():
                module.__dict__.setdefault(name, copy.copy(value))
        below = module.__dict__.get("_modules")
        waiting += below.values() if isinstance(below, dict) else ()


def _asked(module: nn.Module, name: str) -> Any:
    method = getattr(type(module), name, None)
    if method is None:
        return None
    try:
        return method(module)
    except Exception:  # nothing was packed: a layer put together by hand, or a stand-in
        return None


def unpacked(packed: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The same of a TorchScript object that holds packed weights; nothing of any other."""
    try:
        kind = packed._type().qualified_name().rpartition(".")[2]
    except (AttributeError, RuntimeError):
        return
    rank = re.fullmatch(r"Conv(\d)dPackedParamsBase", kind)
    if rank is not None:
        found = getattr(torch.ops.quantized, f"conv{rank[1]}d_unpack")(packed)
    elif kind == "LinearPackedParamsBase":
        found = torch.ops.quantized.linear_unpack(packed)
    else:
        return
    for name, tensor in zip(("weight", "bias"), found, strict=False):
        if isinstance(tensor, torch.Tensor):
            yield name, real(tensor)


def real(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers a tensor stands for; itself where it is not quantized."""
    return tensor.detach().dequantize() if tensor.is_quantized else tensor


def storage(tensor: torch.Tensor) -> dict[str, Any]:
    """How a quantized tensor keeps its numbers; empty for others."""
    if not tensor.is_quantized:
        return {}
    out: dict[str, Any] = {"quantized": str(tensor.dtype).removeprefix("torch.")}
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return {**out, "scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
    return {**out, "channel_axis": tensor.q_per_channel_axis()}
