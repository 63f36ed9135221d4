"""Calls through `decode`, `compute` and `encode`, as they go through the server, alone and in company."""

from concurrent.futures import Future

import torch
from torch import Tensor

from lossclient.call import encode_call
from lossclient.reply import decode_reply
from lossclient.torch_bytes import to_bytes, to_torch
from lossserver.compute import compute
from lossserver.decode import decode
from lossserver.encode import encode
from lossserver.job import Result
from lossserver.registry import LOSSES
from lossserver.tree import map_tensors

CPU = torch.device("cpu")


def job_of(config, inputs, wrt=("pred",), grad_output=None, state=None, **options):
    """The job that a client's message becomes."""
    packed, upstream, state = (map_tensors(to_bytes, x) for x in (inputs, grad_output, state))
    message = encode_call(config, packed, wrt=wrt, grad_output=upstream, state=state, **options)
    return decode(message, None, Future())


def results(*jobs, device=CPU):
    """What the jobs give when they are computed as one batch, as a client sees it."""
    return [
        decode_reply(encode(Result(computed=c, batch=1, queue=0, compute=0), 0, job), to_torch)
        for c, job in zip(compute(jobs, device), jobs, strict=True)
    ]


def answer(config, inputs, **options):
    """What one call gives, alone."""
    return results(job_of(config, inputs, **options))[0]


def unreduced(case, inputs, **options):
    """What a case's call gives, unreduced if its loss can be."""
    if "reduction_override" in LOSSES[case.config["type"]].OPTIONS:
        options = {"reduction_override": "none"} | options
    return answer(case.config, inputs, **case.options | options)


def floats(tree, dtype):
    """The tree with its floating-point tensors in that dtype."""
    return map_tensors(lambda one: one.to(dtype) if one.is_floating_point() else one, tree)


def poisoned(inputs, row, value):
    """The inputs with one row of pred set to a value."""

    def poison(leaf: Tensor) -> Tensor:
        sick = leaf.clone()
        sick[row] = value
        return sick

    return inputs | {"pred": map_tensors(poison, inputs["pred"])}


def assert_all_close(ours, theirs, **tolerance):
    """Equal trees, within rounding."""
    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)
