"""TorchScript modules inside an ordinary nn.Module: seen from inside, in a copy of the modules around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tracer.adapter import Array
from tracer.graph import Structure
from tracer.text import some
from tracer_torch import layers, programs, shadows
from tracer_torch.events import Key
from tracer_torch.jitvalues import Unsupported
from tracer_torch.model import TorchModel
from tracer_torch.scripted import Script
from tracer_torch.tensors import walk


class OpenedModel(TorchModel):
    """A module with TorchScript modules in it, which are run step by step where that can be done."""

    def __init__(self, module: nn.Module, loader: str, notes: tuple[str, ...]) -> None:
        inside = [path for path, part in _outermost(module)]
        said = f"TorchScript inside: operations were run one by one in {some([layers.clean(path) for path in inside])}"
        super().__init__(_opened(module, {}), loader, (*notes, said))
        self.given = module
        self._fallback: nn.Module | None = TorchModel(module, loader).module
        self._without = tuple(note for note in self.notes if note != said)

    def _structure(self, inputs: Mapping[str, Array]) -> tuple[Structure, dict[Key, str], str]:
        if self._fallback is None:
            return super()._structure(inputs)
        failure: Exception | None = None
        try:
            found = super()._structure(inputs)
            if not found[2]:
                return found
        except Exception as error:
            failure = error
        # The module's code may want something of its TorchScript parts that the stand-ins for them have not.
        opened, self.module = self.module, self._fallback
        self._known.clear()
        plain = super()._structure(inputs)  # raises what the module itself raises
        if plain[2] and failure is None:
            self.module = opened
            self._known.clear()
            return super()._structure(inputs)
        self._fallback, self.notes = None, self._without
        return plain


def holds_script(module: nn.Module) -> bool:
    """Whether there is a TorchScript module below ``module``."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


def _outermost(module: nn.Module, path: str = "") -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, part in module._modules.items():
        below = f"{path}.{name}" if path else name
        if isinstance(part, torch.jit.ScriptModule):
            found.append((below, part))
        elif part is not None:
            found += _outermost(part, below)
    return found


def _opened(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """``module``, or a copy of it in which stand-ins take the place of TorchScript modules."""
    if id(module) not in made:
        if isinstance(module, torch.jit.ScriptModule):
            try:
                made[id(module)] = _stand_in(module)
            except Unsupported:
                made[id(module)] = module
        elif holds_script(module):
            copied = object.__new__(type(module))
            copied.__dict__.update(module.__dict__)
            made[id(module)] = copied
            parts = {name: None if p is None else _opened(p, made) for name, p in module._modules.items()}
            copied.__dict__["_modules"] = parts
        else:
            made[id(module)] = module
    return made[id(module)]


def _stand_in(script: torch.jit.ScriptModule) -> nn.Module:
    """Runs a script step by step, and by itself from the first time on that this gives something else."""
    root = Script(script).root
    steps = root.forward
    trusted: list[bool] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if trusted == [False]:
            return script(*args, **kwargs)
        wanted: Any = None
        if not trusted:
            with torch._C.DisableTorchFunction(), torch.random.fork_rng(devices=[]), torch.no_grad():
                wanted = programs.copied(script, "train" if root.training else "eval")(*args, **kwargs)
        try:
            result = steps(*args, **kwargs)
        except Unsupported:
            trusted[:] = [False]
            return script(*args, **kwargs)
        if not trusted:
            mine, its = ([tensor for _, tensor in walk(value)] for value in (result, wanted))
            with torch._C.DisableTorchFunction(), torch.no_grad():
                trusted.append(len(mine) == len(its) and all(map(programs.same, mine, its)))
        return result if trusted[0] else wanted

    shadows.run_by(root, forward)
    return root
