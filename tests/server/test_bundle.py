"""lossserver.bundle: calls that are one job get what each of them gets alone, or are no such job."""

import functools
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from lossclient.call import encode_call
from lossclient.reply import decode_reply
from lossclient.terms import Terms
from lossclient.torch_bytes import to_bytes, to_torch
from lossserver import bundle
from lossserver.compute import compute
from lossserver.decode import decode
from lossserver.job import Result
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES, RefusedError
from lossserver.tree import map_tensors, tensors
from losswire import saying, streaming
from losswire.errors import RequestError
from losswire.frame import LARGE, Parts
from losswire.runs import Run
from tests.losses.calls import CPU, floats, poisoned, unreduced
from tests.losses.test_rows import ROWWISE, WEIGHTED
from tests.server.kernels import AtOnce
from tests.server.test_together import TOLERANCE, assert_as_alone, size_of

#: Calls, and rows of each. Some cases have no more than six rows.
MANY, ROWS = 3, 2

#: Their divisor is made of the mask or of the labels, which may differ from call to call.
OF_MASK = {"ForwardKLLoss", "JSDLoss", "ReverseKLLoss", "TopKKLLoss", "ZLoss"}
OF_LABELS = {"torch.CrossEntropyLoss", "torch.NLLLoss"}

#: Theirs is, or is one of the shape that the losses themselves work out.
OF_TOKENS = {
    "CISPOLoss",
    "EntropyLoss",
    "GRPOLoss",
    "ImportanceSamplingLoss",
    "PPOClipLoss",
    "PolicyGradientLoss",
    "ValueClipLoss",
}

#: Of these a bundle may have a NaN: none that are never one, and none that refuse it as no probability
#: (the calls are then worked on one by one).
POISONED = [
    case
    for case in ROWWISE
    if not LOSSES.build(case.config).slow
    and not case.config.get("activated")
    and case.config["type"] != "torch.BCELoss"
]

every_rowwise = pytest.mark.parametrize("case", ROWWISE, ids=str)
either_way = pytest.mark.parametrize("kernels", [None, AtOnce()], ids=["eager", "kernel"])

L1 = {"type": "L1Loss"}
MSE = {"type": "MSELoss"}


def message_of(parts):
    """The message with these calls."""
    written = [saying.call(number, None, one) for number, one in enumerate(parts)]
    return b"".join(b"".join(one) for one in written)


class Sent:
    """Calls as a client sends them in one message.

    Attributes:
        parts: of each.
        run: what the server finds of them; None if they are not alike.
        said: what each asks for, if they may be one job.
        each: the job of each alone.
    """

    def __init__(self, config, inputs, **options):
        self.parts = [encode_call(config, map_tensors(to_bytes, one), **options) for one in inputs]
        asked = streaming.read_asked(message_of(self.parts))
        first = asked.calls[0]
        self.run = first if isinstance(first, Run) else None
        assert self.run is None or len(self.run.ids) == len(self.parts)
        self.said = None if self.run is None else bundle.alike(self.run)
        self.each = [decode(one, None, Future()) for one in self.parts]

    @functools.cached_property
    def job(self):
        """The one job that they are; None if they are none."""
        if self.said is None:
            return None
        try:
            return bundle.bundle(self.said, self.run, None, Future(), "")
        except bundle.ApartError:
            return None


def answers_of(job, computed):
    """What each call of a bundle is told, as its client reads it."""
    result = Result(computed=computed, batch=job.many, queue=0, compute=0)
    run = Run(range(job.many), None, b"", [])
    message = b"".join(bundle.answers(job, result, 0, run))
    told = [*streaming.each(streaming.read_told(message).answers)]
    assert [one.id for one in told] == list(range(job.many))
    assert all(isinstance(one.response, Parts) for one in told)
    return [decode_reply(one.response, to_torch) for one in told]


