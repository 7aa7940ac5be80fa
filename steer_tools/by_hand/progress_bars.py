"""What a tool reports while it works → a bar in a notebook. It must not know tools."""

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from steer_tools.progress import is_reported, reporting_to

# Seconds: what is over sooner needs no bar.
_DELAY = 1.0
# What is counted means nothing to a reader, and the message says how long it takes.
_FORMAT = "{desc} {percentage:3.0f} %|{bar:30}|"


@contextmanager
def notebook_bar(name: str) -> Generator[None]:
    """Show what the work inside a `with` block reports, where a notebook runs it and nobody else listens."""
    if "ipykernel" not in sys.modules or is_reported():
        yield
        return
    from tqdm.auto import tqdm

    with warnings.catch_warnings():
        # Without ipywidgets it writes a line of text.
        warnings.simplefilter("ignore")
        bar = tqdm(desc=name, leave=False, delay=_DELAY, bar_format=_FORMAT)
    with bar:

        def move(done: int, total: int, message: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description(f"{name}: {message}", refresh=False)
            bar.update(0)

        with reporting_to(move):
            yield
