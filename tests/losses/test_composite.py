"""Sums of losses: what each part is given, what it remembers, and how a mistake is named."""

import pytest
import torch

import losswire.errors
from losswire.errors import SpecError, TensorError, UnknownLossError
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases import heads_points
from tests.losses.cases.heads_points import FSAF

SEESAW = {"type": "SeesawLoss", "num_classes": 3}
GHM = {"type": "GHMC", "momentum": 0.5, "bins": 4}
SCORES, LABELS = torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5), torch.arange(6) % 4
BOXES = torch.linspace(0, 1, 24, dtype=torch.float64).view(6, 4)
WEIGHT = torch.arange(24.0, dtype=torch.float64).view(6, 4)


def sum_of(**parts):
    """The config of a sum."""
    return {"type": "Sum", "parts": parts}


def mixed():
    """Inputs of a Seesaw loss, a harmonised one, and a distance, each with its own."""
    return {
        "pred": {"cls": SCORES, "hard": BOXES, "box": BOXES.flip(0)},
        "target": {"cls": LABELS, "hard": BOXES.round(), "box": BOXES},
        "weight": {"hard": WEIGHT, "box": WEIGHT},
    }


def alone(part, config, inputs, **options):
    """What one part gives by itself."""
    own = {name: tree[part] for name, tree in inputs.items() if part in tree}
    return answer(config, own, **options)


def test_two_parts_that_remember():
    """Each part's state, gradient and value are those of its own two calls, under its name."""
    config = sum_of(cls=SEESAW, hard=GHM, box={"type": "L1Loss"})
    inputs = mixed()
    first = answer(config, inputs)
    second = answer(config, inputs, state=first.state)

    assert second.state.keys() == {"cls", "hard"}
    for part, own in {"cls": SEESAW, "hard": GHM}.items():
        once = alone(part, own, inputs)
        twice = alone(part, own, inputs, state=once.state)
        assert_all_close(second.state[part], twice.state)
        assert_all_close(second.grad[part], twice.grad)
    assert {"cls.loss_cls_classes", "cls.loss_cls_objectness"} < second.losses.keys()
    assert_all_close(second.losses["hard"], twice.loss)


def test_options_and_other_inputs_by_part():
    """A weight, a divisor and a reduction each for one part, and an input that only one part takes."""
    config = sum_of(ce={"type": "CrossEntropyLoss"}, l1={"type": "L1Loss"}, l2={"type": "MSELoss"})
    inputs = {
        "pred": {"ce": SCORES, "l1": BOXES, "l2": BOXES},
        "target": {"ce": LABELS, "l1": WEIGHT, "l2": WEIGHT},
        "weight": {"l1": WEIGHT},
        "ignore_index": {"ce": 2},
    }
    options = {
        "avg_factor": {"ce": 4.0, "l1": 7.0},
        "reduction_override": {"l1": "mean", "l2": "none"},
    }
    found = answer(config, inputs, **options)

    for part, own in config["parts"].items():
        chosen = {name: given.get(part) for name, given in options.items()}
        expected = alone(part, own, inputs, **chosen)
        assert_all_close(found.losses[part], expected.loss)
        assert_all_close(found.grad[part], expected.grad)


def test_options_by_the_parts_of_a_part():
    """A sum within a sum hands a map of options on."""
    inner = sum_of(a={"type": "L1Loss"}, b={"type": "MSELoss"})
    inputs = {"pred": BOXES, "target": WEIGHT}
    factors = {"in": {"a": 2.0, "b": 3.0}, "c": 5.0}
    found = answer(sum_of(**{"in": inner, "c": {"type": "L1Loss"}}), inputs, avg_factor=factors)

    for name, kind, factor in (("in.a", "L1Loss", 2), ("in.b", "MSELoss", 3), ("c", "L1Loss", 5)):
        assert_all_close(found.losses[name], answer({"type": kind}, inputs, avg_factor=factor).loss)


def test_a_metric_is_no_summand():
    """Accuracy beside a loss is told, unweighted, and not added; alone it is the result."""
    config = sum_of(ce={"type": "CrossEntropyLoss"}, right={"type": "Accuracy"})
    inputs = {"pred": SCORES, "target": LABELS}
    found = answer(config | {"weights": {"right": 3.0}}, inputs)
    metric = answer({"type": "Accuracy"}, inputs)

    assert found.metrics == {"right.top1"}
    assert_all_close(found.loss, answer({"type": "CrossEntropyLoss"}, inputs).loss)
    assert_all_close(found.losses["right.top1"], metric.loss)
    assert metric.metrics == {"top1"}


