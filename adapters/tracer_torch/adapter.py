"""PyTorch's way in. Importing this module does not import torch."""

from __future__ import annotations

import sys
from typing import ClassVar

from tracer.adapter import Adapter, LoadedModel, LoadRequest
from tracer.errors import InputError
from tracer.names import display
from tracer_torch import preflight


class TorchAdapter(Adapter):
    """nn.Modules, live or from files."""

    framework: ClassVar[str] = "pytorch"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"
    formats: ClassVar[str] = (
        "a .pt/.pth file with a pickled module, a state dict or a checkpoint, or .safetensors "
        "(the latter three with --arch pkg.mod:callable)"
    )

    @classmethod
    def owns(cls, model: object) -> bool:
        # Whoever holds a module has imported torch.
        torch = sys.modules.get("torch")
        module = getattr(getattr(torch, "nn", None), "Module", None)
        return isinstance(module, type) and isinstance(model, module)

    def preflight(self, request: LoadRequest) -> None:
        if request.path is None and request.arch is None:
            raise InputError(f"no model: give {self.formats}, or --arch alone")
        for path in (request.path, request.weights):
            if path is not None:
                form = preflight.check_file(path)
                if form == "safetensors" and request.arch is None and path == request.path:
                    raise InputError(
                        f"{display(str(path))} holds tensors only: give --arch pkg.mod:callable or "
                        "path/file.py:callable that builds the network"
                    )

    def load(self, request: LoadRequest) -> LoadedModel:
        self.preflight(request)
        from tracer_torch.loading import load
        from tracer_torch.model import TorchModel

        return TorchModel(*load(request))

    def wrap(self, model: object) -> LoadedModel:
        import torch

        from tracer_torch.model import TorchModel

        if not isinstance(model, torch.nn.Module):
            raise InputError(f"{type(model).__name__} is not an nn.Module")
        if isinstance(model, torch.jit.ScriptModule):
            raise InputError("TorchScript takes no hooks: give the nn.Module it was made from")
        return TorchModel(model, f"torch {torch.__version__} live")
