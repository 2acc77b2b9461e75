"""Operations that pick values: slices, parts, look-ups, choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes.reading import Read, attention, functions, inferring, reader, recurrent, sampling
from tracer.causes.reading.arithmetic import constant, weights_of
from tracer.causes.step import Array, Step, Unknown

_MOST = 50_000_000
"""Values that a search for indices may compare."""


@reader("slice")
def take_slice(node: Read) -> Step:
    """As the index says where it is one of numbers; else the part of the input that the node is."""
    index = _index(node)
    if index is not None:
        return inferring.step_of(node, (node.node.parents[0],), index=index)
    axis, at = node.config.get("axis"), node.config.get("index", node.config.get("start"))
    if isinstance(axis, int) and isinstance(at, int):
        count = node.config.get("length")
        part = at if count is None else (at, at + count or None, 1)
        found: list[Any] = [(None, None, 1)] * node.rank
        found[axis % node.rank] = part
        return inferring.step_of(node, (node.node.parents[0],), index=tuple(found))
    if "starts" in node.config and "ends" in node.config:
        return inferring.step_of(node, (node.node.parents[0],), index=_bounds(node))
    steps = (step for name in dict.fromkeys(node.node.parents) for step in _parts(node, name))
    return inferring.first(node, steps, "which part it takes is not told")


def _parts(node: Read, source: str) -> Iterator[Step]:
    before, after = node.recorded(source).shape, node.shape
    yield from inferring.slices(node, source)
    plain = tuple(n for n in after if n != 1)
    if len(after) >= len(before) and plain == tuple(n for n in before if n != 1):
        yield inferring.step_of(node, (source,), "reshape", shape=after)


def _index(node: Read) -> tuple[Any, ...] | None:
    """Parts as ``slice`` has them, from ``":"``, ``"1:5:2"``, ``3``, ``null`` and ``"..."``: one of each axis."""
    parts = node.config.get("index")
    parts = [part.strip() for part in parts.split(",")] if isinstance(parts, str) else parts
    if not isinstance(parts, list):
        return None
    found: list[Any] = []
    for part in parts:
        if part is None or part == "newaxis":
            found.append("newaxis")
        elif part == "...":
            found.append("...")
        elif isinstance(part, bool):
            return None
        elif isinstance(part, int):
            found.append(part)
        elif isinstance(part, str):
            try:
                ends = [int(end) if end else None for end in part.split(":")]
            except ValueError:
                return None
            found.append(ends[0] if len(ends) == 1 else tuple([*ends, 1][:3]))
        else:
            return None
    at, given = len(found), sum(part not in ("newaxis", "...") for part in found)
    if "..." in found:
        at = found.index("...")
        found.remove("...")
    found[at:at] = [(None, None, 1)] * (node.rank - given)
    return tuple(found)


def _bounds(node: Read) -> tuple[Any, ...]:
    """ONNX's Slice, or Gather of one."""
    starts, ends = _many(node.config["starts"]), _many(node.config["ends"])
    axes = _many(node.config.get("axes", list(range(len(starts)))))
    steps = _many(node.config.get("steps", [1] * len(starts)))
    found: list[Any] = [(None, None, 1)] * node.rank
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        first = None if isinstance(start, str) else int(start)
        last = None if isinstance(end, str) else int(end)
        found[int(axis) % node.rank] = (first, last, int(by))
    return tuple(found)


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


@reader("split")
def split(node: Read) -> Step:
    """The first part; its axis is the one along which it is shorter."""
    return _part(node, node, 0)


@reader("item")
def item(node: Read) -> Step:
    """A further part of a split, the last states of a recurrent layer; what else has several outputs is not read."""
    parent = node.recording.structure.by_name[node.node.parents[0]]
    if parent.kind in kinds.RECURRENT:
        return recurrent.states(node, Read(node.recording, parent), node.node.name[len(parent.name) :])
    if parent.kind == "attention":
        return attention.scores(node, Read(node.recording, parent))
    if parent.kind in _ORDERED:
        return functions.places(node, Read(node.recording, parent))
    if parent.kind == "fft":
        return sampling.spectrum(node, Read(node.recording, parent), "imaginary")
    if parent.kind in ("std", "var"):
        return _mean(node, Read(node.recording, parent))
    if parent.kind != "split":
        raise Unknown(f"a further output of {parent.label} is not computed")
    name = node.node.name
    place = int(name[name.rindex("[") + 1 : -1]) if name.endswith("]") else 0
    return _part(node, Read(node.recording, parent), place)


_ORDERED = ("sort", "topk", "amax", "amin")
"""Kinds whose second result says where the values of the first stood."""


