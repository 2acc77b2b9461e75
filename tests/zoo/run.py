"""Running a pair's models with nothing but their own frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np


def run_keras(model: Any, inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs of a Keras model (Keras 3 or tf_keras)."""
    listed = isinstance(getattr(model, "_inputs_struct", None), list)
    outputs = model([inputs] if listed else inputs, training=False)
    return [np.asarray(out) for out in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def run_torch(model: Any, inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs of a module, in Keras's layout like ``inputs``."""
    import torch

    with torch.inference_mode():
        outputs = model(torch.from_numpy(np.ascontiguousarray(np.moveaxis(inputs, -1, 1))))
    listed = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [np.moveaxis(out.numpy(), 1, -1) for out in listed]


def relative(reference: list[np.ndarray], candidate: list[np.ndarray]) -> float:
    """Largest difference of any output over that output's largest value."""
    assert [a.shape for a in reference] == [b.shape for b in candidate]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(reference, candidate, strict=True))
