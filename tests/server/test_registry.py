"""lossserver.registry: names to losses, and nothing but names."""

import pytest

import lossserver.losses  # noqa: F401  (registers them)
from lossserver.registry import LOSSES, RefusedError, Registry, UnknownNameError


def test_a_config_makes_a_loss():
    """mmdet's dict gives the loss; the scope may be written; ints stand for floats, lists for tuples."""
    config = {"type": "mmdet.CrossEntropyLoss", "class_weight": [1, 2.5], "loss_weight": 2}
    loss = LOSSES.build(config)

    assert loss == LOSSES.build(config | {"type": "CrossEntropyLoss"})
    assert (loss.class_weight, loss.loss_weight) == ((1.0, 2.5), 2.0)
    assert hash(loss)


@pytest.mark.parametrize(
    "name",
    ["os.system", "torch.nn.L1Loss", "mmdet.models.L1Loss", "__class__", "", "mmdet.", "l1loss"],
)
def test_a_name_is_looked_up_and_nothing_else(name):
    """No dotted path, import or attribute is tried for a name that is not registered."""
    with pytest.raises(UnknownNameError, match="no loss named"):
        LOSSES.build({"type": name})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, r"type: a config must name its loss; given keys \[\]"),
        ({"type": 5}, "type: the name of a loss must be a text; given 5"),
        ({"type": "FocalLoss", "gama": 1}, "gama: FocalLoss has no such .* near names: gamma"),
        ({"type": "FocalLoss", "gamma": "2"}, "gamma: must be a number; given '2'"),
        ({"type": "FocalLoss", "gamma": True}, "gamma: must be a number; given True"),
        ({"type": "FocalLoss", "use_sigmoid": 1}, "use_sigmoid: must be true or false; given 1"),
        ({"type": "FocalLoss", "gamma": -1}, "gamma: must be at least 0; given -1.0"),
        ({"type": "FocalLoss", "gamma": float("nan")}, "gamma: must be at least 0; given nan"),
        ({"type": "FocalLoss", "alpha": 1.5}, r"alpha: must be in \[0, 1\]; given 1.5"),
        ({"type": "FocalLoss", "use_sigmoid": False}, "use_sigmoid: must be true"),
        ({"type": "L1Loss", "reduction": "average"}, "reduction: must be one of none, mean, sum"),
        ({"type": "SmoothL1Loss", "beta": 0}, "beta: must be above 0; given 0.0"),
        ({"type": "CrossEntropyLoss", "ignore_index": 2.5}, "ignore_index: must be a whole number"),
        ({"type": "CrossEntropyLoss", "class_weight": "w.pkl"}, "class_weight: must be a list"),
        ({"type": "CrossEntropyLoss", "class_weight": [1, "a"]}, r"class_weight\[1\]: must be a n"),
    ],
)
def test_a_wrong_parameter_is_refused(config, said):
    """The refusal names the parameter, the rule and what was given."""
    with pytest.raises(RefusedError, match=said):
        LOSSES.build(config)


def test_near_names_are_offered():
    """Whoever mistypes a name is told the right one."""
    with pytest.raises(UnknownNameError, match="near names: FocalLoss"):
        LOSSES.build({"type": "FocalLos"})


def test_a_name_is_taken_once():
    """Two losses of one name would be a matter of import order."""
    registry = Registry()
    taken = type("L1Loss", (), {})
    registry.register(taken)

    with pytest.raises(ValueError, match="already registered"):
        registry.register(taken)
    with pytest.raises(ValueError, match="already registered"):
        registry.alias("L1Loss", "MSELoss")
    registry.alias("Distance", "L1Loss")
    with pytest.raises(ValueError, match="already registered"):
        registry.alias("Distance", "MSELoss")


def test_a_scope_is_part_of_a_name():
    """mmdet. is the same as none, mmengine's _scope_ is a prefix, and its _delete_ means nothing."""
    plain = LOSSES.build({"type": "GIoULoss"})

    assert LOSSES.build({"type": "mmdet.GIoULoss"}) == plain
    assert LOSSES.build({"type": "GIoULoss", "_scope_": "mmdet", "_delete_": True}) == plain
    assert LOSSES.build({"type": "mmdet2.GIoULoss"}) == plain
    assert LOSSES.named({"type": "HuberLoss", "_scope_": "torch"}) == "torch.HuberLoss"
    with pytest.raises(UnknownNameError, match=r"no loss named 'mmdet2\.EIoULoss'"):
        LOSSES.build({"type": "mmdet2.EIoULoss"})
