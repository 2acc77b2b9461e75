"""ONNX adapter of tracer, through onnx and onnxruntime."""

from tracer_onnx.adapter import OnnxAdapter

__all__ = ["OnnxAdapter"]
