"""The architecture in a file, checked before Keras sees it: nothing in it may run code or read other files."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import isfunction
from typing import Any

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer_keras.flavour import Flavour
from tracer_keras.vocabulary import words

_CODE = {
    "Lambda": "holds Python code",
    "__lambda__": "holds Python code",
    "TFSMLayer": "loads a SavedModel, which runs code",
    "TorchModuleWrapper": "unpickles a torch module",
    "JaxLayer": "runs a JAX function",
    "FlaxLayer": "runs a Flax module",
    "ClassMethod": "names a TensorFlow class to call",
}
_NO_CALLS = "calls a method that the file names"
_CODE |= {"InstanceMethod": _NO_CALLS, "InstanceProperty": _NO_CALLS}
# Operations that call a function which the file names, and so would call anything Keras exports.
_CODE |= dict.fromkeys(
    words("Switch Cond Map Scan AssociativeScan WhileLoop ForiLoop VectorizedMap JVP Function"), "calls a function"
)
_MODULES = re.compile(
    r"(tf_)?keras(\.(src\.)?"
    r"(layers|ops|models|initializers|regularizers|constraints|activations|dtype_policies|quantizers|random"
    r"|losses|metrics|optimizers|engine|mixed_precision|applications\.convnext)(\.\w+)*)?"
)
_FUNCTION_MODULES = re.compile(r"builtins|(tf_)?keras\.(src\.)?(activations|ops|losses|metrics)(\.\w+)*")
_FILES = {"vocabulary", "vocabulary_file", "filename", "file_path", "filepath"}
# What a configuration says besides classes: values, and the shapes of old files.
_VALUES = words("__tensor__ __numpy__ __bytes__ __ellipsis__ __slice__ __keras_tensor__ __tuple__ TensorShape TypeSpec")
_SPACES = words("layers models initializers regularizers constraints dtype_policies quantizers mixed_precision losses")
_SPACES |= words("metrics optimizers optimizers.schedules optimizers.legacy")
_OPERATIONS = words("numpy nn math linalg image core einops")
_HIGHER_ORDER = words("get serialize deserialize vectorize jvp apply_along_axis")
# Functions of TensorFlow that a TFOpLambda of Keras 2 may name: they compute, and touch neither files nor Python.
_OP_SPACES = words("math nn linalg signal bitwise")
_CALLABLES = words("raw_rnn dynamic_rnn static_rnn bidirectional_dynamic_rnn static_bidirectional_rnn")
_OPS = words(
    "abs acos add argmax argmin argsort atan boolean_mask broadcast_to cast clip_by_norm clip_by_value concat "
    "constant convert_to_tensor cos cumsum divide einsum ensure_shape equal exp expand_dims eye fill floor gather "
    "gather_nd greater greater_equal identity less less_equal linspace logical_and logical_not logical_or matmul "
    "maximum meshgrid minimum multiply negative norm not_equal one_hot ones ones_like pad pow range rank realdiv "
    "reduce_all reduce_any reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat reshape "
    "reverse roll round rsqrt scatter_nd searchsorted sequence_mask shape sigmoid sign sin size slice sort split "
    "sqrt square squeeze stack stop_gradient strided_slice subtract tanh tensor_scatter_nd_update tensordot tile "
    "transpose truediv unique unstack where zeros zeros_like space_to_depth depth_to_space space_to_batch "
    "batch_to_space"
)
_OPS |= {
    f"image.{name}"
    for name in words(
        "resize resize_with_pad resize_with_crop_or_pad central_crop crop_and_resize crop_to_bounding_box "
        "pad_to_bounding_box flip_left_right flip_up_down rot90 transpose per_image_standardization rgb_to_grayscale "
        "grayscale_to_rgb rgb_to_hsv hsv_to_rgb rgb_to_yiq yiq_to_rgb rgb_to_yuv yuv_to_rgb adjust_brightness "
        "adjust_contrast adjust_gamma adjust_hue adjust_saturation convert_image_dtype extract_patches image_gradients "
        "sobel_edges total_variation ssim ssim_multiscale psnr resize_bilinear resize_nearest_neighbor resize_images "
        "resize_bicubic"
    )
}
_OPS |= {f"random.{name}" for name in words("normal uniform truncated_normal gamma poisson categorical shuffle")}
_OPS |= {f"strings.{name}" for name in words("join length lower upper strip substr to_hash_bucket_fast to_number")}
_OPS |= {
    f"keras.backend.{name}"
    for name in words(
        "abs all any arange argmax argmin batch_dot batch_flatten batch_normalization bias_add binary_crossentropy "
        "cast categorical_crossentropy clip concatenate constant conv1d conv2d conv2d_transpose conv3d cos cumprod "
        "cumsum depthwise_conv2d dot dropout elu equal exp expand_dims flatten gather greater greater_equal "
        "hard_sigmoid l2_normalize less less_equal log max maximum mean min minimum ndim not_equal one_hot ones_like "
        "permute_dimensions pool2d pool3d pow prod relu repeat repeat_elements reshape resize_images resize_volumes "
        "reverse round separable_conv2d shape sigmoid sign sin softmax softplus softsign "
        "sparse_categorical_crossentropy spatial_2d_padding spatial_3d_padding sqrt square squeeze stack std "
        "stop_gradient sum tanh temporal_padding tile to_dense transpose var zeros_like"
    )
}
_SLICES = words(
    "__operators__.getitem __operators__.ragged_getitem boolean_mask compat.v1.boolean_mask strided_slice "
    "compat.v1.strided_slice"
)
# Graph operations that a TensorFlowOpLayer of Keras 2.2 to 2.3 may hold.
_RAW_OPS = words(
    "Abs Add AddN AddV2 ArgMax ArgMin BatchMatMul BatchMatMulV2 BiasAdd BroadcastTo Cast ClipByValue ConcatV2 Conv2D "
    "Cos Cumsum DepthToSpace Div DivNoNan Einsum Elu Equal Erf Exp ExpandDims Fill Floor FloorDiv FloorMod GatherV2 "
    "GatherNd Greater GreaterEqual Identity IsFinite IsNan LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd "
    "LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg NotEqual OneHot OnesLike Pack "
    "Pad PadV2 Pow Prod Range RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 "
    "Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split "
    "SplitV Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose "
    "Unpack Where ZerosLike AvgPool"
)


@dataclass(frozen=True)
class Shipped:
    """What a Keras ships that a file may name without any flag."""

    classes: frozenset[str]
    functions: frozenset[str]

    @staticmethod
    @cache
    def of(flavour: Flavour) -> Shipped:
        """Read off the library's own public modules, so that it fits the version installed."""
        library = flavour.module
        spaces = [space for name in _SPACES if (space := _submodule(library, name)) is not None]
        classes = {"Functional", "LayerScale", *_VALUES}
        functions: set[str] = set()
        for space in spaces:
            classes |= _named(vars(space))
        for space in (library.activations, library.losses, library.metrics):
            functions |= {key for key, value in vars(space).items() if isfunction(value)}
        if flavour.legacy:
            layers = import_module("tf_keras.src.layers.serialization")
            layers.populate_deserializable_objects()
            classes |= _named(layers.LOCAL.ALL_OBJECTS)
            functions |= {f"keras.activations.{name}" for name in _functions(library.activations)}
            functions |= {f"keras.losses.{name}" for name in _functions(library.losses)}
        else:
            classes |= _named(vars(import_module("keras.src.layers"))) | {"SeedGenerator"}
            for name in _OPERATIONS:
                module = import_module(f"keras.src.ops.{name}")
                classes |= {key for key, value in vars(module).items() if _is_operation(value, library)}
                if name not in ("core", "einops"):
                    functions |= {key for key in _functions(module) if getattr(library.ops, key, None)}
        return Shipped(frozenset(classes - _CODE.keys()), frozenset(functions - _HIGHER_ORDER))