def split(whole, many=MANY, rows=ROWS):
    """So many calls' inputs, of those of one call with all their rows."""

    def own(at):
        """Those of one of them."""
        return map_tensors(lambda leaf: leaf[at : at + rows], whole)

    return [own(place * rows) for place in range(many)]


def numbers_of(case):
    """What the calls of a case send; each something else."""
    return split(floats(case.inputs(MANY * ROWS), torch.float32))


def weighed(case, inputs, *, wide):
    """The same with a weight a row or an element, one of them 0."""
    shape = unreduced(case, inputs[0], wrt=()).loss.shape
    if not wide:
        shape = shape[:1] if case.weights == "vector" else (*shape[:1], *[1] * len(shape[1:]))
    weights = [torch.rand(shape) for _ in inputs]
    weights[0][0] = 0
    return [one | {"weight": weight} for one, weight in zip(inputs, weights, strict=True)]


def wishes(case):
    """What may be asked of a loss: inputs and options."""
    plain = numbers_of(case)
    options = [{}, {"reduction_override": "mean", "avg_factor": 0.7}, {"reduction_override": "sum"}]
    options += [{"wrt": ()}, {"avg_factor": float("inf")}]
    asked = [(plain, one) for one in options]
    if case in WEIGHTED:
        asked += [(weighed(case, plain, wide=False), one) for one in options[:3]]
        if case.weights == "column":
            asked += [(weighed(case, plain, wide=True), one) for one in options[:2]]
    return asked


def has_own_divisor(case, inputs, options):
    """Whether a loss itself says what a call is divided by."""
    name = case.config["type"]
    if case.config.get("reduction") == "batchmean":
        return "reduction_override" not in options
    if name in OF_LABELS:
        return not inputs["target"].is_floating_point()
    return name in OF_TOKENS or (name in OF_MASK and "mask" in inputs)


def may_be_one(case, inputs, options):
    """Whether calls of a case are one job."""
    by_itself = LOSSES.build(case.config).slow
    is_mean = options.get("reduction_override", case.config.get("reduction")) != "sum"
    given = "avg_factor" in options or not is_mean
    divides = not given and has_own_divisor(case, inputs[0], options)
    return not by_itself and not divides


@either_way
@every_rowwise
def test_calls_as_one_get_what_each_gets_alone(case, kernels):
    """Loss and gradients, weighted or not, whatever the reduction."""
    for inputs, options in wishes(case):
        sent = Sent(case.config, inputs, **options)
        assert (sent.job is not None) == may_be_one(case, inputs, options)
        if sent.job is None:
            continue
        (found,) = compute([sent.job], CPU, kernels)
        alone = [compute([job], CPU, kernels)[0] for job in sent.each]

        assert sent.job.key == sent.each[0].key
        for ours, theirs, job in zip(answers_of(sent.job, found), alone, sent.each, strict=True):
            as_tensors = replace(ours, losses=map_tensors(torch.as_tensor, ours.losses))
            assert_as_alone(as_tensors, theirs, job)


@pytest.mark.parametrize("own", [False, True], ids=["of gRPC", "of a bypass"])
@every_rowwise
def test_a_list_is_the_same_job_as_its_calls(case, own):
    """However it came: what is not copied has the same numbers."""
    for inputs, options in wishes(case):
        sent = Sent(case.config, inputs, **options)
        if sent.job is None:
            continue
        message = b"".join(saying.calls(0, None, sent.parts))
        received = np.frombuffer(message, np.uint8).copy().data if own else message
        (run,) = streaming.read_asked(received).calls
        job = bundle.bundle(bundle.alike(run), run, None, Future(), "")

        assert (job.key, job.many, job.elements) == (sent.job.key, MANY, sent.job.elements)
        ours, theirs = ([*one.rows.leaves, one.rows.cotangent.weight] for one in (job, sent.job))
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_large_columns_of_a_list_are_computed_with_where_they_lie():
    """In a message that nobody else has; small ones, which may not lie aligned, are copied."""
    inputs = [{"pred": torch.rand(64, 256), "target": torch.rand(64, 256)} for _ in range(MANY)]
    parts = [encode_call(L1, map_tensors(to_bytes, one)) for one in [*inputs, *inputs, *inputs]]
    message = np.frombuffer(b"".join(saying.calls(0, None, parts)), np.uint8).copy()
    (run,) = streaming.read_asked(message.data).calls
    job = bundle.bundle(bundle.alike(run), run, None, Future(), "")
    start = message.ctypes.data

    for leaf in job.rows.leaves:
        assert leaf.nbytes >= LARGE
        assert start <= leaf.data_ptr() < start + len(message)


