"""Assigners: MMDetection's own choices, and what each promises."""

import subprocess
import sys
from itertools import permutations

import pytest
import torch

from lossserver.detection.assigned import Predicted
from lossserver.detection.assigners import pairs
from lossserver.detection.assigners.pairs import BboxOverlaps2D
from lossserver.detection.images import Image
from lossserver.detection.overlaps import bbox_overlaps
from lossserver.detection.parts import ASSIGNERS, COSTS
from lossserver.registry import RefusedError
from tests.detection.golden_parts import golden_parts

MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}
ATSS = {"type": "ATSSAssigner", "topk": 4}
GRID = {"type": "GridAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5}
REGION = {"type": "CenterRegionAssigner", "pos_scale": 0.4, "neg_scale": 0.8}
UNIFORM = {"type": "UniformAssigner", "pos_ignore_thr": 0.15, "neg_ignore_thr": 0.7}
DETR = {
    "type": "HungarianAssigner",
    "match_costs": [
        {"type": "ClassificationCost", "weight": 1.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ],
}
EVERY = [
    MAX_IOU,
    MAX_IOU | {"neg_iou_thr": [0.1, 0.4], "gt_max_assign_all": False, "ignore_iof_thr": 0.3},
    MAX_IOU | {"iou_calculator": {"type": "BboxOverlaps2D", "dtype": "fp16"}},
    ATSS | {"ignore_iof_thr": 0.3},
    ATSS | {"alpha": 0.8},
    {"type": "SimOTAAssigner"},
    {"type": "TaskAlignedAssigner", "topk": 5},
    {"type": "PointAssigner"},
    REGION,
    REGION | {"foreground_dominate": True},
    GRID,
    GRID | {"neg_iou_thr": [0.1, 0.4], "gt_max_assign_all": False},
    UNIFORM,
    DETR,
]
every_assigner = pytest.mark.parametrize("config", EVERY, ids=lambda config: config["type"])

#: Two objects, one within the other.
BOXES = torch.tensor([[0.0, 0.0, 40.0, 40.0], [10.0, 10.0, 30.0, 30.0]])


def image_of(boxes, labels=None, ignored=None):
    """An image of such objects."""
    labels = torch.arange(len(boxes)) if labels is None else torch.tensor(labels, dtype=torch.int64)
    ignored = torch.zeros(0, 4) if ignored is None else ignored
    return Image(boxes=boxes, labels=labels, ignored=ignored, meta={"img_shape": [64, 48]})


def random_boxes(count, generator):
    """Boxes of an image of 64 pixels, on a raster so that some are equally good."""
    corner = torch.randint(0, 12, (count, 2), generator=generator) * 4.0
    sides = torch.randint(1, 9, (count, 2), generator=generator) * 4.0
    return torch.cat([corner, corner + sides], 1)


def scene(objects, priors, seed=0):
    """An image, priors of two levels that any assigner takes, and what is predicted of them."""
    generator = torch.Generator().manual_seed(seed)
    image = image_of(
        random_boxes(objects, generator),
        [i % 3 for i in range(objects)],
        random_boxes(2, generator),
    )
    predicted = Predicted(
        scores=torch.rand(priors, 3, generator=generator),
        boxes=random_boxes(priors, generator) + torch.rand(priors, 4, generator=generator),
        responsible=torch.rand(priors, generator=generator) < 0.3,
    )
    return random_boxes(priors, generator), image, predicted


def assign(config, priors, image, predicted=None, levels=None):
    """What an assigner of that config says."""
    if config["type"] in ("PointAssigner", "SimOTAAssigner") and priors.shape[1] == 4:
        strides = torch.full_like(priors[:, :2], 8.0)
        strides[: len(priors) // 2] = 4.0
        priors = torch.cat([priors[:, :2], strides], 1)
    levels = [len(priors) // 2, len(priors) - len(priors) // 2] if levels is None else levels
    return ASSIGNERS.build(config).assign(priors, image, levels=levels, predicted=predicted)


def assert_same(one, other):
    """Two assignments agree to the bit."""
    for name in ("gt_inds", "labels", "overlaps"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a, b), name
    assert one.extras.keys() == other.extras.keys()
    assert all(torch.equal(one.extras[name], other.extras[name]) for name in one.extras)


@pytest.mark.parametrize("golden", golden_parts("assigner"), ids=str)
def test_same_as_upstream(golden):
    """Objects, labels and overlaps are upstream's."""
    given = {
        k: v.get("$inst", v) if isinstance(v, dict) else v for k, v in golden.step["kwargs"].items()
    }
    given = golden.value(given)
    pred, own = given["pred_instances"], given["gt_instances"]
    ignored = given.get("gt_instances_ignore", {"bboxes": own["bboxes"][:0]})["bboxes"]
    image = Image(
        boxes=own["bboxes"].float(),
        labels=own["labels"],
        ignored=ignored.float(),
        meta=given.get("img_meta", {}),
    )
    found = ASSIGNERS.build(golden.config).assign(
        pred.get("priors", pred.get("bboxes")),
        image,
        levels=given.get("num_level_priors", ()),
        predicted=Predicted(scores=pred.get("scores"), boxes=pred.get("bboxes")),
    )
    # In float64 upstream's SimOTA stops at mixed dtypes: what it meant is what it does in float32.
    wanted = golden.expected
    if "raises" in wanted:
        wanted = golden.case["expect"]["f32"]["steps"][0]

    for name, ours in (("gt_inds", found.gt_inds), ("labels", found.labels)):
        assert torch.equal(ours, golden.tensor(wanted["outputs"][name]["key"]))
    if "max_overlaps" in wanted["outputs"]:
        theirs = golden.tensor(wanted["outputs"]["max_overlaps"]["key"])
        torch.testing.assert_close(found.overlaps, theirs.float(), rtol=1e-6, atol=1e-6)
    else:
        assert found.overlaps is None


def scalar_overlap(a, b):
    """Shared area over that of both, of two boxes as lists."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(area) - width * height)


def scalar_max_iou(priors, boxes, *, positive, negative, least, every):
    """MaxIoUAssigner's rules, one prior and one object after the other."""
    table = [[scalar_overlap(box, prior) for prior in priors] for box in boxes]
    best = [max(column) for column in zip(*table, strict=True)]
    found = []
    for place, overlap in enumerate(best):
        owner = next(i for i, row in enumerate(table) if row[place] == overlap)
        found.append(owner + 1 if overlap >= positive else 0 if overlap < negative else -1)
    for i, row in enumerate(table):
        places = [place for place, overlap in enumerate(row) if overlap == max(row)]
        for place in places if every else places[:1]:
            if max(row) >= least:
                found[place] = i + 1
    return found


@pytest.mark.parametrize("block", [1, 50, 1 << 18])
@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("least", [0.0, 0.3])
def test_max_iou_by_hand(monkeypatch, block, every, least):
    """The rules of MaxIoUAssigner, in scalar arithmetic; whatever the block."""
    monkeypatch.setattr(pairs, "CPU_BLOCK", block)
    for seed in range(5):
        priors, image, _ = scene(6, 40, seed)
        config = MAX_IOU | {"min_pos_iou": least, "gt_max_assign_all": every}
        wanted = scalar_max_iou(
            priors.tolist(),
            image.boxes.tolist(),
            positive=0.5,
            negative=0.4,
            least=least,
            every=every,
        )

        assert assign(config, priors, image).gt_inds.tolist() == wanted


@every_assigner
def test_blocks_change_nothing(config, monkeypatch):
    """A block of a few pairs gives what one of all pairs gives, to the bit."""
    whole = [assign(config, *scene(9, 60, seed)) for seed in range(4)]
    monkeypatch.setattr(pairs, "CPU_BLOCK", 100)

    for seed, one in enumerate(whole):
        assert_same(assign(config, *scene(9, 60, seed)), one)


@every_assigner
@pytest.mark.parametrize(("objects", "priors"), [(0, 20), (4, 0), (0, 0), (1, 1), (30, 3)])
def test_few_of_either(config, objects, priors):
    """No objects or no priors are ordinary: nothing is positive. So are few priors."""
    found = assign(config, *scene(objects, priors))

    assert found.gt_inds.shape == found.labels.shape == (priors,)
    assert found.gt_inds.dtype == found.labels.dtype == torch.int64
    if not objects:
        assert (found.gt_inds <= 0).all()
    assert ((found.gt_inds > 0) == (found.labels >= 0)).all()


@every_assigner
def test_inputs_are_left_alone(config):
    """Nothing is written into what was given, and no gradient is asked for."""
    priors, image, predicted = scene(5, 30)
    predicted.scores.requires_grad_()
    predicted.boxes.requires_grad_()
    found = assign(config, priors, image, predicted)
    again = scene(5, 30)

    assert torch.equal(priors, again[0])
    assert torch.equal(image.boxes, again[1].boxes)
    assert torch.equal(predicted.scores, again[2].scores)
    assert torch.equal(predicted.boxes, again[2].boxes)
    assert found.overlaps is None or not found.overlaps.requires_grad


@every_assigner
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_odd_predictions(config, value):
    """Predictions that are not finite never raise, one of them or all."""
    for rows in (slice(3, 4), slice(None)):
        priors, image, predicted = scene(5, 30)
        predicted.scores[rows] = value
        predicted.boxes[rows] = value

        assert assign(config, priors, image, predicted).gt_inds.max() <= 5


@every_assigner
def test_predictions_are_needed(config):
    """An assigner that looks at predictions says which of them it was not given."""
    priors, image, predicted = scene(5, 30)
    fields = {"scores": "pred.scores", "boxes": "pred.bboxes", "responsible": "pred.responsible"}
    needs = ASSIGNERS.build(config).needs
    for name in needs:
        given = {one: getattr(predicted, one) for one in fields if one != name}
        with pytest.raises(RefusedError) as refusal:
            assign(config, priors, image, Predicted(**given))

        assert refusal.value.field == fields[name]
    told = {name: getattr(predicted, name) for name in needs}

    assert_same(
        assign(config, priors, image, Predicted(**told) if told else None),
        assign(config, priors, image, predicted),
    )


@every_assigner
def test_predictions_must_fit(config):
    """Predictions of another number of priors, or of too few classes, are refused."""
    priors, image, predicted = scene(5, 30)
    for name in ASSIGNERS.build(config).needs:
        every = {one: getattr(predicted, one) for one in ("scores", "boxes", "responsible")}
        for wrong in [every[name][:-1], *([every[name][:, :2]] if name == "scores" else [])]:
            with pytest.raises(RefusedError, match=r"^pred\."):
                assign(config, priors, image, Predicted(**every | {name: wrong}))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (MAX_IOU | {"neg_iou_thr": [0.1, 0.2, 0.3]}, "neg_iou_thr"),
        (MAX_IOU | {"iou_calculator": {"type": "Overlaps"}}, "iou_calculator.type"),
        (
            MAX_IOU | {"iou_calculator": {"type": "BboxOverlaps2D", "dtype": "fp8"}},
            "iou_calculator.dtype",
        ),
        (MAX_IOU | {"perm_repeat_gt_cfg": {"iou_thr": 0.9}}, "perm_repeat_gt_cfg"),
        (ATSS | {"topk": 0}, "topk"),
        ({"type": "SimOTAAssigner", "candidate_topk": 0}, "candidate_topk"),
        ({"type": "TaskAlignedAssigner", "topk": 0}, "topk"),
        ({"type": "PointAssigner", "scale": 0}, "scale"),
        ({"type": "PointAssigner", "pos_num": 0}, "pos_num"),
        (UNIFORM | {"match_times": 0}, "match_times"),
        ({"type": "HungarianAssigner", "match_costs": []}, "match_costs"),
        (
            {"type": "HungarianAssigner", "match_costs": [{"type": "DiceCost"}]},
            "match_costs[0].type",
        ),
        (
            {
                "type": "HungarianAssigner",
                "match_costs": {"type": "FocalLossCost", "binary_input": True},
            },
            "match_costs.binary_input",
        ),
        ({"type": "MaxIoUAssigner", "pos_iou_thr": 0.5}, "neg_iou_thr"),
    ],
)
def test_config_is_refused(config, field):
    """A config that makes no sense is refused when it is read, by its field."""
    with pytest.raises(RefusedError) as refusal:
        ASSIGNERS.build(config)

    assert refusal.value.field == field


def test_max_iou_ignores_gpu_assign_thr():
    """Where upstream goes to the CPU for memory's sake is read over."""
    assert ASSIGNERS.build(MAX_IOU | {"gpu_assign_thr": 3}) == ASSIGNERS.build(MAX_IOU)


def test_whole_number_makes_no_negative():
    """As upstream, neg_iou_thr 1 is not 1.0: priors that are not positive stay ignored."""
    priors, image, _ = scene(3, 20)
    config = MAX_IOU | {"match_low_quality": False}

    assert not (assign(config | {"neg_iou_thr": 1}, priors, image).gt_inds == 0).any()
    assert not (assign(config | {"neg_iou_thr": 1.0}, priors, image).gt_inds == -1).any()


def test_object_without_overlap_takes_what_it_does_not_overlap():
    """As upstream, at min_pos_iou 0 an object of no area takes every prior; a later one takes it back."""
    flat = torch.tensor([[5.0, 5.0, 5.0, 9.0]])
    priors = torch.cat([BOXES, BOXES + 100])
    first = assign(MAX_IOU, priors, image_of(torch.cat([flat, BOXES])))
    last = assign(MAX_IOU, priors, image_of(torch.cat([BOXES, flat])))
    strict = assign(MAX_IOU | {"min_pos_iou": 0.1}, priors, image_of(torch.cat([BOXES, flat])))

    assert first.gt_inds.tolist() == [2, 3, 1, 1]
    assert last.gt_inds.tolist() == [3, 3, 3, 3]
    assert strict.gt_inds.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("by_prior", [True, False])
def test_ignored_regions(by_prior):
    """The share in an ignored region is the prior's own, or the region's."""
    region = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    config = MAX_IOU | {"ignore_iof_thr": 0.5, "ignore_wrt_candidates": by_prior}
    found = assign(config, BOXES, image_of(BOXES, ignored=region))

    assert found.gt_inds.tolist() == ([-1, -1] if by_prior else [1, 2])
    assert found.overlaps.tolist() == ([-1.0, -1.0] if by_prior else [1.0, 1.0])


def test_overlaps_are_the_same_to_the_bit():
    """The assigners' overlap is bbox_overlaps's, which gradients go through."""
    priors, image, _ = scene(9, 60)
    calculator = BboxOverlaps2D()
    for mode in ("iou", "iof"):
        ours = calculator(priors[:, None], image.boxes + 0.3, mode)

        assert torch.equal(ours, bbox_overlaps(priors, image.boxes + 0.3, mode))


def test_atss_needs_levels():
    """How many priors are of each level must be said, and add up."""
    priors, image, _ = scene(3, 20)
    for levels in ([], [10, 9]):
        with pytest.raises(RefusedError, match=r"^levels"):
            assign(ATSS, priors, image, levels=levels)

    assert_same(
        assign(ATSS, priors, image, levels=[10, 10]),
        assign(ATSS, priors, image, levels=[0, 10, 0, 10]),
    )


def test_atss_single_candidate():
    """One overlap has no deviation: as upstream, nothing is positive."""
    found = assign(ATSS | {"topk": 1}, BOXES, image_of(BOXES), levels=[2])

    assert found.gt_inds.tolist() == [0, 0]
    assert found.overlaps.tolist() == [-1e8, -1e8]


def test_atss_ignores_priors():
    """A prior in an ignored region is ignored, unless there are too few others."""
    priors = torch.cat([BOXES, BOXES + 200, BOXES + 400])
    image = image_of(BOXES[:1], ignored=BOXES[1:])
    few, many = (ATSS | {"ignore_iof_thr": 0.5, "topk": topk} for topk in (1, 2))

    assert assign(few, priors, image, levels=[2, 2, 2]).gt_inds.tolist() == [1, -1, 0, 0, 0, 0]
    assert assign(many, priors[1:], image, levels=[1, 2, 2]).gt_inds.tolist() == [1, 0, 0, 0, 0]


def test_sim_ota_shares_no_prior():
    """A prior that two objects get is one's; and the nearer of two equal objects in scores gets it."""
    points = torch.tensor([[20.0, 20.0, 8.0, 8.0]])
    predicted = Predicted(scores=torch.full((1, 2), 0.5), boxes=BOXES[1:])
    found = assign({"type": "SimOTAAssigner"}, points, image_of(BOXES), predicted)

    assert found.gt_inds.tolist() == [2]
    assert found.overlaps.tolist() == [1.0]


def test_sim_ota_far_from_all():
    """Where no prior is in or near an object, all are negative and overlap by 0."""
    points = torch.tensor([[500.0, 500.0, 8.0, 8.0]] * 3)
    predicted = Predicted(scores=torch.full((3, 2), 0.5), boxes=BOXES[[1, 1, 1]])
    found = assign({"type": "SimOTAAssigner"}, points, image_of(BOXES), predicted)

    assert found.gt_inds.tolist() == [0, 0, 0]
    assert found.overlaps.tolist() == [0.0, 0.0, 0.0]


def test_task_aligned_metric():
    """The metric of a positive is score^α · IoU^β, and of any other 0."""
    predicted = Predicted(
        scores=torch.tensor([[0.5, 0.9], [0.9, 0.25]]),
        boxes=torch.tensor([[0.0, 0.0, 40.0, 20.0], [10.0, 10.0, 30.0, 30.0]]),
    )
    config = {"type": "TaskAlignedAssigner", "topk": 1, "alpha": 0.5, "beta": 2.0}
    found = assign(config, BOXES, image_of(BOXES), predicted)

    # By metric both objects want the second prior, which overlaps the second more.
    assert found.gt_inds.tolist() == [1, 2]
    torch.testing.assert_close(
        found.extras["assign_metrics"], torch.tensor([0.5**0.5 * 0.5**2, 0.25**0.5])
    )


def test_points_of_the_objects_size():
    """An object goes to the level of its size, and to the nearest points there."""
    x = torch.arange(4.0) * 8
    small = torch.stack([x, x * 0, torch.full_like(x, 8)], 1)
    large = torch.stack([x, x * 0, torch.full_like(x, 32)], 1)
    boxes = torch.tensor([[0.0, -16.0, 32.0, 16.0], [-40.0, -64.0, 88.0, 64.0]])
    found = assign(
        {"type": "PointAssigner", "pos_num": 1}, torch.cat([small, large]), image_of(boxes)
    )

    assert found.gt_inds.tolist() == [0, 0, 1, 0, 0, 0, 0, 2]


def test_a_level_of_too_few_points():
    """All points of a level are an object's where it wants more; upstream stops there."""
    points = torch.tensor([[8.0, 8.0, 8.0], [24.0, 24.0, 8.0]])
    found = assign({"type": "PointAssigner"}, points, image_of(BOXES[:1]))

    assert found.gt_inds.tolist() == [1, 1]


@pytest.mark.parametrize("dominates", [False, True])
def test_cores_and_shadows(dominates):
    """The smaller object has the core; around it is shadow, which silences its class unless one is in a core."""
    cell = torch.tensor([[18.0, 18.0, 22.0, 22.0], [13.0, 18.0, 14.0, 22.0], [0.0, 0.0, 2.0, 2.0]])
    config = REGION | {"pos_scale": 0.5, "foreground_dominate": dominates}
    apart = assign(config, cell, image_of(BOXES))
    alike = assign(config, cell, image_of(BOXES, [7, 7]))

    assert apart.gt_inds.tolist() == [2, 1, 0]
    assert apart.extras["shadowed_classes"].tolist() == [0, 1]
    assert apart.extras["shadowed"].tolist() == [[True, False], [False, True], [False, False]]
    assert alike.gt_inds.tolist() == ([2, 1, 0] if dominates else [0, 0, 0])
    assert alike.extras["shadowed"].tolist() == [[not dominates], [not dominates], [False]]


def test_center_region_ignores_without_objects():
    """Ignored regions hold where there is no object, too."""
    found = assign(REGION, BOXES, image_of(BOXES[:0], [], ignored=BOXES[1:]))

    assert found.gt_inds.tolist() == [-1, -1]


def test_grid_looks_at_responsible_cells():
    """Only responsible priors are positive, the best of them even if it overlaps little."""
    priors = torch.tensor([[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 10.0], [0.0, 0.0, 9.0, 9.0]])
    predicted = Predicted(responsible=torch.tensor([0, 1, 1], dtype=torch.uint8))
    found = assign(GRID, priors, image_of(BOXES[:1]), predicted)

    assert found.gt_inds.tolist() == [-1, 1, 0]
    assert found.overlaps.tolist() == [-1.0, 0.25, pytest.approx(81 / 1600)]


def test_uniform_matches_as_often():
    """Every object is matched match_times by predicted box and by prior."""
    priors, image, predicted = scene(3, 40)
    extras = assign(UNIFORM, priors, image, predicted).extras

    assert extras["pos_gt_inds"].bincount().tolist() == [8, 8, 8]
    assert extras["pos_inds"].shape == extras["pos_idx"].shape == (24,)


def scalar_costs(predicted, image):
    """DETR's costs, pair by pair, from the paper."""
    height, width = image.meta["img_shape"]
    unit = [width, height, width, height]

    def sides(box):
        x1, y1, x2, y2 = (one / of for one, of in zip(box, unit, strict=True))
        return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]

    def giou(a, b):
        left, top = min(a[0], b[0]), min(a[1], b[1])
        around = (max(a[2], b[2]) - left) * (max(a[3], b[3]) - top)
        overlap = scalar_overlap(a, b)
        total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return overlap - (around - total / (1 + overlap)) / around

    p = predicted.scores.double().softmax(1).tolist()
    return [
        [
            -p[i][label]
            + 5 * sum(abs(x - y) for x, y in zip(sides(box), sides(own), strict=True))
            - 2 * giou(box, own)
            for own, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
        ]
        for i, box in enumerate(predicted.boxes.tolist())
    ]


@pytest.mark.parametrize(("objects", "queries"), [(3, 5), (5, 3), (4, 4)])
def test_hungarian_costs_least(objects, queries):
    """No other one-to-one matching costs less, among all there are."""
    _, image, predicted = scene(objects, queries)
    costs = scalar_costs(predicted, image)
    few, many = sorted((objects, queries))
    ways = [
        [(i, j) if queries <= objects else (j, i) for i, j in enumerate(way)]
        for way in permutations(range(many), few)
    ]
    best = min(ways, key=lambda way: sum(costs[i][j] for i, j in way))
    found = assign(DETR, predicted.boxes, image, predicted)

    assert found.gt_inds.tolist() == [dict(best).get(i, -1) + 1 for i in range(queries)]
    assert found.overlaps is None


def test_focal_cost():
    """What is gained by the focal loss where the logit is that of the object's class."""
    p, alpha, gamma = 0.75, 0.25, 2.0
    logit = torch.full((1, 2), p).logit()
    found = COSTS.build({"type": "FocalLossCost", "weight": 3.0}).formula(
        Predicted(scores=logit), 1, image_of(BOXES)
    )
    log = torch.tensor([p, 1 - p], dtype=torch.float64).log().tolist()
    wanted = -alpha * (1 - p) ** gamma * log[0] + (1 - alpha) * p**gamma * log[1]

    torch.testing.assert_close(found, torch.full((1, 2), 3 * wanted))


def test_hungarian_needs_the_image_size():
    """A cost in units of the image names the meta that it lacks."""
    _, image, predicted = scene(3, 5)
    bare = Image(boxes=image.boxes, labels=image.labels, ignored=image.ignored, meta={})

    with pytest.raises(RefusedError, match="img_shape"):
        assign(DETR, predicted.boxes, bare, predicted)


MEASURE = """
import re, torch
from pathlib import Path
from tests.detection.test_assigners import ATSS, MAX_IOU, assign, image_of

def boxes(count):
    corner = torch.rand(count, 2) * 1000
    return torch.cat([corner, corner + torch.rand(count, 2) * 200], 1)

priors, image = boxes(200_000), image_of(boxes(500), [0] * 500, boxes(5))
for config in (MAX_IOU, ATSS):
    assign(config | {"ignore_iof_thr": 0.5}, priors, image)
# Not getrusage's, which a process takes over from the one that has started it.
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def test_memory_of_many_pairs():
    """500 objects and 200,000 priors, a hundred million pairs, stay under 1 GiB with torch and all."""
    command = [sys.executable, "-c", MEASURE]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)  # noqa: S603

    assert int(said.stdout) < 1 << 30
