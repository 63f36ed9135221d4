"""Reader of golden heads: what MMDetection's own heads computed, case by case (tests/golden_heads)."""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import lossserver.detection  # noqa: F401  (registers them)
from lossserver.registry import LOSSES
from tests.losses.golden import Golden

FOLDER = Path(
    os.environ.get("LOSSSERVER_GOLDEN_HEADS", Path(__file__).parent.parent / "golden_heads")
)


class GoldenHead(Golden):
    """One case of a head in one run."""

    @property
    def config(self) -> dict[str, Any]:
        """The registry's config, with what upstream sets on the built head."""
        return self.value(self.case["cfg"]) | self.case.get("attrs", {})

    @property
    def expected(self) -> dict[str, Any]:
        """What the reference run gave."""
        return self.case["expect"][self.reference]["steps"][0]

    @property
    def reference(self) -> str:
        """float64 where there is such a run: upstream mixes dtypes in some heads."""
        return "f64" if self.run == "f64" else "f32"

    @property
    def precision(self) -> str:
        """Upstream's arithmetic: float32 in targets, whatever the predictions are."""
        return "f32"

    def call(self) -> dict[str, Any]:
        """pred, target, and the seed of a sampler that chooses at random."""
        (step,) = self.case["steps"]
        given = self.value(step["kwargs"])
        pred = {name: maps for name, maps in given.items() if not name.startswith("batch_")}
        images = given["batch_gt_instances"]
        target = {
            "gt_bboxes": [image["bboxes"] for image in images],
            "gt_labels": [image["labels"] for image in images],
            "img_metas": given["batch_img_metas"],
        }
        if given.get("batch_gt_instances_ignore"):
            regions = given["batch_gt_instances_ignore"]
            target["gt_bboxes_ignore"] = [region["bboxes"] for region in regions]
        seed = {"seed": self.case["seed"]} if "random" in self.case["tags"] else {}
        return {"pred": pred, "target": target} | seed

    def names(self) -> dict[str, Any]:
        """The stored name of each prediction, in a tree like pred."""
        kwargs = self.case["steps"][0]["kwargs"]
        return {k: v for k, v in kwargs.items() if not k.startswith("batch_")}

    def value(self, given: Any) -> Any:
        """What stands in the manifest: tensors in the run's dtype, instances as dicts."""
        if isinstance(given, list):
            return [self.value(one) for one in given]
        if isinstance(given, dict) and "$inst" in given:
            return {name: self.value(one) for name, one in given["$inst"].items()}
        if isinstance(given, dict) and not {"$t", "$tuple", "$f"} & given.keys():
            return {name: self.value(one) for name, one in given.items()}
        return super().value(given)

    def tensor(self, key: str) -> Tensor:
        """A stored tensor."""
        return _file(self.case["file"])[key]


def leaves(names: Any, tree: Any) -> Iterator[tuple[str, Any]]:
    """For each stored name in a tree of them, what stands at its place in another."""
    if isinstance(names, list):
        for one, other in zip(names, tree, strict=True):
            yield from leaves(one, other)
    elif set(names) <= {"$t", "$o"}:
        yield next(iter(names.values())), tree
    elif "$py" not in names:
        for key, one in names.items():
            yield from leaves(one, tree[key])


def golden_heads() -> list[GoldenHead]:
    """Every case of a head that is registered, in every run."""
    return [
        GoldenHead(case, run)
        for case in manifest()
        for run in case["runs"]
        if case["cfg"]["type"] in LOSSES
    ]


@cache
def manifest() -> list[dict[str, Any]]:
    """The cases of the set."""
    cases: list[dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())["cases"]
    return [case for case in cases if case["kind"] == "head"]


@cache
def _file(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name)
