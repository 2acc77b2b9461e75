"""Defects on the Keras side, where the PyTorch model is the reference: a porter's wrong arguments and wrong weights.

A Keras model is rebuilt layer by layer, with other arguments, another call or other weights for one of them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus.mutations.second.registry import PLANS, RIGHT, VAGUE
from benchmarks.corpus.mutations.subject import LEAST_CHANGE
from benchmarks.corpus.record import home
from benchmarks.defects import Bench, Stale

VERSION = 2
_MOST_SITES = 6


@dataclass
class Rebuild:
    """What is to be other in a copy of a Keras model, by the layers' names."""

    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    calls: dict[str, Callable[..., Any]] = field(default_factory=dict)
    weights: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = field(default_factory=dict)

    def of(self, model: Any) -> Any:
        """The copy. Raises what Keras raises where the layers behind do not take what they get."""
        import keras

        def clone(layer: Any) -> Any:
            config = layer.get_config() | self.config.get(layer.name, {})
            cls = getattr(keras.layers, self.classes[layer.name]) if layer.name in self.classes else type(layer)
            if layer.name in self.classes:
                config = {"name": layer.name} | self.config.get(layer.name, {})
            return cls.from_config(config)

        def call(layer: Any, *args: Any, **named: Any) -> Any:
            return self.calls.get(layer.name, lambda layer, *a, **k: layer(*a, **k))(layer, *args, **named)

        further = {"call_function": call} if self.calls else {}
        copied = keras.models.clone_model(model, clone_function=clone, **further)
        ours = {layer.name: layer for layer in model.layers}
        for layer in copied.layers:
            if not layer.weights or layer.name not in ours:
                continue
            values = ours[layer.name].get_weights()
            layer.set_weights(self.weights.get(layer.name, lambda same: same)(values))
            if type(layer).__name__ == "Normalization":
                layer.finalize_state()
        return copied


Apply = Callable[[Rebuild, Any], bool | None]
KINDS: dict[str, tuple[Callable[[Any], Iterable[Any]], Apply]] = {}
"""Of each kind, the layers that it could be built into (or lists of them), and what is done."""


def on_keras(name: str, right: str, layers: str, ports: str, vague: str = "", *, every: bool = False) -> Any:
    """Registers a defect in layers of these classes."""
    RIGHT[name], VAGUE[name] = frozenset(right.split()), frozenset(vague.split())
    PLANS[name] = tuple(ports.split())

    def sites(model: Any) -> list[Any]:
        found = [layer for layer in model.layers if type(layer).__name__ in layers.split()]
        return [found] if every and found else found

    def register(apply: Apply) -> Apply:
        KINDS[name] = (sites, apply)
        return apply

    return register


class KerasBench(Bench):
    """A port with defects on its Keras side; the PyTorch side is the reference."""

    @cached_property
    def swapped(self) -> bool:
        return self.pair.recording("equal").framework == "pytorch"

    @cached_property
    def folder(self) -> Path:
        return home() / f"defects-keras-v{VERSION}" / self.pair.folder.name / self.correct.input_id[:12]

    def record(self, kinds: Iterable[str]) -> None:
        missing = [kind for kind in kinds if self.known(kind) is None]
        if not missing:
            return
        built = self.pair.port.build()
        model = built.reference if self.swapped else built.candidate
        stored = self.pair.trace.inputs(self.correct.input_id)
        fed = [values for values, _ in stored.values()]
        kept = self.correct.read(self.correct.resolve(self.correct.structure.outputs[0]))
        if not np.allclose(kept, _outputs(model, fed)[0], rtol=1e-3, atol=1e-4):
            raise Stale("the port is built otherwise than it was")
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in missing:
            what: dict[str, Any] = {}
            found = planted(kind, model, fed)
            if found is not None:
                wrong, names = found
                self._record(kind, wrong, built)
                old = self.correct.structure
                what = {
                    "where": [n.name for n in old if {n.owner.split("/")[-1], n.name.split("/")[0]} & names],
                    "names": {
                        n.name: n.name if n.name in old.by_name else None for n in self.recording(kind).structure
                    },
                    "latent": False,
                }
            (self.folder / f"{kind}.json").write_text(json.dumps(what))


