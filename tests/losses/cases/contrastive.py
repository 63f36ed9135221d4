"""Contrastive losses of two views."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid

Rows = list[list[float]]


def views(rows: int) -> Inputs:
    """Two sets of vectors [N, 3], alike."""
    pred = normal(rows, 3)
    return {"pred": pred, "target": pred + normal(rows, 3, seed=1)}


def with_negatives(rows: int) -> Inputs:
    """And four vectors of neither."""
    return views(rows) | {"negatives": normal(4, 3, seed=2)}


def with_scale(rows: int) -> Inputs:
    """And a scale."""
    return views(rows) | {"logit_scale": torch.tensor([3.0], dtype=torch.float64)}


def with_scale_and_bias(rows: int) -> Inputs:
    """And a scale and a bias."""
    numbers = {"logit_scale": 2.5, "logit_bias": -1.5}
    return views(rows) | {k: torch.tensor(x, dtype=torch.float64) for k, x in numbers.items()}


def dot(a: list[float], b: list[float]) -> float:
    """Of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    """Of the angle between two vectors."""
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def entropy(own: float, others: Iterable[float]) -> float:
    """-log of the share that e^own has of itself and the others."""
    return -math.log(math.exp(own) / (math.exp(own) + sum(math.exp(x) for x in others)))


def among(i: int, query: list[float], keys: Rows, scale: float, like=cosine) -> float:
    """The entropy of a query's finding key i."""
    scores = [scale * like(query, key) for key in keys]
    return entropy(scores[i], scores[:i] + scores[i + 1 :])


def info_nce(pred: Tensor, target: Tensor, negatives: Tensor | None = None) -> Tensor:
    """Eq. 4 of arXiv:1807.03748 at a temperature of 0.07."""
    queries, keys = pred.tolist(), target.tolist()
    more = [] if negatives is None else negatives.tolist()
    rows = [among(i, query, keys + more, 1 / 0.07) for i, query in enumerate(queries)]
    return torch.tensor(rows, dtype=pred.dtype)


def moco(pred: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    """Eq. 1 of arXiv:1911.05722, of vectors as they are, at a temperature of 2."""
    pairs = zip(pred.tolist(), target.tolist(), strict=True)
    rows = [among(0, query, [key, *negatives.tolist()], 1 / 2, dot) for query, key in pairs]
    return torch.tensor(rows, dtype=pred.dtype)


def clip(pred: Tensor, target: Tensor, logit_scale: Tensor) -> Tensor:
    """Figure 3 of arXiv:2103.00020, pair by pair."""
    images, texts, scale = pred.tolist(), target.tolist(), float(logit_scale)
    rows = [
        (among(i, images[i], texts, scale) + among(i, texts[i], images, scale)) / 2
        for i in range(len(images))
    ]
    return torch.tensor(rows, dtype=pred.dtype)


def nt_xent(pred: Tensor, target: Tensor) -> Tensor:
    """Eq. 1 of arXiv:2002.05709 at a temperature of 0.5, of both views of a sample."""
    both, n = pred.tolist() + target.tolist(), len(pred)

    def anchor(a: int, partner: int) -> float:
        others = [z for j, z in enumerate(both) if j not in (a, partner)]
        scores = [cosine(both[a], z) / 0.5 for z in others]
        return entropy(cosine(both[a], both[partner]) / 0.5, scores)

    rows = [(anchor(i, i + n) + anchor(i + n, i)) / 2 for i in range(n)]
    return torch.tensor(rows, dtype=pred.dtype)


def siglip(
    pred: Tensor, target: Tensor, logit_scale: float = 10, logit_bias: float = -10
) -> Tensor:
    """The loss of arXiv:2303.15343, image by image."""

    def pair(i: int, j: int) -> float:
        similarity = cosine(images[i], texts[j])
        yes = sigmoid(float(logit_scale) * similarity + float(logit_bias))
        return -math.log(yes if i == j else 1 - yes)

    images, texts = pred.tolist(), target.tolist()
    rows = [sum(pair(i, j) for j in range(len(texts))) for i in range(len(images))]
    return torch.tensor(rows, dtype=pred.dtype)


BOTH = ("pred", "target")

CASES = [
    Case({"type": "InfoNCELoss"}, views, info_nce, BOTH),
    Case({"type": "InfoNCELoss"}, with_negatives, info_nce, (*BOTH, "negatives")),
    Case(
        {"type": "InfoNCELoss", "in_batch": False, "normalize": False, "temperature": 2.0},
        with_negatives,
        moco,
        (*BOTH, "negatives"),
    ),
    Case({"type": "InfoNCELoss", "symmetric": True}, with_scale, clip, (*BOTH, "logit_scale")),
    Case({"type": "NTXentLoss"}, views, nt_xent, BOTH),
    Case({"type": "SigLIPLoss"}, views, siglip, BOTH),
    Case(
        {"type": "SigLIPLoss"},
        with_scale_and_bias,
        siglip,
        (*BOTH, "logit_scale", "logit_bias"),
    ),
]