def _mean(node: Read, whole: Read) -> Step:
    """The mean that a function gives beside the deviation."""
    axes, source = whole.config.get("axis"), (whole.node.parents[0],)
    over = tuple(range(whole.rank)) if axes is None else tuple(axes) if isinstance(axes, list) else (int(axes),)
    step = inferring.step_of(node, source, "mean", axes=over, keepdims=len(node.shape) == whole.rank)
    return inferring.first(node, [step], "what it is taken over is not told", terms=16)


def _part(node: Read, whole: Read, place: int) -> Step:
    before, after = whole.source(), node.shape
    source = (whole.node.parents[0],)
    drop = len(after) < len(before)
    axis = whole.config.get("axis")
    sizes = whole.config.get("sizes", whole.config.get("num_outputs"))
    if sizes is None and place:
        sizes = _before(whole, place)
    axes = [int(axis) % len(before)] if axis is not None else list(range(len(before)))
    steps = [step for along in axes for step in _along(node, source, before, after, along, sizes, place, drop)]
    if len(steps) == 1 and (axis is not None or not place):
        return steps[0]
    found = inferring.first(node, steps or inferring.slices(node, source[0]), "which part it is is not told")
    return inferring.renamed(found, kind=found.kind)


def _before(whole: Read, place: int) -> list[tuple[int, ...]] | None:
    """The shapes of the parts before one, where all of them are nodes."""
    known = whole.recording.structure.by_name
    names = [whole.node.name, *(f"{whole.node.name}[{k}]" for k in range(1, place))]
    found = [known[name].shape for name in names if name in known]
    return [shape for shape in found if shape is not None] if len(found) == len(names) else None


def _along(
    node: Read, source: tuple[str, ...], before: Sequence[int], after: Sequence[int], axis: int, sizes: Any, place: int,
    drop: bool,
) -> Iterator[Step]:  # fmt: skip
    rest = [n for k, n in enumerate(before) if k != axis]
    length = 1 if drop else after[axis]
    if (list(after) if drop else [n for k, n in enumerate(after) if k != axis]) != rest or (
        not drop and len(after) != len(before)
    ):
        return
    if length == before[axis] and len(before) > 1 and sizes is None:
        return
    if isinstance(sizes, list) and sizes and isinstance(sizes[0], tuple):
        starts = [sum(1 if drop else shape[axis] for shape in sizes)]
    elif isinstance(sizes, list):
        starts = [sum(int(size) for size in sizes[:place])]
    elif isinstance(sizes, int):
        starts = [sizes * place if node.framework != "onnx" else length * place]
    elif drop or before[axis] % length == 0:
        starts = [length * place]
    else:  # ``chunk``: all but the last are as long as the first; a list of sizes that is not told: any
        starts = [length * place] if place == 0 else list(range(before[axis] - length, -1, -1))
    for start in starts:
        yield inferring.step_of(node, source, "split", axis=axis, start=start, stop=start + length, drop=drop)


@reader("gather")
def gather(node: Read) -> Step:
    """Rows by recorded numbers, or by those that the recorded rows tell."""
    if not node.node.parents:
        return constant(node)
    table = weights_of(node)
    if table and len(node.node.parents) == 1:
        found = looked_up(node, table, ids=node.node.parents[0])
        if found is not None:
            return found
    for source in dict.fromkeys(node.node.parents):
        step = _numbered(node, source) or _indices(node, source)
        if step is not None:
            return step
    raise Unknown("which values it takes is not told")


def _numbered(node: Read, source: str) -> Step | None:
    """With another recorded tensor as the numbers."""
    for other in node.node.parents:
        indices = node.recorded(other)
        if other == source or indices.dtype.kind not in "iub":
            continue
        rank = node.recorded(source).ndim
        ways: list[dict[str, Any]] = [{"mode": "take", "axis": axis} for axis in range(rank)]
        ways += [{"mode": "along", "axis": axis} for axis in range(rank)]
        ways += [{"mode": "nd", "batch": batch} for batch in range(indices.ndim)] + [{"mode": "mask"}]
        for way in ways:
            step = inferring.step_of(node, (source, other), "gather", **way)
            if inferring.reproduces(node, step):
                return step
    return None


