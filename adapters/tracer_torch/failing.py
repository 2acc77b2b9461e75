"""Exceptions of a forward pass: whether the input or the model is to blame, and how to say so in one line."""

from __future__ import annotations

import contextlib
import os
import re
from types import TracebackType

import torch

from tracer.names import display
from tracer.text import described, one_line, text_of
from tracer_torch import layers
from tracer_torch.engine import Recorder

_LIBRARIES = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
_PACKAGES = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
_SHAPES = re.compile(
    r"shape|size|dimension|\bdims?\b|dtype|scalar type|channel|divisible|must match|expect(s|ed|ing)\b|broadcast|"
    r"should be the same|not implemented for|out of (range|bounds)|too many indices|should contain|same number",
    re.IGNORECASE,
)
"""What torch says about operands that do not go together; a wrong input often gets through the first layers."""
_MEMORY = re.compile(r"allocate|out of memory", re.IGNORECASE)
_OWN_FAULTS = re.compile(rf"same device|not compatible with input tensor's|{_MEMORY.pattern}", re.IGNORECASE)
"""Reads like the former, but no other input would help."""


def by_input(recorder: Recorder, error: Exception) -> bool:
    """Whether another input might help: ``error`` came before any weights were used, or is about shapes or types.

    What the user's own code raises in the middle of the model is the model's fault.
    """
    text = text_of(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return False
    if not begun(recorder):
        return True
    if isinstance(error, TypeError) or not _in_library(error):
        return False
    return bool(_SHAPES.search(text)) and not _OWN_FAULTS.search(text)


def blame(recorder: Recorder, error: Exception) -> str:
    """The exception in one line, with the innermost module that raised it and the user's line."""
    line = _line(error)
    at = f" at {line}" if line else ""
    if recorder.failed is None or recorder.failed[2] is not error:
        root = recorder.root
        own = line and not layers.is_torch_forward(root)
        return f"{described(error)} in {type(root).__name__}.forward{at}" if own else described(error)
    path, module, _ = recorder.failed
    extra = one_line(module.extra_repr(), 120) if layers.is_torch_forward(module) else ""
    return f"{described(error)} in '{display(path, 80)}' ({type(module).__name__}({extra})){at}"


def begun(recorder: Recorder) -> bool:
    """Whether a layer or an operation with weights has completed; any computation in a model without weights."""
    owners = {owner for owner, _, _ in recorder.owned}
    for event in recorder.events:
        if event.role == "input":
            continue
        if not owners or event.reads or (event.leaf and event.owner in owners):
            return True
    return False


def _in_library(error: Exception) -> bool:
    """Whether installed code raised ``error``, not the user's own."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and not _is_users(step)


def _is_users(step: TracebackType) -> bool:
    file = step.tb_frame.f_code.co_filename
    # A pass runs inside a context manager: its frames are no one's code.
    return (
        file != contextlib.__file__
        and not file.startswith(_LIBRARIES)
        and not any(folder in file for folder in _PACKAGES)
    )


def _line(error: Exception) -> str:
    """``file:line`` of the user's innermost frame inside the model; empty when there is none."""
    inside, found = False, ""
    step = error.__traceback__
    while step is not None:
        # The frames above tracer's own are whoever called it.
        inside = inside or step.tb_frame.f_code.co_filename.startswith(_LIBRARIES)
        if inside and _is_users(step):
            file = step.tb_frame.f_code.co_filename.removeprefix(os.getcwd() + os.sep)
            found = f"{display(file, 120)}:{step.tb_lineno}"
        step = step.tb_next
    return found
