"""``tracer.LightningCallback``: recording the training steps of a PyTorch Lightning ``Trainer``."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import TYPE_CHECKING, Any

import tracer

if TYPE_CHECKING:
    from tracer.live.attach import Attached

_HOME = "lightning.pytorch" if importlib.util.find_spec("lightning") else "pytorch_lightning"


class LightningCallback(import_module(_HOME).Callback):  # type: ignore[misc]
    """``Trainer(callbacks=[tracer.LightningCallback(every=100)])``: what :func:`tracer.attach` does, while it trains.

    Takes what :func:`tracer.attach` takes but for the model; ``mode`` is ``train`` unless it is given. ``module`` names
    the part of the LightningModule that is watched (``model``), for one whose own ``forward`` is not what trains.
    """

    def __init__(self, module: str = "", **options: Any) -> None:
        super().__init__()
        self._module = module
        self._options = {"mode": "train", **options}
        self.attached: Attached | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises what :func:`tracer.attach` raises, AttributeError where there is no such part."""
        self.attached = tracer.attach(pl_module.get_submodule(self._module), **self._options)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.attached is not None:
            self.attached.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.attached is not None:
            self.attached.__exit__(type(exception), exception, None)