def planted(kind: str, model: Any, fed: list[Any]) -> tuple[Any, set[str]] | None:
    """A copy of the model with a defect, and the names of the layers that it is in; None where there is no place."""
    sites, apply = KINDS[kind]
    right = _outputs(model, fed)
    for site in _middle_first(list(sites(model)), kind)[:_MOST_SITES]:
        changed = Rebuild()
        layers = site if isinstance(site, list) else [site]
        if any(apply(changed, layer) is False for layer in layers):
            continue
        try:
            wrong = changed.of(model)
            if _differ(right, _outputs(wrong, fed)):
                return wrong, {layer.name for layer in layers}
        except (ValueError, TypeError):
            continue  # the layers behind do not take what this one gives now
    return None


def _outputs(model: Any, fed: list[Any]) -> list[np.ndarray]:
    moved = [np.moveaxis(v, 1, -1) if v.shape[1:] != tuple(i.shape[1:]) and None not in i.shape[1:] else v
             for v, i in zip(fed, model.inputs, strict=True)]  # fmt: skip
    given = model(moved if len(moved) > 1 else moved[0], training=False)
    return [np.asarray(values) for values in (given if isinstance(given, list | tuple) else [given])]


def _differ(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    if [a.shape for a in left] != [b.shape for b in right]:
        return True
    return any(not np.abs(a - b).max() <= LEAST_CHANGE * np.abs(a).max() for a, b in zip(left, right, strict=True))


def _middle_first(sites: list[Any], text: str) -> list[Any]:
    """The middle half in a seeded order, then the rest."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    quarter = len(sites) // 4
    middle = np.arange(quarter, len(sites) - quarter)
    others = [i for i in range(len(sites)) if i not in middle]
    return [sites[int(i)] for i in (*rng.permutation(middle), *rng.permutation(others))]


# --- arguments ----------------------------------------------------------------------------------------------


@on_keras("k-bn-eps", "bn-eps", "BatchNormalization", "vision/resnet50 custom/crnn zoo/deepepi", every=True)
def _(changed: Rebuild, layer: Any) -> None:
    """Keras' default where PyTorch's is meant, or the other way round."""
    changed.config[layer.name] = {"epsilon": 1e-5 if layer.epsilon > 1e-4 else 1e-3}


@on_keras("k-ln-eps", "ln-eps", "LayerNormalization", "custom/attention_text custom/gru_text", every=True)
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"epsilon": 1e-5 if layer.epsilon > 1e-4 else 1e-3}


@on_keras("k-leaky-default", "activation-param", "LeakyReLU", "custom/crnn")
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"negative_slope": 0.3}


@on_keras("k-elu-default", "activation-param", "ELU", "custom/classifier")
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"alpha": 1.0}


@on_keras("k-relu-uncapped", "activation-kind activation-param", "ReLU", "vision/mobilenet_v2 vision/mobilenet_v1")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.config[layer.name] = {"max_value": None}
    return layer.max_value is not None


@on_keras("k-activation-missing", "activation-missing", "Dense Conv1D Conv2D",
          "custom/classifier custom/lstm_text zoo/ecg_generic")  # fmt: skip
def _(changed: Rebuild, layer: Any) -> bool:
    changed.config[layer.name] = {"activation": "linear"}
    return layer.activation.__name__ not in ("linear", "softmax")


@on_keras("k-gelu-tanh", "gelu-approx", "Dense", "custom/attention_text", "activation-kind")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.calls[layer.name] = _approximate
    changed.config[layer.name] = {"activation": "linear"}
    return layer.activation.__name__ == "gelu"


def _approximate(layer: Any, *args: Any, **named: Any) -> Any:
    import keras

    return keras.ops.gelu(layer(*args, **named), approximate=True)


@on_keras("k-rnn-hard-gates", "rnn-activation", "LSTM GRU", "custom/lstm_text custom/gru_text", "activation-kind")
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"recurrent_activation": "hard_sigmoid"}


@on_keras("k-gru-reset-before", "gru-reset-after", "GRU", "custom/gru_text custom/crnn", "rnn-bias")
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"reset_after": False}
    changed.weights[layer.name] = lambda values: [*values[:2], values[2].sum(0)]


@on_keras("k-rnn-backwards", "rnn-direction", "LSTM GRU", "custom/lstm_text custom/crnn")
def _(changed: Rebuild, layer: Any) -> None:
    changed.config[layer.name] = {"go_backwards": True}


@on_keras("k-valid", "pad-mode", "Conv1D Conv2D", "custom/crnn zoo/ecg_pathology_avb", "shift pad-asymmetry")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.config[layer.name] = {"padding": "valid"}
    return layer.padding == "same" and max(layer.kernel_size) > 1


@on_keras("k-pad-symmetric", "pad-asymmetry", "Conv2D DepthwiseConv2D", "custom/classifier", "shift block-extra")
def _(changed: Rebuild, layer: Any) -> bool:
    """PyTorch's ``padding=1`` written out, where SAME pads the end alone."""
    changed.config[layer.name] = {"padding": "valid"}
    changed.calls[layer.name] = _zero_padded
    return layer.padding == "same" and max(layer.strides) > 1


def _zero_padded(layer: Any, x: Any) -> Any:
    import keras

    return layer(keras.layers.ZeroPadding2D(1, name="padding_by_hand")(x))


@on_keras("k-upsample-nearest", "resize-mode", "UpSampling2D", "custom/unet")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.config[layer.name] = {"interpolation": "nearest"}
    return layer.interpolation != "nearest"


@on_keras("k-pool-largest", "pool-kind", "GlobalAveragePooling2D",
          "vision/mobilenet_v2 vision/efficientnet_b0", "operation-kind")  # fmt: skip
def _(changed: Rebuild, layer: Any) -> None:
    changed.classes[layer.name] = type(layer).__name__.replace("Average", "Max")
    changed.config[layer.name] = {"keepdims": layer.keepdims}


@on_keras("k-concat-order", "concat-order", "Concatenate", "custom/unet vision/densenet121",
          "channel-order axis-permutation")  # fmt: skip
def _(changed: Rebuild, layer: Any) -> None:
    changed.calls[layer.name] = lambda layer, parts, **named: layer(list(parts)[::-1], **named)


# --- weights ------------------------------------------------------------------------------------------------


@on_keras("k-gru-gates", "gru-gate-order", "GRU", "custom/gru_text custom/crnn", "weights-perturbed")
def _(changed: Rebuild, layer: Any) -> None:
    """PyTorch's r and z as they come."""
    width = layer.units
    order = np.r_[width : 2 * width, :width, 2 * width : 3 * width]
    changed.weights[layer.name] = lambda values: [value[..., order] for value in values]


@on_keras("k-dense-rows", "dense-row-order flatten-order", "Dense", "custom/classifier zoo/ecg_generic",
          "axis-permutation")  # fmt: skip
def _(changed: Rebuild, layer: Any) -> bool:
    """The rows behind a flatten as PyTorch has them, channels first."""
    before = layer._inbound_nodes[0].parent_nodes[0].operation
    if type(before).__name__ != "Flatten" or len(before.input.shape) < 3:
        return False
    shape = tuple(before.input.shape[1:])
    order = np.arange(np.prod(shape)).reshape(shape)
    order = np.moveaxis(order, -1, 0).reshape(-1)
    changed.weights[layer.name] = lambda values: [values[0][order], *values[1:]]
    return min(shape[-1], shape[0]) > 1


@on_keras("k-dense-transpose", "dense-transpose", "Dense", "custom/lstm_text custom/classifier custom/gru_text")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.weights[layer.name] = lambda values: [values[0].T, *values[1:]]
    return bool(layer.kernel.shape[0] == layer.kernel.shape[1])


@on_keras("k-no-bias", "bias-missing", "Conv1D Conv2D Dense", "custom/unet zoo/ecg_generic zoo/ecg_pathology_lbbb")
def _(changed: Rebuild, layer: Any) -> bool:
    changed.config[layer.name] = {"use_bias": False}
    changed.weights[layer.name] = lambda values: values[:1]
    return bool(layer.use_bias)


@on_keras("k-bn-fresh", "bn-stats", "BatchNormalization", "vision/mobilenet_v2 custom/unet", "weights-not-loaded")
def _(changed: Rebuild, layer: Any) -> None:
    """Statistics are no trainable weights, and were left out."""
    changed.weights[layer.name] = lambda v: [*v[:-2], np.zeros_like(v[-2]), np.ones_like(v[-1])]


@on_keras("k-depthwise-turned", "kernel-layout", "DepthwiseConv2D", "vision/mobilenet_v2 vision/efficientnet_b0")
def _(changed: Rebuild, layer: Any) -> None:
    changed.weights[layer.name] = lambda values: [values[0].transpose(1, 0, 2, 3), *values[1:]]


@on_keras("k-transposed-unturned", "kernel-layout", "Conv2DTranspose", "custom/unet", "dense-transpose")
def _(changed: Rebuild, layer: Any) -> None:
    """Transposed convolutions have outputs before inputs in Keras, others the other way round."""
    changed.weights[layer.name] = lambda values: [values[0].transpose(0, 1, 3, 2), *values[1:]]
