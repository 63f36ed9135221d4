"""lossserver.faults: what an exception says of a device; errors of CUDA are simulated by their texts."""

import pytest
import torch

from lossserver.faults import bytes_wanted, is_full, is_lost, out_of_memory
from lossserver.registry import RefusedError

#: As torch 2 ends each of them.
ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace "
    "below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with "
    "`TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)

STICKY = [
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: misaligned address",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: unknown error",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "HIP error: unspecified launch failure",
    "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
]

PASSING = [
    "CUDA error: invalid argument",
    "CUDA error: invalid configuration argument",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: no kernel image is available for execution on the device",
    "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
]

#: Older torch has no class for them.
of_class = pytest.mark.parametrize(
    "cls", {RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)}
)


@of_class
@pytest.mark.parametrize("text", STICKY)
def test_a_sticky_error_is_a_lost_device(cls, text):
    """After what CUDA says needs a new process, the device is lost, with torch's advice or without."""
    assert is_lost(cls(text))
    assert is_lost(cls(text + ADVICE))


@of_class
@pytest.mark.parametrize("text", PASSING)
def test_an_error_that_passes_is_none(cls, text):
    """What concerns one call only leaves the device in service, even where the advice mentions asserts."""
    assert not is_lost(cls(text))
    assert not is_lost(cls(text + ADVICE))


@pytest.mark.parametrize("cls", [ValueError, NotImplementedError, SystemExit])
def test_words_of_others_are_not_believed(cls):
    """What a loss refuses may repeat a stranger's text, which must not end the server."""
    assert not is_lost(cls(STICKY[0]))
    assert not is_lost(RefusedError("config", "must not say", STICKY[0]))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError(PASSING[2]),
        RuntimeError(PASSING[3]),
    ],
)
def test_full_is_not_lost(error):
    """A device whose memory did not suffice is in service."""
    assert is_full(error)
    assert not is_lost(error)


def test_the_cpu_says_what_it_wanted():
    """torch's own error of a real allocation is recognised, and its bytes are read."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8)

    assert is_full(raised.value)
    assert bytes_wanted(raised.value) == 1 << 50


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity", 2 << 30),
        ("CUDA out of memory. Tried to allocate 20.50 MiB.", 20 * (1 << 20) + (1 << 19)),
        ("HIP out of memory. Tried to allocate 512 bytes.", 512),
        ("Unable to allocate 7.25 TiB for an array with shape (1000000000000,)", 29 << 38),
        ("CUDA error: out of memory", 0),
    ],
)
def test_bytes_are_read_in_any_unit(text, wanted):
    """CUDA's, HIP's and numpy's texts name the size; where none is named it is 0."""
    assert bytes_wanted(MemoryError(text)) == wanted


def test_a_caller_is_told_the_bytes():
    """Those of the error, or else the predicted, or else none."""
    said = MemoryError("tried to allocate 5 bytes")

    assert out_of_memory(said, 7).given == "5 bytes wanted"
    assert out_of_memory(MemoryError(), 7).given == "7 bytes wanted"
    assert out_of_memory(MemoryError()).given == ""
