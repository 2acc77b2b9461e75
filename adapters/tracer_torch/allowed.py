"""The globals a pickle may name by default: torch.nn's modules and the harmless parts of common checkpoints.

Everything here may be *called* by a hostile file with arguments of its choice, so each entry must be harmless
for any argument. numpy's own ``dtype.__setstate__`` and ``ndarray.__setstate__`` trust flags and sizes in the
file; stand-ins that check them take their place.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import importlib
import math
import pathlib
import pickle
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from tracer import usercode
from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.text import described
from tracer_torch import custom
from tracer_torch.tensors import ml_dtypes

_ACTIVATIONS = (  # noqa: SIM905
    "relu relu6 relu_ gelu silu mish elu elu_ celu selu selu_ leaky_relu leaky_relu_ hardtanh hardswish hardsigmoid "
    "softplus softsign softmax log_softmax logsigmoid tanh sigmoid tanhshrink softshrink hardshrink softmin glu "
    "threshold rrelu prelu max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d dropout normalize layer_norm interpolate sin cos abs exp sqrt square"
).split()
_NEVER = frozenset({"builtins", "os", "posix", "nt", "sys", "subprocess", "importlib", "ctypes", "runpy", "shutil"})
"""Modules whose callables amount to running any code: for these the honest flag is --trust."""

Globals = dict[str, Any]


class UnsafeGlobal(pickle.UnpicklingError):
    """An attribute that a pickle asked for and may not have; ``name`` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class CheckedDtype:
    """Stands in for ``numpy.dtype`` in a pickle: numeric types only, and no flags or sizes from the file."""

    def __init__(self, name: str = "f4", *_: object) -> None:
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str) or name.lstrip("<>=|")[:1] in {"", "O", "V"}:
            raise UnsafeGlobal(f"numpy.dtype({name!r})")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufcSUMm":
            raise UnsafeGlobal(f"numpy.dtype({name!r})")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")


class CheckedArray(np.ndarray[Any, Any]):
    """Stands in for ``numpy.ndarray`` in a pickle: the bytes must be as many as shape and type say."""

    def __setstate__(self, state: Any, /) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, CheckedDtype) or not isinstance(data, bytes):
            raise UnsafeGlobal("numpy.ndarray of objects")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise ValueError("the size of a numpy array is not that of its bytes")
        super().__setstate__((1, tuple(shape), dtype.dtype, bool(fortran), data))  # type: ignore[arg-type]


def _scalar(dtype: CheckedDtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _reconstruct(_cls: object, _shape: object, _code: object) -> CheckedArray:
    return np.ndarray.__new__(CheckedArray, (0,))


def _attribute(owner: object, name: str) -> Any:
    """Stands in for ``getattr``: pickles reach ``torch.relu`` and nested classes through it."""
    variable_functions = getattr(torch._C, "_VariableFunctionsClass", None)
    if owner is variable_functions and owner is not None:
        if name in _ACTIVATIONS:
            return getattr(torch, name)
        raise UnsafeGlobal(f"torch.{name}")
    raise UnsafeGlobal(f"getattr(…, {name!r})")


def curated() -> Globals:
    """What any file may name, by the name it stands under in a pickle."""
    found: Globals = {}
    for value in vars(torch.nn.modules).values():
        # Only torch.nn.modules: torch.nn.parallel moves tensors to devices of its own accord.
        if isinstance(value, type) and issubclass(value, torch.nn.Module):
            found[f"{value.__module__}.{value.__qualname__}"] = value
    for value in (torch.nn.modules.linear.NonDynamicallyQuantizableLinear, torch.nn.Module):
        found[f"{value.__module__}.{value.__qualname__}"] = value
    for name in _ACTIVATIONS:
        function = getattr(torch.nn.functional, name, None)
        if function is not None:
            found[f"torch.nn.functional.{name}"] = function
            found[f"{getattr(function, '__module__', 'torch')}.{function.__name__}"] = function
    found["torch._C._VariableFunctionsClass"] = getattr(torch._C, "_VariableFunctionsClass", None)
    found["builtins.getattr"] = _attribute
    for plain in (set, frozenset, slice, range, list, dict, tuple, int, float, bool, str, complex, bytearray):
        found[f"builtins.{plain.__name__}"] = plain
    for module in ("numpy", "numpy._core.multiarray", "numpy.core.multiarray"):
        found |= {f"{module}.scalar": _scalar, f"{module}._reconstruct": _reconstruct}
        found |= {f"{module}.ndarray": CheckedArray, f"{module}.dtype": CheckedDtype}
    if ml_dtypes is not None:
        found["ml_dtypes.bfloat16"] = ml_dtypes.bfloat16
    for flavour in ("pathlib", "pathlib._local"):
        # Pure paths: a checkpoint from Windows must load elsewhere, and nothing here opens files.
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath"):
            found[f"{flavour}.{name}"] = pathlib.PurePosixPath
        for name in ("WindowsPath", "PureWindowsPath"):
            found[f"{flavour}.{name}"] = pathlib.PureWindowsPath
    for harmless in (argparse.Namespace, types.SimpleNamespace, datetime.datetime, datetime.date, datetime.timedelta):
        found[f"{harmless.__module__}.{harmless.__qualname__}"] = harmless
    found["types.SimpleNamespace"] = types.SimpleNamespace
    found["collections.OrderedDict"] = collections.OrderedDict
    return {name: value for name, value in found.items() if value is not None}


def consented(imports: Iterable[str], allow: Iterable[str]) -> Globals:
    """What the user named: classes of imported modules and files, and single classes.

    Raises InputError when one of them cannot be imported, RefusedError for globals that run any code.
    """
    found: Globals = {}
    for name in imports:
        module = usercode.import_module(name)
        for value in custom.classes(module):
            found[f"{value.__module__}.{value.__qualname__}"] = value
            # The script that saved it ran as __main__, or under the file's own name.
            found.setdefault(f"__main__.{value.__qualname__}", value)
            if name.endswith(".py"):
                found.setdefault(f"{pathlib.Path(name).stem}.{value.__qualname__}", value)
    for name in allow:
        found[name] = _named(name)
    return found


def runs_any_code(name: str) -> bool:
    """Whether a global amounts to running any code, so that naming it cannot be a harmless consent."""
    return not _NEVER.isdisjoint(name.split("."))  # torch.nn.os.system is os.system, too


def _refused(name: str) -> RefusedError:
    return RefusedError(f"--allow {display(name)} would let the file run any code: if that is wanted say --trust")


def _named(name: str) -> Callable[..., Any]:
    parts = name.split(".")
    if runs_any_code(name):
        raise _refused(name)
    reason = "not of the form pkg.mod.Class"
    for split in range(len(parts) - 1, 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            reason = described(error)
            continue
        except (Exception, SystemExit) as error:
            raise InputError(f"--allow {display(name)}: {described(error)}") from error
        try:
            for part in parts[split:]:
                value = getattr(value, part)
        except AttributeError as error:
            reason = described(error)
            continue
        if not callable(value):
            raise InputError(f"--allow {display(name)} is a {type(value).__name__}, not a class")
        if runs_any_code(str(getattr(value, "__module__", ""))):  # under another name
            raise _refused(name)
        return value  # type: ignore[no-any-return]
    raise InputError(f"--allow {display(name)}: {reason}")
