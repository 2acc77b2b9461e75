"""What to change on the candidate's side: a line of its framework where there is one, else what to do in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import arguments, operations, patching
from tracer.causes.advice import WORDS, moved
from tracer.causes.case import Case, Side, layer_of
from tracer.causes.change import Change, Library, Scalar, Value
from tracer.causes.cropped import before_crop
from tracer.causes.edit import Edit
from tracer.causes.naming import said
from tracer.causes.refitting import refits
from tracer.causes.step import Step
from tracer.graph import Node
from tracer.store import Recording

_TORCH_ATTRIBUTES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "epsilon": ("eps", ("Norm",)),
    "momentum": ("momentum", ("BatchNorm", "InstanceNorm")),
    "negative_slope": ("negative_slope", ("LeakyReLU",)),
    "alpha": ("alpha", ("ELU", "CELU")),
    "beta": ("beta", ("Softplus",)),
    "threshold": ("threshold", ("Softplus", "Threshold")),
    "value": ("value", ("Threshold",)),
    "min_value": ("min_val", ("Hardtanh",)),
    "max_value": ("max_val", ("Hardtanh",)),
    "approximate": ("approximate", ("GELU",)),
    "axis": ("dim", ("Softmax", "LogSoftmax", "GLU")),
    "strides": ("stride", ("Conv", "Pool")),
    "dilation": ("dilation", ("Conv", "MaxPool")),
    "padding": ("padding", ("Conv1d", "Conv2d", "Conv3d", "Pool")),
    "padding_mode": ("padding_mode", ("Conv1d", "Conv2d", "Conv3d")),
    "pool_size": ("kernel_size", ("MaxPool", "AvgPool")),
    "count_include_pad": ("count_include_pad", ("AvgPool",)),
    "output_size": ("output_size", ("Adaptive",)),
    "rate": ("p", ("Dropout",)),
    "groups": ("num_groups", ("GroupNorm",)),
    "align_corners": ("align_corners", ("Upsample",)),
    "time": ("batch_first", ("LSTM", "GRU", "RNN")),
}
"""By setting: the attribute of the module, and words that the class has in its name."""
_KERAS_ATTRIBUTES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "epsilon": ("epsilon", ("Normalization",)),
    "momentum": ("momentum", ("BatchNormalization",)),
    "negative_slope": ("negative_slope", ("LeakyReLU", "ReLU")),
    "alpha": ("alpha", ("ELU",)),
    "max_value": ("max_value", ("ReLU",)),
    "threshold": ("threshold", ("ReLU",)),
    "axis": ("axis", ("Softmax",)),
    "strides": ("strides", ("Conv", "Pooling")),
    "dilation": ("dilation_rate", ("Conv",)),
    "padding": ("padding", ("Conv", "Pooling")),
    "pool_size": ("pool_size", ("MaxPooling", "AveragePooling")),
    "groups": ("groups", ("GroupNormalization",)),
    "rate": ("rate", ("Dropout",)),
}
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
"""Modes of padding that PyTorch's convolutions have, as :func:`torch.nn.functional.pad` calls them."""


@dataclass(frozen=True)
class Fix:
    """What to do: lines for a person, and the same as changes of the live candidate where that is possible."""

    text: str
    changes: tuple[Change, ...] = ()


def _layer(side: Side, name: str) -> Node:
    structure = side.recording.structure
    return layer_of(structure, name if name in structure.by_name else side.node.name)


def of(case: Case, edit: Edit) -> Fix:
    """The fix of a difference; its text is never empty for an id of the catalogue."""
    at = _At(case, edit)
    changes = at.changes()
    if changes:
        called = at.called() if changes[0].what == "call" else ""
        return Fix(called or "\n".join(map(patching.line, changes)), changes)
    return Fix(at.called() or at.alone() or edit.fix or at.words())


