"""What every registered loss promises; a new loss is held to all of it by one row of cases/."""

import pytest
import torch

import losswire.errors
from lossserver.card import card
from lossserver.losses.loss import Call, ReducedLoss
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES, RefusedError
from lossserver.tree import map_tensors, tensors
from tests.losses.calls import answer, assert_all_close, floats, job_of, results, unreduced
from tests.losses.cases import CASES
from tests.losses.golden import golden_names

every_loss = pytest.mark.parametrize("case", CASES, ids=str)


def named(cases):
    """The names that the configs of these cases mean."""
    return {LOSSES.full_name(case.config["type"]) for case in cases}


def test_every_registered_loss_has_a_case():
    """No loss is served that nothing here checks."""
    assert named(CASES) == set(LOSSES)


def test_every_loss_has_a_reference():
    """Each loss's values are held against another's: a formula written apart, or golden cases."""
    by_reference = named(case for case in CASES if case.reference)

    assert set(LOSSES) - by_reference - golden_names() == set()


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_card_is_complete(name):
    """The docstring describes every parameter and input, the result, the errors and the source."""
    found = card(name)

    assert [p.name for p in found.parameters if not p.text] == []
    assert {i.name for i in found.inputs} == LOSSES[name].NEEDS | LOSSES[name].TAKES
    assert found.source
    assert [s for s in ("Returns", "Raises") if f"\n{s}:\n" not in found.text] == []


@pytest.mark.parametrize("case", [c for c in CASES if c.reference], ids=str)
def test_agrees_with_its_reference(case):
    """Values match an implementation written from the paper, in other arithmetic."""
    inputs = case.inputs(5)
    ours, theirs = unreduced(case, inputs, wrt=()), case.reference(**inputs)
    theirs = theirs if isinstance(theirs, dict) else {"loss": theirs}

    assert ours.losses.keys() == theirs.keys()
    for name, value in theirs.items():
        tensors = value if isinstance(ours.losses[name], list) else [value]
        for own, wanted in zip(flat(ours.losses[name]), tensors, strict=True):
            # What is compared in float32 all along, as overlaps of priors are, is rounded so.
            rtol, atol = (1e-6, 1e-6) if own.dtype is torch.float32 else (1e-9, 1e-11)
            expected = torch.as_tensor(wanted, dtype=torch.float64)
            assert_all_close(own.double(), expected, rtol=rtol, atol=atol)


def outputs_of(case, inputs, leaves):
    """The outputs of a case's loss with the leaves in the places of wrt, by autograd."""
    following = iter(leaves)
    replaced = inputs | {name: swap(inputs[name], following) for name in case.wrt}
    options = dict(case.options)
    loss = LOSSES.build(case.config)
    if "reduction_override" in loss.OPTIONS:
        options.setdefault("reduction_override", "none")
    found = loss.outputs(Call(inputs=replaced, wrt=frozenset(case.wrt), **options))
    return {name: out for name, out in found.items() if any(x.requires_grad for x in flat(out))}


def swap(tree, following):
    """The tree with its floating-point tensors taken from an iterator."""
    if isinstance(tree, torch.Tensor):
        return next(following) if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {key: swap(tree[key], following) for key in sorted(tree)}
    return [swap(value, following) for value in tree] if isinstance(tree, list) else tree


@every_loss
def test_gradient_is_the_derivative(case):
    """The gradient is that of finite differences, for an upstream gradient that is not even."""
    if case.stops:
        golden = LOSSES.full_name(case.config["type"]) in golden_names()
        assert case.gradient or golden, case.stops
        return
    inputs = case.inputs(3)
    leaves = [
        leaf.clone().requires_grad_()
        for name in case.wrt
        for leaf in flat(inputs[name])
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    outputs = outputs_of(case, inputs, leaves)
    if not outputs:
        return  # a metric
    assert torch.autograd.gradcheck(
        lambda *x: tuple(flat(outputs_of(case, inputs, x))), leaves, atol=1e-6
    )
    upstream = map_tensors(
        lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype),
        outputs,
    )
    ours = unreduced(case, inputs, wrt=case.wrt, grad_output=upstream).grads
    own = torch.autograd.grad(flat(outputs), leaves, flat(upstream), allow_unused=True)
    sent = [grad for name in case.wrt for grad in flat(ours[name])]
    for grad, leaf in zip(own, [g for g in sent if g is not None], strict=True):
        assert_all_close(leaf, grad)


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient], ids=str)
def test_gradient_is_what_it_was_written_as(case):
    """Where a loss stops a gradient, the rest of it is that of a reference."""
    inputs = case.inputs(4)

    assert_all_close(unreduced(case, inputs, wrt=case.wrt).grads, case.gradient(**inputs))


