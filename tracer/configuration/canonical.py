"""A node's settings in the shared words."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tracer import dtypes, kinds
from tracer.configuration import windows
from tracer.configuration.vocabulary import Settings
from tracer.graph import Node, Structure

UNTOLD = frozenset(
    "data_format axis axes permutation name args activation batch_first momentum rate in_features in_channels "  # noqa: SIM905
    "padding strides kernel_size pool_size dilation groups output_padding use_bias bias affine training "
    "track_running_stats return_sequences return_state stateful time_major embed_dim normalized_shape mask_zero "
    "keepdims keepdim start_axis end_axis target_shape mode size scale_factor interpolation align_corners "
    "half_pixel_centers coordinate_transformation_mode nearest_mode cubic_coeff_a return_indices activations "
    "time_distributed shared_axes depth_multiplier output_size out sparse scale_grad_by_freq norm_type dtype pads "
    "height width sizes projection depth_radius k transpose_a transpose_b seed equation weight_norm".split()
)
"""Words of the adapters that are told in another form, in one framework only, or by shapes."""


def settings(node: Node, structure: Structure | None = None) -> Settings:
    """What a node is set to, in the words of :data:`tracer.configuration.WORDS`.

    Args:
        node: of any framework.
        structure: the graph it stands in; without it what depends on the shape of its input, as a padding of ``same``
            does, is not known.

    Returns:
        The canonical values, and how the framework states them. Defaults that a framework leaves unsaid are in it where
        they are known from the kind of node. Spatial words have an entry for each spatial axis in the order of the
        node's own tensor. Words of an adapter that the vocabulary does not have come as they are.
    """
    read = _Read(node, structure)
    for reader in _readers(node.kind):
        reader(read)
    for word, value in node.config.items():
        if word not in UNTOLD and value is not None:
            read.values.setdefault(word, value)
    if node.dtype is not None and dtypes.epsilon(node.dtype) > 0:
        read.values["dtype"] = node.dtype
    return Settings(
        {word: value for word, value in read.values.items() if value is not None},
        {word: said for word, said in read.stated.items() if read.values.get(word) is not None},
    )


class _Read:
    """A node while its settings are read."""

    def __init__(self, node: Node, structure: Structure | None) -> None:
        self.node, self.structure, self.config = node, structure, node.config
        self.values: dict[str, Any] = {}
        self.stated: dict[str, Any] = {}

    def __call__(self, word: str, value: Any, stated: Any = None) -> None:
        self.values[word] = value
        if stated is not None and stated != value:
            self.stated[word] = stated

    @property
    def torch(self) -> bool:
        """Whether PyTorch computes it, as far as its own words tell."""
        return self.node.label.startswith(("torch.", "aten.", "aten::")) or any(
            word in self.config for word in ("track_running_stats", "batch_first", "elementwise_affine", "in_features")
        )

    def has(self, *names: str) -> bool | None:
        """Whether the node has a parameter of one of these names; None where it shows no parameters."""
        params = self.node.params
        return any(p.name.rpartition(".")[2].startswith(names) for p in params) if params else None


def number(value: Any) -> float | None:
    """``value`` if it is a number that a float can hold."""
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _window(read: _Read) -> None:
    node, rank = read.node, windows.rank_of(read.node)
    assert rank is not None
    read("kernel_size", windows.kernel(node, rank))
    read("strides", windows.steps(node, rank))
    read("dilation", windows.each(read.config.get("dilation", 1), rank))
    read("padding", windows.padding(node, read.structure), read.config.get("padding"))


def _convolution(read: _Read) -> None:
    if "kernel_size" not in read.config:
        return
    _window(read)
    node, config = read.node, read.config
    read("bias", config.get("bias", config.get("use_bias")))
    read("padding_mode", config.get("padding_mode", "constant"))
    if not node.kind.startswith("separable"):
        read("groups", _groups(node))


def _groups(node: Node) -> int | None:
    stated = node.config.get("groups")
    if not node.kind.startswith("depthwise") or (isinstance(stated, int) and stated > 1):
        return stated if isinstance(stated, int) else None
    kernel = next((p for p in node.params if "kernel" in p.name), None)
    # (..., channels, multiplier)
    return kernel.shape[-2] if kernel is not None and len(kernel.shape) > 2 else None


def _pool(read: _Read) -> None:
    if windows.kernel(read.node, windows.rank_of(read.node) or 1) is None:
        return
    _window(read)
    config = read.config
    text = config.get("padding")
    if isinstance(config.get("ceil_mode"), bool):
        read("ceil_mode", config["ceil_mode"])
    elif text == "valid":
        read("ceil_mode", False)
    if read.node.kind.startswith("max") and any(map(any, read.values["padding"] or ())):
        read("fill", "-inf")
    if read.node.kind.startswith("avg"):
        read("count_include_pad", _counts(read))
        if config.get("divisor_override") is None:
            read.values.pop("divisor_override", None)


def _counts(read: _Read) -> bool | None:
    """Whether zeros around are counted; where there are none no average counts any."""
    rank = windows.rank_of(read.node) or 1
    text = read.config.get("padding", 0)
    known = windows.given(text, rank)
    if isinstance(text, str) or (known is not None and not any(map(any, known))):
        return False
    found = read.config.get("count_include_pad")
    return found if isinstance(found, bool) else None


def _pad(read: _Read) -> None:
    read("paddings", windows.around(read.node, read.structure))
    mode = read.config.get("mode")
    plain = read.node.label.startswith(("ZeroPad", "ConstantPad", "PadV2")) or read.node.label == "Pad" or read.torch
    mode = mode if mode is not None else "constant" if plain else None
    read("padding_mode", {"edge": "replicate", "wrap": "circular"}.get(str(mode), mode), mode)
    if mode == "constant":
        read("value", number(read.config.get("value", 0.0)))
    else:
        read("value", None)


def _norm(read: _Read) -> None:
    config, rank = read.config, len(read.node.shape or ())
    epsilon = config.get("epsilon")
    if epsilon is None and read.node.kind == "rmsnorm" and read.node.label == "RMSNorm" and read.node.dtype:
        epsilon = dtypes.epsilon(read.node.dtype)  # what torch takes where it is told None
    read("epsilon", epsilon)
    affine = config.get("affine")
    for word, names in (("scale", ("gamma", "weight", "scale")), ("center", ("beta", "bias", "offset"))):
        known = read.has(*names)
        read(word, config[word] if isinstance(config.get(word), bool) else False if affine is False else known)
    if read.node.kind == "groupnorm":
        read("groups", config.get("groups"))
    axis = config.get("axis")
    if "normalized_shape" in config and isinstance(config["normalized_shape"], list):
        axis = list(range(rank - len(config["normalized_shape"]), rank))
    elif read.node.kind == "batchnorm" and axis is None:
        axis = 1
    elif read.node.kind == "layernorm" and isinstance(axis, int) and rank and "center" not in config:
        axis = list(range(axis % rank, rank))  # ONNX: from there on
    if read.node.kind in ("batchnorm", "layernorm", "rmsnorm"):
        read("axis", axes(axis, rank), config.get("axis"))


def _batchnorm(read: _Read) -> None:
    config = read.config
    momentum, running = config.get("momentum"), config.get("track_running_stats")
    read("running", running if isinstance(running, bool) else True if "center" in config else None)
    if running is False:
        return
    if not read.torch:
        read("momentum", momentum)
    elif (share := number(momentum)) is not None:
        read("momentum", 1.0 - share, momentum)
    elif running:
        read("momentum", "cumulative")
    if isinstance(config.get("training"), bool):
        read("training", config["training"])


def _over(read: _Read) -> None:
    read("axis", axes(read.config.get("axis"), len(read.node.shape or ())), read.config.get("axis"))


def axes(value: Any, rank: int) -> tuple[int, ...] | None:
    """Numbers of axes, from 0 and in order; None where they are none of ``rank`` axes."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not rank or any(not isinstance(a, int) or isinstance(a, bool) or not -rank <= a < rank for a in found):
        return None
    return tuple(sorted(a % rank for a in found))


