"""ONNX's reference evaluator for tracer: ``tracer record onnxref model.onnx`` runs it as the specification says."""

import sys

import numpy as np

from tracer import kinds
from tracer.adapter import Adapter, InputSpec, LoadedModel
from tracer.errors import InputError
from tracer.graph import Node, Param, Structure

WORDS = {"Gemm": "dense", "Transpose": "permute", "GlobalAveragePool": "global_avg_pool", "Conv": "conv{}d"}


class ReferenceAdapter(Adapter):
    framework, requires, formats = "onnx", ("onnx",), "an .onnx file"

    @classmethod
    def owns(cls, model):
        module = sys.modules.get("onnx.reference")  # asking must not import the framework
        return module is not None and isinstance(model, module.ReferenceEvaluator)

    @classmethod
    def claims(cls, path):
        return path.suffix == ".onnx"

    def preflight(self, request):
        """A cheap look, before a worker is started for the file."""
        if request.path is None or not request.path.is_file():
            raise InputError(f"{request.path or 'no model'}: give {self.formats}")

    def load(self, request):
        """Runs in the worker, in its sandbox."""
        self.preflight(request)
        from onnx import checker, load, reference

        try:
            checker.check_model(model := load(request.path))
            return ReferenceModel(reference.ReferenceEvaluator(model))
        except Exception as error:
            raise InputError(f"{request.path} is no ONNX graph: {' '.join(str(error).split())}") from error

    def wrap(self, model):
        return ReferenceModel(model)


class ReferenceModel(LoadedModel):
    framework = "onnx"

    def __init__(self, net):
        from onnx import __version__, numpy_helper

        self.net, self.graph, self.loader = net, net.proto_.graph, f"onnx {__version__} reference"
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}

    def versions(self):
        return {"onnx": self.loader.split()[1], "numpy": np.__version__}

    def signature(self):
        types = {i.name: i.type.tensor_type.shape.dim for i in self.graph.input if i.name not in self.weights}
        return tuple(InputSpec(name, tuple(d.dim_value or None for d in dims)) for name, dims in types.items())

    def structure(self, inputs):
        values = self._run(inputs)
        nodes = [Node(name, "input", "input", "input", (), x.shape, x.dtype.name) for name, x in inputs.items()]
        for op in self.graph.node:  # in the order in which they run
            name, made = op.output[0], values[op.output[0]]
            word = WORDS.get(op.op_type, op.op_type.lower()).format(made.ndim - 2)
            kind = word if kinds.is_legal(word) else f"other:{op.op_type}"  # such a one is paired by all but its kind
            parents = tuple(read for read in op.input if read and read not in self.weights)
            params = tuple(param for _, param, _ in self._owned(op))
            nodes.append(
                Node(name, kind, op.op_type, "layer", parents, made.shape, made.dtype.name, params, owner=name)
            )
        return Structure(tuple(nodes), tuple(output.name for output in self.graph.output))

    def capture(self, inputs, sink):
        values = self._run(inputs)
        for name in [*inputs, *(op.output[0] for op in self.graph.node)]:
            if sink.wants(name):
                sink(name, values[name])  # copied there; owned=True would say that nobody changes it later

    def parameters(self):
        return [owned for op in self.graph.node for owned in self._owned(op)]

    def _owned(self, op):
        known = [(name, self.weights[name]) for name in op.input if name in self.weights]
        return [(op.output[0], Param(name, value.shape, value.dtype.name), value) for name, value in known]

    def _run(self, inputs):
        try:
            return self.net.run(None, dict(inputs), intermediate=True)
        except Exception as error:
            raise InputError(f"the graph does not take this input: {' '.join(str(error).split())}") from error
