"""What the fuzzing of readers finds: exceptions that are none of ours, slow inputs, memory."""

from __future__ import annotations

import time

import pytest
from hypothesis import strategies as st

from helpers.fuzzing import EXAMPLES, LONGEST_SECONDS, MOST_GROWTH, fuzz, mutated
from steer_tools.errors import PromptError


def test_what_a_reader_reads_and_refuses_is_counted() -> None:
    def read(value: int) -> None:
        if value % 2:
            raise PromptError("odd")

    found = fuzz(read, st.integers(0, 10**6))

    assert found.examples >= EXAMPLES
    assert 0.2 < found.read / found.examples < 0.8
    assert found.slowest < LONGEST_SECONDS


def test_any_other_exception_comes_out_with_the_smallest_input_that_raises_it() -> None:
    def read(content: bytes) -> None:
        if b"[[" in content:
            raise KeyError(content)

    with pytest.raises(KeyError) as caught:
        fuzz(read, mutated([b"{}", b"[1, 2]"], [b"["]))

    assert b"[[" in caught.value.args[0]
    assert len(caught.value.args[0]) < 20


def test_a_slow_input_and_one_that_takes_much_memory_are_faults() -> None:
    def spin(_: int) -> None:
        end = time.process_time() + LONGEST_SECONDS + 0.1
        while time.process_time() < end:
            pass

    with pytest.raises(AssertionError, match="one input took"):
        fuzz(spin, st.just(1))
    with pytest.raises(AssertionError, match="memory grew"):
        fuzz(lambda _: b"x" * (MOST_GROWTH + 2**20), st.just(1))
