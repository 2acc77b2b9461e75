"""Mapping files and ``tracer map``: what a person writes is checked, what tracer writes reads back the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.cli import refused
from tracer.alignment import Alignment, Ambiguous, Pair, align
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.dumping import dump
from tracer.alignment.mapping import Mapping, constraints, load
from tracer.cli.main import run
from tracer.errors import InputError
from tracer.graph import Node, Param, Structure
from tracer.report.pairing import Listing

DEPTHS = (2, 3)
PARTS = ("query", "key", "dense")


def model(*names: str, torch: bool) -> Structure:
    """Nodes in a row, channels last or first."""
    nodes = [Node("x", "input", "x", role="input", shape=(2, 4, 7) if torch else (2, 7, 4))]
    for name in names:
        nodes.append(
            Node(
                name, "conv1d", "Conv1D", parents=(nodes[-1].name,), shape=nodes[0].shape,
                params=(Param("k", (3, 4, 4), "float32"),), owner=name,
            )
        )  # fmt: skip
    return Structure(tuple(nodes), (nodes[-1].name,))


BERT = model("stem", *(f"enc/layer_._{i}/{part}" for i in range(5) for part in PARTS), "head{i}", torch=False)
PORT = model("stem", *(f"h.{i}.{part}" for i in range(5) for part in PARTS), "extra", "out*", torch=True)
STAGES = model(
    *(f"s{i + 1}/l{j}/{part}" for i, d in enumerate(DEPTHS) for j in range(d) for part in PARTS), torch=False
)
TWINS = model(*(f"s.{i}.{j}.{part}" for i, d in enumerate(DEPTHS) for j in range(d) for part in PARTS), torch=True)


def read(tmp_path: Path, text: str, name: str = "m.yaml") -> Mapping:
    (tmp_path / name).write_text(text)
    return load(tmp_path / name)


def aligned(pairs: dict[str, str], a: Structure, b: Structure, doubt: dict[str, float] | None = None) -> Alignment:
    """An alignment of these pairs; all else is unmatched."""
    found = [Pair((one,), (two,), (0, 2, 1), (doubt or {}).get(one, 0.99), {"kind": 1.0}) for one, two in pairs.items()]
    return Alignment(
        tuple(found),
        {n.name: "nothing alike" for n in a if n.name not in pairs},
        {n.name: "nothing alike" for n in b if n.name not in pairs.values()},
    )


BLOCKS = {f"enc/layer_._{i}/{part}": f"h.{i}.{part}" for i in range(5) for part in PARTS}
NESTED = {
    f"s{i + 1}/l{j}/{part}": f"s.{i}.{j}.{part}" for i, d in enumerate(DEPTHS) for j in range(d) for part in PARTS
}


def pairs_of(mapping: Mapping) -> dict[str, str]:
    return {entry.reference[-1]: entry.candidate[-1] for entry in mapping.pairs}


def test_a_pattern_stands_for_its_pairs(tmp_path: Path) -> None:
    mapping = read(
        tmp_path,
        "pairs:\n"
        '  - {reference: "enc/layer_._{i}/query", candidate: "h.{i}.query", i: 0..2, axes: [0, 2, 1]}\n'
        '  - {reference: "enc/layer_._{i}/key", candidate: "h.{i+1}.key"}\n'
        '  - {reference: "head{i}", candidate: "out*"}\n',
    )
    found = mapping.resolve(BERT, PORT)
    assert pairs_of(found) == {
        **{f"enc/layer_._{i}/query": f"h.{i}.query" for i in range(3)},
        **{f"enc/layer_._{i}/key": f"h.{i + 1}.key" for i in range(4)},
        "head{i}": "out*",  # names of nodes, whatever they are made of
    }
    assert {entry.axes for entry in found.pairs if "query" in entry.reference[0]} == {(0, 2, 1)}


def test_a_pattern_with_a_star_lays_block_on_block(tmp_path: Path) -> None:
    text = (
        'pairs: [{reference: "enc/layer_._{i}/*", candidate: "h.{i}.*", i: 1..3}, {reference: stem, candidate: extra}]'
    )
    mapping = read(tmp_path, text)
    wanted = [
        (frozenset(f"enc/layer_._{i}/{part}" for part in PARTS), frozenset(f"h.{i}.{part}" for part in PARTS))
        for i in (1, 2, 3)
    ]
    assert constraints(mapping, BERT, PORT) == wanted
    resolved = mapping.resolve(BERT, PORT)
    assert pairs_of(resolved) == {"stem": "extra"}
    assert constraints(resolved, BERT, PORT) == wanted


def test_the_engine_obeys_patterns_and_fills_in_the_rest(tmp_path: Path) -> None:
    text = 'pairs: [{reference: "enc/layer_._{i}/*", candidate: "h.{i+1}.*"}, {reference: stem, candidate: h.0.key}]'
    found = align(BERT, PORT, read(tmp_path, text))
    within = {one: two for one, two in BLOCKS.items() if not one.startswith("enc/layer_._4")}
    assert {pair.aligned: pair.candidate[-1] for pair in found.pairs if pair.aligned in within} == {
        one: f"h.{int(two[2]) + 1}.{two[4:]}" for one, two in within.items()
    }
    assert found.by_reference["stem"].evidence == {"mapping": 1.0}
    assert found.by_reference["x"].candidate == ("x",)


def test_groups_may_be_patterns(tmp_path: Path) -> None:
    text = 'pairs: [{reference: ["enc/layer_._{i}/query", "enc/layer_._{i}/key"], candidate: "h.{i}.dense"}]'
    found = read(tmp_path, text).resolve(BERT, PORT)
    assert found.pairs[3].reference == ("enc/layer_._3/query", "enc/layer_._3/key")
    assert found.pairs[3].candidate == ("h.3.dense",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.toml", 'reference = "tf"\n[[pairs]]\nreference = "stem"\ncandidate = "stem"\naxes = [0, 2, 1]\n'
                   '[[pairs]]\nreference = "enc/layer_._{i}/key"\ncandidate = "h.{i}.key"\ni = [0, 1]\n'
                   '[ignore]\ncandidate = ["extra"]\n[[tolerances]]\nmatch = "h*"\natol = 1e-3\n'),
        ("m.json", '{"reference": "tf", "pairs": [{"reference": "stem", "candidate": "stem", "axes": [0, 2, 1]},'
                   '{"reference": "enc/layer_._{i}/key", "candidate": "h.{i}.key", "i": "0..1"}],'
                   '"ignore": {"candidate": "extra"}, "tolerances": [{"match": "h*", "atol": 0.001}]}'),
        ("m.yaml", "reference: tf\npairs:\n- {reference: stem, candidate: stem, axes: [0, 2, 1]}\n"
                   '- {reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", i: [0, 1]}\n'
                   "ignore: {reference:, candidate: [extra]}\ntolerances: [{match: h*, atol: 1e-3}]\n"),
    ],
)  # fmt: skip
def test_yaml_toml_and_json_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    mapping = read(tmp_path, text, name)
    found = mapping.resolve(BERT, PORT)
    assert pairs_of(found) == {"stem": "stem", "enc/layer_._0/key": "h.0.key", "enc/layer_._1/key": "h.1.key"}
    assert found.pairs[0].axes == (0, 2, 1)
    assert mapping.ignores("candidate", "extra")
    assert mapping.tolerance("h.0.key").atol == 1e-3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{reference: "enc/layer_._{i}/quary", candidate: "h.{i}.query"}', r"did you mean enc/layer_\._\{i\}/query"),
        ('{reference: "enc/layer_{i}/*", candidate: "h.{i}.*"}', r"reference fits .* mean enc/layer_\._\{i\}/\*"),
        ('{reference: "enc/layer_._{i}/*", candidate: "hh.{i}.*"}', r"candidate fits .* mean h\.\{i\}\.\*"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.0.key"}', r"\{i\} of .* has no counterpart in 'h\.0\.key'"),
        ('{reference: "enc/layer_._0/key", candidate: "h.{j}.key"}', r"\{j\} of .* has no counterpart"),
        ('{reference: "enc/layer_._{i}/*", candidate: "h.{i}.key"}', "on one side needs one on the other"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", i: 0..5}', r"i = 5 \(it has i = 0\.\.4\)"),
        ('{reference: "enc/layer_._{4i+4}/key", candidate: "h.{i-1}.key"}', "no number in common: i = 0 in .* 1..5 in"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", i: 5..1}', "no range"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", i: all}', "numbers such as 0..11"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", j: 1}', "has a range of j but no {j}"),
        ("{reference: stem, candidate: stem, i: 1}", "has a range of i but no {i}"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key", axes: [0, 1, 2]}', "axes .* do not turn"),
        ('{reference: "enc/layer_._{i}/*", candidate: "h.{i}.*", axes: [0, 1, 2]}', "axes belong to single nodes"),
        ('{reference: "enc/*/key", candidate: "h.{i}.key"}', "stands at the end only"),
        ('{reference: "stem{x}zzzz", candidate: "stem"}', "numbers are written"),
        ('{reference: "enc/layer_._{i}/key", candidate: "h.{i}.key"}, {reference: enc/layer_._1/key, candidate: extra}',
         "'enc/layer_._1/key' of the reference is in two pairs"),
        ('{reference: "enc/layer_._{i}/*", candidate: "h.{i}.*"}, {reference: "enc/layer_._1/*", candidate: "h.2.*"}',
         "in two patterns"),
        ('{reference: "enc/layer_._{i}/*", candidate: "h.{i}.*"}, {reference: enc/layer_._1/key, candidate: h.2.key}',
         "in blocks that are not"),
    ],
)  # fmt: skip
def test_what_a_person_mistypes_is_one_line_that_helps(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, f"pairs: [{text}]").check(BERT, PORT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.yaml", "ignore: {candidate: [extar]}", "ignore: .* did you mean extra"),
        ("m.toml", "pairs = [", "cannot read"),
        ("m.json", '{"pairs": [], "pairs": []}', "repeated"),
        ("m.json", "{", "cannot read"),
        ("m.json", "[]", "dictionary"),
        ("m.yaml", "pairs: [{reference: stem, canidate: stem}]", "entry 1 of pairs: .* 'canidate' .* mean candidate"),
        ("m.yaml", "pairs: [{reference: stem}]", "entry 1 of pairs: 'candidate' is missing"),
        ("m.yaml", "pair: []", "no key 'pair' is known; did you mean pairs"),
        ("m.yaml", "pairs: [{reference: stem, candidate: stem, axes: NWC}]", "axes of entry 1 of pairs: a list wanted"),
        ("m.yaml", "ignore: [extra]", "ignore: a dictionary wanted, of reference, candidate"),
        ("m.yaml", "tolerances: [{match: s*, atol: -1}]", "atol of entry 1 of tolerances: must be greater"),
        ("m.yaml", "tolerances: [{match: stmm, atol: 1}]", "tolerances: .* did you mean stem"),
        ("m.yaml", "pairs: [{reference: extra, candidate: stem}]", "no node 'extra'; the candidate has it"),
        ("m.yaml", "pairs: [{reference: stem, candidate: stem, ranges: {i: [0]}}]", "a key of its own"),
        ("m.yaml", "pairs: [{reference: 'h{i}', candidate: 'h{i}', i: '0..99999, 0..99999'}]", "more than 100000"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, text, name).check(BERT, PORT)
    assert "\n" not in str(caught.value)


def test_ignoring_by_a_glob_that_fits_nothing_is_no_mistake(tmp_path: Path) -> None:
    """A file that serves several versions of a model ignores what only some of them have."""
    mapping = read(tmp_path, 'ignore: {reference: ["dropout*", "head{i}"]}')
    mapping.check(BERT, PORT)
    assert mapping.ignores("reference", "head{i}")


@pytest.mark.parametrize(
    ("pairs", "a", "b", "entries"),
    [
        ({"stem": "stem", **BLOCKS}, BERT, PORT, 4),
        ({"head{i}": "out*", **{k: v for k, v in BLOCKS.items() if k != "enc/layer_._2/key"}}, BERT, PORT, 4),
        (NESTED, STAGES, TWINS, 3),
        ({k: v for k, v in NESTED.items() if k != "s2/l1/key"}, STAGES, TWINS, None),
        ({k: v for k, v in NESTED.items() if k[:2] == "s2"} | {"s1/l0/key": "s.0.1.key"}, STAGES, TWINS, None),
        ({}, BERT, PORT, 0),
    ],
)  # fmt: skip
def test_what_is_written_reads_back_as_the_same_pairs(
    pairs: dict[str, str], a: Structure, b: Structure, entries: int | None, tmp_path: Path
) -> None:
    text = dump(aligned(pairs, a, b), "tf", "pt")
    mapping = read(tmp_path, text)
    assert pairs_of(mapping.resolve(a, b)) == pairs
    assert len(mapping.pairs) == entries if entries is not None else len(mapping.pairs) < len(pairs)
    assert {entry.axes for entry in mapping.pairs} <= {(0, 2, 1)}


def test_an_order_that_axes_cannot_say_is_left_to_tracer(tmp_path: Path) -> None:
    """A flattened tensor whose values move: ``axes: [0, 1]`` would say that they do not."""
    moved = Rearrangement.parse("n (h w c) -> n (c h w)", {"n": 2, "h": 2, "w": 3, "c": 4})
    one = Pair(("flat",), ("flatten",), (0, 1), 1.0, {"values": 1.0}, arrangement=moved)
    other = Pair(("dense",), ("fc",), (0, 1), 1.0, {"values": 1.0})
    text = dump(Alignment((one, other), {}, {}), "a", "b")
    assert [entry.axes for entry in read(tmp_path, text).pairs] == [None, (0, 1)]
    assert "values move n (h w c) → n (c h w)" in text


def test_doubt_is_written_beside_the_pair_and_below_the_bar_as_a_comment(tmp_path: Path) -> None:
    doubt = {"stem": 0.75, "enc/layer_._1/key": 0.5}
    alignment = aligned({"stem": "stem", **BLOCKS}, BERT, PORT, doubt)
    text = dump(alignment, "tf", "pt")
    assert 'candidate: "stem"  # confidence 0.75' in text
    assert 'candidate: "h.{i}.key"  # confidence 0.50 and more' in text
    text = dump(alignment, "tf", "pt", accept=0.9)
    left = pairs_of(read(tmp_path, text).resolve(BERT, PORT))
    assert left == {one: two for one, two in BLOCKS.items() if one != "enc/layer_._1/key"}
    admitted = text.replace("\n  # - ref", "\n  - ref").replace("\n  #   ", "\n    ")
    assert pairs_of(read(tmp_path, admitted).resolve(BERT, PORT)) == {"stem": "stem", **BLOCKS}
    everything = dump(alignment, "tf", "pt", accept=1.0)
    assert read(tmp_path, everything).pairs == ()


def test_what_is_ambiguous_is_written_ready_to_be_let_in(tmp_path: Path) -> None:
    alignment = Alignment((), {"stem": "ambiguous: stem or extra"}, {}, (Ambiguous(
        "stem", (("stem", 0.52), ("extra", 0.47)), "two alike\nside by side"),))  # fmt: skip
    text = dump(alignment, "tf", "pt")
    assert read(tmp_path, text).pairs == ()
    chosen = text.replace("# - reference", "- reference").replace('#   candidate: "extra"', '  candidate: "extra"')
    assert pairs_of(read(tmp_path, chosen).resolve(BERT, PORT)) == {"stem": "extra"}
    assert "unmatched" not in text
    both = chosen.replace('#   candidate: "stem"', '  candidate: "stem"')
    with pytest.raises(InputError, match="repeated"):
        read(tmp_path, both)


def test_a_persons_entries_stay_as_they_wrote_them(tmp_path: Path) -> None:
    mapping = read(
        tmp_path,
        "# our port of 2026\n# see the wiki\n\nreference: a\npairs:\n"
        '- {reference: "enc/layer_._{i}/*", candidate: "h.{i}.*", i: "0..2, 4"}\n'
        "- {reference: stem, candidate: extra, axes: [0, 2, 1]}\n"
        'ignore: {candidate: ["stem", "o*"]}\ntolerances: [{match: "h*", rtol: 1e-3, reason: "seen: by us"}]\n',
    )
    own = Pair(("stem",), ("extra",), (0, 2, 1), 1.0, {"mapping": 1.0})
    rest = aligned(BLOCKS, BERT, PORT)
    text = dump(Alignment((own, *rest.pairs)), "tf", "pt", mapping=mapping)
    assert text.startswith("# our port of 2026\n# see the wiki\nreference:")
    again = read(tmp_path, text)
    assert again.pairs[:2] == mapping.pairs
    assert (again.ignore, again.tolerances) == (mapping.ignore, mapping.tolerances)
    assert pairs_of(again.resolve(BERT, PORT)) == {"stem": "extra", **BLOCKS}


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    names = [
        "\x1b[31mred\nx",
        "a: #b",
        "{i}*",
        "on",
        "\u202eleft",
        "[bold]{{i}}",
        *(f"odd\x07{i}/#{i}" for i in range(3)),
    ]
    a, b = model(*names, torch=False), model(*(f"'{name}\"" for name in names), torch=True)
    pairs = {name: f"'{name}\"" for name in names[1:]}
    text = dump(aligned(pairs, a, b, dict.fromkeys(names, 0.5)), "t\nf", "pt")
    assert pairs_of(read(tmp_path, text).resolve(a, b)) == pairs
    shown = "\n".join(line.plain for line in Listing(aligned(pairs, a, b), ("tf", "pt"), a).lines(80))
    for printed in (text, shown):
        assert not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_an_output_that_is_compared_twice_does_not_spoil_the_file(tmp_path: Path) -> None:
    pairs = aligned(BLOCKS, BERT, PORT).pairs
    twice = Pair(("head{i}",), ("h.4.dense",), None, 0.5, {"output": 1.0})
    same = Pair(("enc/layer_._4/dense",), ("out*",), None, 0.5, {"output": 1.0})
    text = dump(Alignment((same, *pairs, twice)), "tf", "pt")
    assert pairs_of(read(tmp_path, text).resolve(BERT, PORT)) == BLOCKS
    assert "# compared too: head{i} and h.4.dense" in text
    assert "# compared too: enc/layer_._4/dense and out*" in text


def listed(alignment: Alignment, width: int, **more: Any) -> list[str]:
    return [line.plain for line in Listing(alignment, ("tf", "pt"), BERT, **more).lines(width)]


def test_what_is_shown_is_sorted_by_doubt_and_never_cut() -> None:
    doubt = {"stem": 0.8, "enc/layer_._1/key": 0.5, "enc/layer_._2/key": 0.6, "head{i}": 0.3}
    lines = listed(aligned({"stem": "stem", **BLOCKS, "head{i}": "out*"}, BERT, PORT, doubt), 44)
    assert any(line.endswith(("⇄ h.{i}.*   i = 0…4: 5 × 3 pairs", "i = 0…4: 5 × 3 pairs  NWC→NCW")) for line in lines)
    assert any(line.split()[:2] == ["≥0.50", "enc/layer_._{i}/*"] for line in lines)
    start = next(at for at, line in enumerate(lines) if line.startswith("in doubt"))
    shown = [line.split()[:2] for line in lines[start + 1 :] if line.strip()[:2] == "0."]
    assert shown == [
        ["0.30", "head{i}"], ["0.50", "enc/layer_._1/key"], ["0.60", "enc/layer_._2/key"], ["0.80", "stem"],
    ]  # fmt: skip
    assert max(map(len, lines)) <= 60  # nothing is padded
    assert lines[-1] == "17 pairs: 13 sure, 4 in doubt; unmatched: 1 in tf, 2 in pt"
    wide = listed(aligned({"stem": "stem", **BLOCKS}, BERT, PORT), 200)
    assert wide[0].split() == ["tf", "pt", "shape", "axes", "conf", "evidence"]
    assert wide[2].split()[:3] == ["enc/layer_._{i}/*", "⇄", "h.{i}.*"]


def test_what_is_ambiguous_is_shown_with_its_alternatives() -> None:
    choices = tuple((f"h.{i}.query", 0.2) for i in range(5))
    found = (Ambiguous("enc/layer_._3/query", (*choices, ("extra", 0.01)), "one of five blocks that look alike"),)
    lines = listed(Alignment((), {"enc/layer_._3/query": "ambiguous: …", "stem": "nothing alike"}, {}, found), 200)
    at = next(at for at, line in enumerate(lines) if line.startswith("ambiguous"))
    assert lines[at + 1].startswith("  enc/layer_._3/query: h.0.query 0.20 or h.1.query 0.20 or ")
    assert lines[at + 1].endswith("or 1 other")
    assert lines[at + 2].strip() == "one of five blocks that look alike"
    assert lines[-1] == "0 pairs: 0 sure; 1 ambiguous; unmatched: 1 in tf"
    assert sum("enc/layer_._3/query" in line for line in lines) == 1


def test_alternatives_are_not_told_twice() -> None:
    two = Ambiguous("stem", (("stem", 0.5), ("extra", 0.5)), "ambiguous: stem or extra")
    one = Ambiguous("head", (("out", 0.6),), "ambiguous: out, or nothing")
    lines = listed(Alignment((), {}, {}, (two, one)), 200)
    at = next(at for at, line in enumerate(lines) if line.startswith("ambiguous"))
    assert lines[at + 1 : at + 3] == ["  stem: stem 0.50 or extra 0.50", "  head: out 0.60 or nothing"]


def test_long_lists_are_cut_unless_everything_is_wanted() -> None:
    words = [f"{a}{b}" for a in "abcdefgh" for b in "stuvwxyz"]
    alignment = Alignment((), dict.fromkeys(words, "nothing alike"))
    lines = listed(alignment, 80)
    assert "  … and 44 lines more: --all" in lines
    assert sum(line.strip() in words for line in lines) == 20
    assert sum(line.strip() in words for line in listed(alignment, 80, everything=True)) == len(words)


def test_the_documented_mapping_file_can_be_read(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "alignment.md"
    (text,) = re.findall(r"```yaml\n(.*?pairs:.*?)```", page.read_text(), re.DOTALL)
    mapping = read(tmp_path, text)
    assert mapping.pairs[-1].reference[0].endswith("/layer_._{i}/*")
    assert mapping.tolerances[0].reason == "accepted in review"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keras, PyTorch and ONNX recordings of one network of three blocks, and a PyTorch one with another epsilon."""
    keras = pytest.importorskip("keras")
    onnx = pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    from tests.onnx_graphs import floats, node
    from tests.onnx_graphs import model as graph

    rng = np.random.default_rng(0)
    weights = [(rng.normal(size=(6, 6)).astype("f4"), rng.normal(size=6).astype("f4")) for _ in range(3)]

    class Block(torch.nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.fc, self.act, self.norm = torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.LayerNorm(6, eps=slope)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.act(self.fc(x))) + x  # type: ignore[no-any-return]

    def port(eps: float) -> torch.nn.Module:
        net = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([Block(eps) for _ in range(3)])})
        for block, (kernel, bias) in zip(net["layer"], weights, strict=True):  # type: ignore[arg-type]
            block.fc.weight.data, block.fc.bias.data = torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias)

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = net

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for block in self.encoder["layer"]:  # type: ignore[attr-defined]
                    x = block(x)
                return x

        return Net().eval()

    x = start = keras.Input((6,), name="x")
    for i in range(3):
        y = keras.layers.Dense(6, name=f"block{i + 1}_fc")(x)
        y = keras.layers.Activation("tanh", name=f"block{i + 1}_act")(y)
        y = keras.layers.LayerNormalization(epsilon=1e-3, name=f"block{i + 1}_norm")(y)
        x = keras.layers.Add(name=f"block{i + 1}_add")([y, x])
    twin = keras.Model(start, x)
    for i, (kernel, bias) in enumerate(weights):
        twin.get_layer(f"block{i + 1}_fc").set_weights([kernel, bias])

    initial: dict[str, np.ndarray] = {"g": np.ones(6, "f4"), "z": np.zeros(6, "f4")}
    nodes, last = [], "x"
    for i, (kernel, bias) in enumerate(weights):
        initial |= {f"w{i}": kernel, f"b{i}": bias}
        nodes += [
            node("Gemm", f"{last} w{i} b{i}", f"fc{i}"), node("Tanh", f"fc{i}", f"act{i}"),
            node("LayerNormalization", f"act{i} g z", f"norm{i}", epsilon=1e-3),
            node("Add", f"norm{i} {last}", f"add{i}"),
        ]  # fmt: skip
        last = f"add{i}"
    assert onnx is not None
    path = tmp_path_factory.mktemp("map") / "trace.zarr"
    tracer.record(twin, rng.normal(size=(3, 6)).astype("f4"), name="A", trace=path)
    tracer.record(port(1e-3), name="B", trace=path)
    tracer.record(graph(nodes, [floats("x", "n", 6)], last, initial), name="C", trace=path)
    tracer.record(port(1e-1), name="D", trace=path, reference="B")
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """What ``tracer ARGUMENTS`` prints."""
    assert run(list(map(str, arguments))) == code
    return capsys.readouterr().out


