"""Whatever is sent, a call is refused before it is computed, or it is computed."""

import math
import typing
from concurrent.futures import Future
from dataclasses import fields

import pytest
import torch

import losswire.errors
from lossclient.call import encode_call
from lossclient.torch_bytes import to_bytes
from lossserver.decode import decode
from lossserver.registry import LOSSES
from lossserver.tree import map_tensors, tensors
from losswire.v1 import loss_pb2 as pb
from tests.losses.calls import job_of, results
from tests.losses.cases import CASES

every_loss = pytest.mark.parametrize("case", CASES, ids=str)

ODD = [
    torch.zeros(()),
    torch.zeros(0),
    torch.full((1,), torch.nan),
    torch.full((3,), 1e30),
    torch.zeros(5, 2),
    torch.zeros(4, 3, 2, 2),
    torch.full((4,), -1),
    torch.full((4, 4), 10**12),
    torch.ones(4, dtype=torch.bool),
    torch.tensor(True),
    [],
    {"a": torch.zeros(4)},
    3,
    "four",
]

#: The square of the first, or its exponential, is more than a float64 holds; and what divides badly.
ODD_NUMBERS = [1e200, math.inf, 5e-324]


def refused_or_computed(config, inputs, **options):
    """Compute the call, with the gradients of all that can have one, unless it is refused."""
    given = {name: tensors(tree) for name, tree in inputs.items()}
    wrt = [name for name in given if any(x.is_floating_point() for x in given[name])]
    try:
        job = job_of(config, inputs, wrt=wrt, **options)
    except losswire.errors.RequestError:
        return
    results(job)


def known(case):
    """Names of the inputs that a case's loss may have."""
    return sorted(LOSSES[case.config["type"]].NEEDS | LOSSES[case.config["type"]].TAKES)


@every_loss
def test_odd_inputs(case):
    """Anything may stand for an input."""
    for name in known(case):
        for odd in ODD:
            refused_or_computed(case.config, case.inputs(4) | {name: odd}, **case.options)


def with_null(config, inputs, name):
    """A message with a null for an input, which clients of ours leave out."""
    rest = {key: value for key, value in inputs.items() if key != name}
    parts = encode_call(config, map_tensors(to_bytes, rest), wrt=())
    header = pb.ComputeHeader.FromString(parts.header)
    header.inputs[name].null_value.SetInParent()
    return parts._replace(header=header.SerializeToString())


@every_loss
def test_a_null_is_no_input(case):
    """What is null is not there: the call is refused or computed without it."""
    for name in known(case):
        try:
            job = decode(with_null(case.config, case.inputs(4), name), None, Future())
        except losswire.errors.RequestError:
            continue
        results(job)


def test_a_null_is_named_if_it_is_needed():
    """It is refused as if it had been left out."""
    inputs = {"pred": torch.zeros(4, 3), "target": torch.zeros(4, 3)}
    with pytest.raises(losswire.errors.TensorError, match="target: L1Loss needs this input"):
        decode(with_null({"type": "L1Loss"}, inputs, "target"), None, Future())


@every_loss
def test_odd_numbers_in_a_config(case):
    """Any number may stand for a parameter; none makes Python's arithmetic overflow."""
    cls = LOSSES[case.config["type"]]
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        if float in (hints[field.name], *typing.get_args(hints[field.name])):
            for odd in ODD_NUMBERS:
                config = case.config | {field.name: odd}
                refused_or_computed(config, case.inputs(2), **case.options)
