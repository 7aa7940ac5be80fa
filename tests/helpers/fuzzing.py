"""What a reader does with bytes that nobody meant for it: many mutated files, each held to its time and memory."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from steer_tools.errors import SteeringError

# So long each reader is fuzzed; where it is not set, EXAMPLES are enough.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES = 300
LONGEST_SECONDS = 2.0
MOST_GROWTH = 200 * 2**20

_Input = TypeVar("_Input")
_MEMORY = Path("/proc/self/status")


@dataclass(frozen=True)
class Fuzzed:
    """What came of inputs: how many there were and were read, and the most seconds and bytes that one of them took."""

    examples: int = 0
    read: int = 0
    slowest: float = 0.0
    growth: int = 0

    def __str__(self) -> str:
        return (
            f"{self.examples:,} examples, {self.read:,} of them read; slowest {self.slowest:.3f} s; "
            f"memory grew by at most {self.growth / 2**20:.0f} MB"
        )


def fuzz(read: Callable[[_Input], object], inputs: st.SearchStrategy[_Input]) -> Fuzzed:
    """Give a reader inputs, each of which it must read or refuse by a SteeringError, and return what came of them.

    Whatever else it raises is raised, with the input made as small as possible. Print the result: `pytest -s` shows it.
    Memory is measured from each input on, since hypothesis keeps hundreds of MB of what it made: a reader that keeps
    something of every input is not found here.
    """
    found, end, rounds = Fuzzed(), time.monotonic() + SECONDS, 0

    def one(value: _Input) -> None:
        nonlocal found
        before = _memory_from_here()
        start, was_read = time.process_time(), 1  # Of this process alone: others are busy, too.
        try:
            read(value)
        except SteeringError:
            was_read = 0
        taken = time.process_time() - start
        growth = _most_memory() - before
        slowest, largest = max(found.slowest, taken), max(found.growth, growth)
        found = Fuzzed(found.examples + 1, found.read + was_read, slowest, largest)
        assert taken <= LONGEST_SECONDS, f"one input took {taken:.1f} s"
        assert growth <= MOST_GROWTH, f"memory grew by {growth / 2**20:.0f} MB"

    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[*HealthCheck],
    )
    with warnings.catch_warnings():
        # What failed may be long, and its report must not be an error of its own.
        warnings.simplefilter("ignore", HypothesisWarning)
        while rounds == 0 or time.monotonic() < end:
            seed(rounds)(limits(given(inputs)(one)))()
            rounds += 1
    return found


def mutated(wholes: Sequence[bytes], pieces: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return valid files and what becomes of them in up to four changes.

    A change puts a piece in, cuts something out, writes a part again (often many times), flips a byte, or goes on as
    another file does. `pieces` are what has a meaning in the format.
    """
    return st.builds(_changed, st.sampled_from(wholes), st.lists(_changes(wholes, pieces), max_size=4))


@dataclass(frozen=True)
class _Change:
    at: float
    length: int
    put: bytes
    times: int


def _changes(wholes: Sequence[bytes], pieces: Sequence[bytes]) -> st.SearchStrategy[_Change]:
    put = st.one_of(st.sampled_from([b"", *pieces]), st.binary(max_size=8), st.sampled_from(wholes))
    return st.builds(
        _Change,
        at=st.floats(0, 1),
        length=st.sampled_from([0, 0, 1, 1, 4, 30, 10**6]),
        put=put,
        times=st.sampled_from([1] * 9 + [2, 1000, 100_000]),
    )


def _changed(whole: bytes, changes: list[_Change]) -> bytes:
    for change in changes:
        start = int(change.at * len(whole))
        room = 2 * 2**20 // max(1, len(change.put))
        whole = whole[:start] + change.put * min(change.times, room) + whole[start + change.length :]
    return whole


def _memory_from_here() -> int:
    """Forget how much memory this process once had, and return how much it has; on Linux, elsewhere 0 as below."""
    if _MEMORY.exists():
        _MEMORY.with_name("clear_refs").write_text("5", encoding="ascii")
    return _most_memory()


def _most_memory() -> int:
    """Return the most bytes that this process has had in memory since."""
    if not _MEMORY.exists():
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _MEMORY.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
