"""What a module's code says about its inputs: names from forward, shapes from the first layer with weights."""

from __future__ import annotations

import inspect

from torch import nn

from tracer.adapter import InputSpec
from tracer.graph import Layout
from tracer_torch import layers
from tracer_torch.running import forward_parameters

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def signature(model: nn.Module) -> tuple[InputSpec, ...]:
    """The inputs in call order; with several inputs only their names are known."""
    if _takes_nothing(model):
        return ()
    parameters = [
        p for p in forward_parameters(model) if p.kind not in (p.VAR_KEYWORD,) and p.name not in ("self", "kwargs")
    ]
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    # A forward where everything has a default (transformers) or takes *args still wants one input.
    names = [p.name for p in required or parameters[:1]] or ["input"]
    if len(names) > 1:
        return tuple(InputSpec(name, None) for name in names)
    return (first(model, names[0]),)


def _takes_nothing(model: nn.Module) -> bool:
    """Whether forward has no parameters at all (a learned prompt); one that does not tell is taken to want an input."""
    try:
        return not inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False


def optional(model: nn.Module) -> tuple[InputSpec, ...]:
    """The further tensors that forward takes where they are given (``attention_mask=None``)."""
    stated = {spec.name for spec in signature(model)}
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(
        InputSpec(p.name, None)
        for p in forward_parameters(model)
        if p.name not in stated and p.kind in positional and p.default is None and _may_be_tensor(p.annotation)
    )


def _may_be_tensor(annotation: object) -> bool:
    return annotation is inspect.Parameter.empty or "Tensor" in str(annotation)


def first(model: nn.Module, name: str) -> InputSpec:
    """The only input, as the first layer with weights would take it."""
    for module in model.modules():
        if not layers.is_leaf(module):
            continue
        spec = _spec(module, name)
        if spec is not None:
            return spec
    return InputSpec(name, None)


def _spec(module: nn.Module, name: str) -> InputSpec | None:
    """What ``module`` would take as its input; None for modules that take anything."""
    dtype = next((layers.param("", p).dtype for p in module.parameters()), "float32")
    first: Layout = "channels_first"
    if isinstance(module, nn.modules.conv._ConvNd):
        rank = len(module.kernel_size)
        channels = module.in_channels or None  # a lazy module has 0 before its first call
        return InputSpec(name, (None, channels, *(None,) * rank), dtype, layout=first)
    if isinstance(module, nn.Linear):
        return InputSpec(name, (None, module.in_features or None), dtype)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return InputSpec(name, (None, None), "int64", maximum=module.num_embeddings - 1)
    if isinstance(module, nn.RNNBase):
        return InputSpec(name, (None, None, module.input_size), dtype)
    if isinstance(module, nn.RNNCellBase):
        return InputSpec(name, (None, module.input_size), dtype)
    if isinstance(module, nn.MultiheadAttention):
        return InputSpec(name, (None, None, module.embed_dim), dtype)
    if isinstance(module, _NORMS):
        rank = {"1": 1, "2": 2, "3": 3}.get(layers.torch_class(module)[-2], 2)
        return InputSpec(name, (None, module.num_features, *(None,) * rank), dtype, layout=first)
    if isinstance(module, nn.LayerNorm):
        return InputSpec(name, (None, None, *module.normalized_shape), dtype)
    return InputSpec(name, None, dtype) if next(module.parameters(), None) is not None else None


def time_major(model: nn.Module) -> str | None:
    """The path of the first layer with weights when it is a recurrent one that wants time before the batch."""
    for path, module in model.named_modules():
        if layers.is_leaf(module) and next(module.parameters(), None) is not None:
            wants = isinstance(module, nn.RNNBase | nn.MultiheadAttention) and not getattr(module, "batch_first", True)
            return layers.clean(path) if wants else None
    return None
