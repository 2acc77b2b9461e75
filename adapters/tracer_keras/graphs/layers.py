"""The operations of a graph as layers: every live operation belongs to exactly one group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from tracer import kinds
from tracer_keras.graphs import operations, patterns
from tracer_keras.graphs.flat import Tensor
from tracer_keras.graphs.network import Network
from tracer_keras.graphs.patterns import Group, vector

_TRANSPOSED = frozenset(
    {"Conv2DBackpropInput", "Conv2DBackpropInputV2", "Conv3DBackpropInput", "Conv3DBackpropInputV2"}
)
_BATCHNORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"})
_ADD = frozenset({"Add", "AddV2", "BiasAdd", "BiasAddV1"})
_TENSORDOT = re.compile(r"(^|/)[Tt]ensordot(_\d+)?(/|$)")
_RECURRENT = {"lstm": 4, "gru": 3, "rnn": 1}
_LOOPS = frozenset({"While", "StatelessWhile", "Exit", "PartitionedCall", "StatefulPartitionedCall"})
_NAMED = {
    "dropout": "dropout",
    "l2_normalize": "l2_normalize",
    "rescaling": "rescaling",
    "normalization": "normalization",
}
"""Scopes that TensorFlow's functions and Keras's layers open, and what they compute."""
_INTERNAL = re.compile(
    r"(batchnorm|tensordot|convolution|conv[123]d|einsum|moments|matmul|biasadd|embedding_lookup|gelu|dropout|"
    r"separable_conv2d|depthwise|l2_normalize|softmax|leakyrelu|resize)(_\d+)?$",
    re.IGNORECASE,
)


class Layers:
    """The groups of a network in running order, by the operation that makes each one's tensor."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.names = list(net.live())
        self.taken: dict[str, Group] = {}
        self.groups: list[Group] = []
        self.inside: dict[str, int] = {}
        for name in self.names:
            parts = name.split("/")
            for length in range(1, len(parts) + 1):
                scope = "/".join(parts[:length])
                self.inside[scope] = self.inside.get(scope, 0) + 1
        for find in (self._loop, self._fused_norm, self._moments, self._affine, self._weighted, self._scoped):
            self._all(find)
        self._all(lambda name: patterns.prelu(net, name))
        self._all(lambda name: patterns.activation(net, name))
        self._all(self._single)
        self._fuse()
        self.groups.sort(key=lambda group: net.order[group.last[0]])

    def _all(self, find: Callable[[str], Group | None]) -> None:
        for name in self.names:
            if name in self.taken:
                continue
            group = find(name)
            if group is None or any(member in self.taken for member in group.members):
                continue
            # What is read from inside a layer keeps its operations apart.
            if len(group.members) > 1 and set(patterns.exits(self.net, set(group.members))) - {
                group.out,
                *group.further,
            }:
                continue
            self.groups.append(group)
            self.taken |= dict.fromkeys(group.members, group)

    # -- scopes ------------------------------------------------------------------------------------------------

    def exclusive(self, scope: str, members: Iterable[str]) -> bool:
        """Whether a scope holds the operations of ``members`` and no others."""
        within = sum(name == scope or name.startswith(f"{scope}/") for name in set(members))
        return bool(scope) and self.inside.get(scope, 0) == within == len(set(members))

    def scope(self, group: Group) -> str:
        """The name scope that is the group's own; empty when there is none."""
        members = group.all_members
        common = _common([_scope(name) for name in members])
        if not self.exclusive(common, members):
            # TensorFlow names some operations like the scope of what belongs to them.
            return next((name for name in members if self.exclusive(name, members)), "")
        while _INTERNAL.search(common.rpartition("/")[2]) and self.exclusive(_scope(common), members):
            common = _scope(common)
        return common

    def _below(self, scope: str) -> list[str]:
        return [name for name in self.names if name == scope or name.startswith(f"{scope}/")]

    # -- groups ------------------------------------------------------------------------------------------------

    def _weighted(self, name: str) -> Group | None:
        """A convolution, dense layer or embedding, with what belongs to it before and after, and its bias."""
        net, item = self.net, self.net.item(name)
        if item.op in ("Conv2D", "Conv3D", "DepthwiseConv2dNative"):
            x, kernel = item.inputs[0], item.inputs[1]
        elif item.op in _TRANSPOSED:
            x, kernel = item.inputs[2], item.inputs[1]
        elif item.op in _PRODUCTS or item.op == "Einsum":
            if len(item.inputs) != 2:
                return None
            x, kernel = item.inputs
        elif item.op in ("GatherV2", "Gather"):
            return self._embedding(name)
        else:
            return None
        if not net.is_static(kernel) or net.is_constant(x) or not net.floating(kernel):
            return None
        kind = "dense" if item.op in _PRODUCTS or item.op == "Einsum" else operations.kind(net, name)
        if kind == "dense" and (net.rank(net.leaf(kernel)) or 0) < 2:
            return None
        group = Group(kind, item.op, [name], (name, 0), operations.config(net, name), [("kernel", kernel)])
        if kind == "dense":
            self._tensordot(group, x)
        else:
            self._convolution(group, x)
        self._bias(group)
        group.config["use_bias"] = group.params[-1][0] == "bias"
        group.members.sort(key=net.order.__getitem__)
        return group

    def _embedding(self, name: str) -> Group | None:
        net, item = self.net, self.net.item(name)
        table, ids = item.inputs[0], item.inputs[1]
        if not net.is_static(table) or net.is_constant(ids) or not net.floating(table) or net.rank(table) != 2:
            return None
        shape = net.shape(table)
        config = {"input_dim": shape[0], "output_dim": shape[1]} if shape else {}
        return Group("embedding", item.op, [name], (name, 0), config, [("embeddings", table)])

    def _tensordot(self, group: Group, x: Tensor) -> None:
        """The changes of shape around a product with a matrix."""
        net = self.net
        kernel = net.shape(net.leaf(group.params[0][1]))
        if kernel:
            group.config["units"] = kernel[0 if group.config.get("transpose_b") else -1]
        if not _TENSORDOT.search(group.members[0]):
            return
        self._before(group, x, ("Reshape", "Transpose"), _TENSORDOT)
        self._after(group, ("Reshape", "Transpose"), _TENSORDOT)

    def _convolution(self, group: Group, x: Tensor) -> None:
        net = self.net
        name = group.members[0]
        op = net.item(name).op
        flat = net.rank(net.leaf(group.params[0][1])) == 3 or net.through(x)[0].startswith(f"{name}/")
        before = self._before(group, x, ("ExpandDims", "SpaceToBatchND") if flat else ("SpaceToBatchND",))
        if before:
            around = {"ExpandDims": "Squeeze", "SpaceToBatchND": "BatchToSpaceND"}
            self._after(group, tuple(around[net.item(member).op] for member in before))
        for member in before:
            if net.item(member).op == "SpaceToBatchND":
                group.config["dilation"] = net.integers(net.item(member).inputs[1])
                padding = net.integers(net.item(member).inputs[2])
                group.config["padding"] = "same" if padding and any(padding) else "valid"
        if any(net.item(member).op == "ExpandDims" for member in before) and group.kind.endswith("2d"):
            group.kind = group.kind.replace("2d", "1d")
            keys = ("strides", "padding", "dilation")
            group.config |= {k: v[-1:] for k in keys if isinstance(v := group.config.get(k), list)}
        kernel = net.shape(group.params[0][1])
        rank = int(group.kind[-2])
        if kernel and len(kernel) >= rank + 2:
            size = list(kernel[-rank - 2 : -2])
            count: dict[str, Any] = {"kernel_size": size}
            if op == "DepthwiseConv2dNative":
                count |= {"depth_multiplier": kernel[-1]}
            else:
                count = {"filters": kernel[-2 if op in _TRANSPOSED else -1], **count}
                channels = self._channels(group, x)
                if op not in _TRANSPOSED and channels and channels != kernel[-2]:
                    count["groups"] = channels // kernel[-2]
            group.config = {**count, **group.config}
        then = net.only_user(group.out)
        if op == "DepthwiseConv2dNative" and then is not None and name == f"{then}/depthwise":
            point = net.item(then)
            if point.op == "Conv2D" and net.is_static(point.inputs[1]):
                group.kind, group.label = "separable_conv2d", "SeparableConv2D"
                group.members.append(then)
                group.out = (then, 0)
                group.params = [("depthwise_kernel", group.params[0][1]), ("pointwise_kernel", point.inputs[1])]

    def _channels(self, group: Group, x: Tensor) -> int | None:
        shape = self.net.tensor(x).shape
        if shape.rank is None:
            return None
        return shape[1 if group.config.get("data_format") == "channels_first" else -1]  # type: ignore[no-any-return]

    def _before(self, group: Group, x: Tensor, ops: tuple[str, ...], where: re.Pattern[str] | None = None) -> list[str]:
        """Take the operations of the kinds ``ops`` before the group into it, one of each."""
        net, found = self.net, []
        at = net.through(x)
        seen: set[str] = set()
        while at[0] not in net.inputs and at[0] not in self.taken:
            op = net.item(at[0]).op
            if op not in ops or op in seen or net.only_user(at) is None:
                break
            if where is not None and not where.search(at[0]):
                break
            seen.add(op)
            found.append(at[0])
            at = net.through(net.item(at[0]).inputs[0])
        group.members += found
        return found

    def _after(self, group: Group, ops: tuple[str, ...], where: re.Pattern[str] | None = None) -> None:
        net = self.net
        seen: set[str] = set()
        while (user := net.only_user(group.out)) is not None:
            op = net.item(user).op
            if op not in ops or op in seen or (where is not None and not where.search(user)):
                break
            seen.add(op)
            group.members.append(user)
            group.out = (user, 0)

    def _bias(self, group: Group) -> None:
        net = self.net
        user = net.only_user(group.out)
        if user is None or net.item(user).op not in _ADD or user in self.taken:
            return
        inputs = net.item(user).inputs
        static = [t for t in inputs if net.is_static(t)]
        if len(static) != 1 or net.through(next(t for t in inputs if t != static[0])) != group.out:
            return
        axis = vector(net, static[0], (user, 0))
        first = group.config.get("data_format") == "channels_first"
        rank = net.rank((user, 0))
        wanted = 1 - rank if first and rank else -1
        heads = self._heads(group, static[0])
        if net.item(user).op.startswith("BiasAdd") or axis == wanted or heads:
            group.members.append(user)
            group.out = (user, 0)
            group.params.append(("bias", static[0]))

    def _heads(self, group: Group, bias: Tensor) -> bool:
        """Whether a bias has the shape of the kernel's last axes: one number for each unit of each head."""
        kernel, shape = self.net.shape(group.params[0][1]), self.net.shape(bias)
        return bool(group.kind == "dense" and kernel and shape and len(shape) > 1 and kernel[-len(shape) :] == shape)

    def _affine(self, name: str) -> Group | None:
        return patterns.affine(self.net, name)

    def _moments(self, name: str) -> Group | None:
        return patterns.moments(self.net, name)

    def _fused_norm(self, name: str) -> Group | None:
        """A fused batch normalisation; on the input's own moments it is a layer normalisation in disguise."""
        net, item = self.net, self.net.item(name)
        if item.op not in _BATCHNORMS:
            return None
        config = operations.config(net, name)
        if "is_training" in item.attr and not item.attr["is_training"].b:
            roles = ("gamma", "beta", "moving_mean", "moving_variance")
            params = [(r, t) for r, t in zip(roles, item.inputs[1:5], strict=True) if net.is_static(t)]
            return Group("batchnorm", item.op, [name], (name, 0), config, params)
        group = Group("batchnorm", item.op, [name], (name, 0), {**config, "training": True})
        weights = [t for t in item.inputs[1:3] if net.is_static(t)]
        if not self._before(group, item.inputs[0], ("Reshape",)):
            group.params = list(zip(("gamma", "beta"), weights, strict=False))
            return group
        self._after(group, ("Reshape",))
        group.kind, group.label = "layernorm", "LayerNorm"
        group.config = {"epsilon": config["epsilon"], "axis": -1}
        for role, ops in (("gamma", ("Mul",)), ("beta", ("Add", "AddV2"))):
            user = net.only_user(group.out)
            if user is not None and net.item(user).op in ops:
                static = [t for t in net.item(user).inputs if net.is_static(t)]
                if len(static) == 1 and vector(net, static[0], group.out) is not None:
                    group.members.append(user)
                    group.out = (user, 0)
                    group.params.append((role, static[0]))
        group.members.sort(key=net.order.__getitem__)
        return group

    def _scoped(self, name: str) -> Group | None:
        """What one of TensorFlow's functions with a telling scope computes, as one layer."""
        parts = name.split("/")
        for length in range(len(parts) - 1, 0, -1):
            kind = _NAMED.get(re.sub(r"_\d+$", "", parts[length - 1]).lower())
            scope = "/".join(parts[:length])
            members = self._below(scope) if kind else []
            if kind is None or not members or any(member in self.taken for member in members):
                continue
            ends = patterns.exits(self.net, set(members))
            random = any("Random" in self.net.item(member).op for member in members)
            if len(ends) == 1 and len(members) > 1 and (kind != "dropout" or random):
                label = kind.removeprefix("other:").title().replace("_", "")
                return Group(kind, label, members, ends[0], {}, self._weights(members))
        return None

    def _weights(self, members: list[str]) -> list[tuple[str, Tensor]]:
        """The constants of more than one number that operations read, without a role."""
        read = [tensor for member in members for tensor in self.net.item(member).inputs]
        static = [t for t in read if self.net.is_static(t) and self.net.floating(t)]
        return [("", tensor) for tensor in static if (size := self.net.size(tensor)) is None or size > 1]

    def _loop(self, name: str) -> Group | None:
        """A recurrent layer: everything in the scope of a loop that reads a recurrent layer's weights."""
        net, item = self.net, self.net.item(name)
        if item.op not in _LOOPS:
            return None
        scope = _scope(_scope(name)) if item.op == "Exit" else _scope(name)
        members = self._below(scope) if scope else [name]
        if any(net.item(m).op.startswith(("Conv", "Depthwise", "FusedBatchNorm")) for m in members):
            members = [name]
        weights = self._loop_weights(members)
        found = _recurrent([net.shape(t) for t in weights])
        ends = patterns.exits(net, set(members))
        if found is None or not ends or len(ends) > 4:
            return None
        kind, roles = found
        params = [(role, weights[index]) for role, index in roles]
        ends.sort(key=lambda t: (net.order[t[0]], t[1]))
        # The last state, or the whole sequence: what most of the graph reads.
        out = max(ends, key=lambda t: (net.floating(t), net.rank(t) or 0, -net.order[t[0]]))
        further = [t for t in ends if t != out]
        return Group(kind, kind.upper(), members, out, {}, params, further)

    def _loop_weights(self, members: list[str]) -> list[Tensor]:
        net, out = self.net, []
        pending = [t for member in members for t in net.item(member).inputs]
        seen: set[str] = set()
        while pending:
            tensor = pending.pop(0)
            if tensor[0] in net.hidden:
                if tensor[0] not in seen:
                    seen.add(tensor[0])
                    pending += net.item(tensor[0]).inputs
                continue
            if not net.is_static(tensor) or tensor[0] in seen:
                continue
            leaf = net.reading.get(tensor[0]) or net.leaf(tensor)
            if net.item(leaf[0]).op not in ("Const", "ReadVariableOp"):  # taken apart before the loop
                seen.add(leaf[0])
                pending += net.item(leaf[0]).inputs
                continue
            shape = net.shape(leaf)
            if leaf not in out and net.floating(leaf) and shape and max(shape) > 1:
                out.append(leaf)
        return out

    def _single(self, name: str) -> Group:
        net, item = self.net, self.net.item(name)
        group = Group(operations.kind(net, name), item.op, [name], (name, 0), operations.config(net, name))
        group.params = self._weights([name])
        outputs = [(name, number) for number in range(net.outputs(name))]
        read = [t for t in outputs if t in net.users or t in net.ends]
        group.out = next((t for t in read if net.dtype(t) not in ("variant", "resource")), outputs[0])
        wanted = outputs if item.op in ("Split", "SplitV", "Unpack", "TopKV2") else read
        group.further = [t for t in wanted if t != group.out]
        return group

    def _fuse(self) -> None:
        """Make an activation part of the layer in whose scope it lies."""
        net = self.net
        for group in list(self.groups):
            if group.kind not in kinds.WEIGHTED or group.kind in ("embedding", *_RECURRENT):
                continue
            user = net.only_user(group.out)
            after = self.taken.get(user) if user is not None else None
            if after is None:
                users = {self.taken[name].out for name in net.users.get(group.out, ()) if group.out not in net.ends}
                after = self.taken[next(iter(users))[0]] if len(users) == 1 else None
            if after is None or after.kind not in kinds.ACTIVATIONS or after.params:
                continue
            outside = {t for m in after.members for t in net.sources(m) if t[0] not in after.members}
            members = [*group.members, *after.members]
            if outside == {group.out} and self.exclusive(_common([_scope(name) for name in members]), members):
                group.activation = after
                self.groups.remove(after)
                self.taken |= dict.fromkeys(after.members, group)