@dataclass(frozen=True)
class _At:
    """Where a fix goes: the candidate's node, and what the reference has there."""

    case: Case
    edit: Edit

    @cached_property
    def node(self) -> Node:
        side = self.case.ours if self.case.turned_round else self.case.theirs
        name = self.edit.step if self.case.turned_round else self.edit.twin
        return _layer(side, name)

    @cached_property
    def other(self) -> Node:
        side = self.case.theirs if self.case.turned_round else self.case.ours
        name = self.edit.twin if self.case.turned_round else self.edit.step
        return _layer(side, name)

    @property
    def recording(self) -> Recording:
        """The candidate's."""
        return (self.case.ours if self.case.turned_round else self.case.theirs).recording

    @cached_property
    def library(self) -> Library | None:
        """Whose objects the candidate's nodes are; None for graphs, which have no objects to change."""
        loader = str(self.recording.attributes.get("loader", ""))
        if self.recording.framework == "pytorch":
            return None if any(word in loader for word in ("script", "export", ".pt2")) else "torch"
        if self.recording.framework == "tensorflow":
            return "tf_keras" if loader.startswith("tf_keras") else "keras" if loader.startswith("keras") else None
        return None

    @cached_property
    def shared(self) -> bool:
        """Whether the layer is called elsewhere too, so that changing it changes more than this place."""
        own = self.node
        return any(node.owner == own.owner and node.call != own.call for node in self.recording.structure)

    @cached_property
    def wanted(self) -> Step | None:
        """The reference's step."""
        side = self.case.theirs if self.case.turned_round else self.case.ours
        name = self.edit.twin if self.case.turned_round else self.edit.step
        steps = side.program.steps if side.program is not None else ()
        return next((step for step in steps if step.name == name), None)

    @cached_property
    def own(self) -> Step | None:
        """The candidate's step."""
        side = self.case.ours if self.case.turned_round else self.case.theirs
        name = self.edit.step if self.case.turned_round else self.edit.twin
        steps = side.program.steps if side.program is not None else ()
        return next((step for step in steps if step.name == (name or self.node.name)), None)

    @property
    def extra(self) -> bool:
        """Whether the candidate has this step alone."""
        names = (self.edit.step, self.edit.twin) if self.case.turned_round else (self.edit.twin, self.edit.step)
        return bool(self.edit.detail.get("alone") and names[0] and not names[1])

    @property
    def missing(self) -> Step | None:
        """The step that the reference has alone."""
        names = (self.edit.step, self.edit.twin) if self.case.turned_round else (self.edit.twin, self.edit.step)
        return self.wanted if self.edit.detail.get("alone") and names[1] and not names[0] else None

    @cached_property
    def behind(self) -> Node | None:
        """The candidate's node behind which a step is missing."""
        missing = self.missing
        if missing is None or not missing.inputs:
            return None
        side = self.case.theirs if self.case.turned_round else self.case.ours
        other = self.case.ours if self.case.turned_round else self.case.theirs
        twins = dict(side.above) | {twin: name for name, twin in other.above.items()}
        name = missing.inputs[0]
        if name in twins:
            return other.recording.structure.by_name.get(twins[name])
        kind = next((step.kind for step in side.program.steps if step.name == name), "") if side.program else ""
        steps = [step for step in other.program.steps if step.kind == kind] if other.program and kind else []
        return other.recording.structure.by_name.get(steps[0].name) if len(steps) == 1 else None

    def _added(self, missing: Step) -> tuple[Change, ...]:
        """An activation behind a module, or fused into a layer of Keras that has none."""
        node = self.behind
        if node is None or node.role != "layer" or not node.owner or self._calls(node) > 1 or self.library is None:
            return ()
        flat = self._flat(missing)
        if self.library == "torch":
            return (Change("torch", "behind", node.owner, "", flat),) if missing.kind in patching.TORCH_MODULES else ()
        fits = "activation" in node.config and "." not in node.label and missing.kind in patching.KERAS_ACTIVATIONS
        return (Change(self.library, "activation", node.owner, "", flat),) if fits else ()

    def _scaled(self, missing: Step) -> tuple[Change, ...]:
        """What is done to the model's input alone, all that is missing up to here, before the layer that reads it."""
        mine, its = (self.case.theirs, self.case.ours) if self.case.turned_round else (self.case.ours, self.case.theirs)
        twins = dict(mine.above) | {twin: name for name, twin in its.above.items()}
        steps = {step.name: step for step in mine.program.steps} if mine.program is not None else {}
        chain = [missing]
        while chain[-1].inputs and chain[-1].inputs[0] not in twins and chain[-1].inputs[0] in steps:
            chain.append(steps[chain[-1].inputs[0]])
        structure = its.recording.structure
        source = structure.by_name.get(twins.get(chain[-1].inputs[0], "") if chain[-1].inputs else "")
        if self.library != "torch" or source is None or source.role != "input" or source.shape is None:
            return ()
        readers = [
            node for node in map(structure.by_name.__getitem__, structure.children[source.name])
            if node.role != "container"
        ]  # fmt: skip
        if any(step.kind not in ("rescaling", "normalization") for step in chain) or len(readers) != 1:
            return ()
        (reader,) = readers
        if reader.role != "layer" or not reader.owner or self._calls(reader) > 1:
            return ()
        lengths = next((step.weights["mean"].shape for step in chain if "mean" in step.weights), (1,))
        axes = [axis for axis, length in enumerate(lengths) if length != 1]
        if len(axes) > 1:
            return ()
        ends = [np.zeros(lengths), np.ones(lengths)]
        for step in reversed(chain):
            ends = [operations.run(step, [values]) for values in ends]
        offset, scale = ends[0], ends[1] - ends[0]
        way = self.case.axes.get(chain[-1].inputs[0])
        axis = axes[0] if axes else 0
        at = axis if way is None or way[axis] is None else way[axis]
        numbers = (float(one) for values in (scale, offset) for one in values.reshape(-1))
        return (Change("torch", "affine", reader.owner, "", (int(at or 0), len(source.shape), *numbers)),)

    def _call(self) -> tuple[Change, ...]:
        """Another argument of a function that a module calls once, and nothing below it."""
        node, value = self.node, _plain(self.edit.values[0])
        recording = (self.case.ours if self.case.turned_round else self.case.theirs).recording
        inside = f"{node.scope}." if node.scope else ""
        alike = [
            other for other in recording.structure
            if other.kind == node.kind and (other.scope == node.scope or other.name.startswith(inside))
        ]  # fmt: skip
        if len(alike) != 1 or value is None or not node.label.startswith("torch.nn.functional."):
            return ()
        key = self.edit.key
        name = node.label.rpartition(".")[2]
        if node.kind == "attention" and key == "mask" and {*self.edit.values} == {"none", "causal"}:
            return (Change("torch", "call", node.scope, name, ("is_causal", value == "causal")),)
        if key not in arguments.ARGUMENTS or self.edit.values[0] == self.edit.values[1]:
            return ()
        value = self._axis(value) if key == "axis" else value
        return (Change("torch", "call", node.scope, name, (arguments.CALLED.get(key, key), *_one(value))),)

    def _left_out(self) -> tuple[Change, ...]:
        """A module that hands on what it is given; a fused activation that does nothing."""
        if not self.node.owner or self._calls(self.node) > 1:
            return ()
        if self.library == "torch":
            return self._change("module", "", ("identity",)) if len(self.node.parents) == 1 else ()
        fused = self.node.role == "layer" and "." in self.node.label
        return self._change("activation", "", ("identity",)) if fused else ()

    def _calls(self, node: Node) -> int:
        """How often a layer runs."""
        recording = (self.case.ours if self.case.turned_round else self.case.theirs).recording
        return len({other.call for other in recording.structure if other.owner == node.owner})

    def _bias(self) -> tuple[Change, ...]:
        """A bias that only one side has."""
        roles = self.edit.key.split(", ")
        if (
            self.library != "torch"
            or roles != ["bias"]
            or self.own is None
            or self.wanted is None
            or not self.edit.seen
        ):
            return ()
        if self.node.label not in ("Linear", "Conv1d", "Conv2d", "Conv3d"):
            return ()
        if "bias" in self.own.weights and "bias" not in self.wanted.weights:
            return self._change("set", "bias", None)
        source = next((param.name for param in self.other.params if "bias" in param.name), None)
        if source is None or "bias" in self.own.weights or "bias" not in self.wanted.weights:
            return ()
        return (Change("torch", "weight", self.node.owner, "bias", None, (self.other.owner, source)),)

    def alone(self) -> str:
        """What to add or to leave out where one side has a step alone; empty for anything else."""
        missing, node = self.missing, self.node
        if self.extra:
            where = f"{node.source}: " if node.source else ""
            return f"{where}leave out {node.name} ({node.label})"
        if missing is None:
            return ""
        what = "add the reference's permute" if missing.kind == "permute" else f"add {_what(missing)}"
        if missing.settings.get("side", "right") == "right" and (number := _plain(missing.settings.get("operand"))):
            what = f"{arguments.VERBS[missing.kind]} {said(number)}" if missing.kind in arguments.VERBS else what
        if self.behind is not None:
            source = f" ({self.behind.source})" if self.behind.source else ""
            return f"{what} behind {self.behind.name}{source}, as {self.other.name} is in the reference"
        return f"{what} before {node.name}, as {self.other.name} is in the reference"

    def changes(self) -> tuple[Change, ...]:
        """In memory; none where that cannot be done."""
        if self.library is None:
            return ()
        if self.missing is not None:
            return self._added(self.missing) or self._scaled(self.missing)
        if self.node.role == "op" and self.library == "torch":
            return self._call()
        if self.node.role not in ("layer", "activation"):
            return ()
        if self.extra:
            return self._left_out()
        bias = self._bias()
        if bias:
            return bias
        if self.own is not None and self.wanted is not None and self.edit.seen:
            roles = [role for role in self.edit.key.split(", ") if role in self.own.weights]
            if roles and len(roles) == len(self.edit.key.split(", ")):
                return self._weights(roles)
        if not self.edit.key or self.edit.values == (None, None) or not self.node.owner:
            return ()
        if self.shared and self.edit.key in ("kind", "negative_slope", "alpha", "approximate"):
            return ()
        if self.edit.key == "kind":
            return self._exchanged()
        if self.edit.key == "mode" and self.node.kind == "batchnorm":
            return self._change("eval") if self.library == "torch" and self.edit.values[0] == "eval" else ()
        if self.library == "torch":
            return self._torch(self.edit.key, self.edit.values[0])
        return self._keras(self.edit.key, self.edit.values[0])

    def _change(self, what: Any, name: str = "", value: Value = None) -> tuple[Change, ...]:
        assert self.library is not None
        return (Change(self.library, what, self.node.owner, name, value),)

    def _weights(self, roles: list[str]) -> tuple[Change, ...]:
        ours, theirs = (self.own, self.wanted) if self.case.turned_round else (self.wanted, self.own)
        assert ours is not None
        assert theirs is not None
        assert self.library is not None
        found = refits(self.case, ours, theirs, roles)
        return tuple(
            Change(self.library, "weight", self.node.owner, one.param, None, one.source, one.moves)
            for one in found or ()
        )

    def _torch(self, key: str, value: Any) -> tuple[Change, ...]:
        attribute, classes = _TORCH_ATTRIBUTES.get(key, ("", ()))
        if not any(word in self.node.label for word in classes):
            return ()
        if key == "padding":
            return self._torch_padding(value)
        if key == "padding_mode" and (value not in _MODES or not self._padded_alike()):
            return ()
        if key == "groups" and self.node.kind != "groupnorm":
            return ()
        if key == "momentum":
            value = round(1 - float(value), 12)
        if key == "axis":
            value = self._axis(value)
        if key == "time":
            value = bool(value)
        if key == "approximate" and value not in ("none", "tanh"):
            return ()
        if key == "align_corners" and not isinstance(value, bool):
            return ()
        plain = _plain(value)
        return () if plain is None else self._change("set", attribute, plain)

    def _torch_padding(self, pairs: Any) -> tuple[Change, ...]:
        """The module's own padding where it is zeros and the same on both ends, else a padding before it."""
        pairs = before_crop(self.recording, self.own, pairs)
        pooling = self.node.kind in kinds.POOLS
        steps = (self.wanted, self.own)
        modes = [str(step.settings.get("padding_mode", "zeros")) if step else "zeros" for step in steps]
        plain = all(a == b for a, b in pairs) and modes == ["zeros", "zeros"]
        if plain and (not pooling or self._half(pairs)):
            return self._change("set", "padding", tuple(a for a, _ in pairs))
        names = {**_MODES, "zeros": "-inf" if pooling else "constant"}
        counts = pooling and not self.node.kind.startswith("max")
        if counts or modes[0] not in names or any(min(pair) < 0 for pair in pairs):
            return ()
        none = self._change("set", "padding", (0,) * len(pairs))
        if modes[1] != "zeros":
            none += self._change("set", "padding_mode", "zeros")
        amounts = tuple(amount for pair in reversed(pairs) for amount in pair)
        return (*none, *self._change("pad", names[modes[0]], amounts))

    def _padded_alike(self) -> bool:
        """Whether both sides pad by the same amounts, so that nothing but the mode is to be set."""
        if self.own is None or self.wanted is None:
            return False
        return bool(self.own.settings.get("padding") == self.wanted.settings.get("padding"))

    def _half(self, pairs: list[tuple[int, int]]) -> bool:
        """Whether PyTorch takes such a padding: at most half of the window."""
        windows = self.wanted.settings.get("pool_size", ()) if self.wanted is not None else ()
        return all(2 * a <= window for (a, _), window in zip(pairs, windows, strict=False))

    def _keras(self, key: str, value: Any) -> tuple[Change, ...]:
        attribute, classes = _KERAS_ATTRIBUTES.get(key, ("", ()))
        fused = self.node.label.rpartition(".")[2] if self.node.role == "layer" and "." in self.node.label else ""
        if key == "approximate" and (fused or self.node.label == "Activation"):
            return (
                self._change("activation", "", ("gelu", "approximate", str(value))) if value in ("none", "tanh") else ()
            )
        if fused or not any(word in self.node.label for word in classes):
            return ()
        if key == "negative_slope" and self.library == "tf_keras" and self.node.label == "LeakyReLU":
            attribute = "alpha"
        if key == "axis":
            value = self._axis(value)
        if key == "groups" and self.node.kind != "groupnorm":
            return ()
        if key == "padding":
            word = self._keras_padding(value)
            return self._change("set", attribute, word) if word else ()
        plain = _plain(value)
        return () if plain is None else self._change("set", attribute, plain)

    def _keras_padding(self, pairs: Any) -> str:
        """``same`` or ``valid`` where that is what the reference pads; empty where neither is."""
        pairs = [(int(a), int(b)) for a, b in pairs]
        if not any(map(any, pairs)):
            return "valid"
        lengths = self._spatial_lengths(len(pairs))
        step = self.wanted
        window = self._window(len(pairs))
        if lengths is None or step is None or window is None:
            return ""
        strides = step.settings.get("strides", (1,) * len(pairs))
        dilation = step.settings.get("dilation", (1,) * len(pairs))
        for pair, n, k, s, d in zip(pairs, lengths, window, strides, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            if pair != (total // 2, total - total // 2):
                return ""
        return "same"

    def _spatial_lengths(self, rank: int) -> tuple[int, ...] | None:
        recording = (self.case.ours if self.case.turned_round else self.case.theirs).recording
        if not self.node.parents:
            return None
        shape = recording.structure.by_name[self.node.parents[0]].shape
        if shape is None or len(shape) != rank + 2:
            return None
        return shape[2:] if self.node.layout == "channels_first" else shape[1:-1]

    def _window(self, rank: int) -> tuple[int, ...] | None:
        step = self.wanted
        if step is None:
            return None
        if "pool_size" in step.settings:
            return tuple(step.settings["pool_size"])
        kernel = step.weights.get("depthwise_kernel", step.weights.get("kernel"))
        return None if kernel is None else kernel.shape[:rank]

    def _axis(self, axis: Any) -> Any:
        """An axis of the reference's tensor in the candidate's own order."""
        if self.case.turned_round or not isinstance(axis, int):
            return axis
        name = self.edit.step
        step = self.wanted
        axes = self.case.axes.get(step.inputs[0] if step is not None and step.inputs else name) or self.case.axes.get(
            name
        )
        if axes is None:
            return axis
        found = axes[axis % len(axes)]
        return axis if found is None else found

    def _flat(self, step: Step) -> tuple[Scalar, ...]:
        """A kind of the reference's with its settings, as :class:`Change` holds them, its axis in the candidate's."""
        settings = dict(step.settings)
        if self.library == "torch" and isinstance(axis := settings.pop("axis", None), int):
            settings["dim"] = self._across(axis)
        plain = [(key, value) for key, value in settings.items() if isinstance(value, bool | int | float | str)]
        return (step.kind, *(part for pair in plain for part in pair))

    def _across(self, axis: int) -> int:
        """An axis of the reference's result in the candidate's."""
        axes = self.case.axes.get(self.case.ours.node.name)
        if axes is None or (self.case.turned_round and axis % len(axes) not in axes):
            return axis
        found = axes.index(axis % len(axes)) if self.case.turned_round else axes[axis % len(axes)]
        return axis if found is None else found

    def _exchanged(self) -> tuple[Change, ...]:
        """Another activation in the place of one that is a module, or fused into a layer of Keras."""
        wanted = self.wanted
        if wanted is not None and self.library == "torch" and wanted.kind in patching.TORCH_POOLS:
            return self._pool(wanted)
        if wanted is None or not (self.node.kind in kinds.ACTIVATIONS or self.node.kind in ("clip", "identity")):
            return ()
        flat = self._flat(wanted)
        if self.library == "torch":
            return self._change("module", "", flat) if wanted.kind in patching.TORCH_MODULES else ()
        fused = "." in self.node.label or self.node.label == "Activation"
        return self._change("activation", "", flat) if fused and wanted.kind in patching.KERAS_ACTIVATIONS else ()

    def _pool(self, wanted: Step) -> tuple[Change, ...]:
        """The reference's pooling in the place of another one."""
        if self.node.kind not in patching.TORCH_POOLS:
            return ()
        sizes = [set(wanted.settings.get(key, ())) for key in ("pool_size", "strides")]
        pads = {amount for pair in wanted.settings.get("padding", ()) for amount in pair}
        if any(len(size) != 1 for size in sizes) or len(pads) > 1 or wanted.settings.get("ceil"):
            return ()
        (size,), (stride,), pad = *sizes, max(pads, default=0)
        counts: tuple[Scalar, ...] = ()
        if wanted.kind.startswith("avg") and pad:
            counts = ("count_include_pad", bool(wanted.settings.get("count_include_pad")))
        flat = (wanted.kind, "kernel_size", int(size), "stride", int(stride), "padding", int(pad), *counts)
        return self._change("module", "", flat)

    def called(self) -> str:
        """The call to change, for functions and for graphs; empty where the setting is not of that kind."""
        key, value = self.edit.key, self.edit.values[0]
        if not key or value is None or key == "kind" or value == self.edit.values[1]:
            return ""
        framework = self.recording.framework
        if key == "axis":
            value = self._axis(value)
        if framework == "onnx":
            attribute = arguments.ATTRIBUTES.get(key)
            return f"set the attribute {attribute} of the node {self.node.name} to {said(value)}" if attribute else ""
        own = self.own
        computes = self.node.kind in kinds.COMBINING | kinds.ELEMENTWISE
        several = own is not None and (own.kind != self.node.kind or (computes and key not in own.settings))
        alien = own is None and self.wanted is not None and not kinds.similarity(self.wanted.kind, self.node.kind)
        if key in arguments.OURS or several or alien:
            return ""  # it stands for several operations
        if self.node.role == "op" and framework == "pytorch":
            function = self.node.label.replace("torch.nn.functional.", "F.").replace("torch.Tensor.", "Tensor.")
            where = f"{self.node.source}: " if self.node.source else f"in {self.node.scope or 'forward'}: "
            name = arguments.CALLED.get(key, key)
            if self.node.kind == "attention" and key == "mask":
                if {*self.edit.values} != {"none", "causal"}:
                    return ""
                name, value = "is_causal", value == "causal"
            if key == "momentum":
                value = round(1 - float(value), 12)
            if key == "coordinates":
                name, value = "align_corners", value == "align_corners"
            if key == "mode" and self.node.kind in ("resize", "upsample"):
                value = arguments.INTERPOLATIONS.get((str(value), len(self.node.shape or ())), value)
            if key == "operand":
                return f"{where}{function}(…, {_code(value)})" if _plain(value) is not None else ""
            if key == "padding":
                pads = _torch_pads(before_crop(self.recording, own, value))
                return f"{where}x = F.pad(x, {pads}) before {function}, with padding=0"
            return f"{where}{function}(…) with {name}={_code(value)}" if _plain(value) is not None else ""
        return ""

    def words(self) -> str:
        """What to do in words, by the cause; for a plain setting, what to set."""
        key, values = self.edit.key, self.edit.values
        node, other = self.node, self.other
        if self.library in ("keras", "tf_keras") and key == "padding" and values[0] is not None:
            rank = len(values[0])
            pads = "(" + ", ".join(f"({a}, {b})" for a, b in before_crop(self.recording, self.own, values[0])) + ")"
            return f"keras.layers.ZeroPadding{rank}D({pads}) before {node.owner}, which takes padding='valid'"
        if self.library == "torch" and key == "padding_mode" and values[0] is not None:
            return f"{patching.module(node.owner)}: build it with padding_mode={said(values[0])!r}, or pad before it"
        if self.edit.cause == "bn-mode" and values[0] == "train":
            return f"the reference's {other.name} is in training mode: record it again in evaluation mode"
        template = WORDS.get(self.edit.cause)
        place = f"{node.source} ({node.label})" if node.source else node.name
        if key == "permutation" and (told := moved(self.edit.cause, place, self.library or "", values)):
            return told
        about = {"node": node.name, "other": other.name, "place": place, "reference": _what(self.wanted)}
        told = template.format(**about) if template else ""
        plain = key not in ("", "kind") and key not in arguments.OURS and _plain(values[0]) is not None
        if plain and values[0] is not None and values != (None, None):
            exact = f"set {key} of {node.name} to {said(values[0])}"
            return exact if not told else f"{told}: {key} {said(values[0])}"
        return told


def _one(value: Value) -> tuple[Scalar, ...]:
    """A value as one of several, which holds no tuple."""
    return () if value is None or isinstance(value, tuple) else (value,)


def _what(step: Step | None) -> str:
    if step is None:
        return "see above"
    numbers = ", ".join(
        f"{key} {said(value)}" for key, value in step.settings.items() if isinstance(value, float | str)
    )
    return f"{step.kind} ({numbers})" if numbers else step.kind


def _plain(value: Any) -> Value:
    """A setting as Python writes it; None where it is more than numbers and words."""
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, tuple | list) and all(isinstance(one, bool | int | float | str) for one in value):
        return tuple(value)
    return None


def _code(value: Any) -> str:
    plain = _plain(value)
    return patching.written(plain) if plain is not None else said(value)


def _torch_pads(pairs: Any) -> str:
    return patching.written(tuple(int(amount) for pair in reversed(list(pairs)) for amount in pair))
