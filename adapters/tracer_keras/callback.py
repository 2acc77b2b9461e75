"""``tracer.KerasCallback``: recording the steps of ``fit``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import tracer

if TYPE_CHECKING:
    from tracer.live.attach import Attached


def _base() -> Any:
    """The callbacks of the Keras that the program uses."""
    if "keras" not in sys.modules and "tf_keras" in sys.modules:
        import tf_keras

        return tf_keras.callbacks.Callback
    import keras

    return keras.callbacks.Callback


class KerasCallback(_base()):  # type: ignore[misc]
    """``model.fit(…, callbacks=[tracer.KerasCallback(every=100)])``: what :func:`tracer.attach` does, while it trains.

    Takes what :func:`tracer.attach` takes but for the model; ``mode`` is ``train`` unless it is given. A step that is
    recorded runs eagerly: slower than a compiled one, and equal to it up to rounding.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = {"mode": "train", **options}
        self.attached: Attached | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Raises what :func:`tracer.attach` raises."""
        self.attached = tracer.attach(self.model, **self._options)

    def on_train_end(self, logs: Any = None) -> None:
        if self.attached is not None:
            self.attached.detach()
