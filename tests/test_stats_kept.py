"""Comparisons that are kept with the trace: used when they fit, ignored when they do not, never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import tracer
from tracer.compare import Diff, Tolerance
from tracer.compare.stats import compare
from tracer.compare.tensors import VERSION
from tracer.store import Recording, Trace, zarr3
from tracer.store.recordings import VALUES

X = np.random.default_rng(0).normal(size=(3, 4, 9, 9)).astype("f4")


def net(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(245, 3), nn.Tanh())
    found[3].weight.data *= scale
    return found


@pytest.fixture
def trace(trace_path: Path) -> Path:
    tracer.record(net(), X, name="a", trace=trace_path)
    tracer.record(net(1.001), name="b", trace=trace_path)
    return trace_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Tensors that were read, and whether their checksum was."""
    seen: list[tuple[str, bool]] = []
    real = Recording.read_stored

    def read(self: Recording, stored: Any, *, verify: bool = True) -> Any:
        seen.append((stored.path, verify))
        return real(self, stored, verify=verify)

    monkeypatch.setattr(Recording, "read_stored", read)
    return seen


def diff(path: Path, **more: Any) -> Diff:
    opened = Trace.open(path)
    return tracer.diff(opened.recording("a"), opened.recording("b"), **more)


def kept(path: Path) -> Path:
    return path / "comparisons" / "a" / "b" / "zarr.json"


def test_the_second_comparison_reads_no_tensor(trace: Path, reads: list[tuple[str, bool]]) -> None:
    first = diff(trace)
    assert any(verify for _, verify in reads)
    reads.clear()
    second = diff(trace)
    assert not any(verify for _, verify in reads)  # those of the alignment are not verified
    assert second.to_json() == first.to_json()
    assert [p.stats for p in second.pairs] == [p.stats for p in first.pairs]
    assert dict(zarr.open_group(trace, mode="r")["comparisons/a/b"].attrs)["version"] == VERSION


@pytest.mark.parametrize("tolerance", [(0.0, 0.0), (1e-4, 0.0), (1e-5, 1e-3), (0.0, 3e-3), (1.0, 0.0)])
def test_another_tolerance_is_judged_as_if_all_were_read_again(trace: Path, tolerance: tuple[float, float]) -> None:
    whole = diff(trace)
    wanted = Tolerance(*tolerance)
    again = diff(trace, atol=wanted.atol, rtol=wanted.rtol)
    kept(trace).unlink()
    fresh = diff(trace, atol=wanted.atol, rtol=wanted.rtol)
    assert again.to_json() == fresh.to_json()
    by_hand = whole.at(wanted)
    for pair, one in zip(fresh.pairs, by_hand.pairs, strict=True):
        assert (pair.verdict, pair.reason) == (one.verdict, one.reason)
        assert pair.stats is not None
        assert one.stats is not None
        assert one.stats.outside in (None, pair.stats.outside)
        ours, theirs = (
            r.read(n.name) for r, n in ((fresh.reference, pair.node), (fresh.candidate, pair.candidate_node))
        )
        assert pair.stats.outside == compare(ours, theirs, wanted.atol, wanted.rtol).outside


def test_what_was_recorded_again_or_damaged_is_noticed(trace: Path) -> None:
    before = diff(trace)
    tracer.record(net(1.5), name="b", trace=trace, force=True)
    assert not kept(trace).exists()
    after = diff(trace)
    assert after.pairs[-1].stats != before.pairs[-1].stats
    stored = after.candidate.stored("3")
    assert stored is not None
    pack = after.candidate.folder / VALUES
    raw = bytearray(pack.read_bytes())
    raw[raw.index(after.candidate.read("3").tobytes())] ^= 1
    pack.write_bytes(raw)
    (pair,) = (p for p in diff(trace).pairs if p.node.name == "3")
    assert pair.stats is None
    assert "checksum" in pair.reason
    pack.unlink()
    (pair,) = (p for p in diff(trace).pairs if p.node.name == "3")
    assert "missing" in pair.reason


def test_damaged_comparisons_are_ignored(trace: Path) -> None:
    good = diff(trace).to_json()
    raw = kept(trace).read_text()
    metadata = json.loads(raw)

    def with_entries(change: Any) -> str:
        """Damage that the checksum does not tell: a version with other ideas of what an entry is."""
        from tracer.store.comparisons import _checksum

        found = json.loads(raw)
        change(entries := json.loads(found["attributes"]["entries"]))
        found["attributes"]["entries"] = json.dumps(entries)
        found["attributes"]["checksum"] = _checksum(found["attributes"]["entries"])
        return json.dumps(found)

    attributes = metadata["attributes"]
    for text in (
        "", raw[: len(raw) // 2], raw.replace("size", "sise", 1), raw.replace('max_abs\\":0', 'max_abs\\":9', 1),
        json.dumps({**metadata, "attributes": {**attributes, "version": 0}}),
        json.dumps({**metadata, "attributes": {**attributes, "entries": {"a": 1}}}),
        json.dumps({**metadata, "attributes": []}),
        with_entries(lambda found: found[0][4].pop("stats")), with_entries(lambda found: found[0][4].update(stats=[1])),
        with_entries(lambda found: found[0][4]["counts"].update(moved=[[1]])),
        with_entries(lambda found: found.append(1)),
        with_entries(lambda found: found[0][4]["stats"]["moved"].update(max_abs="far")),
        with_entries(lambda found: found.append([[], {}, 1, 2, 3])),
    ):  # fmt: skip
        kept(trace).write_text(text)
        assert diff(trace).to_json() == good
    assert json.loads(raw) == metadata


def test_nothing_is_written_where_it_must_not_be(trace: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (trace / "comparisons").mkdir()
    (trace / "comparisons" / "a").symlink_to(elsewhere)
    good = diff(trace).to_json()
    assert not list(elsewhere.iterdir())
    (trace / "comparisons" / "a").unlink()
    if os.geteuid() != 0:  # root writes everywhere
        trace.chmod(0o500)
        try:
            assert diff(trace).to_json() == good
            assert not kept(trace).exists()
        finally:
            trace.chmod(0o700)
    opened = Trace.open(trace)
    with_writer = opened.recording("b")
    zarr3.make_group(with_writer.folder, {**with_writer.attributes, "state": "recording"})
    from tracer.store.trace import lock

    with lock(with_writer.folder):
        diff(trace)
    assert not kept(trace).exists()


def test_deleted_and_renamed_recordings_take_their_comparisons_along(trace: Path) -> None:
    diff(trace)
    assert kept(trace).exists()
    opened = Trace.open(trace)
    opened.rename("b", "c")
    assert not (trace / "comparisons" / "a").exists()
    tracer.diff(opened.recording("a"), opened.recording("c"))
    opened.delete("a")
    assert not list((trace / "comparisons").glob("*/"))
    assert zarr.open_group(trace, mode="r")["recordings/c"] is not None


def test_gradients_are_kept_beside_the_values(trace_path: Path, reads: list[tuple[str, bool]]) -> None:
    tracer.record(net(), X, name="a", trace=trace_path, loss="mean")
    tracer.record(net(1.001), name="b", trace=trace_path, loss="mean")
    values, gradients = diff(trace_path).to_json(), diff(trace_path, of="gradients").to_json()
    reads.clear()
    assert diff(trace_path, of="gradients").to_json() == gradients
    assert diff(trace_path).to_json() == values
    assert not any(verify for _, verify in reads)
