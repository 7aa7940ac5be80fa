"""Where in a model something is read or edited. It must not know any model."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Component: TypeAlias = Literal["embedding", "residual", "attention", "mlp"]


@dataclass(frozen=True)
class Site:
    """A point in the forward pass; `residual` at layer l is the *output* of decoder block l, counted from 0.

    `output_hidden_states` calls the same point index l + 1, except at the last layer, where it shows the value
    after the final norm instead. `head` narrows `attention` to one head.
    """

    layer: int
    component: Component = "residual"
    head: int | None = None

    @property
    def part(self) -> str:
        """The component, and the head if it is one."""
        return self.component if self.head is None else f"{self.component} head {self.head}"

    def __str__(self) -> str:
        return f"layer {self.layer} {self.part}"
