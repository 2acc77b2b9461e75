"""Random changes of functions that a forward calls, and of what the layers give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.causes.fuzzing.modules import FUNCTIONS
from benchmarks.causes.fuzzing.registry import Random, operator
from benchmarks.corpus.mutations import Subject
from benchmarks.corpus.mutations.layers import calls
from benchmarks.corpus.mutations.subject import Call, Work, around

_BENDING = ("relu", "relu6", "elu", "selu", "gelu", "silu", "sigmoid", "tanh", "leaky_relu", "hardswish", "softplus")
_FLOATS = ("add", "sub", "mul", "div", "matmul", "bmm", "einsum", "linear", "conv1d", "conv2d", "mean", "sum", "cat",
           "softmax", "interpolate", "normalize", "transpose", "permute", "relu", "sigmoid", "tanh", "slice",
           "flatten", "stack", "max_pool2d", "pad")  # fmt: skip


def _one(rng: Random, found: list[Any]) -> Any:
    return found[int(rng.integers(len(found)))]


def _result(work: Work, call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what a call gives."""

    def then(func: Any, args: Any, named: Any) -> Any:
        out = func(*args, **named)
        return change(out) if isinstance(out, torch.Tensor) else (change(out[0]), *out[1:])

    work.edit(call, then)


def _scores(call: Call, work: Work) -> bool:
    """Whether a softmax reads it within a few nodes."""
    front = {call.node.name}
    for _ in range(4):
        front = {child for name in front for child in work.subject.structure.children.get(name, ())}
        if any(work.subject.structure.by_name[name].kind == "softmax" for name in front):
            return True
    return False


# --- activations ----------------------------------------------------------------------------------------------------


@operator(calls(*_BENDING))
def call_bends_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    name = _one(rng, [name for name in FUNCTIONS if name != call.op])
    work.edit(call, lambda func, args, named: FUNCTIONS[name](args[0]))
    return "activation-kind activation-param gelu-approx rnn-activation logits | operation-kind"


@operator(calls(*_BENDING))
def call_does_not_bend(work: Work, call: Call, rng: Random) -> str | None:
    work.edit(call, lambda func, args, named: args[0])
    return "activation-missing rnn-activation logits"


@operator(calls(*_BENDING))
def bends_before(work: Work, call: Call, rng: Random) -> str | None:
    factor = float(rng.choice([0.5, 2.0, 1.702]))
    work.edit(call, lambda func, args, named: func(args[0] * factor, *args[1:], **named))
    return "scale activation-param activation-kind | block-extra"


@operator(calls(*_FLOATS))
def bends_too(work: Work, call: Call, rng: Random) -> str | None:
    name = _one(rng, list(FUNCTIONS))
    _result(work, call, FUNCTIONS[name])
    return "activation-extra activation-kind logits | block-extra operation-kind"


@operator(calls(*_FLOATS))
def clamped(work: Work, call: Call, rng: Random) -> str | None:
    low, high = _one(rng, [(-1.0, 1.0), (0.0, 1.0), (-0.5, math.inf), (-math.inf, 0.3), (0.01, math.inf)])
    _result(work, call, lambda x: x.clamp(low, high))
    return "activation-extra activation-kind | block-extra operation-kind"


# --- numbers --------------------------------------------------------------------------------------------------------


@operator(calls(*_FLOATS))
def result_scaled(work: Work, call: Call, rng: Random) -> str | None:
    factor = float(_one(rng, [-1.0, 0.5, 2.0, 0.1, 1.05, 3**-0.5, float(rng.uniform(0.2, 3))]))
    _result(work, call, lambda x: x * factor)
    return "scale attention-scale embedding-scale input-scale | block-extra" + (" input-normalisation")


@operator(calls(*_FLOATS))
def result_moved(work: Work, call: Call, rng: Random) -> str | None:
    number = float(_one(rng, [1.0, -0.5, 0.01, float(rng.normal())]))
    _result(work, call, lambda x: x + number)
    return "shift bias-extra bias-missing attention-mask | block-extra input-normalisation"


