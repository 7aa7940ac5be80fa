"""What is set in torch inside a block is as it was where the block raises, and stays where it does not."""

from __future__ import annotations

import types
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import overrides
from torch.utils import _python_dispatch

from steer_tools.torch_state import KeptTorchState

Functions = overrides.BaseTorchFunctionMode


class Dispatches(_python_dispatch.TorchDispatchMode):
    """A mode that changes nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def state() -> list[object]:
    functions = overrides._get_current_function_mode_stack()  # type: ignore[attr-defined]
    modes = [*functions, *_python_dispatch._get_current_dispatch_mode_stack()]
    return [torch.is_grad_enabled(), torch.get_default_dtype(), torch.empty(1).device, *modes]


def set_for_good() -> None:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    torch.device("meta").__enter__()
    Functions().__enter__()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_block_that_raises_sets_is_as_it_was(error: type[BaseException]) -> None:
    kept, owner = state(), types.SimpleNamespace(made=1)
    with pytest.raises(error), KeptTorchState([(owner, "made")]):
        set_for_good()
        Dispatches().__enter__()
        owner.made = 2
        raise error

    assert state() == kept
    assert owner.made == 1


def test_what_is_set_around_the_block_stays_in_force() -> None:
    with torch.no_grad(), torch.device("meta"), Functions():
        kept = state()
        with pytest.raises(ValueError, match="wrong"), KeptTorchState():
            torch.set_grad_enabled(True)
            overrides._pop_mode()  # type: ignore[attr-defined]
            raise ValueError("wrong")
        assert state() == kept


def test_what_a_block_that_does_not_raise_sets_stays() -> None:
    with pytest.raises(KeyError), KeptTorchState():
        with KeptTorchState():
            set_for_good()
        assert state() != [True, torch.float32, torch.device("cpu")]
        raise KeyError


def test_what_a_generator_has_not_put_back_is_done_before_and_not_when_it_is_collected() -> None:
    order: list[str] = []

    @contextmanager
    def late() -> Generator[None]:
        try:
            yield
        finally:
            order.append("generator")

    def held() -> None:
        kept = late()
        kept.__enter__()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try:
            with KeptTorchState():
                held()
        finally:
            order.append("block")
    assert order == ["generator", "block"]


def test_an_error_that_an_interrupt_led_to_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, KeptTorchState():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from an empty stack")
    assert "empty stack" in str(raised.value.__cause__)


def test_any_other_error_is_what_it_was() -> None:
    with pytest.raises(RuntimeError, match="empty"), KeptTorchState():
        try:
            raise ValueError
        finally:
            raise RuntimeError("empty")
