"""Planes of numbers as small PNG files, written into the page."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from PIL import Image

from tracer.report.tensors import Array, pool

Kind = Literal["values", "difference"]

COLUMNS, ROWS = 120, 72
"""Points of a picture at most: with the levels below about 8 kB each, however noisy."""
_LEVELS = 64
_SPOILT = _LEVELS
"""The colour of what is not finite."""
_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
"""matplotlib's colour map in ten stops: even steps for the eye, in grey and for the colour-blind too."""
_NEGATIVE, _POSITIVE, _NAN = (0, 114, 178), (213, 94, 0), (204, 0, 120)
"""Blue and vermilion of Okabe and Ito's palette, which the colour-blind tell apart."""
_FAINTEST = 40
"""Opacity of the smallest difference: what is blank is equal."""


def heatmap(plane: Array, limits: tuple[float, float], kind: Kind) -> str:
    """A plane as a ``data:`` URI of a PNG. Points that stand for several elements show the one of largest magnitude.

    Args:
        plane: two-dimensional, real.
        limits: the values of the first and last colour; a difference is drawn from blue (−) over nothing to red (+).
    """
    points = pool(plane, min(ROWS, plane.shape[0]), min(COLUMNS, plane.shape[1]))
    low, high = limits
    finite = np.isfinite(points)
    with np.errstate(all="ignore"):
        share = (points / 2 - low / 2) / (high / 2 - low / 2) if high > low else np.full(points.shape, 0.5)
        if kind == "difference":
            # Nothing is the middle level; the smallest difference is already the next one.
            steps = _LEVELS // 2
            away = np.ceil(np.abs(share - 0.5) * 2 * (steps - 1))
            level = steps + np.sign(share - 0.5) * np.clip(away, 0, steps - 1)
        else:
            level = np.rint(share * (_LEVELS - 1))
        indices = np.where(finite, np.clip(np.nan_to_num(level), 0, _LEVELS - 1), _SPOILT).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(_palette(kind))
    out = io.BytesIO()
    opacity = bytes(_opacity()) if kind == "difference" else None
    picture.save(out, "PNG", optimize=True, bits=8, **({} if opacity is None else {"transparency": opacity}))
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _palette(kind: Kind) -> list[int]:
    if kind == "difference":
        half = _LEVELS // 2
        colours = [_NEGATIVE] * half + [_POSITIVE] * half
        return [part for colour in (*colours, _NAN) for part in colour]
    stops = np.array([[int(stop[at : at + 2], 16) for at in (0, 2, 4)] for stop in _VIRIDIS], float)
    places = np.linspace(0, len(stops) - 1, _LEVELS)
    parts = [np.interp(places, np.arange(len(stops)), stops[:, at]) for at in range(3)]
    return [*np.rint(np.stack(parts, 1)).astype(int).reshape(-1).tolist(), *_NAN]


def _opacity() -> list[int]:
    half = _LEVELS // 2
    far = [abs(level - half) for level in range(_LEVELS)]
    shades = [0 if at == 0 else round(_FAINTEST + (255 - _FAINTEST) * min(1.0, at / (half - 1))) for at in far]
    return [*shades, 255]