@operator(calls(*_FLOATS))
def result_biased(work: Work, call: Call, rng: Random) -> str | None:
    """A number for each place of the last axis more."""

    def biased(x: torch.Tensor) -> torch.Tensor:
        return x + torch.linspace(-0.3, 0.4, x.shape[-1])

    _result(work, call, biased)
    return "bias-extra bias-missing shift attention-mask | block-extra weights-perturbed"


@operator(calls(*_FLOATS))
def result_noisy(work: Work, call: Call, rng: Random) -> str | None:
    """In a way that no recording shows: there is no name for it."""
    size, seed = float(rng.choice([1e-3, 1e-2, 0.1])), int(rng.integers(1 << 20))

    def noisy(x: torch.Tensor) -> torch.Tensor:
        values = x.detach().numpy()
        drawn = np.random.default_rng(seed).standard_normal(values.shape).astype(values.dtype)
        return torch.from_numpy(values + size * values.std() * drawn)

    _result(work, call, noisy)
    return "noise | weights-perturbed block-extra"


@operator(calls(*_FLOATS))
def result_half(work: Work, call: Call, rng: Random) -> str | None:
    kind = _one(rng, [torch.float16, torch.bfloat16])
    _result(work, call, lambda x: x.to(kind).to(x.dtype))
    return "dtype"


@operator(calls(*_FLOATS))
def result_dropped(work: Work, call: Call, rng: Random) -> str | None:
    """As dropout leaves it."""
    seed, share = int(rng.integers(1 << 20)), float(rng.choice([0.1, 0.25, 0.5]))

    def dropped(x: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= share
        return x * kept / (1 - share)

    _result(work, call, dropped)
    return "dropout-mode | block-extra"


# --- sums, products -------------------------------------------------------------------------------------------------


@operator(calls("add", "sub", "mul", "div"))
def other_arithmetic(work: Work, call: Call, rng: Random) -> str | None:
    other = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}
    new = _one(rng, [name for name in other if name != call.op])
    work.edit(call, lambda func, args, named: other[new](*args[:2]))
    return "operation-kind scale shift operand-order attention-scale bias-missing residual-missing activation-kind"


@operator(calls("sub", "div", "matmul"))
def turned_round(work: Work, call: Call, rng: Random) -> str | None:
    work.edit(call, lambda func, args, named: func(args[1], args[0]))
    return "operand-order | scale operation-kind"


@operator(calls("add", "sub"))
def term_dropped(work: Work, call: Call, rng: Random) -> str | None:
    which = int(rng.integers(2))
    work.edit(call, lambda func, args, named: args[which])
    return "residual-missing bias-missing shift block-missing attention-mask | wiring"


@operator(calls("mul", "div"))
def factor_dropped(work: Work, call: Call, rng: Random) -> str | None:
    which = int(rng.integers(2)) if call.nodes_read > 1 else 0
    work.edit(call, lambda func, args, named: args[which] if isinstance(args[which], torch.Tensor) else args[1 - which])
    return "scale attention-scale embedding-scale block-missing residual-missing | wiring weights-not-loaded"


@operator(calls("add", "sub", "mul", "div"))
def term_twice(work: Work, call: Call, rng: Random) -> str | None:
    factor = float(rng.choice([0.5, 2.0, -1.0, 0.9]))
    which = int(rng.integers(2))

    def change(func: Any, args: Any, named: Any) -> Any:
        given = list(args)
        given[which] = given[which] * factor
        return func(*given, **named)

    work.edit(call, change)
    return ("scale attention-scale residual-missing operand-order activation-param"
            " | block-extra operation-kind weights-perturbed")  # fmt: skip


@operator(calls("add", "mul", "sub"))
def term_bent(work: Work, call: Call, rng: Random) -> str | None:
    which, name = int(rng.integers(2)), _one(rng, ["relu", "tanh", "sigmoid", "abs", "silu"])

    def change(func: Any, args: Any, named: Any) -> Any:
        given = list(args)
        given[which] = FUNCTIONS[name](given[which])
        return func(*given, **named)

    work.edit(call, change)
    return "activation-extra | block-extra operation-kind"


