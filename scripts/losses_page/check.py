"""Is docs/losses.md what the docstrings say? Draws nothing, and takes no longer than an import."""

from collections import Counter
from pathlib import Path

from lossserver.registry import LOSSES
from scripts.losses_page.axes import FAMILIES, PLOTS
from scripts.losses_page.page import page

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
PICTURES = PAGE.with_suffix("")


def complaints(text: str | None = None) -> list[str]:
    """What is wrong with the page and its pictures, a line each; `text` stands in for the page."""
    said = missing()
    if said:
        return said
    text = PAGE.read_text() if text is None else text
    expected = page()
    if text != expected:
        where = _first_difference(text, expected)
        said.append(f"docs/losses.md is not what the docstrings say, first at {where}")
    drawn = {path.stem for path in PICTURES.glob("*.svg")}
    said += [f"docs/losses/{name}.svg is missing" for name in sorted(set(PLOTS) - drawn)]
    said += [f"docs/losses/{name}.svg is of no loss" for name in sorted(drawn - set(PLOTS))]
    return [f"{line}: run 'make docs'" for line in said]


def missing() -> list[str]:
    """Losses without a plot, or with two, and plots without a loss: the page cannot be made."""
    listed = Counter(name for family in FAMILIES for name in family.PLOTS)
    known, where = set(LOSSES), "scripts/losses_page/axes"
    return [
        *(f"{name}: say in {where} how it is drawn" for name in sorted(known - set(listed))),
        *(f"{name}: drawn in {where}, but not registered" for name in sorted(set(listed) - known)),
        *(f"{name}: drawn twice in {where}" for name, count in listed.items() if count > 1),
    ]


def _first_difference(ours: str, expected: str) -> str:
    heading = "the top"
    for old, new in zip(ours.splitlines(), expected.splitlines(), strict=False):
        if new.startswith("### "):
            heading = new.removeprefix("### ")
        if old != new:
            break
    return heading
