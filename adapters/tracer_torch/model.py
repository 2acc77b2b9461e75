"""A loaded PyTorch model: structure, capture, parameters."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn

from tracer.adapter import Array, Exchange, InputSpec, LoadedModel, NotRecorded, Run, Sink, Watcher
from tracer.collecting import rarely_collected
from tracer.errors import InputError, LossError, MisfitError, ModelError, ReplayError, TracerError
from tracer.graph import Param, Structure
from tracer.names import display
from tracer.text import described, one_line, some
from tracer_torch import failing, filling, gradients, layers, replaying, running
from tracer_torch.ahead import Ahead
from tracer_torch.engine import Recorder
from tracer_torch.events import Event, Key, finished
from tracer_torch.gradients import Gradients
from tracer_torch.signature import optional, signature, time_major
from tracer_torch.tapping import Tap
from tracer_torch.tensors import taken, to_array

Fingerprint = tuple[tuple[str, tuple[int, ...], str], ...]
_Known = tuple[Structure, dict[Key, str], str]
_MOST_KNOWN = 16
"""Structures that are kept: one for each shape of input that is asked for in turn."""
_NOT_RUN = "it did not run in this pass"


class TorchModel(LoadedModel):
    """An nn.Module and what is known about how it was loaded."""

    framework: ClassVar[str] = "pytorch"

    def __init__(self, module: nn.Module, loader: str, notes: tuple[str, ...] = ()) -> None:
        self.given = module
        self.module, said = _unwrapped(module)
        self.loader = loader
        late = time_major(self.module)
        if late is not None:
            said += (f"'{display(late, 80)}' has batch_first=False: it takes time as the first axis, batch as second",)
        self.notes = notes + said
        self._known: dict[tuple[Run, Fingerprint], _Known] = {}
        self._misfit: tuple[tuple[Run, Fingerprint], _Known] | None = None
        self._plain: set[tuple[Run, Fingerprint]] = set()
        self._ahead: tuple[dict[Key, str], Ahead] | None = None
        waiting = any(layers.is_uninitialized(tensor) for tensor in _tensors(self.module))
        self._lazy = self.module if waiting else None
        self._copied = waiting

    def versions(self) -> dict[str, str]:
        found = {"torch": str(torch.__version__), "numpy": np.__version__}
        home = type(self.module).__module__.partition(".")[0]
        for package in (home,) if home not in ("torch", "__main__") else ():
            try:
                found[package] = importlib.metadata.version(package)
            except (importlib.metadata.PackageNotFoundError, ValueError):
                continue
        return found

    def live(self) -> object:
        return self.module

    def signature(self) -> tuple[InputSpec, ...]:
        return signature(self.module)

    def optional(self) -> tuple[InputSpec, ...]:
        return optional(self.module)

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        structure, _, fault = self._structure(inputs)
        return replace(structure, fault=fault)

    def _structure(self, inputs: Mapping[str, Array]) -> _Known:
        """The structure, the names of its events, and what the model raised by a fault of its own ("" if nothing)."""
        mark = self.run, _fingerprint(inputs)
        if mark in self._known:
            return self._known[mark]
        self._initialise(inputs)
        try:
            known, refusal = self._run_once(inputs), None
        except LossError:
            raise
        except InputError as error:
            known, refusal = None, error
        if self.run.loss is not None and (known is None or known[2]):
            # Some forwards do what autograd forbids with an input that requires gradients.
            with contextlib.suppress(InputError):
                again = self._run_once(inputs, plain=True)
                if not again[2]:
                    known = again
                    self._plain.add(mark)
        if known is None:
            assert refusal is not None
            raise refusal
        while len(self._known) >= _MOST_KNOWN:
            self._plain.discard(oldest := next(iter(self._known)))
            del self._known[oldest]
        self._known[mark] = known
        return known

    @rarely_collected()
    def _run_once(self, inputs: Mapping[str, Array], *, plain: bool = False) -> _Known:
        ahead = Ahead(inputs, self.ahead) if self.ahead and self.run.loss is None else None
        recorder = Recorder(self.module, describe=True, emit=ahead)
        fault = ""
        try:
            with running.run(self.module, inputs, recorder, self.run, plain=plain) as result:
                if self.run.loss is not None:
                    gradients.loss(self.run.loss, result)  # a wrong one is said before anything is recorded
                del result
        except TracerError:
            raise
        except Exception as error:
            fault = failing.blame(recorder, error)
            if failing.by_input(recorder, error):
                given = ", ".join(f"{display(n)} {tuple(a.shape)} {a.dtype}" for n, a in inputs.items())
                message = f"the model does not take {given}: {fault}"
                if not failing.begun(recorder):
                    raise InputError(message) from error
                known = _conclude(recorder, self.run, fault, self._copied)
                self._misfit = (self.run, _fingerprint(inputs)), (*known, fault)
                raise MisfitError(message, replace(known[0], fault=fault)) from error
        finally:
            recorder.failed = None  # its traceback holds the recorder, and every tensor of the pass
        structure, names = _conclude(recorder, self.run, fault, self._copied)
        if plain:
            note = "no gradients of the inputs: the model does not run with inputs that require them"
            structure = replace(structure, notes=(*structure.notes, note))
        self._ahead = None if fault or ahead is None else (names, ahead)
        return structure, names, fault

    @rarely_collected()
    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        mark = self.run, _fingerprint(inputs)
        misfit = self._misfit[1] if self._misfit is not None and self._misfit[0] == mark else None
        structure, names, fault = self._known.get(mark) or misfit or self._structure(inputs)
        due = {node.name for node in structure.stored() if sink.wants(node.name)}
        known, self._ahead = self._ahead, None
        if known is not None and known[0] is names and known[1].of(inputs):
            for key, kept in known[1].found:
                if (name := names[key]) in due:
                    due.remove(name)
                    sink(name, kept, owned=True)
            _say_absent(structure, due, sink)
            return
        places = Gradients() if self.run.loss is not None else None

        def emit(event: Event, tensor: torch.Tensor) -> None:
            name = names.get(event.key)
            # A model that depends on more than its inputs may run otherwise than before: only what was announced.
            if name not in due:
                return
            due.remove(name)
            value, owned = taken(tensor)
            try:
                sink(name, value, owned=owned)
            except Exception as error:
                failures.append(error)
            if places is not None:
                try:
                    places.note(name, tensor)
                except Exception as error:
                    places.absent(name, described(error, 120))

        failures: list[Exception] = []
        recorder = Recorder(self.module, describe=False, emit=emit)
        with contextlib.ExitStack() as stack:
            try:
                plain = (self.run, _fingerprint(inputs)) in self._plain
                once = running.run(self.module, inputs, recorder, self.run, places, plain=plain)
                result = stack.enter_context(once)
            except TracerError:
                raise
            except Exception as error:
                raise ModelError(f"the model raised {failing.blame(recorder, error)}") from error
            finally:
                recorder.failed = None
            if failures:
                # A sink is not to raise; if it does all the same the model still runs to its end.
                raise failures[0]
            if fault:
                raise ModelError(
                    f"the model raised {fault} when it was first run, but not again: only what ran before it"
                )
            _say_absent(structure, due, sink, places)
            if places is not None and self.run.loss is not None:
                places.hand_over(gradients.loss(self.run.loss, result), self.module, recorder.owned, sink)
            del result

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        self._again(inputs, exchange, {}, double=double)

    def replay_rest(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool = False
    ) -> None:
        self._again(inputs, exchange, known, double=double)

    def _again(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool
    ) -> None:
        structure, names, fault = self._known.get((self.run, _fingerprint(inputs))) or self._structure(inputs)
        if fault:
            raise ReplayError(f"the model raised {fault}")
        replaying.replay(
            self.module, inputs, names, exchange, self.run, double=double, known=known, structure=structure
        )

    def _initialise(self, inputs: Mapping[str, Array]) -> None:
        """Give lazy modules their weights, in a copy of the model: its own stay without. Raises InputError."""
        if self._lazy is None:
            return
        try:
            # Tensors without values cannot be copied, but replaced by others of their kind.
            fresh: dict[int, Any] = {
                id(tensor): cast(Any, type(tensor))(tensor.requires_grad, tensor.device, tensor.dtype)
                for tensor in _tensors(self._lazy)
                if layers.is_uninitialized(tensor)
            }
            self.module = copy.deepcopy(self._lazy, fresh)
        except Exception as error:
            raise InputError(
                f"run the model once, its lazy modules have no weights yet ({described(error)})"
            ) from error
        with contextlib.suppress(Exception):  # what it raises it raises again when it is recorded
            running.initialise(self.module, inputs)
            self._lazy = None

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        wrappers = (m for m in self.given.modules() if layers.is_compiled(m) and _unwrapped(m)[0] is self.module)
        called = next(wrappers, self.module)
        return Tap(self.module, called, watcher, lambda recorder, how: _conclude(recorder, how, "", False)).close

    def rank(self) -> int | None:
        apart = torch.distributed
        return apart.get_rank() if apart.is_available() and apart.is_initialized() else None

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        with torch.no_grad():
            for owner, name, tensor in layers.owned(self.module):
                if layers.is_uninitialized(tensor):
                    continue
                value, _ = to_array(tensor)
                if not isinstance(value, NotRecorded):
                    yield owner, layers.param(name, tensor), value

    def assign(self, values: Mapping[tuple[str, str], Array]) -> None:
        filling.assign(self.module, values)
        self._known.clear()
        self._ahead = None
        if self._copied and self._lazy is None:
            self.given.load_state_dict(self.module.state_dict())  # which gives lazy modules their weights

    def save_weights(self, path: Path) -> None:
        filling.save(self.given, path)


def _unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network inside torch.compile's and data-parallel wrappers, with a sentence for each."""
    notes: list[str] = []
    while True:
        inner = module._modules.get("_orig_mod")
        if inner is not None and layers.is_compiled(module):
            notes.append("compiled by torch.compile: its Python was recorded, not the compiled code")
            module = inner
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            notes.append(f"{type(module).__name__} was taken off: the network inside was recorded")
            module = module.module
        else:
            return module, tuple(notes)


