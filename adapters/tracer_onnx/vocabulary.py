"""ONNX's operators in the shared vocabulary: kind, and the configuration that matters for porting."""

from __future__ import annotations

import math
from typing import Any

from tracer.kinds import ELEMENTWISE, powered, reduction
from tracer_onnx.flow import Flow, Op

Config = dict[str, Any]

_KINDS = {
    "LayerNormalization": "layernorm", "SkipLayerNormalization": "layernorm", "EmbedLayerNormalization": "layernorm",
    "SimplifiedLayerNormalization": "rmsnorm", "SkipSimplifiedLayerNormalization": "rmsnorm",
    "RMSNormalization": "rmsnorm", "BatchNormalization": "batchnorm", "InstanceNormalization": "instancenorm",
    "GroupNormalization": "groupnorm", "GroupNorm": "groupnorm", "LpNormalization": "l2_normalize",
    "MeanVarianceNormalization": "other:mean_variance_normalization", "LRN": "lrn",
    "LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "Attention": "attention", "MultiHeadAttention": "attention",
    "GroupQueryAttention": "attention", "QAttention": "attention", "DynamicQuantizeLSTM": "lstm",
    "Relu": "relu", "LeakyRelu": "leaky_relu", "QLinearLeakyRelu": "leaky_relu", "PRelu": "prelu", "Elu": "elu",
    "Selu": "selu", "Celu": "celu", "Gelu": "gelu", "FastGelu": "gelu", "BiasGelu": "gelu", "QuickGelu": "gelu",
    "Swish": "silu", "Mish": "mish", "Sigmoid": "sigmoid", "QLinearSigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid", "HardSwish": "hard_silu", "Tanh": "tanh", "Softmax": "softmax",
    "QLinearSoftmax": "softmax", "LogSoftmax": "log_softmax", "Softplus": "softplus", "Softsign": "softsign",
    "ThresholdedRelu": "threshold", "Exp": "exponential",
    "GlobalAveragePool": "global_avg_pool", "QLinearGlobalAveragePool": "global_avg_pool",
    "GlobalMaxPool": "global_max_pool", "GlobalLpPool": "other:global_lp_pool",
    "Flatten": "flatten", "Reshape": "reshape", "Transpose": "permute", "Squeeze": "squeeze",
    "Unsqueeze": "expand_dims", "Cast": "cast", "CastLike": "cast", "BitCast": "cast", "Identity": "identity",
    "Dropout": "dropout", "Slice": "slice", "Split": "split", "Concat": "concat", "QLinearConcat": "concat",
    "Add": "add", "QLinearAdd": "add", "Sub": "sub", "Mul": "mul", "QLinearMul": "mul", "Div": "div",
    "Max": "maximum", "Min": "minimum", "Mean": "average", "Sum": "add", "Pad": "pad", "Resize": "upsample",
    "Upsample": "upsample", "Einsum": "matmul", "Pow": "power", "DepthToSpace": "pixel_shuffle", "Where": "where",
    # Other numbers for the same values: a network with them stands beside one without.
    "QuantizeLinear": "cast", "DequantizeLinear": "cast", "DynamicQuantizeLinear": "cast",
    "Greater": "greater", "Less": "less", "Equal": "equal", "GreaterOrEqual": "greater_equal",
    "LessOrEqual": "less_equal", "Not": "logical_not", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "IsNaN": "isnan", "IsInf": "isinf", "ReduceSum": "sum", "ReduceMin": "amin", "ReduceProd": "prod",
    "ReduceLogSumExp": "logsumexp", "ReduceL2": "norm", "ReduceL1": "norm", "ArgMax": "argmax", "ArgMin": "argmin",
    "GatherND": "gather", "GatherElements": "gather", "ScatterND": "setitem", "ScatterElements": "scatter",
    "CumSum": "cumsum", "TopK": "topk", "Expand": "expand", "Tile": "tile", "OneHot": "one_hot", "Trilu": "tril",
    "Mod": "mod", "SpaceToDepth": "pixel_unshuffle", "Range": "arange", "ConstantOfShape": "full", "Col2Im": "fold",
    "ReverseSequence": "flip", "GridSample": "grid_sample", "DFT": "fft", "STFT": "fft", "EyeLike": "eye",
    "RandomNormalLike": "random", "RandomUniformLike": "random", "Shrink": "hard_shrink",
}  # fmt: skip
_KINDS |= {word.title(): word for word in ELEMENTWISE if word.title() not in _KINDS}
MATRIX = {
    "MatMul": (1, None), "FusedMatMul": (1, None), "Gemm": (1, 2), "FusedGemm": (1, 2), "MatMulInteger": (1, None),
    "QLinearMatMul": (3, None), "QGemm": (3, 6), "DynamicQuantizeMatMul": (1, 4), "MatMulIntegerToFloat": (1, 6),
    "MatMulNBits": (1, 5), "Einsum": (1, None),
}  # fmt: skip
"""Products that are a dense layer where one operand is constant: the places of its matrix and its bias."""
CONVOLUTIONS = {
    "Conv": (1, 2), "FusedConv": (1, 2), "ConvTranspose": (1, 2), "QLinearConv": (3, 8), "ConvInteger": (1, None),
    "DeformConv": (1, 3), "NhwcFusedConv": (1, 2),
}  # fmt: skip
_POOLS = {
    "MaxPool": "max_pool", "AveragePool": "avg_pool", "LpPool": "lp_pool", "QLinearAveragePool": "avg_pool",
    "NhwcMaxPool": "max_pool",
}  # fmt: skip
_KEPT = (
    "axis", "axes", "keepdims", "epsilon", "alpha", "beta", "gamma", "approximate", "equation",
    "num_heads", "num_groups", "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a",
    "exclude_outside", "antialias", "blocksize", "fmod", "to", "sorted", "largest", "p", "clip",
    "linear_before_reset", "batch_dims", "exclusive", "reverse", "is_causal", "scale", "seed", "k",
)  # fmt: skip
_WORDS = {"num_groups": "groups", "to": "dtype", "linear_before_reset": "reset_after", "is_causal": "causal",
          "blocksize": "factor"}  # fmt: skip
