"""How long work tells its caller where it is, and how the caller stops it.

Engines call `report` at every forward pass and decode step. Who calls a tool (Python, a progress bar, an MCP
request) sets `reporter` in its own context; a reporter stops the work by raising `errors.Cancelled`.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Reporter = Callable[[int, int, str], None]

_reporter: ContextVar[Reporter | None] = ContextVar("steer_tools_reporter", default=None)


def report(done: int, total: int, message: str) -> None:
    """Tell this context's reporter that `done` of `total` steps of `message` are finished."""
    if (reporter := _reporter.get()) is not None:
        reporter(done, total, message)


@contextmanager
def reporting_to(reporter: Reporter | None) -> Generator[None]:
    """Send this context's progress to `reporter`, which may raise `Cancelled` to stop the work; None is for nobody."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
