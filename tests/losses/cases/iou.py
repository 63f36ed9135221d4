"""Boxes compared by their overlap."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, by_row, normal, uniform

Box = list[float]

#: MMDetection's default.
EPS = 1e-6


def boxes(rows: int) -> Inputs:
    """Boxes some of which overlap, of sizes 1 to 9, at whatever place."""
    corner, wanted = 4 * normal(rows, 2), 4 * normal(rows, 2, seed=1)
    size, wanted_size = 1 + 8 * uniform(rows, 2, seed=2), 1 + 8 * uniform(rows, 2, seed=3)
    return {
        "pred": torch.cat([corner, corner + size], 1),
        "target": torch.cat([wanted, wanted + wanted_size], 1),
    }


def near(rows: int) -> Inputs:
    """Boxes that overlap their targets well."""
    inputs = boxes(rows)
    return inputs | {"pred": inputs["target"] + 0.02 * normal(rows, 4, seed=4)}


def area(box: Box) -> float:
    """Of one box."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def shared(a: Box, b: Box) -> float:
    """Area that two boxes both cover."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def around(a: Box, b: Box) -> tuple[float, float]:
    """Width and height of the box around both."""
    return max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])


def iou(a: Box, b: Box, eps: float = 0.0) -> float:
    """Of two boxes."""
    return shared(a, b) / (area(a) + area(b) - shared(a, b) + eps)


def shift(a: Box, b: Box) -> tuple[float, float]:
    """From the centre of a to that of b."""
    return (b[0] + b[2] - a[0] - a[2]) / 2, (b[1] + b[3] - a[1] - a[3]) / 2


def iou_loss(scale: Callable[[float], float]) -> Callable[..., Tensor]:
    """One of the three scales of an IoU no less than eps."""
    return by_row(lambda pred, target: scale(max(iou(pred, target), EPS)))


def giou(pred: Box, target: Box) -> float:
    """Algorithm 1 of arXiv:1902.09630."""
    whole = math.prod(around(pred, target))
    covered = area(pred) + area(target) - shared(pred, target)
    return 1 - (iou(pred, target) - (whole - covered) / whole)


def distance(pred: Box, target: Box) -> float:
    """ρ² / c² of arXiv:1911.08287."""
    return math.hypot(*shift(pred, target)) ** 2 / (math.hypot(*around(pred, target)) ** 2 + EPS)


def diou(pred: Box, target: Box) -> float:
    """Eq. 7 of arXiv:1911.08287."""
    return 1 - iou(pred, target, EPS) + distance(pred, target)


def ciou(pred: Box, target: Box) -> float:
    """The loss of arXiv:2005.03572, with α as in its journal version: 0 below an IoU of one half."""
    slants = [math.atan((x2 - x1) / (y2 - y1 + EPS)) for x1, y1, x2, y2 in (pred, target)]
    v = 4 / math.pi**2 * (slants[1] - slants[0]) ** 2
    overlap = iou(pred, target, EPS)
    alpha = v / (1 - overlap + v) if overlap > 0.5 else 0.0
    return 1 - max(-1.0, overlap - distance(pred, target) - alpha * v)


def extended_overlap(a: Box, b: Box) -> float:
    """Overlap by cases: along both axes, along one, or not at all."""
    corner = min(a[0], b[0]), min(a[1], b[1])
    left, top = max(a[0], b[0]) - corner[0], max(a[1], b[1]) - corner[1]
    right, bottom = min(a[2], b[2]) - corner[0], min(a[3], b[3]) - corner[1]
    if left <= right and top <= bottom:
        return (right - left) * (bottom - top)
    if left > right and top > bottom:
        return 2 * (right * bottom - left * top)
    if left > right:
        return (right - left) * (bottom + top)
    return (right + left) * (bottom - top)


def eiou(s: float) -> Callable[..., float]:
    """An IoU that goes below 0, with a square from 0 to s."""

    def formula(pred: Box, target: Box) -> float:
        overlap = extended_overlap(pred, target)
        e = 1 - overlap / (area(pred) + area(target) - overlap + EPS)
        return e * e / (2 * s) if e < s else e - s / 2

    return formula


def siou(sign: int) -> Callable[..., float]:
    """The loss of arXiv:2205.12740, where sign is -1; of upstream, where it is 1."""

    def formula(pred: Box, target: Box) -> float:
        x, y = (abs(one + EPS) for one in shift(pred, target))
        angle = 1 - 2 * math.sin(math.atan2(min(x, y), max(x, y)) - math.pi / 4) ** 2
        width, height = around(pred, target)
        gamma = sign * (2 - angle)
        away = 2 - math.exp(gamma * (x / width) ** 2) - math.exp(gamma * (y / height) ** 2)
        shape = 0.0
        for axis in (0, 1):
            lesser, greater = sorted(
                box[2 + axis] - box[axis] + axis * EPS for box in (pred, target)
            )
            shape += (1 - math.exp(lesser / greater - 1)) ** 4
        return 1 - min(1.0, max(-1.0, iou(pred, target, EPS) - (away + shape) / 2))

    return formula


def bounded(beta: float, eps: float = 1e-3) -> Callable[..., list[float]]:
    """The four bounds of arXiv:1711.00164, smoothed."""

    def smooth(bound: float) -> float:
        short = 1 - bound
        return short * short / (2 * beta) if short < beta else short - beta / 2

    def formula(pred: Box, target: Box) -> list[float]:
        centres, ratios = [], []
        for axis, away in enumerate(shift(pred, target)):
            size, wanted = pred[2 + axis] - pred[axis], target[2 + axis] - target[axis]
            twice = 2 * abs(away)
            centres.append(smooth(max(0.0, (wanted - twice) / (wanted + twice + eps))))
            ratios.append(smooth(min(wanted / (size + eps), size / (wanted + eps))))
        return centres + ratios

    return formula


CASES = [
    Case({"type": "IoULoss"}, near, iou_loss(lambda x: -math.log(x))),
    Case({"type": "IoULoss"}, boxes, iou_loss(lambda x: -math.log(x))),
    Case({"type": "IoULoss", "mode": "square"}, boxes, iou_loss(lambda x: 1 - x * x)),
    Case({"type": "IoULoss", "mode": "linear"}, boxes, iou_loss(lambda x: 1 - x)),
    Case({"type": "IoULoss", "linear": True}, boxes, iou_loss(lambda x: 1 - x)),
    *(
        Case({"type": name} | more, inputs, by_row(reference), wrt=("pred", "target"), stops=stops)
        for inputs in (boxes, near)
        for name, more, reference, stops in (
            ("GIoULoss", {}, giou, ""),
            ("DIoULoss", {}, diou, ""),
            ("CIoULoss", {}, ciou, "no gradient goes through α"),
            ("EIoULoss", {}, eiou(0.1), ""),
            ("EIoULoss", {"smooth_point": 0.7}, eiou(0.7), ""),
            ("SIoULoss", {}, siou(1), ""),
            ("SIoULoss", {"neg_gamma": True}, siou(-1), ""),
        )
    ),
    Case({"type": "BoundedIoULoss"}, near, by_row(bounded(0.2))),
    Case({"type": "BoundedIoULoss", "beta": 0.6}, boxes, by_row(bounded(0.6))),
]