@operator(calls("pow", "square", "sqrt", "exp", "log", "abs", "rsqrt"))
def other_function(work: Work, call: Call, rng: Random) -> str | None:
    name = _one(rng, ["square", "exp", "abs", "none"])
    functions = {"square": torch.square, "exp": torch.exp, "abs": torch.abs, "none": lambda x: x}
    work.edit(call, lambda func, args, named: functions[name](args[0]))
    return "operation-kind activation-kind block-missing activation-missing logits"


# --- axes -----------------------------------------------------------------------------------------------------------


@operator(calls("mean", "sum", "amax", "amin", "var", "std", "softmax", "log_softmax"))
def other_axis(work: Work, call: Call, rng: Random) -> str | None:
    rank, by = len(call.shapes[0]), int(rng.integers(1, max(2, len(call.shapes[0]))))

    def change(func: Any, args: Any, named: Any) -> Any:
        axis = named.pop("dim", args[1] if len(args) > 1 else -1)
        new = ((axis if isinstance(axis, int) else axis[0]) + by) % rank
        return func(args[0], dim=new if isinstance(axis, int) else (new, *axis[1:]), **named)

    work.edit(call, change)
    if "softmax" in call.op:
        return "softmax-axis"
    return "norm-axis pool-kind axis-permutation | operation-kind"


@operator(calls("mean", "sum", "amax"))
def other_reduction(work: Work, call: Call, rng: Random) -> str | None:
    new = _one(rng, [op for op in (torch.mean, torch.sum, torch.amax, torch.amin) if op.__name__ != call.op])

    def change(func: Any, args: Any, named: Any) -> Any:
        axis = named.get("dim", args[1] if len(args) > 1 else tuple(range(args[0].dim())))
        return new(args[0], dim=axis, keepdim=named.get("keepdim", args[2] if len(args) > 2 else False))

    work.edit(call, change)
    return "pool-kind scale | operation-kind"


@operator(calls("var", "std", "var_mean"))
def other_ddof(work: Work, call: Call, rng: Random) -> str | None:
    def change(func: Any, args: Any, named: Any) -> Any:
        named = {k: v for k, v in named.items() if k not in ("unbiased", "correction")}
        known = named.get("correction", 1)
        return func(*args[:2], **{**named, "correction": 1 - known})

    work.edit(call, change)
    return "std-ddof | scale"


@operator(calls("cat", "stack"))
def joined_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    draws = rng.random(64)

    def change(func: Any, args: Any, named: Any) -> Any:
        parts = list(args[0])
        order = np.argsort(draws[: len(parts)])
        return func([parts[i] for i in order], *args[1:], **named)

    work.edit(call, change)
    return "concat-order | channel-order axis-permutation operand-order"


@operator(calls("cat", "stack"))
def joined_twice(work: Work, call: Call, rng: Random) -> str | None:
    """One part in the place of another."""
    which = rng.permutation(max(call.nodes_read, 2))[:2]

    def change(func: Any, args: Any, named: Any) -> Any:
        parts = list(args[0])
        parts[which[0]] = parts[which[1]]
        return func(parts, *args[1:], **named)

    work.edit(call, change)
    return "wiring concat-order | operation-kind residual-missing block-missing"


@operator(calls(*_FLOATS))
def result_rolled(work: Work, call: Call, rng: Random) -> str | None:
    axis, by = int(rng.integers(1, max(2, len(call.node.shape or ())))), int(rng.choice([-1, 1]))
    _result(work, call, lambda x: x.roll(by, axis))
    return "shift channel-order axis-permutation attention-mask concat-order embedding-offset | block-extra"


@operator(calls(*_FLOATS))
def result_flipped(work: Work, call: Call, rng: Random) -> str | None:
    axis = int(rng.integers(1, max(2, len(call.node.shape or ()))))
    _result(work, call, lambda x: x.flip(axis))
    return "rnn-direction channel-order axis-permutation concat-order | block-extra shift"


@operator(calls(*_FLOATS))
def result_turned(work: Work, call: Call, rng: Random) -> str | None:
    shape = call.node.shape or ()
    pairs = [(a, b) for a in range(1, len(shape)) for b in range(1, a) if shape[a] == shape[b] > 1]
    if not pairs:
        return None
    chosen = _one(rng, pairs)
    _result(work, call, lambda x: x.transpose(*chosen))
    return "axis-permutation channel-order head-layout operand-order qkv-order | block-extra"


