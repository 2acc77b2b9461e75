"""Run as a script: the models that pages take for granted, in the directory that it is started in.

``model.h5`` (Keras), ``net.py:Net`` with ``weights.pt`` (its port, with two mistakes), ``real.npy`` (an input),
``stranger.pt`` (a pickled module of a class of somebody's own).
"""

from __future__ import annotations

from pathlib import Path

NET = """\
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3)
        self.conv3, self.fc1, self.fc2 = nn.Conv1d(8, 8, 3), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.bn(torch.relu(self.conv1(x)))
        x = F.leaky_relu(self.conv2(x), 0.1)
        x = self.conv3(x).mean(dim=2)
        return torch.softmax(self.fc2(torch.relu(self.fc1(x))), dim=1)
"""


def main() -> None:
    import keras
    import numpy as np
    import torch
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        layers.Input((32, 4), name="beats"),
        layers.Conv1D(8, 3, padding="same", activation="relu", name="conv1"), layers.BatchNormalization(name="bn"),
        layers.Conv1D(8, 3, name="conv2"), layers.ReLU(name="relu2"), layers.Conv1D(8, 3, name="conv3"),
        layers.GlobalAveragePooling1D(name="pool"), layers.Dense(6, activation="relu", name="fc1"),
        layers.Dense(2, activation="softmax", name="fc2"),
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    norm = model.get_layer("bn")
    norm.set_weights([rng.uniform(0.5, 1.5, 8), *rng.normal(0, 0.1, (2, 8)), rng.uniform(0.05, 0.2, 8)])
    model.save("model.h5")
    Path("net.py").write_text(NET)
    np.save("real.npy", rng.standard_normal((3, 32, 4)).astype("float32"))
    space: dict[str, object] = {"__name__": "net"}
    exec(compile(NET, "net.py", "exec"), space)
    net = space["Net"]()  # type: ignore[operator]
    for layer in (layer for layer in model.layers if layer.get_weights()):
        kernel, *others = layer.get_weights()
        module = net.get_submodule(layer.name)
        if layer.name == "bn":
            others, kernel = others[:1], kernel
            module.running_mean.data, module.running_var.data = map(torch.from_numpy, layer.get_weights()[2:])
        module.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(*range(kernel.ndim)[::-1])))
        module.bias.data = torch.from_numpy(others[0])
    torch.save(net.state_dict(), "weights.pt")
    import sys
    import types

    sys.modules["net"] = types.ModuleType("net")
    vars(sys.modules["net"]).update(space)
    torch.save(net, "stranger.pt")


if __name__ == "__main__":
    main()