_GELUS = {
    "none": "erf", "False": "erf", "True": "tanh", "tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh", "approximate_gelu_wrap": "tanh", "quick_gelu": "sigmoid", "FastGelu": "tanh",
    "QuickGELUActivation": "sigmoid", "QuickGelu": "sigmoid", "NewGELUActivation": "tanh",
    "FastGELUActivation": "tanh",
}  # fmt: skip


def _gelu(read: _Read) -> None:
    said = next(
        (str(word) for word in (read.config.get("approximate"), read.config.get("activation"), read.node.label)
         if str(word) in _GELUS), None
    )  # fmt: skip
    read("approximate", _GELUS.get(said or ""), said)


def _relu(read: _Read) -> None:
    """A slope and a threshold of zero are a relu's without a word."""
    for word in ("negative_slope", "threshold"):
        read(word, number(read.config.get(word, 0.0)))


def _leaky(read: _Read) -> None:
    read("negative_slope", read.config.get("negative_slope", read.config.get("alpha")))
    read("threshold", None if not read.config.get("threshold") else read.config["threshold"])
    read("alpha", None)


def _hard_sigmoid(read: _Read) -> None:
    known = 1 / 6 if read.node.label.lower().endswith("hardsigmoid") and "alpha" not in read.config else None
    read("slope", read.config.get("alpha", known))
    read("alpha", None)
    read("beta", None)


_DROPS = (
    ("alpha", "alpha"), ("gaussian", "gaussian"), ("spatial", "channels"), ("dropout1d", "channels"),
    ("dropout2d", "channels"), ("dropout3d", "channels"), ("feature", "channels"), ("path", "samples"),
    ("stochastic", "samples"), ("dropout", "elements"),
)  # fmt: skip


def _dropout(read: _Read) -> None:
    rate = read.config.get("rate", read.config.get("p"))
    if rate == 0 and read.node.label.startswith("torch.") and not read.config.get("training"):
        rate = None  # a call in evaluation is often told 0, whatever it is told in training
    read("rate", number(rate))
    read("p", None)
    label = read.node.label.lower()
    if rate != 0:
        read("drops", next((what for part, what in _DROPS if part in label), None))


_GATES = {"lstm": "ifco", "gru": "zrh"}


def _recurrent(read: _Read) -> None:
    config = read.config
    kind = read.node.kind.removesuffix("_cell")
    torch = read.torch or read.has("weight_ih", "weight_hh") or False
    onnx = "gate_order" in config
    named = config.get("activations")
    inner, gates = config.get("activation"), config.get("recurrent_activation")
    if onnx or torch:
        if isinstance(named, list) and len(named) > (kind != "rnn"):
            inner, gates = named[-1 if kind == "rnn" else 1], None if kind == "rnn" else named[0]
        else:
            inner, gates = inner or "tanh", None if kind == "rnn" else "sigmoid"
        read("go_backwards", bool(config.get("go_backwards", False)))
        read("bidirectional", bool(config.get("bidirectional", False)))
    read("activation", _function(inner))
    read("recurrent_activation", _function(gates))
    if kind == "gru":
        read("reset_after", True if torch else config.get("reset_after"))
    read("gate_order", config.get("gate_order", "rzh" if torch and kind == "gru" else _GATES.get(kind)))
    read("bias", read.has("bias", "b", "use_bias") if read.node.params else config.get("use_bias"))
    if config.get("bidirectional"):
        read("merge_mode", config.get("merge_mode", "concat"))
    else:
        read("merge_mode", None)
        if kind in ("lstm", "gru", "rnn"):
            read("bidirectional", False)
    if kind in ("lstm", "gru", "rnn") and not torch:
        read("num_layers", 1)
    if torch:
        stacked = config.get("num_layers", 1) != 1
        read("dropout_between", config.get("dropout") if stacked else None)
        read("dropout", 0.0)
        read("recurrent_dropout", 0.0)


def _function(word: Any) -> Any:
    """An activation's name as the vocabulary spells it."""
    if not isinstance(word, str):
        return None
    return {"linear": "identity", "swish": "silu", "hardsigmoid": "hard_sigmoid"}.get(word, word)