def test_a_head_may_be_a_part():
    """Its outputs are lists, a value a level, each of them weighted; its counts are as they are."""
    case = next(case for case in heads_points.CASES if case.config is FSAF)
    inputs, weights = case.inputs(2), {"head": 2.0}
    own = answer(case.config, inputs)
    found = answer(sum_of(head=case.config) | {"weights": weights}, inputs)

    assert found.metrics == {f"head.{name}" for name in own.metrics}
    for name, value in own.losses.items():
        factor = 1 if name in own.metrics else 2
        ours, theirs = (
            one if isinstance(one, list) else [one] for one in (found.losses[f"head.{name}"], value)
        )
        assert_all_close(ours, [factor * one for one in theirs])
    assert_all_close(found.grad["cls_scores"], [2 * one for one in own.grad["cls_scores"]])


L1 = {"type": "L1Loss"}
TWO = sum_of(b=L1, a=L1)
SAME = {"pred": BOXES, "target": BOXES}
REFUSED = {
    "an own input it does not take": (
        sum_of(cls=L1, acc={"type": "Accuracy"}),
        {**SAME, "weight": {"acc": WEIGHT}},
        {},
        SpecError,
        "inputs: of part 'acc': Accuracy takes the inputs pred, target; given weight",
    ),
    "an option of no part": (
        TWO, SAME, {"avg_factor": {"c": 2.0}}, SpecError, "avg_factor: the parts are a, b; given c",
    ),
    "an option of no part beside others": (
        TWO, SAME, {"avg_factor": {"c": 2.0, "a": 1.0}}, SpecError, "the parts are a, b; given c",
    ),
    "options by part of a loss without": (
        L1, SAME, {"avg_factor": {"a": 2.0}}, SpecError,
        "avg_factor: a map of them by part goes with a Sum; given one for L1Loss",
    ),
    "the first part is to blame": (
        TWO, {"pred": BOXES, "target": BOXES[:2]}, {}, TensorError, "target: of part 'a'",
    ),
    "an unknown part": (
        sum_of(b=L1, a={"type": "L3Loss"}), SAME, {}, SpecError,
        r"config\.parts\.a\.type: no loss named 'L3Loss'; near names",
    ),
    "a state of other parts": (
        sum_of(cls=SEESAW, box=L1), SAME, {"state": {"box": {"n": WEIGHT}}}, SpecError,
        "state: must be a map of cls; given box",
    ),
    "a state that is empty": (
        sum_of(cls=SEESAW, box=L1), SAME, {"state": {}}, SpecError, "given an empty map",
    ),
    "a state that is no map": (
        sum_of(cls=SEESAW, box=L1), SAME, {"state": WEIGHT}, SpecError, "given Tensor",
    ),
    "an empty state": (
        SEESAW, {"pred": SCORES, "target": LABELS}, {"state": {}}, SpecError,
        "state: must be a map of cum_samples; given an empty map",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "inputs", "options", "kind", "said"), REFUSED.values(), ids=[*REFUSED]
)
def test_a_mistake_is_named(config, inputs, options, kind, said):
    """The error says which part, and what would have been right; the order of a map has no say."""
    with pytest.raises(kind, match=said):
        answer(config, inputs, **options)


@pytest.mark.parametrize("name", ["", "a.b", "a/b"])
def test_a_name_has_no_dots(name):
    """A name "a.pull" is the output pull of a part a, and cannot be a part."""
    with pytest.raises(SpecError, match="a name must be a text without"):
        answer(sum_of(**{name: L1}), SAME)


def test_an_unknown_loss_alone_is_unknown():
    """Only a call's own loss is NOT_FOUND; one within it is a wrong parameter."""
    with pytest.raises(UnknownLossError, match="no loss named"):
        answer({"type": "L3Loss"}, SAME)


def test_what_parts_remember_counts_together():
    """Inputs without rows bring no byte, so a state's size is bounded, for all parts together."""
    wide = {"type": "SeesawLoss", "num_classes": 600_000}
    none = {"pred": torch.zeros(0, 600_002), "target": torch.zeros(0).long()}
    answer(wide, none, wrt=(), reduction_override="sum")

    with pytest.raises(losswire.errors.RequestError, match="must not be over 1048576 numbers"):
        answer(sum_of(a=wide, b=wide), none, wrt=(), reduction_override="sum")
    with pytest.raises(SpecError, match=r"config\.bins: must be in 1\.\.4096"):
        answer({"type": "GHMC", "bins": 4097}, SAME | {"weight": WEIGHT})
