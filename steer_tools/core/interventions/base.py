"""What an intervention is, and the arithmetic that its kinds share.

It must not know hooks, rows, positions or files.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor

from steer_tools.core.values import Value
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import ArgumentError

_Fact = TypeVar("_Fact", float, Tensor)
MEAN = "the prompts' mean activation"
_WORDS = {"direction": "a direction", "mean": MEAN, "eraser": "the eraser of a mean difference"}


@dataclass(frozen=True, eq=False)
class Intervention(Value, ABC):
    """One kind of edit, with its own tensors and parameters.

    Attributes:
        name: What callers write.
        scales_direction: Whether the strength multiplies the direction, so that a unit of strength can be a length;
            else, as by default, it is the share of a whole edit, or of an angle.
    """

    name: ClassVar[str]
    scales_direction: ClassVar[bool] = False

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Take what this kind needs from `vector` at `layer`; `target` None is the kind's own default.

        A kind without a target whose fields are `direction`, `mean` and `eraser` alone gets these as they are saved.

        Raises:
            ArgumentError: The vector does not have it, or the target is not finite, or the kind has none.
            DirectionError: What it has does not fit together.
        """
        if target is not None:
            raise ArgumentError(
                f"target is {target!r}, and the intervention {cls.name!r} has no target", fix="Leave it out."
            )
        facts = {"direction": vector.directions, "mean": vector.means, "eraser": vector.erasers}
        names = [field.name for field in fields(cls)]
        return cast(Any, cls)(*(known(facts[name].get(layer), cls.name, _WORDS[name], layer) for name in names))

    @abstractmethod
    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Return the edited copy of `hidden` (tokens, width), in its dtype; `strength` is (tokens, 1) or a scalar."""


def plus(hidden: Tensor, change: Tensor) -> Tensor:
    """Return hidden + change, with every bit of `hidden` kept where `change` is zero."""
    # −0.0 + 0.0 is 0.0, and −0.0 − 0.0 is −0.0.
    return hidden - (0.0 - change)


def unit_of(direction: Tensor, hidden: Tensor) -> Tensor:
    """Return û of `direction` (width,), in the dtype and on the device of `hidden`."""
    exact = direction.double()  # In float32 the squares of a short vector's elements are zero.
    return (exact / exact.norm()).to(hidden.dtype).to(hidden.device)


def projection(hidden: Tensor, along: Tensor) -> Tensor:
    """Return along·h of each token, (tokens, 1)."""
    # A matrix product may sum a row in another order when there are more rows.
    return (hidden * along).sum(dim=-1, keepdim=True)


def finite_target(name: str, target: float) -> float:
    """Return the target, or refuse it where it is no number that float32 can hold."""
    if type(target) not in (int, float) or not abs(target) <= torch.finfo(torch.float32).max:
        raise ArgumentError(f"target is {target!r}", valid=f"a finite number for the intervention {name!r}")
    return float(target)


def known(fact: _Fact | None, name: str, what: str, layer: int) -> _Fact:
    """Return a fact of the vector, or refuse the intervention that needs it."""
    if fact is None:
        raise ArgumentError(
            f"The intervention {name!r} needs {what} at layer {layer}, and the vector does not have it",
            valid="vectors that create_steering_vector made from prompts and saved as .safetensors",
            fix="Create the vector again, or use an intervention that needs the direction alone, such as 'add'.",
        )
    return fact
