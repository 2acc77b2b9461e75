"""Gradients of a scalar with respect to what a pass computed, and to the weights it computed with.

A tensor may be changed in place after it was seen, so not the tensor is kept but its edge in autograd's graph, taken
at that moment. The backward pass reaches each edge once, with the gradient summed over all uses: it is handed over
there and then, so that the gradients of all activations are never in memory together.

Parameters have a gradient where they are trainable (a tied one once, a computed one as the layer used it), activations
wherever autograd recorded what made them: behind frozen weights as well, as long as an input is of floating type.
Complex gradients are torch's: for steepest descent, the conjugate of some other frameworks'.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from tracer import usercode
from tracer.adapter import LOSSES, NotRecorded, Sink
from tracer.errors import InputError, LossError, ModelError, TracerError
from tracer.names import display
from tracer.text import described
from tracer_torch import layers
from tracer_torch.tensors import Returned, dtype_name, to_array, version, walk

NO_PATH = "the loss does not depend on it"
_UNGRADED = "it was computed without gradients (no_grad, detach, a reentrant checkpoint)"
_HINT = re.compile(r"\.? Hint: .*(anomaly|set_detect_anomaly).*$")
"""What torch appends to its fault: to run the whole again in a slow mode."""
Take = Callable[[torch.Tensor], None]


def loss(wanted: str, result: object) -> torch.Tensor:
    """The scalar of :attr:`tracer.adapter.Run.loss` for what the model returned; complex outputs do not count.

    Raises LossError where there is none, or none that depends on a weight or an input.
    """
    shown = display(wanted, 120)
    if wanted in LOSSES:
        value = _built_in(wanted, result)
        if not value.requires_grad:
            raise LossError(
                f"no gradient of the {shown} of what the model returns: it is cut off from weights and inputs "
                "(no_grad, detach, or all of them frozen)"
            )
        return value
    try:
        function = usercode.find(wanted, "--grad")
    except InputError as error:
        raise LossError(str(error)) from error
    if not callable(function):
        raise LossError(f"--grad '{shown}' is a {type(function).__name__}, not a callable")
    try:
        value = function(result)
    except TracerError:
        raise
    except (Exception, SystemExit) as error:
        raise LossError(f"--grad '{shown}' raised {described(error)}") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.is_floating_point():
        what = f"a {type(value).__name__}"
        if isinstance(value, torch.Tensor):
            what += f" of shape {tuple(value.shape)} and type {dtype_name(value.dtype)}"
        raise LossError(f"--grad '{shown}' gave {what}, not a scalar tensor of floating type")
    if not value.requires_grad:
        raise LossError(f"--grad '{shown}' gave a scalar that is cut off from the model (item(), detach, no_grad)")
    return value.reshape(())


def _built_in(wanted: str, result: object) -> torch.Tensor:
    # Objects of other classes only where there is nothing else: a cache of keys and values is no result.
    tensors = [tensor for _, tensor in walk(result)] or [tensor for _, tensor in Returned(result).tensors]
    outputs = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not outputs:
        raise LossError(
            f"no gradient of the {wanted}: the model returns no floating tensor; --grad pkg.mod:callable takes "
            "what it returns and gives a scalar"
        )
    total: torch.Tensor | float = 0.0
    try:
        for tensor in outputs:
            wide = tensor.float() if tensor.element_size() < 4 else tensor
            total = total + (wide.square() / 2 if wanted == "square" else wide).sum()
    except RuntimeError as error:
        raise LossError(f"no {wanted} of what the model returns: {described(error, 160)}") from error
    assert isinstance(total, torch.Tensor)
    return total / sum(tensor.numel() for tensor in outputs) if wanted == "mean" else total


class Gradients:
    """The places of one pass at which gradients are wanted."""

    def __init__(self) -> None:
        self._places: list[tuple[str, GradientEdge]] = []
        self._without: list[tuple[str, str]] = []
        self._made: dict[tuple[str, str], list[GradientEdge]] = {}
        self._later: dict[int, tuple[str, weakref.ref[torch.Tensor], int]] = {}

    def note(self, name: str, tensor: torch.Tensor) -> None:
        """Remember where the value that ``tensor`` has now, node ``name``, stands in the graph."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            self._without.append((name, f"{dtype_name(tensor.dtype)} tensor: no gradient"))
        elif not tensor.requires_grad:
            self._later[id(tensor)] = name, weakref.ref(tensor), version(tensor)
            self._without.append((name, f"{NO_PATH}, or {_UNGRADED}"))
        else:
            self._places.append((name, get_gradient_edge(tensor)))

    def read(self, tensor: torch.Tensor) -> None:
        """A tensor is used: what an autograd.Function computes becomes part of the graph when it returns."""
        if id(tensor) in self._later and tensor.requires_grad:
            name, known, unchanged = self._later.pop(id(tensor))
            if known() is tensor and version(tensor) == unchanged:
                self._places.append((name, get_gradient_edge(tensor)))

    def absent(self, name: str, reason: str) -> None:
        """Node ``name`` has no gradient, for a reason known beforehand."""
        self._without.append((name, reason))

    def watch(self, root: nn.Module, guarded: Callable[[Callable[[], None]], object]) -> Iterator[Any]:
        """Hooks that see the weights which normalised and parametrised layers compute with, each time anew."""
        for owner, name, weight in list(layers.computed(root)):  # which reads the hooks that are added here

            def note(module: nn.Module, *args: Any, key: tuple[str, str] = (owner, name), w: Any = weight) -> None:
                made = getattr(module, w.name) if w.chain is None else args[1]
                guarded(lambda: self._note_weight(key, made))

            if weight.chain is not None:
                yield weight.chain.register_forward_hook(note)
            else:
                yield weight.module.register_forward_pre_hook(note)

    def _note_weight(self, key: tuple[str, str], made: torch.Tensor) -> None:
        if made.requires_grad:
            self._made.setdefault(key, []).append(get_gradient_edge(made))

    def hand_over(
        self, scalar: torch.Tensor, root: nn.Module, owned: Iterable[tuple[str, str, torch.Tensor]], sink: Sink
    ) -> None:
        """Go backward from ``scalar``; give the gradient of every place and every trainable parameter to ``sink``.

        ``owned`` are the tensors of ``root`` as :func:`tracer_torch.layers.owned` gives them. Nothing is added to any
        ``.grad``. Raises ModelError when the backward pass does, or what the sink raised.
        """
        out = _Out(sink)
        sums: dict[tuple[str, str], torch.Tensor] = {}
        trainable = [(owner, name, tensor) for owner, name, tensor in owned if tensor.requires_grad]
        bound = [".".join(filter(None, (owner, name))) for owner, name, tensor in trainable if tensor.is_inference()]
        if bound:
            raise ModelError(
                f"no gradients: '{display(bound[0], 80)}' was made in torch.inference_mode, which keeps weights from "
                "autograd: make the model outside of it; the values are recorded"
            )
        targets: list[tuple[GradientEdge, Take]] = [(edge, partial(out.node, name)) for name, edge in self._places]
        for owner, name, tensor in trainable:
            if edges := self._made.get((owner, name)):
                targets += [(edge, partial(_add, sums, (owner, name))) for edge in edges]
            elif tensor.is_leaf:
                targets.append((get_gradient_edge(tensor), partial(out.weight, owner, name)))
        try:
            _backward(scalar, targets, root)
        except Exception as error:
            last = next(reversed(out.nodes), None)
            where = "" if last is None else f", going backward from '{display(last, 80)}'"
            text = _HINT.sub("", described(error, 600))
            raise ModelError(f"no gradients: {display(text, 240)}{where}; the values are recorded") from error
        for (owner, name), total in sums.items():
            out.weight(owner, name, total)
        for name, reason in [*((name, NO_PATH) for name, _ in self._places), *self._without]:
            if name not in out.nodes:
                out.node(name, NotRecorded(reason))
        for owner, name, _ in trainable:
            if (owner, name) not in out.weights:
                out.weight(owner, name, NotRecorded(NO_PATH))
        if out.failures:
            raise out.failures[0]


