"""Rules for adapters whose models' weights can be changed and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tracer.adapter import Array, LoadedModel
from tracer.errors import InputError, ReplayError
from tracer.testing.case import Case
from tracer.testing.evidence import Parameters, changes, close, copies, fail, one_line, opened, parameters, raised
from tracer.testing.rules import Rules, needs

_Key = tuple[str, str]


def _others(found: Parameters) -> dict[_Key, Array]:
    """Other values for every floating parameter."""
    floating = [(owner, param, value) for owner, param, value in found if value.size and value.dtype.kind in "fV"]
    return {(owner, param.name): (value.astype(np.float64) * 0.5 + 0.25) for owner, param, value in floating}


def _fillable(loaded: LoadedModel, values: dict[_Key, Array]) -> None:
    """The test is skipped where the model's weights cannot be changed."""
    before = parameters(loaded)
    try:
        loaded.assign(values)
    except ReplayError as error:
        if not one_line(str(error)):
            fail("the error must be one line", str(error))
        if changed := changes(before, parameters(loaded)):
            fail("an assignment that is refused must change nothing", changed)
        pytest.skip(str(error))


class FillRules(Rules):
    """What :meth:`tracer.adapter.LoadedModel.assign` and ``save_weights`` promise."""

    def _prepared(self, case: Case, folder: Path) -> LoadedModel:
        loaded = opened(self.adapter(), case, folder)
        raised(lambda: loaded.structure(copies(case.inputs)))  # some models have weights only now
        return loaded

    def test_assigned_weights_are_there(self, case: Case, tmp_path: Path) -> None:
        loaded = self._prepared(case, tmp_path)
        before = parameters(loaded)
        values = _others(before)
        if not values:
            pytest.skip("no floating parameters")
        first = next(iter(values))
        _fillable(loaded, {first: values[first]})
        wrong = changes([entry for entry in before if (entry[0], entry[1].name) != first], parameters(loaded))
        if wrong:
            fail("only the parameters that are given may change", wrong)
        _fillable(loaded, values)
        for owner, param, value in parameters(loaded):
            wanted = values.get((owner, param.name))
            if wanted is not None and (value.dtype.name != param.dtype or not close(value, wanted, 0.02)):
                fail("an assigned parameter must hold the values, in its own type", f"{owner} {param.name}: {value}")

    def test_weights_that_do_not_fit_change_nothing(self, case: Case, tmp_path: Path) -> None:
        loaded = self._prepared(case, tmp_path)
        before = parameters(loaded)
        values = _others(before)
        if not values:
            pytest.skip("no floating parameters")
        _fillable(loaded, {(owner, param.name): value for owner, param, value in before[:1]})
        last = list(values)[-1]
        for bad in ({**values, last: np.zeros((*values[last].shape, 2))}, {**values, ("", "\0none"): np.zeros(1)}):
            error = raised(lambda bad=bad: loaded.assign(bad))  # type: ignore[misc]
            if not isinstance(error, InputError) or not one_line(str(error)):
                fail("assign must raise InputError, in one line, for another shape or an unknown name", repr(error))
            if changed := changes(before, parameters(loaded)):
                fail("an assignment that is refused must change nothing", changed)

    @needs("file", "sound")
    def test_saved_weights_load_again(self, case: Case, tmp_path: Path) -> None:
        adapter = self.adapter()
        if not adapter.weight_files:
            pytest.skip("the adapter saves no weights")
        assert case.file is not None
        request = case.file(tmp_path)
        loaded = adapter.load(request)
        loaded.structure(copies(case.inputs))
        values = _others(parameters(loaded))
        _fillable(loaded, values)
        path = tmp_path / f"filled{adapter.weight_files[0]}"
        loaded.save_weights(path)
        again = adapter.load(adapter.filled(request, path))
        again.structure(copies(case.inputs))
        if changed := changes(parameters(loaded), parameters(again)):
            fail("weights that were saved must be there when the model is loaded with the file", changed)
