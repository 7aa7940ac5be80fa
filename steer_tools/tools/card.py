"""What a tool's signature, docstring and result type cannot say about it. It must not know any protocol."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["core", "evidence", "inspect", "edit"]


@dataclass(frozen=True)
class Card:
    """What the faces of a tool need beside its signature.

    Attributes:
        title: For people.
        group: Among which tools it is listed; a server may offer some groups only.
        command: What it is called on the command line, None where it has no command of its own.
        about: What the command does, in a line, where the tool says it for who calls it.
        positional: Parameters that the command takes without a flag, in their order.
        required: Parameters that the command must be given, though the tool need not.
        not_typed: Parameters that the command does without, since another one says the same or only Python has them.
        flags: Names on the command line of parameters whose usual ones are taken.
        vector: Whether the command may or must be given a vector that acts while the tool runs.
        instead_of_vector: A parameter that names another vector, of which one is needed.
        is_read_only: It changes neither the model nor a file.
        only_adds: It takes nothing away and overwrites nothing, though it changes something.
        is_repeatable: A second equal call changes nothing more, though the first one does.
        reaches_out: It may touch something beyond the model and the workspace.
        needs_model: It works on the attached model.
        makes_vector: Its result's `vector_path` is a vector that it made.
        items: The entry of its result that it is a list of, or what makes that list of the result: a number stands for
            one of them, and the result as Python holds it yields them.
        rows: The entry of its result that is a table, a dict a row, or what makes one of the result.
    """

    title: str
    group: Group
    command: str | None = None
    about: str = ""
    positional: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    not_typed: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    vector: Literal["", "optional", "required"] = ""
    instead_of_vector: str = ""
    is_read_only: bool = False
    only_adds: bool = False
    is_repeatable: bool = False
    reaches_out: bool = False
    needs_model: bool = True
    makes_vector: bool = False
    items: str | Callable[[Any], Sequence[Any]] | None = None
    rows: str | Callable[[Any], list[dict[str, Any]]] | None = None

    def tool(self, function: Callable[..., Any], show: Callable[..., Any] | None = None) -> "Tool":
        """Return the tool that the card is of."""
        return Tool(function, self, show)

    @property
    def is_destructive(self) -> bool:
        """Whether it takes something away or overwrites it."""
        return not (self.is_read_only or self.only_adds)

    @property
    def is_idempotent(self) -> bool:
        """Whether a second equal call changes nothing more."""
        return self.is_read_only or self.is_repeatable


@dataclass(frozen=True)
class Tool:
    """A function, called with JSON values, that returns a JSON-safe dict, and its card.

    `show` renders the result for a terminal; of the function's arguments and `is_plain` it is given what it names.
    """

    function: Callable[..., Any]
    card: Card
    show: Callable[..., Any] | None = None

    def shown(self, result: Mapping[str, Any], arguments: Mapping[str, Any], *, is_plain: bool) -> Any:
        """Render a result of `function(**arguments)`, where there is a way to."""
        assert self.show is not None
        wanted = inspect.signature(self.show).parameters
        beside = {**arguments, "is_plain": is_plain}
        return self.show(result, **{name: value for name, value in beside.items() if name in wanted})

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def description(self) -> str:
        """What the function's docstring said before `document` added its sections."""
        return getattr(self.function, "description", None) or inspect.cleandoc(self.function.__doc__ or "")