@either_way
@pytest.mark.parametrize("case", POISONED, ids=str)
def test_a_row_that_is_not_finite_stays_with_its_call(case, kernels):
    """The neighbours have the same as without it, bit for bit."""
    inputs = numbers_of(case)
    clean = Sent(case.config, inputs, avg_factor=3.0).job
    inputs[1] = poisoned(inputs[1], 0, torch.nan)
    sick = Sent(case.config, inputs, avg_factor=3.0).job
    with_it, without = (answers_of(job, compute([job], CPU, kernels)[0]) for job in (sick, clean))

    assert torch.as_tensor(with_it[1].loss).isnan()
    for place in (0, 2):
        ours, theirs = with_it[place], without[place]
        assert ours.loss == theirs.loss
        for a, b in zip(tensors(ours.grads), tensors(theirs.grads), strict=True):
            assert torch.equal(a, b)


@either_way
@pytest.mark.parametrize("of_rows", [False, True], ids=["sums", "rows"])
def test_bundles_and_single_calls_share_a_batch(of_rows, kernels):
    """Of any sizes, some weighted, one unreduced: each gets its own."""
    config = {"type": "SmoothL1Loss", "beta": 0.5}

    def calls(many, rows, **more):
        return split(
            {name: torch.randn(many * rows, 3) for name in ("pred", "target")} | more, many, rows
        )

    some = Sent(config, calls(3, 2))
    more = Sent(config, calls(5, 1, weight=torch.rand(5, 1)), reduction_override="sum")
    rest = Sent(config, calls(2, 4, weight=torch.rand(8, 3)), avg_factor=7.0)
    upstream = to_bytes(torch.tensor(1.5))
    last = Sent(config, calls(2, 3), grad_output=upstream).each
    if of_rows:
        last += Sent(config, calls(2, 2), reduction_override="none").each
    batch = [some.each[0], some.job, last[0], more.job, rest.each[1], rest.job, *last[1:]]
    assert len({job.key for job in batch}) == 1
    found = compute(batch, CPU, kernels)
    single = [(batch[i], found[i]) for i in range(len(batch)) if batch[i].many == 1]

    for job, ours in single:
        assert_as_alone(ours, compute([job], CPU, kernels)[0], job)
    for place, sent in ((1, some), (3, more), (5, rest)):
        for ours, job in zip(answers_of(sent.job, found[place]), sent.each, strict=True):
            (theirs,) = compute([job], CPU, kernels)
            assert abs(ours.loss - float(theirs.losses["loss"])) <= TOLERANCE * size_of(
                theirs.losses["loss"], job
            )
            torch.testing.assert_close(ours.grad, theirs.grads["pred"], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_answers_have_the_dtype_of_their_inputs(dtype):
    """As alone; of halves the loss is one of float32."""
    inputs = split({name: torch.randn(6, 4).to(dtype) for name in ("pred", "target")})
    sent = Sent(MSE, inputs)
    (found,) = compute([sent.job], CPU)

    for ours, job in zip(answers_of(sent.job, found), sent.each, strict=True):
        (theirs,) = compute([job], CPU)
        assert torch.equal(ours.grad, theirs.grads["pred"])
        assert ours.grad.dtype is dtype
        assert found.losses["loss"].dtype is theirs.losses["loss"].dtype


def test_truth_values_are_0_or_1_of_each_call():
    """A byte of a bool that is 2 is True, as alone."""
    kto = next(case for case in ROWWISE if case.config["type"] == "KTOLoss")
    inputs = numbers_of(kto)
    for one in inputs:
        one["target"] = one["target"].bool()
    sent = Sent(kto.config, inputs, avg_factor=2.0)
    place = next(s.payload for s in sent.said.sources if s.dtype == "bool")
    column = sent.run.payloads[place].copy()
    column[column == 1] = 2
    columns = [column if i == place else one for i, one in enumerate(sent.run.payloads)]
    odd = bundle.bundle(sent.said, sent.run._replace(payloads=columns), None, Future(), "")

    for ours, theirs in zip(odd.rows.leaves, sent.job.rows.leaves, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def some(many=MANY, rows=ROWS, columns=4, **more):
    """Calls of a loss of differences; what else they bring has all of their rows."""
    both = {name: torch.randn(many * rows, columns) for name in ("pred", "target")}
    return split(both | more, many, rows)


def with_all(inputs, **same):
    """The calls with an input that is the same for all."""
    return [one | same for one in inputs]


BY_THEMSELVES = {
    "losses that are not reduced": (MSE, some(), {"reduction_override": "none"}),
    "a gradient of the weight": (MSE, some(weight=torch.rand(6, 1)), {"wrt": ["pred", "weight"]}),
    "an upstream gradient": (MSE, some(), {"grad_output": to_bytes(torch.tensor(2.0))}),
    "narrow tensors": (MSE, some(), {"wire_dtype": "bfloat16"}),
    "a gradient that is to be narrow": (MSE, some(), {"wire_dtype": {"grad": "bfloat16"}}),
    "a gradient to be thinned out": (MSE, some(), {"grad_keep": 0.5}),
    "a weight a column": (MSE, with_all(some(), weight=torch.rand(4)), {}),
    "a weight a column, as many as rows": (MSE, with_all(some(rows=4), weight=torch.rand(4)), {}),
    "a weight that is a number": (MSE, with_all(some(), weight=torch.tensor(2.0)), {}),
    "a weight of other rows": (MSE, with_all(some(), weight=torch.rand(1, 4)), {}),
    "a weight that broadcasts the loss": (
        MSE,
        with_all(some(columns=1), weight=torch.rand(ROWS, 4)),
        {},
    ),
    "no rows": (L1, [{"pred": torch.tensor(1.0), "target": torch.tensor(2.0)}] * 3, {}),
    "none of any rows": (L1, some(rows=0), {}),
    "a loss whose rows read each other": (
        {"type": "TripletLoss"},
        [{"pred": torch.randn(4, 3), "target": torch.tensor([0, 0, 1, 1])} for _ in range(3)],
        {},
    ),
    "a divisor made of labels": (
        {"type": "torch.CrossEntropyLoss"},
        [{"pred": torch.randn(4, 3), "target": torch.tensor([0, 1, -100, i])} for i in range(3)],
        {},
    ),
    "a mean over labels that count": (
        {"type": "CrossEntropyLoss", "avg_non_ignore": True},
        [{"pred": torch.randn(4, 3), "target": torch.tensor([0, 1, -100, i])} for i in range(3)],
        {},
    ),
}


def sent_with_terms(config, inputs, options):
    """The calls of a client that asks for these terms, which are among the options."""
    terms = {name: options[name] for name in ("wire_dtype", "grad_keep") if name in options}
    others = {name: one for name, one in options.items() if name not in terms}
    return Sent(config, inputs, terms=Terms(**terms), **others)


@pytest.mark.parametrize("asked", BY_THEMSELVES.values(), ids=BY_THEMSELVES)
def test_calls_by_themselves(asked):
    """What cannot be told from the rows of all is not computed of them."""
    sent = sent_with_terms(*asked)

    assert sent.job is None


def test_a_column_weight_of_as_many_columns_as_rows_in_all_stays_one():
    """[4] on [2, 4], where both calls together have four rows."""
    inputs = with_all(some(many=2), weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))

    assert Sent(MSE, inputs).job is None


@pytest.mark.parametrize("rows", [1, 2])
def test_a_weight_a_row_where_rows_in_all_are_as_many_as_columns(rows):
    """[N] on [N, C] is one a row for a focal loss, though [2 N] might be taken for one a class."""
    config = {"type": "FocalLoss"}
    whole = {
        "pred": torch.randn(2 * rows, 2 * rows),
        "target": torch.arange(2 * rows),
        "weight": torch.rand(2 * rows),
    }
    sent = Sent(config, split(whole, 2, rows))
    (found,) = compute([sent.job], CPU)

    for ours, job in zip(answers_of(sent.job, found), sent.each, strict=True):
        (theirs,) = compute([job], CPU)
        torch.testing.assert_close(ours.grad, theirs.grads["pred"], rtol=TOLERANCE, atol=0)


def test_what_is_wrong_with_one_is_told_of_all():
    """As of one call that is wrong; then they are worked on one by one."""
    config = {"type": "FocalLoss"}
    whole = {"pred": torch.randn(6, 3), "target": torch.tensor([0, 1, 2, 9, 0, 1])}
    each = split(whole)
    run = Sent(config, [one | {"target": torch.tensor([0, 1])} for one in each])
    column = next(s.payload for s in run.said.sources if s.dtype == "int64")
    sick = run.run.payloads[column].copy()
    sick[1] = 9
    columns = [sick if i == column else one for i, one in enumerate(run.run.payloads)]
    with pytest.raises((RequestError, RefusedError)):
        bundle.bundle(run.said, run.run._replace(payloads=columns), None, Future(), "")


def test_a_bundle_is_measured_by_all_its_calls():
    """Elements, bytes and rows are those of all; a call is one of them."""
    sent = Sent(L1, some())
    job, one = sent.job, sent.each[0]

    assert (job.many, job.elements, job.bytes) == (MANY, MANY * one.elements, MANY * one.bytes)
    assert (job.rows.shape, one.rows.shape) == ((6, 4), (2, 4))
    assert isinstance(job.call, Call)
    assert job.call.inputs["pred"].shape == (2, 4)


def test_a_header_that_is_none_is_no_bundle():
    """Each of the calls is told so by itself."""
    asked = streaming.read_asked(message_of([Parts(b"\x0a\xff", [])] * 2))
    (run,) = asked.calls

    assert bundle.alike(run) is None


def test_calls_that_were_no_bundle_are_not_tried_again():
    """A divisor made of labels is so whatever they are."""
    config = {"type": "torch.NLLLoss", "ignore_index": -3}
    inputs = {"pred": torch.randn(4, 3), "target": torch.tensor([0, 1, 2, 0])}
    first = Sent(config, [inputs] * 2)
    assert first.said is not None
    assert first.job is None

    assert Sent(config, [inputs] * 5).said is None
    assert Sent(config, [inputs] * 5, reduction_override="sum").job is not None


def test_whatever_goes_wrong_with_a_header_is_each_call_s_own(monkeypatch):
    """Also what nobody has thought of."""
    sent = Sent(L1, some())

    def broken(*_):
        raise ArithmeticError

    monkeypatch.setattr(bundle, "outline", broken)

    assert bundle.alike(sent.run) is None


def test_rows_that_do_not_stand_one_after_another_are_copied():
    """As those of entries, whose memory may be another's before they are computed."""
    sent = Sent(L1, some())
    columns = [np.pad(one, ((0, 0), (0, 8)))[:, :-8] for one in sent.run.payloads]
    job = bundle.bundle(sent.said, sent.run._replace(payloads=columns), None, Future(), "")
    before = [leaf.clone() for leaf in job.rows.leaves]
    for column in columns:
        column[:] = 0

    assert all(torch.equal(a, b) for a, b in zip(job.rows.leaves, before, strict=True))
