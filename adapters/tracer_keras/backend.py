"""Which backend Keras 3 computes with, and what tracer needs of one that is not TensorFlow."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.adapter import Array
from tracer.errors import InputError, MissingFrameworkError, ReplayError
from tracer.names import display

if TYPE_CHECKING:
    from tracer_keras.eager import EagerRecorder

TENSORFLOW = "tensorflow"
BACKENDS = (TENSORFLOW, "torch", "jax", "numpy")


def chosen() -> str:
    """The backend that Keras 3 has in this process, or will have: as Keras finds it, the environment variable
    KERAS_BACKEND, then keras.json, then TensorFlow."""
    backend = getattr(sys.modules.get("keras"), "backend", None)
    if backend is not None:
        return str(backend.backend())
    return os.environ.get("KERAS_BACKEND") or _configured() or TENSORFLOW


def _configured() -> str | None:
    home = os.environ.get("KERAS_HOME")
    path = Path(home) / "keras.json" if home else Path.home() / ".keras" / "keras.json"
    try:
        found = json.loads(path.read_bytes()).get("backend")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def check() -> None:
    """Raises InputError when tracer cannot record on the chosen backend, MissingFrameworkError when it is missing."""
    name = chosen()
    asked = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else "keras.json"
    if name not in BACKENDS:
        raise InputError(f"Keras is to run on {display(name)} ({asked}): tracer records it on {', '.join(BACKENDS)}")
    if name not in sys.modules and find_spec(name) is None:
        raise MissingFrameworkError(f"Keras is to run on {name} ({asked}), which is not installed: pip install {name}")


class Backend(ABC):
    """One backend on which models run eagerly."""

    name: str
    watches = True
    """Whether operators and functions of the backend are seen, and not only those of Keras."""
    blind = ""
    """What is not seen although ``watches``."""

    @property
    def version(self) -> str:
        return str(import_module(self.name).__version__)

    @abstractmethod
    def is_tensor(self, value: Any) -> bool:
        """Whether ``value`` is a tensor of this backend with values, not one of a function being traced."""

    def eager(self) -> bool:
        """Whether operations compute now, not in a loop or function that is being traced."""
        return True

    def tensor(self, array: Array, dtype: str) -> Any:
        """``array`` as a tensor of Keras's type ``dtype``."""
        return import_module("keras").ops.convert_to_tensor(array, dtype=dtype)

    def array(self, value: Any) -> Array:
        """The values of a tensor, perhaps in its own memory."""
        return np.asarray(value)

    def dtype(self, value: Any) -> str:
        return str(value.dtype)

    def reason(self, value: Any) -> str | None:
        """Why a tensor cannot be stored; None when it can."""
        return None

    def memory(self, value: Any) -> object:
        """What two tensors share when one of them is changed in place; None where nothing changes in place."""
        return None

    def overwrite(self, value: Any, new: Any) -> None:
        """Change ``value`` in place to hold what ``new`` holds; only asked where a model itself changes it."""
        raise NotImplementedError

    @contextmanager
    def double(self) -> Iterator[None]:
        """Compute in float64. Raises ReplayError where that cannot be."""
        raise ReplayError(f"Keras on {self.name} does not compute in float64: start with KERAS_BACKEND=tensorflow")
        yield

    def watch(self, recorder: EagerRecorder) -> Callable[[], None]:
        """Report operations outside leaf layers to ``recorder.operation``; the result stops it."""
        return lambda: None

    def seed(self, number: int) -> None:
        """Let what the backend draws by itself, without Keras, begin at ``number``."""
        return

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Without gradients, and with the backend's random state put back afterwards."""
        yield


def of(name: str) -> Backend:
    """The backend ``name`` other than TensorFlow. Raises InputError for one that is unknown."""
    if name == "torch":
        backend: Backend = import_module("tracer_keras.on_torch").Torch()
    elif name == "jax":
        backend = import_module("tracer_keras.on_jax").Jax()
    elif name == "numpy":
        backend = Numpy()
    else:
        raise InputError(f"Keras runs on {display(name)} here: start with KERAS_BACKEND={', '.join(BACKENDS[:-1])}")
    return backend


class Numpy(Backend):
    """NumPy: its operators cannot be watched."""

    name = "numpy"
    watches = False

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, (np.ndarray, np.generic))

    def memory(self, value: Any) -> object:
        base = value
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        return id(base)

    def overwrite(self, value: Any, new: Any) -> None:
        value[...] = new

    def reason(self, value: Any) -> str | None:
        return f"{value.dtype} array" if value.dtype.kind in "OUS" else None

    def watch(self, recorder: EagerRecorder) -> Callable[[], None]:
        # Keras makes its inputs tensors first, which on NumPy copies them.
        module: Any = import_module("keras.src.ops")
        convert = module.convert_to_tensor

        def call(*args: Any, **kwargs: Any) -> Any:
            return recorder.operation("convert", "", convert, args, kwargs, same=True)

        module.convert_to_tensor = call
        return lambda: setattr(module, "convert_to_tensor", convert)


WORDS: Mapping[str, str] = {
    "pow": "Pow",
    "mod": "FloorMod",
    "remainder": "FloorMod",
    "floordiv": "FloorDiv",
    "floor_divide": "FloorDiv",
    "truediv": "RealDiv",
    "gt": "Greater",
    "ge": "GreaterEqual",
    "lt": "Less",
    "le": "LessEqual",
    "eq": "Equal",
    "ne": "NotEqual",
    "neg": "Neg",
    "negative": "Neg",
    "and": "LogicalAnd",
    "or": "LogicalOr",
    "xor": "LogicalXor",
    "invert": "LogicalNot",
    "getitem": "StridedSlice",
    "t": "Transpose",
    "mt": "Transpose",
    "cat": "ConcatV2",
    "view": "Reshape",
    "unsqueeze": "ExpandDims",
    "chunk": "Split",
}
"""Operators by the names that TensorFlow gives their operations, so that a model's nodes have one name anywhere."""
_REFLECTED = {"radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul", "rand", "ror", "rxor"}


def word(name: str) -> str:
    """The operation behind a function's, method's or operator's name: ``__radd__`` → ``add``."""
    bare = name.strip("_").lower()
    if name.startswith("__"):
        bare = bare[1:] if bare in _REFLECTED else bare
    return WORDS.get(bare, bare)
