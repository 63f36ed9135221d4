"""Reader of golden parts: what MMDetection's own generators, coders and samplers made, case by case."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import lossserver.detection  # noqa: F401  (registers them)
from tests.losses.golden import Golden

FOLDER = Path(
    os.environ.get("LOSSSERVER_GOLDEN", Path(__file__).parent.parent / "golden_detection")
)


@dataclass(frozen=True)
class GoldenPart(Golden):
    """One case of a part in one run."""

    @property
    def config(self) -> dict[str, Any]:
        """The registry's config."""
        config: dict[str, Any] = self.value(self.case["cfg"])
        return config

    @property
    def step(self) -> dict[str, Any]:
        """The only call: its args, kwargs and method."""
        (step,) = self.case["steps"]
        return {"args": [], "kwargs": {}} | step

    @property
    def expected(self) -> dict[str, Any]:
        """What the reference run gave: a structure, and keys of tensors."""
        (expected,) = self.case["expect"][self.reference]["steps"]
        return expected

    def output(self, name: str) -> Tensor:
        """A tensor that upstream gave."""
        return self.tensor(self.expected["outputs"][name]["key"])

    def outputs(self, name: str) -> Any:
        """What upstream gave under a name of the structure: tensors, numbers and lists of them."""
        return self._built(self.expected["structure"][name])

    def _built(self, structure: Any) -> Any:
        if isinstance(structure, list):
            return [self._built(one) for one in structure]
        return structure["$py"] if "$py" in structure else self.output(structure["$o"])

    def leaves(self) -> tuple[dict[str, Tensor], list[Any], dict[str, Any]]:
        """The inputs that upstream has gradients of, by stored name; and args and kwargs with them."""
        made = {name: self.value({"$t": name}).clone() for name in self.case["inputs"]}
        wanted = {
            name: made[name].requires_grad_()
            for name, stored in self.case["inputs"].items()
            if stored["grad"]
        }
        args = [
            made[one["$t"]] if self._is_tensor(one) else self.value(one)
            for one in self.step["args"]
        ]
        kwargs = {
            name: made[one["$t"]] if self._is_tensor(one) else self.value(one)
            for name, one in self.step["kwargs"].items()
        }
        return wanted, args, kwargs

    @staticmethod
    def _is_tensor(given: Any) -> bool:
        return isinstance(given, dict) and "$t" in given

    def value(self, given: Any) -> Any:
        """What stands in the manifest: tensors in the run's dtype, tuples as lists."""
        if isinstance(given, list):
            return [self.value(one) for one in given]
        if isinstance(given, dict) and not {"$t", "$tuple", "$f"} & given.keys():
            return {name: self.value(one) for name, one in given.items()}
        return super().value(given)

    def tensor(self, key: str) -> Tensor:
        """A stored tensor."""
        return _file(self.case["file"])[key]

    def assert_equal(self, found: Tensor, wanted: Tensor) -> None:
        """The same to the bit, and of the same dtype."""
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)

    def assert_close(self, found: Tensor, wanted: Tensor) -> None:
        """The same but for how a machine rounds a logarithm or an exponential."""
        tolerance = 1e-12 if wanted.dtype is torch.float64 else 2e-6
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def golden_parts(kind: str) -> list[GoldenPart]:
    """Every case of that kind, in every run."""
    return [
        GoldenPart(case, run)
        for case in manifest()
        for run in case["runs"]
        if case["kind"] == kind and run != "f64x"
    ]


@cache
def manifest() -> list[dict[str, Any]]:
    """The cases of the set, whose manifest may be several files."""
    cases: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("manifest*.json")):
        cases |= {case["id"]: case for case in json.loads(path.read_text())["cases"]}
    return list(cases.values())


@cache
def _file(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name)
