"""What is done to a hidden state: hidden and a strength → hidden, purely.

A new intervention is one frozen class with `name` and `edit`, and its name in the parameter `Intervention`; strength 0
is the identity for each. It must not know hooks, rows, positions or dtypes: it is handed the chosen tokens in float32
and hands them back.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor


class Intervention(Protocol):
    """One kind of edit, with its own tensors and parameters."""

    name: ClassVar[str]

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Return the edited copy of `hidden` (tokens, width) float32; `strength` is (tokens, 1) or a scalar."""
        ...


@dataclass(frozen=True, eq=False)
class Add:
    """hidden + strength · direction (Turner et al. 2023, arXiv 2308.10248); `direction` is (width,) float32."""

    name: ClassVar[str] = "add"
    direction: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Add."""
        return hidden + strength * self.direction.to(hidden.device)
