"""Recording of TorchScript modules and exported programs: run operation by operation, compared with torch's own run.

They are code of their own with their own runtime. What is recorded comes from running the same operations one at a
time; whether that gives what the program itself gives is checked each time, and where it does not only the program's
inputs and outputs are recorded.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree

from tracer.adapter import Array, Exchange, InputSpec, Mode
from tracer.errors import InputError, ModelError, ReplayError
from tracer.graph import Structure
from tracer.text import described
from tracer_torch import aten, exported, layers, scripted, shadows
from tracer_torch import signature as signatures
from tracer_torch.events import Key
from tracer_torch.jitvalues import Unsupported
from tracer_torch.model import TorchModel
from tracer_torch.running import forward_parameters
from tracer_torch.state import same_draws
from tracer_torch.tensors import from_array, walk

_CLOSE = 1e-4
"""Relative difference up to which the program's own run, which may fuse operations, counts as the same."""
_UNOPTIMISED: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]
_LARGEST_COPY = 2 << 30
"""Bytes of weights up to which a program is copied in order to be run by itself."""


class ProgramModel(TorchModel):
    """A program whose stand-in ``root`` runs it step by step.

    ``own`` runs it as a whole, on a copy; ``inputs`` are what its signature says; ``convert`` makes the program's
    arguments of named tensors; ``machine`` runs the steps. ``trainable`` tells whether the program runs otherwise in
    training mode.
    """

    def __init__(
        self,
        root: nn.Module,
        loader: str,
        notes: tuple[str, ...],
        *,
        own: Callable[[Sequence[Any], Mode], Any],
        inputs: tuple[InputSpec, ...],
        convert: Callable[[Mapping[str, torch.Tensor]], Sequence[Any]],
        machine: scripted.Script | exported.Export,
        trainable: Callable[[], bool] = bool,
    ) -> None:
        super().__init__(root, loader, notes)
        self._own, self._inputs, self._convert, self._machine = own, inputs, convert, machine
        self._trainable = trainable
        self._opaque = False
        self._compared: dict[Any, tuple[str, ...]] = {}
        self._kept: list[torch.Tensor] | None = None
        # Its operators take what it holds in double precision where they are asked to.
        object.__setattr__(root, "double", lambda: root)
        self._watch_output()

    def versions(self) -> dict[str, str]:
        found = super().versions()
        return {name: version for name, version in found.items() if name != "tracer_torch"}

    def live(self) -> object:
        raise ReplayError("a program of PyTorch cannot be changed in memory: change the code that it was made from")

    def assign(self, values: Mapping[tuple[str, str], Array]) -> None:
        raise ReplayError("a program of PyTorch keeps its weights: fill the nn.Module that it was made from")

    def signature(self) -> tuple[InputSpec, ...]:
        return self._inputs

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        if double and self._opaque:
            raise ReplayError("its operations are not run one by one, and all of it at once is not run in float64")
        with self._machine.again(double=double):
            try:
                super().replay(inputs, exchange, double=double)
            except (ModelError, ReplayError) as error:
                if not self._machine.unsupported:
                    raise
                why = f"with these activations it comes to {self._machine.unsupported}, which is not run by itself"
                raise ReplayError(why) from error

    def replay_rest(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool = False
    ) -> None:
        self.replay(inputs, exchange, double=double)

    def _watch_output(self) -> None:
        forward = self.module.forward

        def kept(*args: Any, **kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            if self._kept is not None:
                self._kept[:] = [tensor.detach().clone() for _, tensor in walk(result)]
            return result

        kept.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
        shadows.run_by(self.module, kept)

    def _structure(self, inputs: Mapping[str, Array]) -> tuple[Structure, dict[Key, str], str]:
        if self.run.mode == "train" and not self._trainable():
            raise InputError("the program keeps the mode that it was made in: record it without --mode train")
        if self._opaque:
            return super()._structure(inputs)
        mark = self.run, tuple((name, array.shape, str(array.dtype)) for name, array in inputs.items())
        if mark in self._compared:
            return super()._structure(inputs)
        self._kept = []
        failure: Exception | None = None
        try:
            found = super()._structure(inputs)
        except Exception as error:
            failure = error
        kept, self._kept = self._kept, None
        failed = described(failure, 200) if failure is not None else found[2]
        reason = self._machine.unsupported or self._difference(inputs, kept, failed)
        if reason is None:
            self._compared[mark] = ()
            if failure is not None:
                raise failure
            return found
        self._as_one(reason)
        return super()._structure(inputs)

    def _difference(self, inputs: Mapping[str, Array], found: Sequence[torch.Tensor], failed: str) -> str | None:
        """What the program gives when it runs by itself that the steps did not give; None if nothing."""
        tensors = {name: from_array(name, array, torch.device("cpu")) for name, array in inputs.items()}
        try:
            with same_draws(self.module), torch.inference_mode(False), torch.no_grad():
                wanted = [tensor for _, tensor in walk(self._own(self._convert(tensors), self.run.mode))]
        except Exception as error:
            return None if failed else f"by itself it raises {described(error, 120)}"
        if failed:
            return f"run by single operations it raises {failed}"
        if len(wanted) != len(found):
            return f"by itself it gives {len(wanted)} tensors, not {len(found)}"
        for mine, its in zip(found, wanted, strict=True):
            if mine.shape != its.shape or mine.dtype != its.dtype:
                return f"by itself it gives {tuple(its.shape)} {its.dtype}, not {tuple(mine.shape)} {mine.dtype}"
            if not same(mine, its):
                return "by itself it gives other values"
        return None

    def _as_one(self, reason: str) -> None:
        """From here on the program is one operation."""
        self._opaque = True
        self._known.clear()
        name = type(self.module).__name__
        own, convert, module, mode = self._own, self._convert, self.module, self.run.mode
        names = [parameter.name for parameter in forward_parameters(module)]
        signature = inspect.signature(module.forward)
        root = type(name, (nn.Module,), {"__module__": "tracer_torch.shadows"})()
        whole = aten.Function(
            name.lower(), "torch.jit", lambda *args: own(convert(dict(zip(names, args, strict=False))), mode)
        )

        def forward(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            given = [bound.arguments[name] for name in names if name in bound.arguments]
            return whole.run(given, given, None)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        shadows.run_by(root, forward)
        for path, key, tensor in layers.owned(module):
            root._buffers[f"{path}.{key}" if path else key] = tensor
        self.module = root
        self.notes += (f"its inside is not shown, only inputs and outputs: {reason}",)


def same(mine: torch.Tensor, its: torch.Tensor) -> bool:
    """Whether two results are the same bit for bit, or as close as fused operations come."""
    if mine.is_quantized or its.is_quantized:
        mine, its = (t.dequantize() if t.is_quantized else t for t in (mine, its))
    if torch.equal(mine, its):
        return True
    if not (mine.is_floating_point() or mine.is_complex()):
        return False
    scale = float(its[torch.isfinite(its)].abs().max()) if bool(torch.isfinite(its).any()) else 0.0
    return bool(torch.allclose(mine, its, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True))


def of_script(script: torch.jit.ScriptModule, loader: str, notes: tuple[str, ...] = ()) -> ProgramModel:
    """A TorchScript module, live or loaded."""
    made = scripted.Script(script)

    def own(args: Sequence[Any], mode: Mode) -> Any:
        # Fusing changes the last bits, and specialising on what was seen changes nothing else.
        with _UNOPTIMISED(False):
            return copied(script, mode)(*args)

    def convert(tensors: Mapping[str, torch.Tensor]) -> Sequence[Any]:
        given = {a.name: tensors.get(a.name, a.default_value) for a in made.arguments}
        return [scripted.as_declared(a.name, given[a.name], a.type) for a in made.arguments]

    return ProgramModel(
        made.root,
        loader,
        (*notes, "TorchScript: its operations were run one by one"),
        own=own,
        inputs=scripted.signature(made, signatures.first),
        convert=convert,
        machine=made,
        trainable=made.reads_mode,
    )


def copied(script: torch.jit.ScriptModule, mode: Mode) -> torch.jit.ScriptModule:
    """A copy in the wanted mode, so that what a run sets on it is not set on the user's."""
    size = sum(tensor.nbytes for tensor in (*script.parameters(), *script.buffers()))
    if size > _LARGEST_COPY:
        raise Unsupported(f"{size:,} bytes of weights are too many to run it twice")
    made = copy.deepcopy(script)
    if mode == "eval" or not any(getattr(part, "training", False) for part in made.modules()):
        made.train(mode == "train")
    return made


def of_export(program: ExportedProgram, loader: str, notes: tuple[str, ...] = ()) -> ProgramModel:
    """An exported program, live or loaded."""
    made = exported.Export(program)
    root = made.entry()

    def own(given: Sequence[Any], mode: Mode) -> Any:
        args, kwargs = given
        # Buffers that the program changes are changed in a copy.
        return copy.deepcopy(program).module(check_guards=False)(*args, **kwargs)

    def convert(tensors: Mapping[str, torch.Tensor]) -> Sequence[Any]:
        given = dict(zip(made.nodes, (tensors[name] for name in made.names), strict=True))
        flat = [made.given(node, given[node]) if node in given else made.fixed[node] for node in made.order]
        return _pytree.tree_unflatten(flat, program.call_spec.in_spec)  # type: ignore[no-any-return]

    return ProgramModel(
        root,
        loader,
        (*notes, "a program of torch.export: its operations were run one by one"),
        own=own,
        inputs=exported.inputs(made, signatures.first),
        convert=convert,
        machine=made,
    )
