"""Samplers: MMDetection's own choices from the same seed, and what each promises."""

import pytest
import torch

from lossserver.detection.assigned import Assigned, Predicted
from lossserver.detection.hard_samplers import local_ranks
from lossserver.detection.images import Image
from lossserver.detection.parts import SAMPLERS
from lossserver.registry import RefusedError
from tests.detection.golden_parts import golden_parts

SHARED = {"num": 8, "pos_fraction": 0.5, "add_gt_as_proposals": False}
RANDOM = SHARED | {"type": "RandomSampler"}
BALANCED = SHARED | {"type": "InstanceBalancedPosSampler"}
BY_OVERLAP = SHARED | {"type": "IoUBalancedNegSampler"}
HARD = SHARED | {"type": "OHEMSampler"}
HLR = SHARED | {"type": "ScoreHLRSampler"}
COMBINED = SHARED | {
    "type": "CombinedSampler",
    "pos_sampler": {"type": "InstanceBalancedPosSampler"},
    "neg_sampler": {"type": "IoUBalancedNegSampler"},
}


def assigned_of(gt_inds, overlaps=None):
    """An assignment of objects of class 0."""
    inds = torch.tensor(gt_inds)
    return Assigned(gt_inds=inds, overlaps=overlaps, labels=torch.where(inds > 0, 0, -1))


def image_of(count):
    """An image of so many objects."""
    boxes = torch.arange(4.0).expand(count, 4)
    labels = torch.zeros(count, dtype=torch.int64)
    return Image(boxes=boxes, labels=labels, ignored=boxes[:0], meta={})


def sample(config, assigned, *, objects=3, seed=0, **more):
    """What is chosen of priors that are all alike."""
    generator = torch.Generator().manual_seed(seed)
    priors = torch.zeros(len(assigned.gt_inds), 4)
    return SAMPLERS.build(config).sample(assigned, priors, image_of(objects), generator, **more)


@pytest.mark.parametrize("golden", golden_parts("sampler"), ids=str)
def test_same_as_upstream(golden):
    """From the same seed the same priors are chosen, for the same objects."""
    given = golden.value(golden.step["kwargs"])
    image = Image(
        boxes=given["gt_bboxes"],
        labels=given["gt_labels"],
        ignored=given["gt_bboxes"][:0],
        meta={},
    )
    assigned = Assigned(
        gt_inds=given["gt_inds"], overlaps=given["max_overlaps"], labels=given["labels"]
    )
    generator = torch.Generator().manual_seed(golden.case["seed"])
    found = SAMPLERS.build(golden.config).sample(assigned, given["priors"], image, generator)

    golden.assert_equal(found.pos_inds, golden.outputs("pos_inds"))
    golden.assert_equal(found.neg_inds, golden.outputs("neg_inds"))
    golden.assert_equal(found.pos_gt_inds, golden.outputs("pos_assigned_gt_inds"))
    golden.assert_equal(found.priors[found.pos_inds], golden.outputs("pos_priors"))
    golden.assert_equal(found.priors[found.neg_inds], golden.outputs("neg_priors"))
    assert found.avg_factor == golden.outputs("avg_factor")


@pytest.mark.parametrize("config", [RANDOM, BALANCED, BY_OVERLAP, COMBINED])
@pytest.mark.parametrize("positives", [0, 2, 30])
def test_counts(config, positives):
    """No prior is chosen twice, none that is ignored, and never more than asked for."""
    gt_inds = [k % 3 + 1 for k in range(positives)] + [-1] * 5 + [0] * 30
    overlaps = torch.linspace(0.9, 0, len(gt_inds))
    found = sample(config, assigned_of(gt_inds, overlaps))
    inds = torch.tensor(gt_inds)

    assert len(found.pos_inds) == min(positives, 4)
    assert len(found.neg_inds) == 8 - len(found.pos_inds)
    assert torch.equal(found.pos_inds, found.pos_inds.unique())
    assert torch.equal(found.neg_inds, found.neg_inds.unique())
    assert (inds[found.neg_inds] == 0).all()
    assert torch.equal(inds[found.pos_inds] - 1, found.pos_gt_inds)
    assert (found.pos_gt_inds >= 0).all()


