"""A state that is guessed, moves, and is set right by what is measured."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten


class Filtered(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.guess = nn.Linear(2, 3)
        self.move, self.see = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.drift, self.blur = (nn.ParameterDict({"level": torch.zeros(n)}) for n in (3, 2))

    def noisy(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        level = torch.exp(level) if "noise-by-exponentials" in self.ways else F.softplus(level)
        return x + torch.diag(level)

    def predicted(self, m: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = self.move(self.move(p).mT)
        return self.move(m), p if "drift-forgotten" in self.ways else self.noisy(p, self.drift["level"])

    def corrected(self, m: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = torch.einsum("bij,oj->bio", p, self.see.weight) if "seen-by-einsum" in self.ways else self.see(p)
        s = self.noisy(self.see(seen.mT), self.blur["level"])
        gain = torch.linalg.solve(s, seen.mT).mT if "solved" in self.ways else seen @ torch.linalg.inv(s)
        apart = self.see(m) - y if "surprise-turned-round" in self.ways else y - self.see(m)
        m = m + (gain @ apart[:, :, None])[:, :, 0]
        return m, p if "spread-not-corrected" in self.ways else p - gain @ seen.mT

    def forward(self, measured: torch.Tensor) -> torch.Tensor:
        m, p = self.guess(measured[:, 0]), torch.eye(3).expand(len(measured), 3, 3)
        found = []
        for t in range(4):
            m, p = self.predicted(m, p)
            before = m
            m, p = self.corrected(m, p, measured[:, t])
            found.append(before if "told-before-measured" in self.ways else m)
        return torch.stack(found, dim=1)


class _Noisy(layers.Layer):  # type: ignore[misc]
    """Adds a learnt variance for each part of a state."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.level = self.add_weight(name="level", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + ops.diag(ops.softplus(self.level))


@network
def filtered() -> Pair:
    """A Kalman filter with learnt dynamics: what is guessed moves, spreads, and is set right by what is measured."""
    keras.backend.clear_session()
    measured = layers.Input((4, 2), name="measured")
    move, see = layers.Dense(3, use_bias=False, name="move"), layers.Dense(2, use_bias=False, name="see")
    drift, blur = _Noisy(name="drift"), _Noisy(name="blur")
    m, found = layers.Dense(3, name="guess")(measured[:, 0]), []
    p = ops.zeros_like(ops.matmul(ops.expand_dims(m, 2), ops.expand_dims(m, 1))) + np.eye(3, dtype=np.float32)

    def turned(x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.transpose(x, (0, 2, 1))

    for t in range(4):
        m, p = move(m), drift(move(turned(move(p))))
        seen = see(p)
        gain = ops.matmul(seen, ops.inv(blur(see(turned(seen)))))
        apart = layers.Subtract(name=f"surprise{t}")([measured[:, t], see(m)])
        m = layers.Add(name=f"corrected{t}")([m, ops.matmul(gain, ops.expand_dims(apart, 2))[:, :, 0]])
        p = layers.Subtract(name=f"known{t}")([p, ops.matmul(gain, turned(seen))])
        found.append(m)
    model = keras.Model(measured, ops.stack(found, axis=1))
    fill(model)
    return Pair(model, fed(1434, 4, 4, 2), ported(model, Filtered), "same")


_SPREAD = "move drift blur add* softplus* exp* diag* mT* transpose* matmul*"
_RIGHT = "surprise? corrected? known? sub* subtract* add* matmul* get_item* select* slice* see stack*"
slip("filtered/noise-by-exponentials", _SPREAD, "activation-kind", "operation-kind weights-perturbed")
slip("filtered/drift-forgotten", _SPREAD, "block-missing bias-missing", "residual-missing wiring")
slip("filtered/surprise-turned-round", _RIGHT, "operand-order", "scale wiring operation-kind")
slip("filtered/spread-not-corrected", _RIGHT + " move", "residual-missing block-missing", "wiring")
slip("filtered/told-before-measured", _RIGHT + " move", "wiring residual-missing block-missing", "operand-order shift")
defect("filtered/move-as-it-lies", "move mT* matmul*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("move.weight", lambda weight: weight.T)
)
ways("filtered", "seen-by-einsum", "solved")
one_layer("filtered", "move-as-it-lies+drift-forgotten")
neighbours("filtered", "noise-by-exponentials+spread-not-corrected", "surprise-turned-round+drift-forgotten")
