"""The scalar whose gradients are recorded, and the gradients themselves, in a traced function and on a tape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tracer import usercode
from tracer.adapter import LOSSES
from tracer.errors import InputError, LossError
from tracer.text import one_line
from tracer_keras.events import flatten
from tracer_keras.flavour import tensorflow

FLAG = "--grad"
_GRADIENT_TYPE = "_gradient_op_type"
_NO_GRADIENT = "TracerNoGradient"
UNCONNECTED = "the loss does not depend on it, or not differentiably"


def check(loss: str) -> None:
    """Raises LossError when ``loss`` is neither a known word nor names something that can be called."""
    if loss not in LOSSES and not callable(_named(loss)):
        raise LossError(f"{FLAG} {loss}: not something that can be called")


def _named(loss: str) -> Any:
    try:
        return usercode.find(loss, FLAG)
    except InputError as error:
        raise LossError(str(error)) from error


def scalar(loss: str, outputs: Any) -> Any:
    """The loss of what the model returned, as a scalar tensor. Raises LossError, or what the user's function does."""
    tf = tensorflow()
    if loss not in LOSSES:
        value = _named(loss)(outputs)
        if not tf.is_tensor(value) or not value.dtype.is_floating or value.shape.rank not in (0, None):
            shown = f"{value.dtype.name} {value.shape}" if tf.is_tensor(value) else type(value).__name__
            raise LossError(f"{FLAG} {loss} gave {shown}, not a floating scalar")
        return value
    leaves = [leaf for _, leaf in flatten(outputs) if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating]
    if not leaves:
        raise LossError(f"{FLAG} {loss}: the model has no floating output")
    # Half precision would overflow in the sum; the gradients come back in each output's own type.
    dtype = tf.float64 if any(leaf.dtype == tf.float64 for leaf in leaves) else tf.float32
    wide = [tf.cast(leaf, dtype) for leaf in leaves]
    if loss == "square":
        return tf.add_n([tf.reduce_sum(leaf * leaf) for leaf in wide]) / 2
    total = tf.add_n([tf.reduce_sum(leaf) for leaf in wide])
    if loss == "sum":
        return total
    return total / tf.cast(tf.add_n([tf.size(leaf, tf.int64) for leaf in wide]), dtype)


Of = str | tuple[str, str]
"""What a gradient belongs to: a node's name, or the owner and name of a weight."""


@dataclass(frozen=True)
class Targets:
    """What gradients are taken of: tensors by node name, variables by owner and name."""

    tensors: Mapping[str, Any]
    variables: Mapping[tuple[str, str], Any]
    reasons: Mapping[Of, str]
    """Nodes whose tensors have no gradient, and why."""

    @property
    def keys(self) -> list[Of]:
        return [*self.tensors, *self.variables]

    @property
    def values(self) -> list[Any]:
        return [*self.tensors.values(), *self.variables.values()]


@dataclass(frozen=True)
class Found:
    """The gradients there are, and why there are no others."""

    gradients: Sequence[tuple[Of, Any]]
    reasons: Mapping[Of, str]


def undifferentiable(value: Any) -> str | None:
    """Why a tensor has no gradient; None when it can have one."""
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "is_floating", False) or getattr(dtype, "is_complex", False):
        return None
    return f"{getattr(dtype, 'name', dtype)} tensor: no gradient"


def in_graph(loss: Any, targets: Targets, graph: Any) -> Found:
    """The gradients in the function graph being traced; they end at operations that have no derivative."""

    def compute() -> Sequence[Any]:
        try:
            return list(tensorflow().gradients(loss, targets.values))
        except LookupError:
            with _ending(graph):
                return list(tensorflow().gradients(loss, targets.values))

    return _found(targets, compute, LookupError)


@contextmanager
def _ending(graph: Any) -> Iterator[None]:
    """Let every operation without a registered derivative end the gradients, as integers do, instead of raising."""
    ops = import_module("tensorflow.python.framework.ops")
    value = import_module("tensorflow.core.framework.attr_value_pb2").AttrValue(s=_NO_GRADIENT.encode())
    with suppress(KeyError):  # registered before
        ops.RegisterGradient(_NO_GRADIENT)(lambda operation, *_: [None] * len(operation.inputs))
    changed = []
    for operation in graph.get_operations():
        try:
            ops.get_gradient_function(operation)
        except LookupError:
            operation._set_attr(_GRADIENT_TYPE, value)
            changed.append(operation)
    try:
        yield
    finally:
        for operation in changed:
            operation._clear_attr(_GRADIENT_TYPE)


def on_tape(tape: Any, loss: Any, targets: Targets) -> Found:
    """The same from a tape that has watched the tensors."""
    return _found(targets, lambda: tape.gradient(loss, targets.values), Exception)


def _found(targets: Targets, compute: Callable[[], Sequence[Any]], expected: type[Exception]) -> Found:
    keys = targets.keys
    if not keys:
        return Found([], targets.reasons)
    try:
        gradients = compute()
    except expected as error:  # an operation that has no derivative
        return Found([], {**targets.reasons, **dict.fromkeys(keys, one_line(error, 160))})
    pairs = list(zip(keys, gradients, strict=True))
    # Embeddings give their gradient as the rows that were read.
    dense = [(key, tensorflow().convert_to_tensor(gradient)) for key, gradient in pairs if gradient is not None]
    missing = [key for key, gradient in pairs if gradient is None]
    return Found(dense, {**targets.reasons, **dict.fromkeys(missing, UNCONNECTED)})
