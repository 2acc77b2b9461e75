"""The rules of :mod:`tracer.adapter` and :mod:`tracer.graph`, a test each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tracer import adapter as adapters
from tracer import dtypes, kinds
from tracer.adapter import InputSpec, LoadedModel, Mode, NotRecorded, Run
from tracer.errors import InputError, ModelError, TracerError
from tracer.graph import Layout, Node, Role, Structure
from tracer.testing.case import Case
from tracer.testing.evidence import (
    Recorder,
    captured,
    changes,
    check_values,
    close,
    copies,
    fail,
    one_line,
    opened,
    parameters,
    raised,
    same,
)  # fmt: skip
from tracer.testing.files import FileRules
from tracer.testing.filling import FillRules
from tracer.testing.learning import LearningRules
from tracer.testing.replaying import ReplayRules
from tracer.testing.rules import needs

_IMPORTS = """
import sys
from pathlib import Path
import {module}
cls = {module}.{name}
cls.owns(object())
cls.claims(Path("no_such_file.pt"))
print(" ".join(r for r in {requires!r} if r.partition(".")[0] in sys.modules))
"""


class AdapterContract(FileRules, FillRules, LearningRules, ReplayRules):
    """Every rule that an adapter keeps; a subclass named ``Test…`` says which adapter and which models.

    Attributes:
        adapter: the class.
        entry: its entry-point name, where the distribution under test is installed.
        cases: models.
        code_files: files that would run code.
        suffix: of the adapter's files, for those that the kit damages; taken from the cases' files if empty.
    """

    # -- the adapter -------------------------------------------------------------------------------------------

    def test_importing_it_imports_no_framework(self) -> None:
        """Neither does asking whether it owns an object or claims a file."""
        cls = self.adapter
        code = _IMPORTS.format(module=cls.__module__, name=cls.__qualname__, requires=cls.requires)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if done.returncode:
            fail("the adapter cannot be imported by itself", done.stderr.strip().splitlines()[-1:])
        if imported := done.stdout.split():
            fail("importing the adapter, owns and claims must not import the framework", imported)

    def test_it_says_what_it_is(self) -> None:
        texts = ("framework", "formats")
        wrong = [f"{n} must be one line of text" for n in texts if not one_line(getattr(self.adapter, n, None))]
        for name, kind in (("requires", str), ("modes", str), ("settings_files", str)):
            value = getattr(self.adapter, name, None)
            if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
                wrong.append(f"{name} must be a tuple of {kind.__name__}")
        if "eval" not in self.adapter.modes or not set(self.adapter.modes) <= set(get_args(Mode)):
            wrong.append(f"modes are eval and perhaps train, not {self.adapter.modes}")
        if self.entry and type(adapters.get(self.entry, check=False)) is not self.adapter:
            wrong.append(f"the entry point '{self.entry}' gives another class")
        if wrong:
            fail("the adapter's own description is wrong", wrong)

    def test_it_owns_nothing_else(self) -> None:
        strangers = [None, "text", 3, np.ones(2), object(), type, {}]
        if owned := [type(thing).__name__ for thing in strangers if self.adapter.owns(thing) is not False]:
            fail("owns must be False for objects of no framework", owned)

    # -- opening -----------------------------------------------------------------------------------------------

    @needs("model")
    def test_it_owns_its_live_models(self, case: Case) -> None:
        assert case.model is not None
        if self.adapter.owns(case.model()) is not True:
            fail("owns must be True for the case's model")

    def test_the_loaded_model_says_what_it_is(self, case: Case, tmp_path: Path) -> None:
        loaded = opened(self.adapter(), case, tmp_path)
        wrong = []
        if not isinstance(loaded, LoadedModel):
            fail("wrap and load must give a LoadedModel", type(loaded).__name__)
        if loaded.framework != self.adapter.framework:
            wrong.append(f"framework is {loaded.framework!r}, the adapter's {self.adapter.framework!r}")
        if not one_line(loaded.loader):
            wrong.append("loader must be one line of text")
        if not isinstance(loaded.notes, tuple) or not all(map(one_line, loaded.notes)):
            wrong.append("notes must be a tuple of single lines")
        versions = loaded.versions()
        if not versions or not all(isinstance(k, str) and isinstance(v, str) for k, v in versions.items()):
            wrong.append("versions must name what computes, text by text")
        if loaded.run != Run():
            wrong.append("run must be Run() until it is set")
        if wrong:
            fail("the loaded model's own description is wrong", wrong)

    def test_the_signature_fits_the_inputs(self, case: Case, tmp_path: Path) -> None:
        specs = self.evidence(case, tmp_path).loaded.signature()
        wrong = [f"two inputs are called {name}" for name, n in Counter(s.name for s in specs).items() if n > 1]
        if {spec.name for spec in specs} != set(case.inputs):
            wrong.append(f"it names {[s.name for s in specs]}, the case gives {list(case.inputs)}")
        for spec in specs:
            wrong += _faults(spec, case)
        if wrong:
            fail("the signature must describe the inputs that the model takes", wrong)

    # -- structure ---------------------------------------------------------------------------------------------

    def test_names_are_unique(self, case: Case, tmp_path: Path) -> None:
        names = Counter(node.name for node in self.evidence(case, tmp_path).structure)
        if twice := [f"{name} ({count} times)" for name, count in names.items() if count > 1 or not name]:
            fail("node names must be unique and not empty", twice)

    def test_parents_precede(self, case: Case, tmp_path: Path) -> None:
        seen: set[str] = set()
        wrong = []
        for node in self.evidence(case, tmp_path).structure:
            wrong += [f"{node.name}: parent {parent}" for parent in node.parents if parent not in seen]
            seen.add(node.name)
        if wrong:
            fail("parents must exist and come before their children", wrong)

    def test_aliases_resolve(self, case: Case, tmp_path: Path) -> None:
        structure = self.evidence(case, tmp_path).structure
        wrong = []
        for node in structure:
            if node.alias_of is None:
                continue
            target = structure.by_name.get(node.alias_of)
            if target is None or target.alias_of is not None:
                wrong.append(f"{node.name} is an alias of {node.alias_of}, which is no stored node")
            elif (node.shape, node.dtype) != (target.shape, target.dtype):
                wrong.append(f"{node.name} is {node.shape} {node.dtype}, {target.name} {target.shape} {target.dtype}")
        if wrong:
            fail("an alias must name the stored node whose very tensor it is", wrong)

    def test_kinds_are_known(self, case: Case, tmp_path: Path) -> None:
        nodes = self.evidence(case, tmp_path).structure
        if wrong := [f"{n.name}: {n.kind}" for n in nodes if not kinds.is_legal(n.kind)]:
            fail("a kind must be a word of tracer.kinds or of the adapter's own kinds, or other:word", wrong)

    def test_roles_are_kept(self, case: Case, tmp_path: Path) -> None:
        structure = self.evidence(case, tmp_path).structure
        wrong = [fault for node in structure for fault in _role_faults(node, structure)]
        if strange := {node.name for node in structure.inputs} - set(case.inputs):
            wrong.append(f"input nodes that are no inputs: {sorted(strange)}")
        if not structure.inputs:
            wrong.append("no node stands for an input")
        if wrong:
            fail("nodes must keep to their roles (tracer.graph.Role)", wrong)

    def test_outputs_are_named(self, case: Case, tmp_path: Path) -> None:
        structure = self.evidence(case, tmp_path).structure
        if not case.raises and not structure.outputs:
            fail("the structure must name the model's outputs")
        ends = [*structure.outputs, *(name for _, name in structure.returned)]
        if unknown := [name for name in ends if name not in structure.by_name]:
            fail("outputs must be nodes", unknown)

    def test_the_structure_survives_json(self, case: Case, tmp_path: Path) -> None:
        raw = self.evidence(case, tmp_path).structure.to_json()
        try:
            back = Structure.from_json(json.loads(json.dumps(raw, allow_nan=False))).to_json()
        except (TypeError, ValueError, KeyError) as error:
            fail("the structure must be JSON values and nothing else", f"{type(error).__name__}: {error}")
        if changed := [str(a) for a, b in zip(_plain(raw)["nodes"], back["nodes"], strict=True) if a != b]:
            fail("the structure must come back from JSON as it was", changed)

    def test_what_must_be_seen_is_seen(self, case: Case, tmp_path: Path) -> None:
        structure = self.evidence(case, tmp_path).structure
        wrong = [
            f"{name}: {'missing' if name not in structure.by_name else structure.by_name[name].kind}, expected {kind}"
            for name, kind in case.nodes.items()
            if name not in structure.by_name or structure.by_name[name].kind != kind
        ]
        if wrong:
            fail("nodes are missing or of another kind", [*wrong, f"there are: {', '.join(structure.by_name)}"])

    @needs("other")
    def test_other_inputs_have_their_own_structure(self, case: Case, tmp_path: Path) -> None:
        assert case.other is not None
        found = self.evidence(case, tmp_path)
        loaded = opened(self.adapter(), case, tmp_path / "again")
        loaded.structure(copies(case.inputs))
        other = loaded.structure(copies(case.other))
        for node in other.inputs:
            if node.shape != case.other[node.name].shape:
                fail("a structure must be of the inputs it was asked for", f"{node.name}: {node.shape}")
        check_values(captured(loaded, case.other), other)
        if loaded.structure(copies(case.inputs)).to_json() != found.structure.to_json():
            fail("the structure of the first inputs must be the same when it is asked for again")

    @needs("wrong")
    def test_wrong_inputs_are_an_input_error(self, case: Case, tmp_path: Path) -> None:
        assert case.wrong is not None
        loaded = opened(self.adapter(), case, tmp_path)
        error = raised(lambda: loaded.structure(copies(case.wrong or {})))
        if not isinstance(error, InputError):
            fail("structure must raise InputError for inputs that the model does not take", repr(error))
        if not one_line(str(error)):
            fail("the error must be one line", str(error))
        check_values(captured(loaded, case.inputs), loaded.structure(copies(case.inputs)))

    # -- capture -----------------------------------------------------------------------------------------------

    @needs("sound")
    def test_exactly_the_stored_nodes_are_handed_over_in_order(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        wanted = [node.name for node in found.structure.stored()]
        given = found.sink.order
        if given == wanted:
            return
        wrong = [f"{name} was not handed over" for name in wanted if name not in given]
        wrong += [f"{name} was handed over, and is no stored node" for name in given if name not in wanted]
        wrong += [f"{name} was handed over {n} times" for name, n in Counter(given).items() if n > 1]
        fail("capture must hand over every stored node once, in the order of the structure", wrong or given)

    def test_values_are_as_announced(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        check_values(found.sink, found.structure)
        missing = {name for name, value in found.sink.values.items() if isinstance(value, NotRecorded)}
        if missing - case.unrecorded:
            said = [f"{name}: {found.sink.values[name]}" for name in sorted(missing - case.unrecorded)]
            fail("these nodes have no value, and the case does not excuse them (unrecorded)", said)

    @needs("expect")
    def test_values_are_those_of_the_framework(self, case: Case, tmp_path: Path) -> None:
        assert case.expect is not None
        assert case.model is not None
        values = self.evidence(case, tmp_path).sink.arrays()
        for name, expected in case.expect(case.model(), copies(case.inputs)).items():
            if name not in values:
                fail("a tensor was not recorded", name)
            if not close(values[name], np.asarray(expected), case.tolerance):
                fail("a recorded value is not what the framework computes", f"{name}: {values[name]} != {expected}")

    def test_inputs_are_recorded_as_given(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        for node in found.structure.inputs:
            value = found.sink.values.get(node.name)
            if value is not None and not same(value, case.inputs[node.name]):
                fail("an input must be recorded as it was given", f"{node.name}: {value}")

    def test_values_do_not_change_later(self, case: Case, tmp_path: Path) -> None:
        """An array that was handed over as owned is nobody else's: a later operation in place must not reach it."""
        loaded = opened(self.adapter(), case, tmp_path)
        given = copies(case.inputs)
        loaded.structure(copies(case.inputs))
        sink = Recorder()
        try:
            loaded.capture(given, sink)
        except ModelError:
            if not case.raises:
                raise
        before = {name: value for name, value in sink.values.items() if name in sink.owned}
        for array in given.values():  # the caller may go on to use its arrays
            array[...] = np.zeros((), array.dtype)
        if changed := [name for name, value in sink.owned.items() if not same(value, before[name])]:
            fail("arrays handed over with owned=True were changed afterwards: copy them, or leave owned out", changed)

    @needs("sound")
    def test_what_is_not_wanted_is_not_handed_over(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        wanted = [node.name for node in found.structure.stored()][1::2]
        sink = captured(found.loaded, case.inputs, frozenset(wanted))
        if sink.order != wanted:
            fail("exactly the nodes that the sink wants must be handed over", [f"wanted {wanted}", f"got {sink.order}"])

    @needs("sound")
    def test_a_second_capture_is_equal(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        again = captured(found.loaded, case.inputs)
        if changed := [name for name, value in found.sink.values.items() if not same(value, again.values.get(name))]:
            fail("a second capture of the same inputs must give the same values to the bit", changed)

    # -- parameters, and what is left behind -------------------------------------------------------------------

    def test_parameters_come_once_and_are_known(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        counts = Counter((owner, param.name) for owner, param, _ in found.before)
        wrong = [f"{owner} {name} comes {count} times" for (owner, name), count in counts.items() if count > 1]
        described = {(owner, param.name): param for owner, param, _ in found.after}
        for node in found.structure:
            for param in node.params:
                known = described.get((node.owner, param.name))
                if known is None:
                    wrong.append(f"{node.name} has {param.name}, which is none of '{node.owner}' in parameters()")
                elif known != param:
                    wrong.append(f"{node.name} says {param}, parameters() {known}")
        for owner, param, value in found.before:
            if value.shape != param.shape or value.dtype.name != param.dtype:
                wrong.append(f"{owner} {param.name} is {value.shape} {value.dtype}, said {param.shape} {param.dtype}")
        if wrong:
            fail("parameters() must give each parameter once, as the nodes describe it", wrong)

    def test_the_model_is_left_as_it_was_found(self, case: Case, tmp_path: Path) -> None:
        found = self.evidence(case, tmp_path)
        wrong = changes(found.before, found.after)
        if found.draws:
            wrong.append("the random state of numpy or Python was moved")
        if case.state is not None and case.model is not None:
            live = case.model()
            loaded = self.adapter().wrap(live)
            before = case.state(live)
            for _ in range(2):
                loaded.structure(copies(case.inputs))
                try:
                    loaded.capture(copies(case.inputs), Recorder())
                except ModelError:
                    if not case.raises:
                        raise
            if case.state(live) != before:
                wrong.append(f"its state was {before}, and is {case.state(live)}")
        if wrong:
            fail("structure and capture must leave the model as they found it", wrong)

    @needs("raises")
    def test_a_model_that_raises(self, case: Case, tmp_path: Path) -> None:
        """What ran before is handed over, the structure says the fault, and the model is left as it was."""
        loaded = opened(self.adapter(), case, tmp_path)
        before = parameters(loaded)
        structure = loaded.structure(copies(case.inputs))
        sink = Recorder()
        error = raised(lambda: loaded.capture(copies(case.inputs), sink))
        if not isinstance(error, ModelError):
            fail("capture must raise ModelError when the model raises", repr(error))
        if not one_line(str(error)) or case.raises not in str(error):
            fail(f"the error must say '{case.raises}' in one line", str(error))
        if case.raises not in structure.fault:
            fail(f"the structure's fault must say '{case.raises}'", repr(structure.fault))
        if lost := [name for name in case.nodes if name not in sink.values]:
            fail("what ran before the fault must be handed over", lost)
        if changed := changes(before, parameters(loaded)):
            fail("a model that raises must be left as it was found", changed)


def _plain(raw: dict[str, Any]) -> Any:
    """Tuples as the lists that JSON makes of them."""
    return json.loads(json.dumps(raw))


def _faults(spec: InputSpec, case: Case) -> list[str]:
    wrong = []
    given = case.inputs.get(spec.name)
    try:
        dtypes.by_name(spec.dtype)
    except TracerError:
        wrong.append(f"{spec.name}: dtype {spec.dtype!r} is no name of a type")
    if spec.layout not in (None, *get_args(Layout)):
        wrong.append(f"{spec.name}: layout {spec.layout!r}")
    if given is None:
        return wrong
    if spec.shape is not None:
        fits = len(spec.shape) == given.ndim
        fits = fits and all(a in (None, b) for a, b in zip(spec.shape, given.shape, strict=True))
        if not fits:
            wrong.append(f"{spec.name}: shape {spec.shape}, the case gives {given.shape}")
    if spec.maximum is not None and given.size and given.max() > spec.maximum:
        wrong.append(f"{spec.name}: at most {spec.maximum}, the case gives {given.max()}")
    return wrong


def _role_faults(node: Node, structure: Structure) -> list[str]:
    wrong = []
    if node.role not in get_args(Role):
        wrong.append(f"{node.name}: role {node.role!r}")
    if node.layout not in (None, *get_args(Layout)):
        wrong.append(f"{node.name}: layout {node.layout!r}")
    if node.role == "input" and (node.parents or node.kind != "input"):
        wrong.append(f"{node.name} is an input with parents, or of kind {node.kind}")
    if node.role == "item" and len(node.parents) != 1:
        wrong.append(f"{node.name} is a further output and must have the first one as its only parent")
    if node.role == "activation" and not any(n.role == "layer" and n.owner == node.owner for n in structure):
        wrong.append(f"{node.name} stands before a fused activation, but '{node.owner}' has no node of its own")
    if not node.label:
        wrong.append(f"{node.name} has no label")
    return wrong
