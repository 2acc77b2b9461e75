"""A loaded PyTorch model: structure, capture, parameters."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from tracer.adapter import Array, InputSpec, LoadedModel, NotRecorded, Sink
from tracer.errors import InputError, ModelError, TracerError
from tracer.graph import Param, Structure
from tracer.names import display
from tracer.text import described, one_line, some
from tracer_torch import failing, layers, running
from tracer_torch.engine import Recorder
from tracer_torch.events import Event, Key, finished
from tracer_torch.signature import signature, time_major
from tracer_torch.tensors import to_array

Fingerprint = tuple[tuple[str, tuple[int, ...], str], ...]


class TorchModel(LoadedModel):
    """An nn.Module and what is known about how it was loaded."""

    framework: ClassVar[str] = "pytorch"

    def __init__(self, module: nn.Module, loader: str, notes: tuple[str, ...] = ()) -> None:
        self.module, said = _unwrapped(module)
        self.loader = loader
        late = time_major(self.module)
        if late is not None:
            said += (f"'{display(late, 80)}' has batch_first=False: it takes time as the first axis, batch as second",)
        self.notes = notes + said
        self._known: dict[Fingerprint, tuple[Structure, dict[Key, str], str]] = {}

    def versions(self) -> dict[str, str]:
        found = {"torch": str(torch.__version__), "numpy": np.__version__}
        home = type(self.module).__module__.partition(".")[0]
        for package in (home,) if home not in ("torch", "__main__") else ():
            try:
                found[package] = importlib.metadata.version(package)
            except (importlib.metadata.PackageNotFoundError, ValueError):
                continue
        return found

    def signature(self) -> tuple[InputSpec, ...]:
        return signature(self.module)

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        structure, _, fault = self._structure(inputs)
        return replace(structure, fault=fault)

    def _structure(self, inputs: Mapping[str, Array]) -> tuple[Structure, dict[Key, str], str]:
        """The structure, the names of its events, and what the model raised by a fault of its own ("" if nothing)."""
        mark = _fingerprint(inputs)
        if mark not in self._known:
            recorder = Recorder(self.module, describe=True)
            fault = ""
            try:
                running.run(self.module, inputs, recorder)
            except TracerError:
                raise
            except Exception as error:
                fault = failing.blame(recorder, error)
                if failing.by_input(recorder, error):
                    given = ", ".join(f"{display(n)} {tuple(a.shape)} {a.dtype}" for n, a in inputs.items())
                    raise InputError(f"the model does not take {given}: {fault}") from error
            self._known = {mark: (*_conclude(recorder, fault), fault)}
        return self._known[mark]

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        structure, names, fault = self._structure(inputs)
        due = {node.name for node in structure.stored()}

        def emit(event: Event, tensor: torch.Tensor) -> None:
            name = names.get(event.key)
            # A model that depends on more than its inputs may run otherwise than before: only what was announced.
            if name not in due:
                return
            due.remove(name)
            try:
                value, owned = to_array(tensor)
            except Exception as error:
                value, owned = NotRecorded(described(error, 120)), True
            try:
                sink(name, value, owned=owned)
            except Exception as error:
                failures.append(error)

        failures: list[Exception] = []
        recorder = Recorder(self.module, describe=False, emit=emit)
        try:
            running.run(self.module, inputs, recorder)
        except TracerError:
            raise
        except Exception as error:
            raise ModelError(f"the model raised {failing.blame(recorder, error)}") from error
        if failures:
            # A sink is not to raise; if it does all the same the model still runs to its end.
            raise failures[0]
        if fault:
            raise ModelError(f"the model raised {fault} when it was first run, but not again: only what ran before it")
        for node in structure.stored():
            if node.name in due:
                sink(node.name, NotRecorded("it did not run in this pass"), owned=True)

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        with torch.no_grad():
            for owner, name, tensor in layers.owned(self.module):
                if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
                    continue
                value, _ = to_array(tensor)
                if not isinstance(value, NotRecorded):
                    yield owner, layers.param(name, tensor), value


def _unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network inside torch.compile's and data-parallel wrappers, with a sentence for each."""
    notes: list[str] = []
    while True:
        inner = module._modules.get("_orig_mod")
        if inner is not None and type(module).__name__ == "OptimizedModule":
            notes.append("compiled by torch.compile: its Python was recorded, not the compiled code")
            module = inner
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            notes.append(f"{type(module).__name__} was taken off: the network inside was recorded")
            module = module.module
        else:
            return module, tuple(notes)


def _fingerprint(inputs: Mapping[str, Array]) -> Fingerprint:
    return tuple((name, tuple(array.shape), str(array.dtype)) for name, array in inputs.items())


def _conclude(recorder: Recorder, fault: str) -> tuple[Structure, dict[Key, str]]:
    notes = [f"not everything was recorded ({one_line(fault, 120)})" for fault in dict.fromkeys(recorder.faults)]
    if recorder.unseen:
        where = [path or "the top level" for path in dict.fromkeys(recorder.unseen)]
        notes.append(
            f"tensors of unknown origin (TorchScript, numpy, vmap, plain attributes) are read in {some(where)}: "
            "some parents are missing there"
        )
    unused = [
        path
        for module, path in recorder.paths.items()
        if path and path not in recorder.calls and layers.is_leaf(module) and any(True for _ in module.parameters())
    ]
    leaves = [path for module, path in recorder.paths.items() if path and layers.is_leaf(module)]
    unused = [path for path in unused if not any(path.startswith(f"{leaf}.") for leaf in leaves)]
    if fault:
        notes.append(f"the model raised {fault}: only what ran before is here")
    elif unused:
        notes.append(f"never called as modules: {some(unused)}")
    scripted = [p for m, p in recorder.paths.items() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        notes.append(f"TorchScript inside, not visible: {some(scripted)}")
    if any(isinstance(module, nn.TransformerEncoderLayer) for module in recorder.paths):
        notes.append("nn.TransformerEncoderLayer runs its ordinary code while recorded, not its fused fast path")
    return finished(recorder.events, recorder.calls, recorder.outputs, recorder.owned, notes)
