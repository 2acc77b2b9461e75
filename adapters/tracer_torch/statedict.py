"""State dicts: finding them in checkpoints, fitting their prefixes, and putting them into a model."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.text import one_line, some

StateDict = Mapping[str, Any]
"""Tensors by their names; packed weights of quantized layers as tuples of them."""

_USUAL_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict", "weights", "params",
    "module", "generator", "model_ema", "ema", "ema_state_dict", "state_dict_ema",
)  # fmt: skip
_BOOKKEEPING = ("num_batches_tracked", "total_ops", "total_params", "_extra_state")
"""Ends of keys whose absence or presence says nothing about the weights."""
_BOMB = 64 << 20
"""Bytes from which a tensor that claims more than its storage holds is refused."""
_DEEPEST = 3


def _is_packed(key: str) -> bool:
    """Whether a key is of a quantized layer's packed parameters, which need not be tensors."""
    return "._packed_params." in f".{key}"


class _Found(dict[str, Any]):
    """A state dict with what torch notes beside it: the version of each module's format, by its path."""

    versions: Any = None


def _with_versions(best: dict[str, Any], state: StateDict, names: Mapping[str, str]) -> dict[str, Any]:
    """``best`` as torch wants it for quantized layers, whose older formats are told apart by version alone."""
    versions = getattr(state, "versions", None)
    if not isinstance(versions, Mapping) or not any(_is_packed(key) for key in best):
        return best
    new, old = next(iter(names.items()))
    prefix = old.removesuffix(new)
    out: Any = collections.OrderedDict(best)
    out._metadata = {str(key).removeprefix(prefix): value for key, value in versions.items()}
    return out  # type: ignore[no-any-return]


def is_state_dict(value: object) -> bool:
    """Whether ``value`` maps names to tensors (bookkeeping entries aside)."""
    if not isinstance(value, Mapping) or not value:
        return False
    tensors = 0
    for key, item in value.items():
        if not isinstance(key, str):
            return False
        if isinstance(item, torch.Tensor):
            tensors += 1
        elif not key.endswith(_BOOKKEEPING) and not _is_packed(key):
            return False
    return tensors > 0


def candidates(
    content: object, depth: int = 0, where: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, StateDict]]:
    """The state dicts inside a checkpoint with the key they were found under, likeliest first; each once."""
    seen = set() if seen is None else seen
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    if is_state_dict(content):
        found = _Found({k: v for k, v in content.items() if isinstance(v, torch.Tensor) or _is_packed(k)})
        found.versions = getattr(content, "_metadata", None)
        yield where, found
        return
    if depth >= _DEEPEST:
        return
    usual = [key for key in _USUAL_KEYS if key in content]
    others = [key for key in content if isinstance(key, str) and key not in usual and "optim" not in key]
    for key in usual + others:
        value = content[key]
        if isinstance(value, torch.nn.Module):
            value = value.state_dict()
        yield from candidates(value, depth + 1, f"{where}.{key}" if where else key, seen)


def fitted(state: StateDict, wanted: set[str]) -> dict[str, str]:
    """The keys of ``state`` by their names without the prefixes (``module.``, ``_orig_mod.`` …) ``wanted`` lacks.

    Keys that did not have the prefix are left out.
    """
    current = {key.replace("._orig_mod.", ".").removeprefix("_orig_mod."): key for key in state}
    while True:
        heads = {key.partition(".")[0] for key in current}
        shorter: dict[str, str] = {}
        for head in heads:
            stripped = {k.removeprefix(f"{head}."): v for k, v in current.items() if k.startswith(f"{head}.")}
            # Wrappers also hold losses and metrics: the part that fits best is the network.
            if len(wanted & set(stripped)) > max(len(wanted & set(current)), len(wanted & set(shorter))):
                shorter = stripped
        if not shorter:
            return current
        current = shorter


