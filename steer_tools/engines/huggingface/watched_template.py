"""A chat template at work, which is a program of whoever made the checkpoint: it is stopped where it goes on too long.

Counted are its lines, its calls and the texts that it holds; what a single operation does is not seen. It must
not know messages.
"""

import dis
import sys
from collections.abc import Callable
from functools import lru_cache
from inspect import CO_GENERATOR
from types import CodeType, FrameType
from typing import Any, cast

from steer_tools.errors import PromptError
from steer_tools.limits import TEMPLATE_CHARACTERS, TEMPLATE_STEPS

# What jinja calls the file of a template that was given as a text.
_FILE = "<template>"
# Numbers that are multiplied by themselves grow as fast as texts, and take longer.
_MOST_BITS = 10_000
_FIX = "Set tokenizer.chat_template to another one before attaching, or write the chat as one text."


def run_watched(render: Callable[[], str]) -> str:
    """Return what `render` does, which lets a template write a text in this thread.

    Whoever traces this thread, such as a debugger, sees nothing of it.

    Raises:
        PromptError: The template takes too many steps, or holds or writes too long a text.
    """
    watch, others = _Watch(), sys.gettrace()
    sys.settrace(watch.entered)
    try:
        return render()
    finally:
        sys.settrace(others)


class _Watch:
    """What one template has done since its first line."""

    def __init__(self) -> None:
        self._most_steps, self._most_characters = TEMPLATE_STEPS.most, TEMPLATE_CHARACTERS.most
        self._steps = self._written = 0

    def entered(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename == _FILE:
            self._step()
            return self._inside(_storing_lines(frame.f_code))
        if self._steps:  # What comes before the template's first line compiles it.
            self._step()
            if frame.f_code.co_name == "__setitem__":  # Of a namespace, whose values are in no frame.
                self._hold(frame)
        return None

    def _inside(self, storing: frozenset[int]) -> Callable[..., Any]:
        def seen(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            if event == "line":
                self._step()
                if frame.f_lineno in storing:
                    self._hold(frame)
            elif event == "return" and isinstance(argument, str) and frame.f_code.co_flags & CO_GENERATOR:
                self._written += len(argument)
                if self._written > self._most_characters:
                    TEMPLATE_CHARACTERS.require(
                        self._written, "The model's chat template writes", PromptError, fix=_FIX
                    )
            return seen

        return seen

    def _step(self) -> None:
        self._steps += 1
        if self._steps > self._most_steps:
            TEMPLATE_STEPS.require(self._steps, "The model's chat template took", PromptError, fix=_FIX)

    def _hold(self, frame: FrameType) -> None:
        for value in frame.f_locals.values():
            if isinstance(value, str | list) and len(cast("str | list[Any]", value)) > self._most_characters:
                TEMPLATE_CHARACTERS.require(len(value), "The model's chat template holds", PromptError, fix=_FIX)
            if isinstance(value, int) and value.bit_length() > _MOST_BITS:
                raise PromptError("The model's chat template holds a number of thousands of digits", fix=_FIX)


@lru_cache(maxsize=64)
def _storing_lines(code: CodeType) -> frozenset[int]:
    """Return the lines that set a variable; only there, texts may have grown since the last one."""
    stores = (step.positions for step in dis.get_instructions(code) if step.opname.startswith("STORE_"))
    return frozenset(at.lineno for at in stores if at is not None and at.lineno is not None)
