"""lossserver.compile: kernels come in the background, stay on disk, and can be lost without harm."""

import contextlib
import json
import shutil
import threading

import pytest
import torch

from lossserver.compile import AGAIN, OFTEN, WAITING_PER_TENANT, Kernels
from lossserver.compiler import BusyError
from lossserver.compute import compute
from lossserver.config import Fusing
from lossserver.make_kernel import DisagreesError, compare
from lossserver.metrics import Metrics
from lossserver.shelf import Shelf
from lossserver.together import order
from lossserver.warm import job_of, warm

CPU = torch.device("cpu")

ENTRY = {
    "config": {"type": "SmoothL1Loss", "beta": 0.5},
    "inputs": {"pred": "float32[9, 4]", "target": "float32[9, 4]"},
}

#: Kernels are made at a low priority: beside tests on every core that takes minutes.
pytestmark = pytest.mark.alone

needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs a C++ compiler, g++"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A directory of kernels that the tests of this file share, since making one takes seconds."""
    return tmp_path_factory.mktemp("kernels")


class Opened:
    """The kernels of a directory, and what was counted of them."""

    def __init__(self, directory, **options):
        self.metrics = Metrics()
        self.kernels = Kernels(Fusing(kernel_cache=str(directory), **options), self.metrics)

    def count(self, event):
        found = self.metrics.registry.get_sample_value("lossserver_kernels_total", {"event": event})
        return int(found or 0)

    def wait_for(self, event):
        """Until the event has been counted; there is nothing to be woken by."""
        while not self.count(event):
            threading.Event().wait(0.02)  # pytest-timeout ends a test that waits for ever


@pytest.fixture
def opened(cache):
    """Opens kernels, and closes them after the test."""
    with contextlib.ExitStack() as found:

        def open_(directory=cache, **options):
            here = Opened(directory, **options)
            found.enter_context(here.kernels)
            return here

        yield open_


@needs_a_compiler
def test_eager_answers_until_the_kernel_is_there(opened):
    """The first calls do not wait; one of the next is computed by a kernel, with the same values."""
    here, job = opened(), job_of(ENTRY)
    first = [compute([job], CPU, here.kernels)[0] for _ in range(OFTEN)]
    here.wait_for("compiled")
    later = compute([job], CPU, here.kernels)[0]

    assert not any(one.fused for one in first)
    assert later.fused
    assert torch.allclose(later.losses["loss"], first[0].losses["loss"], rtol=1e-6)
    assert torch.allclose(later.grads["pred"], first[0].grads["pred"], rtol=1e-6)
    assert (here.count("wanted"), here.count("compiled")) == (1, 1)


@needs_a_compiler
def test_a_restart_finds_what_was_compiled(opened):
    """A second server at the same directory loads the kernel and compiles nothing."""
    key, recipe = order([job_of(ENTRY)], CPU)
    opened().kernels.prepare(key, recipe)
    again = opened()

    assert again.kernels.prepare(key, recipe)
    assert (again.count("loaded"), again.count("compiled")) == (1, 0)


@needs_a_compiler
def test_a_warm_list_makes_kernels_before_the_first_call(opened, tmp_path):
    """What the list names is there at once."""
    listed = tmp_path / "warm.json"
    listed.write_text(json.dumps([ENTRY]))
    here = opened()
    warm(str(listed), here.kernels, [CPU])

    assert compute([job_of(ENTRY)], CPU, here.kernels)[0].fused


@needs_a_compiler
def test_the_kernel_unused_for_longest_makes_room_and_comes_back(opened):
    """Memory holds max_kernels of them; one that was evicted is loaded again once it is asked for often."""
    _, recipe = order([job_of(ENTRY)], CPU)
    here = opened(max_kernels=1)
    for key in ("one", "two"):
        here.kernels.prepare(key, recipe)

    assert here.count("evicted") == 1
    assert here.kernels.find("two", lambda: recipe) is not None
    assert [here.kernels.find("one", lambda: recipe) for _ in range(OFTEN)] == [None] * OFTEN
    assert here.count("wanted") == 3


class Copies:
    """A compiler that leaves the kernel of a directory, since making one takes half a minute."""

    def __init__(self, place):
        self.place = place

    def make(self, recipe, made):
        """Leave it there."""
        shutil.copytree(self.place, made, dirs_exist_ok=True)

    def close(self):
        """Nothing is being made."""


@needs_a_compiler
def test_a_broken_kernel_on_disk_is_made_anew(opened, cache, tmp_path):
    """A file that was cut short by a full disk costs a compilation, not the kernel."""
    key, recipe = order([job_of(ENTRY)], CPU)
    opened().kernels.prepare(key, recipe)
    place = Shelf(str(tmp_path)).place_of(recipe)
    place.mkdir()
    (place / "kernel.json").write_text('{"file": "kernel.so", "reached": [true]}')
    (place / "kernel.so").write_bytes(b"\x7fELF, but no more")
    here = opened(tmp_path)
    here.kernels._compiler = Copies(Shelf(str(cache)).place_of(recipe))

    assert here.kernels.prepare(key, recipe)
    assert here.count("compiled") == 1


