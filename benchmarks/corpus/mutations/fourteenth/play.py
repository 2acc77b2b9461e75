"""Play: what a move may be worth at best and at worst, and a model of a board that is played in thought."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten


class Chances(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.see, self.risk = nn.Linear(5, 6), nn.Linear(8, 6)
        self.join, self.worth = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, seen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        count = torch.arange(8) if "waves-from-none" in self.ways else torch.arange(1, 9)
        angles = shares[:, :, None] * count * (1.0 if "pi-forgotten" in self.ways else torch.pi)
        state, risk = F.relu(self.see(seen)), F.relu(self.risk(torch.cos(angles)))
        if "states-in-turn" in self.ways:
            x = state.repeat(3, 1).unflatten(0, (-1, 3)) * risk
        elif "states-repeated" in self.ways:
            x = (state.repeat_interleave(3, dim=0) * risk.flatten(0, 1)).unflatten(0, (-1, 3))
        else:
            x = state[:, None] * risk
        if "joined-in-half" in self.ways:
            x = F.linear(x.bfloat16(), self.join.weight.bfloat16(), self.join.bias.bfloat16()).float()
        else:
            x = self.join(x)
        x = self.worth(F.relu(x))
        return x.mean(2) if "mean-over-moves" in self.ways else x.mean(1)


@network
def chances() -> Pair:
    """IQN: cosines of a share of the chances, times what is seen, what each move is worth, and the mean of these."""
    keras.backend.clear_session()
    seen, shares = layers.Input((5,), name="seen"), layers.Input((3,), name="shares")
    angles = ops.expand_dims(shares, 2) * (np.pi * np.arange(1, 9)).astype(np.float32)
    risk = layers.Dense(6, activation="relu", name="risk")(ops.cos(angles))
    state = layers.Reshape((1, 6), name="state")(layers.Dense(6, activation="relu", name="see")(seen))
    x = layers.Dense(6, activation="relu", name="join")(layers.Multiply(name="both")([state, risk]))
    worth = layers.Dense(3, name="worth")(x)
    model = keras.Model([seen, shares], ops.mean(worth, axis=1))
    fill(model)
    drawn = np.random.default_rng(1491).random((4, 3)).astype(np.float32)
    return Pair(model, {"seen": fed(1492, 4, 5), "shares": drawn}, ported(model, Chances), "same")


_WAVES = "shares cos* mul* multiply* arange* risk"
_BOTH = "both state mul* multiply* add* repeat* unflatten* slice* join"
slip("chances/waves-from-none", _WAVES, "embedding-offset shift", "input-scale")
slip("chances/pi-forgotten", _WAVES, "input-scale scale block-missing", "input-normalisation")
slip("chances/states-in-turn", _BOTH, "reshape-order axis-permutation wiring")
slip("chances/joined-in-half", "join linear* bfloat16* float* relu*", "dtype")
slip("chances/mean-over-moves", "mean* worth", "norm-axis pool-kind axis-permutation", "operation-kind softmax-axis")
defect("chances/join-as-it-lies", "join", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("join.weight", lambda weight: weight.T)
)
ways("chances", "states-repeated")
one_layer("chances", "waves-from-none+pi-forgotten")
neighbours("chances", "states-in-turn+join-as-it-lies", "joined-in-half+mean-over-moves")


# --- in thought ---------------------------------------------------------------------------------------------


class Thought(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.see, self.see_bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.play, self.play_bn = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.worth, self.moves = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.won, self.next = nn.Linear(72, 7), nn.Linear(72, 5)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        dims = (1, 2, 3) if "scaled-over-all" in self.ways else (2, 3)
        least, most = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
        return (x - least) / (most - least + 1e-5)

    def expected(self, logits: torch.Tensor) -> torch.Tensor:
        values = torch.arange(7.0) if "values-from-none" in self.ways else torch.arange(-3.0, 4.0)
        x = F.softmax(logits, dim=1) @ values
        if "values-still-shrunk" in self.ways:
            return x
        root = (torch.sqrt(1 + 0.4 * (x.abs() + 1.1)) - 1) / 0.2
        return torch.sign(x) * (root**2 - 1)

    def row(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(conv(x))
        return x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1)

    def forward(self, board: torch.Tensor, move: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.scaled(F.relu(self.see_bn(self.see(board))))
        plane = move.float() if "move-not-divided" in self.ways else move.float() / 5
        plane = plane[:, :, None, None].expand(-1, 1, 6, 6)
        if "move-as-a-full-map" in self.ways:
            plane = torch.ones_like(x[:, :1]) * plane
        y = self.play_bn(self.play(torch.cat([x, plane], dim=1)))
        y = x + F.relu(y) if "bent-before-the-sum" in self.ways else F.relu(x + y)
        x = self.scaled(y)
        return self.expected(self.won(self.row(self.worth, x))), self.next(self.row(self.moves, x))


@network
def thought() -> Pair:
    """MuZero: a board's state between its bounds, a move as a plane, the state behind it, its worth by a support."""
    keras.backend.clear_session()
    board, move = layers.Input((6, 6, 3), name="board"), layers.Input((1,), dtype="int32", name="move")

    def scaled(x: keras.KerasTensor) -> keras.KerasTensor:
        least, most = (of(x, axis=(1, 2), keepdims=True) for of in (ops.min, ops.max))
        return (x - least) / (most - least + 1e-5)

    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="see")(board)
    x = scaled(layers.ReLU(name="see_bend")(layers.BatchNormalization(name="see_bn")(x)))
    plane = ops.reshape(ops.cast(move, "float32") / 5, (-1, 1, 1, 1)) * ops.ones_like(x[..., :1])
    y = layers.Concatenate(name="moved")([x, plane])
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="play")(y)
    y = layers.Add(name="behind")([x, layers.BatchNormalization(name="play_bn")(y)])
    x = scaled(layers.ReLU(name="behind_bend")(y))
    rows = [layers.Flatten(name=f"{name}_row")(layers.Conv2D(2, 1, activation="relu", name=name)(x))
            for name in ("worth", "moves")]  # fmt: skip
    won = layers.Dense(7, activation="softmax", name="won")(rows[0])
    won = ops.matmul(won, np.arange(-3, 4, dtype=np.float32))
    root = (ops.sqrt(1 + 0.4 * (ops.absolute(won) + 1.1)) - 1) / 0.2
    won = ops.sign(won) * (ops.square(root) - 1)
    model = keras.Model([board, move], [won, layers.Dense(5, name="next")(rows[1])])
    fill(model)
    grown(model, 2, "won", "play")
    level = model.get_layer("see_bn").beta  # no map is nought everywhere
    level.assign(level + 1)
    inputs = {"board": fed(1493, 3, 6, 6, 3), "move": counted(1494, 5, 3, 1, least=1)}
    return Pair(model, inputs, ported(model, Thought), "NHWC->NCHW")


