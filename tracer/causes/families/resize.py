"""Resizing: between which places, by which weights, with which smoothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracer.causes.case import Case
from tracer.causes.edit import Edit
from tracer.causes.families.common import inputs, ordered, try_chain, try_settings, value
from tracer.causes.registry import suggests
from tracer.causes.step import Step

_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn")
_ROUNDING = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
_MODES = ("nearest", "linear", "cubic", "area", "area_exact", "lanczos3", "lanczos5", "gaussian", "mitchell")
_KEYS = ("mode", "coordinates", "antialias", "rounding", "cubic", "edge")


def _ways(step: Step) -> Iterator[dict[str, Any]]:
    """All ways of resizing that are in use, those of our own mode first."""
    now = step.settings.get("mode", "nearest")
    for mode in sorted(_MODES, key=lambda word: word != now):
        if mode.startswith("area"):
            yield {"mode": mode}
            continue
        for coordinates in _COORDINATES:
            if mode == "nearest":
                for rounding in _ROUNDING:
                    yield {"mode": mode, "coordinates": coordinates, "rounding": rounding, "antialias": False}
                continue
            for antialias in (False, True):
                if mode != "cubic":
                    yield {"mode": mode, "coordinates": coordinates, "antialias": antialias}
                    continue
                for number in (-0.75, -0.5):
                    for edge in ("clamp", "renormalise"):
                        more = {"cubic": number, "edge": edge}
                        yield {"mode": mode, "coordinates": coordinates, "antialias": antialias, **more}


@suggests("resize", "upsample")
def resized(case: Case, step: Step) -> Iterator[Edit]:
    """Every way in use; one that changes the least is believed most."""
    own = step.settings
    for settings in _ways(step):
        usual = {"mode": "nearest", "antialias": False}
        changed = {
            key: settings[key] for key in _KEYS if key in settings and settings[key] != own.get(key, usual.get(key))
        }
        if not changed:
            continue
        if "mode" in changed:
            cause = "resize-mode"
        elif set(changed) & {"coordinates", "rounding"}:
            cause = "resize-align-corners"
        else:
            cause = "resize-antialias" if "antialias" in changed else "resize-mode"
        words = [ordered(case, own.get(key, usual.get(key)), new) for key, new in changed.items()]
        what = "; ".join(
            f"{key} of {step.name} is {a} in the reference, {b} in the candidate"
            for key, (a, b) in zip(changed, words, strict=True)
        )
        yield from try_settings(case, step, cause, 2.0 + 0.3 * (len(changed) - 1), changed, what)


@suggests("resize", "upsample")
def tiled(case: Case, step: Step) -> Iterator[Edit]:
    """The whole map several times over, where each of its places is repeated."""
    before, after = inputs(case, step)[0].shape, value(case, step).shape
    if len(before) != len(after) or any(b % a for a, b in zip(before, after, strict=True)):
        return
    repeats = tuple(b // a for a, b in zip(before, after, strict=True))
    whole = Step(step.name, "tile", {"repeats": repeats}, {}, step.inputs[:1], step.shape)
    what = f"the {case.doer} puts the whole map {repeats} times over in {step.name}, the {case.other} each place"
    yield from try_chain(case, step, (whole,), "resize-mode", what, 2.5)


@suggests("grid_sample", "affine_grid")
def sampled(case: Case, step: Step) -> Iterator[Edit]:
    """Corners that are aligned or not, the nearest place, what lies beyond the edges."""
    aligned = not step.settings.get("align_corners")
    yield from try_settings(case, step, "resize-align-corners", 2.0, {"align_corners": aligned})
    if step.kind == "affine_grid":
        return
    for mode in {"bilinear", "nearest"} - {step.settings["mode"]}:
        yield from try_settings(case, step, "resize-mode", 2.0, {"mode": mode})
    for padding in sorted({"zeros", "border", "reflection"} - {step.settings["padding_mode"]}):
        yield from try_settings(case, step, "pad-mode", 2.1, {"padding_mode": padding})
