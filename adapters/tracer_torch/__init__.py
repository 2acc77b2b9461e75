"""PyTorch adapter of tracer."""

from tracer_torch.adapter import TorchAdapter

__all__ = ["TorchAdapter"]
