"""The `generate` of a hooked model, which notes its prompt: a block alone cannot tell an uncached step from one.

It must not know plans, or what the hooks do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from steer_tools.engines.huggingface.architecture import refuse_unsteerable_state
from steer_tools.engines.huggingface.outside_calls import noted_call, refuse_other_passes, refuse_right_padding

if TYPE_CHECKING:
    from steer_tools.engines.huggingface.hooks import SteeringHooks


class NotingGenerate:
    """The `generate` that a hooked model has; a deep copy of the model gets one that calls the copy."""

    def __init__(self, hooks: SteeringHooks, model: nn.Module, original: Callable[..., Any] | None = None) -> None:
        self._hooks, self._model = hooks, model
        self._own = vars(model).get("generate")
        self._original = original or cast(Callable[..., Any], model.generate)
        self.__doc__ = self._original.__doc__
        vars(model)["generate"] = self

    @property
    def is_in_place(self) -> bool:
        """Whether the model's `generate` is this."""
        return vars(self._model).get("generate") is self

    def give_back(self) -> None:
        """Let the model have the `generate` that it had."""
        if self.is_in_place:
            del vars(self._model)["generate"]
            if self._own is not None:
                vars(self._model)["generate"] = self._own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the model does, with its passes known for those of this call."""
        call, run = noted_call(args, kwargs), self._hooks.run_here
        with self._hooks.generating(call):
            if run is not None and run.is_steered:
                refuse_unsteerable_state(self._model)
                refuse_right_padding(call)
                refuse_other_passes(args, kwargs, getattr(self._model, "generation_config", None))
                # A forward that `generate` compiled before our hooks came ignores them.
                kwargs["disable_compile"] = True
            return self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> NotingGenerate:
        copied = memo[id(self._model)]
        return NotingGenerate(self._hooks, copied, type(copied).generate.__get__(copied))