def test_a_seed_is_a_choice():
    """The same seed chooses the same, another seed something else."""
    assigned = assigned_of([1] * 50 + [0] * 50)
    one, same, other = (sample(RANDOM, assigned, seed=seed).pos_inds for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_own_boxes_come_first():
    """add_gt_as_proposals puts each object's own box before the priors, as its positive."""
    found = sample(RANDOM | {"add_gt_as_proposals": True}, assigned_of([0, 2]), objects=2)

    assert found.pos_inds.tolist() == [0, 1, 3]
    assert found.pos_gt_inds.tolist() == [0, 1, 1]
    assert found.priors.shape == (4, 4)
    assert found.neg_inds.tolist() == [2]


def test_negatives_a_positive():
    """neg_pos_ub bounds negatives by positives, of which an image without any has one."""
    bounded = RANDOM | {"neg_pos_ub": 2}

    assert len(sample(bounded, assigned_of([1, 2] + [0] * 30)).neg_inds) == 4
    assert len(sample(bounded, assigned_of([0] * 30)).neg_inds) == 2


def test_each_object_gets_its_share():
    """An object of few priors keeps them all, and the others have equal shares."""
    found = sample(BALANCED | {"num": 12}, assigned_of([1] * 100 + [2] * 100 + [3]))
    counts = found.pos_gt_inds.bincount(minlength=3).tolist()

    assert len(found.pos_inds) == 6
    assert max(counts) <= 3


def test_shares_that_are_not_used_are_given_to_others():
    """Where objects have too few priors the rest is filled up, and no prior is chosen twice."""
    found = sample(BALANCED | {"num": 40}, assigned_of([1] * 100 + [2, 3]))

    assert len(found.pos_inds) == len(found.pos_inds.unique()) == 20
    assert found.pos_gt_inds.bincount().tolist() == [18, 1, 1]


def test_overlaps_are_covered_evenly():
    """Negatives come from each interval of overlap, also from those that have few."""
    overlaps = torch.cat(
        (torch.zeros(980), torch.linspace(0.11, 0.19, 10), torch.linspace(0.21, 0.3, 10))
    )
    config = BY_OVERLAP | {"num": 12}
    chosen = overlaps[sample(config, assigned_of([0] * 1000, overlaps)).neg_inds]

    assert (chosen == 0).sum() == 4
    assert ((chosen > 0) & (chosen < 0.2)).sum() == 4


@pytest.mark.parametrize(
    ("floor", "fraction", "low"), [(0.1, 0.5, 6), (0.0, 0.25, 3), (0.1, 0.0, 0)]
)
def test_a_part_comes_from_below_the_floor(floor, fraction, low):
    """floor_fraction of the negatives overlap less than floor_thr; with a floor of 0, nothing."""
    overlaps = torch.cat((torch.zeros(100), torch.linspace(0.11, 0.3, 100)))
    config = BY_OVERLAP | {"num": 12, "floor_thr": floor, "floor_fraction": fraction}
    chosen = overlaps[sample(config | {"num_bins": 1}, assigned_of([0] * 200, overlaps)).neg_inds]

    assert (chosen == 0).sum() == low
    assert len(chosen) == 12


def test_a_sampler_is_the_same_for_every_image():
    """Nothing is kept from image to image (upstream's floor_thr of -1 is 0 from the second one on)."""
    overlaps = torch.linspace(0, 0.5, 100)
    sampler = SAMPLERS.build(BY_OVERLAP)
    one, two = (
        sampler.sample(
            assigned_of([0] * 100, overlaps),
            torch.zeros(100, 4),
            image_of(1),
            torch.Generator().manual_seed(1),
        )
        for _ in range(2)
    )

    assert torch.equal(one.neg_inds, two.neg_inds)


def test_an_assigner_without_overlaps():
    """A sampler that needs overlaps says so where there are none."""
    with pytest.raises(RefusedError, match="overlaps"):
        sample(BY_OVERLAP, assigned_of([0] * 100))


def test_hard_ones_cost_most():
    """OHEM takes the positives and the negatives of the largest losses."""
    losses = torch.arange(60.0)
    found = sample(HARD, assigned_of([1] * 30 + [0] * 30), losses=losses)

    assert found.pos_inds.tolist() == [26, 27, 28, 29]
    assert found.neg_inds.tolist() == [56, 57, 58, 59]


def test_hard_ones_need_their_losses():
    """Without losses, or with those of other priors, there is nothing to choose by."""
    assigned = assigned_of([1] * 30 + [0] * 30)
    for losses in (None, torch.ones(59)):
        with pytest.raises(RefusedError, match="losses of 60 priors"):
            sample(HARD, assigned, losses=losses)


def test_local_ranks():
    """The best box of each group is first in it, and the others follow by their scores."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    ranks = local_ranks(boxes.repeat(2, 1), torch.tensor([0.5, 0.6, 0.9, 0.4, 0.7, 0.3]), 0.5)

    assert ranks.tolist() == [1, 1, 0, 2, 0, 3]


def hlr_inputs(scores):
    """Logits of two classes and background whose largest probability of a class is as given."""
    best = torch.tensor(scores)
    logits = torch.stack((best, best * 0.5, 1 - best * 1.5), dim=1).log()
    boxes = torch.tensor([[float(20 * i), 0, 20.0 * i + 10, 10] for i in range(len(scores))])
    return Predicted(scores=logits, boxes=boxes)


def test_hierarchical_local_rank():
    """Negatives are ranked by their scores where none overlap; weights fall, and the loss's sum stays."""
    scores = [0.3, 0.02, 0.6, 0.1, 0.5, 0.01]
    losses = torch.arange(1.0, 7.0)
    config = HLR | {"num": 3}
    found = sample(config, assigned_of([0] * 6), predicted=hlr_inputs(scores), losses=losses)

    assert found.neg_inds.tolist() == [2, 4, 0]
    weights, chosen = found.neg_weights, losses[found.neg_inds]
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 0.75, 0.5]).sqrt())
    torch.testing.assert_close((weights * chosen).sum(), chosen.sum())


