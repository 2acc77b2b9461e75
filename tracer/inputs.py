"""The input both models see: read, generated, saved once, and turned to what each framework expects."""

from __future__ import annotations

import contextlib
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from tracer import dtypes
from tracer.adapter import InputSpec, LoadedModel
from tracer.batches import Batches, sample_count
from tracer.errors import InputError, MisfitError, OptionError, RefusedError, TraceError
from tracer.graph import Layout, Structure
from tracer.names import display
from tracer.store import Trace

Array = NDArray[Any]
LAYOUTS = ("auto", "same", "NHWC->NCHW", "NCHW->NHWC")
"""Values of ``--layout``; the two moves hold for any number of spatial axes (NWC, NDHWC)."""
_LARGEST = 8 << 30
_UNPACKED, _RATIO = 256 << 20, 100
"""Bytes that an archive may unpack to however small it is, and how many times its own that it may."""
_ALL = 1 << 62
"""A batch size that no input reaches."""
_OWN_INPUT = "; this is the trace's own input: another model wants another --trace, or --input-shape"


@dataclass(frozen=True)
class Prepared:
    """An input ready for one model, and how it came from the saved one.

    Attributes:
        input_id: key of the saved input in the trace.
        saved: what is saved there, by the names of the first recording.
        fitted: what this model is fed, by its own names.
        axes: for each fitted input, the axis of the saved array that each of its axes is.
        structure: what the model's graph is for this input, or for its first batch.
        batches: what the model is run on, one after the other; usually one that holds all samples.
        attributes: of the saved arrays (``layout``, ``source``).
    """

    input_id: str
    saved: dict[str, Array]
    fitted: dict[str, Array]
    axes: dict[str, tuple[int, ...]]
    structure: Structure
    batches: Batches
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def identity_of(inputs: Mapping[str, Array]) -> str:
    """Twelve hex digits that name an input by its content (order, shapes, types, values); names play no part, for the
    two frameworks name their inputs differently."""
    digest = hashlib.sha256()
    for values in inputs.values():
        digest.update(f"{values.dtype.name}|{values.shape}|".encode())
        digest.update(np.asarray(values, order="C").tobytes())
    return digest.hexdigest()[:12]


