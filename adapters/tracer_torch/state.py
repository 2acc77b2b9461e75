"""A model as it was before a pass, to put it back: attributes, tensors, modes, random numbers."""

from __future__ import annotations

import contextlib
import functools
import operator
import pickle
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    """What a forward pass may change in a model's modules (each with its path), as it was when this was made.

    Restored are the attributes of every module (with the lists, dicts and sets among them, and generators of random
    numbers), the values, memory, versions and gradients of its tensors, and its class. Not seen: what a forward does to
    objects of other classes.
    Parameters are not copied but when :meth:`about_to_change` tells that something will write to them.
    """

    def __init__(self, modules: Mapping[nn.Module, str]) -> None:
        self._modules: list[tuple[nn.Module, type[nn.Module]]] = []
        self._containers: list[tuple[Any, Sequence[Any], Sequence[Any]]] = []
        self._empty: list[Any] = []
        self._draws: list[Callable[[], object]] = []
        self._tensors: dict[int, _Tensor] = {}
        self._memory: dict[int, list[_Tensor]] = {}
        seen: set[int] = set()
        empty = self._empty.append
        for module, path in modules.items():
            self._modules.append((module, type(module)))
            attributes = vars(module)
            self._containers.append((attributes, (*attributes,), (*attributes.values(),)))
            for key, value in attributes.items():
                kind = type(value)
                if kind in _PLAIN:
                    continue
                if kind in _CONTAINERS and not value:  # most that a module has
                    empty(value)
                elif (category := _category(kind)) is not None:  # type: ignore[arg-type]  # typeshed: unhashable
                    self._keep(category, value, path, key, 1, seen)
        kept = 0
        for state in sorted(self._tensors.values(), key=lambda state: state.size):
            kept += 0 if state.lazy else state.size
            if not state.lazy and kept <= _LARGEST_SNAPSHOT:
                state.copy()
            else:
                self._memory.setdefault(state.memory, []).append(state)

    def _keep(self, category: str, value: Any, path: str, key: object, depth: int, seen: set[int]) -> None:
        if category == "tensor":
            if id(value) not in self._tensors:
                with contextlib.suppress(Exception):  # meta, nested, not initialised: there is nothing to put back
                    self._tensors[id(value)] = _Tensor(value, path, key)
        elif category in ("dict", "list"):
            if depth > _DEEPEST or id(value) in seen:
                return
            seen.add(id(value))
            if category == "dict":
                self._containers.append((value, (*value,), (*value.values(),)))
            else:
                self._containers.append((value, (), (*value,)))
            for place, item in value.items() if category == "dict" else ((None, item) for item in value):
                kind = _category(type(item))  # type: ignore[arg-type]
                if kind is not None:
                    self._keep(kind, item, path, place, depth + 1, seen)
        elif category == "generator":
            self._draws.append(partial(value.set_state, value.get_state()))
        elif category == "random":
            self._draws.append(partial(value.setstate, value.getstate()))
        else:
            self._draws.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))

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


@functools.lru_cache(maxsize=1024)
def _category(kind: type) -> str | None:
    """What objects of a class are to :class:`Before`; None for what it does not look at."""
    if kind in _DICTS:
        return "dict"
    if kind in _LISTS or kind is set:
        return "list"
    if issubclass(kind, torch.Tensor):
        return "tensor"
    if issubclass(kind, torch.Generator | np.random.RandomState):
        return "generator"
    if issubclass(kind, random.Random):
        return "random"
    return "bits" if issubclass(kind, np.random.Generator) else None


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
    """A tensor as it was; ``path`` and ``key`` say where in the model."""

    __slots__ = (
        "alias", "grad", "key", "lazy", "leaf", "memory", "path", "requires_grad", "size", "tensor", "values",
        "version",
    )  # fmt: skip

    def __init__(self, tensor: torch.Tensor, path: str, key: object) -> None:
        self.tensor = tensor
        self.path = path
        self.key = key
        self.version = version(tensor)
        self.leaf = tensor.is_leaf
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if self.leaf else None
        self.alias = tensor.detach()
        self.memory = tensor.untyped_storage().data_ptr()
        self.size = tensor.nbytes
        self.lazy = isinstance(tensor, nn.Parameter)
        self.values: torch.Tensor | None = None

    @property
    def name(self) -> str:
        return self.path if self.key is None else f"{self.path}.{self.key}"

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
def evaluating(model: nn.Module, modules: Collection[nn.Module]) -> Iterator[None]:
    """``model``, of these ``modules``, in evaluation mode while this lasts.

    What torch does for it is done here, which takes less time, unless somebody has changed that.
    """
    changed: list[dict[str, Any]] = []
    own = any("train" in attributes or "eval" in attributes for attributes in map(vars, modules))
    if not own and all(map(_usual_modes, set(map(type, modules)))):
        for attributes in map(vars, modules):
            if attributes.get("training"):
                changed.append(attributes)
                attributes["training"] = False
    else:
        model.eval()
    try:
        yield
    finally:
        for attributes in changed:
            attributes["training"] = True


@functools.lru_cache(maxsize=1024)
def _usual_modes(kind: type) -> bool:
    """Whether modules of a class change their mode as torch's own do."""
    same = ("eval", "train", "children", "named_children", "modules", "named_modules", "__setattr__")
    return not hasattr(kind, "training") and all(getattr(kind, one) is getattr(nn.Module, one) for one in same)


@contextlib.contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """What is drawn inside begins at one seed; outside the random numbers go on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    tensors = (tensor for module in model.modules() for tensor in module._parameters.values())
    used = {tensor.device for tensor in tensors if tensor is not None} - {torch.device("cpu"), torch.device("meta")}
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
