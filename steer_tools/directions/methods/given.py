"""A direction that was found elsewhere, measured on activations by the same rules as all others."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steer_tools.directions.methods.base import Method
from steer_tools.directions.statistics import Activations
from steer_tools.errors import DirectionError


@dataclass(frozen=True, eq=False)
class GivenDirection(Method):
    """A ready direction (width,), such as a sparse autoencoder's decoder row.

    Fitting gives it the length and sign of its contrast, so it may come at any length. It has no place in METHODS,
    where every entry is found from activations alone.

    Raises:
        DirectionError: It is not a finite vector, or is all zero.
    """

    name: ClassVar[str] = "given"
    direction: Tensor

    def __post_init__(self) -> None:
        if self.direction.dim() != 1 or not self.direction.isfinite().all() or not self.direction.any():
            raise DirectionError(
                f"The given direction has the shape {tuple(self.direction.shape)}, or is zero, or is not finite",
                valid="one vector (width,) of some length",
            )

    def raw(self, data: Activations) -> Tensor:
        """Return it.

        Raises:
            DirectionError: The activations have another width.
        """
        if self.direction.shape != data.contrast.shape:
            raise DirectionError(
                f"The given direction has the width {len(self.direction)}, the activations {len(data.contrast)}",
                valid="equal widths",
                fix="Take a direction that was found on this model, and at this component.",
            )
        return self.direction.detach().to("cpu").double()


@dataclass(frozen=True, eq=False)
class TrainedDirection(GivenDirection):
    """A ready direction whose length and sign are part of what was found, so that fitting leaves both alone."""

    name: ClassVar[str] = "trained"
    keeps_length: ClassVar[bool] = True