def test_missing_negatives_are_filled_at_random():
    """Negatives that score too little are chosen at random, with the least weight."""
    scores = [0.3, 0.02, 0.6, 0.03, 0.01]
    more = {"predicted": hlr_inputs(scores), "losses": torch.ones(5)}
    found = sample(HLR | {"num": 4}, assigned_of([0] * 5), **more)
    none = sample(HLR | {"num": 4, "score_thr": 0.9}, assigned_of([0] * 5), **more)

    assert found.neg_inds[:2].tolist() == [2, 0]
    assert found.neg_weights[1:].unique().numel() == 1
    assert len(found.neg_inds.unique()) == 4
    assert none.neg_weights.tolist() == [1, 1, 1, 1]
    assert sample(HLR, assigned_of([-1] * 5), **more).neg_weights is None


@pytest.mark.parametrize("scores", [None, [0.5] * 3])
def test_ranks_need_scores(scores):
    """Without scores, or with those of other priors, there is nothing to rank by."""
    predicted = None if scores is None else hlr_inputs(scores)
    with pytest.raises(RefusedError, match="scores and boxes"):
        sample(HLR, assigned_of([0] * 9), predicted=predicted)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (RANDOM | {"num": 0}, "num"),
        (RANDOM | {"pos_fraction": 1.5}, "pos_fraction"),
        (RANDOM | {"neg_pos_ub": float("inf")}, "neg_pos_ub"),
        (RANDOM | {"neg_pos_ub": float("nan")}, "neg_pos_ub"),
        (BY_OVERLAP | {"floor_thr": -0.5}, "floor_thr"),
        (BY_OVERLAP | {"floor_fraction": 2}, "floor_fraction"),
        (BY_OVERLAP | {"num_bins": 1 << 40}, "num_bins"),
        (HLR | {"bias": 2}, "bias"),
        (COMBINED | {"pos_sampler": {"type": "PseudoSampler"}}, "pos_sampler.type"),
        (COMBINED | {"neg_sampler": COMBINED}, "neg_sampler.type"),
        (COMBINED | {"neg_sampler": {"type": "NoSampler"}}, "neg_sampler.type"),
        (COMBINED | {"neg_sampler": {"type": "RandomSampler", "num": -1}}, "neg_sampler.num"),
    ],
)
def test_what_samples_nothing_is_refused(config, field):
    """A config that cannot choose is refused by the path of its field."""
    with pytest.raises(RefusedError) as refused:
        SAMPLERS.build(config)

    assert refused.value.field == field