def _indices(node: Read, source: str) -> Step | None:
    """With numbers that the values tell, where that is no search beyond measure."""
    x, y = node.recorded(source), inferring.result(node)
    axes = [int(node.config["axis"]) % x.ndim] if isinstance(node.config.get("axis"), int) else list(range(x.ndim))
    for axis in axes:
        count = y.ndim - x.ndim + 1
        if count >= 0 and y.shape[:axis] + y.shape[axis + count :] == x.shape[:axis] + x.shape[axis + 1 :]:
            picked = y.shape[axis : axis + count]
            wanted, own = np.moveaxis(y, range(axis, axis + count), range(count)), np.moveaxis(x, axis, 0)
            found = inferring.rows(own, wanted.reshape(-1, *own.shape[1:]))
            if found is not None:
                settings = {"axis": axis, "indices": found.reshape(picked), "mode": "take", "inferred": True}
                return inferring.step_of(node, (source,), "gather", **settings)
    for axis in axes:
        others = [k for k in range(x.ndim) if k != axis]
        if x.ndim != y.ndim or any(y.shape[k] > x.shape[k] for k in others) or y.size * x.shape[axis] > _MOST:
            continue
        cut = x[tuple(slice(None) if k == axis else slice(y.shape[k]) for k in range(x.ndim))]
        hits = np.moveaxis(cut, axis, -1)[..., None, :] == np.moveaxis(y, axis, -1)[..., None]
        if hits.any(-1).all():
            indices = np.moveaxis(hits.argmax(-1), -1, axis)
            return inferring.step_of(node, (source,), "gather", axis=axis, indices=indices, mode="along", inferred=True)
    return _places(node, source, x, y)


def _places(node: Read, source: str, x: Array, y: Array) -> Step | None:
    """Places along several leading axes, each row's own."""
    for count in range(2, x.ndim + 1):
        if y.shape[y.ndim - (x.ndim - count) :] != x.shape[count:]:
            continue
        lead = y.shape[: y.ndim - (x.ndim - count)]
        found = inferring.rows(x.reshape(-1, *x.shape[count:]), y.reshape(-1, *x.shape[count:]))
        if found is not None:
            indices = np.stack(np.unravel_index(found.reshape(lead), x.shape[:count]), -1)
            return inferring.step_of(node, (source,), "gather", indices=indices, mode="nd", inferred=True)
    return None


@reader("embedding")
def embedding(node: Read) -> Step:
    """Rows of the table that the node has, or of the one that an earlier call of its layer has."""
    tables = _tables(node)
    if not tables:
        raise Unknown("its table was not recorded")
    for name in dict.fromkeys(node.node.parents):
        found = looked_up(node, tables, ids=name)
        if found is not None:
            return found
    found = looked_up(node, tables, ids=None)
    if found is not None:
        return found
    if len(node.node.parents) == 1 and len(tables) == 1:
        table = next(iter(tables.values()))
        ids = node.recorded(node.node.parents[0])
        if ids.dtype.kind in "iu" and node.shape == (*ids.shape, table.shape[-1]):
            return inferring.step_of(node).weigh(kernel=table)
    if not node.node.parents:
        return constant(node)
    raise Unknown("which rows of its table it takes is not told")


def _tables(node: Read) -> dict[str, Array]:
    """Matrices that may be the table: the node's own, of its owner, of whoever else looks up rows as wide as these."""
    own = {name: value for name, value in weights_of(node).items() if value.ndim >= 2}
    if own:
        return own
    width = node.shape[-1:]
    found = {}
    for (owner, name), stored in node.recording.weights.items():
        if len(stored.shape) == 2 and (owner == node.node.owner or stored.shape[1:] == width):
            found[f"{owner}/{name}"] = node.stored(owner, name)
    return found


def looked_up(node: Read, tables: dict[str, Array], ids: str | None) -> Step | None:
    """The rows are those of a table, shifted or scaled where ids are given; the ids are found where they are not."""
    y = inferring.result(node)
    for table in tables.values():
        if y.ndim < 1 or table.ndim != 2 or y.shape[-1] != table.shape[1]:
            continue
        if ids is not None:
            step = _given(node, table, ids)
        else:
            found = inferring.rows(table, y.reshape(-1, table.shape[1]))
            step = None
            if found is not None:
                numbers = found.reshape(y.shape[:-1])
                step = inferring.step_of(node, (), "embedding", ids=numbers, inferred=True).weigh(kernel=table)
            else:
                step = _scaled(node, table, y)
        if step is not None:
            return step
    return None


def _scaled(node: Read, table: Array, y: Array) -> Step | None:
    """Rows of a table times one number: each is the row that it lies along."""
    rows = y.reshape(-1, table.shape[1])
    if rows.shape[0] * table.size > 4 * _MOST:
        return None
    lengths = np.maximum(np.linalg.norm(table, axis=1), 1e-30)
    places = np.abs(rows @ table.T / lengths).argmax(1)
    plain = table[places]
    scale = float((plain * rows).sum() / max(np.square(plain).sum(), 1e-30))
    ids = places.reshape(y.shape[:-1])
    step = inferring.step_of(node, (), "embedding", ids=ids, scale=scale, inferred=True).weigh(kernel=table)
    return step if scale and inferring.reproduces(node, step) else None