def load_into(model: torch.nn.Module, found: list[tuple[str, StateDict]], shown: str) -> Iterator[str]:
    """Load the best fitting of ``found`` into ``model``; yields notes for the user.

    Raises InputError when keys are missing, unexpected or of another shape.
    """
    wanted = set(model.state_dict())
    best: dict[str, Any] = {}
    unused: list[str] = []
    overlap, where = -1, ""
    for key, state in found:
        names = fitted(state, wanted)
        if len(wanted & set(names)) > overlap:
            best, overlap, where = {name: state[old] for name, old in names.items()}, len(wanted & set(names)), key
            best = _with_versions(best, state, names)
            used = set(names.values())
            unused = [old for old in state if old not in used and not old.endswith(_BOOKKEEPING)]
    failure: Exception | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_state_dict(best, strict=True)
    except Exception as error:
        failure = error
    if failure is not None:
        problems = _problems(model.state_dict(), best)
        if problems:
            raise InputError(f"{shown} does not fit the architecture: {'; '.join(problems)}") from failure
        try:
            model.load_state_dict(best, strict=False)
        except Exception as error:
            raise InputError(f"{shown} cannot be put into the architecture ({type(error).__name__})") from error
    notes = []
    if where and len(found) > 1:
        others = [key for key, _ in found if key != where]
        notes.append(f"weights taken from '{display(where, 60)}' of {shown} (also there: {some(others)})")
    if unused:
        count = "1 tensor" if len(unused) == 1 else f"{len(unused)} tensors"
        notes.append(f"{count} of {shown} not used, as the architecture has no such part: {some(unused, 2)}")
    own = model.state_dict()
    changed = {(str(v.dtype), str(own[k].dtype)) for k, v in best.items() if _differ(v, own.get(k))}
    notes += [f"weights converted from {a} to {b} as the architecture wants" for a, b in sorted(changed)]
    return iter(notes)


def _differ(value: Any, own: Any) -> bool:
    both = isinstance(value, torch.Tensor) and isinstance(own, torch.Tensor)
    return both and value.dtype != own.dtype


def _problems(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    held = {_memory(own[key]) for key in given if key in own} - {None}  # files name tensors that are shared only once
    missing = [
        key for key in own if key not in given and not key.endswith(_BOOKKEEPING) and _memory(own[key]) not in held
    ]
    unexpected = [key for key in given if key not in own and not key.endswith(_BOOKKEEPING)]
    shaped = [
        f"{key} (file {tuple(given[key].shape)}, model {tuple(own[key].shape)})"
        for key in own
        if isinstance(own[key], torch.Tensor)
        and isinstance(given.get(key), torch.Tensor)
        and own[key].shape != given[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shaped))
    return [f"{len(names)} {word} ({some(names)})" for word, names in kinds if names]


def _memory(value: Any) -> tuple[Any, ...] | None:
    """What two names of one tensor share; None for what has no memory of its own."""
    if not isinstance(value, torch.Tensor) or isinstance(value, UninitializedParameter | UninitializedBuffer):
        return None
    if value.is_meta or value.layout != torch.strided or not value.numel():
        return None
    return value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()


def tensors_in(content: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a module, or of nested mappings and sequences; shared and cyclic parts are entered once."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield where, value
        if id(value) in seen:
            continue
        below: list[tuple[str, object]] = []
        if isinstance(value, torch.nn.Module):
            below = [(f".{name}", tensor) for name, tensor in (*value.named_parameters(), *value.named_buffers())]
        elif isinstance(value, Mapping):
            below = [(f".{one_line(key, 60)}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            below = [(f"[{index}]", item) for index, item in enumerate(value)]
        if below:
            seen.add(id(value))
            # Names are for messages: those of hostile depths end where no one would read on.
            waiting += [(f"{where}{end}"[:400].removeprefix("."), item) for end, item in reversed(below)]


def check_size(tensor: torch.Tensor, name: str, shown: str) -> None:
    """Raise RefusedError for a tensor whose shape claims far more than it stores (stride 0, sparse)."""
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer) or tensor.is_meta or tensor.is_nested:
        return
    claimed = tensor.numel() * tensor.element_size()
    if claimed <= _BOMB:
        return
    if tensor.layout == torch.strided and not tensor.is_quantized:
        stored = tensor.untyped_storage().nbytes()
    elif tensor.layout == torch.sparse_coo:
        stored = tensor._values().untyped_storage().nbytes() * 64
    else:
        stored = claimed
    if claimed > stored:
        raise RefusedError(f"{shown}: tensor {name} claims {claimed:,} bytes but stores {stored:,}: refused")
