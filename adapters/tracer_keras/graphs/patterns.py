"""Layers that a graph spells out as several operations: normalisations, activations, recurrent loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tracer_keras.graphs.flat import Tensor
from tracer_keras.graphs.network import Network
from tracer_keras.graphs.operations import plain

_ADD = frozenset({"Add", "AddV2", "BiasAdd"})
_CARRY = frozenset({"Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "BroadcastTo", "StopGradient"})


@dataclass
class Group:
    """Operations that are one layer. ``out`` is its tensor, ``params`` the role of each weight it reads.

    ``members`` are in running order; ``further`` are other tensors of it that are read outside.
    """

    kind: str
    label: str
    members: list[str]
    out: Tensor
    config: dict[str, Any] = field(default_factory=dict)
    params: list[tuple[str, Tensor]] = field(default_factory=list)
    further: list[Tensor] = field(default_factory=list)
    activation: Group | None = None

    @property
    def all_members(self) -> list[str]:
        return [*self.members, *(self.activation.members if self.activation else ())]

    @property
    def last(self) -> Tensor:
        """Its tensor after a fused activation."""
        return self.activation.out if self.activation else self.out


def _pair(net: Network, name: str) -> tuple[Tensor, Tensor] | None:
    """The live and the static operand of an operation with two; None for anything else."""
    inputs = net.item(name).inputs
    if len(inputs) != 2:
        return None
    live = [net.through(t) for t in inputs if not net.is_constant(t)]
    static = [t for t in inputs if net.is_static(t)]
    return (live[0], static[0]) if len(live) == 1 and len(static) == 1 else None


def _op(net: Network, tensor: Tensor) -> str:
    return net.item(tensor[0]).op


def vector(net: Network, tensor: Tensor, like: Tensor) -> int | None:
    """The axis of ``like`` along which a static tensor has one value each; None when it is no such vector."""
    shape, whole = net.shape(tensor), net.tensor(like).shape
    if shape is None or not whole.rank or len(shape) > whole.rank:
        return None
    long = [i - len(shape) for i, size in enumerate(shape) if size != 1]
    if len(long) > 1:
        return None
    axis = long[0] if long else -1
    size = shape[axis] if shape else 1
    return axis if whole[axis] in (size, None) else None


# -- batch normalisation ---------------------------------------------------------------------------------------


def affine(net: Network, name: str) -> Group | None:
    """``x * scale + offset`` with weights of one value a channel: a batch normalisation in evaluation."""
    if net.item(name).op != "Mul":
        return None
    found = _pair(net, name)
    after = net.only_user((name, 0))
    if found is None or after is None or not net.floating((name, 0)):
        return None
    then = _pair(net, after)
    op = net.item(after).op
    if then is None or (op not in _ADD and op != "Sub") or then[0] != (name, 0):
        return None
    if op == "Sub" and net.through(net.item(after).inputs[0]) != (name, 0):
        return None
    scale, offset = found[1], then[1]
    axis = vector(net, scale, (name, 0))
    if axis is None or vector(net, offset, (name, 0)) is None or (net.size(scale) == 1 and not _rsqrt(net, scale)):
        return None
    parts = _batchnorm_parts(net, scale, offset)
    if parts is None:
        if not _is_weight(net, scale) or not _is_weight(net, offset):
            return None
        params, epsilon = [("gamma", scale), ("beta", offset)], None
        if op == "Sub":
            return None
    else:
        params, epsilon = parts
    config: dict[str, Any] = {"axis": axis} if epsilon is None else {"epsilon": epsilon, "axis": axis}
    if parts is None:
        config["folded"] = True
    return Group("batchnorm", "BatchNorm", [name, after], (after, 0), config, params)


def _is_weight(net: Network, tensor: Tensor) -> bool:
    return net.item(net.leaf(tensor)[0]).op in ("Const", "ReadVariableOp")


def _rsqrt(net: Network, tensor: Tensor) -> Tensor | None:
    """The Rsqrt among the factors of a static product."""
    pending, seen = [tensor], 0
    while pending and seen < 40:
        seen += 1
        at = pending.pop()
        op = _op(net, at)
        if op == "Rsqrt":
            return at
        if op in ("Mul", *_CARRY):
            pending += [t for t in net.item(at[0]).inputs if net.is_static(t)]
    return None


def _batchnorm_parts(
    net: Network, scale: Tensor, offset: Tensor
) -> tuple[list[tuple[str, Tensor]], float | None] | None:
    """gamma, beta, moving mean and variance of ``gamma/√(variance+ε)`` and ``beta - mean·scale``."""
    root = _rsqrt(net, scale)
    if root is None:
        return None
    variance, epsilon = _plus_epsilon(net, net.item(root[0]).inputs[0])
    gamma = [t for t in _factors(net, scale) if t != root]
    terms = list(_terms(net, offset, 1))
    beta = [t for sign, t in terms if sign > 0 and _op(net, t) != "Mul"]
    mean = None
    for _, term in terms:
        for factor in _factors(net, term) if _op(net, term) == "Mul" else ():
            if factor != root and not any(net.leaf(factor) == net.leaf(g) for g in gamma):
                mean = factor
    if len(gamma) > 1 or len(beta) > 1:
        return None
    found = [("gamma", gamma[0])] if gamma else []
    found += [("beta", beta[0])] if beta else []
    found += [("moving_mean", mean)] if mean is not None else []
    return [*found, ("moving_variance", variance)], epsilon


def _carried(net: Network, tensor: Tensor) -> Tensor:
    while net.is_static(tensor) and _op(net, tensor) in _CARRY:
        tensor = net.item(tensor[0]).inputs[0]
    return tensor


def _factors(net: Network, tensor: Tensor) -> list[Tensor]:
    tensor = _carried(net, tensor)
    item = net.item(tensor[0])
    if item.op == "Mul":
        return [factor for t in item.inputs for factor in _factors(net, t)]
    if item.op == "Neg":
        return _factors(net, item.inputs[0])
    return [tensor]


def _terms(net: Network, tensor: Tensor, sign: int) -> Iterator[tuple[int, Tensor]]:
    tensor = _carried(net, tensor)
    item = net.item(tensor[0])
    if item.op in _ADD:
        for t in item.inputs:
            yield from _terms(net, t, sign)
    elif item.op == "Sub":
        yield from _terms(net, item.inputs[0], sign)
        yield from _terms(net, item.inputs[1], -sign)
    elif item.op == "Neg":
        yield from _terms(net, item.inputs[0], -sign)
    else:
        yield sign, tensor


def _plus_epsilon(net: Network, tensor: Tensor) -> tuple[Tensor, float | None]:
    tensor = _carried(net, tensor)
    item = net.item(tensor[0])
    if item.op in _ADD:
        for one, other in (item.inputs, item.inputs[::-1]):
            number = net.number(other)
            if number is not None and (net.size(one) != 1 or _op(net, other) == "Const"):
                return _carried(net, one), plain(number)
    return tensor, None


# -- normalisation by the input's own moments ------------------------------------------------------------------


def moments(net: Network, name: str) -> Group | None:
    """Layer, instance, group or RMS normalisation, from its ``Rsqrt(Mean((x-mean)²) + ε)``."""
    if net.item(name).op not in ("Rsqrt", "Sqrt"):
        return None
    variance, epsilon = _live_epsilon(net, net.through(net.item(name).inputs[0]))
    middle = variance[0]
    if net.item(middle).op != "Mean" or epsilon is None:
        return None
    square = net.through(net.item(middle).inputs[0])
    op = _op(net, square)
    if op == "SquaredDifference":
        one, other = (net.through(t) for t in net.item(square[0]).inputs)
        # The input may itself be a mean: of a pooling, say.
        found = [
            (x, m) for x, m in ((one, other), (other, one)) if _op(net, m) == "Mean" and _operands(net, m[0])[0] == x
        ]
        if len(found) != 1:
            return None
        x, means = found[0][0], [found[0][1]]
    elif op in ("Square", "Mul"):
        x = net.through(net.item(square[0]).inputs[0])
        means = []
    else:
        return None
    region = _region(net, name, x)
    if region is None:
        return None
    members, out = region
    axes = net.integers(net.item(middle).inputs[1])
    rank = net.rank(x)
    if axes is None or rank is None:
        return None
    weights = _affine_weights(net, members)
    where = sorted(axis % rank for axis in axes)
    if not means:
        kind = "rmsnorm"
    elif where == list(range(rank - len(where), rank)):
        kind = "layernorm"
    elif where in (list(range(1, rank - 1)), list(range(2, rank))):
        kind = "instancenorm"
    else:
        kind = "groupnorm"
    config = {"epsilon": epsilon, "axis": where[0] - rank if len(where) == 1 else [a - rank for a in where]}
    label = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "instancenorm": "InstanceNorm"}.get(kind, "GroupNorm")
    return Group(kind, label, members, out, config, weights)


def _live_epsilon(net: Network, tensor: Tensor) -> tuple[Tensor, float | None]:
    item = net.item(tensor[0])
    if item.op in ("Add", "AddV2"):
        found = _pair(net, tensor[0])
        number = net.number(found[1]) if found else None
        if found and number is not None:
            return found[0], plain(number)
    return tensor, None


_AFFINE = frozenset({"Mul", "Sub", "Add", "AddV2", "BiasAdd", "RealDiv", "Neg", "Sqrt", "Rsqrt", "Cast"})


def _region(net: Network, name: str, x: Tensor) -> tuple[list[str], Tensor] | None:
    """All operations between ``x`` and the end of a normalisation around ``name``, and its tensor."""
    inside: set[str] = set()
    pending = [name]
    while pending:  # back to x
        at = pending.pop()
        if at in inside:
            continue
        inside.add(at)
        pending += [t[0] for t in net.sources(at) if t != x and t[0] not in net.inputs]
        if len(inside) > 60:
            return None
    grown = True
    while grown:  # on, while everything else that is read is known
        grown = False
        for member in list(inside):
            for number in range(net.outputs(member)):
                for user in net.users.get((member, number), []):
                    sources = net.sources(user)
                    item = net.item(user)
                    known = all(t == x or t[0] in inside for t in sources)
                    # A residual connection adds x itself: that is no part of the normalisation.
                    residual = x in sources and item.op in _ADD
                    if user not in inside and known and not residual and item.op in _AFFINE and len(inside) < 60:
                        inside.add(user)
                        grown = True
        if not grown:
            break
        if len(exits(net, inside)) == 1 and _has_offset(net, inside):
            break
    ends = exits(net, inside)
    if len(ends) != 1:
        return None
    return sorted(inside, key=net.order.__getitem__), ends[0]


def exits(net: Network, inside: set[str]) -> list[Tensor]:
    """The tensors of some operations that are read outside of them, or are outputs."""
    out = []
    for member in sorted(inside, key=net.order.__getitem__):
        for number in range(net.outputs(member)):
            tensor = (member, number)
            users = net.users.get(tensor, [])
            if tensor in net.ends or any(user not in inside for user in users):
                out.append(tensor)
    return out


def _has_offset(net: Network, inside: set[str]) -> bool:
    """Whether the last step, the addition of an offset, is in."""
    (out,) = exits(net, inside)
    return net.item(out[0]).op in _ADD and bool(_affine_weights(net, sorted(inside)))


def _affine_weights(net: Network, members: list[str]) -> list[tuple[str, Tensor]]:
    gamma: list[Tensor] = []
    beta: list[Tensor] = []
    for member in members:
        item = net.item(member)
        for tensor in item.inputs:
            if (
                net.is_static(tensor)
                and net.floating(tensor)
                and _is_weight(net, tensor)
                and net.number(tensor) is None
            ):
                (gamma if item.op in ("Mul", "RealDiv") else beta).append(tensor)
    out = [("gamma", tensor) for tensor in gamma[:1]]
    return [*out, *(("beta", tensor) for tensor in beta[:1])]


def prelu(net: Network, name: str) -> Group | None:
    """``relu(x) + alpha·min(x, 0)``, in the ways in which it is written."""
    sides = _operands(net, name) if net.item(name).op in _ADD else []
    for positive, negative in (sides, sides[::-1]) if len(sides) == 2 else ():
        first = _rectified(net, positive)
        second = _below_zero(net, negative) if first else None
        if first and second and first[0] == second[0]:
            x, alpha, members = second
            found = sorted({name, *first[1], *members}, key=net.order.__getitem__)
            if exits(net, set(found)) in ([(name, 0)], []) and vector(net, alpha, x) is not None:
                return Group("prelu", "PRelu", found, (name, 0), {}, [("alpha", alpha)])
    return None


def _rectified(net: Network, tensor: Tensor) -> tuple[Tensor, list[str]] | None:
    op = _op(net, tensor)
    if op == "Relu":
        return _operands(net, tensor[0])[0], [tensor[0]]
    found = _pair(net, tensor[0]) if op == "Maximum" else None
    return (found[0], [tensor[0]]) if found and net.number(found[1]) == 0 else None


def _below_zero(net: Network, tensor: Tensor) -> tuple[Tensor, Tensor, list[str]] | None:
    """``alpha·min(x, 0)``: x, alpha and the operations."""
    at, sign, alpha, members = tensor, 1.0, None, []
    while True:  # the factors, until something else than a product comes
        found = _pair(net, at[0]) if _op(net, at) == "Mul" else None
        if _op(net, at) == "Neg":
            members.append(at[0])
            sign, at = -sign, _operands(net, at[0])[0]
        elif found is not None:
            number = net.number(found[1])
            if number is None and alpha is not None:
                return None
            members.append(at[0])
            sign, alpha, at = (sign, found[1], found[0]) if number is None else (sign * number, alpha, found[0])
        else:
            break
    if alpha is None:
        return None
    if _op(net, alpha) == "Neg":
        sign, alpha = -sign, net.item(alpha[0]).inputs[0]
    op = _op(net, at)
    if op == "Relu" and sign == -1:  # -alpha·relu(-x)
        inner = _operands(net, at[0])[0]
        if _op(net, inner) == "Neg":
            return _operands(net, inner[0])[0], alpha, [*members, at[0], inner[0]]
    if op == "Minimum" and sign == 1:
        found = _pair(net, at[0])
        return (found[0], alpha, [*members, at[0]]) if found and net.number(found[1]) == 0 else None
    if op == "Sub" and sign == 0.5:  # alpha·(x-|x|)/2
        x, size = _operands(net, at[0])
        if _op(net, size) == "Abs" and _operands(net, size[0])[0] == x:
            return x, alpha, [*members, at[0], size[0]]
    return None


# -- activations -----------------------------------------------------------------------------------------------


def activation(net: Network, name: str) -> Group | None:
    """An activation that ends at ``name`` and is spelled out: GELU, SiLU, hard SiLU, hard sigmoid, leaky ReLU."""
    for match in (_silu, _gelu, _hard_silu, _hard_sigmoid, _leaky, _relu_limit):
        found = match(net, name)
        if found is not None:
            kind, label, members, config = found
            members = sorted({*members, name}, key=net.order.__getitem__)
            if exits(net, set(members)) in ([(name, 0)], []):
                return Group(kind, label, members, (name, 0), config)
    return None


_Match = tuple[str, str, list[str], dict[str, Any]] | None


def _operands(net: Network, name: str) -> list[Tensor]:
    return [net.through(t) for t in net.item(name).inputs]


def _scaled(net: Network, tensor: Tensor) -> tuple[Tensor, float, list[str]]:
    """``tensor`` as another one times a number."""
    factor, through = 1.0, []
    while _op(net, tensor) in ("Mul", "RealDiv", "Neg"):
        if _op(net, tensor) == "Neg":
            factor, step = -factor, net.through(net.item(tensor[0]).inputs[0])
        else:
            found = _pair(net, tensor[0])
            number = net.number(found[1]) if found else None
            if found is None or number is None or not number:
                break
            dividing = _op(net, tensor) == "RealDiv"
            if dividing and net.through(net.item(tensor[0]).inputs[0]) != found[0]:
                break
            factor, step = factor / number if dividing else factor * number, found[0]
        through.append(tensor[0])
        tensor = step
    return tensor, factor, through


def _near(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=1e-4, abs_tol=1e-6)


def _silu(net: Network, name: str) -> _Match:
    if net.item(name).op != "Mul":
        return None
    sides = _operands(net, name)
    for x, gate in (sides, sides[::-1]) if len(sides) == 2 else ():
        if _op(net, gate) == "Sigmoid":
            base, factor, through = _scaled(net, _operands(net, gate[0])[0])
            if base == x and _near(factor, 1):
                return "silu", "Silu", [gate[0], *through], {}
    return None


def _gelu(net: Network, name: str) -> _Match:
    if net.item(name).op != "Mul":
        return None
    product, factor, members = _scaled(net, (name, 0))
    if _op(net, product) != "Mul":
        return None
    sides = _operands(net, product[0])
    for left, right in (sides, sides[::-1]) if len(sides) == 2 else ():
        x, scale, one = _scaled(net, left)
        gate, more, two = _scaled(net, right)
        total, path = factor * scale * more, [*members, product[0], *one, *two]
        if _op(net, gate) == "Erfc":
            inner, inside, three = _scaled(net, _operands(net, gate[0])[0])
            if inner == x and _near(total, 0.5) and _near(inside, -math.sqrt(0.5)):
                return "gelu", "Gelu", [*path, gate[0], *three], {"approximate": False}
        found = _pair(net, gate[0]) if _op(net, gate) in _ADD else None
        if found and net.number(found[1]) == 1 and _near(total, 0.5):
            curve = found[0]
            if _op(net, curve) == "Erf":
                inner, inside, three = _scaled(net, _operands(net, curve[0])[0])
                if inner == x and _near(inside, math.sqrt(0.5)):
                    return "gelu", "Gelu", [*path, gate[0], curve[0], *three], {"approximate": False}
            if _op(net, curve) == "Tanh":
                cubic = _cubic(net, _operands(net, curve[0])[0], x)
                if cubic is not None:
                    return "gelu", "Gelu", [*path, gate[0], curve[0], *cubic], {"approximate": True}
    return None


def _cubic(net: Network, tensor: Tensor, x: Tensor) -> list[str] | None:
    """The operations of ``√(2/π)·(x + 0.044715·x³)``."""
    total, factor, members = _scaled(net, tensor)
    if not _near(factor, math.sqrt(2 / math.pi)) or _op(net, total) not in _ADD:
        return None
    sides = _operands(net, total[0])
    cube = next((t for t in sides if t != x), None)
    if x not in sides or cube is None:
        return None
    power, weight, more = _scaled(net, cube)
    if not _near(weight, 0.044715):
        return None
    found = [total[0], *members, *more]
    pending, seen = [power], set()
    while pending:
        at = pending.pop()
        if at == x or at in seen:
            continue
        seen.add(at)
        if _op(net, at) not in ("Pow", "Mul", "Square") or len(seen) > 4:
            return None
        found.append(at[0])
        pending += [t for t in _operands(net, at[0]) if not net.is_constant(t)]
    return found


def _clipped(net: Network, tensor: Tensor) -> tuple[Tensor, float, float, list[str]] | None:
    """``tensor`` as another one between two bounds."""
    op = _op(net, tensor)
    if op == "Relu6":
        return _operands(net, tensor[0])[0], 0.0, 6.0, [tensor[0]]
    if op == "ClipByValue":
        inputs = net.item(tensor[0]).inputs
        low, high = net.number(inputs[1]), net.number(inputs[2])
        return (net.through(inputs[0]), low, high, [tensor[0]]) if low is not None and high is not None else None
    if op in ("Maximum", "Minimum"):
        outer = _pair(net, tensor[0])
        inner_op = "Minimum" if op == "Maximum" else "Maximum"
        if outer is None:
            return None
        if _op(net, outer[0]) == "Relu" and op == "Minimum":
            high = net.number(outer[1])
            base = _operands(net, outer[0][0])[0]
            return (base, 0.0, high, [tensor[0], outer[0][0]]) if high is not None else None
        if _op(net, outer[0]) != inner_op:
            return None
        inner = _pair(net, outer[0][0])
        bounds = (net.number(outer[1]), net.number(inner[1])) if inner else (None, None)
        if inner is None or bounds[0] is None or bounds[1] is None:
            return None
        return inner[0], min(bounds), max(bounds), [tensor[0], outer[0][0]]  # type: ignore[type-var,return-value]
    return None


def _shifted(net: Network, tensor: Tensor) -> tuple[Tensor, float, list[str]] | None:
    found = _pair(net, tensor[0]) if _op(net, tensor) in _ADD else None
    number = net.number(found[1]) if found else None
    return (found[0], number, [tensor[0]]) if found and number is not None else None


def _hard_gate(net: Network, tensor: Tensor) -> tuple[Tensor, float, float, list[str]] | None:
    """``clip(a·x + b, 0, 1)``: x, a, b and the operations."""
    gate, factor, members = _scaled(net, tensor)
    clip = _clipped(net, gate)
    if clip is None or not _near(clip[1], 0) or not _near(clip[2] * factor, 1):
        return None
    shift = _shifted(net, clip[0])
    if shift is None:
        return None
    x, slope, more = _scaled(net, shift[0])
    return x, slope * factor, shift[1] * factor, [*members, *clip[3], *shift[2], *more]


def _hard_sigmoid(net: Network, name: str) -> _Match:
    found = _hard_gate(net, (name, 0))
    if found is None or not _near(found[2], 0.5):
        return None
    return "hard_sigmoid", "HardSigmoid", found[3], {"slope": plain(found[1])}


def _hard_silu(net: Network, name: str) -> _Match:
    if net.item(name).op != "Mul":
        return None
    whole, factor, members = _scaled(net, (name, 0))
    if _op(net, whole) != "Mul":
        return None
    sides = _operands(net, whole[0])
    for x, gate in (sides, sides[::-1]) if len(sides) == 2 else ():
        clip = _clipped(net, _scaled(net, gate)[0])
        found = _hard_gate(net, gate) or (
            _hard_gate_scaled(net, gate, factor) if clip is not None and not _near(factor, 1) else None
        )
        if found is not None and found[0] == x and _near(found[1], 1 / 6):
            return "hard_silu", "HardSwish", [*members, whole[0], *found[3]], {}
    return None


def _hard_gate_scaled(net: Network, tensor: Tensor, factor: float) -> tuple[Tensor, float, float, list[str]] | None:
    """A gate whose number is multiplied after the product: ``x·relu6(x+3)·(1/6)``."""
    clip = _clipped(net, tensor)
    shift = _shifted(net, clip[0]) if clip is not None else None
    if clip is None or shift is None or not _near(clip[2] * factor, 1):
        return None
    return shift[0], factor, shift[1] * factor, [*clip[3], *shift[2]]


def _leaky(net: Network, name: str) -> _Match:
    if net.item(name).op != "Maximum":
        return None
    sides = _operands(net, name)
    for x, other in (sides, sides[::-1]) if len(sides) == 2 else ():
        base, slope, members = _scaled(net, other)
        if members and base == x and 0 < slope < 1:
            return "leaky_relu", "LeakyRelu", members, {"negative_slope": plain(slope)}
    return None


def _relu_limit(net: Network, name: str) -> _Match:
    clip = _clipped(net, (name, 0)) if net.item(name).op in ("Minimum", "Maximum", "ClipByValue") else None
    if clip is not None and _near(clip[1], 0) and _near(clip[2], 6):
        return "relu6", "Relu6", clip[3], {}
    return None
