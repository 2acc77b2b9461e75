"""All that is known of one tensor, or a line for each of several, as text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.names import display
from tracer.report import found as find_
from tracer.report import words
from tracer.report.found import Found, Twin
from tracer.report.outline import columns, configuration, operation
from tracer.report.tensors import Array, Histogram

_LABEL = 11
_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def table(found: list[Found], width: int | None) -> Iterator[str]:
    """A line for each tensor."""
    rows = [["name", "operation", "shape", "type", "min", "max", "mean", "std", ""]]
    for one in found:
        numbers = [
            f"{one.statistics[key]:.4g}" if key in one.statistics else "" for key in ("min", "max", "mean", "std")
        ]
        spoilt = " ".join(f"{one.summary[key]} {word}" for key, word in (("nan", "NaN"), ("inf", "Inf"))
                          if one.summary.get(key))  # fmt: skip
        what = "" if one.node is None else display(operation(one.node), 40)
        note = one.missing if one.stored is None and not one.statistics else spoilt
        rows.append(
            [display(one.name, 80), what, words.shape_text(one.shape), one.dtype or "?", *numbers, display(note, 60)]
        )
    yield from columns(rows, width=width, right=frozenset((4, 5, 6, 7)))


def page(one: Found, beside: Twin | None, shown: Array | None, *, plain: bool = False) -> Iterator[str]:
    """A tensor, its twin ``beside``, and values that are ``shown``; ``plain`` is without glyphs outside ASCII."""
    node, recording = one.node, one.recording
    what = {"activation": "", "gradient": "gradient of the loss with respect to "}.get(one.kind, f"{one.kind} ")
    label = "" if node is None else f"   {display(node.label)}"
    yield f"{what}{display(one.name)}{label}, in '{display(recording.name)}' ({display(recording.model, 60)})"
    yield from _facts(one)
    numbers = one.statistics
    if numbers:
        moments = "  ".join(
            f"{key} {numbers[key]:.6g}" for key in ("min", "max", "mean", "std", "rms") if key in numbers
        )
        yield _line("values", moments or "none is finite")
        size = max(1, int(numbers.get("size", 1)))
        counts = [f"{numbers[key]} {word}" for key, word in (("zeros", "zeros"), ("nan", "NaN"), ("inf", "infinite"))
                  if numbers.get(key)]  # fmt: skip
        yield _line("", f"{size} elements{': ' if counts else ''}{', '.join(counts)}")
    if one.missing:
        yield _line("", display(f"no values: {one.missing}"))
    for weight in find_.weights_of(one):
        known = weight.statistics
        said = "  ".join(f"{key} {known[key]:.4g}" for key in ("min", "max", "mean", "std") if key in known)
        name = weight.name.rpartition("/")[2]
        yield _line("weight", f"{display(name)} {words.shape_text(weight.shape)} {weight.dtype}   {said}")
    if beside is not None:
        yield from _twin(beside, plain)
    histogram = one.histogram()
    if histogram is not None:
        yield ""
        yield from _bars(histogram, plain)
    elif one.stored is not None and not one.cheap:
        yield _line("", "its distribution is not shown: it is large, and packed or elsewhere")
    if shown is not None:
        yield ""
        wide = shown.astype(np.float32) if shown.dtype.isbuiltin != 1 else shown
        yield from np.array2string(wide, max_line_width=100, threshold=1000).splitlines()
        if (one.nbytes or 0) > find_.VERIFIED:
            yield _line("", "its checksum was not verified: it is large")


def _facts(one: Found) -> Iterator[str]:
    """Shape, place in the graph, settings."""
    node = None if "weight" in one.kind else one.node
    stored = "" if one.stored is None or one.stored.dtype == one.dtype else f", stored as {one.stored.dtype}"
    size = "" if one.nbytes is None else f", {words.bytes_text(one.nbytes)}"
    named = find_.axes(one)
    yield _line("shape", f"{words.shape_text(one.shape)} {one.dtype or '?'}{stored}{size}"
                + (f"   ({', '.join(named)})" if named else ""))  # fmt: skip
    if node is None:
        return
    if node.alias_of is not None:
        yield _line("same as", display(node.alias_of))
    if node.parents:
        yield _line("reads", ", ".join(display(name, 60) for name in node.parents))
    readers = one.recording.structure.children.get(node.name, ())
    if readers:
        more = f" and {len(readers) - 6} more" if len(readers) > 6 else ""
        yield _line("read by", ", ".join(display(name, 60) for name in readers[:6]) + more)
    if node.config and one.kind == "activation":
        yield _line("settings", configuration(node, whole=True))
    if node.source:
        yield _line("source", display(node.source))


def _twin(beside: Twin, plain: bool) -> Iterator[str]:
    other, pair = display(beside.other.name), beside.pair
    glyphs = ASCII_GLYPHS if plain else GLYPHS
    if beside.diff is None:
        yield _line("twin", f"not compared with '{other}' yet: tracer diff")
    elif pair is None:
        yield _line("twin", f"{glyphs[Verdict.UNMATCHED]} none in '{other}': {display(beside.unmatched)}")
    else:
        reference = beside.diff.reference is beside.other
        names = pair.pair.reference if reference else pair.pair.candidate
        axes = words.axes_text(pair)
        moved = "" if axes == "=" else f", axes {axes}"
        yield _line("twin", f"{words.together(names)} of '{other}'{moved}, confidence {pair.pair.confidence:.2g}")
        facts = words.facts(pair)
        yield _line("verdict", f"{glyphs[pair.verdict]} {pair.verdict}")
        for fact in facts:
            yield _line("", display(fact))


def _bars(histogram: Histogram, plain: bool) -> Iterator[str]:
    """A bar for each bin; on a logarithmic scale where one bin holds nearly all."""
    shares = histogram.shares[0]
    assert shares is not None
    heights = np.log10(np.maximum(shares, 1e-12) / 1e-6).clip(0) if histogram.logarithmic else shares
    top = float(heights.max()) or 1.0
    edges = [f"{edge:.4g}" for edge in histogram.edges]
    width = max(map(len, edges))
    for low, share, height in zip(edges, shares, heights, strict=False):
        filled = _BAR * float(height) / top
        part = "" if plain else _EIGHTHS[int(8 * (filled % 1))].strip()
        bar = ("#" if plain else "█") * int(filled) + part
        percent = f"{100 * share:.2g} %" if share else ""
        yield f"  {low.rjust(width)} {bar} {percent}".rstrip()
    said = ["of a sample"] * histogram.sampled + ["logarithmic"] * histogram.logarithmic
    yield f"  {edges[-1].rjust(width)}   {', '.join(said)}".rstrip()


def _line(label: str, text: str) -> str:
    return f"  {label.ljust(_LABEL)}{text}"
