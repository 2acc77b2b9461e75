"""Runs a model once under the recorder and leaves it as it was."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tracer.adapter import Array, Run
from tracer.collecting import rarely_collected
from tracer.errors import InputError
from tracer.names import display
from tracer_torch import layers
from tracer_torch.engine import FunctionWatch, Recorder
from tracer_torch.gradients import Gradients
from tracer_torch.state import Before, drawn, evaluating, same_draws
from tracer_torch.tensors import from_array


@contextlib.contextmanager
def _left_alone(model: nn.Module, how: Run, recorder: Recorder) -> Iterator[None]:
    """The mode that ``how`` wants, with gradients only where it has a loss; everything is put back.

    In training mode a model of which some parts are in training and others are not keeps them so: its user froze
    the latter.
    """
    before = Before(recorder.paths)
    recorder.writes = before.about_to_change
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(how.loss is not None))
            stack.enter_context(same_draws(model))
            if how.mode == "eval":
                stack.enter_context(evaluating(model, recorder.paths))
            else:
                if not any(module.training for module in recorder.paths):
                    model.train()
                recorder.frozen = [path for module, path in recorder.paths.items() if path and not module.training]
            yield
    finally:
        recorder.lost = before.restore()


@contextlib.contextmanager
def hooked(recorder: Recorder, gradients: Gradients | None = None, *, root: bool = True) -> Iterator[None]:
    """Hooks on the modules that are nodes; on the ``root`` only where its own call is still to come."""
    handles: list[Any] = []
    tables: list[Any] = []
    number = RemovableHandle(OrderedDict()).id  # that no other hook has

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == recorder.thread:  # another one's call would say that this one's functions are ours
            _guarded(recorder, recorder.enter, module, args, kwargs)

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != recorder.thread:
            return None
        return _guarded(recorder, recorder.leave, module, output)

    try:
        inside = layers.computing(recorder.paths)
        # Of a compiled module and its wrapper only the module.
        inside |= {module for module in recorder.paths if layers.is_compiled(module)}
        for module in recorder.paths:
            if module in inside or (module is recorder.root and not (root and layers.is_leaf(module))):
                continue
            if module._modules and layers.is_leaf(module):
                inside |= set(module.modules())
            if isinstance(module, torch.jit.ScriptModule):
                continue
            tables += _hook(module, number, enter, leave)
        if gradients is not None:
            handles += gradients.watch(recorder.root, lambda action: _guarded(recorder, action))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for table in tables:
            table.pop(number, None)


def _hook(module: nn.Module, number: int, enter: Callable[..., object], leave: Callable[..., object]) -> Iterable[Any]:
    """Add two hooks to a module under one number: the tables in which that stands then.

    They are ``register_forward_pre_hook(enter, with_kwargs=True)`` and ``register_forward_hook(leave,
    always_call=True)`` without their two handles, which take most of the time.
    """
    before, named = module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs
    after, always = module._forward_hooks, module._forward_hooks_always_called
    before[number], after[number] = enter, leave
    named[number] = always[number] = True
    return before, named, after, always


def _guarded(recorder: Recorder, action: Callable[..., object], *args: Any) -> object:
    """Run our part of a hook: its own torch calls unseen, its faults kept from the model."""
    recorder.busy = True
    try:
        with torch._C.DisableTorchFunction():  # a mode would be told of each of our own calls
            return action(*args)
    except Exception as error:
        recorder.faults.append(f"{type(error).__name__}: {error}")
        return None
    finally:
        recorder.busy = False


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Compiled parts run their Python: hooks added after compilation would silently not fire."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def run(
    model: nn.Module,
    inputs: Mapping[str, Array],
    recorder: Recorder,
    how: Run,
    gradients: Gradients | None = None,
    *,
    plain: bool = False,
) -> Iterator[object]:
    """One forward pass of ``model`` on ``inputs`` under ``recorder``; gives what it returned.

    Where ``how`` has a loss the inputs require gradients, unless they are to be ``plain``.

    The pass is over when the body runs, but the model is put back only after it.
    Raises InputError for inputs the forward has no parameter for; what the model raises passes through.
    """
    parameter = next((p for p in model.parameters() if not p.is_meta), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    with rarely_collected(), _left_alone(model, how, recorder), eager():
        tensors = {name: from_array(name, array, device) for name, array in inputs.items()}
        if how.loss is not None and not plain:
            # Not the leaves themselves: those may not be changed in place.
            tensors = {name: _with_gradient(tensor) for name, tensor in tensors.items()}
        arguments(model, tensors)  # refuses what it does not take before anything is recorded
        args, kwargs = arguments(model, recorder.begin(tensors))
        if gradients is not None:
            recorder.reads = gradients.read
        before = drawn()
        with hooked(recorder, gradients), FunctionWatch(recorder):
            result = model(*args, **kwargs)
        recorder.drew = drawn() != before
        recorder.finish(result)
        del tensors, args, kwargs
        yield result


def initialise(model: nn.Module, inputs: Mapping[str, Array]) -> None:
    """Run ``model`` once for its lazy modules. Raises InputError, and what the model raises."""
    modes = [(module, module.training) for module in model.modules()]
    args, kwargs = arguments(
        model, {name: from_array(name, array, torch.device("cpu")) for name, array in inputs.items()}
    )
    with torch.inference_mode(False), torch.no_grad(), same_draws(model):
        model.eval()(*args, **kwargs)
    for module, training in modes:
        module.training = training


def _with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    differentiable = tensor.is_floating_point() or tensor.is_complex()
    return tensor.requires_grad_().clone() if differentiable else tensor


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