_BOUNDS = "min* max* amin* amax* sub* div* true_divide* add* moved play worth moves"
_WON = "won softmax* matmul* arange* sub* sqrt* square* pow* sign* mul* div* true_divide* abs* add*"
slip("thought/scaled-over-all", _BOUNDS, "norm-axis", "operation-kind pool-kind")
slip("thought/move-not-divided", "move div* true_divide* moved cat* play float* cast*",
     "input-scale scale block-missing", "input-normalisation")  # fmt: skip
slip("thought/bent-before-the-sum", "behind behind_bend relu* add*", "residual-order", "wiring operand-order")
slip("thought/maps-outermost", "worth_row moves_row flatten* permute* won next", "flatten-order dense-row-order",
     "wiring block-missing")  # fmt: skip
slip("thought/values-from-none", _WON, "shift embedding-offset bias-missing", "weights-perturbed wiring")
slip("thought/values-still-shrunk", _WON, "block-missing", "scale operation-kind")
defect("thought/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("thought/kernel-on-its-side", "see", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("see.weight", lambda weight: weight.transpose(2, 3))
)
ways("thought", "move-as-a-full-map")
control("thought/norms-folded")(lambda port: [folded(n, f"{n}_bn")(port) for n in ("see", "play")] and port)
control("thought/channels-last")(lambda port: port.to(memory_format=torch.channels_last))
one_layer("thought", "values-from-none+values-still-shrunk")
neighbours("thought", "kernel-on-its-side+scaled-over-all", "maps-outermost+values-from-none")
