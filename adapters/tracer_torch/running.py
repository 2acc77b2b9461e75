"""Runs a model once under the recorder and leaves it as it was."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tracer.adapter import Array
from tracer.errors import InputError
from tracer.names import display
from tracer_torch import layers
from tracer_torch.engine import FunctionWatch, Recorder
from tracer_torch.tensors import from_array, version

_LARGEST_SNAPSHOT = 512 << 20
"""Bytes of buffers that are kept to undo what a forward does to them."""


@contextlib.contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and the random state are put back."""
    modes = [(module, module.training) for module in model.modules()]
    states = [
        _State(holder, name, tensor, version(tensor))
        for module in model.modules()
        # Plain tensor attributes too: caches, and the weight that weight_norm computes before each forward.
        for holder in (module._buffers, vars(module))
        for name, tensor in holder.items()
        if isinstance(tensor, torch.Tensor)
    ]
    if sum(state.size for state in states) <= _LARGEST_SNAPSHOT:
        for state in states:
            state.values = state.tensor.detach().clone()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training
        with torch.no_grad():
            for state in states:
                state.restore()


@dataclass
class _State:
    """A tensor that a forward may change or replace, as it was before."""

    holder: dict[str, Any]
    name: str
    tensor: torch.Tensor
    version: int
    values: torch.Tensor | None = None

    @property
    def size(self) -> int:
        return 0 if self.tensor.is_sparse else self.tensor.nbytes

    def restore(self) -> None:
        if self.values is not None and version(self.tensor) != self.version:
            self.tensor.copy_(self.values)
        if self.holder.get(self.name) is not self.tensor:
            self.holder[self.name] = self.tensor


@contextlib.contextmanager
def _hooked(recorder: Recorder) -> Iterator[None]:
    handles: list[Any] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        _guarded(recorder, lambda: recorder.enter(module, args, kwargs))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _guarded(recorder, lambda: recorder.leave(module, output))

    try:
        inside: set[nn.Module] = set()
        for module in recorder.root.modules():
            if module in inside or (module is recorder.root and not layers.is_leaf(module)):
                continue
            if layers.is_leaf(module):
                inside |= set(module.modules())
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _guarded(recorder: Recorder, action: Callable[[], None]) -> None:
    """Run our part of a hook: its own torch calls unseen, its faults kept from the model."""
    recorder.busy = True
    try:
        action()
    except Exception as error:
        recorder.faults.append(f"{type(error).__name__}: {error}")
    finally:
        recorder.busy = False


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Compiled parts run their Python: hooks added after compilation would silently not fire."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def run(model: nn.Module, inputs: Mapping[str, Array], recorder: Recorder) -> None:
    """One forward pass of ``model`` on ``inputs`` under ``recorder``.

    Raises InputError for inputs the forward has no parameter for; what the model raises passes through.
    """
    parameter = next((p for p in model.parameters() if not p.is_meta), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    tensors = {name: from_array(name, array, device) for name, array in inputs.items()}
    args, kwargs = arguments(model, tensors)
    with left_alone(model), _eager():
        recorder.begin(tensors)
        with _hooked(recorder), FunctionWatch(recorder):
            result = model(*args, **kwargs)
        recorder.finish(result)


def forward_parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of the model's forward; an empty list when it does not tell them."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def arguments(
    model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Positional and keyword arguments of forward for named inputs. Raises InputError for unknown names."""
    left = dict(tensors)
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    open_ended = False
    parameters = forward_parameters(model)
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            own = [name for name in left if name == parameter.name or name.startswith(f"{parameter.name}_")]
            args += [left.pop(name) for name in own]
        elif parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.name in left:
            if parameter.kind is parameter.KEYWORD_ONLY or len(args) < parameters.index(parameter):
                kwargs[parameter.name] = left.pop(parameter.name)
            else:
                args.append(left.pop(parameter.name))
        elif parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY:
            raise InputError(f"the model's forward wants an input '{display(parameter.name)}', which was not given")
    if left and not open_ended:
        names = ", ".join(p.name for p in parameters) or "nothing"
        raise InputError(f"the model's forward has no parameter '{display(next(iter(left)))}'; it takes {names}")
    return args, kwargs | left
