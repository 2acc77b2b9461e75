"""The groups of a graph as nodes of the shared data model, with names that read like a network's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field

from tracer.graph import Layout, Node, Param, Role, Structure
from tracer.text import some
from tracer_keras.graphs import operations
from tracer_keras.graphs.allowed import RANDOM
from tracer_keras.graphs.flat import Tensor, unique
from tracer_keras.graphs.layers import Layers
from tracer_keras.graphs.network import Network
from tracer_keras.graphs.patterns import Group

_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")
_MODEL = re.compile(r"(functional|sequential|model)(_\d+)*$")
_PLUMBING = ("read", "resource", "ReadVariableOp", "value", "x", "y")
_UNTOLD = frozenset({"variant", "resource"})
_BOUNDARIES = {"While": "loop", "StatelessWhile": "loop", "If": "branch", "StatelessIf": "branch", "Case": "branch"}


@dataclass
class Drawing:
    """A structure, the tensor of each of its nodes, and the weights by owner with the tensor that holds each.

    ``accounts`` says of every operation of the graph what became of it.
    """

    structure: Structure
    tensors: dict[str, Tensor]
    weights: list[tuple[str, Param, Tensor]]
    accounts: dict[str, str] = field(default_factory=dict)


class Names:
    """Names of operations as shown: without the calls of functions, and without a scope that all share."""

    def __init__(self, names: list[str]) -> None:
        plain = {name: _without_calls(name) for name in names}
        firsts = {text.split("/", 1)[0] for text in plain.values()}
        self._cut = self._tail = ""
        first = next(iter(firsts), "")
        if len(firsts) == 1 and _MODEL.match(first) and all("/" in text for text in plain.values()):
            self._cut = f"{first}/"
            number = re.search(r"_\d+$", first)
            rest = [text.removeprefix(self._cut).split("/", 1)[0] for text in plain.values()]
            # Keras 3 counts its layers' scopes as it counts the model's: conv_1 is the layer conv.
            if number and all(text.endswith(number[0]) for text in rest):
                bare = {text: text.removesuffix(number[0]) for text in rest}
                if len(set(bare.values())) == len(bare) and all(bare.values()):
                    self._tail = number[0]
        self._plain = plain

    def __call__(self, name: str) -> str:
        text = self._plain.get(name) or _without_calls(name)
        if self._cut and text.startswith(self._cut):
            first, slash, rest = text.removeprefix(self._cut).partition("/")
            return first.removesuffix(self._tail) + slash + rest
        return text


def _without_calls(name: str) -> str:
    parts = [part for part in name.split("/") if not _CALL.fullmatch(part)]
    return "/".join(parts) or name


def _count(names: Sized) -> str:
    return f"{len(names)} operation{'s' if len(names) != 1 else ''}"


class _Artist:
    def __init__(self, net: Network, inputs: Mapping[str, str]) -> None:
        self.net = net
        self.inputs = inputs
        self.layers = Layers(net)
        self.names = Names(list(net.live()))
        self.nodes: list[Node] = []
        self.taken: dict[str, None] = {}
        self.at: dict[Tensor, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.weights: list[tuple[str, Param, Tensor]] = []
        self.calls: dict[tuple[Tensor, ...], tuple[str, int]] = {}
        self.notes: list[str] = []

    def draw(self, raw_ends: list[Tensor]) -> Drawing:
        for name, node in self.inputs.items():
            self._add(name, (node, 0), "input", "Placeholder", "input", layout=self._input_layout(node))
        titles = self._titles()
        for group in self.layers.groups:
            self._inner(group)
            self._group(group, titles[id(group)])
        outputs = [self.at[tensor] for tensor in self.net.ends if tensor in self.at]
        self._named_ends(raw_ends)
        structure = Structure(tuple(self.nodes), tuple(dict.fromkeys(outputs)), tuple(self._notes()))
        return Drawing(structure, self.tensors, self.weights, self._accounts())

    # -- names ---------------------------------------------------------------------------------------------------

    def _titles(self) -> dict[int, str]:
        """A name for each group, layers with a scope of their own first."""
        out: dict[int, str] = {}
        for own in (True, False):
            for group in self.layers.groups:
                scope = self.layers.scope(group)
                if bool(scope) == own:
                    name = unique(self.names(scope or group.last[0]), self.taken)
                    self.taken[name] = None
                    out[id(group)] = name
        return out

    def _free(self, name: str) -> str:
        fresh = unique(name, self.taken)
        self.taken[fresh] = None
        return fresh

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _add(self, name: str, tensor: Tensor, kind: str, label: str, role: Role, **more: object) -> None:
        dtype = self.net.dtype(tensor)
        node = Node(name, kind, label, role, shape=self.net.shape(tensor), dtype=dtype, **more)  # type: ignore[arg-type]
        self.nodes.append(node)
        self.taken[name] = None
        self.at[tensor] = name
        self.tensors[name] = tensor

    def _parents(self, members: list[str]) -> tuple[str, ...]:
        """The nodes outside of ``members`` that they read."""
        inside = set(members)
        found = [t for member in members for t in self.net.sources(member) if t[0] not in inside]
        return tuple(dict.fromkeys(self.at[t] for t in found if t in self.at))

    def _group(self, group: Group, name: str) -> None:
        net = self.net
        owner, call, params = self._params(group, name)
        layout = self._layout(group)
        scope = name.rpartition("/")[0]
        shared = {"owner": owner, "call": call, "scope": scope, "layout": layout}
        config = {key: value for key, value in group.config.items() if value is not None}
        core = {"params": params, "config": config, "parents": self._parents(group.members), **shared}
        role: Role = "layer" if group.params or len(group.members) > 1 else "op"
        if group.activation is None:
            self._add(name, group.out, group.kind, group.label, role, **core)
        else:
            act = group.activation
            before = self._free(f"{name}/preactivation")
            self._add(before, group.out, group.kind, group.label, "activation", **core)
            label = f"{group.label}.{act.label}"
            more = {"parents": (before,), "config": act.config, **shared}
            self._add(name, act.out, act.kind, label, "layer", **more)
        for tensor in group.further:
            if tensor in self.at or net.dtype(tensor) in _UNTOLD:
                continue
            extra = self._free(f"{name}[{tensor[1] if tensor[0] == group.out[0] else len(self.nodes)}]")
            self._add(extra, tensor, group.kind, group.label, "item", parents=(name,), owner=owner, scope=scope)

    def _inner(self, group: Group) -> None:
        """The operations inside a layer: recorded, but no part of what two models are compared by."""
        shown = {group.out, group.last, *group.further}
        for member in sorted(group.all_members, key=self.net.order.__getitem__):
            outputs = [(member, number) for number in range(self.net.outputs(member))]
            read = [t for t in outputs if t[1] == 0 or t in self.net.users]
            for tensor in read:
                if tensor not in shown and self.net.dtype(tensor) not in _UNTOLD:
                    self._part(tensor)

    def _part(self, tensor: Tensor) -> None:
        member, number = tensor
        plain = self.names(member)
        name = self._free(f"{plain}[{number}]" if number else plain)
        parents = tuple(dict.fromkeys(self.at[t] for t in self.net.sources(member) if t in self.at))
        kind, config = operations.kind(self.net, member), operations.config(self.net, member)
        more = {"parents": parents, "config": config, "scope": plain.rpartition("/")[0], "owner": plain}
        self._add(name, tensor, kind, self.net.item(member).op, "inner", **more)

    def _layout(self, group: Group) -> Layout | None:
        for member in group.members:
            found = operations.layout(self.net, member)
            if found is not None:
                return found
        rank = self.net.rank(group.out)
        if group.kind == "batchnorm" and rank and rank > 2:
            axis = group.config.get("axis")
            return "channels_last" if axis == -1 else "channels_first" if axis == 1 - rank else None
        return None

    def _input_layout(self, node: str) -> Layout | None:
        tensor, seen = (node, 0), 0
        while seen < 8:
            seen += 1
            users = self.net.users.get(tensor, [])
            for user in users:
                found = operations.layout(self.net, user)
                if found is not None:
                    return found
            if len(users) != 1:
                break
            tensor = (users[0], 0)
        return "channels_last" if (self.net.rank((node, 0)) or 0) >= 3 else None

    # -- weights ---------------------------------------------------------------------------------------------------

    def _params(self, group: Group, name: str) -> tuple[str, int, tuple[Param, ...]]:
        """Owner, call and parameters of a group; a layer whose weights another has too is that layer called again."""
        net = self.net
        leaves = [(role, net.leaf(tensor)) for role, tensor in group.params]
        key = tuple(leaf for _, leaf in leaves)
        variables = bool(key) and all(net.item(leaf[0]).op == "ReadVariableOp" or net.size(leaf) != 1 for leaf in key)
        if variables and key in self.calls:
            owner, calls = self.calls[key]
            self.calls[key] = owner, calls + 1
            return owner, calls + 1, ()
        if variables:
            self.calls[key] = name, 0
        params: list[Param] = []
        for role, leaf in leaves:
            label = role or self._weight(leaf, group)
            label = unique(label, [param.name for param in params])
            shape = net.shape(leaf)
            param = Param(label, shape or (), net.dtype(leaf), not label.startswith("moving_"))
            params.append(param)
            self.weights.append((name, param, leaf))
        return name, 0, tuple(params)

    def _weight(self, leaf: Tensor, group: Group) -> str:
        """What to call a weight whose role is not known: as the graph does, where that is a name."""
        parts = self.net.weight_name(leaf).split("/")
        while len(parts) > 1 and parts[-1] in _PLUMBING:
            parts.pop()
        label = re.sub(r"_\d+$", "", parts[-1])
        known = self.net.item(leaf[0]).op in ("Const", "ReadVariableOp") and "/".join(parts) not in group.members
        return label if known and label not in ("Const", *_PLUMBING) else "constant"

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _named_ends(self, raw_ends: list[Tensor]) -> None:
        """A name that the author gave an output stays visible beside the operation that computes it."""
        for raw in raw_ends:
            source = self.net.through(raw)
            last = raw[0].rpartition("/")[2]
            if raw == source or source not in self.at or re.fullmatch(r"Identity(_\d+)?", last):
                continue
            title = self.names(raw[0])
            if title in self.taken:
                continue
            twin = self.at[source]
            dtype, shape = self.net.dtype(source), self.net.shape(source)
            node = Node(title, "identity", "Identity", "op", (twin,), shape, dtype, owner=title, alias_of=twin)
            self.nodes.append(node)
            self.taken[title] = None

    def _notes(self) -> list[str]:
        net, out = self.net, []
        inside = [n.name for n in self.nodes if n.role == "inner"]
        if inside:
            out.append(f"{_count(inside)} inside layers: recorded, but not compared")
        if net.shapely:
            out.append(f"left out: {_count(net.shapely)} that compute shapes")
        computed = [
            n for n in net.static if net.item(n).op not in ("Const", "VarHandleOp", "ReadVariableOp", "Identity")
        ]
        if computed:
            out.append(f"left out: {_count(computed)} that read only weights")
        loops = [n for n in net.live() if net.item(n).op in _BOUNDARIES or net.item(n).op == "Exit"]
        if loops:
            shown = [self.names(name) for name in loops]
            out.append(f"inside {some(shown)} nothing is visible: a loop or branch runs as one operation")
        if net.hidden:
            out.append(f"not visible: {_count(net.hidden)} inside loops and branches")
        random = [self.names(name) for name in net.live() if net.item(name).op in RANDOM]
        if random:
            out.append(f"{some(random)}: draws random numbers, so that every run gives others")
        return out

    def _accounts(self) -> dict[str, str]:
        net = self.net
        seen = {tensor[0] for tensor in self.tensors.values()}
        untold = {name for name in net.live() if name not in seen}
        classes = {
            "weight or constant": net.static, "shape": net.shapely, "passed on": net.passing,
            "inside a loop or branch": net.hidden, "no tensor": untold,
        }  # fmt: skip
        out = dict.fromkeys(seen, "node")
        for word, names in classes.items():
            out |= dict.fromkeys(names, word)
        return out


def draw(net: Network, inputs: Mapping[str, str], raw_ends: list[Tensor]) -> Drawing:
    """The network as nodes; ``inputs`` maps the names that a user feeds to placeholders."""
    return _Artist(net, inputs).draw(raw_ends)
