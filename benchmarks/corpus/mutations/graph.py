"""Defects of what lies between layers: order of axes and channels, skip connections, blocks, inputs and outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.corpus.mutations.layers import Site, calls, of
from benchmarks.corpus.mutations.subject import Call, Subject, Work, around, kind
from tracer_torch import layers
from tracer_torch.tensors import walk

_LISTS = (nn.Sequential, nn.ModuleList)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


# --- order --------------------------------------------------------------------------------------------------


@kind("flatten-order", of(nn.Flatten))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if len(work.subject.reads[path][0]) < 3:
        return False
    around(layer, lambda forward, x: forward(x.movedim(1, -1)))
    return True


def _flattening(subject: Subject) -> Iterator[Call]:
    for call in calls("flatten", "view", "reshape")(subject):
        shape = call.node.shape or ()
        if call.shapes and 2 <= len(shape) < len(call.shapes[0]) and shape[-1] > call.shapes[0][-1]:
            yield call


@kind("flatten-order", _flattening)
def _(work: Work, call: Call) -> None:
    def change(func: Any, args: Any, named: Any) -> Any:
        x = args[0]
        turned = x.movedim(1, -1) if len(call.node.shape or ()) == 2 else x.transpose(-1, -2)
        if turned.shape != x.shape and len(call.node.shape or ()) > 2:
            return turned.reshape(call.node.shape)
        return func(turned.contiguous(), *args[1:], **named)

    work.edit(call, change, moving=True)


@kind("reshape-order", of(nn.Unflatten))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)

    def run(forward: Any, x: torch.Tensor) -> torch.Tensor:
        shape = forward(x).shape
        return x.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()

    around(layer, run)


@kind("reshape-order", calls("view", "reshape", "unflatten"))
def _(work: Work, call: Call) -> bool:
    shape = call.node.shape or ()
    if len(shape) < 3 or len(call.shapes[0]) >= len(shape):
        return False
    axis = 1 if len(call.shapes[0]) == 2 else len(shape) - 2

    def change(func: Any, args: Any, named: Any) -> Any:
        other = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
        return args[0].reshape(other).movedim(-1, axis).contiguous()

    work.edit(call, change, moving=True)
    return True


@kind("concat-order", calls("cat"))
def _(work: Work, call: Call) -> bool:
    if call.nodes_read < 2:
        return False

    def change(func: Any, args: Any, named: Any) -> Any:
        return func(list(args[0])[::-1], *args[1:], **named)

    work.edit(call, change)
    return True


@kind("stack-order", calls("stack"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(list(args[0])[::-1], *args[1:], **named))


@kind("residual-missing", calls("add"))
def _(work: Work, call: Call) -> bool:
    parents = call.node.parents
    if len(parents) != 2 or len(set(call.shapes)) != 1 or call.nodes_read != 2:
        return False
    ran = {node.name: index for index, node in enumerate(work.subject.structure)}
    branch = max(range(2), key=lambda i: ran[parents[i]])  # what ran last is not the shortcut
    work.edit(call, lambda func, args, named: args[branch])
    return True


@kind("residual-order", calls("relu"))
def _(work: Work, call: Call) -> bool:
    """Activation before the addition, in place of after it."""
    parent = work.subject.structure.by_name[call.node.parents[0]]
    add = next((c for c in work.subject.calls if c.node.name == parent.name and c.op == "add"), None)
    if add is None or add.nodes_read != 2:
        return False
    work.edit(call, lambda func, args, named: args[0])
    work.edit(add, lambda func, args, named: func(torch.relu(args[0]), *args[1:], **named))
    return True


@kind("rnn-last-step", calls("slice"))
def _(work: Work, call: Call) -> bool:
    index = call.node.config.get("index")
    if not isinstance(index, list) or -1 not in index:
        return False

    def change(func: Any, args: Any, named: Any) -> Any:
        return func(args[0], tuple(0 if isinstance(i, int) and i == -1 else i for i in args[1]))

    work.edit(call, change)
    return True


# --- blocks and layers that only one side has ---------------------------------------------------------------


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()]


def _repeated(subject: Subject) -> Iterator[Site]:
    """Blocks that follow one of the same kind and with weights of the same shapes."""
    ran = {node.scope for node in subject.structure} | set(subject.leaves)
    for path, parent in subject.paths.items():
        if not isinstance(parent, _LISTS):
            continue
        prefix = f"{path}." if path else ""
        for (_, one), (name, two) in pairwise(parent.named_children()):
            inner = sum(1 for module in two.modules() if any(True for _ in module.parameters(recurse=False)))
            if type(one) is type(two) and _shapes(one) == _shapes(two) and inner > 1 and not layers.is_leaf(two):
                inside = f"{prefix}{name}"
                if any(scope == inside or scope.startswith(f"{inside}.") for scope in ran):
                    yield inside


def _bypassable(subject: Subject) -> Iterator[Site]:
    """Smaller blocks that stand alone and give what they take, as to shape."""
    for path, module in subject.paths.items():
        inside = sum(name.startswith(f"{path}.") for name in subject.weighted)
        alone = path and not path.rpartition(".")[2].isdecimal() and not layers.is_leaf(module)
        kept = path in subject.gives and subject.reads[path][:1] == (subject.gives[path],)
        if alone and kept and 1 < inside <= len(subject.weighted) // 2:
            yield path


@kind("block-missing", _bypassable)
@kind("block-missing", _repeated)
def _(work: Work, path: Site) -> None:
    work.remove(path)


@kind("block-extra", _repeated)
def _(work: Work, path: Site) -> None:
    block = copy.deepcopy(work.model.get_submodule(path))
    with torch.no_grad():
        for weight in block.parameters():
            if weight.numel() > 1 and weight.is_floating_point():
                weight.copy_(weight.mean() + weight.std() * torch.randn_like(weight))
    work.insert(path, block)


@kind("block-repeated", _repeated)
def _(work: Work, path: Site) -> None:
    work.insert(path, copy.deepcopy(work.model.get_submodule(path)))


def _channels(subject: Subject) -> Iterable[Site]:
    return (p for p in subject.modules(nn.modules.conv._ConvNd, nn.Linear, *_NORMS) if len(subject.gives[p]) >= 2)


@kind("layer-extra", _channels)
def _(work: Work, path: Site) -> None:
    shape, layer = work.subject.gives[path], work.subject.leaves[path]
    last = isinstance(layer, nn.Linear | nn.LayerNorm)
    width = shape[-1] if last else shape[1]
    convolutions = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    work.insert(path, nn.Linear(width, width) if last or len(shape) < 3 else convolutions[len(shape)](width, width, 1))


@kind("normalisation-extra", _channels)
def _(work: Work, path: Site) -> None:
    shape, layer = work.subject.gives[path], work.subject.leaves[path]
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        work.insert(path, nn.LayerNorm(shape[-1]))
        return
    new = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](shape[1])
    with torch.no_grad():
        new.running_mean.normal_()  # type: ignore[union-attr]
        new.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        new.weight.uniform_(0.5, 2)
    work.insert(path, new)


@kind("dense-missing", of(nn.Linear, nn.modules.conv._ConvNd))
def _(work: Work, path: Site) -> bool:
    if work.subject.gives[path] != work.subject.reads[path][0]:
        return False
    work.remove(path)
    return True


# --- inputs and outputs -------------------------------------------------------------------------------------


def _fed(subject: Subject) -> list[tuple[int, ...]]:
    """Shape of the first floating-point input, where it may hold channels."""
    shapes = [values.shape for values in subject.inputs.values() if values.dtype.kind == "f"]
    return [shape for shape in shapes[:1] if len(shape) >= 3]


def _channel_axis(work: Work, shape: tuple[int, ...]) -> int:
    reader = next((c for p, c in work.subject.reads.items() if c and c[0] == shape), None)
    first = next((m for p, m in work.subject.leaves.items() if work.subject.reads[p][:1] == (reader or ())[:1]), None)
    return 1 if len(shape) == 4 or isinstance(first, nn.modules.conv._ConvNd) else len(shape) - 1


@kind("channel-order", _fed)
def _(work: Work, shape: tuple[int, ...]) -> bool:
    axis = _channel_axis(work, shape)
    work.feed(lambda x: x.flip(axis), moving=True)
    return shape[axis] > 1


@kind("input-scale", _fed)
def _(work: Work, shape: tuple[int, ...]) -> None:
    work.feed(lambda x: x / 255)


@kind("input-normalisation", _fed)
def _(work: Work, shape: tuple[int, ...]) -> None:
    work.feed(lambda x: (x - 0.45) / 0.225)


def _last(subject: Subject) -> list[str]:
    return list(subject.structure.outputs[:1])


@kind("logits", _last)
def _(work: Work, name: str) -> bool:
    """Probabilities where there were logits, or the other way round."""
    structure = work.subject.structure
    node = structure.by_name[name]
    node = structure.by_name[node.alias_of] if node.alias_of else node
    if node.kind in ("softmax", "sigmoid", "log_softmax"):
        call = next((c for c in work.subject.calls if c.node.name == node.name), None)
        if call is None:
            work.remove(node.owner)
        else:
            work.edit(call, lambda func, args, named: args[0])
        return True
    if len(node.shape or ()) < 2 or (node.shape or ())[-1] < 2:
        return False

    def change(output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return torch.softmax(output, 1 if output.dim() != 3 else -1)
        first = next(tensor for _, tensor in walk(output))
        if isinstance(output, Mapping):
            kind_of: Any = type(output)
            return kind_of(**{key: torch.softmax(v, -1) if v is first else v for key, v in output.items()})
        return type(output)(torch.softmax(v, -1) if v is first else v for v in output)

    work.finish(change)
    return True
