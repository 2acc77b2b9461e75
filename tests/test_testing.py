"""The adapter test kit: docs/adapters.md's example keeps every rule, and each rule catches its breach."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tracer.adapter import InputSpec, NotRecorded
from tracer.errors import InputError, ModelError, RefusedError
from tracer.graph import Param, Structure
from tracer.testing import AdapterContract, Case, CodeFile

DOCS = Path(__file__).parent.parent / "docs" / "adapters.md"
Toy = Any
Change = Callable[[Toy], type[AdapterContract]]


def write_example(folder: Path) -> None:
    """The files of docs/adapters.md."""
    blocks = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    for name, text in blocks:
        (folder / name).write_text(text)
    assert [name for name, _ in blocks] == ["toynet.py", "tracer_toynet.py", "test_toynet.py", "pyproject.toml"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """The example as modules: ``adapter``, ``tests``, ``net``."""
    folder = tmp_path_factory.mktemp("toy")
    write_example(folder)
    (folder / "tracer_hasty.py").write_text(
        "import toynet\nimport tracer_toynet\n\nclass Hasty(tracer_toynet.ToyAdapter):\n    pass\n"
    )
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(
            adapter=importlib.import_module("tracer_toynet"),
            tests=importlib.import_module("test_toynet"),
            hasty=importlib.import_module("tracer_hasty"),
            net=importlib.import_module("toynet"),
        )
    finally:
        sys.path.remove(str(folder))
        for name in ("toynet", "tracer_toynet", "test_toynet", "tracer_hasty"):
            sys.modules.pop(name, None)


def test_the_documented_example_keeps_every_rule(tmp_path: Path) -> None:
    write_example(tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_toynet.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"(\d+) passed, (\d+) skipped", done.stdout)
    assert found, done.stdout + done.stderr
    assert int(found[1]) >= 50
    assert "no case offers gradients" not in done.stdout


# -- breaches ------------------------------------------------------------------------------------------------------


def contract(adapter: type, toy: Toy, **attributes: Any) -> type[AdapterContract]:
    given = {
        "adapter": adapter,
        "cases": toy.tests.TestToyAdapter.cases,
        "code_files": toy.tests.TestToyAdapter.code_files,
    }
    return type("Contract", (AdapterContract,), {**given, **attributes})


def with_model(toy: Toy, /, cases: list[Case] | None = None, base: type | None = None, **methods: Any) -> Any:
    """A contract for the example's adapter with other methods of its model."""
    model = type("Model", (base or toy.adapter.ToyModel,), methods)

    def wrap(self: object, net: object) -> object:
        return model(net, "toynet")

    changes: dict[str, Any] = {"wrap": wrap}
    if "capture_gradients" in dir(model):
        changes |= {"gradients": True, "modes": ("eval", "train")}
    adapter = type("Changed", (toy.adapter.ToyAdapter,), changes)
    return contract(adapter, toy, **({} if cases is None else {"cases": cases}))


def with_adapter(toy: Toy, **attributes: Any) -> type[AdapterContract]:
    return contract(type("Changed", (toy.adapter.ToyAdapter,), attributes), toy)


def with_nodes(toy: Toy, change: Callable[[list[Any]], list[Any]], **fields: Any) -> type[AdapterContract]:
    """Other nodes in the structure."""

    def structure(self: Any, inputs: Any) -> Structure:
        found = toy.adapter.ToyModel.structure(self, inputs)
        return replace(found, nodes=tuple(change(list(found.nodes))), **fields)

    return with_model(toy, structure=structure)


