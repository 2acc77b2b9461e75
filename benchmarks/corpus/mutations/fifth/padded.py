"""A convolution that several of the ports share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """Pads as TensorFlow's SAME does: an odd row or column goes behind."""

    def around(self, x: torch.Tensor) -> list[int]:
        pads: list[int] = []
        for axis in (1, 0):
            size, kernel = x.shape[2 + axis], (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((-(-size // self.stride[axis]) - 1) * self.stride[axis] + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return pads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.around(x)))