def _given(node: Read, table: Array, name: str) -> Step | None:
    ids = node.recorded(name)
    y = inferring.result(node)
    if ids.shape + table.shape[1:] != y.shape:
        return None
    usual = inferring.step_of(node, (name,), "embedding").weigh(kernel=table)
    if ids.dtype.kind == "f" and not (ids == np.round(ids)).all():
        return None
    if inferring.reproduces(node, usual):
        return usual
    places = ids.reshape(-1).astype(np.int64)
    rows = inferring.rows(table, y.reshape(-1, table.shape[1]))
    if rows is not None and places.size and len(set((rows - places).tolist())) == 1:
        return usual.set(offset=int(rows[0] - places[0]))
    if places.size and places.min() >= 0 and places.max() < len(table):
        plain = table[places]
        scale = float((plain * y.reshape(plain.shape)).sum() / max(np.square(plain).sum(), 1e-30))
        if scale and inferring.reproduces(node, usual.set(scale=scale)):
            return usual.set(scale=scale)
    return None


@reader("setitem")
def setitem(node: Read) -> Step:
    """Values that are put into a tensor, or a constant, at the places that the index says."""
    index = _index(node)
    if index is None or "newaxis" in index:
        raise Unknown("where its values are put is not told")
    return inferring.first(node, _put(node, index), "what it puts is not told")


def _put(node: Read, index: tuple[Any, ...]) -> Iterator[Step]:
    parents, y = node.node.parents, inferring.result(node)
    if len(parents) == 2:
        yield inferring.step_of(node, index=index)
        yield inferring.step_of(node, parents[::-1], index=index)
    if len(parents) != 1:
        return
    place = tuple(slice(*part) if isinstance(part, tuple) else ... if part == "..." else part for part in index)
    put = y[place]
    if put.size and np.all(put == put.flat[0]):
        yield inferring.step_of(node, index=index, value=put.flat[0])
    around = y.copy()
    around[place] = 0
    # What stands around is a constant where no sample has other numbers there than the first.
    if np.all(around == around[:1]) or np.all(around == 0):
        yield inferring.step_of(node, index=index, base=around)


@reader("where", "masked_fill")
def where(node: Read) -> Step:
    """Recorded values where a condition holds; the condition, which is not shown, is what the values tell."""
    y = inferring.result(node)
    sources = [(name, node.recorded(name)) for name in dict.fromkeys(node.node.parents)]
    alike = [(name, x) for name, x in sources if inferring.broadcasts(x.shape, y.shape)]
    if len(sources) == 3:
        order = ("condition", "chosen", "other") if node.node.kind == "where" else ("other", "condition", "chosen")
        step = inferring.step_of(node, order=order)
        if inferring.reproduces(node, step):
            return step
    for name, x in alike:
        keep = _equal(x, y)
        for other, z in alike:
            if other != name and bool(np.all(keep | _equal(z, y))):
                return _chosen(node, (name, other), keep, None)
        rest = y[~keep]
        if not rest.size:
            return _chosen(node, (name,), keep, np.float64(0))
        if (rest == rest[0]).all() or np.isnan(rest).all():
            return _chosen(node, (name,), keep, rest[0])
    raise Unknown("what it chooses by, and from, was not recorded")


def _equal(x: Array, y: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray((x == y) | (np.isnan(np.asarray(x, float)) & np.isnan(np.asarray(y, float))))


def _chosen(node: Read, names: tuple[str, ...], keep: Array, other: Any) -> Step:
    step = inferring.step_of(node, names, "where", condition=keep, inferred=True)
    if len(names) == 2:
        return step.set(order=("chosen", "other"))
    return step.set(order=("chosen",), other=other)


@reader("one_hot")
def one_hot(node: Read) -> Step:
    """Where the new axis stands and what is set."""
    depth = node.config.get("depth", node.config.get("num_classes"))
    axis = node.config.get("axis")
    before, after = node.source(), node.shape
    axes = [int(axis) % len(after)] if isinstance(axis, int) else range(len(after) - 1, -1, -1)
    fitting = [k for k in axes if after[:k] + after[k + 1 :] == before]
    values = np.unique(inferring.result(node))
    low_high = (float(values[0]), float(values[-1])) if values.size == 2 else (0.0, 1.0)
    steps = [
        inferring.step_of(node, depth=int(depth or after[k]), axis=k, values=pair)
        for k in fitting
        for pair in ((0, 1), low_high, low_high[::-1])
    ]
    return inferring.first(node, steps, "which values it sets is not told")
