"""TensorFlow's functions that are made of several operations, seen as the one operation that they stand for.

``tf.nn.gelu`` is five operations, of which the other framework has one: between layers each call is one node.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tracer.kinds import powered, reduction
from tracer_keras.events import flatten
from tracer_keras.vocabulary import op_kind, words

if TYPE_CHECKING:
    from tracer_keras.opwatch import OpWatch

_ROOTS = ("tensorflow", "tensorflow.compat.v2", "tensorflow._api.v2.compat.v2")
_FUNCTIONS = {
    "": words("tensordot clip_by_value norm repeat boolean_mask"),
    "nn": words(
        "gelu silu swish softmax log_softmax l2_normalize conv1d separable_conv2d batch_normalization crelu selu elu"
    ),
    "math": words("l2_normalize softmax log_softmax reduce_std reduce_variance reduce_logsumexp"),
    "linalg": words("norm l2_normalize tensordot"),
}
_NAMED = ("axis", "axes", "approximate", "epsilon", "variance_epsilon", "keepdims", "stride", "padding")


def install(watch: OpWatch) -> Iterator[Callable[[], None]]:
    """Replace the functions wherever TensorFlow offers them; gives what puts each back."""
    for module, name, function in functions():
        setattr(module, name, _watched(watch, name, function))
        yield functools.partial(setattr, module, name, function)


def functions() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Where TensorFlow offers them: module, name, function."""
    found: dict[tuple[int, str], tuple[Any, str, Callable[..., Any]]] = {}
    for root in _ROOTS:
        for space, names in _FUNCTIONS.items():
            module = sys.modules.get(root)
            module = getattr(module, space, None) if space else module
            for name in names:
                function = vars(module).get(name) if module is not None else None
                if callable(function):
                    found[id(module), name] = module, name, function
    return list(found.values())


def _watched(watch: OpWatch, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        recorder = watch.recorder
        parents = recorder.tensors.parents((args, kwargs)) if recorder.watching() else ()
        if not parents:
            return function(*args, **kwargs)
        params, weighted = watch.claim([leaf for _, leaf in flatten((args, kwargs))])
        outputs = recorder._hide(function, args, kwargs)
        if any(recorder.tensors.unknown(leaf) for _, leaf in flatten(outputs)):
            kind = kind_of(name, args, kwargs, weighted=weighted)
            plain = op_kind(name)
            word = name if plain.startswith("other:") else plain
            config = {key: kwargs[key] for key in _NAMED if isinstance(kwargs.get(key), bool | int | float | str)}
            recorder.add_op(word, kind, f"tf.{name}", parents, outputs, config, params)
        return recorder.given(outputs)

    call.autograph_info__ = {}  # type: ignore[attr-defined]
    return call


def kind_of(name: str, args: Any, kwargs: Any, *, weighted: bool) -> str:
    """The kind of a call of TensorFlow's or Keras's function ``name``; ``weighted`` if it reads a layer's weights."""
    given = [*args, *kwargs.values()]
    rank = getattr(getattr(given[0], "shape", None), "rank", None) if given else None
    if rank is None and given and isinstance(getattr(given[0], "shape", None), tuple):
        rank = len(given[0].shape)
    kind = op_kind(name, rank)
    if kind == "matmul" and weighted and name != "einsum":
        return "dense"
    if kind == "gather" and weighted and name in ("take", "gather", "embedding_lookup"):
        return "embedding"
    if kind == "clip":
        numbers = [float(limit) for limit in given[1:3] if isinstance(limit, int | float)]
        return "relu6" if numbers == [0.0, 6.0] else "clip"
    if kind == "power" and len(given) > 1:
        return powered(given[1])
    if kind in ("mean", "amax") and rank:
        axes = kwargs.get("axis", args[1] if len(args) > 1 else None)
        axes = [axes] if isinstance(axes, int) else axes
        if isinstance(axes, list | tuple) and all(isinstance(axis, int) for axis in axes):
            return reduction(kind, axes, rank, keeps=bool(kwargs.get("keepdims", False)))
    return kind
