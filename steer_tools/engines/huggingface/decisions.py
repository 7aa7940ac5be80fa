"""A pass that waits for a condition → the prompts that it is decided on; and what was decided, for later passes.

It must not know plans, or how a condition is read.
"""

from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from steer_tools.core.positions import BatchGeometry
from steer_tools.engines.huggingface.batch_layout import rows_of
from steer_tools.engines.huggingface.outside_calls import CACHES, Callers, GenerateCall
from steer_tools.engines.huggingface.pass_geometry import Pass
from steer_tools.errors import UnsupportedCallError

_Run = TypeVar("_Run")


class Decisions(Generic[_Run]):
    """What rows got that waited: by the `generate` that they belong to, or the cache that a plain call left."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Any, tuple[_Run, _Run]] = WeakKeyDictionary()

    def find(self, waiting: _Run, place: Pass, call: GenerateCall | None, callers: Callers) -> _Run | None:
        """Return what was decided for this pass before, if anything was; a new text in an old cache is a new prompt."""
        key = call if call is not None else callers.find(*CACHES) if place.start > 0 else None
        before, found = self._kept.get(key, (None, None)) if _can_be_kept(key) else (None, None)
        return found if before is waiting else None

    def keep(self, waiting: _Run, found: _Run, call: GenerateCall) -> None:
        """Remember what the rows of a `generate` got."""
        self._kept[call] = waiting, found

    def keep_with_cache(self, waiting: _Run, found: _Run, output: Any) -> None:
        """Remember what the rows of a plain call got with the cache in its output, for the tokens to come."""
        cache = next((kept for name in CACHES if (kept := getattr(output, name, None)) is not None), None)
        if _can_be_kept(cache):
            self._kept[cache] = waiting, found


def _can_be_kept(key: Any) -> bool:
    """Whether it is an object of its own, which tuples of tensors are not."""
    return hasattr(key, "__weakref__")


def prompts_of(place: Pass, geometry: BatchGeometry, call: GenerateCall | None, callers: Callers) -> list[list[int]]:
    """Return the ids of each row's prompt, without padding; the rows of a plain call are all prompt.

    Raises:
        UnsupportedCallError: The call does not show them, or gives the model other things to look at.
    """
    ids: Tensor | None = place.ids if place.start == 0 else None
    real = geometry.positions >= 0
    if call is not None and call.ids is not None and call.layout is not None:
        ids, real = rows_of(call.ids, len(call.layout.real)), call.layout.real
    other = callers.other_input()
    if ids is None or ids.shape != real.shape or other is not None:
        found = "does not show it" if other is None else f"gives the model {other!r} beside it"
        raise UnsupportedCallError(
            f"A condition is applied, which is decided on the tokens of the whole prompt, and this call {found}",
            valid="model.generate(...) with input_ids, or a call of the whole text",
        )
    return [row[columns].tolist() for row, columns in zip(ids.cpu(), real, strict=True)]
