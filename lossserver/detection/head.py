"""What every head has: maps of predictions in, named losses out, a value a level or one for all.

A head is a `Loss` whose pred is {"cls_scores": [one map a level], ...} and whose
target is the ground truth of `images.py`. It joins parts: a prior generator, a box
coder, an assigner, a sampler, and losses of the registry.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from lossserver.losses.loss import Call, Loss, check_names, floating, require
from lossserver.losses.remember import refuse_other_names
from lossserver.registry import LOSSES, RefusedError

#: Parameters that build the network, which is the trainer's, or that only testing needs.
NETWORK = frozenset(
    {
        "in_channels", "feat_channels", "stacked_convs", "conv_cfg", "norm_cfg", "act_cfg",
        "init_cfg", "test_cfg", "dcn_on_last_conv", "conv_bias", "num_dcn", "num_convs",
    }
)  # fmt: skip


class Run:
    """The losses of a head while one call is computed: each remembers what it remembers.

    Attributes:
        state: by loss, of those that remember.
    """

    def __init__(self, losses: Mapping[str, Loss], state: Mapping[str, Any] | None) -> None:
        self._losses = losses
        self.state = dict(state or {})

    def __call__(
        self,
        name: str,
        pred: Tensor,
        target: Any,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        **more: Any,
    ) -> Tensor:
        """One value (or an unreduced loss) of the loss in that field of the config.

        Parameters:
            name: the field: "loss_cls".
            pred, target, weight, avg_factor: as of the loss.
            more: its own inputs, and reduction_override.
        """
        loss = self._losses[name]
        inputs = {"pred": pred, "target": target, "weight": weight}
        override = more.pop("reduction_override", None)
        call = Call(
            inputs={k: v for k, v in (inputs | more).items() if v is not None},
            reduction_override=override,
            avg_factor=avg_factor,
            state=self.state.get(name),
        )
        # A guard against what was not sent may stand in the loss's own check and nowhere else.
        check_names(loss, call, name)
        loss.check(call)
        outputs, state = loss.step(call)
        if state is not None:
            self.state[name] = state
        total: Tensor = sum(outputs.values())
        return total


@dataclass(frozen=True, kw_only=True)
class Head(Loss):
    """A detection head: predictions of all levels against the boxes of all images.

    Class attributes:
        MAPS: names of the predictions, each a list of one map [B, channels, H, W] a level.
        PARTS: names of the fields that are configs of losses.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK
    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox")

    def __post_init__(self) -> None:
        _ = self.losses  # a config that no loss can be built from is refused now

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The losses, by field."""
        return {name: LOSSES.part(getattr(self, name), name) for name in self.PARTS}

    @property
    def remembers(self) -> bool:
        return any(loss.remembers for loss in self.losses.values())

    @abstractmethod
    def values(self, call: Call, run: Run) -> dict[str, Any]:
        """The outputs of a checked call; `run` computes its losses."""

    def outputs(self, call: Call) -> dict[str, Any]:
        return self.step(call)[0]

    def step(self, call: Call) -> tuple[dict[str, Any], Any]:
        run = Run(self.losses, call.state)
        outputs = self.values(call, run)
        return outputs, run.state if self.remembers else None

    def maps_of(self, call: Call, name: str) -> list[Tensor]:
        """The maps of that name, a level each, of a checked call."""
        found: list[Tensor] = call.inputs["pred"][name]
        return found

    def check_maps(
        self, call: Call, images: int, channels: Mapping[str, list[int] | int], levels: int | None
    ) -> None:
        """Refuse predictions of other names, levels, channels or extents than the head has.

        Parameters:
            call: whose `pred` to look at.
            images: extent of dimension 0.
            channels: of each name, for all levels or one a level.
            levels: how many there must be; None is at least one.
        """
        pred = call.inputs["pred"]
        names = [name for name in self.MAPS if name in channels]
        known = ", ".join(names)
        if not isinstance(pred, Mapping) or set(pred) != set(names):
            given = sorted(pred) if isinstance(pred, Mapping) else type(pred).__name__
            raise RefusedError("pred", f"must be a map of {known}", given)
        sizes: list[list[int]] = []
        for name in names:
            found = pred[name]
            require(isinstance(found, list), f"pred.{name}", "must be a list", type(found).__name__)
            count = len(sizes) if sizes else levels
            rule = "must have one map a level" + (f", here {count}" if count else "")
            require(
                len(found) == count if count else len(found) > 0, f"pred.{name}", rule, len(found)
            )
            for level, one in enumerate(found):
                of = channels[name]
                wanted = of if isinstance(of, int) else of[level]
                _check_map(one, f"pred.{name}[{level}]", images, wanted, sizes, level)

    def check_state(self, call: Call) -> None:
        """Refuse a state that is not a map of what the losses remember."""
        known = {name for name, loss in self.losses.items() if loss.remembers}
        if call.state is not None:
            refuse_other_names(call.state, known)


def _check_map(
    given: Any, where: str, images: int, channels: int, sizes: list[list[int]], level: int
) -> None:
    """Check one map, and note its height and width, or compare them with those of its level."""
    require(isinstance(given, Tensor), where, "must be one tensor", type(given).__name__)
    floating(given, where)
    rule = f"must be [{images}, {channels}, H, W], images first"
    fits = given.dim() == 4 and tuple(given.shape[:2]) == (images, channels)
    require(fits, where, rule, list(given.shape))
    size = list(given.shape[2:])
    if len(sizes) <= level:
        sizes.append(size)
    rule = f"must be as high and wide as the other maps of level {level}, {sizes[level]}"
    require(size == sizes[level], where, rule, size)


def trained(config: dict[str, Any] | None) -> dict[str, Any]:
    """The training part of a head's config, which must be given."""
    if config is None:
        raise RefusedError("train_cfg", "must be given: it says how to assign", None)
    return config


def default(**config: Any) -> Any:
    """A field of a config whose default is this config."""
    return field(default_factory=lambda: dict(config))


def flat(level: Tensor, channels: int) -> Tensor:
    """A map [B, A · channels, H, W] as rows [B, H · W · A, channels]: places first, as priors are."""
    images, depth, height, width = level.shape
    count = height * width * depth // channels
    return level.permute(0, 2, 3, 1).reshape(images, count, channels)
