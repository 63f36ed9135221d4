"""Regions: what is left out, what is refused, and answers that float32 could lose."""

import pytest
import torch

from losswire.errors import RequestError, TensorError
from tests.losses.calls import answer, job_of, results
from tests.losses.cases.overlap import VOID

OVERLAPS = ["TverskyLoss", "FocalTverskyLoss", "SoftDiceLoss"]


def image(*labels):
    """Class indices [1, M]."""
    return torch.tensor([labels])


@pytest.mark.parametrize("name", OVERLAPS)
def test_a_perfect_region_costs_nothing(name):
    """Where every pixel is right for sure, loss and gradient are 0: no slope is infinite."""
    pred = torch.tensor([[200.0, -200, 200]])
    result = answer({"type": name, "mode": "binary"}, {"pred": pred, "target": image(1, 0, 1)})

    assert float(result.loss) == 0
    assert not result.grad.any()


@pytest.mark.parametrize(
    "config",
    [{"type": name, "mode": "multiclass"} for name in OVERLAPS] + [{"type": "LovaszSoftmaxLoss"}],
    ids=str,
)
def test_void_pixels_are_not_looked_at(config):
    """An ignored pixel may hold anything: neither the loss nor a gradient knows of it."""
    pred = torch.randn(1, 3, 4, dtype=torch.float64)
    inputs = {"pred": pred, "target": image(0, 1, VOID, 1)}
    odd = {"pred": pred.clone(), "target": inputs["target"]}
    config = config | {"ignore_index": VOID}
    result = answer(config, inputs)

    for value in (torch.tensor([7.0, -3, 1]), torch.nan, torch.inf):
        odd["pred"][:, :, 2] = value
        found = answer(config, odd)
        assert torch.equal(found.loss, result.loss)
        assert torch.equal(found.grad, result.grad)
        assert not found.grad[:, :, 2].any()


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("name", OVERLAPS)
def test_void_masks_are_not_looked_at(name, mode):
    """A pixel that a mask ignores may hold NaN; in a class, while other classes count it."""
    config = {"type": name, "mode": mode, "ignore_index": VOID}
    target = torch.tensor([[[0, 1, 1], [0, 1, VOID]]])
    pred = torch.randn(1, 2, 3, dtype=torch.float64)
    clean = answer(config, {"pred": pred, "target": target})
    pred[0, 1, 2] = torch.nan
    found = answer(config, {"pred": pred, "target": target})

    assert torch.equal(found.loss, clean.loss)
    assert torch.equal(found.grad, clean.grad)


def test_a_class_that_counts_reads_all_of_its_pixel():
    """Where softmax masks ignore one class of a pixel, the others' probabilities stay what they are."""
    pred = torch.randn(1, 2, 1, dtype=torch.float64)
    config = {"type": "SoftDiceLoss", "mode": "multiclass", "smooth": 0.0, "classes": "present"}
    target = torch.tensor([[[1], [VOID]]])
    p = pred.softmax(1)[0, 0, 0]
    result = answer(config | {"ignore_index": VOID}, {"pred": pred, "target": target})

    torch.testing.assert_close(result.loss, 1 - 2 * p / (p**2 + 1))


@pytest.mark.parametrize("change", [{}, {"alpha": 0.0}], ids=str)
@pytest.mark.parametrize("name", OVERLAPS)
def test_an_absent_class_has_no_gradient(name, change):
    """A class that is neither there nor predicted, 0 / 0 unsmoothed, leaves the others theirs."""
    if name == "SoftDiceLoss" and change:
        return
    config = {"type": name, "mode": "multilabel", "smooth": 0.0, "classes": "present"} | change
    pred = torch.tensor([[[2.0, -1], [-200, -200]]])
    target = torch.tensor([[[1, 0], [0, 0]]])
    result = answer(config, {"pred": pred, "target": target})
    lone = answer(config, {"pred": pred[:, :1], "target": target[:, :1]})

    assert torch.equal(result.loss, lone.loss)
    assert torch.equal(result.grad[:, :1], lone.grad)
    assert not result.grad[:, 1].any()


@pytest.mark.parametrize("name", OVERLAPS)
def test_soft_masks_are_shares(name):
    """A mask of 255 as a float is refused, unless that is what to ignore; NaN is its owner's."""
    config, pred = {"type": name, "mode": "binary"}, torch.zeros(1, 3)
    for value in (255.0, -0.5):
        with pytest.raises(TensorError, match=rf"target: a soft mask .* \[0, 1\]; given \[{value}"):
            answer(config, {"pred": pred, "target": torch.tensor([[value, 0.2, 1]])})
    void = {"pred": pred, "target": torch.tensor([[VOID, 0.2, 1]])}

    assert answer(config | {"ignore_index": VOID}, void).loss.isfinite()
    assert answer(config, {"pred": pred, "target": torch.tensor([[torch.nan, 0, 1]])}).loss.isnan()


def test_an_image_of_nothing_but_void_costs_nothing():
    """Without a pixel that counts, Lovász losses are 0, and so is their gradient."""
    target = torch.full((1, 4), VOID)
    hinge = {"type": "LovaszHingeLoss", "ignore_index": VOID}
    softmax = {"type": "LovaszSoftmaxLoss", "ignore_index": VOID, "classes": "all"}
    for config, pred in ((hinge, torch.randn(1, 4)), (softmax, torch.randn(1, 2, 4))):
        result = answer(config, {"pred": pred, "target": target})

        assert float(result.loss) == 0
        assert not result.grad.any()


