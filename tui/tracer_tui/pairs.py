"""The tensors of a pair, to be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tracer.report import words
from tracer.report.rows import Row, opened
from tracer.report.tensors import Array
from tracer.store import Recording
from tracer.weighing import exporting
from tracer_tui.screens.saving import Choice, file_name


def choices(row: Row, recordings: tuple[Recording, Recording]) -> list[Choice]:
    """What of a pair can be saved: both sides, or either; the candidate in the reference's axes, or in its own."""
    ours, theirs = recordings
    found = opened(row, recordings)
    stem = file_name(row.reference or row.candidate)[:80] or "layer"

    def offer(label: str, name: str, arrays: Mapping[str, Array]) -> Choice:
        keyed = {("", side): values for side, values in arrays.items()}

        def save(path: Path, force: bool) -> Sequence[Path]:
            return exporting.save(keyed, path, force)

        shapes = " and ".join(sorted({words.shape_text(values.shape) for values in arrays.values()}))
        return Choice(f"{label}   {shapes}", f"{name}.npy", partial(exporting.files, keys=list(keyed)), save)

    a, b = found.reference, found.candidate
    out = []
    if a is not None and b is not None:
        names = _names(ours.name, theirs.name)
        label = f"{ours.name} and {theirs.name}, both in {ours.name}'s axes"
        out.append(offer(label, stem, dict(zip(names, (a, b), strict=True))))
    if a is not None:
        out.append(offer(f"{ours.name}, as it is", f"{stem}.{_word(ours.name)}", {"": a}))
    if b is not None:
        moved = f"in {ours.name}'s axes" if a is not None else "as it is"
        out.append(offer(f"{theirs.name}, {moved}", f"{stem}.{_word(theirs.name)}", {"": b}))
    if a is not None and b is not None and row.pair is not None:
        own = theirs.read(row.pair.candidate_node.name, verify=False)
        if own.shape != b.shape or own.strides != b.strides:
            out.append(offer(f"{theirs.name}, as it is", f"{stem}.{_word(theirs.name)}", {"": own}))
    return out


def _names(ours: str, theirs: str) -> tuple[str, str]:
    """Of the two files of a pair."""
    names = _word(ours), _word(theirs)
    return names if names[0] != names[1] else ("reference", "candidate")


def _word(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else "-" for char in name)[:40] or "side"