def one(index: int, **fields: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda nodes: [replace(n, **fields) if i == index else n for i, n in enumerate(nodes)]


def captures(change: Callable[[list[tuple[str, Any]]], list[tuple[str, Any]]], **options: Any) -> Callable[..., None]:
    """A capture that hands over something else, after the whole run."""

    def capture(self: Any, inputs: Any, sink: Any) -> None:
        for name, value in change([(name, value.copy()) for name, value in self._run(inputs)]):
            if sink.wants(name):
                sink(name, value, **options)

    return capture


def saying(text: str, error: type[Exception]) -> Callable[..., Any]:
    def method(self: object, *_: object) -> Any:
        raise error(text)

    return method


def load_anyhow(self: Any, request: Any) -> Any:
    import toynet

    return type(self).wrap(self, toynet.load(request.path))


def stubborn_load(self: Any, request: Any) -> Any:
    if self.runs_code(request):
        raise RefusedError(f"{request.path}: no")
    return load_anyhow(self, request)


def counting(self: Any, inputs: Any, sink: Any) -> None:
    self.count = getattr(self, "count", 0) + 1
    for name, value in self._run(inputs):
        if sink.wants(name):
            sink(name, value + np.float32(self.count))


def scarring(self: Any, inputs: Any, sink: Any) -> None:
    for layer in self.net.layers.values():
        if hasattr(layer, "weight"):
            layer.weight += 1
    captures(list)(self, inputs, sink)


def drawing(self: Any, inputs: Any, sink: Any) -> None:
    np.random.rand()
    captures(list)(self, inputs, sink)


def marking(self: Any, inputs: Any, sink: Any) -> None:
    self.net.hook = True
    captures(list)(self, inputs, sink)


def frozen_structure(toy: Toy) -> Callable[..., Structure]:
    def structure(self: Any, inputs: Any) -> Structure:
        if not hasattr(self, "kept"):
            self.kept = toy.adapter.ToyModel.structure(self, inputs)
        kept: Structure = self.kept
        return kept

    return structure


class Exchanged:
    """An exchange seen through a mistake of the adapter's."""

    def __init__(self, exchange: Any, off: float = 0.0, deaf: bool = False) -> None:
        self.exchange, self.off, self.deaf = exchange, off, deaf

    def wants(self, name: str) -> bool:
        return bool(self.exchange.wants(name))

    def __call__(self, name: str, value: Any) -> Any:
        found = self.exchange(name, value + value.dtype.type(self.off))
        return None if self.deaf else found


def replaying(
    *, narrow: dict[str, Any] | None = None, wide: dict[str, Any] | None = None, scar: bool = False
) -> Change:
    """A model whose replay in its own type, or in double, makes a mistake."""

    def make(toy: Toy) -> Any:
        def replay(self: Any, inputs: Any, exchange: Any, *, double: bool = False) -> None:
            wrong = wide if double else narrow
            seen = exchange if wrong is None else Exchanged(exchange, **wrong)
            toy.adapter.ToyModel.replay(self, inputs, seen, double=double)
            if scar and double:
                self.net.layers["dense"].weight += 1

        return with_model(toy, replay=replay)

    return make


def stale(self: Any, inputs: Any, sink: Any) -> None:
    for name, value in list(self._run(inputs)):
        if sink.wants(name):
            sink(name, value)


def parameters(change: Callable[[list[Any]], list[Any]]) -> Callable[[Toy], Any]:
    def make(toy: Toy) -> Any:
        return with_model(toy, parameters=lambda self: change(list(toy.adapter.ToyModel.parameters(self))))

    return make


def assign_more(toy: Toy) -> Callable[..., None]:
    """Changes all parameters, whichever are given."""

    def assign(self: Any, values: Any) -> None:
        toy.adapter.ToyModel.assign(self, values)
        for owner, param, value in self.parameters():
            if (owner, param.name) not in values:
                toy.adapter.ToyModel.assign(self, {(owner, param.name): value + 1})

    return assign


def of_case(toy: Toy, **fields: Any) -> list[Case]:
    return [replace(toy.tests.TestToyAdapter.cases[0], **fields)]


def raising(error: type[Exception], text: str = "layer 'bad' raised") -> Callable[[Toy], Any]:
    """A model whose fault comes out as another error."""

    def make(toy: Toy) -> Any:
        def capture(self: Any, inputs: Any, sink: Any) -> None:
            try:
                toy.adapter.ToyModel.capture(self, inputs, sink)
            except ModelError:
                raise error(text) from None

        return with_model(toy, capture=capture)

    return make


def specs(*found: InputSpec) -> Callable[[Toy], Any]:
    return lambda toy: with_model(toy, signature=lambda self: found)


BREACHES: dict[str, tuple[str, str, Change]] = {
    "imports its framework": ("importing_it_imports_no_framework", "must not import the framework\n  toynet",
        lambda toy: contract(toy.hasty.Hasty, toy)),
    "formats in two lines": ("it_says_what_it_is", "formats must be one line",
        lambda t: with_adapter(t, formats="a\nb")),
    "no eval mode": ("it_says_what_it_is", "modes are eval", lambda t: with_adapter(t, modes=("train",))),
    "requires a text": ("it_says_what_it_is", "requires must be a tuple", lambda t: with_adapter(t, requires="toynet")),
    "owns all": ("it_owns_nothing_else", "owns must be False", lambda t: with_adapter(t, owns=lambda model: True)),
    "owns nothing": ("it_owns_its_live_models", "owns must be True",
        lambda t: with_adapter(t, owns=lambda model: False)),
    "no loader": ("the_loaded_model_says_what_it_is", "loader must be one line",
        lambda t: with_model(t, __init__=lambda self, net, _: t.adapter.ToyModel.__init__(self, net, ""))),
    "other framework": ("the_loaded_model_says_what_it_is", "framework is 'x'", lambda t: with_model(t, framework="x")),
    "no versions": ("the_loaded_model_says_what_it_is", "versions", lambda t: with_model(t, versions=lambda self: {})),
    "notes in lines": ("the_loaded_model_says_what_it_is", "notes", lambda t: with_model(t, notes=("a\nb",))),
    "input misnamed": ("the_signature_fits_the_inputs", "it names ..y", specs(InputSpec("y", (None, 4)))),
    "input misshapen": ("the_signature_fits_the_inputs", "the case gives .3, 4", specs(InputSpec("x", (None, 5)))),
    "input twice": ("the_signature_fits_the_inputs", "two inputs", specs(InputSpec("x", None), InputSpec("x", None))),
    "type unknown": ("the_signature_fits_the_inputs", "no name of a type", specs(InputSpec("x", None, "torch.float"))),
    "another run": ("run_again_it_is", "changes nothing must be", replaying(narrow={"off": 1e-3})),
    "deaf": ("what_is_exchanged_is", "must get what it was exchanged for", replaying(narrow={"deaf": True})),
    "double off": ("in_double_it_computes", "dense: .* off", replaying(wide={"off": 10.0})),
    "double scars": ("in_double_it_computes", "must leave the model", replaying(scar=True)),
    "name twice": ("names_are_unique", "dense .2 times", lambda t: with_nodes(t, one(2, name="dense"))),
    "parents later": ("parents_precede", "head: parent relu", lambda t: with_nodes(t, lambda nodes: nodes[::-1])),
    "parent unknown": ("parents_precede", "parent ghost", lambda t: with_nodes(t, one(1, parents=("ghost",)))),
    "alias of nothing": ("aliases_resolve", "no stored node", lambda t: with_nodes(t, one(2, alias_of="ghost"))),
    "alias of an alias": ("aliases_resolve", "no stored node", lambda t: with_nodes(
        t, lambda nodes: one(3, alias_of="relu")(one(2, alias_of="dense")(nodes)))),
    "alias of another shape": ("aliases_resolve", "head is", lambda t: with_nodes(t, one(3, alias_of="relu"))),
    "kind unknown": ("kinds_are_known", "relu: ReLU", lambda t: with_nodes(t, one(2, kind="ReLU"))),
    "role unknown": ("roles_are_kept", "role 'neuron'", lambda t: with_nodes(t, one(2, role="neuron"))),
    "input with a parent": ("roles_are_kept", "input with parents", lambda t: with_nodes(t, one(0, parents=("x",)))),
    "no input": ("roles_are_kept", "no node stands for", lambda t: with_nodes(t, one(0, role="layer"))),
    "item of nothing": ("roles_are_kept", "further output", lambda t: with_nodes(t, one(2, role="item", parents=()))),
    "activation of no layer": ("roles_are_kept", "no node of its own",
        lambda t: with_nodes(t, one(2, role="activation"))),
    "no outputs": ("outputs_are_named", "must name", lambda t: with_nodes(t, list, outputs=())),
    "output unknown": ("outputs_are_named", "ghost", lambda t: with_nodes(t, list, outputs=("ghost",))),
    "config of objects": ("the_structure_survives_json", "JSON values",
        lambda t: with_nodes(t, one(1, config={"f": len}))),
    "negative shape": ("the_structure_survives_json", "JSON values", lambda t: with_nodes(t, one(1, shape=(-1, 5)))),
    "node missed": ("what_must_be_seen_is_seen", "relu: missing", lambda t: with_nodes(t, lambda n: [*n[:2], n[3]])),
    "kind mistaken": ("what_must_be_seen_is_seen", "relu: elu", lambda t: with_nodes(t, one(2, kind="elu"))),
    "structure kept": ("other_inputs_have_their_own_structure", "asked for",
        lambda t: with_model(t, structure=frozen_structure(t))),
    "wrong input taken": ("wrong_inputs_are_an_input_error", "must raise InputError",
        lambda t: with_model(t, cases=of_case(t, wrong={"x": t.tests.X}))),
    "wrong input in lines": ("wrong_inputs_are_an_input_error", "one line",
        lambda t: with_model(t, _run=saying("no\ngood", InputError))),
    "one left out": ("exactly_the_stored_nodes", "relu was not handed over",
        lambda t: with_model(t, capture=captures(lambda v: [*v[:2], v[3]]))),
    "one twice": ("exactly_the_stored_nodes", "2 times",
        lambda t: with_model(t, capture=captures(lambda v: [v[0], *v]))),
    "out of order": ("exactly_the_stored_nodes", "order", lambda t: with_model(t, capture=captures(lambda v: v[::-1]))),
    "an unknown one": ("exactly_the_stored_nodes", "no stored node",
        lambda t: with_model(t, capture=captures(lambda v: [*v, ("more", v[0][1])]))),
    "an alias handed over": ("exactly_the_stored_nodes", "relu was handed over, and is no",
        lambda t: with_nodes(t, one(2, alias_of="dense"))),
    "transposed": ("values_are_as_announced", "announced",
        lambda t: with_model(t, capture=captures(lambda v: [(n, a.T) for n, a in v]))),
    "of another type": ("values_are_as_announced", "float64",
        lambda t: with_model(t, capture=captures(lambda v: [(n, a.astype("f8")) for n, a in v]))),
    "a list": ("values_are_as_announced", "numpy arrays",
        lambda t: with_model(t, capture=captures(lambda v: [(n, a.tolist()) for n, a in v]))),
    "not recorded": ("values_are_as_announced", "why ever",
        lambda t: with_model(t, capture=captures(lambda v: [(n, NotRecorded("why ever")) for n, _ in v]))),
    "not recorded for no reason": ("values_are_as_announced", "with a reason",
        lambda t: with_model(t, capture=captures(lambda v: [(n, NotRecorded("")) for n, _ in v]))),
    "seen too late": ("values_are_those_of_the_framework", "^a recorded value", lambda t: with_model(t, capture=stale)),
    "a tensor not recorded": ("values_are_those_of_the_framework", "was not recorded",
        lambda t: with_model(t, capture=captures(lambda v: v[:2]))),
    "input changed": ("inputs_are_recorded_as_given", "as it was given",
        lambda t: with_model(t, capture=captures(lambda v: [(n, a + 1) for n, a in v]))),
    "owned and changed": ("values_do_not_change_later", "dense", lambda t: with_model(
        t, capture=lambda self, inputs, sink: [sink(n, v, owned=True) for n, v in self._run(inputs)])),
    "the caller's own array": ("values_do_not_change_later", "x", lambda t: with_model(
        t, capture=lambda self, inputs, sink: sink("x", inputs["x"], owned=True))),
    "wants overheard": ("what_is_not_wanted", "wants must", lambda t: with_model(
        t, capture=lambda self, inputs, sink: [sink(n, v) for n, v in self._run(inputs)])),
    "another value each time": ("a_second_capture_is_equal", "dense", lambda t: with_model(t, capture=counting)),
    "parameters twice": ("parameters_come_once", "comes 2 times", parameters(lambda found: [*found, *found])),
    "parameters of nobody": ("parameters_come_once", "none of 'dense'",
        parameters(lambda found: [("other", p, v) for _, p, v in found])),
    "parameters misdescribed": ("parameters_come_once", "said",
        parameters(lambda found: [(o, Param(p.name, (1,), p.dtype), v) for o, p, v in found])),
    "weights changed": ("the_model_is_left_as_it_was_found", "dense weight changed",
        lambda t: with_model(t, capture=scarring)),
    "random numbers drawn": ("the_model_is_left_as_it_was_found", "random state",
        lambda t: with_model(t, capture=drawing)),
    "a hook left": ("the_model_is_left_as_it_was_found", "its state was", lambda t: with_model(
        t, cases=of_case(t, state=lambda net: sorted(vars(net))), capture=marking)),
    "another error": ("a_model_that_raises", "must raise ModelError", raising(RuntimeError)),
    "error without the layer": ("a_model_that_raises", "must say 'layer 'bad'", raising(ModelError, "it raised")),
    "error in lines": ("a_model_that_raises", "must say", raising(ModelError, "layer 'bad'\nraised")),
    "what ran is lost": ("a_model_that_raises", "what ran before", lambda t: with_model(t, capture=captures(list))),
    "no fault in the structure": ("a_model_that_raises", "fault", lambda t: with_nodes(t, list, fault="")),
    "nothing is a TypeError": ("a_request_for_nothing", "load must raise InputError",
        lambda t: with_adapter(t, load=saying("no", TypeError))),
    "preflight is a bug": ("a_request_for_nothing", "preflight must raise",
        lambda t: with_adapter(t, preflight=saying("no", TypeError))),
    "damage is a ValueError": ("what_is_no_model[garbage]", "load must raise InputError",
        lambda t: with_adapter(t, load=saying("no", ValueError))),
    "damage in lines": ("what_is_no_model[garbage]", "one line",
        lambda t: with_adapter(t, load=saying("bad.toy\nis bad", InputError))),
    "damage of no file": ("what_is_no_model[garbage]", "must name the file",
        lambda t: with_adapter(t, load=saying("it is bad", InputError))),
    "a folder is a ValueError": ("what_is_no_model[directory]", "load must raise InputError",
        lambda t: with_adapter(t, load=saying("no", ValueError))),
    "a cut file is loaded": ("a_cut_file", "load must raise InputError",
        lambda t: with_adapter(t, load=lambda self, request: self.wrap(t.tests.net()))),
    "claims nothing": ("it_claims_its_files", "claims must be True",
        lambda t: with_adapter(t, claims=lambda path: False)),
    "claims all": ("it_claims_nothing_else", "notes.txt", lambda t: with_adapter(t, claims=lambda path: True)),
    "another model in the file": ("a_file_loads_as_what_it_is", "what the live model does", lambda t: with_adapter(
        t, load=lambda self, request: self.wrap(t.net.Net({**t.tests.net().layers, "head": lambda x: x[:, :2]})))),
    "code said in lines": ("a_file_loads_as_what_it_is", "single lines",
        lambda t: with_adapter(t, runs_code=lambda self, request: ("a\nb",))),
    "tensors by name alone": ("a_file_loads_as_what_it_is", "tuple of Param",
        lambda t: with_adapter(t, tensors=lambda self, request: ("w",))),
    "code runs": ("nothing_runs_without_consent", "load ran code", lambda t: with_adapter(t, load=load_anyhow)),
    "looking runs code": ("nothing_runs_without_consent", "runs_code ran code", lambda t: with_adapter(
        t, runs_code=lambda self, request: (str(load_anyhow(self, request)),))),
    "refused as a mistake": ("nothing_runs_without_consent", "must raise RefusedError",
        lambda t: with_adapter(t, load=saying("no", InputError))),
    "code not said": ("nothing_runs_without_consent", "must say what", lambda t: with_adapter(
        t, load=saying("no", RefusedError), runs_code=lambda self, request: ())),
    "assigned to nothing": ("assigned_weights_are_there", "must hold the values",
        lambda t: with_model(t, assign=lambda self, values: None)),
    "others assigned too": ("assigned_weights_are_there", "only the parameters",
        lambda t: with_model(t, assign=assign_more(t))),
    "assigned half": ("weights_that_do_not_fit", "must change nothing", lambda t: with_model(
        t, assign=lambda self, values: [t.adapter.ToyModel.assign(self, {k: v}) for k, v in values.items()])),
    "misfit is a KeyError": ("weights_that_do_not_fit", "must raise InputError",
        lambda t: with_model(t, assign=lambda self, values: [vars(self.net.layers[o])[n].shape for o, n in values])),
    "loaded without the file": ("saved_weights_load_again", "must be there",
        lambda t: with_adapter(t, filled=lambda self, request, path: request)),
    "refused for ever": ("with_consent_it_runs", "make the marker", lambda t: with_adapter(t, load=stubborn_load)),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_each_rule_catches_its_breach(breach: str, toy: Toy, tmp_path: Path) -> None:
    rule, says, change = BREACHES[breach]
    with pytest.raises(pytest.fail.Exception, match=says):
        check(change(toy), rule, tmp_path)


def test_a_kind_that_the_adapter_declares_is_no_breach(toy: Toy, tmp_path: Path) -> None:
    kit = with_nodes(toy, one(2, kind="toy_rectify"))
    with pytest.raises(pytest.fail.Exception, match="toy_rectify"):
        check(kit, "kinds_are_known", tmp_path)
    type("Declaring", (toy.adapter.ToyAdapter,), {"kinds": {"toy_rectify": {"relu"}}})
    (tmp_path / "again").mkdir()
    check(kit, "kinds_are_known", tmp_path / "again")


def test_every_rule_has_a_breach() -> None:
    rules = {name for name in dir(AdapterContract) if name.startswith("test_")}
    known = [rule.partition("[")[0] for rule, _, _ in (*BREACHES.values(), *LEARNING.values())]
    assert {rule for rule in rules if not any(rule.startswith(f"test_{stem}") for stem in known)} == set()


def check(kit: type[AdapterContract], rule: str, tmp_path: Path) -> None:
    """Run a rule as pytest would: on each case that offers what it needs."""
    stem, _, argument = rule.partition("[")
    (name,) = [name for name in dir(kit) if name.startswith(f"test_{stem}")]
    test = getattr(kit(), name)
    wanted = inspect.signature(test).parameters
    values: dict[str, Any] = {"tmp_path": tmp_path, "kind": argument[:-1]}
    given = {key: values[key] for key in wanted if key in values}
    if "case" not in wanted and "code_file" not in wanted:
        test(**given)
        return
    needs = getattr(test, "needs", ())
    items: list[Case | CodeFile] = [*kit.cases] if "case" in wanted else [*kit.code_files]
    fitting = [i for i in items if all(not getattr(i, "raises", "") if n == "sound" else getattr(i, n) for n in needs)]
    assert fitting
    for number, item in enumerate(fitting):
        (tmp_path / str(number)).mkdir()
        place = {"tmp_path": tmp_path / str(number)} if "tmp_path" in given else {}
        test(**{**given, **place, "case" if "case" in wanted else "code_file": item})


# -- gradients and training ------------------------------------------------------------------------------------------


def learning(toy: Toy, **changes: Any) -> Any:
    """The example with gradients and a training mode in which the head's bias moves, and perhaps a fault."""

    class Model(toy.adapter.ToyModel):  # type: ignore[misc, name-defined]
        factor = 1.0
        of_weights = 1.0
        restores = True
        passes = True
        silent: tuple[str, ...] = ()

        def capture(self, inputs: Any, sink: Any) -> None:
            values = {name: value.copy() for name, value in self._run(inputs)}
            head = self.net.layers["head"]
            if self.run.mode == "train" and not self.restores:
                head.bias += 1
            for name, value in values.items():
                if sink.wants(name):
                    sink(name, value + np.float32(self.run.loss is not None and not self.passes))
            if self.run.loss is not None:
                self.capture_gradients(values, sink)

        def capture_gradients(self, values: Mapping[str, Any], sink: Any) -> None:
            names = list(values)
            out = values[names[-1]]
            gradient = {"sum": np.ones_like(out), "mean": np.ones_like(out) / out.size, "square": out}[self.run.loss]
            for before, name in zip([None, *names[:-1]][::-1], names[::-1], strict=True):
                if name not in self.silent:
                    sink.gradient(name, gradient * np.float32(self.factor if name == "x" else 1))
                layer = self.net.layers.get(name)
                if isinstance(layer, toy.net.Dense):
                    sink.weight_gradient(name, "weight", self.of_weights * values[before].T @ gradient)
                    sink.weight_gradient(name, "bias", gradient.sum(0))
                    gradient = gradient @ layer.weight.T
                elif isinstance(layer, toy.net.ReLU):
                    gradient = gradient * (values[before] > 0)

    given = of_case(toy, gradients=lambda net, inputs: {("head", "bias"): np.full(2, 3.0), "head": np.ones((3, 2))})
    return with_model(toy, cases=given, base=Model, **changes)


def wrong_loss(self: Any, values: Mapping[str, Any], sink: Any) -> None:
    for name, value in values.items():
        sink.gradient(name, np.zeros_like(value))


LEARNING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a node without": ("gradients_are_complete", "relu has none", {"silent": ("relu",)}),
    "misshapen": ("gradients_are_complete", "its gradient", {"of_weights": np.ones((3, 1, 1), "f4")}),
    "other values": ("gradients_are_complete", "without gradients", {"passes": False}),
    "wrong slope": ("the_inputs_gradient_is_the_slope", "gradient of 'sum'", {"factor": 1.1}),
    "another loss": ("the_outputs_gradient_is_that_of_the_loss", "at an output", {"capture_gradients": wrong_loss}),
    "other gradients": ("gradients_are_those_of_the_framework", "framework computes",
        {"capture_gradients": wrong_loss}),
    "gradients leave a mark": ("gradients_leave_the_model", "bias changed", {"restores": False}),
    "training leaves a mark": ("training_mode_leaves_the_model", "bias changed", {"restores": False}),
}  # fmt: skip


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in LEARNING.values()))
def test_a_good_adapter_with_gradients_keeps_the_rules(rule: str, toy: Toy, tmp_path: Path) -> None:
    check(learning(toy), rule, tmp_path)


@pytest.mark.parametrize("breach", LEARNING)
def test_each_rule_of_learning_catches_its_breach(breach: str, toy: Toy, tmp_path: Path) -> None:
    rule, says, changes = LEARNING[breach]
    if "gradients_leave" in rule:  # as a run with gradients, not one in training mode, leaves it

        def capture(self: Any, inputs: Any, sink: Any) -> None:
            captures(list)(self, inputs, sink)
            self.net.layers["head"].bias += 1

        changes = {"capture": capture}
    with pytest.raises(pytest.fail.Exception, match=says):
        check(learning(toy, **changes), rule, tmp_path)


# -- what the kit says of itself -------------------------------------------------------------------------------------


def test_a_case_needs_a_model() -> None:
    with pytest.raises(ValueError, match="needs a model, a file or both"):
        Case("x", inputs={})
    with pytest.raises(ValueError, match="need a live model"):
        Case("x", inputs={}, file=lambda folder: None, state=id)  # type: ignore[arg-type, return-value]
