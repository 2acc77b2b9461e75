"""Resizing layers and functions: modes and coordinates of Keras, TensorFlow, PyTorch and ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.step import Step, Unknown

_MODES = {
    "nearest": "nearest",
    "nearest-exact": "nearest",
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "cubic": "cubic",
    "area": "area",
    "lanczos3": "lanczos3",
    "lanczos5": "lanczos5",
    "gaussian": "gaussian",
    "mitchellcubic": "mitchell",
}
_EXACT = {"coordinates": "half_pixel_exact", "rounding": "floor"}
_FIRST = {"coordinates": "asymmetric", "rounding": "floor"}
_TABLE = 1024


@reader("upsample", "resize")
def resize(node: Read) -> Step:
    """The mode that the node tells, with what its framework means by it."""
    channels = _channels(node)
    spatial = [axis for axis in range(1, node.rank) if axis != channels % node.rank]
    if not spatial or len(node.shape) != node.rank:
        raise Unknown("it has no spatial axes")
    size = tuple(node.shape[axis] for axis in spatial)
    find = {"pytorch": _torch, "onnx": _onnx}.get(node.framework, _keras)
    base = inferring.step_of(node, (node.node.parents[0],), size=size, channels=channels % node.rank - node.rank)
    told = find(node)
    if told is None:
        found = inferring.first(node, any_way(node, channels), "how it interpolates is not told")
    else:
        found = inferring.likely(node, base.set(**told), lambda: (base.set(**way) for way in _alternatives(node, told)))
    return found.set(size=_size(node, spatial))


def any_way(node: Read, channels: int) -> Iterator[Step]:
    """Steps that resize to the node's shape in every convention there is."""
    size = tuple(node.shape[axis] for axis in range(1, node.rank) if axis != channels % node.rank)
    own = channels % node.rank - node.rank
    base = inferring.step_of(node, (node.node.parents[0],), "resize", size=size, channels=own)
    yield from (base.set(**way, inferred=True) for way in _ways())


