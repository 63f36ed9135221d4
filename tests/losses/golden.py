"""Reader of golden sets: what MMDetection's own code computed, case by case (tests/golden)."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import lossserver.losses  # noqa: F401  (registers them)
from lossserver.registry import LOSSES

FOLDER = Path(os.environ.get("LOSSSERVER_GOLDEN", Path(__file__).parent.parent / "golden"))

#: Input dtype of a run. f64x: inputs as f64, upstream kept from rounding to float32 on its way.
DTYPE = {
    "f64": torch.float64,
    "f64x": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Golden:
    """One case in one run.

    Attributes:
        case: the manifest's entry.
        run: "f64", "f32", "f16" or "bf16": the dtype of the inputs.
    """

    case: dict[str, Any]
    run: str

    def __str__(self) -> str:
        return f"{self.case['id']}-{self.run}"

    @property
    def reference(self) -> str:
        """The run whose values to match.

        float64, where upstream rounds to float32 on the way, is compared with
        the same code kept from it. Halves are computed in float32 and rounded
        once here, so they are compared with float64 and not with half arithmetic.
        """
        has_exact = "f64x" in self.case["runs"]
        if self.run in ("f64", "f16", "bf16"):
            return "f64x" if has_exact else "f64"
        return self.run

    def call(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs by our names, and the options of the call."""
        given: dict[str, Any] = dict(self.case["steps"][0]["kwargs"])
        names = list(given)
        renamed = {names[0]: "pred", names[1]: "target"} | {
            name: "weight" for name in names[2:3] if isinstance(given[name], dict)
        }
        call = {renamed.get(name, name): self._value(given[name]) for name in names}
        return {k: v for k, v in call.items() if isinstance(v, Tensor)}, {
            k: v for k, v in call.items() if not isinstance(v, Tensor)
        }

    def ours(self, upstream: str) -> str:
        """Our name of an upstream input."""
        return ("pred", "target")[list(self.case["steps"][0]["kwargs"]).index(upstream)]

    def expected(self) -> dict[str, Any]:
        """What the reference run gave: `raises`, or keys of tensors for `tensor`."""
        steps: list[dict[str, Any]] = self.case["expect"][self.reference]["steps"]
        return steps[0]

    def tensor(self, key: str) -> Tensor:
        """A stored tensor."""
        return _file(self.case["file"])[key]

    def _value(self, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        stored = self.case["inputs"][given["$t"]]
        tensor = self.tensor(stored["key"])
        return tensor.to(DTYPE[self.run]) if stored["dtype"] == "run" else tensor


def goldens() -> list[Golden]:
    """Every case of a loss that is registered here, and of the registry itself, in every run."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    return [
        Golden(case, run)
        for case in manifest["cases"]
        for run in case["runs"]
        if case["group"].split(".")[0] in (*LOSSES, "registry_errors")
        and run != "f64x"
        and not case["cfg"].get("use_mask")
    ]


def golden_names() -> set[str]:
    """Names of the losses that golden cases of this set check."""
    return {
        golden.case["cfg"]["type"] for golden in goldens() if "type" in golden.case["cfg"]
    } & set(LOSSES)


@cache
def _file(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name)