@operator(calls(*_FLOATS))
def result_refilled(work: Work, call: Call, rng: Random) -> str | None:
    """Its values read in another order of its axes."""
    rank = len(call.node.shape or ())
    if rank < 3:
        return None
    order = [0, *(1 + int(a) for a in rng.permutation(rank - 1))]
    if order == list(range(rank)):
        return None
    _result(work, call, lambda x: x.permute(order).reshape(x.shape))
    return "axis-permutation reshape-order flatten-order head-layout channel-order | block-extra"


@operator(calls("flatten", "reshape", "view"))
def flattened_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    rank = len(call.shapes[0])
    if rank < 3 or len(call.node.shape or ()) >= rank:
        return None
    order = [0, *(1 + int(a) for a in rng.permutation(rank - 1))]

    def change(func: Any, args: Any, named: Any) -> Any:
        return args[0].permute(order).reshape(call.node.shape)

    work.edit(call, change, moving=True)
    return "flatten-order reshape-order head-layout dense-row-order | axis-permutation channel-order block-extra"


@operator(calls("reshape", "view", "unflatten"))
def shaped_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    shape = call.node.shape or ()
    if len(shape) < 3 or len(call.shapes[0]) >= len(shape):
        return None
    order = [0, *(1 + int(a) for a in rng.permutation(len(shape) - 1))]
    back = [order.index(a) for a in range(len(order))]
    work.edit(call, lambda func, args, named: args[0].reshape([shape[a] for a in order]).permute(back), moving=True)
    return "reshape-order flatten-order head-layout axis-permutation | channel-order block-extra"


@operator(calls("transpose", "permute"))
def permuted_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    shape = call.node.shape or ()
    order = [int(a) for a in rng.permutation(len(shape))]

    def change(func: Any, args: Any, named: Any) -> Any:
        out = args[0].permute(order)
        return out if out.shape == shape else args[0].reshape(shape)

    work.edit(call, change, moving=True)
    return "axis-permutation reshape-order flatten-order head-layout | block-extra block-missing channel-order"


@operator(calls("slice", "narrow", "select", "get_item"))
def sliced_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    """One further on, or from the other end."""
    by, axis = int(rng.choice([-1, 1])), int(rng.integers(1, max(2, len(call.shapes[0]))))

    def change(func: Any, args: Any, named: Any) -> Any:
        return func(args[0].roll(by, axis), *args[1:], **named)

    work.edit(call, change)
    return "shift rnn-last-step channel-order axis-permutation concat-order wiring qkv-order | block-extra"


@operator(calls("chunk", "split", "unbind"))
def parts_exchanged(work: Work, call: Call, rng: Random) -> str | None:
    draws = rng.random(64)

    def change(func: Any, args: Any, named: Any) -> Any:
        parts = list(func(*args, **named))
        order = np.argsort(draws[: len(parts)])
        return tuple(parts[i] for i in order)

    work.edit(call, change)
    work.where.append(call.node.name.partition("[")[0])
    return ("qkv-order channel-order concat-order wiring operand-order lstm-gate-order gru-gate-order rnn-direction "
            "axis-permutation shift rnn-last-step weights-swapped | operation-kind activation-kind")  # fmt: skip


# --- other settings -------------------------------------------------------------------------------------------------


@operator(calls("interpolate"))
def resized_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    ways = [("nearest", None), ("bilinear", True), ("bilinear", False), ("bicubic", False), ("nearest-exact", None)]
    mode, corners = _one(rng, ways)

    def change(func: Any, args: Any, named: Any) -> Any:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        named = {**dict(zip(names, args, strict=False)), **named}
        return func(**{**named, "mode": mode, "align_corners": corners})

    work.edit(call, change)
    return "resize-mode resize-align-corners resize-antialias"


