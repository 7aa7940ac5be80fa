"""What torch sets for a thread or the process inside a `with` → as it was, also where an interrupt hits what undoes it.

Else tensors would be made on no device, in another dtype or without gradients from then on. It must not know models.
"""

import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, cast

import torch
from torch import overrides
from torch.utils import _device, _python_dispatch

# torch has no public names for its stacks of modes: how to look at each, take one off, and put one on.
_functions, _dispatches = cast(Any, overrides), cast(Any, _python_dispatch)
_STACKS: tuple[tuple[Any, Any, Any], ...] = (
    (_functions._get_current_function_mode_stack, _functions._pop_mode, _functions._push_mode),
    (_dispatches._get_current_dispatch_mode_stack, _dispatches._pop_mode, _dispatches._push_mode),
)


class KeptTorchState:
    """Puts back torch's modes, default dtype and gradients, and attributes that are patched, where a block raises.

    An error that an interrupt led to becomes that interrupt.

    Args:
        patched: Owner and name of what is replaced for a while inside the block.
    """

    def __init__(self, patched: Iterable[tuple[Any, str]] = ()) -> None:
        self._attributes = [(owner, name, getattr(owner, name)) for owner, name in patched]

    def __enter__(self) -> None:
        """Keep what there is."""
        self._gradients, self._dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        self._device = _device.CURRENT_DEVICE
        self._modes = [look() for look, _, _ in _STACKS]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Put it back, unless all went well or a generator that held the block is collected, later.

        Raises:
            KeyboardInterrupt: There was one.
        """
        if error is None or isinstance(error, GeneratorExit):
            return
        chain = [*_chain(error)]
        interrupt = next((one for one in chain if isinstance(one, KeyboardInterrupt)), None)
        if interrupt is not None:
            # A generator that has not put back its own does it now, and not whenever it is collected.
            for one in chain:
                traceback.clear_frames(one.__traceback__)
        torch.set_grad_enabled(self._gradients)
        torch.set_default_dtype(self._dtype)
        _device.CURRENT_DEVICE = self._device
        for modes, (look, pop, push) in zip(self._modes, _STACKS, strict=True):
            if look() != modes:
                while look():
                    pop()
                for mode in modes:
                    push(mode)
        for owner, name, value in self._attributes:
            setattr(owner, name, value)
        if interrupt not in (None, error):
            raise KeyboardInterrupt from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