def _submodule(library: Any, name: str) -> Any:
    for part in name.split("."):
        library = getattr(library, part, None)
    return library


def _named(space: Mapping[str, Any]) -> set[str]:
    """The classes in ``space``, by the name they have there and by their own."""
    found = {(key, value.__name__) for key, value in space.items() if isinstance(value, type)}
    return {name for pair in found for name in pair if not name.startswith("_")}


def _functions(space: Any) -> set[str]:
    return {
        key
        for key, value in vars(space).items()
        if isfunction(value) and not key.startswith("_") and key not in _HIGHER_ORDER
    }


def _is_operation(value: object, library: Any) -> bool:
    return isinstance(value, type) and issubclass(value, library.Operation) and value is not library.Operation


def check(config: Any, label: str, known: Collection[str], flavour: Flavour) -> None:
    """Walk an architecture.

    Args:
        config: the decoded JSON.
        label: the file, for messages.
        known: classes and functions that the user imported.
        flavour: the library that will read it.

    Raises:
        RefusedError: for anything that would run code, read a file, or name a class that Keras does not ship and the
            user did not import; one line with the layer's name and the flag that would allow it.
    """
    judge = _Judge(label, known, Shipped.of(flavour))
    for item, owner in _walk(config, "the model"):
        judge.item(item, owner)


