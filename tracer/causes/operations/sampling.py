"""Values at places between others, windows of a sequence and what they add up to, spectra.

======================  =============================================================================================
kinds                   settings
======================  =============================================================================================
``grid_sample``         ``mode`` (bilinear, nearest), ``padding_mode`` (zeros, border, reflection), ``align_corners``;
                        pictures (batch, channels, height, width), places (batch, …, (x, y)) from -1 to 1
``affine_grid``         ``size`` (of the map), ``align_corners``; what is read are 2 × 3 matrices
``windows``             ``axis``, ``size``, ``strides``: the windows along an axis, their values last
``fold``                ``output_size``, ``kernel_size``, ``strides``, ``dilation``, ``padding``: the columns
                        of ``unfold`` summed where they came from
``fft``                 ``transform`` (a function of numpy.fft), ``axes``, ``norm``, ``length`` (of irfft), ``part``
                        (real, imaginary; None: complex); of two inputs the second is the imaginary part
======================  =============================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step, Unknown, numbers


@operation("grid_sample")
def sampled(step: Step, inputs: Sequence[Array]) -> Array:
    """Each picture at places of its own, as torch.nn.functional.grid_sample has it."""
    pictures, places = inputs
    aligned, mode = bool(step.settings.get("align_corners")), step.settings.get("mode", "bilinear")
    padding = step.settings.get("padding_mode", "zeros")
    if pictures.ndim != 4 or mode not in ("bilinear", "nearest"):
        raise Unknown(f"grid_sample with mode {mode} of {pictures.ndim - 2} axes is not known")
    sizes = pictures.shape[:1:-1]  # x counts along the last axis
    at = [
        _within(
            (places[..., k] + 1) / 2 * (n - 1) if aligned else ((places[..., k] + 1) * n - 1) / 2, n, padding, aligned
        )
        for k, n in enumerate(sizes)
    ]
    found = np.zeros(())
    corners = itertools.product((0, 1), repeat=2) if mode == "bilinear" else [(0, 0)]
    for corner in corners:
        where = [np.floor(x) + more if mode == "bilinear" else np.rint(x) for x, more in zip(at, corner, strict=True)]
        weight = np.ones(places.shape[:-1])
        for x, near, n in zip(at, where, sizes, strict=True):
            weight = weight * ((near >= 0) & (near < n))
            weight = weight * (1 - np.abs(x - near)) if mode == "bilinear" else weight
        columns, rows = (np.clip(near, 0, n - 1).astype(np.int64) for near, n in zip(where, sizes, strict=True))
        batch = np.arange(len(pictures)).reshape(-1, *[1] * (rows.ndim - 1))
        found = found + weight[:, None] * np.moveaxis(pictures[batch, :, rows, columns], -1, 1)
    return np.asarray(found)


def _within(x: Array, count: int, padding: str, aligned: bool) -> Array:
    """Places brought back into the picture, where they are."""
    if padding == "reflection":
        low, span = (0.0, float(count - 1)) if aligned else (-0.5, float(count))
        beyond = np.mod(np.abs(x - low), 2 * span) if span else np.zeros_like(x)
        x = low + np.minimum(beyond, 2 * span - beyond)
    return x if padding == "zeros" else np.clip(x, 0, count - 1)


@operation("affine_grid")
def affine(step: Step, inputs: Sequence[Array]) -> Array:
    """The places (x, y) that matrices (batch, 2, 3) take those of a map to."""
    lines = [
        np.linspace(-1, 1, n) if step.settings.get("align_corners") and n > 1 else (np.arange(n) * 2 + 1) / n - 1
        for n in step.settings["size"]
    ]
    rows, columns = np.meshgrid(*lines, indexing="ij")
    places = np.stack([columns, rows, np.ones_like(rows)], -1)
    return np.asarray(np.einsum("hwk,bjk->bhwj", places, inputs[0]))


@operation("windows")
def windows(step: Step, inputs: Sequence[Array]) -> Array:
    """Windows along an axis, the values of each along a new last one."""
    axis = step.settings["axis"] % inputs[0].ndim
    found = np.lib.stride_tricks.sliding_window_view(inputs[0], step.settings["size"], axis)
    return np.asarray(found[(*[slice(None)] * axis, slice(None, None, step.settings["strides"]))])


@operation("fold")
def fold(step: Step, inputs: Sequence[Array]) -> Array:
    """(batch, channels · taps, windows) as pictures; where windows overlap their values are summed."""
    size = tuple(step.settings["output_size"])
    window, strides, dilation, padding = (
        numbers(step.settings.get(word, usual), len(size))
        for word, usual in (("kernel_size", 1), ("strides", 1), ("dilation", 1), ("padding", 0))
    )
    counts = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, window, strides, strict=True)
    ]
    parts = inputs[0].reshape(len(inputs[0]), -1, *window, *counts)
    found = np.zeros((*parts.shape[:2], *(n + 2 * p for n, p in zip(size, padding, strict=True))))
    for tap in np.ndindex(*window):
        place = tuple(
            slice(k * d, k * d + (count - 1) * s + 1, s)
            for k, d, count, s in zip(tap, dilation, counts, strides, strict=True)
        )
        found[(slice(None), slice(None), *place)] += parts[(slice(None), slice(None), *tap)]
    return found[(slice(None), slice(None), *(slice(p, p + n) for p, n in zip(padding, size, strict=True)))]


@operation("fft")
def spectrum(step: Step, inputs: Sequence[Array]) -> Array:
    """A transform of numpy.fft."""
    values = inputs[0] if len(inputs) == 1 else inputs[0] + 1j * inputs[1]
    settings = step.settings
    axes, norm, name = settings["axes"], settings.get("norm"), settings["transform"]
    if name in ("fft", "ifft"):
        found = getattr(np.fft, f"{name}n")(values, axes=axes, norm=norm)
    elif name == "rfft":
        found = np.fft.rfft(values, axis=axes[0], norm=norm)
    else:
        found = np.fft.irfft(values, settings.get("length"), axis=axes[0], norm=norm)
    part = settings.get("part")
    return np.asarray(found if part is None else getattr(np, _PARTS[str(part)])(found))


_PARTS = {"real": "real", "imaginary": "imag", "abs": "abs"}