def _size(node: Read, spatial: list[int]) -> tuple[int, ...]:
    """The lengths that it makes; of an input of other lengths so many times those, where the other side has that."""
    size = tuple(node.shape[axis] for axis in spatial)
    source = node.recording.structure.by_name.get(node.node.parents[0])
    if node.given is None or source is None or source.shape is None or len(source.shape) != node.rank:
        return size
    scaled = tuple(n * node.source()[axis] // source.shape[axis] for n, axis in zip(size, spatial, strict=True))
    shapes = [shape for shape in node.seen if len(shape) == node.rank]
    return scaled if any(tuple(shape[axis] for axis in spatial) == scaled for shape in shapes) else size


def _channels(node: Read) -> int:
    if node.node.layout is not None:
        return 1 if node.node.layout == "channels_first" else -1
    return 1 if node.config.get("data_format") == "channels_first" or node.torch_like else -1


def _mode(node: Read) -> str | None:
    word = node.config.get("mode", node.config.get("interpolation", node.config.get("method")))
    if word is None:
        return None
    if str(word) not in _MODES:
        raise Unknown(f"the interpolation {word} is not known")
    return _MODES[str(word)]


def _torch(node: Read) -> dict[str, Any]:
    mode = _mode(node) or "nearest"
    exact = node.config.get("mode") == "nearest-exact"
    antialias = bool(node.config.get("antialias"))
    found: dict[str, Any] = {"mode": mode, "antialias": antialias}
    if mode == "nearest":
        found |= _EXACT if exact else _FIRST
    elif mode in ("linear", "cubic"):
        found["coordinates"] = "align_corners" if node.config.get("align_corners") else "half_pixel"
        if mode == "cubic":
            found |= {"cubic": -0.5 if antialias else -0.75, "edge": "clamp"}
    factor = node.config.get("scale_factor")
    if factor is not None and not node.config.get("recompute_scale_factor") and mode != "area":
        count = node.rank - 2
        given = factor if isinstance(factor, list) else [factor] * count
        found["scale"] = tuple(float(value) for value in given)
    return found


def _keras(node: Read) -> dict[str, Any] | None:
    mode = _mode(node)
    if mode is None and node.node.label in ("UpSampling1D", "UpSampling3D"):
        return {"mode": "nearest", **_FIRST}
    if mode is None:
        return None
    if node.config.get("align_corners"):
        return _older(mode, "align_corners")
    if node.config.get("half_pixel_centers") is False:
        return _older(mode, "asymmetric")
    return _newer(mode)


def _newer(mode: str, *, antialias: bool = False) -> dict[str, Any]:
    """``tf.image.resize``: half pixels; its cubic weights come from a table unless they are antialiased."""
    found: dict[str, Any] = {"mode": mode, "coordinates": "half_pixel", "antialias": antialias}
    if mode == "nearest":
        return found | _EXACT | {"antialias": False}
    if mode == "area":
        return {"mode": "area_exact"}
    if mode == "cubic":
        found |= {"cubic": -0.5, "edge": "renormalise"} | ({} if antialias else {"table": _TABLE})
    return found


def _older(mode: str, coordinates: str) -> dict[str, Any]:
    """TensorFlow's first resizing: corners aligned, or places counted from the corner."""
    found: dict[str, Any] = {"mode": mode, "coordinates": coordinates}
    if mode == "nearest":
        found["rounding"] = "round_prefer_ceil" if coordinates == "align_corners" else "floor"
    elif mode == "cubic":
        found |= {"cubic": -0.75, "edge": "clamp", "table": _TABLE}
    elif mode == "area":
        found = {"mode": "area_exact"}
    return found


def _onnx(node: Read) -> dict[str, Any]:
    config = node.config
    mode = _mode(node) or "nearest"
    antialias = bool(config.get("antialias"))
    old = node.node.label == "Upsample"
    coordinates = config.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if coordinates == "tf_crop_and_resize":
        raise Unknown("a cut before the resizing is not computed")
    found: dict[str, Any] = {"mode": mode, "coordinates": coordinates, "antialias": antialias}
    if mode == "nearest":
        found["rounding"] = config.get("nearest_mode", "floor" if old else "round_prefer_floor")
    elif mode == "cubic":
        outside = bool(config.get("exclude_outside"))
        found |= {"cubic": float(config.get("cubic_coeff_a", -0.75)), "edge": "renormalise" if outside else "clamp"}
    scale = config.get("scale_factor")
    if isinstance(scale, list) and len(scale) == node.rank:
        found["scale"] = tuple(float(value) for value in scale[2:])
    return found


def _alternatives(node: Read, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the settings leave open: antialiasing and proportions of Keras, the scale of torch, other conventions."""
    yield {key: value for key, value in told.items() if key != "scale"}
    mode = told["mode"]
    if node.framework not in ("pytorch", "onnx"):
        for antialias in (False, True):
            way = _newer("area" if mode == "area_exact" else mode, antialias=antialias)
            yield way
            yield from (way | {"aspect": aspect} for aspect in ("crop", "pad"))
    yield from (way for way in _ways() if way["mode"] == mode)


def _ways() -> Iterator[dict[str, Any]]:
    """Every convention that a framework has."""
    for mode in ("nearest", "linear", "cubic", "area"):
        yield _newer(mode)
        yield from (_older(mode, coordinates) for coordinates in ("align_corners", "asymmetric"))
    yield {"mode": "area"}
    for coordinates in ("half_pixel", "align_corners"):
        yield {"mode": "cubic", "coordinates": coordinates, "cubic": -0.75, "edge": "clamp"}
    yield from (_newer(mode, antialias=True) for mode in ("linear", "cubic"))
    yield from (_newer(mode, antialias=flag) for mode in ("lanczos3", "lanczos5", "gaussian") for flag in (False, True))
