"""Properties of keys, axes and mapping files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

from tracer import names
from tracer.alignment import Alignment, axes
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.dumping import dump
from tracer.alignment.mapping import load
from tracer.errors import InputError

_NAMES = st.text(max_size=200) | st.text(st.sampled_from("aA.~^_/é"), max_size=130)


def keys_come_back(some: list[str]) -> None:
    """Keys are legal and distinct on a file system that knows no case and composes letters, and give names back."""
    keys = {name: names.encode(name) for name in some}
    assert len({key.casefold() for key in keys.values()}) == len(keys)
    for name, key in keys.items():
        assert key.isascii()
        assert 0 < len(key) <= 120
        assert key != "zarr.json"
        assert not key.startswith((".", "__"))
        assert set(key).isdisjoint('/\\:*?"<>|\0\n')
        assert names.decode(key) in (name, None)
        assert names.decode(key) == name or len(key) == 118 or "~~" in key


def axes_are_a_group(lengths: list[int], data: st.DataObject) -> None:
    """Axes that turn one shape into another do so, there is a way back, and one way after another is a way."""
    shapes = [tuple(data.draw(st.permutations(lengths))) for _ in range(3)]
    values = np.arange(math.prod(lengths)).reshape(shapes[0])
    one = data.draw(st.sampled_from(axes.possible(shapes[1], shapes[0])))
    two = data.draw(st.sampled_from(axes.possible(shapes[2], shapes[1])))
    moved = axes.apply(axes.apply(values, one), two)
    assert moved.shape == shapes[2]
    if None not in (*one, *two):
        composed = tuple(one[axis] for axis in two if axis is not None)
        assert np.array_equal(axes.apply(values, composed), moved)
        back = tuple(int(axis) for axis in np.argsort([axis for axis in one if axis is not None]))
        assert np.array_equal(axes.apply(axes.apply(values, one), back), values)
    letters = "abcdef"[: len(lengths)]
    split = data.draw(st.integers(0, len(lengths)))
    groups = tuple((axis,) for axis in range(split)), tuple(range(split, len(lengths)))
    sides = tuple(part for part in (*groups[0], groups[1]) if part), tuple((axis,) for axis in range(len(lengths)))
    plan = Rearrangement(tuple(lengths), sides[0], sides[1], tuple(letters))
    whole = np.arange(math.prod(lengths)).reshape(lengths)
    assert np.array_equal(plan.apply(whole).reshape(-1), whole.reshape(-1))
    assert np.array_equal(Rearrangement.parse(*plan.to_json().values()).apply(whole), plan.apply(whole))


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats(width=32) | st.text(max_size=8)
    | st.sampled_from(["x{i}", "{i}", "*", "0..3", "0, 2..9", "1..", "fc", "null", "{i+1}", "{{", "a{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["reference", "candidate", "axes", "i", "j", "match", "atol", "rtol", "reason", "ranges", "x"]),
        inner, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
_FILES = st.dictionaries(
    st.sampled_from(["reference", "candidate", "pairs", "rejected", "outputs", "ignore", "tolerances", "y"]), _VALUES,
    max_size=4,
)  # fmt: skip


def any_text_is_a_mapping_or_one_line(folder: Path, raw: bytes, ending: str) -> None:
    path = folder / f"m{ending}"
    path.write_bytes(raw)
    try:
        mapping = load(path)
        text = dump(Alignment(()), "tf", "pt", mapping=mapping, accept=1.0)
        path = folder / "again.yaml"
        path.write_text(text)
        again = load(path)
    except InputError as error:
        told = str(error)
        if len(told.splitlines()) != 1 or path.name == "again.yaml":
            raise AssertionError(f"{path.name}: {told}") from error
        return
    kept = again.model_copy(update={"reference": mapping.reference, "candidate": mapping.candidate})
    assert kept.model_dump() == mapping.model_dump(), f"{mapping} was written as {again}"


def properties(folder: Path) -> dict[str, Callable[[], None]]:
    """What is to hold, by name, as tests of hypothesis; ``folder`` is theirs."""
    examples = [
        "pairs:\n  - {reference: fc, candidate: out, axes: [0, 2, 1]}\n",
        "pairs:\n  - reference: x{i}\n    candidate: [a, 'h.{i-1}']\n    i: 1..5\nignore: {reference: ['d*']}\n",
        "tolerances:\n- {match: 'a*', atol: 1e-3, reason: \"so it is\"}\noutputs: [1, 0]\nrejected: []\n",
    ]

    @hypothesis.given(st.sampled_from(examples), st.data())
    def spoiled(text: str, data: st.DataObject) -> None:
        raw = bytearray(text.encode())
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        any_text_is_a_mapping_or_one_line(folder, bytes(raw), ".yaml")

    return {
        "keys": hypothesis.given(st.lists(_NAMES, max_size=8, unique=True))(keys_come_back),
        "axes": hypothesis.given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())(axes_are_a_group),
        "mapping: spoiled": spoiled,
        "mapping: any values": hypothesis.given(_FILES, st.sampled_from([".yaml", ".json"]))(
            lambda found, ending: any_text_is_a_mapping_or_one_line(folder, json.dumps(found).encode(), ending)
        ),
        "mapping: any bytes": hypothesis.given(
            st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.sampled_from([".yaml", ".json", ".toml"]),
        )(lambda raw, ending: any_text_is_a_mapping_or_one_line(folder, raw, ending)),
    }