def findings(config: Any, known: Collection[str], flavour: Flavour) -> tuple[str, ...]:
    """Everything that :func:`check` would refuse the architecture for: the first reason for each layer."""
    judge = _Judge("", known, Shipped.of(flavour))
    found: dict[str, str] = {}
    for item, owner in _walk(config, "the model"):
        try:
            judge.item(item, owner)
        except RefusedError as error:
            found.setdefault(owner, str(error).removeprefix(": "))
    return tuple(found.values())


def _walk(root: Any, owner: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every mapping of the architecture with the layer around it, without recursion."""
    pending = [(root, owner)]
    while pending:
        value, inside = pending.pop()
        if isinstance(value, Mapping):
            inner = value.get("config")
            name = value.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
            if "class_name" in value and isinstance(name, str):
                inside = f"layer '{name}'"
            yield value, inside
            pending.extend((child, inside) for child in reversed(list(value.values())))
        elif isinstance(value, list):
            pending.extend((child, inside) for child in reversed(value))


@dataclass(frozen=True)
class _Judge:
    label: str
    known: Collection[str]
    shipped: Shipped

    def item(self, item: Mapping[str, Any], owner: str) -> None:
        if "class_name" in item:
            cls = item["class_name"]
            if not isinstance(cls, str):
                raise RefusedError(f"{self.label}: {owner} has no class, only {display(repr(cls)[:80])}; --trust tries")
            self._names(item, cls, owner)
        for key, value in item.items():
            if value == "lambda" and key.endswith("_type"):
                raise RefusedError(f"{self.label}: {owner} holds Python code; --trust runs it")
            # A list is the vocabulary itself; Keras reads a string as a path.
            if key in _FILES and isinstance(value, str) and value:
                raise RefusedError(f"{self.label}: {owner} reads the file {value[:80]!r}; --trust lets it")

    def _names(self, item: Mapping[str, Any], cls: str, owner: str) -> None:
        config, module, registered = item.get("config"), item.get("module"), item.get("registered_name")
        function = cls == "function"
        name = config if function else cls
        if not isinstance(name, str):
            raise RefusedError(f"{self.label}: {owner} names no function but a {type(name).__name__}; --trust tries")
        bare = name.rsplit(">", 1)[-1]
        shown = display(name[:80])
        imported = name in self.known or bare in self.known
        if bare in _CODE and not imported:
            kind = "function" if name == "__lambda__" else f"{bare} layer"
            raise RefusedError(f"{self.label}: {owner} is a {kind} that {_CODE[bare]}; --trust runs it")
        if "." in bare:  # Keras would look it up as module and name, past the checks of either
            raise RefusedError(f"{self.label}: {owner} names {shown!r}, a path and no class; --trust runs it")
        # Keras finds a registered class by this name first, and tf_keras a plain one by it last.
        allowed = self.shipped.functions if function else self.shipped.classes
        if isinstance(registered, str):
            imported |= registered in self.known
            same = registered in (name, bare, "function") or registered in allowed
            if not imported and not same and registered.rsplit(">", 1)[-1] != bare:
                raise RefusedError(
                    f"{self.label}: {owner} is registered as {display(registered[:80])!r}; --import FILE.py "
                    f"(where it is defined) allows it"
                )
        modules = _FUNCTION_MODULES if function else _MODULES
        if isinstance(module, str) and not modules.fullmatch(module) and not imported:
            raise RefusedError(f"{self.label}: {owner} is of class {display(module[:80])}.{shown}; {_flag(module)}")
        if bare not in allowed and not imported:
            if isinstance(module, str) and (module == "builtins" or module.partition(".")[0].endswith("keras")):
                raise RefusedError(
                    f"{self.label}: {owner} names {shown!r}, which is none of Keras's layers or functions; "
                    f"--import FILE.py (where it is defined) allows it"
                )
            kind = "function" if function else "class"
            raise RefusedError(
                f"{self.label}: {owner} needs the custom {kind} {shown!r}: --import pkg.mod (or file.py) where it is "
                f"defined"
            )
        self._operation(bare, config, owner)

    def _operation(self, cls: str, config: Any, owner: str) -> None:
        """The layers of tf_keras that stand for one operation of TensorFlow."""
        settings = config if isinstance(config, Mapping) else {}
        symbol = settings.get("function")
        if cls == "SlicingOpLambda" and (not isinstance(symbol, str) or symbol not in _SLICES):
            raise RefusedError(f"{self.label}: {owner} slices with tf.{_shown(symbol)}; --trust runs it")
        if cls == "TFOpLambda" and not (isinstance(symbol, str) and self._computes(symbol)):
            raise RefusedError(f"{self.label}: {owner} calls tf.{_shown(symbol)}; --trust runs it")
        if cls == "TensorFlowOpLayer":
            op = _graph_op(settings.get("node_def"))
            if op not in _RAW_OPS:
                raise RefusedError(f"{self.label}: {owner} runs the operation {_shown(op)}; --trust runs it")

    def _computes(self, symbol: str) -> bool:
        symbol = symbol.removeprefix("compat.v1.")
        if symbol in _OPS or (symbol in self.shipped.functions and symbol.startswith("keras.")):
            return True
        space, _, name = symbol.rpartition(".")
        if space == "__operators__":
            return name.isidentifier()
        # Functions only: a class, or what takes a function, could do more than compute.
        return space in _OP_SPACES and name.isidentifier() and name.islower() and name not in _CALLABLES


def _flag(module: str) -> str:
    """What the user could do about a class of ``module``."""
    root = module.partition(".")[0]
    if root in ("__main__", ""):
        return "--import FILE.py (where it is defined) allows it"
    if root in sys.stdlib_module_names or root in ("keras", "tf_keras", "tensorflow"):
        return "--trust runs it"
    return f"--import {display(module[:80])} allows it"


def _shown(value: object) -> str:
    return display(str(value)[:80])


def _graph_op(node_def: Any) -> str | None:
    """The operation of a TensorFlowOpLayer, read as tf_keras reads it."""
    if isinstance(node_def, Mapping):
        op = node_def.get("op")
        return op if isinstance(op, str) else None
    if not isinstance(node_def, str):
        return None
    nodes = import_module("tensorflow").compat.v1.NodeDef
    try:
        return str(nodes.FromString(node_def.encode("utf-8")).op)
    except Exception:
        return None


# -- graphs that Keras would never finish building -------------------------------------------------------------------


def check_graph(config: Any, label: str) -> None:
    """Refuse a functional model whose layers wait for each other: Keras tries to build it for ever.

    Raises:
        InputError: one line with the name of a layer that waits.
    """
    for item, _ in _walk(config, ""):
        layers = item.get("layers")
        if isinstance(layers, list) and "output_layers" in item:
            stuck = _stuck([layer for layer in layers if isinstance(layer, Mapping)])
            if stuck is not None:
                raise InputError(
                    f"{label}: layer '{display(stuck[:80])}' waits for its own output, or for a call of a layer that "
                    f"never comes (inbound_nodes)"
                )


def _stuck(layers: list[Mapping[str, Any]]) -> str | None:
    """The first layer that no order of building reaches; None if there is an order."""
    calls: dict[str, list[Any]] = {}
    spare: dict[str, int] = {}
    for layer in layers:
        config = layer.get("config")
        name = layer.get("name") or (config.get("name") if isinstance(config, Mapping) else None)
        nodes = layer.get("inbound_nodes")
        if isinstance(name, str):
            calls[name] = nodes if isinstance(nodes, list) else []
            # A model inside counts its own creation as a call; an input layer is there without any.
            inner = (isinstance(config, Mapping) and "layers" in config) or not calls[name]
            spare[name] = 1 if inner else 0
    done = dict.fromkeys(calls, 0)
    waiting: dict[str, list[str]] = defaultdict(list)
    ready = list(calls)
    while ready:
        name = ready.pop()
        while done[name] < len(calls[name]):
            needs = _references(calls[name][done[name]], calls)
            missing = next((other for other, index in needs if index >= done[other] + spare[other]), None)
            if missing is not None:
                waiting[missing].append(name)
                break
            done[name] += 1
            ready.extend(waiting.pop(name, ()))
    return next((name for name in calls if done[name] < len(calls[name])), None)


def _references(node: Any, names: Collection[str]) -> list[tuple[str, int]]:
    """The outputs that one call takes, ``[layer, call, tensor]`` anywhere in it."""
    found = []
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list):
            if len(value) in (3, 4) and isinstance(value[0], str) and value[0] in names and type(value[1]) is int:
                found.append((value[0], value[1]))
                pending.extend(value[3:])
            else:
                pending.extend(value)
    return found
