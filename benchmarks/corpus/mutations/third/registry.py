"""Where the third set's modules register."""

from __future__ import annotations

from benchmarks.corpus.mutations.pairs import DefectSet

SET = DefectSet("third")
network, defect, mistake, control = SET.network, SET.defect, SET.mistake, SET.control
one_layer, neighbours = SET.one_layer, SET.neighbours