_DEFAULTS: dict[str, Config] = {
    "BatchNormalization": {"epsilon": 1e-5}, "InstanceNormalization": {"epsilon": 1e-5},
    "LayerNormalization": {"epsilon": 1e-5}, "GroupNormalization": {"epsilon": 1e-5},
    "RMSNormalization": {"epsilon": 1e-5}, "LeakyRelu": {"negative_slope": 0.01}, "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "Gelu": {"approximate": "none"},
    "ThresholdedRelu": {"alpha": 1.0}, "Celu": {"alpha": 1.0}, "Concat": {}, "Pad": {"mode": "constant"},
}  # fmt: skip
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod"})
_FROM_INPUTS = {
    "Squeeze": {1: "axis"}, "Unsqueeze": {1: "axis"}, "Reshape": {1: "args"}, "Expand": {1: "args"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"}, "Pad": {1: "pads", 2: "value", 3: "axes"},
    "Clip": {1: "min_value", 2: "max_value"}, "Resize": {2: "scale_factor", 3: "size"}, "Split": {1: "sizes"},
    "Upsample": {1: "scale_factor"}, "Tile": {1: "repeats"}, "TopK": {1: "k"}, "CumSum": {1: "axis"},
    "OneHot": {1: "depth"}, "QuantizeLinear": {1: "scale", 2: "zero_point"},
    "DequantizeLinear": {1: "scale", 2: "zero_point"},
}  # fmt: skip
_LONGEST = 16
_FAR = (1 << 31) - 1


def kind_of(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]]) -> str:
    """The operator's kind; ``other:…`` where the vocabulary has no word."""
    name = op.type
    if op.proto.domain == "ai.onnx.ml":
        return f"other:{name.lower()}"
    if name in CONVOLUTIONS:
        return _convolution(op, flow, shapes)
    if name in MATRIX:
        return _product(op, flow)
    if name in _POOLS:
        rank = len(op.attributes.get("kernel_shape") or ()) or 2
        word = f"{_POOLS[name]}{rank}d"
        return word if "lp_" not in word else f"other:{word}"
    if name == "Gather":
        return _gather(op, flow)
    if name == "Clip":
        return _clip(config_of(op, flow, shapes))
    if name == "Pow":
        return powered(flow.scalar(op.input(1)))
    if name == "Pad" and (pads := flow.constant(op.input(1))) is not None and not pads.any():
        return "identity"
    if name in ("ReduceMean", "ReduceMax"):
        return _reduction(op, flow, shapes)
    if name == "Reshape":
        before, after = shapes.get(op.input(0), ()), shapes.get(op.outputs[0], ())
        return "flatten" if len(before) > 2 and len(after) == 2 and before[0] == after[0] else "reshape"
    if name == "QuickGelu":
        return "silu" if op.attributes.get("alpha") == 1 else "gelu"
    return _KINDS.get(name, f"other:{name.lower()}")