def read_file(path: Path) -> dict[str, Array]:
    """Arrays of an ``.npy`` (name ``""``) or ``.npz`` file; never unpickles.

    Raises InputError for anything else, for object arrays and for declared sizes over 8 GiB, RefusedError for archives
    that would unpack to a hundred times their size.
    """
    shown = display(str(path))
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                size, own = sum(m.file_size for m in members), path.stat().st_size
                if size > _LARGEST:
                    raise InputError(f"{shown} unpacks to more than {_LARGEST >> 30} GiB")
                if size > max(_UNPACKED, _RATIO * own):
                    raise RefusedError(f"{shown} is a zip bomb: {own} bytes would unpack to {size}")
                out = {}
                for member in members:
                    with archive.open(member) as file:
                        out[member.filename[:-4]] = npy_format.read_array(file, allow_pickle=False)
        elif path.suffix == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if mapped.nbytes > _LARGEST:
                raise InputError(f"{shown} holds more than {_LARGEST >> 30} GiB")
            out = {"": np.array(mapped)}
        else:
            raise InputError(f"--input takes .npy, .npz or seed:N, not {shown}")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such input file: {shown}") from None
    except Exception as error:  # numpy raises a dozen kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read {shown}: {display(reason, 120)}") from error
    if not out:
        raise InputError(f"{shown} holds no arrays")
    for name, values in out.items():
        if values.dtype.kind == "f" and values.dtype == np.float64:
            out[name] = values.astype(np.float32)
        if not dtypes.storable(values.dtype):
            raise InputError(f"{shown}: arrays of type {values.dtype} cannot be an input")
    return out


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``2,500,12`` or ``NAME=2,500,12``, several times for several inputs. Raises InputError."""
    out: dict[str, tuple[int, ...]] = {}
    for index, text in enumerate(texts):
        name, _, numbers = text.rpartition("=")
        try:
            shape = tuple(int(part) for part in re.split("[,x×]", numbers))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise InputError(f"--input-shape wants whole numbers like 2,500,12 (batch first), not '{display(text)}'")
        out[name or str(index)] = shape
    return out


def _known(shapes: dict[str, tuple[int, ...]], specs: Sequence[InputSpec]) -> dict[str, tuple[int, ...]]:
    """``shapes``, all of them. Raises InputError for one that no input has: it would change nothing unsaid."""
    names = {*(spec.name for spec in specs), *map(str, range(len(specs)))}
    for name in shapes:
        if name not in names:
            what = f"{int(name) + 1} shapes" if name.isdecimal() else f"a shape of '{display(name)}'"
            takes = ", ".join(display(spec.name) for spec in specs) or "no input"
            raise InputError(f"--input-shape gives {what}, the model takes {takes}")
    return shapes


def generate(
    specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], seed: int, samples: int | None = None
) -> dict[str, Array]:
    """Seeded inputs that fit a signature: standard normal floats, integers in the legal range.

    Without ``samples`` the batch is at least 2 and unlike every other dimension, so that no axis can be mistaken for
    it. Raises
    InputError where the signature leaves a length open, saying which ``--input-shape`` is wanted.
    """
    rng = np.random.default_rng(seed)
    resolved: list[tuple[InputSpec, tuple[int, ...]]] = []
    for index, spec in enumerate(specs):
        given = shapes.get(spec.name, shapes.get(str(index)))
        resolved.append((spec, given if given is not None else _closed_shape(spec, len(specs) > 1)))
    if samples is not None:
        resolved = [(spec, (samples, *shape[1:]) if shape else shape) for spec, shape in resolved]
    elif not any(key in shapes for key in (*(s.name for s in specs), *map(str, range(len(specs))))):
        others = {d for _, shape in resolved for d in shape[1:]}
        batch = next(b for b in range(2, 100) if b not in others)
        resolved = [
            (spec, (batch, *shape[1:]) if spec.shape is None or spec.shape[:1] == (None,) else shape)
            for spec, shape in resolved
        ]
    out: dict[str, Array] = {}
    for spec, shape in resolved:
        if np.prod(shape, dtype=np.float64) * 8 > _LARGEST:
            raise InputError(f"input '{display(spec.name)}' of shape {list(shape)} is over {_LARGEST >> 30} GiB")
        try:
            dtype = dtypes.by_name(spec.dtype)
        except InputError:
            raise InputError(
                f"input '{display(spec.name)}' is of type {spec.dtype}, which cannot be recorded"
            ) from None
        if dtype.kind in "iu":
            top = spec.maximum if spec.maximum is not None else 9
            out[spec.name] = rng.integers(0, max(top, 0) + 1, shape).astype(dtype)
        elif dtype.kind == "b":
            out[spec.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            out[spec.name] = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return out


def _closed_shape(spec: InputSpec, several: bool) -> tuple[int, ...]:
    name = f"{spec.name}=" if several else ""
    if spec.shape is None:
        raise InputError(
            f"the model does not say what shape its input '{display(spec.name)}' has: "
            f"give --input-shape {name}2,… (batch first), or --input FILE.npy"
        )
    if any(d is None for d in spec.shape[1:]):
        wanted = ",".join("2" if axis == 0 else "LENGTH" if d is None else str(d) for axis, d in enumerate(spec.shape))
        raise InputError(
            f"the model leaves a length of its input '{display(spec.name)}' open "
            f"({_show(spec.shape)}): give --input-shape {name}{wanted} with numbers for LENGTH, or --input FILE.npy"
        )
    return tuple(2 if d is None else d for d in spec.shape)


def _show(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("None" if d is None else str(d) for d in shape) + ")"


def _move(rank: int, layout: str) -> tuple[int, ...]:
    """The permutation that turns channels_last into channels_first ("NHWC->NCHW"), or back."""
    middle = tuple(range(1, rank - 1))
    if layout == "NHWC->NCHW":
        return (0, rank - 1, *middle)
    return (0, *range(2, rank), 1)


def _candidates(values: Array, saved: Layout | None, spec: InputSpec | None, layout: str) -> list[tuple[int, ...]]:
    """Permutations to try for one input, the likeliest first."""
    same = tuple(range(values.ndim))
    if values.ndim < 3 or layout == "same":
        return [same]
    if layout in ("NHWC->NCHW", "NCHW->NHWC"):
        return [_move(values.ndim, layout)]
    to_first, to_last = _move(values.ndim, "NHWC->NCHW"), _move(values.ndim, "NCHW->NHWC")
    wanted = spec.layout if spec is not None else None
    order = [same, to_first, to_last]
    if wanted == "channels_first" and saved != "channels_first":
        order = [to_first, same, to_last]
    elif wanted == "channels_last" and saved != "channels_last":
        order = [to_last, same, to_first]
    if saved == wanted and saved is not None:
        order = [same, to_first, to_last]
    if spec is not None and spec.shape is not None:
        shape = spec.shape  # maybe that of the first layer, before which the model moves the axes itself
        order.sort(key=lambda axes: not _fits([values.shape[a] for a in axes], shape))
    if values.ndim > 3:  # a sequence of pictures: time stays where it is
        order += [(0, *(axis + 1 for axis in _move(values.ndim - 1, move))) for move in LAYOUTS[2:]]
    return list(dict.fromkeys(order))


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _choices(
    saved: Mapping[str, Array], layouts: Mapping[str, Layout | None], specs: Sequence[InputSpec], layout: str
) -> Iterator[tuple[dict[str, Array], dict[str, tuple[int, ...]]]]:
    """Ways to feed the saved arrays, the likeliest first: by name where the names agree, else by place, then in any
    order (the two models may name and order their inputs differently), each with its possible axes."""
    by_name = {spec.name: spec for spec in specs}
    places: Sequence[Sequence[InputSpec | None]]
    if all(name in by_name for name in saved) or len(specs) != len(saved):
        places = [[by_name.get(name) for name in saved]]
    else:
        places = list(permutations(specs))[:24]
    combinations = [
        (targets, combination)
        for targets in places
        for combination in product(
            *(
                _candidates(values, layouts.get(name), spec, layout)
                for (name, values), spec in zip(saved.items(), targets, strict=True)
            )
        )
    ]
    for targets, combination in combinations[:64]:
        fitted, axes = {}, {}
        for (name, values), spec, order in zip(saved.items(), targets, combination, strict=True):
            target = spec.name if spec is not None else name
            fitted[target] = as_wanted(np.asarray(values.transpose(order), order="C"), spec)
            axes[target] = order
        if specs and len(specs) == len(saved):
            fitted = {spec.name: fitted[spec.name] for spec in specs}
        yield fitted, axes


def as_wanted(values: Array, spec: InputSpec | None) -> Array:
    """``values`` in the type that a model's input has, where both are of one kind (floats, integers)."""
    if spec is None:
        return values
    wanted = dtypes.by_name(spec.dtype)
    if values.dtype == wanted or _kind(wanted) != _kind(values.dtype):
        return values
    return values.astype(wanted)


