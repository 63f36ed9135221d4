"""Kernels: made in a process of their own, run here without the interpreter's lock."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import lossserver.losses  # noqa: F401  (registers them)
from lossserver import kernel as module
from lossserver.kernel import load
from lossserver.losses.rows import RowwiseLoss
from lossserver.make_kernel import tiled
from tests.server.recipes import focal, recipe_of, smooth

# A kernel takes 15 seconds of a core, and gives way to all others.
pytestmark = [pytest.mark.timeout(600), pytest.mark.alone]

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler"
)


CPU = torch.device("cpu")


class Positive(RowwiseLoss):
    """Gives as many rows as are positive, which no kernel can know before it runs."""

    def formula(self, pred, target):
        """The positive numbers."""
        return (pred - target)[pred > 0]


def made(recipe, directory):
    """The process that was to leave the recipe's kernel in the directory."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "lossserver.make_kernel", str(directory)],
        input=pickle.dumps(recipe),
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def of_focal(tmp_path_factory):
    """The recipe of a focal loss, and where its kernel lies."""
    directory, recipe = tmp_path_factory.mktemp("focal"), focal()
    process = made(recipe, directory)

    assert process.returncode == 0, process.stderr.decode()
    return recipe, directory


@needs_compiler
def test_it_gives_what_eager_torch_gives(of_focal):
    """For other numbers of rows than it was made of, a single vector of eight and less among them."""
    recipe, directory = of_focal
    kernel = load(directory, CPU)
    for rows in (2, 7, 8, 1000):
        arguments = tiled(recipe.example, rows)
        for own, other in zip(kernel(arguments), recipe.fused(*arguments), strict=True):
            torch.testing.assert_close(own, other)


@needs_compiler
def test_a_loss_a_row(tmp_path):
    """The unreduced form, of another family: ℓ of each row, and the gradient."""
    recipe = smooth()
    process = made(recipe, tmp_path)

    assert process.returncode == 0, process.stderr.decode()
    values, grad = load(tmp_path, CPU)(recipe.example)
    expected = recipe.fused(*recipe.example)
    torch.testing.assert_close([values, grad], expected)


@needs_compiler
def test_no_row_feels_its_neighbour(of_focal):
    """A NaN in one row changes no bit of another."""
    recipe, directory = of_focal
    kernel, arguments = load(directory, CPU), tiled(recipe.example, 100)
    clean = kernel(arguments)
    arguments[0][37] = torch.nan
    others = torch.arange(100) != 37

    for own, other in zip(kernel(arguments), clean, strict=True):
        assert torch.equal(own[others], other[others])
        assert own[37].isnan().any()


@needs_compiler
def test_it_leaves_its_arguments_alone(of_focal):
    """It writes into nothing that it was given, and takes what is not contiguous."""
    recipe, directory = of_focal
    kernel, arguments = load(directory, CPU), tiled(recipe.example, 64)
    expected = kernel(arguments)
    across = [one.repeat_interleave(2, 0)[::2] for one in arguments]
    before = [one.clone() for one in across]
    found = kernel(across)

    for own, other in zip([*found, *across], [*expected, *before], strict=True):
        assert torch.equal(own, other)


@needs_compiler
def test_two_threads_at_once(of_focal):
    """The event loop and the worker may run one kernel at the same time."""
    recipe, directory = of_focal
    kernel = load(directory, CPU)
    calls = [tiled(recipe.example, rows) for rows in (50, 700)]
    expected = [kernel(arguments) for arguments in calls]
    wrong: list[int] = []

    def run(index):
        for _ in range(200):
            found = kernel(calls[index])
            same = map(torch.equal, found, expected[index])
            wrong.extend([] if all(same) else [index])

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_nothing_is_left_behind(of_focal):
    """Two thousand runs, 80 MB of results, leave the process as large as it was."""
    recipe, directory = of_focal
    kernel, arguments = load(directory, CPU), tiled(recipe.example, 128)

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    for _ in range(200):
        kernel(arguments)
    before = resident()
    for _ in range(2000):
        kernel(arguments)

    assert resident() - before < 4 << 20


@needs_compiler
def test_others_go_on_while_it_runs(of_focal, monkeypatch):
    """It lets go of the interpreter's lock: another thread counts on."""
    recipe, directory = of_focal
    library = module._Library(next(directory.glob("*.so")))
    arguments, call = tiled(recipe.example, 50_000), library._call
    count, done, counted = 0, threading.Event(), []

    def counting():
        nonlocal count
        while not done.wait(0.0005):
            count += 1

    def watched(*given):
        before = count
        call(*given)
        counted.append(count - before)

    monkeypatch.setattr(library, "_call", watched)
    thread = threading.Thread(target=counting)
    usual = sys.getswitchinterval()
    # Nobody is made to give way, so that who goes on does because the lock is free.
    sys.setswitchinterval(60)
    try:
        thread.start()
        while not any(counted) and len(counted) < 50:
            library(arguments)
    finally:
        done.set()
        sys.setswitchinterval(usual)
        thread.join()

    assert any(counted)


def test_a_formula_without_a_known_shape(tmp_path):
    """It ends with a code, says why on its last line, and leaves nothing to be loaded."""
    inputs = {"pred": torch.rand(5, 3), "target": torch.rand(5, 3)}
    recipe = recipe_of(Positive(), "rows", inputs, [torch.rand(5, 3)])
    process = made(recipe, tmp_path)

    assert process.returncode == 1
    assert "Error: " in process.stderr.decode().splitlines()[-1]
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"kernel\.json"):
        load(tmp_path, CPU)