def _say_absent(structure: Structure, due: Container[str], sink: Sink, places: Gradients | None = None) -> None:
    """Say of what is still due that it did not run."""
    for node in structure.stored():
        if node.name in due:
            sink(node.name, NotRecorded(_NOT_RUN), owned=True)
            if places is not None:
                places.absent(node.name, _NOT_RUN)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers, those that are tied more than once."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                yield tensor


def _fingerprint(inputs: Mapping[str, Array]) -> Fingerprint:
    return tuple((name, tuple(array.shape), str(array.dtype)) for name, array in inputs.items())


def _conclude(recorder: Recorder, how: Run, fault: str, lazy: bool) -> tuple[Structure, dict[Key, str]]:
    notes = [f"not everything was recorded ({one_line(fault, 120)})" for fault in dict.fromkeys(recorder.faults)]
    if recorder.unseen:
        where = [path or "the top level" for path in dict.fromkeys(recorder.unseen)]
        notes.append(
            f"tensors of unknown origin (TorchScript, numpy, vmap, plain attributes) are read in {some(where)}: "
            "they are recorded as 'unseen', what made them is not"
        )
    if recorder.blind:
        notes.append("what made an output is not visible (TorchScript, numpy, vmap, autograd.grad)")
    uncalled = [
        path
        for module, path in recorder.paths.items()
        if path
        and path not in recorder.calls
        and ".parametrizations." not in path
        and layers.is_leaf(module)
        and any(True for _ in module.parameters())
    ]
    leaves = [path for module, path in recorder.paths.items() if path and layers.is_leaf(module)] if uncalled else []
    unused = [path for path in uncalled if not any(path.startswith(f"{leaf}.") for leaf in leaves)]
    if fault:
        notes.append(f"the model raised {fault}: only what ran before is here")
    elif unused:
        notes.append(f"never called as modules: {some(unused)}")
    if recorder.empty:
        notes.append(f"returned no tensor: {some([f'{path} ({kind})' for path, kind in recorder.empty.items()])}")
    if recorder.others and not fault:
        what = "besides tensors the model returns" if recorder.outputs else "the model returns no tensor but"
        notes.append(f"{what} {some(recorder.others, 5)}")
    kinds = set(map(type, recorder.paths))
    scripted = [p for m, p in recorder.paths.items() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        notes.append(f"TorchScript inside, not visible: {some(scripted)}")
    compiled = [layers.clean(name) for name, m in recorder.root.named_modules() if layers.is_compiled(m)]
    if compiled:
        notes.append(f"compiled by torch.compile, recorded through their Python: {some(compiled)}")
    fused = (nn.TransformerEncoderLayer, nn.MultiheadAttention)
    fast = [c.__name__ for c in fused if how == Run() and any(issubclass(kind, c) for kind in kinds)]
    if fast:
        notes.append(
            f"nn.{fast[0]} runs its ordinary code while recorded, not its fused fast path: it rounds otherwise"
        )
    if recorder.drew and how.mode == "eval":
        notes.append("it draws random numbers in evaluation: the same ones in each of its recordings")
    if how.mode == "train" and recorder.frozen:
        notes.append(f"kept in evaluation mode, as found: {some(recorder.frozen)}")
    if lazy:
        notes.append("lazy modules drew their weights in a copy of the model: the model itself is still without")
    if recorder.lost:
        notes.append(f"changed by its forward in a way that could not be undone: {some(recorder.lost)}")
    return finished(recorder.events, recorder.calls, recorder.outputs, recorder.places, recorder.owned, notes)
