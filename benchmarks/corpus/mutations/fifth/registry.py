"""Where the fifth set's modules register."""

from __future__ import annotations

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("fifth")
network, control, variant = SET.network, SET.control, SET.variant
defect, mistake = SET.defect, SET.mistake
one_layer, neighbours = SET.one_layer, SET.neighbours
