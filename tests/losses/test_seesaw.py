"""What Seesaw loss counts, and which of its sizes and forms are refused."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases.seesaw import detected, objects

CONFIG = {"type": "SeesawLoss", "num_classes": 3}


def test_samples_are_counted_before_the_loss():
    """The counts are those of all calls, this one's too: a state of zeros is the first call."""
    inputs = {"pred": torch.zeros(5, 5), "target": torch.tensor([0, 0, 1, 3, 3])}
    first = answer(CONFIG, inputs)
    second = answer(CONFIG, inputs, state=first.state)
    zeros = answer(CONFIG, inputs, state={"cum_samples": torch.zeros(4, dtype=torch.float64)})

    assert first.state["cum_samples"].tolist() == [2, 1, 0, 2]
    assert second.state["cum_samples"].tolist() == [4, 2, 0, 4]
    assert second.state["cum_samples"].dtype is torch.float32
    assert_all_close(zeros.losses, first.losses)
    # Class 2 had no sample in either call, class 0 has more: it is mitigated further.
    assert second.losses["loss_cls_classes"] < first.losses["loss_cls_classes"]
    assert_all_close(second.losses["loss_cls_objectness"], first.losses["loss_cls_objectness"])


def test_without_classes_there_is_nothing_to_tell_apart():
    """Rows of background alone make the classes' part the scalar 0, whatever the reduction."""
    inputs = {"pred": torch.ones(2, 5), "target": torch.tensor([3, 3])}
    for reduction in ("none", "mean", "sum"):
        result = answer(CONFIG, inputs, reduction_override=reduction)

        assert result.losses["loss_cls_classes"].shape == ()
        assert float(result.losses["loss_cls_classes"]) == 0


def test_the_sum_of_both_parts():
    """return_dict=False adds them up; unreduced, that needs the same rows in both."""
    summed = CONFIG | {"return_dict": False}
    both, one = answer(CONFIG, detected(6)), answer(summed, detected(6))

    assert_all_close(one.loss, sum(both.losses.values()))
    assert_all_close(one.grad, both.grad)
    assert answer(summed, objects(6), reduction_override="none").loss.shape == (6,)
    with pytest.raises(losswire.errors.RequestError, match="return_dict: must be true"):
        answer(summed, detected(6), reduction_override="none")
    with pytest.raises(losswire.errors.RequestError, match="the outputs of SeesawLoss are loss"):
        answer(summed, detected(6), grad_output={"loss_cls_classes": torch.ones(())})


def test_the_gradient_of_a_weight():
    """A row's weight has a part in both outputs."""
    inputs = detected(6) | {"weight": torch.ones(6, dtype=torch.float64)}
    rows = answer(CONFIG, inputs, reduction_override="none").losses
    expected = rows["loss_cls_objectness"].clone()
    expected[inputs["target"] < 3] += rows["loss_cls_classes"]
    grads = answer(CONFIG, inputs, wrt=("weight",), reduction_override="sum").grads

    assert_all_close(grads["weight"], expected)


@pytest.mark.parametrize("classes", [0, 10**6 + 1, 10**12])
@pytest.mark.parametrize("rows", [0, 2])
def test_sizes_that_were_not_sent(classes, rows):
    """A number of classes that is not pred's, or that costs no byte, is refused before it is used."""
    config = {"type": "SeesawLoss", "num_classes": classes}
    width = classes + 2 if rows == 0 and classes > 2**20 else 5
    inputs = {"pred": torch.zeros(rows, width), "target": torch.zeros(rows, dtype=torch.int64)}
    with pytest.raises(losswire.errors.RequestError, match=r"(num_classes|pred): must be"):
        answer(config, inputs)
