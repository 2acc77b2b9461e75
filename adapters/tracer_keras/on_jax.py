"""Keras on JAX: what computes between layers, seen through the operators of its arrays and its public functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracer_keras.backend import Backend
from tracer_keras.vocabulary import words

if TYPE_CHECKING:
    from tracer_keras.eager import EagerRecorder

_MODULES = words("jax.numpy jax.numpy.linalg jax.numpy.fft jax.nn jax.lax jax.image jax.scipy.special")
_OPERATORS = words(
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul and rand or ror "
    "xor rxor neg abs invert gt ge lt le eq ne getitem"
)
_METHODS = words(
    "all any argmax argmin argsort astype clip conj copy cumprod cumsum diagonal dot flatten max mean min prod ravel "
    "repeat reshape round sort squeeze std sum swapaxes take trace transpose var"
)
_SAME = words("array asarray copy stop_gradient astype convert_element_type optimization_barrier")
# They take functions, which would be traced, or make no tensors.
_PASSED = words(
    "scan cond while_loop fori_loop map switch associative_scan custom_root custom_linear_solve vectorize "
    "apply_along_axis apply_over_axes piecewise frompyfunc reduce reduce_window shape ndim size result_type dtype"
)


class Jax(Backend):
    """JAX, outside of its transformations."""

    name = "jax"
    blind = " (what jax.jit compiled, and .at[…] updates, are not visible)"

    def __init__(self) -> None:
        self.jax: Any = import_module("jax")
        self._sparse: Any = import_module("jax.experimental.sparse").JAXSparse
        self._core: Any = import_module("jax._src.core")

    def is_tensor(self, value: Any) -> bool:
        if isinstance(value, self._sparse):
            return True
        return isinstance(value, self.jax.Array) and not isinstance(value, self.jax.core.Tracer)

    def eager(self) -> bool:
        return bool(self._core.trace_state_clean())

    def reason(self, value: Any) -> str | None:
        return "sparse tensor" if isinstance(value, self._sparse) else None

    def watch(self, recorder: EagerRecorder) -> Callable[[], None]:
        undo: list[Callable[[], None]] = []

        def replace(owner: Any, name: str, new: Any) -> None:
            undo.append(functools.partial(setattr, owner, name, vars(owner)[name]))
            setattr(owner, name, new)

        array = type(self.jax.numpy.zeros(()))
        for operator in _OPERATORS:
            replace(array, f"__{operator}__", _Watched(recorder, f"__{operator}__", getattr(array, f"__{operator}__")))
        for method in _METHODS & vars(array).keys():
            replace(array, method, _Watched(recorder, method, getattr(array, method)))
        for name in _MODULES:
            module = import_module(name)
            for key, function in list(vars(module).items()):
                if not key.startswith("_") and key not in _PASSED and _computes(function):
                    replace(module, key, _Watched(recorder, key, function))

        def stop() -> None:
            while undo:
                undo.pop()()

        return stop


def _computes(function: Any) -> bool:
    scalar = hasattr(function, "dtype")  # jax.numpy.float32 and its like
    ours = str(getattr(function, "__module__", "")).startswith(("jax.", "jaxlib."))
    return callable(function) and not isinstance(function, type) and ours and not scalar


class _Watched:
    """A function of JAX that reports its calls; everything else about it is as it was."""

    def __init__(self, recorder: EagerRecorder, name: str, function: Any) -> None:
        self._recorder, self._name, self._function = recorder, name, function
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._recorder.operation(
            self._name, f"jax.{self._name.strip('_')}", self._function, args, kwargs, same=self._name in _SAME
        )

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)
