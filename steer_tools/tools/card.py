"""What a tool's signature, docstring and result type cannot say about it. It must not know any protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["core", "evidence", "inspect", "edit"]


@dataclass(frozen=True)
class Card:
    """What the faces of a tool need beside its signature.

    Attributes:
        title: For people.
        group: Among which tools it is listed; a server may offer some groups only.
        command: What it is called on the command line, None where it has no command of its own.
        positional: Parameters that the command takes without a flag, in their order.
        is_read_only: It changes neither the model nor a file.
        is_destructive: It takes something away or overwrites it.
        is_idempotent: A second equal call changes nothing more.
        reaches_out: It may touch something beyond the model and the workspace.
        needs_model: It works on the attached model.
    """

    title: str
    group: Group
    command: str | None = None
    positional: tuple[str, ...] = ()
    is_read_only: bool = False
    is_destructive: bool = False
    is_idempotent: bool = False
    reaches_out: bool = False
    needs_model: bool = True


@dataclass(frozen=True)
class Tool:
    """A function, called with JSON values, that returns a JSON-safe dict, and its card."""

    function: Callable[..., Any]
    card: Card

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__
