"""Recurrent layers and cells of Keras, PyTorch and ONNX in the one convention of the operations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes.operations.recurrent import GATES, role
from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.masking import masks_given, steps_that_count
from tracer.causes.step import Array, Step, Unknown

_STACKED = re.compile(r"(weight|bias)_(ih|hh|hr)(?:_l(\d+))?(_reverse)?")
_TORCH = {"lstm": "ifgo", "gru": "rzn", "rnn": "n"}
KERAS = {"lstm": "ifgo", "gru": "zrn", "rnn": "n"}
_ONNX = {"lstm": "iofg", "gru": "zrn", "rnn": "n"}
_BY_ONNX = {"affine": "affine", "hardsigmoid": "hard_sigmoid", "leakyrelu": "leaky_relu", "identity": "linear"}


def split_gates(values: Array, kind: str, order: str) -> Array:
    """(…, gates · units) as (…, gates, units), the gates in the operations' order."""
    units = values.shape[-1] // len(order)
    split = values.reshape(*values.shape[:-1], len(order), units)
    return split[..., [order.index(letter) for letter in GATES[kind]], :]


@reader("lstm", "gru", "rnn")
def recurrent(node: Read) -> Step:
    """A layer, or several in one."""
    step = _read(node)
    if step.settings.get("doubtful"):
        step = settled(node, step)
    masks = list(masks_given(node)) if node.framework == "tensorflow" and step.settings.get("mask") is None else []
    return inferring.likely(node, step, lambda: (step.set(mask=given) for given in masks), terms=64) if masks else step


@reader("lstm_cell", "gru_cell", "rnn_cell")
def cell(node: Read) -> Step:
    """One step of a cell."""
    kind = node.node.kind.removesuffix("_cell")
    found = _torch_weights(node, kind) if node.torch_like else _keras_weights(own_weights(node), kind, "")
    if not found:
        raise Unknown("its weights were not recorded")
    settings = {"gates": GATES[kind], **functions_of(node, kind)}
    if kind == "gru":
        settings["reset_after"] = node.torch_like or bool(node.config.get("reset_after", True))
    settings.pop("doubtful", None)
    return inferring.step_of(node, **settings).weigh(**found)