def _attention(read: _Read) -> None:
    config = read.config
    heads, width = config.get("num_heads"), config.get("embed_dim")
    if isinstance(heads, int) and isinstance(width, int) and heads:
        read("key_dim", width // heads)
    read("bias", read.has("in_proj_bias") if "embed_dim" in config else config.get("use_bias"))
    if config.get("dropout") == 0 and read.node.label.startswith("torch."):
        read("dropout", None)


_MODES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic", "nearest-exact": "nearest"}
_PLACES = {"tf_half_pixel_for_nn": "half_pixel", "pytorch_half_pixel": "half_pixel"}


def _resize(read: _Read) -> None:
    config, label = read.config, read.node.label
    said = config.get("interpolation", config.get("mode"))
    if not isinstance(said, str):
        return
    mode = _MODES.get(said, said)
    read("interpolation", mode, said)
    onnx = label == "Resize" and "interpolation" not in config
    torch = not onnx and "mode" in config
    corners = config.get("align_corners")
    if corners:
        places = "align_corners"
    elif onnx or "coordinate_transformation_mode" in config:
        known = config.get("coordinate_transformation_mode", "half_pixel")
        places = _PLACES.get(known, known)
    elif "half_pixel_centers" in config:
        places = "half_pixel" if config["half_pixel_centers"] else "asymmetric"
    elif mode == "nearest" and not (said == "nearest-exact" or label == "Resizing"):
        places = "asymmetric"
    else:
        places = "half_pixel"
    if mode != "nearest" or not _whole(read):  # to whole multiples all choose the same neighbours
        read("coordinates", places)
    if mode == "cubic":
        read("cubic", config.get("cubic_coeff_a", -0.75 if torch or onnx or places != "half_pixel" else -0.5))
    read("antialias", bool(config.get("antialias", False)))


def _whole(read: _Read) -> bool:
    node, structure = read.node, read.structure
    source = structure.by_name.get(node.parents[0]) if structure is not None and node.parents else None
    if source is None or source.shape is None or node.shape is None or len(source.shape) != len(node.shape):
        return False
    return all(old and new % old == 0 for new, old in zip(node.shape, source.shape, strict=True))


def _sampled(read: _Read) -> None:
    corners = read.config.get("align_corners")
    if isinstance(corners, bool):
        read("coordinates", "align_corners" if corners else "half_pixel")
    read("interpolation", _MODES.get(str(read.config.get("mode")), read.config.get("mode")))


def _deviation(read: _Read) -> None:
    config = read.config
    if isinstance(config.get("correction"), int):
        read("ddof", config["correction"])
    elif isinstance(config.get("unbiased"), bool):
        read("ddof", int(config["unbiased"]))
    else:
        read("ddof", 1 if read.node.label.startswith("torch.") else 0)
    for word in ("correction", "unbiased"):
        read(word, None)


def _neighbours(read: _Read) -> None:
    """torch and ONNX divide alpha by the size, TensorFlow does not."""
    config = read.config
    radius, alpha = config.get("depth_radius"), number(config.get("alpha"))
    size = 2 * radius + 1 if isinstance(radius, int) else config.get("size")
    read("size", size)
    if alpha is not None and (summed := number(size)):
        read("alpha", alpha if isinstance(radius, int) else alpha / summed, alpha)


def _embedding(read: _Read) -> None:
    for word in ("input_dim", "output_dim"):
        read(word, value if isinstance(value := read.config.get(word), int) else None)


def _dense(read: _Read) -> None:
    read("bias", read.config.get("bias", read.config.get("use_bias")))


def _rescaling(read: _Read) -> None:
    read("ratio", read.config.get("scale"))
    read("scale", None)


def _is(*words: str) -> Callable[[str], bool]:
    found = frozenset(words)
    return lambda kind: kind in found


_READERS: dict[Callable[[str], bool], Callable[[_Read], None]] = {
    lambda kind: kind in kinds.CONVOLUTIONS: _convolution,
    lambda kind: kind.startswith(("max_pool", "avg_pool")): _pool,
    _is("pad"): _pad,
    lambda kind: kind in kinds.NORMALISATIONS and kind != "l2_normalize": _norm,
    _is("batchnorm"): _batchnorm,
    _is("softmax", "log_softmax", "concat", "stack", "glu", "l2_normalize", "cumsum", "cumprod"): _over,
    _is("gelu"): _gelu,
    _is("relu", "relu6"): _relu,
    _is("leaky_relu"): _leaky,
    _is("hard_sigmoid"): _hard_sigmoid,
    _is("dropout"): _dropout,
    _is(*kinds.RECURRENT): _recurrent,
    _is("attention"): _attention,
    _is("upsample", "resize"): _resize,
    _is("grid_sample"): _sampled,
    _is("std", "var"): _deviation,
    _is("lrn"): _neighbours,
    _is("embedding"): _embedding,
    _is("dense"): _dense,
    _is("rescaling"): _rescaling,
}


@lru_cache(512)
def _readers(kind: str) -> tuple[Callable[[_Read], None], ...]:
    """What reads the settings of a kind of node."""
    return tuple(reader for reads, reader in _READERS.items() if reads(kind))
