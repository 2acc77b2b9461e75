"""Keras on torch: what computes between layers, seen through torch's own function mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.adapter import Array
from tracer_keras.backend import Backend

if TYPE_CHECKING:
    from tracer_keras.eager import EagerRecorder

_SAME = frozenset({"detach", "clone", "alias", "contiguous", "to", "type", "requires_grad_", "as_subclass"})


class Torch(Backend):
    """Eager torch."""

    name = "torch"

    def __init__(self) -> None:
        self.torch: Any = import_module("torch")

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, self.torch.Tensor)

    def eager(self) -> bool:
        return self.torch._C._functorch.peek_interpreter_stack() is None

    def array(self, value: Any) -> Array:
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        try:
            return np.asarray(plain.numpy())
        except TypeError:  # bfloat16 and float8, which numpy knows through ml_dtypes alone
            bits = plain.contiguous().view(getattr(self.torch, f"uint{8 * plain.element_size()}")).numpy()
            return np.asarray(bits.view(getattr(import_module("ml_dtypes"), self.dtype(value))))

    def dtype(self, value: Any) -> str:
        return str(value.dtype).removeprefix("torch.")

    def reason(self, value: Any) -> str | None:
        if value.layout != self.torch.strided:
            return "sparse tensor"
        if value.is_quantized or value.is_nested or value.is_meta:
            return "not a plain tensor"
        return None

    def memory(self, value: Any) -> object:
        return value.untyped_storage().data_ptr() if value.layout == self.torch.strided else None

    def overwrite(self, value: Any, new: Any) -> None:
        value.copy_(new)

    @contextmanager
    def double(self) -> Iterator[None]:
        with import_module("tracer_keras.wide_torch").Wide():
            yield

    def seed(self, number: int) -> None:
        self.torch.manual_seed(number)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        before = self.torch.random.get_rng_state()
        try:
            with self.torch.no_grad():
                yield
        finally:
            self.torch.random.set_rng_state(before)

    def watch(self, recorder: EagerRecorder) -> Callable[[], None]:
        overrides: Any = import_module("torch.overrides")

        class Watch(overrides.TorchFunctionMode):  # type: ignore[misc]
            def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                given = kwargs or {}
                name = getattr(function, "__name__", "")
                if name == "__set__":
                    return function(*args, **given)
                if name == "__get__":  # a property: only its name as torch resolves it says which
                    name = (overrides.resolve_name(function) or "").removesuffix(".__get__").rpartition(".")[2]
                in_place = "out" in given or name == "__setitem__" or (name[-1:] == "_" and name[:2] != "__")
                changed = given.get("out", args[0] if args else None) if in_place else None
                label = f"torch.{name.removeprefix('__').removesuffix('__')}"
                return recorder.operation(name, label, function, args, given, same=name in _SAME, changed=changed)

        mode = Watch()
        mode.__enter__()
        return lambda: mode.__exit__(None, None, None)