def _kind(dtype: np.dtype[Any]) -> str:
    return "f" if dtype.kind == "V" else dtype.kind  # bfloat16 and float8, to which numpy gives no kind


def prepare(
    model: LoadedModel,
    trace: Trace,
    *,
    source: str | None,
    shapes: Sequence[str] = (),
    layout: str = "auto",
    arrays: Mapping[str, Array] | None = None,
    input_id: str | None = None,
    samples: int | None = None,
    batch: int | None = None,
) -> Prepared:
    """The input for ``model``, whose structure is determined on the way.

    Taken from ``arrays``, from ``source`` (a file or ``seed:N``), from the trace's earlier recordings
    (``input_id``), or generated. Where the axes are not certain the model is tried on the likeliest first. Of a given
    input the first ``samples`` are taken, and run ``batch`` at a time (a model of one fixed batch size: that many).

    Raises InputError when nothing fits, with the model's own reason.
    """
    specs, optional = model.signature(), model.optional()
    specs = (*specs, *(spec for spec in optional if any(text.startswith(f"{spec.name}=") for text in shapes)))
    attributes: dict[str, dict[str, Any]] = {}
    layouts: dict[str, Layout | None] = {}
    if layout not in LAYOUTS:
        raise InputError(f"--layout is one of {', '.join(LAYOUTS)}")
    if arrays is not None:
        saved, origin = dict(arrays), "given"
    elif source is not None and not source.startswith("seed:"):
        saved, origin = read_file(Path(source)), Path(source).name
    elif source is None and input_id and not shapes:
        stored = trace.inputs(input_id)
        saved = {name: values for name, (values, _) in stored.items()}
        layouts = {name: own.get("layout") for name, (_, own) in stored.items()}
        origin = "reused"
    else:
        seed = _seed(source)
        saved, origin = generate(specs, _known(parse_shapes(shapes), specs), seed, samples), f"seed:{seed}"
        layouts = {spec.name: spec.layout for spec in specs}
    given = [spec for spec in (*model.signature(), *optional) if spec.name in saved]
    if len(given) == len(saved) > len(specs):
        specs = tuple(given)
    if "" in saved:
        saved = {(specs[0].name if specs else "input"): saved[""], **{k: v for k, v in saved.items() if k}}
    if saved and not any(values.size for values in saved.values()):
        have = ", ".join("×".join(map(str, values.shape)) for values in saved.values())
        raise InputError(f"the input has no elements ({have}): give it one sample at least")
    if samples is not None:
        cut = _first(saved, samples)
        origin = "cut" if origin == "reused" and cut is not saved else origin
        saved = cut
    if origin != "reused":
        known = identity_of(saved)
        stored = {}
        if trace.has_inputs(known):  # the same values again, for the other model
            with contextlib.suppress(TraceError):  # damaged: these take its place
                stored = trace.inputs(known)
        if stored:
            input_id, origin = known, "reused"
            saved = {name: values for name, (values, _) in stored.items()}
            layouts = {name: own.get("layout") for name, (_, own) in stored.items()}
        elif len(saved) == len(specs):
            layouts = {name: spec.layout for name, spec in zip(saved, specs, strict=True)}
    own = origin == "reused" and source is None and arrays is None and not shapes
    if specs and len(saved) != len(specs):
        have, want = ", ".join(map(display, saved)), ", ".join(display(s.name) for s in specs)
        fault = f"the input has {len(saved)} arrays ({have}), the model takes {len(specs)} ({want})"
        raise InputError(fault + (_OWN_INPUT if own else ""))
    first_error: InputError | None = None
    found: tuple[dict[str, Array], dict[str, tuple[int, ...]], Structure, Batches] | None = None
    partly = found
    for fitted, axes in _choices(saved, layouts, specs, layout):
        batches = Batches(fitted, batch or _fixed_batch(specs, fitted) or _ALL)
        try:
            structure = model.structure(batches.cut(0, batches.size))
        except OptionError:
            raise
        except InputError as error:
            first_error = first_error or error
            if isinstance(error, MisfitError) and isinstance(error.structure, Structure):
                partly = partly or (fitted, axes, error.structure, batches)
            continue
        if found is None or not structure.fault:
            found = (fitted, axes, structure, batches)
        if not structure.fault:  # a model that raises may do so because of the axes: the others are tried as well
            break
    if found is None and origin == "reused":
        found = partly  # another model took this input: what does not fit is in this model, which shows what ran
    if found is not None:
        if origin != "reused":
            attributes = {n: {"layout": layouts.get(n), "source": origin} for n in saved}
        known_id = input_id if origin == "reused" and input_id else identity_of(saved)
        return Prepared(known_id, saved, *found, attributes)
    assert first_error is not None
    if own:
        raise InputError(f"{first_error}{_OWN_INPUT}") from first_error
    raise first_error


def _first(saved: dict[str, Array], samples: int) -> dict[str, Array]:
    """The first ``samples`` of every array that has an axis of samples."""
    if not saved:
        raise InputError(f"--samples {samples}: the model takes no input")
    have = sample_count(saved)
    if have == samples:
        return saved
    if have < samples:
        raise InputError(f"--samples {samples}: the input has {have}")
    return {n: np.ascontiguousarray(a[:samples]) if a.ndim and a.shape[0] == have else a for n, a in saved.items()}


def _fixed_batch(specs: Sequence[InputSpec], fitted: Mapping[str, Array]) -> int | None:
    """The batch size that the signature fixes, where the input holds a multiple of it."""
    values = next(iter(fitted.values()), None)
    fixed = specs[0].shape[0] if specs and specs[0].shape else None
    usable = values is not None and fixed and values.ndim and values.shape[0] > fixed and values.shape[0] % fixed == 0
    return fixed if usable else None


def _seed(source: str | None) -> int:
    if source is None:
        return 0
    try:
        seed = int(source.removeprefix("seed:"))
        if seed >= 0:
            return seed
        raise ValueError
    except ValueError:
        raise InputError(f"--input seed:N wants a whole number, not '{display(source)}'") from None
