"""Files that are built to do harm, and damaged ones of each format, through the real command line.

After each command: no code of the file's ran, nothing was sent, no file but the trace's changed, memory and time stayed
bounded, and what failed was said in one line (:func:`tests.battery._attack.attempt`).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.battery import (
    Tally,
    _mutations,
    _payloads_graphs,
    _payloads_keras,
    _payloads_onnx,
    _payloads_plain,
    _payloads_torch,
    _payloads_traces,
)
from tests.battery._attack import Case, Listener, attack

MUTATIONS = 200
"""Damaged files of each format."""
_PAYLOADS = (
    _payloads_torch, _payloads_keras, _payloads_graphs, _payloads_onnx, _payloads_plain, _payloads_traces,
)  # fmt: skip


def payloads() -> Iterator[Case]:
    """Every file that is built to do harm."""
    for module in _PAYLOADS:
        yield from module.cases()


def run(seed: int, cases: int | None = None) -> Tally:
    """All payloads, and ``cases`` damaged files of each format (200)."""
    tally, listener = Tally(), Listener()
    for case in payloads():
        attack(case, listener, tally)
    for form in _mutations.formats():
        _mutations.run(form, MUTATIONS if cases is None else cases, seed, listener, tally)
    listener.close()
    return tally
