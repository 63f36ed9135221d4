"""Reader of golden sets: what the original code computed, case by case (tests/golden)."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import lossserver.detection
import lossserver.losses  # noqa: F401  (registers them)
from lossserver.registry import LOSSES

VENDORED = Path(__file__).parent.parent / "golden"
FOLDER = Path(os.environ.get("LOSSSERVER_GOLDEN", VENDORED))

#: Input dtype of a run. f64x: inputs as f64, upstream kept from rounding to float32 on its way.
DTYPE = {
    "f64": torch.float64,
    "f64x": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}

#: Groups that are no loss of the registry but are sent like one: names that must be refused.
ERRORS = "registry_errors"


@dataclass(frozen=True)
class Step:
    """One call of a case.

    Attributes:
        inputs: by our names; trees of tensors, and plain values.
        options: avg_factor and reduction_override.
        names: trees like the inputs, with the stored name in the place of each tensor.
        expected: what the reference run gave: `raises`, or keys of tensors for `Golden.tensor`.
    """

    inputs: dict[str, Any]
    options: dict[str, Any]
    names: dict[str, Any]
    expected: dict[str, Any]

    def gradients(self, grads: dict[str, Any]) -> dict[str, Tensor | None]:
        """A result's gradients by the stored names of the inputs."""
        return dict(pair for name in grads for pair in _pairs(self.names[name], grads[name]))

    @property
    def named(self) -> bool:
        """Whether upstream's outputs have names, and not just an order."""
        structure = self.expected["structure"]
        return isinstance(structure, dict) and not structure.keys() & {"$o", "$tuple"}

    def wrt(self, stored: Any) -> list[str]:
        """Our names of the inputs in which these stored names stand."""
        return [
            name
            for name, tree in self.names.items()
            if any(one in stored for one, _ in _pairs(tree, None))
        ]


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
    def config(self) -> dict[str, Any]:
        """The registry's config."""
        return config_of(self.case)

    @property
    def reference(self) -> str:
        """The run whose values to match.

        float64, where upstream rounds to float32 on the way, is compared with
        the same code kept from it. Halves are computed in float32 and rounded
        once here, so they are compared with float64 and not with half arithmetic.
        """
        if self.run in ("f64", "f16", "bf16"):
            return "f64x" if "f64x" in self.case["runs"] else "f64"
        return self.run

    @property
    def precision(self) -> str:
        """The run whose tolerance applies: that of upstream's arithmetic where it is the coarser."""
        upstream: str = self.case["expect"][self.reference]["precision"]
        return upstream if self.run == "f64" and self.reference == "f64" else self.run

    def steps(self) -> Iterator[Step]:
        """The calls in order; the state of one goes into the next."""
        expected = self.case["expect"][self.reference]["steps"]
        for step, wanted in zip(self.case["steps"], expected, strict=True):
            given = _named(step, self.case["kind"])
            if self.case["group"] == "accuracy":
                given = {name: given[name] for name in ("pred", "target")}
            call = {name: self.value(value) for name, value in given.items()}
            options = {k: call.pop(k) for k in ("avg_factor", "reduction_override") if k in call}
            if "random" in self.case["tags"]:
                call["seed"] = self.case["seed"]
            names = {name: _stored(given[name]) for name in call if name in given}
            yield Step(inputs=call, options=options, names=names, expected=wanted)

    def tensor(self, key: str) -> Tensor:
        """A stored tensor."""
        return _file(self.case["file"])[key]

    def value(self, given: Any) -> Any:
        """What stands in the manifest for an argument: a tensor in the run's dtype, or as it is."""
        if isinstance(given, list):
            return [self.value(one) for one in given]
        if not isinstance(given, dict):
            return given
        if "$tuple" in given:
            return [self.value(one) for one in given["$tuple"]]
        if "$f" in given:
            return float(given["$f"])
        stored = self.case["inputs"][given["$t"]]
        tensor = self.tensor(stored["key"])
        return tensor.to(DTYPE[self.run]) if stored["dtype"] == "run" else tensor


def config_of(case: dict[str, Any]) -> dict[str, Any]:
    """The registry's config for a case of the original code."""
    given = case["cfg"]
    if case["kind"] == "cornernet":
        return {"type": f"CornerNet.{given['name'].lstrip('_')}"} | given.get("init", {})
    if case["group"] == "accuracy":
        kwargs = case["steps"][0]["kwargs"]
        topk = kwargs.get("topk", 1)
        topk = topk["$tuple"] if isinstance(topk, dict) else topk
        return {"type": "Accuracy", "topk": topk, "thresh": kwargs.get("thresh")}
    return dict(given)


def goldens() -> list[Golden]:
    """Every case of a loss that is registered here, and of the registry itself, in every run."""
    return [
        Golden(case, run)
        for case in manifest()
        if case["kind"] != "head"
        for run in case["runs"]
        if (config_of(case).get("type") in LOSSES or case["group"] == ERRORS) and run != "f64x"
    ]


def golden_names() -> set[str]:
    """Names of the losses that golden cases of this set check."""
    heads = json.loads((VENDORED.parent / "golden_heads" / "manifest.json").read_text())["cases"]
    return {config_of(case).get("type") for case in [*manifest(), *heads]} & set(LOSSES)


@cache
def manifest() -> list[dict[str, Any]]:
    """The cases of the set."""
    cases: list[dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())["cases"]
    return cases


def _named(step: dict[str, Any], kind: str) -> dict[str, Any]:
    """A step's arguments by our names: pred, target, weight, or else upstream's."""
    third = "mask" if kind == "cornernet" else "weight"
    # The order after weight is DiceLoss's, the only one that is called so.
    order = ("pred", "target", third, "reduction_override", "avg_factor")
    positional = dict(zip(order, step.get("args", []), strict=False))
    names = list(step["kwargs"])
    renamed = dict(zip(names, ("pred", "target"), strict=False)) if not positional else {}
    renamed |= dict.fromkeys(("label_weight", "label_weights"), "weight")
    return positional | {renamed.get(name, name): step["kwargs"][name] for name in names}


def _stored(given: Any) -> Any:
    """The tree of stored names of an argument."""
    if isinstance(given, list):
        return [_stored(one) for one in given]
    if isinstance(given, dict) and "$tuple" in given:
        return [_stored(one) for one in given["$tuple"]]
    return given.get("$t") if isinstance(given, dict) else None


def _pairs(names: Any, grads: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(names, list):
        for i, one in enumerate(names):
            yield from _pairs(one, None if grads is None else grads[i])
    elif names is not None:
        yield names, grads


@cache
def _file(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name)
