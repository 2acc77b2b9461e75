"""Makes a fused activation visible: its input and output during one call of its layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tracer import kinds
from tracer_keras.describe import activation_name_kind

Probed = tuple[Any, Any, Any]
"""Input, output and the activation itself."""

_UNSPLIT = kinds.RECURRENT | {"attention"}


def probe_activation(
    layer: Any, kind: str, watch: Callable[[Any], Any] | None = None
) -> tuple[Callable[[], None], list[Probed]]:
    """Replace ``layer.activation`` by one that keeps what passes through it, and lets ``watch`` see what goes in.

    What ``watch`` returns goes in instead, unless it is None.

    Returns what puts the original back, and the list that fills. Layers that apply their activation per step, or
    are nothing but an activation, are left alone.
    """
    seen: list[Probed] = []
    if type(layer).__name__ == "SpectralNormalization":  # what its layer gives is what it gives
        layer = layer.layer
    attributes = getattr(layer, "__dict__", {})
    # On torch a layer is a module, which keeps other layers in a drawer of their own.
    activation = attributes.get("activation") or attributes.get("_modules", {}).get("activation")
    if (
        not callable(activation)
        or type(layer).__name__ == "Activation"
        or kind in _UNSPLIT
        or hasattr(layer, "cell")
        or hasattr(layer, "recurrent_activation")
        or activation_name_kind(activation) == "identity"
    ):
        return (lambda: None), seen

    def probe(*args: Any, **kwargs: Any) -> Any:
        if args and watch is not None:
            instead = watch(args[0])
            args = args if instead is None else (instead, *args[1:])
        output = activation(*args, **kwargs)
        if args:
            seen.append((args[0], output, activation))
        return output

    functools.update_wrapper(probe, activation, updated=())
    # AutoGraph would otherwise translate the probe instead of calling it.
    probe.autograph_info__ = {}  # type: ignore[attr-defined]
    # Past __setattr__: Keras would track the replacement, and locks layers once they are built.
    own = "activation" in attributes
    attributes["activation"] = probe
    if not own:
        return functools.partial(attributes.__delitem__, "activation"), seen
    return functools.partial(attributes.__setitem__, "activation", activation), seen
