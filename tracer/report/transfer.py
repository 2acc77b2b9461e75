"""A transfer of weights as text: what was carried and how, what was not, and what running it says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.text import Text

from tracer.alignment.owned import Key
from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.names import display
from tracer.report import causes, text, words
from tracer.weighing.transfer import Transferred, agrees, shown

_MOST = 6
"""Names that are listed of many."""


def summary(done: Transferred, *, everything: bool = False, ascii_only: bool = False, width: int = 120) -> Text:
    """What a person reads: the account of all tensors, then the verdict as ``tracer diff`` prints it."""
    out = Text()
    for line, style in _account(done, everything):
        out.append(f"{line}\n", style)
    if done.diff is not None:
        out.append("\n")
        out.append_text(text.summary(done.diff))
        for line, style in _verdict(done, min(width, 160)):
            out.append(f"{line}\n", style)
    glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
    if done.refused:
        out.append(f"\n{glyphs[Verdict.DIVERGED]} nothing written: {done.refused}\n", "bold red")
    return Text(words.to_ascii(out.plain)) if ascii_only else out


def plain(done: Transferred) -> str:
    """The text without colour, for ``str(transferred)``."""
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(summary(done, width=160), end="", soft_wrap=True)
    return capture.get().rstrip("\n")


def _account(done: Transferred, everything: bool) -> Iterator[tuple[str, str]]:
    found = done.carried
    title = f"{display(done.source.name)} ({display(done.source.model, 40)})"
    title += f" → {display(done.target.name)} ({display(done.target.model, 40)})"
    numbers = sum(value.size for value in found.values.values())
    yield f"{title}   {words.count(len(found.values), 'tensor')}, {numbers:,} numbers", ""
    parts = [f"{len(found.made)} carried"]
    parts += [f"{len(names)} {what}" for names, what in (
        (found.kept, "kept as they are"), (found.missing, "missing"), (found.left_over, "left over"),
        (found.spent, "of the source not needed"),
    ) if names]  # fmt: skip
    yield ", ".join(parts), "" if found.whole else "bold yellow"
    if everything:
        for key, how in found.made.items():
            yield f"  {shown(key)}: {display(how)}", ""
    else:
        ways = _ways(done)
        said = [f"{count} × {display(how)}" if count > 1 else display(how) for how, count in ways.most_common(_MOST)]
        more = f"; {len(ways) - _MOST} more ways (--all)" if len(ways) > _MOST else ""
        yield f"  {'; '.join(said)}{more}", "dim"
    for names, what in ((found.missing, "missing"), (found.left_over, "left over")):
        yield from _named(names, what, "bold yellow", everything)
    if everything:
        yield from _named(found.kept, "kept", "", everything)
        yield from _named(found.spent, "not needed", "", everything)
    if found.doubtful:
        doubtful = {key: f"confidence {sure:.2f}" for key, sure in found.doubtful.items()}
        yield from _named(doubtful, "not sure", "yellow", everything)
    if found.rounded:
        yield f"  rounded to the target's type: {words.count(len(found.rounded), 'tensor')}", ""


def _ways(done: Transferred) -> Counter[str]:
    """How the tensors were made, and how many so; what differs by the name of a layer only is one way."""
    made = Counter(done.carried.made.values())
    owners = {owner for side in (done.source, done.target) for owner, _ in side.weights if owner}
    name = re.compile("|".join(rf"(?<!\w){re.escape(display(o))}(?!\w)" for o in sorted(owners, key=len, reverse=True)))
    alike: dict[str, Counter[str]] = {}
    for how, count in made.items():
        alike.setdefault(name.sub("…", how) if owners else how, Counter())[how] += count
    return Counter({how if len(found) > 1 else next(iter(found)): found.total() for how, found in alike.items()})


def _named(names: Mapping[Key, str], what: str, style: str, everything: bool) -> Iterator[tuple[str, str]]:
    listed = list(names.items())[: None if everything else _MOST]
    for key, why in listed:
        yield f"  {what}: {shown(key)} ({display(why)})", style
    if len(listed) < len(names):
        yield f"  {what}: {len(names) - len(listed)} more (--all)", style


def _verdict(done: Transferred, width: int) -> Iterator[tuple[str, str]]:
    for pair in done.outputs:
        name = "outputs" if len(done.outputs) == 1 else f"output {display(pair.aligned)}"
        if pair.stats is None:
            continue
        off = f"{name}: largest difference {words.number(pair.stats.max_abs)}, rel L2 {words.number(pair.stats.rel_l2)}"
        if agrees(pair) and pair.verdict is Verdict.MATCH:
            yield f"{off}: equal within the tolerance", "green"
        elif agrees(pair):
            yield f"{off}: equal to within rounding", "green"
        else:
            yield f"{off}: apart", "bold red"
    for sentence in done.unproven:
        yield f"{display(sentence)}: not compared", "bold yellow"
    if done.staying:
        yield "", ""
        yield "what stays different whatever the weights:", "bold"
    for one in done.staying:
        assert done.diff is not None
        yield f"  {causes.where(one, done.diff)}", "bold red"
        yield from causes.of(one, width=width, brief=True)
