"""The rules about files: what cannot be loaded is said in one line, and nothing runs without consent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tracer.adapter import Adapter, LoadRequest
from tracer.errors import InputError, RefusedError
from tracer.graph import Param
from tracer.testing.case import Case, CodeFile
from tracer.testing.evidence import captured, close, fail, one_line, raised
from tracer.testing.rules import Rules, needs


class FileRules(Rules):
    """Part of :class:`tracer.testing.AdapterContract`."""

    def test_a_request_for_nothing_is_an_input_error(self) -> None:
        _refused(self.adapter(), LoadRequest(None), "a request that names nothing")

    @pytest.mark.parametrize("kind", ["missing", "directory", "empty", "garbage", "text"])
    def test_what_is_no_model_is_an_input_error(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / f"bad{self._suffix(tmp_path)}"
        if kind == "directory":
            path.mkdir()
        elif kind != "missing":
            path.write_bytes({"empty": b"", "garbage": bytes(range(256)) * 9, "text": b"hello\n" * 50}[kind])
        error = _refused(self.adapter(), LoadRequest(path), f"a path that is {kind}")
        if path.name not in str(error):
            fail("the error must name the file", str(error))

    @needs("file")
    def test_a_cut_file_is_an_input_error(self, case: Case, tmp_path: Path) -> None:
        assert case.file is not None
        request = case.file(tmp_path)
        path = request.path or request.weights
        if path is None or not path.is_file():
            pytest.skip("the case has no single file")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        _refused(self.adapter(), request, "a file that is cut in half")

    @needs("file")
    def test_it_claims_its_files(self, case: Case, tmp_path: Path) -> None:
        assert case.file is not None
        path = case.file(tmp_path).path
        if path is not None and self.adapter.claims(path) is not True:
            fail("claims must be True for the case's file", path.name)

    def test_it_claims_nothing_else(self, tmp_path: Path) -> None:
        notes, folder = tmp_path / "notes.txt", tmp_path / "folder"
        notes.write_text("a shopping list\n")
        folder.mkdir()
        for path in (notes, folder, tmp_path / "missing"):
            if self.adapter.claims(path) is not False:
                fail("claims must be False for what is none of its files", path.name)

    @needs("file")
    def test_a_file_loads_as_what_it_is(self, case: Case, tmp_path: Path) -> None:
        """It passes the cheap checks, may be asked for its code and tensors, and computes what the live model does."""
        assert case.file is not None
        adapter = self.adapter()
        request = case.file(tmp_path)
        adapter.preflight(request)
        if not all(map(one_line, adapter.runs_code(request))):
            fail("runs_code must give single lines", adapter.runs_code(request))
        tensors = adapter.tensors(request)
        if not isinstance(tensors, tuple) or not all(isinstance(tensor, Param) for tensor in tensors):
            fail("tensors must give a tuple of Param", str(tensors))
        loaded = adapter.load(request)
        if case.model is None or case.raises:
            return
        live = self.evidence(case, tmp_path).sink.arrays()
        for name, value in captured(loaded, case.inputs).values.items():
            if name in live and not (isinstance(value, np.ndarray) and close(value, live[name], case.tolerance)):
                fail("the model of the file must compute what the live model does", f"{name}: {value} != {live[name]}")

    def test_nothing_runs_without_consent(self, code_file: CodeFile, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        adapter = self.adapter()
        request = code_file.write(tmp_path, marker)
        for name, call in _looks(adapter, request).items():
            error = raised(call)
            if marker.exists():
                fail(f"{name} ran code of the file, without trust")
            if error is not None and not isinstance(error, InputError):
                fail(f"{name} may raise InputError or RefusedError", repr(error))
        error = raised(lambda: adapter.load(request))
        if marker.exists():
            fail("load ran code of the file, without trust")
        if not isinstance(error, RefusedError):
            fail("load must raise RefusedError for a file that would run code", repr(error))
        if not one_line(str(error)):
            fail("the error must be one line", str(error))
        if raised(lambda: adapter.runs_code(request)) is None and not adapter.runs_code(request):
            fail("runs_code must say what in the file would run code")

    def test_with_consent_it_runs(self, code_file: CodeFile, tmp_path: Path) -> None:
        """Or the file proves nothing about :meth:`test_nothing_runs_without_consent`."""
        marker = tmp_path / "marker"
        error = raised(lambda: self.adapter().load(replace(code_file.write(tmp_path, marker), trust=True)))
        if not marker.exists():
            fail("loading the file with trust must make the marker", repr(error))

    def _suffix(self, tmp_path: Path) -> str:
        if self.suffix:
            return self.suffix
        for case in self.cases:
            if case.file is not None:
                folder = tmp_path / "suffix"
                folder.mkdir(exist_ok=True)
                path = case.file(folder).path
                if path is not None:
                    return path.suffix
        return ""


def _looks(adapter: Adapter, request: LoadRequest) -> dict[str, Callable[[], object]]:
    assert request.path is not None
    path = request.path
    return {
        "claims": lambda: adapter.claims(path),
        "preflight": lambda: adapter.preflight(request),
        "runs_code": lambda: adapter.runs_code(request),
        "tensors": lambda: adapter.tensors(request),
    }


def _refused(adapter: Adapter, request: LoadRequest, what: str) -> InputError:
    """The error of ``load`` for a request that cannot be met; ``preflight`` raises none other."""
    early = raised(lambda: adapter.preflight(request))
    if early is not None and not isinstance(early, InputError):
        fail(f"preflight must raise InputError or RefusedError, or nothing, for {what}", repr(early))
    error = raised(lambda: adapter.load(request))
    if not isinstance(error, InputError):
        fail(f"load must raise InputError for {what}", repr(error))
    if not one_line(str(error)):
        fail(f"the error for {what} must be one line", str(error))
    return error