class _Out:
    """Gives gradients to a sink, whose faults wait until autograd is done, and remembers which it gave."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.nodes: dict[str, None] = {}
        self.weights: set[tuple[str, str]] = set()
        self.failures: list[Exception] = []

    def node(self, name: str, gradient: torch.Tensor | NotRecorded) -> None:
        if name in self.nodes:
            return
        self.nodes[name] = None
        self._give(gradient, partial(self._sink.gradient, name))

    def weight(self, owner: str, name: str, gradient: torch.Tensor | NotRecorded) -> None:
        self.weights.add((owner, name))
        self._give(gradient, partial(self._sink.weight_gradient, owner, name))

    def _give(self, gradient: torch.Tensor | NotRecorded, give: Callable[..., None]) -> None:
        try:
            if isinstance(gradient, NotRecorded):
                give(gradient, owned=True)
            else:
                value, owned = to_array(_dense(gradient.detach()))
                give(value, owned=owned)
        except Exception as error:
            self.failures.append(error)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_dense() if "sparse" in str(gradient.layout) else gradient


def _add(sums: dict[tuple[str, str], torch.Tensor], key: tuple[str, str], gradient: torch.Tensor) -> None:
    sums[key] = gradient + sums[key] if key in sums else gradient.clone()


def _backward(scalar: torch.Tensor, targets: Sequence[tuple[GradientEdge, Take]], root: nn.Module) -> None:
    """One backward pass through all of the graph; each target takes its gradient when it is complete."""
    at_leaves: dict[Node, list[Take]] = {}
    handles = []
    try:
        for edge, take in targets:
            if _is_leaf(edge.node):
                at_leaves.setdefault(edge.node, []).append(take)
            else:
                # The hook must not hold the edge: a node that owns a hook that owns the node is never freed.
                handles.append(edge.node.register_prehook(partial(_arrived, edge.output_nr, take)))
        graph = _graph(scalar)
        # Autograd goes only where it is asked for a gradient.
        leaves = [node for node in graph if _is_leaf(node)]
        if any(type(node).__name__ == "CheckpointFunctionBackward" for node in graph):
            found = _accumulated(scalar, [*leaves, *at_leaves], root)
        else:
            given = torch.autograd.grad(scalar, [GradientEdge(node, 0) for node in leaves], allow_unused=True)
            found = dict(zip(leaves, given, strict=True))
    finally:
        for handle in handles:
            handle.remove()
    for node, takes in at_leaves.items():
        gradient = found.get(node)
        if gradient is not None:
            for take in takes:
                take(gradient)


def _accumulated(scalar: torch.Tensor, leaves: Sequence[Node], root: nn.Module) -> dict[Node, torch.Tensor | None]:
    """The gradients that ``backward()`` adds up in ``.grad``, which is then as it was.

    Checkpoints with ``use_reentrant`` can do nothing else: their inner part is a graph of its own.
    """
    tensors = {id(tensor): tensor for tensor in (*(_variable(node) for node in leaves), *root.parameters())}
    if any(getattr(tensor, "_post_accumulate_grad_hooks", None) for tensor in tensors.values()):
        raise RuntimeError("a checkpoint with use_reentrant=True, and parameters that are updated in the backward pass")
    before = [(tensor, tensor.grad) for tensor in tensors.values() if tensor.is_leaf]
    try:
        for tensor, _ in before:
            tensor.grad = None
        scalar.backward()  # type: ignore[no-untyped-call]
        return {node: _variable(node).grad for node in leaves}
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient


def _variable(node: Node) -> torch.Tensor:
    tensor = node.variable  # type: ignore[attr-defined]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _arrived(output: int, take: Take, gradients: tuple[torch.Tensor | None, ...]) -> None:
    gradient = gradients[output]
    if gradient is not None:
        take(gradient)


def _is_leaf(node: Node) -> bool:
    return hasattr(node, "variable")  # AccumulateGrad, of which torch has no public name


def _graph(scalar: torch.Tensor) -> list[Node]:
    """Every node that ``scalar`` was computed by."""
    assert scalar.grad_fn is not None
    waiting: list[Node] = [scalar.grad_fn]
    seen: dict[Node, None] = {scalar.grad_fn: None}
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen[node] = None
                waiting.append(node)
    return list(seen)
