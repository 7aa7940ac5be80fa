"""Where in a model something is read or edited. It must not know any model."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from steer_tools.errors import ArgumentError, quoted

Component: TypeAlias = Literal["embedding", "residual", "attention", "mlp"]
COMPONENTS: tuple[Component, ...] = get_args(Component)


@dataclass(frozen=True)
class Site:
    """A point in the forward pass; `residual` at layer l is the *output* of decoder block l, counted from 0.

    `output_hidden_states` calls the same point index l + 1, except at the last layer, where it shows the value
    after the final norm instead. `head` narrows `attention` to one head.
    """

    layer: int
    component: Component = "residual"
    head: int | None = None

    def __post_init__(self) -> None:
        # A hook for what is none would still be called, in the place of the one that is meant.
        if self.component not in COMPONENTS:
            raise ArgumentError(f"component is {quoted(self.component)}", valid=", ".join(map(repr, COMPONENTS)))
        if self.head is not None and self.component != "attention":
            raise ArgumentError(
                f"head is {quoted(self.head)}, and component is {self.component!r}", valid="heads of 'attention'"
            )

    @property
    def part(self) -> str:
        """The component, and the head if it is one."""
        return self.component if self.head is None else f"{self.component} head {self.head}"

    def __str__(self) -> str:
        return f"layer {self.layer} {self.part}"
