"""What an assigner says of priors and objects, and what a sampler makes of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.images import Image

IGNORED, NEGATIVE = -1, 0

#: Priors that an object may have as candidates; they are kept for all objects at once.
MAX_CANDIDATES = 1 << 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Assigned:
    """Which object each of n priors is for.

    Attributes:
        gt_inds: int64 [n]; -1 ignored, 0 negative, k + 1 for object k.
        overlaps: float32 [n], the prior's largest overlap; None where the assigner has none.
        labels: int64 [n], the object's class; -1 where there is none.
        extras: what only this assigner says, by its docstring's names.
    """

    gt_inds: Tensor
    overlaps: Tensor | None
    labels: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What an assigner may look at besides priors and objects, of one image, without gradient.

    Attributes:
        scores: [n, C], as the assigner takes them (logits or probabilities); None if not sent.
        boxes: [n, 4], decoded; None if not sent.
        responsible: bool [n], the priors of the cells in which objects' centres are.
    """

    scores: Tensor | None = None
    boxes: Tensor | None = None
    responsible: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Assigner(ABC):
    """A rule by which priors get objects. Its parameters are fields, as a loss's are.

    Class attributes:
        NEEDS: names of what it must be told of the predictions, fields of `Predicted`.
        UNREAD: parameters that a config may have and that are not read.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()
    UNREAD: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """Names of what it must be told, where a parameter chooses among them."""
        return self.NEEDS

    @abstractmethod
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        """The objects of one image's priors, without gradient.

        Parameters:
            priors: float32 [n, 4] boxes, or [n, 2..4] points with strides.
            image: its objects.
            levels: how many of the priors are of each level, in order.
            predicted: of an assigner that looks at predictions.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """Which priors take part, and for which objects.

    Attributes:
        pos_inds: int64 [P], priors with an object, in order.
        neg_inds: int64 [M], priors without.
        pos_gt_inds: int64 [P], the object of each positive.
        priors: float32 [n, 4], which may begin with the objects' own boxes.
        avg_factor: what a mean divides by: positives, or positives and negatives, each at least 1.
        neg_weights: float32 [M], how much each negative counts; None is all alike.
    """

    pos_inds: Tensor
    neg_inds: Tensor
    pos_gt_inds: Tensor
    priors: Tensor
    avg_factor: int
    neg_weights: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """A rule by which assigned priors are chosen."""

    @abstractmethod
    def sample(
        self,
        assigned: Assigned,
        priors: Tensor,
        image: Image,
        generator: torch.Generator,
        *,
        losses: Tensor | None = None,
        predicted: Predicted | None = None,
    ) -> Sampled:
        """The chosen priors of one image.

        Parameters:
            assigned: of all its priors.
            priors: float32 [n, 4].
            image: its objects.
            generator: of random numbers, on the CPU: the same seed is the same choice on any
                device and replica.
            losses: float [n], what each prior's scores cost for the class of its object, or for
                background; of a sampler that looks for hard ones. Where the sampler puts the
                objects' own boxes before the priors, theirs go before.
            predicted: of the same priors, of a sampler that ranks them by their scores.
        """
