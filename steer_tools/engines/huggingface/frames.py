"""Which Python calls of this thread still run: what an interrupt has ended is told by that, where no `finally` ran.

torch tells no hook of a KeyboardInterrupt, and one may hit the first line of whatever would put things right. It must
not know hooks or models.
"""

import contextlib
import inspect
from pathlib import Path
from types import FrameType

import torch

_HERE = str(Path(__file__).parent)
_NOT_STEADY = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def is_running(frame: FrameType) -> bool:
    """Return whether a call of this thread still runs; while torch compiles, it has frames of its own, and all do."""
    if torch.compiler.is_compiling():
        return True
    found = inspect.currentframe()
    while found is not None and found is not frame:
        found = found.f_back
    return found is frame


def caller_of_block() -> FrameType | None:
    """Return the call whose `with` statement enters the `@contextmanager` that asks; None for one that may be suspended
    meanwhile, such as another `@contextmanager`, whose end the garbage collector sees to."""
    frame = _back(_back(inspect.currentframe()))
    while frame is not None and frame.f_code.co_filename == contextlib.__file__:
        frame = frame.f_back
    return None if frame is None or frame.f_code.co_flags & _NOT_STEADY else frame


def steady_caller() -> FrameType | None:
    """Return the innermost call around the `@contextmanager` that asks which cannot be suspended meanwhile."""
    frame = _back(_back(inspect.currentframe()))
    while frame is not None and _is_passing(frame):
        frame = frame.f_back
    return frame


def caller_outside() -> FrameType | None:
    """Return the innermost call that is none of this package's engine: torch's, which calls a hook."""
    if torch.compiler.is_compiling():
        return None
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame


def _is_passing(frame: FrameType) -> bool:
    return frame.f_code.co_filename == contextlib.__file__ or bool(frame.f_code.co_flags & _NOT_STEADY)


def _back(frame: FrameType | None) -> FrameType | None:
    return None if frame is None else frame.f_back
