"""The third set of defects: its correct ports agree with their references, and each defect shows."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides")
NETWORKS = ("photo", "heart", "tagger", "encoder")
"""Of the thirteen; the others are checked alike with the names of all here, which takes minutes."""
CORRECT, SHOWN = 2e-6, 2e-5
"""Shares of the largest value: what rounding makes of a correct port at most, and a defect at least."""


def _apart(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    if [a.shape for a in left] != [b.shape for b in right]:
        return float("inf")
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_defect_shows_and_no_correct_port_does(name: str) -> None:
    from benchmarks.corpus.mutations import third

    pair = third.NETWORKS[name]()
    right = third.outputs(pair.reference, pair.inputs)
    own = [n for n in (*third.CONTROLS, *third.DEFECTS, *third.TOGETHER) if n.startswith(f"{name}/")]
    assert own
    for port in (name, *own):
        apart = _apart(right, third.outputs(third.built(pair, port), pair.inputs, pair.layout))
        latent = port in third.DEFECTS and third.DEFECTS[port].latent
        if port == name or port in third.CONTROLS or latent:
            assert apart < CORRECT, port
        else:
            assert apart > SHOWN, port


def test_the_set_is_whole() -> None:
    from benchmarks.corpus.mutations import third

    assert set(third.NETWORKS) > set(NETWORKS)
    assert all(one.right and one.at and not one.right & one.vague for one in third.DEFECTS.values())
    parts = {part for pair in third.TOGETHER for part in pair.split("+")}
    assert parts <= third.DEFECTS.keys()
    assert all(len({part.partition("/")[0] for part in pair.split("+")}) == 1 for pair in third.TOGETHER)
