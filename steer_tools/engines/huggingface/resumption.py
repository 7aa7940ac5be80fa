"""Passes that begin behind a block: those before it are passed by, and what it puts out is given.

Rows that differ only from a block on share what comes before it. It must not know plans or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from steer_tools.engines.huggingface.stand_ins import StandIn


@dataclass(frozen=True)
class Resumption:
    """The layer behind which a pass begins, and what that layer puts out, (rows, tokens, width)."""

    layer: int
    hidden: Tensor


class PassableBlock(StandIn):
    """The `forward` of a block that a pass may go by; `resumed` says from where this thread's pass goes on."""

    method: ClassVar[str] = "forward"

    def __init__(
        self,
        layer: int,
        resumed: Callable[[], Resumption | None],
        model: nn.Module,
        original: Callable[..., Any] | None = None,
    ) -> None:
        self._layer, self.resumed = layer, resumed
        # How many values it puts out behind the hidden states; None where it puts out nothing else, and no tuple.
        self._others: int | None = None
        super().__init__(model, original)

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, or give what it would put out: what it is given, before the layer that is known."""
        resumption = self.resumed()
        if resumption is None or self._layer > resumption.layer:
            output = self._original(*args, **kwargs)
            self._others = len(output) - 1 if isinstance(output, tuple) else None
            return output
        if self._layer == resumption.layer:
            hidden = resumption.hidden
        else:
            hidden = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
        return hidden if self._others is None else (hidden, *[None] * self._others)

    @override
    def _for(self, model: nn.Module, original: Callable[..., Any]) -> PassableBlock:
        return PassableBlock(self._layer, self.resumed, model, original)


def make_passable(blocks: Sequence[nn.Module], resumed: Callable[[], Resumption | None]) -> bool:
    """Let passes go by blocks, and return whether they can; where something else stands in, they cannot."""
    theirs = [vars(block).get(PassableBlock.method) for block in blocks]
    if any(not (own is None or (isinstance(own, PassableBlock) and own.resumed == resumed)) for own in theirs):
        return False
    for layer, (block, own) in enumerate(zip(blocks, theirs, strict=True)):
        if own is None:
            PassableBlock(layer, resumed, block)
    return True


def make_whole(blocks: Sequence[nn.Module], resumed: Callable[[], Resumption | None]) -> None:
    """Give blocks their own `forward` back, also where an interrupt has ended `make_passable`."""
    for block in blocks:
        own = vars(block).get(PassableBlock.method)
        if isinstance(own, PassableBlock) and own.resumed == resumed:
            own.give_back()
