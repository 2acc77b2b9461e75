"""Weights put into a module, and saved as a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from tracer.adapter import Array
from tracer.errors import InputError, ReplayError
from tracer.names import display
from tracer.text import described
from tracer.weighing.fitting import fitted
from tracer_torch import layers, quantized
from tracer_torch.tensors import from_array, unfit

Key = tuple[str, str]
_ROUNDINGS = 32
"""What a weight may be off that is computed of others, in its type's epsilon."""


def assign(root: nn.Module, values: Mapping[Key, Array]) -> None:
    """Put values into parameters and buffers, by owner and name as :func:`layers.owned` gives them.

    Raises InputError and ReplayError before anything is changed.
    """
    held = {(owner, name): tensor for owner, name, tensor in layers.owned(root)}
    given = fitted(values, {key: layers.param(key[1], tensor) for key, tensor in held.items()})
    packed = {(owner, prefix + name) for owner, prefix, part in layers.parts(root) if quantized.layer(part) is not None
              for name, _ in quantized.weights(part)}  # fmt: skip
    computed = {(owner, name): weight for owner, name, weight in layers.computed(root)}
    new: dict[Key, torch.Tensor] = {}
    for key, value in given.items():
        shown, why = display(".".join(part for part in key if part)), unfit(held[key])
        if key in packed or held[key].is_quantized:
            raise ReplayError(f"{shown} is quantized: fill the network in floating point, and quantize it then")
        if why is not None:
            raise ReplayError(f"{shown} is a {why}, which cannot be filled")
        new[key] = from_array(shown, value, held[key].device)
    parts = [tensor for key in new if key in computed for tensor in computed[key].parts]
    before = [(tensor, tensor.detach().clone()) for tensor in parts]
    with torch.no_grad():
        try:
            for key in new.keys() & computed.keys():
                _compute(computed[key], new[key])
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            for tensor, values_ in before:
                tensor.copy_(values_)
            shown = display(".".join(part for part in key if part))
            raise ReplayError(
                f"{shown} is computed of other tensors ({described(error, 120)}): take the parametrisation off first "
                "(torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm …)"
            ) from error
        for key in new.keys() - computed.keys():
            held[key].copy_(new[key])


def _compute(weight: layers.Computed, value: torch.Tensor) -> None:
    """Set what a weight is computed of so that it comes out as ``value``. Raises ValueError where it does not."""
    if weight.chain is not None:
        setattr(weight.module, weight.name, value)
    else:
        hook = next(
            (
                hook
                for hook in weight.module._forward_pre_hooks.values()
                if isinstance(hook, WeightNorm | BasePruningMethod)
                and getattr(hook, "name", getattr(hook, "_tensor_name", None)) == weight.name
            ),
            None,
        )
        if isinstance(hook, WeightNorm):
            getattr(weight.module, f"{weight.name}_g").copy_(torch.norm_except_dim(value, 2, hook.dim))
            getattr(weight.module, f"{weight.name}_v").copy_(value)
        elif isinstance(hook, BasePruningMethod):
            getattr(weight.module, f"{weight.name}_orig").copy_(value)
        else:
            raise ValueError("nothing is known of how")
    made = weight.make()
    allowed = _ROUNDINGS * torch.finfo(value.dtype).eps
    if not torch.allclose(made, value, rtol=allowed, atol=allowed * float(value.abs().max() if value.numel() else 0)):
        raise ValueError("it cannot become what it should be")


def save(module: nn.Module, path: Path) -> None:
    """Write the state dict. Raises InputError where safetensors is wanted and cannot be had, OSError."""
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import save_model
        except ImportError:
            raise InputError(f"{display(path.name)} needs the package safetensors: pip install safetensors") from None
        others = [name for name, value in module.state_dict().items() if not isinstance(value, torch.Tensor)]
        if others:
            raise InputError(f"{display(others[0])} is no tensor: safetensors holds nothing else, write a .pt file")
        try:
            save_model(module, str(path), metadata={"format": "pt"})
        except (RuntimeError, ValueError) as error:
            raise InputError(f"safetensors cannot hold these weights ({described(error, 160)})") from error
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error
        return
    torch.save(module.state_dict(), path)
