"""Keypoints and their heat maps."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, by_row, each, normal, uniform, whole

#: pycocotools, ten times its sigmas.
COCO = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87)
SIGMAS = [s / 10 for s in (*COCO, 0.89, 0.89)]


def landmarks(rows: int) -> Inputs:
    """Coordinates [N, 3, 2], near and far."""
    return {"pred": 8 * normal(rows, 3, 2), "target": 8 * normal(rows, 3, 2, seed=1)}


def heat_maps(rows: int) -> Inputs:
    """Maps [N, 2, 3], the target's with their peaks."""
    target = uniform(rows, 2, 3, seed=1)
    return {"pred": target + 0.6 * normal(rows, 2, 3), "target": target.round(decimals=1)}


def poses(keypoints: int) -> Callable[[int], Inputs]:
    """Keypoints of objects, the first object's not labelled."""

    def make(rows: int) -> Inputs:
        target = 40 * uniform(rows, keypoints, 2, seed=1)
        visible = whole(rows, keypoints, high=2, seed=2)
        visible[:1] = 0
        return {
            "pred": target + 3 * normal(rows, keypoints, 2),
            "target": target,
            "area": 100 + 900 * uniform(rows, seed=3),
            "visible": visible,
        }

    return make


def wing(omega: float, epsilon: float) -> Callable[[float, float], float]:
    """Eq. 5 of arXiv:1711.06753."""

    def formula(pred: float, target: float) -> float:
        x, c = abs(pred - target), omega - omega * math.log(1 + omega / epsilon)
        return omega * math.log(1 + x / epsilon) if x < omega else x - c

    return formula


def adaptive_wing(omega: float, theta: float, epsilon: float, alpha: float):
    """The loss of arXiv:1904.07399, of one pixel."""

    def formula(pred: float, y: float) -> float:
        d, bend = abs(y - pred), (theta / epsilon) ** (alpha - y)
        if d < theta:
            return omega * math.log(1 + (d / epsilon) ** (alpha - y))
        slope = omega * (1 / (1 + bend)) * (alpha - y) * (bend * epsilon / theta) * (1 / epsilon)
        return slope * d - (theta * slope - omega * math.log(1 + bend))

    return formula


def oks(sigmas: list[float]) -> Callable[..., float]:
    """One minus COCO's similarity, of one object."""

    def formula(
        pred: list[list[float]],
        target: list[list[float]],
        area: float,
        visible: list[int] | None = None,
    ) -> float:
        like = [
            math.exp(-(math.dist(p, t) ** 2) / (2 * area * (2 * s) ** 2))
            for p, t, s, v in zip(pred, target, sigmas, visible or [1] * len(pred), strict=True)
            if v > 0
        ]
        return 1 - sum(like) / len(like) if like else 0.0

    return formula


def without_visible(rows: int) -> Inputs:
    """Objects of two keypoints, of which all are labelled."""
    inputs = poses(2)(rows)
    del inputs["visible"]
    return inputs


CASES = [
    Case({"type": "WingLoss"}, landmarks, each(wing(10, 2)), wrt=("pred", "target")),
    Case({"type": "WingLoss", "omega": 3, "epsilon": 0.5}, landmarks, each(wing(3, 0.5))),
    Case({"type": "AdaptiveWingLoss"}, heat_maps, each(adaptive_wing(14, 0.5, 1, 2.1))),
    Case(
        {"type": "AdaptiveWingLoss", "omega": 5, "theta": 0.3, "epsilon": 0.7, "alpha": 2.5},
        heat_maps,
        each(adaptive_wing(5, 0.3, 0.7, 2.5)),
        wrt=("pred", "target"),
    ),
    Case({"type": "OKSLoss"}, poses(17), by_row(oks(SIGMAS))),
    Case(
        {"type": "OKSLoss", "sigmas": [0.1, 0.05]},
        without_visible,
        by_row(oks([0.1, 0.05])),
        wrt=("pred", "target", "area"),
    ),
]