@needs_a_compiler
def test_a_kernel_on_disk_that_disagrees_is_made_anew(opened, cache, tmp_path):
    """A formula whose code changed has its new kernel, once the old one has shown itself."""
    key, other = order([job_of(ENTRY)], CPU)
    opened().kernels.prepare(key, other)  # made by the tests before this one, if they ran
    _, recipe = order([job_of(ENTRY | {"config": {"type": "L1Loss"}})], CPU)
    shutil.copytree(Shelf(str(cache)).place_of(other), Shelf(str(tmp_path)).place_of(recipe))
    here = opened(tmp_path)

    assert here.kernels.prepare("key", recipe)
    assert (here.count("compiled"), here.count("disagreed")) == (1, 0)


class Unmade:
    """A compiler that makes nothing until it is told to go on, and then raises."""

    def __init__(self, error):
        self.error = error
        self.go_on = threading.Event()

    def make(self, recipe, made):
        """Raise, after a while."""
        self.go_on.wait()
        raise self.error

    def close(self):
        """Wait no longer."""
        self.go_on.set()


def test_one_tenant_cannot_keep_the_others_waiting(opened, tmp_path):
    """Who has ordered as many kernels as one may waits; another's order is taken."""
    _, recipe = order([job_of(ENTRY)], CPU)
    here = opened(tmp_path)
    here.kernels._compiler = Unmade(RuntimeError())

    def ask(tenant, keys):
        for key in range(keys):
            for _ in range(OFTEN):
                here.kernels.find((tenant, key), lambda: recipe, tenant)

    ask("greedy", 3 * WAITING_PER_TENANT)

    assert here.count("wanted") == WAITING_PER_TENANT

    ask("modest", 1)

    assert here.count("wanted") == WAITING_PER_TENANT + 1


@pytest.mark.parametrize(("error", "orders"), [(BusyError(), 2), (RuntimeError(), 1)], ids=repr)
def test_what_the_machine_was_too_busy_for_is_tried_again(opened, tmp_path, error, orders):
    """Many batches later; what the compiler itself refused is not."""
    _, recipe = order([job_of(ENTRY)], CPU)
    here = opened(tmp_path)
    here.kernels._compiler = Unmade(error)
    here.kernels._compiler.go_on.set()
    for _ in range(OFTEN):
        here.kernels.find("key", lambda: recipe)
    here.wait_for("failed")
    for _ in range(AGAIN):
        here.kernels.find("key", lambda: recipe)

    assert here.count("wanted") == orders


def test_a_recipe_that_raises_is_refused_once(opened):
    """Its key waits for nothing, and eager torch stays."""
    here = opened()

    def broken():
        raise RuntimeError("no recipe")

    for _ in range(3 * OFTEN):
        assert here.kernels.find("key", broken) is None

    assert (here.count("failed"), here.kernels._making) == (1, {})


def test_an_example_is_a_few_rows():
    """However large the batch, and however wide its rows."""
    sizes = {"float32[5000, 4]": 64, "float32[64, 65536]": 4}
    for text, rows in sizes.items():
        _, recipe = order(
            [job_of(ENTRY | {"inputs": dict.fromkeys(("pred", "target"), text)})], CPU
        )

        assert {len(one) for one in recipe.example} == {rows}


def test_what_cannot_be_compiled_is_not_tried_again(opened):
    """One line in the log, one count, and eager torch for good."""
    _, recipe = order([job_of(ENTRY)], CPU)
    object.__setattr__(recipe.fused, "formula", lambda: "cannot be sent to another process")
    here = opened()
    for _ in range(OFTEN):
        here.kernels.find("key", lambda: recipe)
    here.wait_for("failed")
    for _ in range(3 * OFTEN):
        assert here.kernels.find("key", lambda: recipe) is None

    assert (here.count("wanted"), here.count("failed")) == (1, 1)


def test_a_kernel_that_raises_is_dropped_and_eager_answers(opened):
    """The call in which it raised has its result all the same, and nobody asks for it again."""
    here, job = opened(), job_of(ENTRY)

    def broken(_):
        raise RuntimeError("kernel fell over")

    key, _ = order([job], CPU)
    here.kernels._ready[key] = broken

    assert not compute([job], CPU, here.kernels)[0].fused
    for _ in range(2 * OFTEN):
        compute([job], CPU, here.kernels)
    assert (here.count("failed"), here.count("wanted")) == (1, 0)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"config": {"type": "NoLoss"}, "inputs": {}}, "NoLoss"),
        (ENTRY | {"inputs": {"pred": "float32[1, 4]"}}, "two rows or more"),
        (ENTRY | {"inputs": {"pred": "a tensor"}}, r'written as "float32\[64, 80\]"'),
        (ENTRY | {"input": {}}, "config, inputs and wrt"),
        ({"config": {"type": "GHMR"}, "inputs": {"pred": "float32[2, 4]"}}, "GHMR"),
        ({"inputs": {}}, "config"),
    ],
)
def test_a_wrong_warm_list_is_refused_by_entry(opened, tmp_path, entry, said):
    """The file, the number of the entry and what is wrong with it are named."""
    listed = tmp_path / "warm.json"
    listed.write_text(json.dumps([entry]))

    with pytest.raises(ValueError, match=rf"entry 0 of .*warm.json: .*{said}"):
        warm(str(listed), opened().kernels, [CPU])


def test_compare_sees_another_formula():
    """A kernel that computes something else is caught by the check that each one must pass."""
    _, recipe = order([job_of(ENTRY)], CPU)
    _, other = order([job_of(ENTRY | {"config": {"type": "L1Loss"}})], CPU)

    with pytest.raises(DisagreesError):
        compare(lambda given: other.fused(*given), recipe.fused, recipe.example)
