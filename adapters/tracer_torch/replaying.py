"""Running a module again with tensors exchanged on the way, in its own precision or in double."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tracer.adapter import Array, Exchange, NotRecorded, Run
from tracer.errors import ModelError, ReplayError, TracerError
from tracer.graph import Structure
from tracer.text import described
from tracer_torch import depthwise, failing, functions, running
from tracer_torch.engine import Recorder
from tracer_torch.events import Event, Key
from tracer_torch.leaving import LeftOut
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
    known: Mapping[str, Array],
    structure: Structure,
) -> None:
    """Run ``module`` once as :meth:`tracer.adapter.LoadedModel.replay_rest` says; ``names`` are those of its events.

    ``structure`` is its graph for these inputs. Raises ReplayError, ModelError, and what ``exchange`` raises.
    """
    due = {name for name in names.values() if exchange.wants(name)}
    failures: list[BaseException] = []
    left: LeftOut | None = None

    def swap(event: Event, tensor: torch.Tensor) -> torch.Tensor | None:
        name = names.get(event.key, "")
        if name not in due or failures:
            return None
        due.remove(name)
        if left is not None and left.given.pop(name, None) is tensor:
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
                left = LeftOut(recorder, names, known, structure)
                stack.enter_context(left.active())
        try:
            # The watch lies inside: the recorder is to see what the model calls, not what becomes of it.
            widen = _Widen(left) if double else contextlib.nullcontext()
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

    def __init__(self, left: LeftOut | None) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if self._left is not None:
            self._left.look(func, args, named)
        if func in depthwise.CONVOLUTIONS:
            found = depthwise.convolved(depthwise.CONVOLUTIONS[func], *args, **named)
            if found is not None:
                return found
        if functions.name_of(func) in _CASTS and args and isinstance(args[0], torch.Tensor):
            return args[0].double()
        return func(*map(_wide, args), **{key: _wide(value) for key, value in named.items()})


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
