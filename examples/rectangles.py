"""Images of bright and dark rectangles, made of nothing: data for the detectors of the examples."""

from typing import Any

import numpy as np

#: Pixels along the side of an image, and along the sides of a rectangle.
SIDE = 64
SHORTEST, LONGEST = 10, 24

#: What is added to the grey that rectangles lie on: class 0 is bright, class 1 dark.
SHADES = (1.0, -1.0)


def rectangles(count: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """Images float32 [count, 1, SIDE, SIDE] with a rectangle or two, and the truth of them.

    The truth is what a head takes: gt_bboxes, gt_labels and img_metas, an entry an image.
    """
    images = rng.normal(0, 0.1, (count, 1, SIDE, SIDE)).astype(np.float32)
    boxes, labels = [], []
    for image in images:
        own = rng.integers(len(SHADES), size=rng.integers(1, 3))
        sizes = rng.integers(SHORTEST, LONGEST, (len(own), 2))
        corners = rng.integers(0, SIDE - sizes)
        for (x, y), (wide, high), label in zip(corners, sizes, own, strict=True):
            image[0, y : y + high, x : x + wide] += SHADES[label]
        boxes.append(np.concatenate([corners, corners + sizes], 1).astype(np.float32))
        labels.append(own)
    metas = [{"img_shape": [SIDE, SIDE], "pad_shape": [SIDE, SIDE]}] * count
    return images, {"gt_bboxes": boxes, "gt_labels": labels, "img_metas": metas}