def states(node: Read, parent: Read, place: str) -> Step:
    """A further output of a layer: its last states. Raises Unknown."""
    whole = recurrent(parent) if not parent.node.kind.endswith("_cell") else cell(parent)
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", place)]
    kind = whole.kind.removesuffix("_cell")
    if whole.kind.endswith("_cell") or node.framework == "onnx":
        settings: dict[str, Any] = {"result": "hc"[numbers[-1] - (0 if len(numbers) > 1 else 1)] if numbers != [1] or
                                    node.framework == "onnx" else "c"}  # fmt: skip
    elif node.torch_like:  # output, (h, c) or output, h
        settings = {"result": "hc"[numbers[1]] if len(numbers) > 1 else "h"}
    else:
        each = 2 if kind == "lstm" else 1
        index = numbers[-1] - 1
        settings = {"result": "hc"[index % each], "of": index // each}
    return replace(whole.set(**settings), name=node.node.name, shape=node.node.shape)


def _read(node: Read) -> Step:
    if node.framework == "pytorch":
        return _torch(node)
    return _onnx(node) if node.framework == "onnx" else _keras(node)


def own_weights(node: Read) -> dict[str, Array]:
    """Every weight of the layer, also where an earlier call lists them."""
    names = [param.name for param in node.node.params]
    if not names:
        names = [name for owner, name in node.recording.weights if owner == node.node.owner]
    return {name: node.named(name) for name in names}


def _torch(node: Read) -> Step:
    kind = node.node.kind
    found = _torch_weights(node, kind)
    if not found:
        raise Unknown("its weights were not recorded")
    layers = 1 + max((int(m[1]) for name in found if (m := re.search(r"_l(\d+)", name))), default=0)
    settings = {
        "gates": GATES[kind],
        "layers": layers,
        "bidirectional": any(name.endswith("_reverse") for name in found),
        "merge_mode": "concat",
        "time": 1 if node.config.get("batch_first") else 0,
        "return_sequences": True,
        **functions_of(node, kind),
    }
    if kind == "gru":
        settings["reset_after"] = True
    return inferring.step_of(node, **settings).weigh(**found)


def _torch_weights(node: Read, kind: str) -> dict[str, Array]:
    found = {}
    for name, value in own_weights(node).items():
        match = _STACKED.fullmatch(name)
        if match is None:
            continue
        what, which, layer, backward = match[1], match[2], int(match[3] or 0), bool(match[4])
        if which == "hr":
            found[role("projection", layer, backward=backward)] = value.T
            continue
        word = {"weight": {"ih": "kernel", "hh": "recurrent_kernel"}, "bias": {"ih": "bias", "hh": "recurrent_bias"}}
        plain = value.T if what == "weight" else value
        found[role(word[what][which], layer, backward=backward)] = split_gates(plain, kind, _TORCH[kind])
    return found


def _keras(node: Read) -> Step:
    kind, config = node.node.kind, node.config
    if config.get("time_distributed"):
        raise Unknown("a recurrent layer for every step of another axis is not computed")
    own = own_weights(node)
    both = bool(config.get("bidirectional")) or any(name.startswith("backward/") for name in own)
    found = _keras_weights(own, kind, "forward/" if both else "")
    if both:
        found |= {f"{name}_reverse": value for name, value in _keras_weights(own, kind, "backward/").items()}
    if "kernel" not in found or "recurrent_kernel" not in found:
        raise Unknown("its weights were not recorded")
    time = 0 if config.get("time_major") else 1
    sequences = bool(config.get("return_sequences", len(node.shape) == 3))
    if both and config.get("merge_mode", "concat") is None:
        raise Unknown("both directions apart are not computed")
    settings: dict[str, Any] = {
        "gates": GATES[kind],
        "bidirectional": both,
        "merge_mode": config.get("merge_mode", "concat"),
        "reverse": bool(config.get("go_backwards")) and not both,
        "time": time,
        "return_sequences": sequences,
        **functions_of(node, kind),
    }
    if kind == "gru":
        after = config.get("reset_after")
        settings["reset_after"] = "recurrent_bias" in found if after is None else bool(after)
    mask = steps_that_count(node)
    if mask is not None:
        settings["mask"] = mask
        if both and sequences:  # Keras lets nothing of one direction stand where the other has not begun
            settings["hidden"] = "zeros"
    return inferring.step_of(node, **settings).weigh(**found)


def _keras_weights(own: Mapping[str, Array], kind: str, prefix: str) -> dict[str, Array]:
    found = {}
    for name, value in own.items():
        last = name.removeprefix(prefix).rpartition("/")[2] if name.startswith(prefix) else ""
        if last in ("kernel", "recurrent_kernel"):
            found[last] = split_gates(value, kind, KERAS[kind])
        elif last == "bias":
            units = next((v.shape[0] for n, v in own.items() if n.endswith("recurrent_kernel")), 0)
            gates = len(KERAS[kind]) * units
            rows = value.reshape(-1, gates) if gates and value.size % gates == 0 else value[None]
            for word, row in zip(("bias", "recurrent_bias"), rows, strict=False):
                found[word] = split_gates(row, kind, KERAS[kind])
    if "kernel" in found and "recurrent_kernel" not in found:
        return {}
    return found


def functions_of(node: Read, kind: str) -> dict[str, Any]:
    """The names of the functions; Keras 3 has another ``hard_sigmoid`` than those before it."""
    config = node.config
    found: dict[str, Any] = {"activation": _named(config.get("activation") or "tanh")}
    if kind != "rnn":
        gates = _named(config.get("recurrent_activation") or "sigmoid")
        found["recurrent_activation"] = gates
        if "hard_sigmoid" in (gates, found["activation"]):
            found["doubtful"] = True
    return found


def _named(word: Any) -> str:
    return {"swish": "silu", "hardsigmoid": "hard_sigmoid", "identity": "linear"}.get(str(word), str(word))


def settled(node: Read, step: Step) -> Step:
    """Which of both hard sigmoids: what the recorded values say, else what the library does."""
    plain = replace(step, settings={key: value for key, value in step.settings.items() if key != "doubtful"})
    newer = {
        word: "hard_sigmoid_sixth"
        for word in ("activation", "recurrent_activation")
        if plain.settings.get(word) == "hard_sigmoid"
    }
    versions = node.recording.attributes.get("versions")
    third = isinstance(versions, dict) and "tf_keras" not in versions and str(versions.get("keras", "3"))[0] >= "3"
    usual, other = (plain.set(**newer), plain) if third and node.framework != "onnx" else (plain, plain.set(**newer))
    try:
        return inferring.likely(node, usual, lambda: [other], terms=64)
    except Unknown:
        return usual


def _onnx(node: Read) -> Step:
    kind, config = node.node.kind, node.config
    own = own_weights(node)
    if "kernel" not in own or "recurrent_kernel" not in own:
        raise Unknown("its weights were not recorded")
    if "peephole" in own or any(word in config for word in ("clip", "input_forget")):
        raise Unknown("peepholes and clipped gates are not computed")
    both = own["kernel"].shape[0] == 2
    found: dict[str, Array] = {}
    for way in range(own["kernel"].shape[0]):
        for name, plain in _directed(own, way, kind):
            found[role(name, backward=way == 1)] = plain
    found |= {name: own[name] for name in ("initial_h", "initial_c") if name in own}
    settings: dict[str, Any] = {
        "gates": GATES[kind],
        "bidirectional": both,
        "reverse": bool(config.get("go_backwards")),
        "realign": True,
        "time": 0,
        "form": "onnx",
        **functions_of(node, kind),
        **_told(config, kind),
    }
    if kind == "gru":
        settings["reset_after"] = bool(config.get("reset_after", False))
    return inferring.step_of(node, node.node.parents, **settings).weigh(**found)


def _directed(own: Mapping[str, Array], way: int, kind: str) -> Iterator[tuple[str, Array]]:
    for name in ("kernel", "recurrent_kernel"):
        yield name, split_gates(own[name][way].T, kind, _ONNX[kind])
    if "bias" in own:
        first, second = np.split(own["bias"][way], 2)
        yield "bias", split_gates(first, kind, _ONNX[kind])
        yield "recurrent_bias", split_gates(second, kind, _ONNX[kind])


def _told(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The functions that ONNX lists: of the gates, of the candidate, of the output."""
    listed = config.get("activations")
    if not isinstance(listed, list):
        return {}
    names = [_BY_ONNX.get(str(word).lower(), str(word).lower()) for word in listed]
    each = {"lstm": 3, "gru": 2, "rnn": 1}[kind]
    if len(names) > each and names[:each] != names[each : 2 * each]:
        raise Unknown("both directions have other functions")
    if kind == "rnn":
        return {"activation": names[0]}
    found = {"recurrent_activation": names[0], "activation": names[1]}
    return found | ({"output_activation": names[2]} if kind == "lstm" else {})
