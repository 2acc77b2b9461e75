"""Loads model files under the trust rules: data by default, code only where the user consented."""

from __future__ import annotations

import pickle
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from tracer import usercode
from tracer.adapter import LoadRequest
from tracer.errors import InputError, NoModelError, RefusedError
from tracer.graph import Param
from tracer.names import display
from tracer.text import described, some
from tracer_torch import allowed, custom, layers, preflight, quantized, scan, soundness
from tracer_torch.statedict import StateDict, candidates, check_size, load_into, tensors_in

_MAY_RUN = "or --trust if this file may run code"
_TYPES = {
    "BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    **{f"{letter}{bits}": f"{word}{bits}" for letter, word in (("F", "float"), ("I", "int"), ("U", "uint"))
       for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""safetensors' words for types."""
_TRUST_ONLY = "only --trust loads it, which lets it do anything you can do"


def load(request: LoadRequest) -> tuple[torch.nn.Module | ExportedProgram, str, tuple[str, ...]]:
    """The model in evaluation-ready form, what loaded it, and notes for the user.

    A TorchScript file gives a ScriptModule, a torch.export archive an ExportedProgram.
    Raises InputError or RefusedError, in one line.
    """
    # Imports first: the architecture may need classes that --import registers.
    granted = {} if request.trust else allowed.consented(request.imports, request.allow)
    if request.trust:
        for name in request.imports:
            usercode.import_module(name)
    notes: list[str] = []
    content: object = None
    how = "arch"
    if request.path is not None:
        content, how = _read(request.path, request, granted)
        content = _module_within(content)
    model: torch.nn.Module | ExportedProgram
    if request.arch is not None:
        model = custom.build(request.arch, request.arch_args)
        if content is not None:
            assert request.path is not None
            notes += _fill(model, content, request.path)
    elif isinstance(content, torch.nn.Module | ExportedProgram):
        model = content
    elif request.path is not None:
        known = NoModelError if any(True for _ in candidates(content)) else InputError
        raise known(_needs_arch(content, request.path))
    else:
        raise InputError("no model: give a file, or --arch pkg.mod:callable")
    if request.weights is not None:
        if isinstance(model, torch.jit.ScriptModule | ExportedProgram):
            raise InputError(f"{display(str(request.path))} is a program that has its weights: --weights has no use")
        weights, how = _read(request.weights, request, granted)
        notes += _fill(model, weights, request.weights)
    for owner, tensor in tensors_in(model):
        check_size(tensor, f"'{display(owner, 80)}'", display(str(request.path)))
    if any(tensor.is_meta for _, tensor in tensors_in(model)):
        raise InputError("the model's parameters are on the meta device and hold no values: give --weights FILE")
    return model, f"torch {torch.__version__} {how}", tuple(notes)


def _read(path: Path, request: LoadRequest, granted: allowed.Globals) -> tuple[object, str]:
    """The content of a file, and the way it was read."""
    form = preflight.check_file(path, trust=request.trust)
    shown = display(str(path))
    if form in ("torchscript", "exported"):
        return _program(path, form, shown)
    if form == "safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise InputError(f"{shown} needs the package safetensors: pip install safetensors") from None
        try:
            return load_file(path, device="cpu"), "safetensors"
        except Exception as error:
            raise InputError(f"{shown} is damaged: {described(error, 160)}") from error
    with warnings.catch_warnings():
        # torch warns on stderr about pickles it reads anyway; what matters becomes a note or an error.
        warnings.simplefilter("ignore")
        content = _trusted(path, request, shown) if request.trust else _as_data(path, form, granted, shown)
    for module in soundness.modules_in(content):
        quantized.complete(module)
    soundness.check(content, shown, code=request.trust)
    for name, tensor in tensors_in(content):
        check_size(tensor, f"'{display(name, 80)}'", shown)
    return content, "pickle (trusted)" if request.trust else "weights_only"


def _program(path: Path, form: str, shown: str) -> tuple[torch.nn.Module | ExportedProgram, str]:
    """A trusted TorchScript file or torch.export archive, and the way it was read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form == "torchscript":
                load_script: Any = torch.jit.load
                return load_script(path, map_location="cpu"), "torch.jit.load (trusted)"
            return torch.export.load(path), "torch.export.load (trusted)"
    except Exception as error:
        raise InputError(f"{shown} cannot be loaded as {form}: {described(error, 160)}") from error


def _as_data(path: Path, form: str, granted: allowed.Globals, shown: str) -> object:
    known = allowed.curated() | granted
    try:
        wanted, protocol = scan.globals_of(path, form)
    except scan.Unreadable as error:
        raise InputError(f"{shown} cannot be read as a torch.save file: {error}") from error
    with _granting(known):
        unsafe = sorted(_not_allowed(path, form, wanted, set(known)))
        if unsafe:
            raise RefusedError(_refusal(shown, unsafe))
        try:
            # Never with weights_only=False after a failure: whoever made the file chooses the failure.
            return torch.load(path, map_location="cpu", weights_only=True)
        except allowed.UnsafeGlobal as error:
            raise RefusedError(_hidden(shown, error.name)) from error
        except Exception as error:
            name = _wrapped_name(error)
            if name is not None:
                raise RefusedError(_hidden(shown, name)) from error
            if form == "pickle" and any(n.startswith("torch.nn.modules.") or n in granted for n in wanted):
                raise InputError(
                    f"{shown} is a whole module in torch's format from before 1.6, which only code can load: "
                    f"save it again with torch.save, {_MAY_RUN}"
                ) from error
            if protocol > 2:
                raise InputError(
                    f"{shown} was saved with pickle protocol {protocol}, which only 2 loads as data: "
                    f"save it again with torch.save's default protocol, {_MAY_RUN}"
                ) from error
            raise InputError(
                f"{shown} cannot be loaded ({type(error).__name__}): it is damaged or not made by torch.save"
            ) from error


def unsafe_globals(path: Path, form: str, known: allowed.Globals) -> list[str]:
    """The globals that a pickle names and that may not be called, besides ``known``. Raises InputError."""
    try:
        wanted, _ = scan.globals_of(path, form)
    except scan.Unreadable as error:
        raise InputError(f"{display(str(path))} cannot be read as a torch.save file: {error}") from error
    with _granting(known):
        return sorted(_not_allowed(path, form, wanted, set(known)))


def _wrapped_name(error: BaseException) -> str | None:
    """The global behind torch's own exception, which wraps ours as its context."""
    seen = error.__context__
    while seen is not None:
        if isinstance(seen, allowed.UnsafeGlobal):
            return seen.name
        seen = seen.__context__
    return None


def _granting(known: allowed.Globals) -> Any:
    # The context removes on leaving what it added: what the process itself had registered must survive.
    before = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([(v, n) for n, v in known.items() if (v, n) not in before])


def _not_allowed(path: Path, form: str, wanted: set[str], known: set[str]) -> set[str]:
    """The globals that weights_only loading would refuse."""
    if form == "zip":
        try:
            return set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        except Exception:
            pass  # a pickle protocol it does not read: judged by our own scan below
    own = ("torch._utils._rebuild", "torch.storage.", "torch._tensor._rebuild", "torch.nn.parameter.Parameter")
    plain = {"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "torch.Tensor"}
    plain |= {"_codecs.encode", "torch.serialization._get_layout"}
    return {
        name
        for name in wanted - known - plain
        if not name.startswith(own)
        and not (name.startswith("torch.") and name.endswith("Storage"))
        and not isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
    }


def _refusal(shown: str, unsafe: list[str]) -> str:
    running = [name for name in unsafe if allowed.runs_any_code(name)]
    if running:
        return f"{shown} is a pickle that calls {some(running, 5)} and would run code: refused; {_TRUST_ONLY}"
    example = display(unsafe[0], 80)
    return (
        f"{shown} is a pickle that wants {some(unsafe, 5)}: give --import FILE.py or pkg.mod with these classes, "
        f"or --allow {example}, {_MAY_RUN}"
    )


def _hidden(shown: str, name: str) -> str:
    """The refusal of what a pickle asked one of our stand-ins for: no consent to a single name helps."""
    return f"{shown} is a pickle that wants {display(name, 80)}: refused; {_TRUST_ONLY}"


def _trusted(path: Path, request: LoadRequest, shown: str) -> object:
    known = allowed.consented(request.imports, request.allow)

    class Unpickler(pickle.Unpickler):
        """Finds classes of the user's imports under the names they were saved by."""

        def find_class(self, module: str, name: str, /) -> Any:
            if f"{module}.{name}" in known:
                return known[f"{module}.{name}"]
            return super().find_class(module, name)

    module = types.ModuleType("tracer_torch_pickle")
    module.__dict__.update({k: v for k, v in vars(pickle).items() if not k.startswith("__")})
    module.__dict__["Unpickler"] = Unpickler
    module.__dict__["load"] = lambda file, **kwargs: Unpickler(file, **kwargs).load()
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    except (AttributeError, ImportError) as error:
        raise InputError(f"{shown}: {described(error)}: give --import FILE.py with the class") from error
    except Exception as error:
        raise InputError(
            f"{shown} cannot be loaded ({type(error).__name__}): it is damaged or not made by torch.save"
        ) from error


def _module_within(content: object) -> object:
    """The module itself, also where a checkpoint holds a whole module (``{"model": Net, "ema": …}``)."""
    if isinstance(content, Mapping):
        for key in ("model", "ema", "net", "network", "module"):
            if isinstance(content.get(key), torch.nn.Module):
                return content[key]
    return content


def _fill(model: torch.nn.Module, content: object, path: Path) -> Iterator[str]:
    shown = display(str(path))
    found: list[tuple[str, StateDict]] = (
        [("", content.state_dict())] if isinstance(content, torch.nn.Module) else list(candidates(_held(content)))
    )
    if not found:
        raise InputError(f"{shown} holds no state dict ({_what(content)})")
    return load_into(model, found, shown)


def _held(content: object) -> object:
    return content.state_dict if isinstance(content, ExportedProgram) else content


def _what(content: object) -> str:
    name = type(content).__name__
    if not isinstance(content, Mapping):
        return f"a {name}"
    return f"a {name} with keys {some([str(key) for key in content], 5)}" if content else f"an empty {name}"


def _needs_arch(content: object, path: Path) -> str:
    shown = display(str(path))
    found = list(candidates(content))
    if not found:
        return f"{shown} holds neither a module nor a state dict, but {_what(content)}"
    where, state = found[0]
    inside = f" under '{display(where, 40)}'" if where else ""
    count = f"{len(state)} tensor{'s' if len(state) != 1 else ''}"
    return (
        f"{shown} is a state dict{inside} with {count} ({some(list(state), 2)}), without the network: "
        "give --arch pkg.mod:callable or path/file.py:callable that builds it"
    )


def _listed(path: Path) -> tuple[Param, ...]:
    """The tensors of a safetensors file, from its header alone. Raises InputError."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            entries = [(key, file.get_slice(key)) for key in file.offset_keys()]
            return tuple(Param(key, tuple(e.get_shape()), _TYPES.get(e.get_dtype(), "?")) for key, e in entries)
    except Exception as error:
        raise InputError(f"{display(str(path))} is damaged: {described(error, 160)}") from error


def tensors(request: LoadRequest) -> tuple[Param, ...]:
    """The tensors of the state dicts in a file, under the keys they have there. Raises InputError, RefusedError."""
    path = request.path or request.weights
    if path is None:
        return ()
    if preflight.check_file(path, trust=request.trust) == "safetensors":
        return _listed(path)
    granted = {} if request.trust else allowed.consented(request.imports, request.allow)
    content, _ = _read(path, request, granted)
    return tuple(
        layers.param(f"{where}.{key}" if where else key, tensor)
        for where, state in candidates(content)
        for key, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    )
