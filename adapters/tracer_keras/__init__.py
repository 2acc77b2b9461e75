"""Keras adapter of tracer: Keras 3 and, for Keras-2-era files, tf_keras."""

from tracer_keras.adapter import KerasAdapter

__all__ = ["KerasAdapter"]
