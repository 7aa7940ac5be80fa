"""Interrupts at a chosen line of the package or of others, or by a real signal at some time, while something runs."""

from __future__ import annotations

import contextlib
import linecache
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from pydantic_core import PydanticSerializationError

import steer_tools

PACKAGE = str(Path(steer_tools.__file__).parent) + os.sep
# Where others set something for a while and put it back.
_TORCH, _TRANSFORMERS = Path(torch.__file__).parent, Path(transformers.__file__).parent
FOREIGN = (
    contextlib.__file__,
    *(str(_TORCH / "utils" / name) for name in ("_contextlib.py", "_device.py", "_python_dispatch.py")),
    *(str(_TORCH / name) for name in ("overrides.py", "autograd/grad_mode.py")),
    *(str(_TRANSFORMERS / name) for name in ("initialization.py", "modeling_utils.py")),
)


class Lines:
    """Counts the lines of some files that run, and raises KeyboardInterrupt before one of them."""

    def __init__(self, at: int | None = None, within: str | tuple[str, ...] = PACKAGE) -> None:
        self._at, self._within, self.count, self.where = at, within, 0, ""

    def run(self, call: Callable[[], object]) -> bool:
        """Run it, and return whether it was interrupted."""
        before = sys.gettrace()  # Of what measures coverage.
        sys.settrace(self._entered)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._within) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        # No signal comes at a `try`, nor where the line of a `with` is told again, when its block ends.
        if event == "line" and not _source(frame).lstrip().startswith(("with ", "try:")):
            self.count += 1
            if self.count == self._at:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def _source(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def lines_of(call: Callable[[], object], within: str | tuple[str, ...] = PACKAGE) -> int:
    """Return how many lines of the package, or of other files, it runs."""
    lines = Lines(within=within)
    lines.run(call)
    return lines.count


def interrupted_after(seconds: float, call: Callable[[], object]) -> bool:
    """Run it, send this process a signal meanwhile, as Ctrl-C is one, and return whether that interrupted it."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    except PydanticSerializationError as error:
        # Pydantic makes an error of its own of whatever is raised while it writes JSON.
        if "KeyboardInterrupt" not in str(error):
            raise
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return False