def test_all_recordings_align_to_one_reference_and_any_two_are_compared(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = tracer.open(trace)
    assert [opened.recording(name).attributes["reference"] for name in "ABCD"] == [None, "A", "A", "B"]
    first = opened.recording("A")
    for name in "BCD":
        one = opened.recording(name)
        for kind, mine, theirs in (
            ("layers", one.activations, first.activations), ("weights", one.weights, first.weights),
        ):  # fmt: skip
            inside = {stored.path for stored in mine.values() if stored.path.startswith(kind)}
            assert len(inside) >= 6
            assert inside <= {stored.path for stored in theirs.values()}, name
    for name in "BC":
        assert bool(tracer.diff(opened.recording("A"), opened.recording(name)))
    between = tracer.diff(opened.recording("B"), opened.recording("C"))
    assert bool(between)
    assert {pair.aligned: pair.pair.candidate[-1] for pair in between.pairs if "fc" in pair.aligned} == {
        f"encoder.layer.{i}.fc": f"fc{i}" for i in range(3)
    }
    listed = json.loads(said(capsys, "runs", "--json", "--trace", trace))["recordings"]
    assert [(r["reference"], bool(r["pairs"])) for r in listed] == [
        (None, False),
        ("A", True),
        ("A", True),
        ("B", True),
    ]
    assert "aligned to" in said(capsys, "runs", "--trace", trace)
    assert said(capsys, "diff", "C", "D", "--trace", trace, code=1).count("first divergence: norm0") == 1


def test_map_folds_blocks_and_shows_each_pair_on_request(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folded = said(capsys, "map", "A", "B", "--trace", trace)
    assert "block{i}_*" in folded
    assert "encoder.layer.{i-1}.*" in folded
    assert "i = 1…3: 3 × 4 pairs" in folded
    assert "block2_fc " not in folded
    whole = said(capsys, "map", "A", "B", "--all", "--trace", trace)
    assert sum(line.startswith("block") for line in whole.splitlines()) == 12
    assert folded.splitlines()[-2:] == whole.splitlines()[-2:]
    assert folded.splitlines()[-2].startswith("13 pairs: ")
    plain = said(capsys, "map", "A", "B", "--ascii", "--trace", trace)
    assert plain.isascii()
    assert "i = 1..3: 3 x 4 pairs" in plain


@pytest.mark.parametrize("ascii_only", [False, True])
def test_map_has_straight_columns(trace: Path, ascii_only: bool) -> None:
    a, b = (tracer.open(trace).recording(name) for name in "AB")
    listing = Listing(align(a, b), ("A", "B"), a.structure, ascii_only=ascii_only)
    head, *rows = [line.plain for line in listing.lines(1000)]
    rows = rows[: rows.index("")]
    assert len(rows) > 1
    starts = [head.index(column) for column in ("shape", "axes", "evidence")]
    arrow = "<>" if ascii_only else "⇄"
    starts.append(next(row.index(f"  {arrow}  ") for row in rows) + 2)
    assert all(row[at - 1] == " " != row[at] for row in rows for at in starts), "\n".join([head, *rows])


def test_map_as_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "map", "A", "B", "--json", "--trace", trace))
    assert (found["schema"], found["reference"], found["candidate"]) == ("tracer-map/1", "A", "B")
    assert len(found["pairs"]) == 13
    assert set(found["pairs"][1]) >= {"reference", "candidate", "aligned", "axes", "confidence", "evidence", "shape"}
    assert set(found["unmatched"]) == {"reference", "candidate"}
    assert found["ambiguous"] == []
    (pattern,) = found["patterns"]
    assert (pattern["reference"], pattern["candidate"]) == ("block{i}_*", "encoder.layer.{i-1}.*")
    assert (pattern["variables"], pattern["blocks"], pattern["pairs"]) == (["i"], [[1], [2], [3]], [4, 4, 4])


def test_map_writes_a_file_that_diff_takes(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.yaml"
    said(capsys, "map", "A", "B", "--write", out, "--trace", trace)
    assert out.read_text().count("- reference") == 5
    said(capsys, "map", "A", "B", "--write", out, "--trace", trace, code=2)
    said(capsys, "map", "A", "B", "--write", tmp_path / "m.toml", "--trace", trace, code=2)
    mapping = load(out)
    a, b = (tracer.open(trace).recording(name).structure for name in "AB")
    assert len(mapping.resolve(a, b).pairs) == 13
    said(capsys, "map", "A", "B", "--write", out, "--force", "--accept", "1", "--trace", trace)
    assert "left to tracer" in out.read_text()
    out.write_text("pairs: [{reference: block1_fk, candidate: encoder.layer.0.fc}]")
    refused("diff", "A", "B", "--map", out, "--trace", trace, cwd=tmp_path, says="did you mean block1_fc")
