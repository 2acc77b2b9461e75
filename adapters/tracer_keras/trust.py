"""The architecture in a file, checked before Keras sees it: nothing in it may run code or read other files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tracer.errors import RefusedError
from tracer_keras.vocabulary import words

_CODE = {
    "Lambda": "holds Python code",
    "__lambda__": "holds Python code",
    "TFSMLayer": "loads a SavedModel, which runs code",
    "TorchModuleWrapper": "unpickles a torch module",
    "JaxLayer": "runs a JAX function",
    "FlaxLayer": "runs a Flax module",
    "ClassMethod": "names a TensorFlow class to call",
}
_MODULES = re.compile(
    r"(builtins|keras|tf_keras)$|(tf_)?keras\.(src\.)?"
    r"(layers|ops|models|initializers|regularizers|constraints|activations|dtype_policies|quantizers|random"
    r"|losses|metrics|optimizers|backend\.common|engine|mixed_precision|applications)(\.[\w.]+)?$"
)
_GADGETS = words(
    "get_file enable_unsafe_deserialization load_model load_weights eval exec compile open getattr setattr "
    "__import__ import_module system popen input breakpoint model_from_json deserialize"
)
_FILES = {"vocabulary", "vocabulary_file", "filename", "file_path", "filepath"}
# Functions of TensorFlow that a TFOpLambda of Keras 2 may name: they compute, and touch neither files nor Python.
_OP_SPACES = frozenset({"math", "nn", "linalg", "signal", "image", "bitwise", "__operators__", "random", "strings"})
_OPS = words(
    "abs acos add argmax argmin argsort atan boolean_mask broadcast_to cast clip_by_value concat constant "
    "convert_to_tensor cos cumsum cond divide einsum equal exp expand_dims eye fill floor gather gather_nd greater "
    "greater_equal identity less less_equal linspace logical_and logical_not logical_or matmul maximum meshgrid "
    "minimum multiply negative norm not_equal one_hot ones ones_like pad pow range rank realdiv reduce_all "
    "reduce_any reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat reshape reverse "
    "roll round scatter_nd sequence_mask shape sigmoid sign sin size slice sort split sqrt square squeeze stack "
    "stop_gradient strided_slice subtract tanh tensordot tile transpose truediv unique unstack where zeros "
    "zeros_like rsqrt space_to_depth depth_to_space space_to_batch batch_to_space"
)


def check(config: Any, label: str, known: Collection[str]) -> None:
    """Walk an architecture.

    Args:
        config: the decoded JSON.
        label: the file, for messages.
        known: classes and functions that the user imported.

    Raises:
        RefusedError: for anything that would run code, read a file, or name a class outside Keras that the user
            did not import; one line with the layer's name and the flag that would allow it.
    """
    if isinstance(config, Mapping):
        # Nothing is compiled here, so the outermost losses and metrics are never made.
        config = {key: value for key, value in config.items() if key not in ("compile_config", "training_config")}
    for item, owner in _walk(config, "the model"):
        _item(item, owner, label, known)


def _walk(root: Any, owner: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every mapping of the architecture with the layer around it, without recursion."""
    pending = [(root, owner)]
    while pending:
        value, inside = pending.pop()
        if isinstance(value, Mapping):
            inner = value.get("config")
            name = value.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
            if "class_name" in value and isinstance(name, str):
                inside = f"layer '{name}'"
            yield value, inside
            pending.extend((child, inside) for child in reversed(list(value.values())))
        elif isinstance(value, list):
            pending.extend((child, inside) for child in reversed(value))


def _item(item: Mapping[str, Any], owner: str, label: str, known: Collection[str]) -> None:
    cls = item.get("class_name")
    if isinstance(cls, str):
        _class(item, cls, owner, label, known)
    if item.get("func_type") == "lambda" or item.get("function_type") == "lambda":
        raise RefusedError(f"{label}: {owner} holds Python code; --trust runs it")
    for key in _FILES & item.keys():
        value = item[key]
        # A list is the vocabulary itself; Keras reads a string as a path.
        if isinstance(value, str) and value:
            raise RefusedError(f"{label}: {owner} reads the file {value[:80]!r}; --trust lets it")


def _class(item: Mapping[str, Any], cls: str, owner: str, label: str, known: Collection[str]) -> None:
    bare = cls.rsplit(">", 1)[-1]
    if bare in _CODE and cls not in known:
        kind = "function" if cls == "__lambda__" else f"{cls} layer"
        raise RefusedError(f"{label}: {owner} is a {kind} that {_CODE[bare]}; --trust runs it")
    config = item.get("config")
    registered = item.get("registered_name")
    allowed = cls in known or bare in known or (isinstance(registered, str) and registered in known)
    module = item.get("module")
    if isinstance(module, str) and not _MODULES.fullmatch(module) and not allowed:
        where = "FILE.py (where it is defined)" if module in ("__main__", "") else module
        raise RefusedError(f"{label}: {owner} is of class {module}.{cls}; --import {where} allows it")
    if cls == "function" and isinstance(config, str) and config in _GADGETS:
        raise RefusedError(f"{label}: {owner} names the function {config!r}; --trust runs it")
    if bare in _GADGETS:
        raise RefusedError(f"{label}: {owner} names {bare!r}; --trust runs it")
    if cls == "TFOpLambda":
        symbol = config.get("function") if isinstance(config, Mapping) else None
        if not isinstance(symbol, str) or not _computes(symbol):
            raise RefusedError(f"{label}: {owner} calls tf.{symbol}; --trust runs it")


def _computes(symbol: str) -> bool:
    parts = symbol.removeprefix("compat.v1.").split(".")
    if parts[0] == "keras":
        return len(parts) == 3 and parts[1] in ("activations", "backend", "losses")
    return parts[0] in _OP_SPACES if len(parts) > 1 else parts[0] in _OPS
