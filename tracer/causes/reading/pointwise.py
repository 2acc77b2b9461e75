"""Activations, reductions and what is computed of every value on its own, as the frameworks record them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.arithmetic import constant
from tracer.causes.reading.deducing import Option, borrowed, deduce, step_of
from tracer.causes.step import Array, Step, Unknown

Settings = dict[str, Any]
Weights = dict[str, Array]
_KERAS = {"slope": 0.2, "offset": 0.5}
_TORCH = {"slope": 1 / 6, "offset": 0.5}
_UNSET = frozenset(
    "selu silu mish sigmoid tanh softsign exponential log_sigmoid tanh_shrink logical_not isnan isinf "  # noqa: SIM905
    "isfinite".split()
)
_TWO = kinds.COMPARISONS | (kinds.LOGICAL - {"logical_not", "isnan", "isinf", "isfinite"}) | {"atan2"}
_ARITHMETIC = frozenset({"mod", "floor_div", "squared_difference"})


@reader(*_UNSET, *(kinds.ELEMENTWISE - _ARITHMETIC - {"atan2"}))
def _plain(read: Read) -> tuple[Settings, Weights]:
    return {}, {}


def by_name(name: str, read: Read) -> tuple[str, Settings]:
    """Kind and settings of an activation that a layer names and applies itself. Raises Unknown."""
    word = name.lower()
    known = {"swish": "silu", "hardswish": "hard_silu", "hard_swish": "hard_silu", "exp": "exponential",
             "hardsigmoid": "hard_sigmoid", "leakyrelu": "leaky_relu", "logsoftmax": "log_softmax"}  # fmt: skip
    kind = known.get(word, word)
    if kind not in kinds.ACTIVATIONS or kind in ("prelu", "threshold", "glu", "hard_sigmoid"):
        raise Unknown(f"the activation {name} is not known")
    settings: Settings = {}
    if kind == "gelu":
        settings["approximate"] = "none"
    elif kind in ("softmax", "log_softmax"):
        settings["axis"] = -1
    elif kind == "leaky_relu":
        settings["negative_slope"] = 0.01 if read.torch_like else 0.2
    return kind, settings


def _number(config: Mapping[str, Any], word: str) -> float | None:
    """A number of the configuration; infinities are kept as text."""
    value = config.get(word)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise Unknown(f"its {word} is not a number") from error


@reader("relu", "relu6")
def _relu(read: Read) -> tuple[Settings, Weights]:
    return _limits(read), {}


def _limits(read: Read) -> Settings:
    words = ("max_value", "threshold", "negative_slope")
    found = {word: value for word in words if (value := _number(read.config, word)) is not None}
    if read.torch_like:  # clamp(min=0, max=6) is one, too
        return {"max_value": 6.0} if read.node.kind == "relu6" else {}
    if read.node.kind == "relu6":
        found.setdefault("max_value", 6.0)
    return {word: value for word, value in found.items() if value or word == "max_value"}


@reader("leaky_relu")
def _leaky(read: Read) -> tuple[Settings, Weights]:
    settings = _limits(read) if not read.torch_like else {}
    slope = _number(read.config, "negative_slope")
    slope = _number(read.config, "alpha") if slope is None else slope
    if slope is None:
        slope = _slope(read)
    return settings | {"negative_slope": slope}, {}


def _slope(read: Read) -> float:
    """By what negative values were multiplied."""
    x, y = read.recorded(read.node.parents[0]), read.recorded(read.node.name)
    below = x < 0
    if not below.any():
        raise Unknown("its slope was not recorded, and nothing that it reads is negative")
    least = np.argmin(np.where(below, x, 0))
    slope = float(y.reshape(-1)[least] / x.reshape(-1)[least])
    return round(slope, 6) if abs(slope - round(slope, 6)) < 1e-6 else slope


@reader("prelu")
def _prelu(read: Read) -> tuple[Settings, Weights]:
    alpha = read.weight("alpha")
    if alpha is None:
        if not read.params:
            # A function lists no weights that a layer has: it is one of theirs.
            ways = ((1,), read.source()[1:2])
            return deduce(read, [({}, {"alpha": _slopes(read, found)}) for found in borrowed(read, ways)], "its slopes")
        alpha = read.named(read.params[0].name)
    return {}, {"alpha": _slopes(read, alpha)}


def _slopes(read: Read, alpha: Array) -> Array:
    """PyTorch's slopes, one for each channel, as they are multiplied."""
    if read.framework == "pytorch" and alpha.size > 1 and read.rank > 1:
        return alpha.reshape(-1, *[1] * (read.rank - 2))
    return alpha


@reader("elu", "celu")
def _elu(read: Read) -> tuple[Settings, Weights]:
    alpha = _number(read.config, "alpha")
    return {"alpha": 1.0 if alpha is None else alpha}, {}


