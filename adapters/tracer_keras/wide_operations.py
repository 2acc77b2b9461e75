"""Operations that TensorFlow has in float32 alone, written out in ones that it has in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracer_keras.flavour import tensorflow


class Replacements:
    """Functions of one graph that take the place of operations; ``suffix`` tells them from those of others."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._made: dict[bytes, Any] = {}

    @property
    def functions(self) -> list[Any]:
        return list(self._made.values())

    def of(self, node: Any) -> Any:
        """The function (a FunctionDef) that computes what ``node`` does; None where it needs none or there is none."""
        write = _WRITTEN.get(node.op)
        if write is None:
            return None
        attributes = {key: value for key, value in sorted(node.attr.items()) if key[:1] != "_"}
        key = node.op.encode() + b"".join(k.encode() + v.SerializeToString() for k, v in attributes.items())
        if key not in self._made:
            function = write(attributes)
            if function is None:
                return None
            definition = type(function)()
            definition.CopyFrom(function)
            definition.signature.name = f"{node.op}{self._suffix}_{len(self._made)}"
            self._made[key] = definition
        return self._made[key]


def _traced(function: Callable[..., Any], ranks: list[int | None]) -> Any:
    tf = tensorflow()
    specs = [tf.TensorSpec(None if rank is None else [None] * rank, tf.float64) for rank in ranks]
    return tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs).function_def


def _batch_normalisation(outputs: int) -> Callable[[dict[str, Any]], Any]:
    def write(attr: dict[str, Any]) -> Any:
        tf = tensorflow()
        epsilon = attr["epsilon"].f if "epsilon" in attr else 1e-4
        training = attr["is_training"].b if "is_training" in attr else True
        layout = attr["data_format"].s.decode() if "data_format" in attr else "NHWC"
        factor = attr["exponential_avg_factor"].f if "exponential_avg_factor" in attr else 1.0
        rank = 5 if "D" in layout else 4
        channel = layout.index("C")
        axes = [axis for axis in range(rank) if axis != channel]
        broad = [-1 if axis == channel else 1 for axis in range(rank)]

        def compute(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> tuple[Any, ...]:
            running = (mean, variance)
            if training:
                mean = tf.reduce_mean(x, axes)
                variance = tf.reduce_mean(tf.math.squared_difference(x, tf.reshape(mean, broad)), axes)
                count = tf.cast(tf.size(x) // tf.shape(x)[channel], tf.float64)
                sample = variance * (count / tf.maximum(count - 1, 1))
                now = [mean, sample]
                if factor != 1.0:
                    now = [(1 - factor) * old + factor * new for old, new in zip(running, now, strict=True)]
                statistics = tuple(now)
            else:
                statistics = running
            gain = scale * tf.math.rsqrt(variance + epsilon)
            y = (x - tf.reshape(mean, broad)) * tf.reshape(gain, broad) + tf.reshape(offset, broad)
            more = (mean, variance, tf.zeros([0], tf.float64))
            return (y, *statistics, *more)[:outputs]

        return _traced(compute, [rank, 1, 1, 1, 1])

    return write


def _pooling(pool: str) -> Callable[[dict[str, Any]], Any]:
    def write(attr: dict[str, Any]) -> Any:
        tf = tensorflow()
        if "data_format" in attr and attr["data_format"].s != b"NDHWC":
            return None
        size, strides, padding = list(attr["ksize"].list.i), list(attr["strides"].list.i), attr["padding"].s.decode()
        if {size[0], size[4], strides[0], strides[4]} != {1} or padding not in ("SAME", "VALID"):
            return None
        function = getattr(tf.raw_ops, pool)
        argument = "input" if pool == "MaxPool" else "value"

        def along(x: Any, size: list[int], strides: list[int]) -> Any:
            return function(**{argument: x}, ksize=[1, *size, 1], strides=[1, *strides, 1], padding=padding)

        def compute(x: Any) -> Any:
            # A window is the product of its axes: its mean is the mean of means, also where padding cuts it off.
            batch, depth, height, width, channels = tf.unstack(tf.shape(x), 5)
            x = along(tf.reshape(x, [batch * depth, height, width, channels]), size[2:4], strides[2:4])
            height, width = tf.shape(x)[1], tf.shape(x)[2]
            x = along(tf.reshape(x, [batch, depth, height * width, channels]), [size[1], 1], [strides[1], 1])
            return tf.reshape(x, [batch, -1, height, width, channels])

        return _traced(compute, [5])

    return write


def _resizing(attr: dict[str, Any]) -> Any:
    tf = tensorflow()
    corners = attr["align_corners"].b if "align_corners" in attr else False
    centers = attr["half_pixel_centers"].b if "half_pixel_centers" in attr else False

    def along(x: Any, axis: int, wanted: Any) -> Any:
        given = tf.shape(x)[axis]
        have, want = tf.cast(given, tf.float64), tf.cast(wanted, tf.float64)
        scale = tf.where(want > 1, (have - 1) / (want - 1), have / want) if corners else have / want
        steps = tf.range(want, dtype=tf.float64)
        at = (steps + 0.5) * scale - 0.5 if centers else steps * scale
        low = tf.floor(at)
        part = tf.reshape(at - low, [-1 if other == axis else 1 for other in range(4)])
        below = tf.gather(x, tf.maximum(tf.cast(low, tf.int32), 0), axis=axis)
        above = tf.gather(x, tf.minimum(tf.cast(tf.math.ceil(at), tf.int32), given - 1), axis=axis)
        return below + (above - below) * part

    def compute(images: Any, size: Any) -> Any:
        return along(along(images, 2, size[1]), 1, size[0])

    specs = [tf.TensorSpec([None] * 4, tf.float64), tf.TensorSpec([2], tf.int32)]
    return tf.function(compute, autograph=False).get_concrete_function(*specs).function_def


def _local_response(attr: dict[str, Any]) -> Any:
    tf = tensorflow()
    radius = attr["depth_radius"].i
    bias, alpha, beta = (attr[name].f for name in ("bias", "alpha", "beta"))

    def compute(x: Any) -> Any:
        channels = tf.shape(x)[3]
        near = tf.linalg.band_part(tf.ones([channels, channels], tf.float64), radius, radius)
        return x * tf.pow(bias + alpha * tf.tensordot(x * x, near, 1), -beta)

    return _traced(compute, [4])


_WRITTEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "FusedBatchNorm": _batch_normalisation(5),
    "FusedBatchNormV2": _batch_normalisation(5),
    "FusedBatchNormV3": _batch_normalisation(6),
    "AvgPool3D": _pooling("AvgPool"),
    "MaxPool3D": _pooling("MaxPool"),
    "ResizeBilinear": _resizing,
    "LRN": _local_response,
}