def _convolution(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]]) -> str:
    weight = flow.constant(op.input(CONVOLUTIONS[op.type][0]))
    shape = weight.shape if weight is not None else shapes.get(op.input(CONVOLUTIONS[op.type][0]), ())
    rank = len(shape) - 2
    if rank not in (1, 2, 3) or op.type == "DeformConv":
        return f"other:{op.type.lower()}"
    if op.type == "ConvTranspose":
        return f"conv_transpose{rank}d"
    groups = op.attributes.get("group", 1)
    return f"depthwise_conv{rank}d" if groups > 1 and shape[1] == 1 else f"conv{rank}d"


def _product(op: Op, flow: Flow) -> str:
    weight = flow.constant(op.input(MATRIX[op.type][0]))
    if weight is None or (op.type == "MatMul" and weight.ndim != 2) or len(op.inputs) < 2:
        return "matmul"
    return "dense"


def _gather(op: Op, flow: Flow) -> str:
    table = flow.constant(op.input(0))
    if table is not None and table.ndim == 2 and table.dtype.kind not in "iub" and not op.attributes.get("axis", 0):
        return "embedding"
    index = flow.constant(op.input(1))
    return "slice" if index is not None and index.size == 1 else "gather"


def _clip(config: Config) -> str:
    low, high = config.get("min_value"), config.get("max_value")
    if (low, high) == (0, 6):
        return "relu6"
    if low == 0 and high is None:
        return "relu"
    return "hard_tanh" if low is not None and high is not None else "clip"


def _reduction(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]]) -> str:
    rank, axes = len(shapes.get(op.input(0), ())), axes_of(op, flow)
    word = "mean" if op.type == "ReduceMean" else "amax"
    if axes is None:
        return word
    return reduction(word, axes or range(rank), rank, keeps=bool(op.attributes.get("keepdims", 1)))


def axes_of(op: Op, flow: Flow) -> list[int] | None:
    """The axes of a reduction, from the attribute (older) or the input (newer); None where they are computed."""
    if "axes" in op.attributes:
        return [int(axis) for axis in op.attributes["axes"]]
    if not op.input(1):
        return []
    value = flow.constant(op.input(1))
    return None if value is None else [int(axis) for axis in value.reshape(-1)]


def config_of(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]]) -> Config:
    """What matters for porting, in the shared words, JSON values only."""
    out: Config = dict(_DEFAULTS.get(op.type, {}))
    for name in _KEPT:
        value = op.attributes.get(name)
        if value is not None and value != "" and not (op.type in MATRIX and name in ("alpha", "beta")):
            out[_WORDS.get(name, name)] = value
    for place, word in _FROM_INPUTS.get(op.type, {}).items():
        value = _plain(flow, op.input(place))
        if value is not None:
            out[word] = value
    _adjust(op, flow, out)
    if op.type in CONVOLUTIONS:
        out |= _spatial(op) | _channels(op, flow, shapes)
    elif op.type in _POOLS:
        out |= _spatial(op)
        out["ceil_mode"] = bool(op.attributes.get("ceil_mode", 0))
        if "AveragePool" in op.type:
            out["count_include_pad"] = bool(op.attributes.get("count_include_pad", 0))
    elif op.type in MATRIX:
        out |= _matrix(op, flow)
    elif op.type in ("LSTM", "GRU", "RNN"):
        out |= _recurrent(op)
    elif op.type == "Gather" and _gather(op, flow) == "embedding":
        table = flow.weights[op.input(0)]
        out = {"input_dim": int(table.shape[0]), "output_dim": int(table.shape[1])}
    elif op.type in _ARITHMETIC:
        scalars = [value for name in op.inputs if (value := flow.scalar(name)) is not None]
        if scalars:
            out["args"] = [float(f"{value:.7g}") for value in scalars]
    return out


def _adjust(op: Op, flow: Flow, out: Config) -> None:
    if op.type == "Transpose":
        out["permutation"] = op.attributes.get("perm")
        if out["permutation"] is None:
            del out["permutation"]
    elif op.type in ("Softmax", "LogSoftmax"):
        out.setdefault("axis", -1 if flow.opset >= 13 else 1)
    elif op.type == "LeakyRelu" and "alpha" in out:
        out["negative_slope"] = out.pop("alpha")
    elif op.type == "Clip":
        out |= {word: op.attributes[name] for name, word in (("min", "min_value"), ("max", "max_value"))
                if name in op.attributes}  # fmt: skip
        for word in ("min_value", "max_value"):  # older files write "no limit" as the largest number
            if word in out and (not isinstance(out[word], int | float) or abs(out[word]) > 3e38):
                del out[word]
    elif op.type == "Flatten":
        out["start_axis"] = out.pop("axis", 1)
    elif op.type == "Cast":
        from tracer_onnx.tensors import type_name

        out["dtype"] = type_name(int(op.attributes.get("to", 0)))
    elif op.type == "GRU":
        out["reset_after"] = bool(out.get("reset_after", 0))
    elif op.type.startswith("Reduce") and (axes := axes_of(op, flow)) is not None:
        out.pop("axes", None)
        out["axis"] = axes
        out["keepdim"] = bool(out.pop("keepdims", 1))
    if op.type in ("Unsqueeze", "Squeeze") and "axes" in out:
        out["axis"] = out.pop("axes")


def _plain(flow: Flow, name: str) -> Any:
    """A constant as a number or a short list; None for others."""
    value = flow.constant(name)
    if value is None or not value.size or value.size > _LONGEST or value.dtype.kind not in "iufb":
        return None
    items: list[Any] = [_short(item) for item in value.reshape(-1).tolist()]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        return None
    return items if value.ndim else items[0]


def _short(item: Any) -> Any:
    if isinstance(item, float):
        return float(f"{item:.7g}")
    # The largest integers are how a slice says "to the end".
    return item if isinstance(item, bool) or abs(item) < _FAR else "end" if item > 0 else "start"


def _spatial(op: Op) -> Config:
    """Kernel, strides, dilation and padding; a padding that is the same at both ends is written once an axis."""
    attributes = op.attributes
    out: Config = {}
    kernel = attributes.get("kernel_shape")
    if kernel:
        out["kernel_size"] = kernel
    rank = len(kernel or attributes.get("strides") or attributes.get("dilations") or ())
    out["strides"] = attributes.get("strides") or [1] * rank
    if op.type != "AveragePool" or "dilations" in attributes:
        out["dilation"] = attributes.get("dilations") or [1] * rank
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic != "NOTSET":
        out["padding"] = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}.get(automatic, automatic)
    else:
        pads = attributes.get("pads") or [0] * (2 * rank)
        half = len(pads) // 2
        out["padding"] = pads[:half] if pads[:half] == pads[half:] else pads
    return {word: value for word, value in out.items() if value != []}


def _channels(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]]) -> Config:
    weight, bias = CONVOLUTIONS[op.type]
    value = flow.constant(op.input(weight))
    shape = value.shape if value is not None else shapes.get(op.input(weight), ())
    groups = op.attributes.get("group", 1)
    fused = op.attributes.get("activation")
    out: Config = {"activation": fused.lower()} if fused else {}
    out |= {"groups": groups, "bias": bias is not None and bool(op.input(bias))}
    if len(shape) > 2:
        ways = (shape[0], shape[1] * groups)
        if op.type == "ConvTranspose":
            ways = (shape[1] * groups, shape[0])
            out["output_padding"] = op.attributes.get("output_padding") or [0] * (len(shape) - 2)
            if "output_shape" in op.attributes:
                out["output_shape"] = op.attributes["output_shape"]
        out |= {"filters": int(ways[0]), "in_channels": int(ways[1]), "kernel_size": [int(d) for d in shape[2:]]}
    return out


def _matrix(op: Op, flow: Flow) -> Config:
    if _product(op, flow) != "dense":
        return {}
    place, bias = MATRIX[op.type]
    shape = flow.weights[op.input(place)].shape
    out: Config = {"bias": bias is not None and bool(op.input(bias))}
    out |= {name: op.attributes[name] for name in ("alpha", "beta") if op.attributes.get(name, 1.0) != 1.0}
    if len(shape) == 2 and op.type != "Einsum":
        ways = reversed(shape) if op.attributes.get("transB") else shape
        out["in_features"], out["units"] = map(int, ways)
    return out


def _recurrent(op: Op) -> Config:
    direction = op.attributes.get("direction", "forward")
    out: Config = {"bidirectional": direction == "bidirectional"}
    if direction == "reverse":
        out["go_backwards"] = True
    if "hidden_size" in op.attributes:
        out["units"] = op.attributes["hidden_size"]
    if "activations" in op.attributes:
        out["activations"] = [word.lower() for word in op.attributes["activations"]]
    out["gate_order"] = {"LSTM": "iofc", "GRU": "zrh", "RNN": "i"}[op.type]
    return out
