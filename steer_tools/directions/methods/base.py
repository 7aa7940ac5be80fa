"""What a method is: statistics of two classes → a raw direction, with options that are checked once for all.

It must not know how statistics are gathered, or what length and sign a direction gets.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, TypeAlias, TypeVar

from torch import Tensor

from steer_tools.directions.statistics import Activations
from steer_tools.errors import ArgumentError

Statistics: TypeAlias = Literal["means", "pair_moments", "class_moments", "examples"]
_Default = TypeVar("_Default", bound=float | None)


@dataclass(frozen=True)
class Method(ABC):
    """Finds a direction of any length and sign; fitting settles both. A new method is one frozen subclass with `raw`.

    Attributes:
        name: What it is called in METHODS.
        is_paired: Whether positive example i belongs to negative example i.
        is_control: Whether its direction must know nothing of the labels, so that fitting leaves its sign alone.
        keeps_length: Whether fitting leaves its direction as it is.
        needs: What of the activations it reads: `examples` keeps all in memory, the others stream.
        fewest: The least examples of each class.
        most: The most examples of each class, or None.
    """

    name: ClassVar[str]
    is_paired: ClassVar[bool] = False
    is_control: ClassVar[bool] = False
    keeps_length: ClassVar[bool] = False
    needs: ClassVar[Statistics] = "means"
    fewest: ClassVar[int] = 1
    most: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            may_be_left = value is None and declared.default is None
            if not may_be_left and not _is_valid(value, declared.metadata["least"], declared.metadata["largest"]):
                raise ArgumentError(
                    f"The option {declared.name} of {self.name!r} is {value!r}", valid=describe_options(type(self))
                )

    @abstractmethod
    def raw(self, data: Activations) -> Tensor:
        """Return a direction (width,) in float64."""

    def raw_with_threshold(self, data: Activations) -> tuple[Tensor, float | None]:
        """Return also the value of raw·h above which the method itself calls h positive, where it has one."""
        return self.raw(data), None


def option(default: _Default, *, least: float, largest: float | None = None) -> _Default:
    """Declare an option that is a number, a whole one if `least` is, or also None where that is the default."""
    return field(default=default, metadata={"least": least, "largest": largest})


def describe_options(method: type[Method]) -> str:
    """Return the options of a method with their ranges and defaults, in words."""
    parts: list[str] = []
    for declared in fields(method):
        least, largest = declared.metadata["least"], declared.metadata["largest"]
        kind = "a whole number" if isinstance(least, int) else "a number"
        reach = f"of at least {least}" if largest is None else f"from {least} to {largest}"
        parts.append(f"{declared.name} ({kind} {reach}, default {declared.default})")
    return "; ".join(parts) or f"{method.name!r} has no options"


def _is_valid(value: object, least: float, largest: float | None) -> bool:
    kinds = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return least <= value < float("inf") and (largest is None or value <= largest)
