"""Where a site is in a Hugging Face model: the module, whether its input or its output, and one head's columns.

A site comes in, a tap on the model leaves. It must not know plans or rows.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

from torch import Tensor, nn

from steer_tools.core.site import Site
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.block_parts import BlockParts, Sublayer, hidden_of
from steer_tools.engines.huggingface.module_hooks import ModuleHooks
from steer_tools.errors import ArgumentError, LayerError, UnsupportedFeatureError

See = Callable[[Tensor], Tensor | None]


class Hook(partial[Any]):
    """A hook that stays on a module: a deep copy of the model has the same one, a pickle one that does nothing.

    `refuse_pickling` is called before. What a pickle has instead is of Python's own library, so that it can be read
    without this package. A partial, since torch then calls what the hook does at once.
    """

    _refuse_pickling: Callable[[], None]

    def __new__(cls, call: Callable[..., Any], refuse_pickling: Callable[[], None]) -> Self:
        """Take what the hook does."""
        hook = super().__new__(cls, call)
        hook._refuse_pickling = refuse_pickling
        return hook

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self._refuse_pickling()
        return getattr, (nullcontext(), "__exit__")  # It takes any arguments.


@dataclass(frozen=True)
class Tap:
    """One site of one model; what is there has the shape (rows, tokens, width), or (rows · tokens, width) in places.

    Attributes:
        module: The module that gives or takes it.
        is_input: Whether it is what the module takes.
        width: The size of its last dimension.
        columns: One head's share of what the module takes.
    """

    module: nn.Module
    is_input: bool
    width: int
    columns: slice | None = None

    def put(
        self, see: See, hooks: ModuleHooks, *, prepend: bool, refuse_pickling: Callable[[], None] = lambda: None
    ) -> None:
        """Hook the module: `see` is shown what is there, and what it returns, unless None, takes its place."""
        if not self.is_input:

            def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                if isinstance(output, Tensor):
                    return see(output)
                edited = see(hidden_of(output))
                return None if edited is None else type(output)((edited, *output[1:]))

            hooks.behind(self.module, Hook(on_output, refuse_pickling), prepend=prepend)
            return
        columns = self.columns

        def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = None if args else next(key for key, value in kwargs.items() if isinstance(value, Tensor))
            hidden = cast(Tensor, args[0] if name is None else kwargs[name])
            edited = see(hidden if columns is None else hidden[..., columns])
            if edited is None:
                return None
            if columns is not None:
                whole = hidden.clone()
                whole[..., columns] = edited
                edited = whole
            return ((edited, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: edited})

        hooks.before(self.module, Hook(on_input, refuse_pickling), with_kwargs=True, prepend=prepend)


class Taps:
    """Finds the tap of each site; `find_parts` looks at what the blocks hold, at the first site that needs it."""

    def __init__(self, architecture: Architecture, find_parts: Callable[[], tuple[BlockParts, ...]]) -> None:
        self._architecture, self._find_parts = architecture, find_parts
        self._found: dict[Site, Tap] = {}

    def at(self, site: Site) -> Tap:
        """Return the tap of `site`.

        Raises:
            LayerError: The site is an embedding of another layer than 0.
            ArgumentError: The attention lacks the head.
            UnsupportedFeatureError: The block has no such part, or none that could be told.
        """
        if site not in self._found:
            self._found[site] = self._find(site)
        return self._found[site]

    def _find(self, site: Site) -> Tap:
        layer, width = site.layer, self._architecture.hidden_size
        block = self._architecture.blocks[layer]
        match site.component:
            case "residual":
                return Tap(block, is_input=False, width=width)
            case "embedding":
                if layer != 0:
                    raise LayerError(
                        f"The embedding has no layer {layer}", valid="0: it is what the first block is given"
                    )
                return Tap(block, is_input=True, width=width)
            case "attention":
                part = self._only_part(site, self._find_parts()[layer].mixers)
                return Tap(part.writer, is_input=False, width=width) if site.head is None else self._head(site, part)
            case "mlp":
                return Tap(self._only_part(site, self._find_parts()[layer].mlps).writer, is_input=False, width=width)

    def _only_part(self, site: Site, parts: tuple[Sublayer, ...]) -> Sublayer:
        """Return the block's one part of that kind, if no other block shares it."""
        block = type(self._architecture.blocks[site.layer]).__name__
        problem = f"{len(parts)} parts of {block} write to the stream as {site.component}"
        if not parts:
            problem = f"What {block} adds to the residual stream could not be told apart"
        if len(parts) == 1:
            holders = sum(parts[0].writer in set(other.modules()) for other in self._architecture.blocks)
            if holders == 1:
                return parts[0]
            problem = f"{holders} blocks share what writes to the stream as {site.component}"
        raise UnsupportedFeatureError(f"There is no {site}: {problem}", valid="component 'residual' of this layer")

    def _head(self, site: Site, part: Sublayer) -> Tap:
        """Return one head's columns of what the output projection of an attention takes."""
        if part.heads is None:
            raise UnsupportedFeatureError(
                f"There is no {site}: {type(part.module).__name__} does not have its heads side by side",
                valid="component 'attention' without a head",
            )
        if site.head is None or not 0 <= site.head < part.heads:
            raise ArgumentError(f"head is {site.head}", valid=f"0 to {part.heads - 1} at layer {site.layer}")
        width = part.input_width // part.heads
        return Tap(part.projection, True, width, slice(site.head * width, (site.head + 1) * width))