@operator(calls("pad"))
def pads_otherwise(work: Work, call: Call, rng: Random) -> str | None:
    way = int(rng.integers(3))

    def change(func: Any, args: Any, named: Any) -> Any:
        sides = list(named.get("pad", args[1] if len(args) > 1 else ()))
        if way == 0:
            moved = [side for pair in zip(sides[::2], sides[1::2], strict=True) for side in pair[::-1]]
            return func(args[0], moved, *args[2:], **{k: v for k, v in named.items() if k != "pad"})
        if way == 1:
            return F.pad(args[0], sides, mode="replicate")
        return F.pad(args[0], sides, value=1.0)

    work.edit(call, change)
    return "pad-asymmetry shift transposed-conv-shift" if way == 0 else "pad-mode pad-asymmetry | shift"


@operator(calls("softmax"))
def masked_more(work: Work, call: Call, rng: Random) -> str | None:
    way = int(rng.integers(2))

    def change(func: Any, args: Any, named: Any) -> Any:
        x = args[0]
        gone = torch.zeros(x.shape[-1], dtype=torch.bool) if way else torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
        if way:
            gone[-1] = True
        return func(x.masked_fill(gone, -1e9), *args[1:], **named)

    work.edit(call, change)
    return "attention-mask | block-extra"


@operator(calls("softmax", "sigmoid"))
def logits(work: Work, call: Call, rng: Random) -> str | None:
    way = int(rng.integers(2))
    work.edit(call, lambda func, args, named: args[0] if way else torch.log(func(*args, **named)))
    return "logits activation-missing block-missing activation-extra activation-kind | operation-kind block-extra"


@operator(calls("normalize", "layer_norm", "batch_norm", "group_norm"))
def call_epsilon(work: Work, call: Call, rng: Random) -> str | None:
    new = float(rng.choice([1e-3, 1e-2, 0.1]))
    work.edit(call, lambda func, args, named: func(*args, **{**named, "eps": new}))
    return "ln-eps bn-eps"


def _inputs(subject: Subject) -> Iterator[str]:
    return (name for name, values in subject.inputs.items() if values.dtype.kind == "f")


@operator(_inputs)
def fed_otherwise(work: Work, name: str, rng: Random) -> str | None:
    way = _one(rng, ["scaled", "signed", "flipped", "turned"])
    rank = work.subject.inputs[name].ndim
    axis = int(rng.integers(1, max(2, rank)))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "scaled": lambda x: x / 255, "signed": lambda x: x * 2 - 1, "flipped": lambda x: x.flip(axis),
        "turned": lambda x: x.transpose(-1, -2) if x.shape[-1] == x.shape[-2] else x.roll(1, axis),
    }  # fmt: skip
    work.feed(changes[way])
    if way in ("scaled", "signed"):
        return "input-scale input-normalisation scale | block-extra"
    return "channel-order axis-permutation shift rnn-direction embedding-offset | block-extra"


def _leaves(subject: Subject) -> Iterator[str]:
    return (path for path in subject.leaves if len(subject.gives.get(path, ())) > 1)


@operator(_leaves)
def layer_result(work: Work, path: str, rng: Random) -> str | None:
    """What a layer gives, scaled, moved, shifted or turned."""
    way = _one(rng, ["scaled", "moved", "rolled", "flipped", "biased"])
    axis = int(rng.integers(1, len(work.subject.gives[path])))
    factor = float(_one(rng, [0.5, 2.0, -1.0, 1.1]))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "scaled": lambda x: x * factor, "moved": lambda x: x + factor, "rolled": lambda x: x.roll(1, axis),
        "flipped": lambda x: x.flip(axis), "biased": lambda x: x + torch.linspace(-0.3, 0.4, x.shape[-1]),
    }  # fmt: skip

    def run(forward: Any, *given: Any) -> Any:
        out = forward(*given)
        return changes[way](out) if isinstance(out, torch.Tensor) else (changes[way](out[0]), *out[1:])

    around(work.at(path), run)
    return {
        "scaled": "scale attention-scale embedding-scale | block-extra weights-perturbed",
        "moved": "shift bias-extra bias-missing | block-extra weights-perturbed",
        "rolled": "shift channel-order axis-permutation concat-order transposed-conv-shift pad-asymmetry | block-extra",
        "flipped": "rnn-direction channel-order axis-permutation concat-order | block-extra shift",
        "biased": "bias-extra bias-missing shift | block-extra weights-perturbed",
    }[way]
