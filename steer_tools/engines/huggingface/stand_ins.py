"""What a hooked model has in place of methods of its modules, and gives back. It must not know hooks or plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import itemgetter
from typing import Any, ClassVar, Self, cast

from torch import nn


class StandIn(ABC):
    """What a hooked module has in place of one of its methods.

    A deep copy of the module gets one that calls the copy, a pickle the method itself.
    """

    method: ClassVar[str]

    def __init__(self, model: nn.Module, original: Callable[..., Any] | None = None) -> None:
        self._model = model
        self._own: object = vars(model).get(self.method)
        self._original = original or cast(Callable[..., Any], getattr(model, self.method))
        self.__doc__ = self._original.__doc__
        vars(model)[self.method] = self

    @property
    def is_in_place(self) -> bool:
        """Whether the module's method is this."""
        return vars(self._model).get(self.method) is self

    def give_back(self) -> None:
        """Let the module, or what stands in for this by now, have the method that the module had."""
        if self.is_in_place:
            del vars(self._model)[self.method]
            if self._own is not None:
                vars(self._model)[self.method] = self._own
            return
        above = vars(self._model).get(self.method)
        while isinstance(above, StandIn) and above._own is not self:
            above = above._own
        if isinstance(above, StandIn):
            above._own, above._original = self._own, self._original

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the method does, or refuse it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self._model)]
        return self._for(copied, getattr(type(copied), self.method).__get__(copied))

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle of the module has the module's own method, or else its class's.
        return (itemgetter(0), ((self._own,),)) if self._own is not None else (getattr, (self._model, self.method))

    @abstractmethod
    def _for(self, model: nn.Module, original: Callable[..., Any]) -> Self:
        """Return the same for another module."""