@reader("gelu")
def _gelu(read: Read) -> tuple[Settings, Weights]:
    told, name = read.config.get("approximate"), str(read.config.get("activation", "")).lower()
    if isinstance(told, bool):
        told = "tanh" if told else "none"
    if told in ("none", "tanh", "sigmoid"):
        return {"approximate": told}, {}
    if name == "gelu":
        return {"approximate": "none"}, {}
    options: list[Option] = [({"approximate": form}, {}) for form in ("none", "tanh", "sigmoid")]
    return deduce(read, options, "how it is approximated")


@reader("softplus")
def _softplus(read: Read) -> tuple[Settings, Weights]:
    found = {word: value for word in ("beta", "threshold") if (value := _number(read.config, word)) is not None}
    return found, {}


@reader("hard_sigmoid", "hard_silu")
def _hard_sigmoid(read: Read) -> tuple[Settings, Weights]:
    slope, offset = _number(read.config, "alpha"), _number(read.config, "beta")
    if slope is not None:
        return {"slope": slope, "offset": 0.5 if offset is None else offset}, {}
    if read.framework == "pytorch" or read.node.kind == "hard_silu":
        return dict(_TORCH), {}
    # Keras 3 has PyTorch's, Keras 2 has its own.
    return deduce(read, [(dict(_TORCH), {}), (dict(_KERAS), {})], "which of its forms it is")


@reader("hard_tanh", "clip")
def _clip(read: Read) -> tuple[Settings, Weights]:
    found = {word: value for word in ("min_value", "max_value") if (value := _number(read.config, word)) is not None}
    if found or read.node.kind == "hard_tanh":
        return found, {}
    x, y = read.recorded(read.node.parents[0]), read.recorded(read.node.name)
    low, high = float(y.min()), float(y.max())
    if x.min() < low:
        found["min_value"] = low
    if x.max() > high:
        found["max_value"] = high
    return deduce(read, [(found, {})], "its limits")


@reader("threshold")
def _threshold(read: Read) -> tuple[Settings, Weights] | Step:
    if read.node.label == "ReLU":  # of Keras, with a threshold among others
        return step_of(read, (_limits(read), {}), "relu")
    limit = next(found for word in ("threshold", "theta", "alpha") if (found := _number(read.config, word)) is not None)
    value = _number(read.config, "value")
    return {"threshold": limit, "value": 0.0 if value is None else value}, {}


@reader("hard_shrink", "soft_shrink")
def _shrink(read: Read) -> tuple[Settings, Weights]:
    limit = _number(read.config, "threshold")
    if limit is None:
        return deduce(read, [({"threshold": 0.5}, {})], "its threshold")
    return {"threshold": limit}, {}


@reader("softmax", "log_softmax")
def _softmax(read: Read) -> tuple[Settings, Weights]:
    axis, rank = read.config.get("axis"), read.rank
    settings: Settings = {"negated": True} if read.node.label == "Softmin" else {}
    if len(read.node.parents) > 1:
        over = axis if isinstance(axis, int) else tuple(axis or (-1,))
        return deduce(read, [({"axis": over, "masked": how}, {}) for how in ("hidden", "zeros")], "what its mask does")
    if axis is None and read.framework == "pytorch":
        axis = 0 if rank in (0, 1, 3) else 1
    axis = -1 if axis is None else axis
    if isinstance(axis, list):
        return settings | {"axis": tuple(axis)}, {}
    if read.framework == "onnx" and axis % rank != rank - 1:
        # Up to operator set 12 it is over the given axis and all that follow.
        options: list[Option] = [({"axis": axis}, {}), ({"axis": tuple(range(axis % rank, rank))}, {})]
        return deduce(read, options, "how many axes it is over")
    return settings | {"axis": int(axis)}, {}


@reader("glu")
def _glu(read: Read) -> tuple[Settings, Weights]:
    axis = read.config.get("axis")
    if axis is None:
        source, made = read.source(), read.shape
        axis = next(axis for axis in reversed(range(len(source))) if source[axis] != made[axis])
    return {"axis": int(axis)}, {}


@reader("identity", "dropout", "cast")
def _same(read: Read) -> tuple[Settings, Weights] | Step:
    node = read.node
    if not node.parents:  # it passes on what was computed of weights alone
        return constant(read)
    if node.kind == "cast":
        if node.dtype in _COARSE and _type(read) not in (None, node.dtype):
            return Step(node.name, "rounded", {"dtype": node.dtype}, {}, node.parents, node.shape, node.source)
        option: Option = {"dtype": node.dtype}, {}
        # Masks are seen through: what is cast may be a comparison of what the recording names.
        whole = str(node.dtype).startswith(("int", "uint", "bool"))
        if whole or _of_ids(read):
            try:
                return deduce(read, [option], "what it reads")
            except Unknown:
                if _of_ids(read):
                    return constant(read)
                raise
        return option
    training = read.config.get("training", read.recording.attributes.get("mode") == "train")
    if node.kind == "dropout" and training and read.config.get("rate") != 0:
        try:  # a layer may be left out of training
            return deduce(read, [({}, {})], "what it drops")
        except Unknown:
            raise Unknown("it draws random numbers in training") from None
    return {}, {}


