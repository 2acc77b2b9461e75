"""Where the sixteenth set's modules register, and what its ports share."""

from __future__ import annotations

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("sixteenth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours
