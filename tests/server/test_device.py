"""lossserver.device: which devices an option means, and what is asked of any."""

import pytest
import torch

from lossserver.config import Device
from lossserver.device import CPU, answers, free, names, open_devices, settle_in, warm

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize(
    ("asked", "found", "meant"),
    [
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cpu", 2, ["cpu"]),
        ("cuda:1, cuda:0", 2, ["cuda:1", "cuda:0"]),
    ],
)
def test_an_option_names_devices(asked, found, meant):
    """Auto is all CUDA devices or else the CPU; a list is itself."""
    assert names(asked, found) == meant


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("cpu,cpu", "must name each one once; given 'cpu,cpu'"),
        ("cpu,cpu:0", "must name each one once"),
        ("cpu,", "must be one that torch finds here; given ''"),
        ("cpu,cuda:99", "must be one that torch finds here; given 'cuda:99'"),
        ("meta", "must be one that torch finds here; given 'meta'"),
    ],
)
def test_devices_that_cannot_be_are_refused(asked, said):
    """One that is not there, or that is named twice, ends the start with a sentence."""
    with pytest.raises(ValueError, match=said):
        open_devices(Device(device=asked))


@pytest.mark.parametrize("name", DEVICES)
def test_whatever_its_make_it_can_be_asked(name):
    """A device opens, warms up, becomes a thread's own, gives back memory and answers."""
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    (device,) = open_devices(Device(device=name))
    warm(device)
    settle_in(device, torch.get_num_threads())
    free(device)

    assert answers(device)
    assert device == CPU or device.index is not None
