"""PyTorch's way in. Importing this module does not import torch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from tracer.adapter import Adapter, LoadedModel, LoadRequest, Mode
from tracer.errors import InputError, NoModelError
from tracer.graph import Param
from tracer.names import display
from tracer_torch import preflight


class TorchAdapter(Adapter):
    """nn.Modules and programs made of them (TorchScript, torch.export), live or from files."""

    framework: ClassVar[str] = "pytorch"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    formats: ClassVar[str] = (
        "a .pt/.pth file with a pickled module, a state dict or a checkpoint, or .safetensors "
        "(the latter three with --arch pkg.mod:callable), or with --trust TorchScript or a torch.export .pt2"
    )

    # Packages that know both frameworks (transformers) import Keras where it is installed, which reads its settings.
    settings_files: ClassVar[tuple[str, ...]] = ("~/.keras/keras.json", "~/.keras/keras.config")
    modes: ClassVar[tuple[Mode, ...]] = ("eval", "train")
    gradients: ClassVar[bool] = True
    weight_files: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".safetensors")

    @classmethod
    def claims(cls, path: Path) -> bool:
        return preflight.claims(path)

    def runs_code(self, request: LoadRequest) -> tuple[str, ...]:
        from tracer_torch.codefinds import runs_code

        return runs_code(request)

    def tensors(self, request: LoadRequest) -> tuple[Param, ...]:
        from tracer_torch.loading import tensors

        return tensors(request)

    @classmethod
    def owns(cls, model: object) -> bool:
        # Whoever holds a module has imported torch.
        torch = sys.modules.get("torch")
        module = getattr(getattr(torch, "nn", None), "Module", None)
        return (isinstance(module, type) and isinstance(model, module)) or _exported(model)

    def preflight(self, request: LoadRequest) -> None:
        if request.path is None and request.arch is None:
            raise InputError(f"no model: give {self.formats}, or --arch alone")
        for path in (request.path, request.weights):
            if path is not None:
                form = preflight.check_file(path, trust=request.trust)
                if form == "safetensors" and request.arch is None and path == request.path:
                    raise NoModelError(
                        f"{display(str(path))} holds tensors only: give --arch pkg.mod:callable or "
                        "path/file.py:callable that builds the network"
                    )

    def load(self, request: LoadRequest) -> LoadedModel:
        if request.inputs or request.outputs:
            raise InputError("--inputs and --outputs are for bare graphs: a PyTorch model is run whole")
        self.preflight(request)
        from tracer_torch.loading import load

        return _recordable(*load(request))

    def constant(self, request: LoadRequest) -> str:
        if request.arch is not None or request.path is None:
            return ""
        return preflight.program(preflight.check_file(request.path, trust=True))

    def filled(self, request: LoadRequest, path: Path) -> LoadRequest:
        # What --arch builds needs no file of weights besides.
        return replace(request, path=request.path if request.arch is None else None, weights=path)

    def wrap(self, model: object) -> LoadedModel:
        import torch

        if not isinstance(model, torch.nn.Module) and not _exported(model):
            raise InputError(f"{type(model).__name__} is not an nn.Module")
        return _recordable(model, f"torch {torch.__version__} live", ())


def _exported(model: object) -> bool:
    cls = type(model)
    return cls.__name__ == "ExportedProgram" and cls.__module__ == "torch.export.exported_program"


def _recordable(model: object, loader: str, notes: tuple[str, ...]) -> LoadedModel:
    import torch

    from tracer_torch import embedded, programs
    from tracer_torch.model import TorchModel

    if isinstance(model, torch.jit.ScriptModule):
        return programs.of_script(model, loader, notes)
    if isinstance(model, torch.fx.GraphModule) and "eval" in vars(model):  # torch forbids its own method there
        raise InputError("this is what ExportedProgram.module() gives, without layers: give the ExportedProgram itself")
    if isinstance(model, torch.nn.Module) and embedded.holds_script(model):
        return embedded.OpenedModel(model, loader, notes)
    if isinstance(model, torch.nn.Module):
        return TorchModel(model, loader, notes)
    assert isinstance(model, torch.export.ExportedProgram)
    return programs.of_export(model, loader, notes)
