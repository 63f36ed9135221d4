"""docs/losses.md: what the docstrings say, a section a loss and a chapter a family."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType

from lossserver.card import card, default_of, sections, served, signature
from lossserver.registry import LOSSES
from losswire.v1 import loss_pb2 as pb
from scripts.losses_page.axes import FAMILIES, PLOTS

TOP = """\
<!-- Made by `make docs` from the docstrings and scripts/losses_page/. Do not edit. -->

# Losses

What a config's `type` may be: {count} losses and heads. Each picture is the loss itself, called along one axis: its value on the
left, and on the right the gradient that comes back. `lossserver losses NAME` prints the same text in a terminal, and
`client.losses()` returns it as data.

**Families**: {families}
"""

#: Columns of the code on the page.
WIDTH = 100

#: How an equation begins: with what it defines, or with the name of a form. All else is prose.
_EQUATION = re.compile(r"[^\W\d][\w,]*(\([^)]*\))? += |\w+: {2,}")

#: What Markdown would not show as it is: _ at the edge of a word, HTML, GitHub's mathematics.
_SPECIAL = re.compile(r"[\\*~$]|(?<!\w)_|_(?!\w)|<(?=[\w/!])|\[(?=[^\]]*\]\()")

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def page() -> str:
    """The whole page."""
    names = [family.TITLE for family in FAMILIES]
    families = " · ".join(f"[{title}](#{anchor(title)})" for title in names)
    count = sum(len(family.PLOTS) for family in FAMILIES)
    parts = [TOP.format(count=count, families=families), "## Contents\n"]
    parts += [_contents(family) for family in FAMILIES]
    for family in FAMILIES:
        parts.append(f"## {family.TITLE}\n\n{_plain(str(family.__doc__).strip())}\n")
        parts += [section(name) for name in family.PLOTS]
    return "\n".join(parts)


def _picture(name: str) -> list[str]:
    if name not in PLOTS:
        return []
    caption = _plain(PLOTS[name].caption)
    return [
        f"![{name}: value and gradient](losses/{name}.svg)",
        "",
        f"<sub>{caption}</sub>",
        "",
    ]


def anchor(heading: str) -> str:
    """What GitHub makes of a heading, to link to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(name: str) -> str:
    """All about one loss: what it is and looks like first, the tables folded up."""
    found, said = card(name), sections(card(name).text)
    folded = ["<details><summary>Parameters, inputs, returns, raises</summary>", ""]
    folded += [*_tables(found), *_ends(said), "</details>"]
    return "\n".join(
        [
            f"### {name}",
            "",
            _plain(found.summary),
            "",
            *_picture(name),
            *_formula(said[""]),
            "```python",
            _wrapped(signature(found, types=False)),
            "```",
            "",
            *folded,
            "",
            *_notes(found),
            "",
        ]
    )


def _contents(family: ModuleType) -> str:
    lines = [f"**[{family.TITLE}](#{anchor(family.TITLE)})**", ""]
    lines += [f"- [{n}](#{anchor(n)}): {_plain(card(n).summary)}" for n in family.PLOTS]
    return "\n".join([*lines, ""])


def _formula(before: str) -> Iterator[str]:
    """What stands between a docstring's summary and its sections: equations as code, and prose."""
    _, *blocks = before.strip().split("\n\n")
    code: list[str] = []
    for block in blocks:
        lines = block.splitlines()
        # Prose may end in lines of equations, indented.
        split = 0 if _EQUATION.match(block) else _indented_from(lines)
        if split:
            yield from _fenced(code)
            code = []
            yield from (_plain(" ".join(lines[:split])), "")
        if lines[split:]:
            code += ["", *lines[split:]] if code else lines[split:]
    yield from _fenced(code)


def _wrapped(call: str) -> str:
    """A call on lines as full as they may be, and not on one an argument."""
    whole = " ".join(call.split()).replace("( ", "(").replace(", )", ")")
    indent = " " * (call.index("(") + 1)
    return textwrap.fill(whole, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _indented_from(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if line.startswith("    ")), len(lines))


def _fenced(code: list[str]) -> list[str]:
    return ["```text", *code, "```", ""] if code else []


def _tables(found: pb.LossCard) -> Iterator[str]:
    if found.parameters:
        yield from ("| parameter | type | default | |", "|---|---|---|---|")
        for p in found.parameters:
            default = f"`{default_of(p)}`" if p.HasField("default") else "required"
            yield _cells(f"`{p.name}`", f"`{p.type}`", default, _plain(p.text))
        yield ""
    yield from ("| input | | |", "|---|---|---|")
    for given in found.inputs:
        need = "required" if given.required else "optional"
        yield _cells(f"`{given.name}`", need, _plain(given.text))
    yield ""


def _cells(*texts: str) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _ends(said: Mapping[str, str]) -> Iterator[str]:
    for title in ("Returns", "Raises"):
        yield from (f"**{title}** {_plain(' '.join(said[title].split()))}", "")


def _notes(found: pb.LossCard) -> Iterator[str]:
    others = sorted(other for other, name in LOSSES.aliases.items() if name == found.name)
    also = f" Also as {', '.join(f'`{other}`' for other in others)}." if others else ""
    source = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", _plain(found.source))
    yield f"**Source** {source}  "
    yield f"**Computed** {served(found).replace('Alone', 'alone').replace('Together', 'together')}{also}"


def _plain(text: str) -> str:
    """Prose as Markdown shows it unchanged; what is between backticks stays code."""
    parts = text.split("`")
    parts[::2] = [_SPECIAL.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)
