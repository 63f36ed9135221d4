"""`lossserver estimate`."""

import pytest

from lossserver.commands import run


def test_it_says_bytes_times_and_whether_it_pays(capsys: pytest.CaptureFixture[str]):
    """A line each, and a sentence."""
    code = run(["estimate", "CrossEntropyLoss:4096x1024"])
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert [line.split()[0] for line in lines] == [
        "up", "down", "inline", "pieces", "shared", "locally", "Going",
    ]  # fmt: skip


def test_it_measures_if_it_is_asked(capsys: pytest.CaptureFixture[str]):
    """What computing takes here stands in place of the model."""
    code = run(["estimate", "FocalLoss:64x80", "--bandwidth", "1e9", "--measure"])

    assert code == 0
    assert "stream" in capsys.readouterr().out


@pytest.mark.parametrize("call", ["NoLoss:3x4", "FocalLoss"])
def test_a_call_that_is_none_is_said_to_be_none(call: str, capsys: pytest.CaptureFixture[str]):
    """One line, and exit code 1."""
    code = run(["estimate", call])

    assert code == 1
    assert capsys.readouterr().err.startswith("lossserver: ")
