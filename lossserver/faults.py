"""What an exception says of the device it came from: that it is full, or that it is lost.

torch has classes for a few of these, and texts for the rest. Only torch's own
RuntimeErrors are read: what a loss refuses may repeat a stranger's words.
"""

import re

import torch

from losswire.errors import OutOfMemoryError

#: How those say that memory is full which have no class for it: torch's CPU allocator, the CUDA
#: runtime and the libraries around it.
FULL = (
    "DefaultCPUAllocator: ",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

#: What an error says after which every later call of the device fails, and only a new process helps.
#: Source: NVIDIA, CUDA Runtime API, cudaError_t, where the process "must be terminated and
#: relaunched"; the last three are of other makers.
LOST = (
    "device-side assert",
    "illegal memory access",
    "an illegal instruction",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "the launch timed out",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "invalid access of peer gpu memory",
    "context is destroyed",
    "cuda error: unknown error",
    "no cuda-capable device is detected",
    "device(s) is/are busy or unavailable",
    "device lost",
    "device_lost",
    "gpu hang",
)

_TRIED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (bytes|[KMGTPE]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1} | {f"{letter}iB": 1 << 10 * (i + 1) for i, letter in enumerate("KMGTPE")}


def is_full(error: BaseException) -> bool:
    """Whether memory did not suffice, that of the device or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return _is_torch(error) and any(text in str(error) for text in FULL)


def is_lost(error: BaseException) -> bool:
    """Whether the device will answer nobody in this process any more."""
    if not _is_torch(error) or is_full(error):
        return False
    # torch's advice in the lines after it speaks of device-side asserts whatever it was.
    said = str(error).partition("\n")[0].lower()
    return any(text in said for text in LOST)


def bytes_wanted(error: BaseException) -> int:
    """The bytes that could not be had, of an error that says so; else 0."""
    found = _TRIED.search(str(error))
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def out_of_memory(error: BaseException, predicted: int = 0) -> OutOfMemoryError:
    """What the caller is told of memory that did not suffice; `predicted` bytes if it does not say."""
    wanted = bytes_wanted(error) or predicted
    return OutOfMemoryError(
        "the device's memory must hold the call; send less at once",
        given=f"{wanted} bytes wanted" if wanted else "",
    )


def _is_torch(error: BaseException) -> bool:
    """Whether it is one of torch's own, none that a loss derives from them."""
    return type(error) in (RuntimeError, getattr(torch, "AcceleratorError", RuntimeError))
