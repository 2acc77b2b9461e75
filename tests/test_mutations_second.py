"""The second set of defects: each finds its place in the ports that it is planned for, and nothing else changes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from benchmarks.corpus import custom
from benchmarks.corpus.mutations.subject import KINDS as SEEN

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides")
BUILT = ("gru_text", "bilstm_text", "attention_text", "crnn", "classifier")


@pytest.fixture(scope="module", params=BUILT)
def built(request: Any) -> Any:
    """Building raises where the outputs of both sides differ, or a weight is left over."""
    port = next(port for port in custom.PORTS if port.name == f"custom/{request.param}")
    return port.name, port.build()


def _fed(inputs: np.ndarray) -> np.ndarray:
    return np.moveaxis(inputs, -1, 1).copy() if inputs.ndim > 2 else inputs.astype(np.int64)


def test_each_defect_finds_its_place(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.corpus.mutations import Subject, differ, observe, second, unseen

    name, port = built
    before = {key: value.clone() for key, value in port.candidate.state_dict().items()}
    for kind in (unseen.KINDS | second.KINDS).items():
        monkeypatch.setitem(SEEN, *kind)
    from inspect import signature

    parameter = next(iter(signature(port.candidate.forward).parameters))
    subject = Subject(port.candidate, {parameter: _fed(port.inputs)})
    for kind in [kind for kind, planned in second.PLANS.items() if name in planned and kind in second.KINDS]:
        mutation = subject.mutate(kind)
        assert mutation is not None, kind
        _, outputs = observe(mutation.model, subject.inputs)
        assert differ(subject.outputs, outputs), kind
        named = kind.split("+")
        assert all(part in second.RIGHT or part in unseen.RIGHT or part in SEEN for part in named), kind
    for key, value in port.candidate.state_dict().items():
        assert value.equal(before[key]), key


def test_each_defect_on_the_keras_side_finds_its_place(built: Any) -> None:
    from benchmarks.corpus.mutations import second
    from benchmarks.corpus.mutations.second import keras_side

    name, port = built
    right = np.asarray(port.reference(port.inputs, training=False))
    for kind in [kind for kind, planned in second.PLANS.items() if name in planned and kind in keras_side.KINDS]:
        planted = keras_side.planted(kind, port.reference, [port.inputs])
        assert planted is not None, kind
        wrong = np.asarray(planted[0](port.inputs, training=False))
        assert wrong.shape != right.shape or np.abs(wrong - right).max() > 1e-6 * np.abs(right).max(), kind
    np.testing.assert_array_equal(np.asarray(port.reference(port.inputs, training=False)), right)
    assert keras_side.Rebuild().of(port.reference)(port.inputs, training=False).shape == right.shape


def test_a_defect_without_a_place_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from benchmarks.corpus.mutations import Subject, second

    for kind in second.KINDS.items():
        monkeypatch.setitem(SEEN, *kind)
    subject = Subject(torch.nn.Sequential(torch.nn.Linear(3, 4)), {"input": np.ones((2, 3), np.float32)})
    assert subject.mutate("rnn-time-major") is None
    assert subject.mutate("bn-eps-one+bn-gain-as-variance") is None
