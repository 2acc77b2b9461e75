"""The third set of defects: its correct ports agree with their references, and each defect shows."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.defect_sets import check_network, check_whole

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides")
NETWORKS = ("photo", "heart", "tagger", "encoder")
"""Of the thirteen; the others are checked alike with the names of all here, which takes minutes."""
CORRECT, SHOWN = 2e-6, 2e-5
"""Shares of the largest value: what rounding makes of a correct port at most, and a defect at least."""


@pytest.mark.parametrize("name", NETWORKS)
def test_each_defect_shows_and_no_correct_port_does(name: str) -> None:
    from benchmarks.corpus.mutations.third import SET

    check_network(SET, name, CORRECT, SHOWN)


def test_the_set_is_whole() -> None:
    from benchmarks.corpus.mutations.third import SET

    assert set(SET.networks) > set(NETWORKS)
    check_whole(SET)