def _recurrent(shapes: list[tuple[int, ...] | None]) -> tuple[str, list[tuple[str, int]]] | None:
    """The kind of recurrent layer that has weights of these shapes, and which of them is what."""
    for kind, gates in _RECURRENT.items():
        for i, recurrent in enumerate(shapes):
            if recurrent is None or len(recurrent) != 2 or recurrent[1] != gates * recurrent[0]:
                continue
            units = recurrent[1]
            kernels = [j for j, s in enumerate(shapes) if j != i and s is not None and len(s) == 2 and s[1] == units]
            if kernels:
                first, second = (
                    (kernels[0], i) if kernels[0] < i or shapes[kernels[0]] != recurrent else (i, kernels[0])
                )
                biases = [
                    j for j, s in enumerate(shapes) if s is not None and s[-1] == units and j not in (first, second)
                ]
                return kind, [("kernel", first), ("recurrent_kernel", second), *(("bias", j) for j in biases[:1])]
    for i, kernel in enumerate(shapes):  # one matrix for the input and the state
        if kernel is not None and len(kernel) == 2 and kernel[1] % 4 == 0 and kernel[0] > kernel[1] // 4:
            biases = [j for j, s in enumerate(shapes) if s == (kernel[1],)]
            if biases:
                return "lstm", [("kernel", i), ("bias", biases[0])]
    return None


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _common(scopes: list[str]) -> str:
    parts = [scope.split("/") if scope else [] for scope in scopes]
    out: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        out.append(level[0])
    return "/".join(out)
