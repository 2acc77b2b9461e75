"""Where the fourth set's modules register."""

from __future__ import annotations

from benchmarks.corpus.mutations.pairs import DefectSet

SET = DefectSet("fourth")
network, defect, mistake = SET.network, SET.defect, SET.mistake
control, variant = SET.control, SET.variant
one_layer, neighbours = SET.one_layer, SET.neighbours
