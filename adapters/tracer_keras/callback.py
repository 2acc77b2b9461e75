"""``tracer.KerasCallback``: recording the steps of ``fit``."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import tracer

if TYPE_CHECKING:
    from tracer.live.attach import Attached


def _bases() -> tuple[Any, ...]:
    """The callbacks of the Keras that the program uses; of both where both are there, for TensorFlow imports Keras 3
    beside a program's tf_keras."""
    used = [name for name in ("keras", "tf_keras") if name in sys.modules] or ["keras"]
    return tuple(importlib.import_module(f"{name}.callbacks").Callback for name in used)


class KerasCallback(*_bases()):  # type: ignore[misc]
    """``model.fit(…, callbacks=[tracer.KerasCallback(every=100)])``: what :func:`tracer.attach` does, while it trains.

    Takes what :func:`tracer.attach` takes but for the model; ``mode`` is ``train`` unless it is given. A step that is
    recorded runs eagerly: slower than a compiled one, and equal to it up to rounding.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = {"mode": "train", **options}
        self.attached: Attached | None = None
        self._fits = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Raises what :func:`tracer.attach` raises. Every ``fit`` is a recording: ``NAME-2`` is that of the second."""
        self.on_train_end()  # of a fit that was interrupted nothing told
        options = dict(self._options)
        if options.get("name") and self._fits:
            options["name"] = f"{options['name']}-{self._fits + 1}"
        self.attached = tracer.attach(self.model, **options)
        self._fits += 1

    def on_train_end(self, logs: Any = None) -> None:
        if self.attached is not None:
            self.attached.detach()