_COARSE = ("float16", "bfloat16")


def _type(read: Read) -> str | None:
    """The type of the numbers that it reads, where these are no whole ones."""
    source = read.recording.structure.by_name.get(read.node.parents[0])
    known = None if source is None else source.dtype
    return known if known is not None and "float" in known else None


def _of_ids(read: Read) -> bool:
    """Whether it reads the ids that the model is given: a comparison of them, which the recording does not show."""
    known = read.recording.structure.by_name
    above = [known[name] for name in read.node.parents if name in known]
    return any(node.role == "input" and str(node.dtype).startswith(("int", "uint")) for node in above)


@reader(*kinds.REDUCTIONS)
def _reduced(read: Read) -> tuple[Settings, Weights] | Step:
    found = _reduction(read)
    if _of_ids(read) and not inferring.reproduces(read, inferring.step_of(read, **found[0])):
        return constant(read)
    return found


def _reduction(read: Read) -> tuple[Settings, Weights]:
    config, source, made = read.config, read.source(), read.shape
    given = config.get("axis", config.get("axes"))
    settings: Settings = {"keepdims": len(made) == len(source)}
    if read.node.kind in ("var", "std"):
        settings["ddof"] = _correction(read)
    orders = _orders(read) if read.node.kind == "norm" else ()
    if given is not None:
        named = [given] if isinstance(given, int) else list(given)
        axes = [tuple(sorted(int(axis) % len(source) for axis in named)) or None]
    elif not made or (len(made) == len(source) and all(length == 1 for length in made)):
        axes = [None]
    else:
        axes = list(_fitting(source, made))
    options: list[Option] = [
        ({**settings, "axes": one, **more}, {}) for one in axes for more in ([{"order": o} for o in orders] or [{}])
    ]
    return options[0] if len(options) == 1 else deduce(read, options, "what it is taken over")


def _fitting(source: tuple[int, ...], made: tuple[int, ...]) -> list[tuple[int, ...] | None]:
    """The axes whose reduction gives that shape, the last ones first."""
    keeps, rank = len(source) == len(made), len(source)
    found: list[tuple[int, ...] | None] = []
    for count in range(1, rank + 1):
        for axes in combinations(reversed(range(rank)), count):
            left = [1 if axis in axes else n for axis, n in enumerate(source) if keeps or axis not in axes]
            if tuple(left) == made:
                found.append(tuple(sorted(axes)))
    return found


def _correction(read: Read) -> int:
    config = read.config
    if (told := config.get("correction")) is not None:
        return int(told)
    if (told := config.get("unbiased")) is not None:
        return int(bool(told))
    return 1 if read.framework == "pytorch" else 0


def _orders(read: Read) -> tuple[float, ...]:
    """Which norm it is; the usual ones where that is not told."""
    if read.framework == "onnx":
        return (1.0,) if read.node.label.endswith("L1") else (2.0,)
    told = next((value for word in ("ord", "order", "rate", "p") if (value := read.config.get(word)) is not None), None)
    if told in ("fro", "euclidean"):
        return (2.0,)
    return (2.0, 1.0, float("inf")) if told is None else (float(told),)


@reader(*_TWO)
def _compared(read: Read) -> tuple[Settings, Weights]:
    if len(read.node.parents) == 2:
        return {}, {}
    if (told := _number(read.config, "value")) is None:
        scalars = read.config.get("args")
        if not isinstance(scalars, list) or len(scalars) != 1:
            return deduce(read, _limits_between(read), "what it compares with")
        told = float(scalars[0])
    return {"operand": told, "side": "right"}, {}


def _limits_between(read: Read) -> Iterator[Option]:
    """Numbers that part what the comparison holds of from the rest, the roundest first."""
    x, holds = read.recorded(read.node.parents[0]), read.recorded(read.node.name).astype(bool)
    if x.shape != holds.shape or not x.size:
        return
    x = np.asarray(x, np.float64)
    if read.node.kind in ("equal", "not_equal"):
        some = x[holds == (read.node.kind == "equal")]
        found = [float(some.flat[0])] if some.size else []
    else:
        ends = [(float(x[side].min()), float(x[side].max())) for side in (holds, ~holds) if side.any()]
        found = [0.0, *_round_between(ends), *chain(*ends)]
    yield from (({"operand": number, "side": "right"}, {}) for number in found)


def _round_between(ends: Sequence[tuple[float, float]]) -> list[float]:
    """The number of the fewest digits that stands between two ranges, as a person would have written it."""
    if len(ends) < 2:
        return []
    (_, low), (high, _) = sorted(ends)
    largest = max(abs(low), abs(high))
    if not low < high or not np.isfinite(largest):
        return []
    most = int(np.ceil(np.log10(largest)))
    for digits in range(-most, _DIGITS - most):
        number = round((low + high) / 2, digits)
        for near in (number, number - 10.0**-digits, number + 10.0**-digits):
            if low < near < high:
                return [round(near, digits)]
    return []


_DIGITS = 7
"""Of a number that stands between two others, at most."""
