"""A call in a process of its own that ends like one whose power is cut: at its n-th step on the disk, or by SIGKILL."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from helpers.kills import forking

_STEPS = frozenset(
    {"open", "write", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync", "utime", "chmod", "sendfile"}
)
_CUT = 77


def _run(call: Callable[..., object], given: tuple[Any, ...], cut_at: int) -> None:
    torch.set_num_threads(1)
    count = 0

    def step(_: FrameType, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and function.__name__ in _STEPS:
            count += 1
            if count == cut_at:
                os._exit(_CUT)  # Nothing is cleaned up, and what is in buffers is lost.

    sys.setprofile(step if cut_at else None)
    call(*given)
    sys.setprofile(None)
    os._exit(0)


def cut(at: int, call: Callable[..., object], *given: Any) -> bool:
    """Run a call up to its step `at`, before which it ends; return whether it has so many."""
    process = forking().Process(target=_run, args=(call, given, at))
    process.start()
    process.join()
    assert process.exitcode in (0, _CUT)
    return process.exitcode == _CUT


def seconds(call: Callable[..., object], *given: Any) -> float:
    """Return how long a process of its own takes for a call, once there is one to fork from."""
    cut(1, call, *given)
    began = time.monotonic()
    assert not cut(sys.maxsize, call, *given)
    return time.monotonic() - began


class Killing:
    """Kills calls at moments drawn over a little more than the time they take, which is learned: machines slow down."""

    def __init__(self, seed: int, took: float) -> None:
        self._choose, self._took = random.Random(seed), took
        self.at_work = 0

    def kill(self, call: Callable[..., object], *given: Any) -> None:
        """Run a call and kill it at some moment, and count whether it was still at work."""
        process = forking().Process(target=_run, args=(call, given, 0))
        process.start()
        time.sleep(self._choose.random() * 1.2 * self._took)
        process.kill()
        process.join()
        was_at_work = process.exitcode != 0
        self.at_work += was_at_work
        self._took *= 1.1 if was_at_work else 0.75
