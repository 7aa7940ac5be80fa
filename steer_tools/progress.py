"""How long work tells its caller where it is, and how the caller stops it.

Engines call `report` at every forward pass and decode step. Who calls a tool (Python, a progress bar, an MCP
request) sets `reporter` in its own context; a reporter stops the work by raising `errors.Cancelled`.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from steer_tools.foreign_text import visible

Reporter = Callable[[int, int, str], None]
_Item = TypeVar("_Item")

_reporter: ContextVar[Reporter | None] = ContextVar("steer_tools_reporter", default=None)


def report(done: int, total: int, message: str) -> None:
    """Tell this context's reporter that `done` of `total` steps of `message` are finished."""
    if (reporter := _reporter.get()) is not None:
        reporter(done, total, visible(message))


def reported(items: Sequence[_Item], message: str) -> Iterator[_Item]:
    """Yield the items, and report each one as finished when the next is asked for."""
    for done, item in enumerate(items, 1):
        yield item
        report(done, len(items), message)


def is_reported() -> bool:
    """Return whether somebody listens in this context."""
    return _reporter.get() is not None


@contextmanager
def reporting_to(reporter: Reporter | None) -> Generator[None]:
    """Send this context's progress to `reporter`, which may raise `Cancelled` to stop the work; None is for nobody."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


class Work:
    """Work of several stages, told to this context's reporter as one, with an estimate of the time that is left.

    `sizes` says how much each stage is, in any unit that they share; what a stage reports inside is its share done.
    What is told never falls.
    """

    def __init__(self, sizes: dict[str, float]) -> None:
        self.sizes, self._done, self._started, self._furthest = sizes, 0.0, time.monotonic(), 0.0

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Count what is reported inside a `with` block as part of the stage; afterwards it is done."""
        with self.part(name, 0.0, 1.0):
            yield
        self._done += self.sizes[name]

    @contextmanager
    def part(self, name: str, start: float, end: float) -> Generator[None]:
        """Count what is reported inside a `with` block as what leads from one share of a stage to another."""
        outer, size, total = _reporter.get(), self.sizes[name], sum(self.sizes.values())

        def tell(done: int, of: int, message: str) -> None:
            if outer is not None:
                share = (self._done + size * (start + (end - start) * done / of)) / total
                self._furthest = share = max(share, self._furthest)
                passed = time.monotonic() - self._started
                is_known = share > 0 and passed > 1
                left = f", about {passed / share * (1 - share):.0f} s left" if is_known else ""
                outer(round(1000 * share), 1000, f"{name}{left}")

        tell(0, 1, name)
        with reporting_to(tell):
            yield
