"""What one operation is in the shared words: its kind, and the configuration that matters for porting."""

from __future__ import annotations

from typing import Any

from tracer.graph import Layout
from tracer_keras.graphs.network import Network
from tracer_keras.vocabulary import op_kind, words

_REDUCTIONS = frozenset({"Mean", "Max", "Min", "Sum", "Prod", "All", "Any", "EuclideanNorm", "ArgMax", "ArgMin"})
_CONVOLUTIONS = words(
    "Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv2DBackpropInputV2 Conv3DBackpropInput "
    "Conv3DBackpropInputV2"
)
_POOLS = frozenset({"MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"})
_UPSAMPLING = frozenset({"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"})


def kind(net: Network, name: str) -> str:
    """The kind of one operation."""
    item = net.item(name)
    op = item.op
    if op in ("Mean", "Max") and _is_global(net, name):
        return "global_avg_pool" if op == "Mean" else "global_max_pool"
    if op == "Reshape":
        before, after = net.shape(item.inputs[0]), net.shape((name, 0))
        flat = before is not None and after is not None and len(after) == 2 < len(before) and before[0] == after[0]
        return "flatten" if flat else "reshape"
    if op in _UPSAMPLING and _factors(net, name) is not None:
        return "upsample"
    return op_kind(op)


def layout(net: Network, name: str) -> Layout | None:
    """Where an operation on images keeps its channels; None for others."""
    item = net.item(name)
    if item.op in _UPSAMPLING:
        return "channels_last"
    if "data_format" in item.attr:
        text = item.attr["data_format"].s.decode()
        if item.op != "BiasAdd" or (net.rank((name, 0)) or 0) > 2:
            return "channels_first" if text.startswith("NC") else "channels_last"
    if item.op in ("Mean", "Max") and _is_global(net, name):
        axes = _axes(net, name) or []
        return "channels_first" if (net.rank(item.inputs[0]) or 0) - 1 in axes else "channels_last"
    return None


def _is_global(net: Network, name: str) -> bool:
    """Whether a reduction goes over all spatial axes and nothing else."""
    item = net.item(name)
    rank, axes = net.rank(item.inputs[0]), _axes(net, name)
    if rank is None or rank < 3 or axes is None:
        return False
    found = sorted(axis % rank for axis in axes)
    return found == list(range(1, rank - 1)) or (rank > 3 and found == list(range(2, rank)))


def _axes(net: Network, name: str) -> list[int] | None:
    inputs = net.item(name).inputs
    return net.integers(inputs[1]) if len(inputs) > 1 else None


def _factors(net: Network, name: str) -> list[int] | None:
    """By which whole numbers a picture grows; None when it is resized otherwise."""
    before, after = net.shape(net.item(name).inputs[0]), net.shape((name, 0))
    if before is None or after is None or len(before) != 4:
        return None
    sizes = [(after[i], before[i]) for i in (1, 2)]
    if any(old == 0 or new % old for new, old in sizes) or all(new == old for new, old in sizes):
        return None
    return [new // old for new, old in sizes]


def spatial(text: str, values: list[int]) -> list[int]:
    """The entries of ``values`` (one an axis) that belong to the picture."""
    return [value for letter, value in zip(text, values, strict=True) if letter not in "NC"]


def config(net: Network, name: str) -> dict[str, Any]:
    """The configuration of one operation, as JSON values."""
    item = net.item(name)
    op, attr = item.op, item.attr
    out: dict[str, Any] = {}
    if op in _CONVOLUTIONS or op in _POOLS:
        out |= _windows(net, name)
    elif op in _REDUCTIONS:
        axes = _axes(net, name)
        if axes is not None:
            out["axis"] = axes[0] if len(axes) == 1 else axes
        if attr.get("keep_dims") is not None and attr["keep_dims"].b:
            out["keepdims"] = True
    elif op in _UPSAMPLING:
        after = net.shape((name, 0))
        factors = _factors(net, name)
        out["interpolation"] = op.removeprefix("Resize").removesuffix("Neighbor").lower()
        if factors is not None:
            out["size"] = factors
        elif after is not None:
            out["output_size"] = list(after[1:3])
        out |= {key: attr[key].b for key in ("align_corners", "half_pixel_centers") if key in attr}
    elif op in ("ConcatV2", "SplitV"):
        out["axis"] = _last_integer(net, name, -1 if op == "ConcatV2" else 2)
    elif op in ("Concat", "Split"):
        out["axis"] = _last_integer(net, name, 0)
    elif op in ("GatherV2", "ExpandDims"):
        out["axis"] = _last_integer(net, name, 2 if op == "GatherV2" else 1)
    elif op in ("Pack", "Unpack"):
        out["axis"] = attr["axis"].i
    elif op == "Squeeze":
        out["axis"] = list(attr["squeeze_dims"].list.i)
    elif op == "Transpose":
        out["permutation"] = net.integers(item.inputs[1])
    elif op in ("Pad", "PadV2", "MirrorPad"):
        out |= _padding(net, name)
    elif op in ("Reshape",):
        after = net.shape((name, 0))
        out["target_shape"] = None if after is None else list(after[1:])
    elif op == "StridedSlice":
        out |= _slice(net, name)
    elif op in ("DepthToSpace", "SpaceToDepth"):
        out["factor"] = attr["block_size"].i
    elif op == "LRN":
        out |= {"depth_radius": attr["depth_radius"].i} | {k: _float(attr[k].f) for k in ("bias", "alpha", "beta")}
    elif op == "LeakyRelu":
        out["negative_slope"] = _float(attr["alpha"].f) if "alpha" in attr else 0.2
    elif op == "Cast":
        out["dtype"] = net.dtype((name, 0))
    elif op in ("Softmax", "LogSoftmax"):
        out["axis"] = -1
    elif op in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        keys = {"transpose_a": "transpose_a", "transpose_b": "transpose_b", "adj_x": "transpose_a"}
        out |= {word: True for key, word in (keys | {"adj_y": "transpose_b"}).items() if key in attr and attr[key].b}
    elif op == "Einsum":
        out["equation"] = attr["equation"].s.decode()
    else:
        out |= _operands(net, name)
    if op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
        out = {"epsilon": _float(attr["epsilon"].f), "axis": 1 if layout(net, name) == "channels_first" else -1}
    return {key: value for key, value in out.items() if value is not None}


def _windows(net: Network, name: str) -> dict[str, Any]:
    item = net.item(name)
    attr = item.attr
    text = attr["data_format"].s.decode() if "data_format" in attr else "NHWC"
    out: dict[str, Any] = {}
    if item.op in _POOLS:
        out["pool_size"] = spatial(text, list(attr["ksize"].list.i))
    out["strides"] = spatial(text, list(attr["strides"].list.i))
    padding = attr["padding"].s.decode().lower()
    if padding == "explicit":
        pairs = list(attr["explicit_paddings"].list.i)
        both = [[pairs[2 * i], pairs[2 * i + 1]] for i in range(len(pairs) // 2)]
        out["padding"] = [pair for letter, pair in zip(text, both, strict=True) if letter not in "NC"]
    else:
        out["padding"] = padding
    dilations = list(attr["dilations"].list.i) if "dilations" in attr else []
    if dilations and any(value != 1 for value in dilations):
        out["dilation"] = spatial(text, dilations)
    out["data_format"] = "channels_first" if text.startswith("NC") else "channels_last"
    return out


def _padding(net: Network, name: str) -> dict[str, Any]:
    item = net.item(name)
    pairs = net.value(item.inputs[1])
    out: dict[str, Any] = {}
    if pairs is not None:
        padding = [[int(a), int(b)] for a, b in pairs]
        if len(padding) > 2 and padding[0] == [0, 0]:  # of pictures only the lengths are told, as layers do
            inner = padding[1:-1] if padding[-1] == [0, 0] else padding[2:]
            padding = inner if padding[-1] == [0, 0] or padding[1] == [0, 0] else padding
        out["padding"] = padding
    if item.op == "MirrorPad":
        out["mode"] = item.attr["mode"].s.decode().lower()
    if item.op == "PadV2":
        out["value"] = net.number(item.inputs[2])
    return out


def _slice(net: Network, name: str) -> dict[str, Any]:
    item = net.item(name)
    begin, end, step = (net.integers(tensor) for tensor in item.inputs[1:4])
    out: dict[str, Any] = {}
    if begin is None or end is None or step is None:
        return out
    masks = {key: item.attr[f"{key}_mask"].i for key in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    parts = []
    for axis, (first, last, by) in enumerate(zip(begin, end, step, strict=True)):
        bit = 1 << axis
        if masks["ellipsis"] & bit:
            parts.append("...")
        elif masks["new_axis"] & bit:
            parts.append("newaxis")
        elif masks["shrink_axis"] & bit:
            parts.append(str(first))
        else:
            start = "" if masks["begin"] & bit else str(first)
            stop = "" if masks["end"] & bit else str(last)
            parts.append(f"{start}:{stop}" + (f":{by}" if by != 1 else ""))
    out["index"] = ", ".join(parts)
    return out


def _last_integer(net: Network, name: str, index: int) -> int | None:
    inputs = net.item(name).inputs
    if len(inputs) <= index:
        return None
    values = net.integers(inputs[index])
    return values[0] if values and len(values) == 1 else None


def _operands(net: Network, name: str) -> dict[str, Any]:
    """Single constant numbers that an operation reads besides its input."""
    found: dict[str, Any] = {}
    for index, tensor in enumerate(net.item(name).inputs):
        number = net.number(tensor)
        if number is not None:
            found["value" if not found else f"value_{index}"] = _float(number)
    return found


def _float(value: float) -> float:
    """A float32 as a person wrote it: 0.001 instead of 0.0010000000474974513."""
    import numpy as np

    return float(str(np.float32(value))) if np.isfinite(value) else value


plain = _float
