"""lossserver.shelf: kernels on disk are ours alone."""

import os

import pytest

from lossserver.shelf import Shelf


def test_a_directory_that_others_may_write_to_is_refused(tmp_path):
    """A kernel is code that the server runs: nobody else may put one there."""
    tmp_path.chmod(0o777)

    with pytest.raises(ValueError, match="nobody else may write to; given"):
        Shelf(str(tmp_path))


def test_without_a_place_to_write_kernels_last_for_this_run(tmp_path):
    """A server whose disk is read-only serves, and leaves nothing behind."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    shelf = Shelf(str(blocked / "kernels"))

    assert shelf._path.is_dir()

    shelf.close()

    assert not shelf._path.exists()


def test_a_kernel_is_ours_alone_whatever_the_umask(tmp_path):
    """Its directory and those above that had to be made may be written to by nobody else."""
    usual = os.umask(0)
    try:
        shelf = Shelf(str(tmp_path / "above" / "kernels"))
        with shelf.adding(shelf._path / "one") as made:
            (made / "kernel.json").write_text("{}")
    finally:
        os.umask(usual)

    for path in ("above", "above/kernels", "above/kernels/one"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700


def test_what_a_failed_compiler_leaves_is_removed(tmp_path):
    """And nothing else of what another server is making in the same directory."""
    shelf = Shelf(str(tmp_path))

    def fail():
        with shelf.adding(tmp_path / "mine") as made:
            (made.parent / "inductor").mkdir()
            raise RuntimeError

    with shelf.adding(tmp_path / "theirs") as theirs:
        (theirs / "kernel.json").write_text("{}")
        with pytest.raises(RuntimeError):
            fail()
        (theirs.parent / "inductor").mkdir()

    assert [one.name for one in tmp_path.iterdir()] == ["theirs"]
