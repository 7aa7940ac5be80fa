"""What an audit of two checkpoints found, as values. It must not know files."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from steer_tools.core.site import Component

Kind: TypeAlias = Literal["addition", "ablation", "other"]
_KINDS: tuple[Kind, ...] = ("addition", "ablation", "other")


@dataclass(frozen=True)
class Difference:
    """A tensor that is not the base's.

    Attributes:
        name: In the checkpoint.
        kind: What explains it.
        change: |W' − W| / |W|; None where W is zero or the tensor holds no numbers to compare.
        share: Of |W' − W|² along its first singular direction; None in a vector, which has one.
    """

    name: str
    kind: Kind
    change: float | None
    share: float | None


@dataclass(frozen=True, eq=False)
class Finding:
    """A vector that was baked into weights.

    Attributes:
        kind: "addition" or "ablation".
        layers: The one where it was added, or all where the direction was projected out.
        component: Where it acts there.
        direction: (width,) float64: what was added, or the unit direction, whose sign is arbitrary.
        tensors: Those that hold it.
        explained: Which share of their squared change an ablation makes; None for an addition, which is all of it.
        left: |ûᵀW'| / |ûᵀW| over an ablation's tensors: 0 where none of them has the direction any more.
    """

    kind: Kind
    layers: tuple[int, ...]
    component: Component
    direction: Tensor
    tensors: tuple[str, ...]
    explained: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        equal: How many tensors are.
        differences: All others, the largest first.
        findings: Additions by layer, then ablations.
        only_in_checkpoint: Tensors that stand beside nothing, as in `only_in_base`.
        stand_ins: How many compared tensors one of the checkpoints lacks.
        unclaimed: How many biases differ that would be additions, did not other weights differ, too.
        ignored: How many biases are in a checkpoint only whose config says that its model has none.
        config_keys: Entries of the configs that differ, and may change what is computed.
        are_rounded: Whether some were rounded, since the checkpoints have different dtypes.
    """

    equal: int
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]
    only_in_checkpoint: tuple[str, ...]
    only_in_base: tuple[str, ...]
    stand_ins: int
    unclaimed: int
    ignored: int
    config_keys: tuple[str, ...]
    are_rounded: bool

    @property
    def verdict(self) -> str:
        """The kinds that there are; "equal" where nothing differs and nothing is missing."""
        kinds = {difference.kind for difference in self.differences}
        if not kinds and (self.only_in_base or self.only_in_checkpoint):
            return "other"
        return ", ".join(kind for kind in _KINDS if kind in kinds) or "equal"
