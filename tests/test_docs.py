"""docs/losses.md: complete, linked, and what the docstrings say."""

import re
from html import unescape
from itertools import pairwise

import pytest

from lossserver.card import LOSSES, card, served, signature
from scripts.losses_page.axes import PLOTS, boxes, heads
from scripts.losses_page.check import PAGE, PICTURES, complaints, missing
from scripts.losses_page.curves import curves
from scripts.losses_page.page import anchor, page
from scripts.losses_page.plots import draw

#: Bytes that a picture may have: a hundred are on one page.
MOST = 25_000


def test_the_page_has_each_loss_once():
    """Every registered loss has one section, and nothing else has."""
    sections = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)

    assert sorted(sections) == list(LOSSES)


def test_every_link_of_the_contents_leads_somewhere():
    """No two headings share an anchor, and each link names one."""
    text = page()
    anchors = [anchor(heading) for heading in re.findall(r"^##+ (.+)$", text, re.MULTILINE)]

    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= set(anchors)


def test_every_picture_of_the_page_is_there_and_small():
    """Each section of a loss shows one SVG, of at most 25 kB; a head has none."""
    shown = re.findall(r"\]\((losses/.+\.svg)\)", PAGE.read_text())

    assert len(shown) == len(PLOTS) == len(list(LOSSES)) - len(heads.PLOTS)
    assert [path for path in shown if (PAGE.parent / path).stat().st_size > MOST] == []


@pytest.mark.parametrize("name", list(PLOTS))
def test_a_picture_says_what_is_drawn(name):
    """The axis and each line's label are in it, to the last digit."""
    texts = re.findall(r">([^<>]+)</text>", (PICTURES / f"{name}.svg").read_text())
    plot = PLOTS[name]

    assert {plot.axis, *(line.label for line in plot.lines)} <= set(map(unescape, texts))


def test_a_changed_docstring_is_noticed(monkeypatch):
    """The check says which loss the page is out of date with."""
    text = page()
    changed = LOSSES["L1Loss"].__doc__.replace("Absolute error.", "Absolute errors.")
    monkeypatch.setattr(LOSSES["L1Loss"], "__doc__", changed)

    assert any("first at" in line and "make docs" in line for line in complaints(text))
    assert not any("first at" in line for line in complaints(page()))


def test_a_loss_without_a_plot_is_named(monkeypatch):
    """The check says for which loss an axis is wanting."""
    assert missing() == []
    monkeypatch.delitem(boxes.PLOTS, "GIoULoss")

    assert [line.split(":")[0] for line in missing()] == ["GIoULoss"]
    assert complaints() == missing()


def test_a_card_says_what_a_docstring_does_not():
    """Defaults, in the docstring's order; what a call must carry; company, memory and outputs."""
    focal, seesaw = card("FocalLoss"), card("SeesawLoss")

    assert signature(focal, types=False, width=200).startswith(
        "FocalLoss(use_sigmoid=True, gamma=2.0"
    )
    assert {given.name for given in focal.inputs if given.required} == {"pred", "target"}
    assert (focal.batchable, focal.remembers, list(focal.outputs)) == (True, False, ["loss"])
    assert (seesaw.batchable, seesaw.remembers) == (False, True)
    assert "loss_cls_classes" in served(seesaw)


@pytest.mark.parametrize("name", ["FocalLoss", "KTOLoss", "HungarianLoss"])
def test_the_gradient_drawn_is_the_slope_of_the_value_drawn(name):
    """Between two points the value moves by their mean gradient, but where it jumps."""
    for curve in curves(name, PLOTS[name]):
        points = list(zip(curve.x, curve.value, curve.gradient, strict=True))
        misses = [
            abs((v2 - v1) / (x2 - x1) - (g1 + g2) / 2) > 0.02 * max(map(abs, curve.gradient)) + 1e-9
            for (x1, v1, g1), (x2, v2, g2) in pairwise(points)
        ]

        assert sum(misses) <= 6


def test_a_plot_drawn_twice_is_the_same(tmp_path):
    """`make docs` changes no picture whose loss did not change."""
    lines = curves("L1Loss", PLOTS["L1Loss"])
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name, PLOTS["L1Loss"], lines)

    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
