"""A model as it was before a pass, to put it back: attributes, tensors, modes, random numbers."""

from __future__ import annotations

import contextlib
import operator
import pickle
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer_torch.tensors import version

_LARGEST_SNAPSHOT = 512 << 20
"""Bytes of buffers that are copied beforehand; larger ones are copied when a function is about to change them."""
_DEEPEST = 3
_SEED = 0
"""Of everything a model draws while it is recorded: two recordings of it draw the same."""

_DICTS = (dict, OrderedDict, defaultdict)
_LISTS = (list, deque)
_CONTAINERS = frozenset({*_DICTS, *_LISTS, set})
_PLAIN = frozenset({bool, int, float, str, tuple, type(None)})
"""What a pass cannot change, and most attributes of a module are."""


class Before:
    """What a forward pass may change in a model, as it was when this was made.

    Restored are the attributes of every module (with the lists, dicts and sets among them, and generators of random
    numbers), the values, memory, versions and gradients of its tensors, and its class. Not seen: what a forward does to
    objects of other classes.
    Parameters are not copied but when :meth:`about_to_change` tells that something will write to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, type(module)) for module in model.modules()]
        self._containers: list[tuple[Any, Sequence[Any], Sequence[Any]]] = []
        self._empty: list[Any] = []
        self._draws: list[Callable[[], object]] = []
        self._tensors: dict[int, _Tensor] = {}
        self._memory: dict[int, list[_Tensor]] = {}
        seen: set[int] = set()
        for path, module in model.named_modules():
            attributes = vars(module)
            self._containers.append((attributes, [*attributes], [*attributes.values()]))
            for key, value in attributes.items():
                kind = type(value)
                if kind in _PLAIN:
                    continue
                if kind in _CONTAINERS and not value:  # most that a module has
                    self._empty.append(value)
                else:
                    self._keep(value, f"{path}.{key}" if isinstance(value, torch.Tensor) else path, 1, seen)
        kept = 0
        for state in sorted(self._tensors.values(), key=lambda state: state.size):
            kept += 0 if state.lazy else state.size
            if not state.lazy and kept <= _LARGEST_SNAPSHOT:
                state.copy()
            else:
                self._memory.setdefault(state.memory, []).append(state)

    def _keep(self, value: Any, path: str, depth: int, seen: set[int]) -> None:
        kind = type(value)
        if kind in _DICTS:
            if depth > _DEEPEST or id(value) in seen:
                return
            seen.add(id(value))
            self._containers.append((value, [*value], [*value.values()]))
            for key, item in value.items():
                if type(item) not in _PLAIN:
                    self._keep(item, f"{path}.{key}" if isinstance(item, torch.Tensor) else path, depth + 1, seen)
        elif kind in _LISTS or kind is set:
            if depth > _DEEPEST or id(value) in seen:
                return
            seen.add(id(value))
            self._containers.append((value, (), [*value]))
            for item in value:
                if type(item) not in _PLAIN:
                    self._keep(item, path, depth + 1, seen)
        elif isinstance(value, torch.Generator):
            self._draws.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._draws.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, np.random.RandomState):
            self._draws.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            self._draws.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif isinstance(value, torch.Tensor) and id(value) not in self._tensors:
            with contextlib.suppress(Exception):  # meta, nested, not initialised: there is nothing to put back
                self._tensors[id(value)] = _Tensor(value, path)

    def about_to_change(self, tensor: torch.Tensor) -> None:
        """Copy the parameters that share memory with ``tensor``, which a function will write to."""
        if not self._memory:
            return
        with contextlib.suppress(Exception):  # tensors of vmap and the like have no memory of their own
            for state in self._memory.pop(tensor.untyped_storage().data_ptr(), ()):
                state.copy()

    def restore(self) -> list[str]:
        """Put everything back. Gives the names of tensors whose values were changed unseen, and are lost."""
        for module, cls in self._modules:
            if type(module) is not cls:
                module.__class__ = cls
        for container in filter(None, self._empty):
            container.clear()
        for container, keys, values in self._containers:
            _refill(container, keys, values)
        for put_back in self._draws:
            put_back()
        with torch.no_grad():
            return [state.name for state in self._tensors.values() if not state.restore()]


def _refill(container: Any, keys: Sequence[Any], values: Sequence[Any]) -> None:
    """Give a container its former items, if they are others now; ``keys`` of a dict's."""
    if type(container) in _DICTS:
        if not (_same(container, keys) and _same(container.values(), values)):
            container.clear()
            container.update(zip(keys, values, strict=True))
    elif type(container) is set:
        if container != set(values):
            container.clear()
            container.update(values)
    elif not _same(container, values):
        container.clear()
        container.extend(values)


def _same(items: Collection[Any], former: Sequence[Any]) -> bool:
    """Whether they are the very same objects, in this order."""
    return len(items) == len(former) and all(map(operator.is_, items, former))


class _Tensor:
    """A tensor as it was."""

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self.tensor = tensor
        self.name = name
        self.version = version(tensor)
        self.leaf = tensor.is_leaf
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.alias = tensor.detach()
        self.memory = tensor.untyped_storage().data_ptr()
        self.size = tensor.nbytes
        self.lazy = isinstance(tensor, nn.Parameter)
        self.values: torch.Tensor | None = None

    def copy(self) -> None:
        if self.values is None:
            self.values = self.alias.clone()

    def restore(self) -> bool:
        """Whether it is as it was."""
        tensor = self.tensor
        try:
            if self.leaf and tensor.grad_fn is not None:  # written to with something that requires gradients
                tensor.detach_()
            if tensor.untyped_storage().data_ptr() != self.memory or tensor.shape != self.alias.shape:
                tensor.data = self.alias
            if self.leaf and tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if self.leaf and tensor.grad is not self.grad:
                tensor.grad = self.grad
            if self.values is None:
                return version(tensor) == self.version
            if not _same_bits(self.alias, self.values):
                self.alias.copy_(self.values)
            if version(tensor) != self.version >= 0:
                torch._C._autograd._unsafe_set_version_counter((tensor,), (self.version,))
        except Exception:
            return False
        return True


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal with NaN equal to itself: not every write counts in a tensor's version (``.data``)."""
    try:
        one, two = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    except RuntimeError:
        return False
    return torch.equal(one, two)


@contextlib.contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """What is drawn inside begins at one seed; outside the random numbers go on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    used = {tensor.device for tensor in model.parameters()} - {torch.device("cpu"), torch.device("meta")}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.default_generator.manual_seed(_SEED)
            for device in used:
                stack.enter_context(torch.random.fork_rng(devices=[device.index or 0], device_type=device.type))
                backend = torch.get_device_module(device.type)
                generators = getattr(backend, "default_generators", None)
                (generators[device.index or 0] if generators else backend).manual_seed(_SEED)
            random.seed(_SEED)
            np.random.seed(_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def drawn() -> tuple[bytes, object, bytes]:
    """The state of the CPU's generators: another one than before when something was drawn in between."""
    numpy = pickle.dumps(np.random.get_state(legacy=False))
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy
