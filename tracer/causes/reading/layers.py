"""Dense layers, convolutions, pools and normalisations as the frameworks record them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes.reading import Read, arithmetic, custom, inferring, reader
from tracer.causes.reading.deducing import Option, borrowed, deduce
from tracer.causes.reading.masking import masks_given, steps_that_count
from tracer.causes.step import Array, Step, Unknown, numbers

Settings = dict[str, Any]
Weights = dict[str, Array]
Pairs = tuple[tuple[int, int], ...]
_RANKED = ("1d", "2d", "3d")


def _present(**weights: Array | None) -> Weights:
    return {role: value for role, value in weights.items() if value is not None}


def _wanted(read: Read, role: str) -> Array:
    value = read.weight(role)
    if value is None:
        raise Unknown(f"its {role} was not recorded")
    return value


def _channels(read: Read, rank: int) -> int:
    """The axis of the channels, counted from the end, of what has ``rank`` spatial axes."""
    first = read.torch_like or "channels_first" in (read.config.get("data_format"), read.node.layout)
    return -rank - 1 if first and read.config.get("data_format") != "channels_last" else -1


def _spatial(shape: Sequence[int], rank: int, channels: int) -> tuple[int, ...]:
    """The lengths of the spatial axes."""
    if len(shape) < rank + 1:
        raise Unknown(f"{len(shape)} axes are too few")
    return tuple(shape[-rank:] if channels != -1 else shape[-rank - 1 : -1])


def _activation(read: Read) -> Settings:
    """The activation that the node applies itself: fused, and not recorded on its own."""
    name = read.config.get("activation")
    if name in (None, "linear", "identity") or read.node.role == "activation":
        return {}
    from tracer.causes.reading.pointwise import by_name

    kind, settings = by_name(str(name), read)
    return {"activation": kind, "activation_settings": settings}


# -- dense -----------------------------------------------------------------------------------------------------------


@reader("dense")
def _dense(read: Read) -> tuple[Settings, Weights] | Step:
    """With a weight, or by a matrix that is computed of constants, as the neighbours of a graph are."""
    try:
        return _by_weight(read)
    except Unknown:
        found = next(arithmetic.by_matrix(read), None) if read.node.role == "op" else None
        if found is None:
            raise
        return found


def _by_weight(read: Read) -> tuple[Settings, Weights]:
    kernel, bias = _kernel_and_bias(read)
    told = _activation(read)
    if kernel is None:
        return _tied(read, told)
    known = read.node.label in ("Linear", "NonDynamicallyQuantizableLinear", "LazyLinear", "Dense", "TFConv1D")
    if kernel.ndim == 2 and known:
        return told, _present(kernel=kernel.T if read.torch_like else kernel, bias=bias)
    if kernel.ndim == 1:
        kernel = kernel[:, None]
    ways: list[Array] = []
    if kernel.ndim == 2:
        ways = [kernel.T, kernel] if read.torch_like and read.node.label.endswith(("linear", "Gemm")) else [
            kernel, kernel.T]  # fmt: skip
        ways = [way for way in ways if way.shape[0] == read.source()[-1] and way.shape[1] == read.shape[-1]] or ways
        if len(ways) == 1 or (len(ways) == 2 and ways[0].shape == ways[1].shape and read.node.label.endswith("linear")):
            return told, _present(kernel=ways[0], bias=bias)
        return deduce(read, [(told, _present(kernel=way, bias=bias)) for way in ways], "which way its matrix lies")
    return _contracted(read, kernel, bias, told)


@reader("bilinear")
def _bilinear(read: Read) -> tuple[Settings, Weights]:
    return {}, _present(kernel=_wanted(read, "kernel"), bias=read.weight("bias"))


def _kernel_and_bias(read: Read) -> tuple[Array | None, Array | None]:
    kernel, bias = read.weight("kernel"), read.weight("bias")
    if kernel is None:  # functions name their weights as their module does
        by_rank = sorted(((len(param.shape), param.name) for param in read.params), reverse=True)
        if by_rank and by_rank[0][0] >= 2:
            kernel = read.named(by_rank[0][1])
            bias = read.named(by_rank[1][1]) if len(by_rank) == 2 and bias is None else bias
    return kernel, None if bias is None else bias.reshape(-1) if kernel is None or kernel.ndim < 3 else bias


def _contracted(read: Read, kernel: Array, bias: Array | None, told: Settings) -> tuple[Settings, Weights]:
    """A kernel of several axes: the last ones of the input against its first ones."""
    source, made = read.source(), read.shape
    for count in range(1, kernel.ndim):
        lead = len(source) - count
        if lead >= 0 and source[lead:] == kernel.shape[:count] and made == (*source[:lead], *kernel.shape[count:]):
            return {**told, "contracted": count}, _present(kernel=kernel, bias=bias)
    if (flat := kernel.reshape(kernel.shape[0], -1)).shape[0] == source[-1] and flat.shape[1] == made[-1]:
        return told, _present(kernel=flat, bias=None if bias is None else bias.reshape(-1))
    raise Unknown(f"which axes a kernel of {kernel.shape} takes is not recorded")


def _tied(read: Read, told: Settings) -> tuple[Settings, Weights]:
    """A matrix of another layer (an embedding's, read backwards): the recorded one that gives what was recorded."""
    ways = (read.source()[-1], read.shape[-1])
    laid = (ways[::-1],) if read.node.label == "Linear" else (ways, ways[::-1])
    kernels = [way for value in borrowed(read, laid) for way in (value, value.T) if way.shape == ways]
    biased = read.config.get("bias") is True and read.weight("bias") is None
    biases: list[Array | None] = [*borrowed(read, [ways[1:]])] if biased else [read.weight("bias")]
    options: list[Option] = [(told, _present(kernel=kernel, bias=bias)) for bias in biases for kernel in kernels]
    if len(options) == 1 and read.node.label == "Linear":  # then it can be no other
        return options[0]
    return deduce(read, options, "whose weights it reads")


# -- convolutions ----------------------------------------------------------------------------------------------------


def _same(length: int, kernel: int, stride: int, dilation: int, *, later: bool = True) -> tuple[int, int]:
    """TensorFlow's SAME: as many windows as strides fit, an odd one more at the end."""
    total = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
    return (total // 2, total - total // 2) if later else (total - total // 2, total // 2)


def _strides(read: Read, rank: int) -> tuple[int, ...]:
    """Raises KeyError where they are not told; ONNX does not tell those of 1."""
    return numbers(read.config.get("strides", 1) if read.framework == "onnx" else read.config["strides"], rank)


def padded_by(
    read: Read, lengths: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """The padding in numbers, before and after each axis."""
    padding, rank = read.config.get("padding", 0 if read.framework == "onnx" else None), len(kernel)
    axes = tuple(zip(lengths, kernel, strides, dilation, strict=True))
    if padding is None:
        raise Unknown("its padding was not recorded")
    if isinstance(padding, str):
        word = padding.lower()
        if word == "valid":
            return ((0, 0),) * rank
        if word == "causal":
            return tuple(((k - 1) * d, 0) for _, k, _, d in axes)
        if word in ("same", "same_upper", "same_lower"):
            return tuple(_same(n, k, s, d, later=word != "same_lower") for n, k, s, d in axes)
        raise Unknown(f"padding '{padding}' is not known")
    return in_pairs(padding, rank)


def in_pairs(padding: Any, rank: int) -> Pairs:
    """``((before, after), …)`` of a number, one an axis, pairs, or all befores and then all afters."""
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    if padding and isinstance(padding[0], list | tuple):
        return tuple((int(a), int(b)) for a, b in padding)
    if len(padding) == 2 * rank:
        return tuple((int(a), int(b)) for a, b in zip(padding[:rank], padding[rank:], strict=True))
    return tuple((int(a), int(a)) for a in numbers(padding, rank))


@reader(*(f"{stem}{rank}" for stem in ("conv", "depthwise_conv", "separable_conv") for rank in _RANKED))
def _conv(read: Read) -> tuple[Settings, Weights]:
    kind, rank = read.node.kind, int(read.node.kind[-2])
    weights = _separated(read, rank) if kind.startswith("separable") else _convolving(read, rank)
    window = weights.get("depthwise_kernel", weights["kernel"]).shape[:rank]
    channels = _channels(read, rank)
    source = read.source()
    lengths, deep = _spatial(source, rank, channels), source[channels]
    if not {"strides", "padding"} & read.config.keys() and read.framework == "tensorflow":
        read = _told(read, lengths, window, _spatial(read.shape, rank, channels))
    strides, dilation = _strides(read, rank), numbers(read.config.get("dilation", 1), rank)
    groups = deep // weights["kernel"].shape[-2] if not kind.startswith("separable") else 1
    settings: Settings = {
        "strides": strides,
        "dilation": dilation,
        "padding": _weight_normed(read, window, strides) or padded_by(read, lengths, window, strides, dilation),
        "padding_mode": read.config.get("padding_mode", "zeros"),
        "groups": groups,
        "channels": channels,
    }
    return settings | _activation(read), weights


def _told(read: Read, before: Sequence[int], window: Sequence[int], after: Sequence[int]) -> Read:
    """A convolution of somebody's own with the strides and the padding that its lengths say."""
    strides = [max(1, round(a / b)) if b else 1 for a, b in zip(before, after, strict=True)]
    valid = [(n - k) // s + 1 for n, k, s in zip(before, window, strides, strict=True)]
    config = {**read.config, "strides": strides, "padding": "valid" if valid == [*after] else "same"}
    return replace(read, node=replace(read.node, config=config))


def _convolving(read: Read, rank: int) -> Weights:
    kernel, bias = read.weight("kernel"), read.weight("bias")
    if kernel is None and read.owned.keys() >= {"weight_v", "weight_g"}:
        return _present(kernel=_outward(_normed(read)), bias=bias)
    kernel = _kernel_and_bias(read)[0] if kernel is None else kernel
    if kernel is None or kernel.ndim != rank + 2:
        raise Unknown("its kernel was not recorded")
    if read.torch_like:
        kernel = _outward(kernel)
    elif read.node.kind.startswith("depthwise"):
        kernel = kernel.reshape(*kernel.shape[:rank], 1, -1)
    return _present(kernel=kernel, bias=None if bias is None else bias.reshape(-1))


def _outward(kernel: Array) -> Array:
    """(out, in, spatial…) as (spatial…, in, out)."""
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def _normed(read: Read) -> Array:
    """A kernel from its direction and its length, as Keras ports of weight_norm keep them."""
    direction, length = read.named("weight_v"), read.named("weight_g").T
    axes = tuple(axis for axis, size in enumerate(length.shape) if size == 1)
    return np.asarray(direction / np.sqrt(np.square(direction).sum(axis=axes, keepdims=True)) * length)


def _weight_normed(read: Read, window: Sequence[int], strides: Sequence[int]) -> Pairs:
    """The padding that such a port adds by hand on both sides, though its layer says ``valid``."""
    if read.config.get("padding") != "valid" or not read.owned.keys() >= {"weight_v", "weight_g"}:
        return ()
    more = read.shape[-2] - (read.source()[-2] - window[0] + 1)
    return ((more // 2, more - more // 2),) if more > 0 and strides == (1,) else ()


def _separated(read: Read, rank: int) -> Weights:
    first, then = _wanted(read, "depthwise_kernel"), read.weight("pointwise_kernel")
    then = read.weight("kernel") if then is None else then
    if then is None:
        raise Unknown("its pointwise kernel was not recorded")
    return _present(depthwise_kernel=first.reshape(*first.shape[:rank], 1, -1), kernel=then, bias=read.weight("bias"))


@reader(*(f"conv_transpose{rank}" for rank in _RANKED))
def _transposed(read: Read) -> tuple[Settings, Weights]:
    rank = int(read.node.kind[-2])
    kernel, bias = _kernel_and_bias(read)
    if kernel is None or kernel.ndim != rank + 2:
        raise Unknown("its kernel was not recorded")
    # (in, out, spatial…) in PyTorch, (spatial…, out, in) in Keras.
    kernel = np.moveaxis(kernel, (0, 1), (-2, -1)) if read.torch_like else np.swapaxes(kernel, -1, -2)
    channels, window = _channels(read, rank), kernel.shape[:rank]
    strides, dilation = _strides(read, rank), numbers(read.config.get("dilation", 1), rank)
    before, after = _spatial(read.source(), rank, channels), _spatial(read.shape, rank, channels)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(before, window, strides, dilation, strict=True)]
    settings: Settings = {
        "strides": strides,
        "dilation": dilation,
        "crop": _crop(read, full, after),
        "groups": int(read.config.get("groups", 1)),
        "channels": channels,
    }
    return settings | _activation(read), _present(kernel=kernel, bias=bias)


def _crop(read: Read, full: Sequence[int], made: Sequence[int]) -> Pairs:
    """What is cut off the full result so that ``made`` is left; negative where zeros are added."""
    padding = read.config.get("padding", 0) if read.framework == "onnx" else read.config["padding"]
    totals = [whole - length for whole, length in zip(full, made, strict=True)]
    if isinstance(padding, str):
        word = padding.lower()
        if word not in ("same", "valid", "same_upper", "same_lower"):
            raise Unknown(f"padding '{padding}' is not known")
        starts = [max(total, 0) // 2 if word.startswith("same") else 0 for total in totals]
        if word == "same_lower":
            starts = [max(total, 0) - start for total, start in zip(totals, starts, strict=True)]
    else:
        starts = [first for first, _ in in_pairs(padding, len(full))]
    return tuple((start, total - start) for start, total in zip(starts, totals, strict=True))


# -- pools -----------------------------------------------------------------------------------------------------------


@reader(*(f"{stem}_pool{rank}" for stem in ("max", "avg") for rank in _RANKED))
def _pool(read: Read) -> tuple[Settings, Weights]:
    rank, config = int(read.node.kind[-2]), read.config
    size = config.get("pool_size", config.get("kernel_size"))
    if size is None:
        return _guessed_pool(read, rank)
    window = numbers(size, rank)
    strides = numbers(config["strides"] or window, rank) if config.get("strides") is not None else window
    dilation, channels = numbers(config.get("dilation", 1), rank), _channels(read, rank)
    lengths = _spatial(read.source(), rank, channels)
    pairs = padded_by(read, lengths, window, strides, dilation)
    settings: Settings = {"pool_size": window, "strides": strides, "padding": pairs, "channels": channels}
    if any(step != 1 for step in dilation):
        settings["dilation"] = dilation
    if config.get("ceil_mode"):
        axes = zip(lengths, window, strides, dilation, pairs, strict=True)
        settings["ceil"] = tuple(_ceil(*axis) for axis in axes)
    if read.node.kind.startswith("avg"):
        settings["count_include_pad"] = bool(config.get("count_include_pad", False))
        if config.get("divisor_override"):
            settings["divisor"] = int(config["divisor_override"])
    return settings, {}


def _ceil(length: int, kernel: int, stride: int, dilation: int, pair: tuple[int, int]) -> int:
    """What a ceil mode adds at the end; a window that would begin in the padding there is left out."""
    whole, extent = length + sum(pair), (kernel - 1) * dilation + 1
    count = -(-(whole - extent) // stride) + 1
    if (count - 1) * stride >= length + pair[0]:
        count -= 1
    return max(0, (count - 1) * stride + extent - whole)


def _guessed_pool(read: Read, rank: int) -> tuple[Settings, Weights]:
    """TensorFlow's own operation, of which no setting is recorded: windows that do not overlap, or by one."""
    source = read.source()
    options: list[Option] = []
    for channels in (-1, -rank - 1):
        before, after = _spatial(source, rank, channels), _spatial(read.shape, rank, channels)
        if source[channels] != read.shape[channels]:
            continue
        strides = tuple(max(1, round(a / b)) if b else 1 for a, b in zip(before, after, strict=True))
        for more in (0, 1):
            window = tuple(s + more * (s > 1) for s in strides)
            for same in (False, True):
                axes = zip(before, window, strides, strict=True)
                pairs = tuple(_same(n, k, s, 1) if same else (0, 0) for n, k, s in axes)
                settings = {"pool_size": window, "strides": strides, "padding": pairs, "channels": channels}
                options.append((settings, {}))
    return deduce(read, options, "its windows")


@reader("global_avg_pool", "global_max_pool", "adaptive_avg_pool", "adaptive_max_pool")
def _whole(read: Read) -> Step:
    step = inferring.step_of(read, **_over_all(read))
    if read.framework != "tensorflow" or read.node.label != "GlobalAveragePooling1D":
        return step

    def masked() -> Iterator[Step]:
        counted = steps_that_count(read)
        given = masks_given(read) if counted is None else [counted]
        yield from (step.set(mask=mask) for mask in given)

    return inferring.likely(read, step, masked, terms=64)


def _over_all(read: Read) -> Settings:
    source, made, adaptive = read.source(), read.shape, read.node.kind.startswith("adaptive")
    if not adaptive and read.config.get("axis") is not None:
        given = read.config["axis"]
        axes = tuple(sorted(axis % len(source) for axis in ([given] if isinstance(given, int) else given)))
    else:
        rank = next((int(word[0]) for word in ("1d", "2d", "3d") if word in read.node.label.lower()), 0)
        # A layer called for each step has an axis more before those that it goes over.
        rank = rank or len(source) - (len(made) if not adaptive and len(made) < len(source) else 2)
        channels = _channels(read, rank)
        start = len(source) - rank - (channels == -1)
        axes = tuple(range(start, start + rank))
    settings: Settings = {"axes": axes}
    if adaptive:
        size = read.config["output_size"]
        sizes = size if isinstance(size, list) else [size] * len(axes)
        settings["output_size"] = tuple(
            source[axis] if length is None else int(length) for axis, length in zip(axes, sizes, strict=True)
        )
    else:
        settings["keepdims"] = len(made) == len(source)
    return settings


# -- normalisations --------------------------------------------------------------------------------------------------


def _epsilon(read: Read) -> float:
    return float(read.config["epsilon"])


def _trained(read: Read) -> bool | None:
    """Whether it takes the statistics of its input; None where the model trains, for some of its layers may not."""
    told = read.config.get("training")
    if told is not None:
        return bool(told)
    return None if read.recording.attributes.get("mode") == "train" else False


@reader("batchnorm")
def _batchnorm(read: Read) -> tuple[Settings, Weights]:
    rank = read.rank
    axis = read.config.get("axis", 1 if read.torch_like or read.node.layout == "channels_first" else -1)
    axis = axis[0] if isinstance(axis, list) else axis
    momentum = read.config.get("momentum")
    weights = _present(
        gamma=read.weight("gamma"),
        beta=read.weight("beta"),
        running_mean=read.weight("running_mean"),
        running_var=read.weight("running_var"),
    )
    weights = {role: value.reshape(-1) for role, value in weights.items()}
    settings: Settings = {"epsilon": _epsilon(read), "channels": int(axis) % rank - rank}
    if momentum is not None and read.framework != "onnx":
        settings["momentum"] = round(1 - float(momentum), 12) if read.torch_like else float(momentum)
    tracked = "running_mean" in weights and read.config.get("track_running_stats") is not False
    trained = _trained(read)
    if trained is None and tracked:
        options: list[Option] = [({**settings, "mode": mode}, weights) for mode in ("train", "eval")]
        return deduce(read, options, "whether it trains")
    return {**settings, "mode": "eval" if tracked and not trained else "train"}, weights


@reader("layernorm", "rmsnorm")
def _layernorm(read: Read) -> tuple[Settings, Weights] | Step:
    if read.config.get("epsilon") is None and read.node.role == "layer" and not _own_default(read):
        return inferring.first(read, custom.any_norm(read), "its epsilon was not recorded", terms=64)
    rank, config = read.rank, read.config
    gamma, beta = read.weight("gamma"), read.weight("beta")
    shape = config.get("normalized_shape")
    given = config.get("axis", config.get("axes"))
    if isinstance(shape, list | tuple):
        axes = tuple(range(-len(shape), 0))
    elif isinstance(shape, int) or (given is None and not read.torch_like):
        axes = (-1,)
    elif given is not None:
        found = [given] if isinstance(given, int) else list(given)
        # LayerNormalization of ONNX says where the axes begin.
        onward = read.framework == "onnx" and isinstance(given, int)
        axes = tuple(sorted({axis % rank - rank for axis in (range(found[0] % rank, rank) if onward else found)}))
    else:
        axes = tuple(range(-(1 if gamma is None else gamma.ndim), 0))
    settings: Settings = {"epsilon": _small(read), "axes": axes}
    return settings, _present(gamma=gamma, beta=beta)


def _own_default(read: Read) -> bool:
    """Whether it is PyTorch's, which has an epsilon of its own where none is told."""
    return read.node.kind == "rmsnorm" and read.torch_like and read.node.label == "RMSNorm"


def _small(read: Read) -> float:
    if read.config.get("epsilon") is None and read.node.kind == "rmsnorm" and read.torch_like:
        # PyTorch's default: that of the input's own type.
        name = read.node.dtype or "float32"
        return {"bfloat16": 2**-7, "float16": 2**-10}.get(name, float(np.finfo(np.dtype(name)).eps))
    if read.config.get("epsilon") is None and read.node.label.startswith("tf."):
        raise Unknown("its epsilon was not recorded")
    return _epsilon(read)


@reader("groupnorm", "instancenorm")
def _groupnorm(read: Read) -> tuple[Settings, Weights]:
    rank = read.rank
    axis = int(read.config.get("axis", 1 if read.torch_like else -1)) % rank - rank
    settings: Settings = {"epsilon": _epsilon(read), "channels": axis}
    weights = _present(gamma=read.weight("gamma"), beta=read.weight("beta"))
    if read.node.kind == "groupnorm":
        groups = int(read.config["groups"])
        settings["groups"] = read.source()[axis] if groups == -1 else groups
        return settings, {role: value.reshape(-1) for role, value in weights.items()}
    spatial = next((int(word[0]) for word in _RANKED if word in read.node.label), rank - 2)
    settings["batch"] = 0
    if read.torch_like and rank == spatial + 1:  # one picture alone
        settings |= {"channels": -rank, "batch": -1}
    if read.config.get("track_running_stats") and _trained(read) is False and read.weight("running_mean") is not None:
        settings["mode"] = "eval"
        weights |= {role: _wanted(read, role) for role in ("running_mean", "running_var")}
    return settings, weights


@reader("l2_normalize")
def _l2_normalize(read: Read) -> tuple[Settings, Weights]:
    rank, config = read.rank, read.config
    axis = config.get("axis", 1 if read.torch_like and read.framework == "pytorch" else None)
    epsilon, order = float(config.get("epsilon", 1e-12)), float(config.get("order", config.get("rate", 2.0)))
    form = "maxsquare" if read.node.label.startswith("tf.") else "max"
    if read.framework == "onnx":
        axis, order, epsilon = config.get("axis", -1), float(config.get("p", 2)), 0.0
    more: Settings = {"order": order} if order != 2 else {}
    if axis is None and read.node.label == "UnitNormalization":
        axis = -1
    if axis is None:
        every = [(-1,), *((axis,) for axis in range(rank - 1)), tuple(range(rank))]
        options: list[tuple[Settings, Weights]] = [
            ({"epsilon": epsilon, "axes": axes, "form": form}, {}) for axes in every
        ]
        return deduce(read, options, "its axis")
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return {"epsilon": epsilon, "axes": axes, "form": form, **more}, {}


@reader("lrn")
def _lrn(read: Read) -> tuple[Settings, Weights]:
    config = read.config
    beta, alpha = float(config.get("beta", 0.75)), float(config.get("alpha", 1e-4))
    if (radius := config.get("depth_radius")) is not None:  # TensorFlow's
        more: Settings = {
            "window": (int(radius), int(radius)),
            "alpha": alpha,
            "offset": float(config.get("bias", 1.0)),
        }
        return {**more, "beta": beta, "channels": -1}, {}
    size = int(config["size"])
    window = ((size - 1) // 2, size // 2) if read.framework == "onnx" else (size // 2, (size - 1) // 2)
    settings: Settings = {"window": window, "alpha": alpha / size, "beta": beta, "channels": 1 - read.rank}
    told = config.get("k", config.get("bias"))
    if told is not None:
        return {**settings, "offset": float(told)}, {}
    return deduce(read, [({**settings, "offset": usual}, {}) for usual in (1.0, 2.0)], "what it adds")