@pytest.mark.parametrize("name", OVERLAPS)
def test_absent_classes_count_if_they_are_asked_for(name):
    """The mean over present classes leaves out a class that the image has not; that over all does not."""
    pred = torch.randn(1, 3, 4, dtype=torch.float64).softmax(1)
    given = {"pred": pred, "target": image(0, 1, 1, 0)}
    config = {"type": name, "mode": "multiclass", "activated": True}
    shared = {"pred": pred[:, :2], "target": given["target"]}
    present = answer(config | {"classes": "present"}, given).loss

    torch.testing.assert_close(present, answer(config, shared).loss)
    assert not torch.isclose(present, answer(config, given).loss)


def test_large_images_keep_the_steps_of_the_jaccard_loss():
    """In float32 the gradient of a quarter million pixels is as that in float64."""
    pred = torch.randn(1, 2**18, dtype=torch.float64).float()
    target = torch.rand(1, 2**18) < 0.3
    narrow = answer({"type": "LovaszHingeLoss"}, {"pred": pred, "target": target})
    wide = answer({"type": "LovaszHingeLoss"}, {"pred": pred.double(), "target": target})

    # Errors of 1 - x round to the same float32 here and there, which swaps neighbours.
    apart = (narrow.grad.double() - wide.grad).abs() / wide.grad.abs().clamp(min=1e-12)
    assert float((apart > 1e-4).double().mean()) < 0.01
    torch.testing.assert_close(narrow.loss.double(), wide.loss, rtol=1e-5, atol=0)


def test_of_equal_errors_the_first_is_the_larger():
    """Ties are broken by place, the same on every device."""
    inputs = {"pred": torch.zeros(1, 3, dtype=torch.float64), "target": image(0, 1, 0)}
    grad = answer({"type": "LovaszHingeLoss"}, inputs).grad

    # Jaccard loss of wrong pixels {0}, {0, 1}, {0, 1, 2}: 1/2, 1, 1.
    assert grad.tolist() == [[0.5, -0.5, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_masks_give_what_their_distances_give(dtype):
    """The server's distances are those that a caller would send, not rounded to pred's dtype."""
    target = torch.zeros(1, 1, 300, 1)
    target[:, :, 3:5] = 1
    # Before the mask 3, 2, 1; in it 0, 0; behind it 1 to 295.
    distances = torch.cat([torch.arange(3, 0, -1), torch.zeros(2), torch.arange(1, 296)])
    pred = torch.randn(1, 1, 300, 1).to(dtype)
    config = {"type": "BoundaryLoss", "mode": "binary"}
    ours = answer(config | {"target_form": "masks"}, {"pred": pred, "target": target.bool()})
    sent = answer(config, {"pred": pred, "target": distances.view(1, 1, 300, 1)})

    assert torch.equal(ours.loss, sent.loss)
    assert torch.equal(ours.grad, sent.grad)


def test_masks_of_callers_share_a_batch():
    """Two callers' masks are computed together, each with its own distances."""
    config = {"type": "BoundaryLoss", "mode": "multiclass", "target_form": "masks"}
    inputs = [
        {"pred": torch.randn(n, 2, 3, 3), "target": torch.randint(0, 2, (n, 3, 3))} for n in (1, 2)
    ]
    jobs = [job_of(config, one) for one in inputs]

    assert jobs[0].key == jobs[1].key
    for together, job in zip(results(*jobs), jobs, strict=True):
        torch.testing.assert_close(together.grad, results(job)[0].grad)


MAPS, ROWS = torch.zeros(2, 3, 4), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("config", "pred", "target", "message"),
    [
        ({"type": "SoftDiceLoss"}, MAPS, ROWS.long(), "SoftDiceLoss needs this"),
        ({"type": "SoftDiceLoss", "mode": "binary"}, MAPS, ROWS.long(), r"masks \[2, 3, 4\] for"),
        ({"type": "SoftDiceLoss", "mode": "multiclass"}, MAPS, ROWS.long() + 3, "in 0..2; given 3"),
        ({"type": "SoftDiceLoss", "mode": "multiclass"}, MAPS, ROWS, "must be of an integer type"),
        ({"type": "SoftDiceLoss", "mode": "multiclass"}, ROWS, ROWS, r"must be \[N, C, ...\]"),
        ({"type": "SoftDiceLoss", "mode": "binary"}, ROWS, ROWS.long() + VOID, "0 or 1 in a mask"),
        ({"type": "LovaszHingeLoss"}, ROWS, ROWS, "must be of an integer type"),
        ({"type": "LovaszSoftmaxLoss"}, MAPS, MAPS.long(), "must be class indices"),
        (
            {"type": "LovaszSoftmaxLoss"},
            torch.zeros(2, 3, 0),
            ROWS[:, :0].long(),
            "one pixel a row",
        ),
        ({"type": "BoundaryLoss", "mode": "binary"}, ROWS, MAPS, r"must be \[2, 4\]"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_does_not_fit_is_refused(config, pred, target, message):
    """The refusal says what would fit."""
    with pytest.raises(RequestError, match=message):
        job_of(config, {"pred": pred, "target": target})


def test_more_regions_than_one_call_may_measure_are_refused():
    """A message of tiny images cannot keep the server measuring distances for minutes."""
    target = torch.tensor([[0, 1]]).expand(1 << 11 | 1, 2).to(torch.uint8)
    config = {"type": "BoundaryLoss", "mode": "multiclass", "target_form": "masks"}
    with pytest.raises(TensorError, match="over 4096 regions"):
        job_of(config, {"pred": torch.zeros(len(target), 2, 2), "target": target})
