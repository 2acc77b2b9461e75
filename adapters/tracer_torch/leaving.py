"""Modules that return what is known of them instead of computing it, while a module is run again."""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tracer.adapter import Array
from tracer.graph import Structure
from tracer_torch.engine import Recorder
from tracer_torch.events import Key
from tracer_torch.functions import ASKING, name_of
from tracer_torch.tensors import from_array, walk

_ALONE = frozenset(
    {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
     nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.ReLU,
     nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.ELU, nn.LeakyReLU,
     nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d}
)  # fmt: skip
"""Modules that give one tensor and, in evaluation, change nothing but their input where they are told to."""
_FLOATING = ("float32", "float16", "bfloat16", "float64")
_NO_VALUES = ASKING - {"item", "repr", "format", "data_ptr", "untyped_storage"}
"""What is asked of a tensor without looking at its values."""


class LeftOut:
    """The modules of ``recorder`` that a run in float64 leaves out, where their nodes are ``known``.

    What only modules left out read has no values until a function asks for them: see :meth:`look`.
    """

    def __init__(
        self, recorder: Recorder, names: Mapping[Key, str], known: Mapping[str, Array], structure: Structure
    ) -> None:
        self._recorder, self._names, self._known = recorder, names, known
        self.given: dict[str, torch.Tensor] = {}
        """What modules returned, by node."""
        self._empty: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}
        plain = {path for module, path in recorder.paths.items() if _is_plain(module)}
        self._left = {
            name
            for (base, _, suffix), name in names.items()
            if base in plain and not suffix and name in known and structure.by_name[name].dtype in _FLOATING
        }
        readers = _readers(structure)
        # Where nothing is seen to read a tensor, something unseen does.
        self._unread = {name for name in self._left if readers.get(name) and self._left.issuperset(readers[name])}
        self._structure = structure

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Leave them out while this lasts."""
        changed = [(module, path) for module, path in self._recorder.paths.items() if _is_plain(module)]
        try:
            for module, path in changed:
                module.forward = self._instead(module, path)
            yield
        finally:
            for module, _ in changed:
                vars(module).pop("forward", None)

    def look(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Give what ``function`` is about to read its values."""
        if not self._empty or self._recorder.busy or name_of(function) in _NO_VALUES:
            return
        for _, tensor in walk((tuple(args), tuple(kwargs.values()))):
            held, name = self._empty.get(id(tensor), (None, ""))
            if held is not None and held() is tensor:
                with torch._C.DisableTorchFunction():
                    self._fill(tensor, name)

    def _instead(self, module: nn.Module, path: str) -> Callable[..., Any]:
        forward, recorder = module.forward, self._recorder

        @functools.wraps(forward)  # it still counts as the class's own
        def give(*args: Any, **kwargs: Any) -> Any:
            frame = recorder.stack[-1] if recorder.stack else None
            name = self._names.get((path, frame.call, ""), "") if frame is not None and frame.module is module else ""
            if name not in self._left or not args:
                return forward(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                return self._given(name, args[0] if getattr(module, "inplace", False) else None)

        return give

    def _given(self, name: str, changed: torch.Tensor | None) -> torch.Tensor:
        """What the module of a node returns: the tensor that it was to change, if any, with its values."""
        shape = self._structure.by_name[name].shape
        out = changed if changed is not None and changed.shape == shape else None
        if out is None:
            assert shape is not None
            out = torch.empty(shape, dtype=torch.float64)
        else:
            torch.autograd.graph.increment_version(out)  # by which the recorder knows it was changed
        if name in self._unread:
            self._empty[id(out)] = weakref.ref(out), name
        else:
            self._fill(out, name)
        self.given[name] = out
        return out

    def _fill(self, tensor: torch.Tensor, name: str) -> None:
        self._empty.pop(id(tensor), None)
        values = _read_only(name, self._known[name])
        if values.shape == tensor.shape:
            tensor.copy_(values)
        else:
            tensor.data = values.double()


def _is_plain(module: nn.Module) -> bool:
    plain = type(module) in _ALONE and "forward" not in vars(module)
    return plain and not module._forward_hooks and not module._forward_pre_hooks


def _readers(structure: Structure) -> dict[str, set[str]]:
    """Which stored nodes read each stored one, also under a name by which another passes it on."""
    found: dict[str, set[str]] = {}
    for node in structure:
        readers = (child for child in structure.children[node.name] if structure.by_name[child].alias_of is None)
        found.setdefault(node.alias_of or node.name, set()).update(readers)
    return found


def _read_only(name: str, array: Array) -> torch.Tensor:
    """``array`` as a tensor, of the same memory where torch has its type."""
    if array.dtype.kind != "f":
        return from_array(name, array, torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no memory that must not be written to
        return torch.from_numpy(array)
