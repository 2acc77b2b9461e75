"""Running a module again with tensors exchanged on the way, in its own precision or in double."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tracer.adapter import Array, Exchange, NotRecorded, Run
from tracer.errors import ModelError, ReplayError, TracerError
from tracer.text import described
from tracer_torch import failing, functions, running
from tracer_torch.engine import Recorder
from tracer_torch.events import Event, Key
from tracer_torch.tensors import from_array, to_array

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = ("float", "half", "bfloat16")


def replay(
    module: nn.Module,
    inputs: Mapping[str, Array],
    names: Mapping[Key, str],
    exchange: Exchange,
    how: Run,
    *,
    double: bool,
    known: Mapping[str, Array] | None = None,
) -> None:
    """Run ``module`` once as :meth:`tracer.adapter.LoadedModel.replay_rest` says; ``names`` are those of its events.

    Raises ReplayError, ModelError, and what ``exchange`` raises.
    """
    due = {name for name in names.values() if exchange.wants(name)}
    given: dict[str, torch.Tensor] = {}
    failures: list[BaseException] = []

    def swap(event: Event, tensor: torch.Tensor) -> torch.Tensor | None:
        name = names.get(event.key, "")
        if name not in due or failures:
            return None
        due.remove(name)
        if given.pop(name, None) is tensor:
            return None
        value, _ = to_array(tensor)
        if isinstance(value, NotRecorded):
            return None
        try:
            wanted = exchange(name, value)
        except BaseException as error:  # kept until the model has run to its end: hooks may not raise
            failures.append(error)
            return None
        return None if wanted is None else _instead(tensor, wanted, name)

    recorder = Recorder(module, describe=False, swap=swap)
    run = Run(how.mode)
    with contextlib.ExitStack() as stack:
        if double:
            stack.enter_context(_doubled(module))
            stack.enter_context(_default(torch.float64))
            if known and how.mode == "eval":
                stack.enter_context(_left_out(recorder, names, known, given))
        try:
            # The watch lies inside: the recorder is to see what the model calls, not what becomes of it.
            widen = _Widen() if double else contextlib.nullcontext()
            with widen, running.run(module, _widened(inputs) if double else inputs, recorder, run) as result:
                del result
        except TracerError:
            raise
        except Exception as error:
            if failures:
                raise failures[0] from None
            what = failing.blame(recorder, error)
            if double:
                raise ReplayError(f"it does not run in float64: {what}") from error
            raise ModelError(f"the model raised {what} when it was run again") from error
        finally:
            recorder.failed = None
    if failures:
        raise failures[0]


_ALONE = frozenset(
    {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
     nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.ReLU,
     nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.ELU, nn.LeakyReLU,
     nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d}
)  # fmt: skip
"""Modules that give one tensor and, in evaluation, change nothing but their input where they are told to."""


@contextlib.contextmanager
def _left_out(
    recorder: Recorder, names: Mapping[Key, str], known: Mapping[str, Array], given: dict[str, torch.Tensor]
) -> Iterator[None]:
    """Let modules return what is ``known`` of them, in float64, while this lasts; ``given`` gets that by node."""

    def instead(module: nn.Module, path: str) -> Callable[..., Any]:
        forward = module.forward

        @functools.wraps(forward)  # it still counts as the class's own
        def give(*args: Any, **kwargs: Any) -> Any:
            frame = recorder.stack[-1] if recorder.stack else None
            name = names.get((path, frame.call, ""), "") if frame is not None and frame.module is module else ""
            if name not in known or not args:
                return forward(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                array = np.asarray(known[name])
                if array.dtype.kind != "f":
                    return forward(*args, **kwargs)
                out = args[0] if getattr(module, "inplace", False) else None
                if out is None or out.shape != array.shape:
                    out = torch.empty(array.shape, dtype=torch.float64)
                given[name] = out.copy_(_shown(array))
            return out

        return give

    changed = []
    try:
        for module, path in recorder.paths.items():
            plain = type(module) in _ALONE and "forward" not in vars(module)
            if plain and not module._forward_hooks and not module._forward_pre_hooks:
                module.forward = instead(module, path)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _shown(array: Array) -> torch.Tensor:
    """``array`` as a tensor of the same memory, which is only read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no memory that must not be written to
        return torch.from_numpy(array)


@contextlib.contextmanager
def _doubled(module: nn.Module) -> Iterator[None]:
    """``module`` in float64 while this lasts; not a copy, in which a forward set on an instance meant the original.

    Raises ReplayError.
    """
    parameters = [(parameter, parameter.data, parameter.grad) for parameter in module.parameters()]
    tables: list[tuple[Any, dict[str, Any]]] = [
        (table, dict(table)) for part in module.modules() for table in (part._parameters, part._buffers)
    ]
    try:
        for parameter, _, _ in parameters:
            parameter.grad = None
        try:
            module.double()
        except Exception as error:
            raise ReplayError(f"it cannot be turned into float64: {described(error, 120)}") from error
        yield
    finally:
        for table, before in tables:
            table.update(before)
        for parameter, data, gradient in parameters:
            parameter.data = data
            parameter.grad = gradient


def _widened(inputs: Mapping[str, Array]) -> dict[str, Array]:
    wide = {}
    for name, values in inputs.items():
        narrow = values.dtype.kind == "f" or values.dtype.name in ("bfloat16",)
        wide[name] = values.astype(np.float64) if narrow else values
    return wide


def _instead(tensor: torch.Tensor, wanted: Array, name: str) -> torch.Tensor | None:
    """``wanted`` as a tensor like ``tensor``; None where that holds the same already."""
    with torch._C.DisableTorchFunction():
        new = from_array(name, wanted, tensor.device).to(tensor.dtype)
        if new.shape != tensor.shape:
            return new
        if torch.equal(new, tensor):
            return None  # views stay views
        return new if tensor.is_contiguous() else torch.empty_like(tensor).copy_(new)


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Widen(TorchFunctionMode):
    """Makes every cast to a narrower floating type one to float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if functions.name_of(func) in _CASTS and args and isinstance(args[0], torch.Tensor):
            return args[0].double()
        return func(*map(_wide, args), **{key: _wide(value) for key, value in named.items()})


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