def flat(tree):
    """The leaves of a tree, None among them, in an order that no map on the way changes."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in flat(tree[key])]
    return [leaf for value in tree for leaf in flat(value)] if isinstance(tree, list) else [tree]


@every_loss
def test_no_rows_no_trouble(case):
    """No rows at all give an answer or a refusal; the sum of no rows is 0."""
    inputs = case.inputs(0)
    loss = LOSSES[case.config["type"]]
    options = {"reduction_override": "sum"} if "reduction_override" in loss.OPTIONS else {}
    try:
        result = answer(case.config, inputs, **case.options | options)
    except (losswire.errors.RequestError, RefusedError):
        assert not issubclass(loss, RowwiseLoss)
        return

    if issubclass(loss, RowwiseLoss):
        assert float(result.loss) == 0
    for grad, leaf in zip(flat(result.grad), flat(inputs["pred"]), strict=True):
        assert grad is None or grad.shape == leaf.shape


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_computed_in_float32(case, dtype):
    """A half's gradient is the float32 one, rounded once; a reduced loss stays float32."""
    half = floats(case.inputs(4), dtype)
    ours = answer(case.config, half, **case.options)
    exact = answer(case.config, floats(half, torch.float32), **case.options)

    for name, losses in exact.losses.items():
        for a, b in zip(flat(ours.losses[name]), flat(losses), strict=True):
            rounded = dtype if b.dim() and name not in ours.metrics else b.dtype
            assert a.dtype is rounded
            assert torch.equal(a, b.to(rounded))
    for a, b in zip(flat(ours.grad), flat(exact.grad), strict=True):
        assert (a is None and b is None) or torch.equal(a, b.to(dtype))


@every_loss
@pytest.mark.parametrize("avg_factor", [None, 3.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_follow_from_the_rows(case, reduction, avg_factor):
    """A reduced loss and its gradient are those of the unreduced one, summed and divided."""
    if not {"reduction_override", "avg_factor"} <= LOSSES[case.config["type"]].OPTIONS:
        return
    if case.options or case.reduces_otherwise:
        return
    inputs = case.inputs(4)
    config = case.config | {"loss_weight": 0.7}
    options = {"reduction_override": reduction, "avg_factor": avg_factor}
    if reduction == "sum" and avg_factor is not None:
        with pytest.raises(losswire.errors.RequestError, match="avg_factor: goes with"):
            answer(config, inputs, **options)
        return
    rows = unreduced(case, inputs)
    divisor = 1.0 if reduction == "sum" else avg_factor or rows.loss.numel()
    result = answer(config, inputs, **options)

    assert_all_close(result.loss, 0.7 * rows.loss.sum() / divisor, rtol=1e-6, atol=0)
    for a, b in zip(flat(result.grad), flat(rows.grad), strict=True):
        assert_all_close(a, 0.7 * b / divisor, rtol=1e-6, atol=1e-12)


@every_loss
def test_avg_factor_is_exact_where_it_is_not_mmdetections(case):
    """A mean divides by avg_factor itself; only MMDetection's own losses add their EPS to it."""
    loss = LOSSES.build(case.config)
    if case.options or not isinstance(loss, ReducedLoss):
        return
    name = LOSSES.full_name(case.config["type"])
    assert bool(loss.AVG_EPS) == (name in golden_names() or name.startswith("mmdet2."))
    if not loss.AVG_EPS and not case.reduces_otherwise:
        inputs, options = case.inputs(3), {"reduction_override": "mean", "avg_factor": 0.01}
        total = answer(case.config, inputs, reduction_override="sum").loss
        assert_all_close(
            answer(case.config, inputs, **options).loss, total / 0.01, rtol=1e-14, atol=0
        )


@pytest.mark.parametrize("case", [c for c in CASES if LOSSES.build(c.config).remembers], ids=str)
def test_what_is_remembered_is_the_callers(case):
    """A state that comes back changes the next answer as it should, and the call's own not at all."""
    first = unreduced(case, case.inputs(4))
    again = unreduced(case, case.inputs(4))
    second = unreduced(case, case.inputs(4), state=first.state)

    wide = unreduced(case, case.inputs(4), state=floats(first.state, torch.float64))

    assert_all_close(again.state, first.state)
    assert_all_close(wide.state, second.state)
    assert {one.dtype for one in flat(wide.state)} == {torch.float32}
    assert second.state.keys() == first.state.keys()
    assert any(not torch.equal(second.state[k], first.state[k]) for k in first.state)
    with pytest.raises(losswire.errors.RequestError, match="state"):
        unreduced(case, case.inputs(4), state={"other": torch.zeros(3)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_loss
def test_on_cuda_as_on_the_cpu(case):
    """A CUDA device gives the CPU's loss and gradient."""
    job = job_of(case.config, case.inputs(4), **case.options)
    (expected,), (found,) = results(job), results(job, device=torch.device("cuda"))

    assert_all_close(found.losses, expected.losses)
    assert_all_close(flat(found.grad), flat(expected.grad))


@every_loss
def test_no_loss_writes_into_its_inputs(case):
    """They may be a tensor that stays with the server, which the next call reads, too."""
    job = job_of(case.config, case.inputs(5), **case.options)
    leaves = tensors([dict(job.call.inputs), dict(job.call.grad_output), job.call.state])
    before = [leaf.clone() for leaf in leaves]
    results(job)

    assert_all_close(leaves, before, rtol=0, atol=0)


@every_loss
def test_a_pred_that_is_checked_is_told_of(case):
    """Who can write to a pred while it is read could change it after the check; so that is copied."""
    loss = LOSSES.build(case.config)
    if not isinstance(loss, RowwiseLoss) or loss.checks_pred:
        return
    inputs = case.inputs(4)
    pred = map_tensors(lambda leaf: leaf.to("meta"), inputs["pred"])

    # A tensor without values refuses to be asked for one; but not only to be asked.
    try:
        loss.rows(Call(inputs=inputs | {"pred": pred}, wrt=frozenset(["pred"])))
    except RuntimeError as error:
        assert "is not on the expected device" in str(error)  # noqa: PT017
