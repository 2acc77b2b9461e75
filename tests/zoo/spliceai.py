"""SpliceAI as published (five Keras models) against OpenSpliceAI's PyTorch class with the Keras weights.

The class differs from the models in two ways, both at every residual unit: BatchNorm's epsilon is 1e-5 where the
models were trained with 1e-3, and LeakyReLU(0.1) stands where they have ReLU. `scripts/demo_models.py` carries the
weights over and has both classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from scripts import demo_models

from .pair import Defect, Pair

LENGTH = 10_100


def build_keras(number: int) -> Any:
    import keras

    return keras.models.load_model(demo_models.packaged_h5(number), compile=False)


def build_torch(number: int, published: bool = False) -> Any:
    model = demo_models.published() if published else demo_models.corrected()
    return demo_models.transfer(demo_models.packaged_h5(number), model)


def _dna(shape: tuple[int, ...]) -> np.ndarray:
    return demo_models.dna(shape[0], shape[1])


def _pair(number: int) -> Pair:
    return Pair(
        name=f"spliceai{number}",
        keras=partial(build_keras, number),
        torch=partial(build_torch, number),
        input_shape=(2, LENGTH, 4),
        truth={keras: torch for keras, torch in demo_models.TWINS.items() if keras != "conv1d_39"},
        fused={"conv1d_39": ("final_conv", "softmax")},
        defects={
            "bn-eps": Defect(
                "the class as published: epsilon 1e-5 and LeakyReLU(0.1) at once",
                partial(build_torch, number, published=True),
                first="batch_normalization_1",
            )
        },
        data=_dna,
        notes="initial_skip.add adds 0 and has no twin",
    )


PAIRS = [_pair(number) for number in range(1, 6)]
