"""ONNX's way in. Importing this module imports neither onnx nor onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from tracer.adapter import Adapter, LoadedModel, LoadRequest
from tracer.errors import InputError, TracerError
from tracer.names import display
from tracer.text import first_line
from tracer_onnx import preflight


class OnnxAdapter(Adapter):
    """ONNX graphs from files, onnx.ModelProto and onnxruntime.InferenceSession; nothing in them runs code."""

    framework: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    late: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    extra: ClassVar[str] = "onnx"
    formats: ClassVar[str] = "an .onnx file, with its external data files beside it"

    @classmethod
    def claims(cls, path: Path) -> bool:
        return preflight.claims(path)

    @classmethod
    def owns(cls, model: object) -> bool:
        # Whoever holds one of these has imported its package.
        proto = getattr(sys.modules.get("onnx"), "ModelProto", None)
        session = getattr(sys.modules.get("onnxruntime"), "InferenceSession", None)
        return any(isinstance(cls_, type) and isinstance(model, cls_) for cls_ in (proto, session))

    def preflight(self, request: LoadRequest) -> None:
        if request.path is None:
            raise InputError(f"no model: give {self.formats}")
        if request.weights is not None or request.arch is not None:
            raise InputError("an ONNX file holds its network and its weights: --weights and --arch do not go with it")
        preflight.check_file(request.path)

    def files(self, request: LoadRequest) -> tuple[Path, ...]:
        return preflight.beside(request.path) if request.path is not None else ()

    def load(self, request: LoadRequest) -> LoadedModel:
        self.preflight(request)
        assert request.path is not None
        from tracer_onnx import loading
        from tracer_onnx.model import OnnxModel

        try:
            return OnnxModel(loading.from_file(request.path), request.inputs, request.outputs)
        except TracerError:
            raise
        except Exception as error:  # a damaged file can break any rule of the format
            raise InputError(f"{display(str(request.path))} is damaged: {first_line(error)}") from error

    def constant(self, request: LoadRequest) -> str:
        return "an ONNX model"

    def wrap(self, model: object) -> LoadedModel:
        from tracer_onnx import loading
        from tracer_onnx.model import OnnxModel

        return OnnxModel(loading.from_object(model))
