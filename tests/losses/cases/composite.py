"""Sums of other losses."""

import math

from torch import Tensor

from tests.losses.case import Case, Inputs, normal, whole


def shared(rows: int) -> Inputs:
    """Scores that two losses read, with labels; and boxes for a third."""
    return {
        "pred": {"soft": (scores := normal(rows, 3)), "one": scores, "box": normal(rows, 4)},
        "target": {
            "soft": (labels := whole(rows, high=2)),
            "one": labels,
            "box": normal(rows, 4, seed=2),
        },
    }


def reference(pred: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, list]:
    """Softmax cross entropy, half the binary ones, and twice the distance."""
    scores = [row.tolist() for row in pred["soft"]]
    labels = target["soft"].tolist()
    boxes = zip(pred["box"].flatten().tolist(), target["box"].flatten().tolist(), strict=True)
    distances = [2 * abs(a - b) for a, b in boxes]
    return {
        "soft": [
            math.log(sum(map(math.exp, row))) - row[y]
            for row, y in zip(scores, labels, strict=True)
        ],
        "one": [
            [0.5 * math.log1p(math.exp(-x if c == y else x)) for c, x in enumerate(row)]
            for row, y in zip(scores, labels, strict=True)
        ],
        "box": [distances[i : i + 4] for i in range(0, len(distances), 4)],
    }


CASES = [
    Case(
        {
            "type": "Sum",
            "parts": {
                "soft": {"type": "CrossEntropyLoss"},
                "one": {"type": "CrossEntropyLoss", "use_sigmoid": True},
                "box": {"type": "L1Loss"},
            },
            "weights": {"one": 0.5, "box": 2},
        },
        shared,
        reference,
        reduces_otherwise="each part has its own number of elements",
    )
]
