"""Canvases with handwritten digits on them, and where the digits are.

The digits are scikit-learn's `load_digits`: 1,797 scans of 8x8 pixels that come
with the package, so nothing is downloaded. The scans are split first and
scattered second: no scan that a held-out canvas shows was ever trained on.

B canvases of S x S pixels, D digits at most on each. A box is (x1, y1, x2, y2)
in pixels from the top left corner, tight around the ink.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

CANVAS = 64
CLASSES = 10

#: Digits on a canvas.
FEWEST, MOST = 3, 6

#: Places that are tried for the digits of one canvas. Unlucky first ones can leave no room for
#: the last, which is then left out.
ATTEMPTS = 200

#: Pixels along the side of a scan when it is pasted: 1.5 to 2 times the 8 it was scanned at.
SIDES = (12, 13, 14, 15, 16)

#: Standard deviation of the noise, where ink is 1 and paper 0.
NOISE = 0.1

#: Every so many scans one is held out.
HELD_OUT_EVERY = 5

#: Ink fainter than this is not part of a box; the scans have 17 levels, 0 to 1.
FAINT = 2 / 16


@dataclass(frozen=True, kw_only=True)
class Canvases:
    """Canvases and what is on them.

    Attributes:
        images: float32 [B, 1, S, S], paper 0 and ink 1, and noise on top.
        boxes: float32 [B, D, 4] in pixels; 0 where there is no digit.
        labels: int64 [B, D], the digit; -1 where there is none.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class Scans:
    """Scans in all the sizes they are pasted in.

    Attributes:
        patches: by side in pixels, float32 [n, side, side], in 0..1.
        extents: float32 [n, 4], the box of the ink as fractions of the side.
        labels: int64 [n].
    """

    patches: dict[int, Tensor]
    extents: Tensor
    labels: Tensor


def load_scans() -> tuple[Scans, Scans]:
    """The scans to train on, and those that are held out."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    held_out = torch.arange(len(images)) % HELD_OUT_EVERY == 0
    return _scans(images[~held_out], labels[~held_out]), _scans(images[held_out], labels[held_out])


def scatter(scans: Scans, count: int, seed: int) -> Canvases:
    """`count` canvases of digits that do not overlap. The same seed gives the same canvases."""
    rng = random.Random(seed)  # noqa: S311
    noise = torch.Generator().manual_seed(seed)
    images = torch.randn((count, 1, CANVAS, CANVAS), generator=noise) * NOISE
    boxes = torch.zeros(count, MOST, 4)
    labels = torch.full((count, MOST), -1)
    for image, own_boxes, own_labels in zip(images, boxes, labels, strict=True):
        for slot, (side, x, y) in enumerate(_places(rng)):
            scan = rng.randrange(len(scans.labels))
            image[0, y : y + side, x : x + side] += scans.patches[side][scan]
            own_boxes[slot] = scans.extents[scan] * side + torch.tensor([x, y, x, y])
            own_labels[slot] = scans.labels[scan]
    return Canvases(images=images, boxes=boxes, labels=labels)


def _scans(images: Tensor, labels: Tensor) -> Scans:
    patches = {
        side: F.interpolate(images.unsqueeze(1), size=side, mode="bilinear").squeeze(1)
        for side in SIDES
    }
    ink = images > FAINT
    extents = torch.stack([*_first_and_last(ink.any(1)), *_first_and_last(ink.any(2))], 1)
    return Scans(patches=patches, extents=extents[:, [0, 2, 1, 3]] / 8, labels=labels)


def _first_and_last(inked: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ink of each row of [n, 8] begins and ends."""
    inked = inked.float()
    return inked.argmax(1).float(), 8 - inked.flip(1).argmax(1).float()


def _places(rng: random.Random) -> Sequence[tuple[int, int, int]]:
    """Side, x and y of squares that do not overlap."""
    wanted = rng.randint(FEWEST, MOST)
    places: list[tuple[int, int, int]] = []
    for _ in range(ATTEMPTS):
        if len(places) == wanted:
            break
        side = rng.choice(SIDES)
        x, y = rng.randint(0, CANVAS - side), rng.randint(0, CANVAS - side)
        if all(
            x + side <= u or u + other <= x or y + side <= v or v + other <= y
            for other, u, v in places
        ):
            places.append((side, x, y))
    return places
