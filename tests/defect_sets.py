"""What holds for every set of defects in networks of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from benchmarks.corpus.mutations.pairs import DefectSet, outputs


def apart(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The largest difference, as a share of the largest value of ``left``."""
    if [a.shape for a in left] != [b.shape for b in right]:
        return float("inf")
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(left, right, strict=True))


def check_network(of: DefectSet, network: str, correct: float, shown: float, every: int = 1) -> None:
    """Correct ports and latent defects are at most ``correct`` apart from the reference, others over ``shown``.

    Of the defects, one in ``every`` is looked at.
    """
    pair = of.networks[network]()
    right = outputs(pair.reference, pair.inputs)
    own = of.names(network)
    good = [name for name in own if name in of.controls]
    assert good
    for port in (network, *good, *own[len(good) :: every]):
        found = apart(right, outputs(of.build(pair, port), pair.inputs, pair.layout))
        latent = port in of.defects and of.defects[port].latent
        if port == network or port in of.controls or latent:
            assert found < correct, port
        else:
            assert found > shown, port


def check_whole(of: DefectSet) -> None:
    """Each defect has a place and names that the documentation lists, and those at once are of one network."""
    known = set(re.findall(r"`([a-z-]+)`", (Path(__file__).parents[1] / "docs" / "causes.md").read_text()))
    for one in of.defects.values():
        assert one.at, one.name
        assert one.right, one.name
        assert not one.right & one.vague, one.name
        assert one.right | one.vague <= known, (one.name, (one.right | one.vague) - known)
    assert {one.network for one in of.defects.values()} == of.networks.keys()
    for pair in of.together:
        parts = pair.split("+")
        assert of.defects.keys() >= set(parts), pair
        assert len({part.partition("/")[0] for part in parts}) == 1, pair
