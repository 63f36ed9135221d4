"""Kernels that are there before the first call: a list of calls, read at the start.

The list is a JSON file, an entry a kernel:

    [{"config": {"type": "FocalLoss", "gamma": 2.0},
      "inputs": {"pred": "float32[64, 80]", "target": "int64[64]"},
      "wrt": ["pred"]}]

The number of rows means nothing: a kernel serves any. `wrt` is ["pred"] if it is left out.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossserver.compile import Kernels
from lossserver.job import Job, key_of
from lossserver.losses.loss import Call, check_names
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES, RefusedError, UnknownNameError
from lossserver.together import order
from lossserver.tree import precision

log = logging.getLogger("lossserver")

_TENSOR = re.compile(r"(\w+)\s*\[([\d,\s]*)\]")

#: Elements of an entry's tensors: they are only examples, of a few rows.
MOST = 1 << 24


def warm(path: str, kernels: Kernels, devices: list[torch.device]) -> None:
    """Have the kernels of a list ready, or say in the log which cannot be.

    Raises:
        ValueError: the file is no such list; names the entry and what is wrong with it.
        OSError: it cannot be read.
    """
    try:
        entries = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"warm must be a JSON file; {path} is not: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"warm must hold a list of calls; {path} has none")  # noqa: TRY004
    for i, entry in enumerate(entries):
        try:
            job = job_of(entry)
        except (KeyError, RefusedError, TypeError, UnknownNameError, ValueError) as error:
            raise ValueError(f"warm: entry {i} of {path}: {error}") from None
        for device in devices:
            kernels.prepare(*order([job], device))


def job_of(entry: dict[str, Any]) -> Job:
    """The job of an entry, its tensors filled with examples.

    Raises:
        KeyError, RefusedError, TypeError, UnknownNameError, ValueError: what is wrong with it.
    """
    if unknown := sorted(entry.keys() - {"config", "inputs", "wrt"}):
        raise ValueError(f"has the keys config, inputs and wrt; given {unknown[0]}")
    config = entry["config"]
    loss = LOSSES.build(config)
    inputs = {name: example(text) for name, text in entry["inputs"].items()}
    call = Call(inputs=inputs, wrt=frozenset(entry.get("wrt", ["pred"])))
    check_names(loss, call, config["type"])
    rows = loss.rows(call) if isinstance(loss, RowwiseLoss) else None
    if rows is None:
        raise ValueError(f"{config['type']} of these inputs is computed alone and has no kernel")
    return Job(
        name=config["type"],
        loss=loss,
        call=call,
        rows=rows,
        key=key_of(rows, call.wrt, precision(call.inputs)),
        elements=0,
        deadline=None,
        arrived=0.0,
        future=None,  # type: ignore[arg-type]  # nobody waits for it
    )


def example(text: str) -> Tensor:
    """A tensor as a text like "float32[64, 80]" describes it: floats in [0, 1), integers 0.

    Raises:
        ValueError: it describes none, or one of fewer than two rows.
    """
    found = _TENSOR.fullmatch(text.strip())
    dtype = getattr(torch, found[1], None) if found else None
    if found is None or not isinstance(dtype, torch.dtype):
        raise ValueError(f'a tensor is written as "float32[64, 80]"; given {text!r}')
    shape = [int(extent) for extent in found[2].replace(",", " ").split()]
    size = torch.Size(shape).numel()
    if not shape or shape[0] < 2 or size > MOST:
        raise ValueError(f"must have two rows or more and at most {MOST} elements; given {text!r}")
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator).to(dtype)
