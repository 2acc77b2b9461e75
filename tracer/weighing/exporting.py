"""One parameter as a ``.npy`` file: either side's values, in either side's layout."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tracer import dtypes
from tracer.alignment import align, relayout
from tracer.alignment.owned import Key
from tracer.alignment.parameters import ParameterPair
from tracer.errors import InputError
from tracer.names import display
from tracer.relations import Array
from tracer.store import Recording
from tracer.weighing import writing
from tracer.weighing.parameters import summarised

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

Which = Literal["reference", "candidate"]


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes:
        name: of a parameter of either side: ``conv1/kernel``, ``layer1.0.conv1.weight``.
        path: the ``.npy`` file. Where a parameter of the one side is several of the other, each of them goes to a file
            of its own, ``STEM.NAME.npy``.
        side: whose values; by default those of the side that the name is of.
        layout: laid out as whose; by default as the values' own side has them.
    """

    name: str
    path: Path
    side: Which | None = None
    layout: Which | None = None
    force: bool = False


def export(
    reference: Recording, candidate: Recording, asked: Export, *, mapping: MappingFile | None = None
) -> list[Path]:
    """Write a parameter; returns the files.

    Raises InputError for a name that is none or several, a file that is in the way, and a layout in which the values
    cannot be written; TraceError where they are damaged.
    """
    recordings = reference, candidate
    at, key = _found(recordings, asked.name)
    side = at if asked.side is None else int(asked.side == "candidate")
    layout = side if asked.layout is None else int(asked.layout == "candidate")
    writing.check(asked.path, asked.force)
    if side == layout == at:
        arrays = stored(recordings[side], (key,))
    else:
        arrays = laid(recordings, _pair(recordings, at, key, mapping), side, layout)
    return save(arrays, asked.path, asked.force)


def files(path: Path, keys: Sequence[Key]) -> list[Path]:
    """Where :func:`save` puts these parameters: the one in the file, of several each in one of its own."""
    stem = path.with_suffix("") if path.suffix == ".npy" else path
    if len(keys) == 1:
        return [stem.with_name(f"{stem.name}.npy")]
    return [stem.with_name(f"{stem.name}.{name.replace('/', '.')}.npy") for _, name in keys]


def save(arrays: Mapping[Key, Array], path: Path, force: bool) -> list[Path]:
    """Write parameters; returns the files. Raises InputError for a file in the way, TraceError where the disk fails."""
    paths = files(path, list(arrays))
    for path in paths:
        writing.check(path, force)
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        for path, values in zip(paths, arrays.values(), strict=True):
            made = Path(folder) / "array.npy"
            # What numpy has no type for is written in one that holds all its values.
            native = values if values.dtype.isbuiltin == 1 else values.astype(np.float32)
            np.save(made, native, allow_pickle=False)
            writing.publish(made, path, force)
    return paths


def _found(recordings: tuple[Recording, Recording], name: str) -> tuple[int, Key]:
    """The side and the key of the one parameter that has a name, the reference's before the candidate's."""
    near: list[str] = []
    for side, recording in enumerate(recordings):
        known = summarised(recording)
        hits = [key for key, found in known.items() if name in found.names[:-1]]
        hits = hits or [key for key, found in known.items() if found.owner == name]
        if len(hits) == 1:
            return side, hits[0]
        if hits:
            near = [known[key].text for key in hits]
    if near:
        raise InputError(f"'{display(name)}' is several parameters: name one of {', '.join(near[:6])}")
    every = [found.text for recording in recordings for found in summarised(recording).values()]
    close = difflib.get_close_matches(name, every, 3) or every[:3]
    raise InputError(f"no parameter is named '{display(name)}'; there is {', '.join(close)}")


def _pair(recordings: tuple[Recording, Recording], side: int, key: Key, mapping: MappingFile | None) -> ParameterPair:
    alignment = align(*recordings, mapping)
    for pair in alignment.parameters.pairs:
        if key in (pair.reference, pair.candidate)[side]:
            return pair
    raise InputError(f"'{display('.'.join(key))}' has no twin in '{display(recordings[1 - side].name)}'")


def stored(recording: Recording, keys: Sequence[Key]) -> dict[Key, Array]:
    """Parameters as they were recorded. Raises TraceError for damage, KeyError for what was not recorded."""
    return {key: np.asarray(recording.read_stored(recording.weights[key])) for key in keys}


def laid(recordings: tuple[Recording, Recording], pair: ParameterPair, side: int, layout: int) -> dict[Key, Array]:
    """The values of a side (0 the reference, 1 the candidate) in the layout of a side; in its own they are as recorded.

    Raises InputError where the two are not related by their layout alone, TraceError for damage.
    """
    keys = pair.reference, pair.candidate
    for recording, wanted in zip(recordings, keys, strict=True):
        for key in wanted:
            if key not in recording.weights:
                raise InputError(f"'{display('.'.join(key))}' was not recorded")
    if side == layout:
        return stored(recordings[side], keys[side])
    read = [stored(recording, wanted) for recording, wanted in zip(recordings, keys, strict=True)]
    if not pair.comparable:
        raise InputError(f"the two are not related by their layout alone: {display(pair.relation)}")
    wide = {key: np.zeros_like(dtypes.as_float64(values)) for key, values in read[layout].items()}
    for piece in pair.pieces:
        sides = (piece.reference, piece.reference_steps), (piece.candidate, piece.candidate_steps)
        given = relayout.read(sides[side][1], [dtypes.as_float64(read[side][key]) for key in sides[side][0]])
        relayout.write(sides[layout][1], [wide[key] for key in sides[layout][0]], given)
    kind = next(iter(read[side].values())).dtype
    return {key: values.astype(kind) for key, values in wide.items()}
