"""The hooks that stay on a Hugging Face model while it is attached, and what they do for the call at hand.

A hook follows this thread's own run, or else what is applied, so that setting the applied plan aside is a swap of
one pointer and nothing is ever unhooked in between. It must not know tools, prompts or tokenizers.
"""

import inspect
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from steer_tools.architecture import Architecture
from steer_tools.engines.edits import SiteEdits
from steer_tools.errors import UnsupportedCallError
from steer_tools.plan import Placement, Plan
from steer_tools.positions import BatchGeometry

Capture = Callable[[Tensor], None]


class StopForward(Exception):  # noqa: N818  # It ends a pass whose needed blocks have run; it is no error.
    """Raised by a hook and caught by the engine, never seen by a caller."""


@dataclass(frozen=True)
class Layout:
    """What a run knows of its own batch before the model is called; tensors on the CPU.

    Attributes:
        real: (rows, columns) bool, false at padding; columns beyond are generated, hence real.
        prompt_lengths: (rows,) real prompt tokens.
        first: (rows,) position of the first prompt token that is neither padding nor BOS.
    """

    real: Tensor
    prompt_lengths: Tensor
    first: Tensor | None


@dataclass
class Run:
    """What the hooks do for one call: edits and captures by layer.

    Attributes:
        edits: Compiled edits by layer.
        layout: The batch, where the engine made it; None for calls that others make.
        captures: Called with the block's output after its edits.
        stop_after: The layer after which the pass is ended.
        firings: How often each layer was edited.
    """

    edits: Mapping[int, SiteEdits] = field(default_factory=dict)
    layout: Layout | None = None
    captures: Mapping[int, Capture] = field(default_factory=dict)
    stop_after: int | None = None
    firings: dict[int, int] = field(default_factory=dict)


def compile_plans(plans: Sequence[Plan]) -> dict[int, SiteEdits]:
    """Compile one plan a row into edits by layer; all sites are residual ones, which the engine has checked."""
    layers: dict[int, list[list[Placement]]] = {}
    for row, plan in enumerate(plans):
        for placement in plan:
            by_row = layers.setdefault(placement.site.layer, [[] for _ in plans])
            by_row[row].append(placement)
    return {layer: SiteEdits(by_row) for layer, by_row in layers.items()}


class _ThreadState(threading.local):
    """What this thread is doing on the model."""

    run: Run | None = None
    geometry: BatchGeometry | None = None
    generation: "_GenerateCall | None" = None


@dataclass
class _GenerateCall:
    """A `model.generate` under way: how many columns its prompt has, and the mask of those columns once seen."""

    prompt_columns: int | None
    mask: Tensor | None
    first: Tensor | None = None


class SteeringHooks:
    """Puts the hooks on a model, and takes them off without a trace."""

    def __init__(self, architecture: Architecture, bos_token: int | None) -> None:
        self._architecture = architecture
        self._bos_token = bos_token
        self._thread = _ThreadState()
        self._ambient: Run | None = None
        self._signature = inspect.signature(architecture.decoder.forward)
        self._handles = [
            architecture.decoder.register_forward_pre_hook(self._enter_decoder(), with_kwargs=True),
            architecture.decoder.register_forward_hook(self._leave_decoder(), always_call=True),
            *(b.register_forward_hook(self._leave_block(layer)) for layer, b in enumerate(architecture.blocks)),
        ]
        self._hooked = [architecture.decoder, *architecture.blocks]
        # A block alone cannot tell an uncached step from a prompt, so `generate` notes the prompt's columns.
        self._own_generate = architecture.model.__dict__.get("generate")
        self._generate = _NotingGenerate(self, architecture.model, cast(Any, architecture.model).generate)
        architecture.model.__dict__["generate"] = self._generate

    def set_ambient(self, plan: Plan) -> None:
        """Make every call of the model outside a run follow `plan`."""
        self._ambient = Run(compile_plans([plan])) if plan else None

    @contextmanager
    def running(self, run: Run) -> Generator[Run]:
        """Let this thread's calls follow `run` instead of what is applied."""
        before, self._thread.run = self._thread.run, run
        try:
            yield run
        finally:
            self._thread.run = before

    @contextmanager
    def counting_ambient(self) -> Generator[Run]:
        """Let this thread's calls follow what is applied, with counters of their own."""
        with self.running(Run(self._ambient.edits if self._ambient else {})) as run:
            yield run

    def are_live(self) -> bool:
        """Return whether all hooks are still on the model."""
        own = {handle.id for handle in self._handles}
        present: set[int] = set()
        for module in self._hooked:
            present |= set(module._forward_hooks) | set(module._forward_pre_hooks)  # pyright: ignore[reportPrivateUsage]  # torch has no public way to list hooks
        return own <= present and self._architecture.model.__dict__.get("generate") is self._generate

    def detach(self) -> None:
        """Take every hook off and give `generate` back."""
        self._ambient = None
        for handle in self._handles:
            handle.remove()
        if self._architecture.model.__dict__.get("generate") is self._generate:
            del self._architecture.model.__dict__["generate"]
            if self._own_generate is not None:
                self._architecture.model.__dict__["generate"] = self._own_generate

    # The hooks are functions, not bound methods, so that a deep copy of the model does not copy this object.

    def _leave_block(self, layer: int) -> Callable[..., Any]:
        def leave_block(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            run = self._thread.run or self._ambient
            if run is None or (layer not in run.edits and layer not in run.captures and layer != run.stop_after):
                return None
            hidden = _hidden_of(output)
            edited = self._edit(run, layer, hidden) if layer in run.edits else None
            if layer in run.captures:
                run.captures[layer](hidden if edited is None else edited)
            if layer == run.stop_after:
                raise StopForward
            if edited is None:
                return None
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return leave_block

    def _edit(self, run: Run, layer: int, hidden: Tensor) -> Tensor | None:
        geometry = self._thread.geometry
        if geometry is None:
            raise UnsupportedCallError(
                f"Decoder block {layer} was called by itself while a vector is applied, so the positions of its tokens "
                "are not known",
                valid="calls to the whole model",
                fix="Call remove_all_steering_vectors() first, or call the model.",
            )
        if hidden.shape[:2] != (*geometry.positions.shape,):
            raise UnsupportedCallError(
                f"Decoder block {layer} put out the shape {tuple(hidden.shape)} for a batch of "
                f"{tuple(geometry.positions.shape)} tokens",
                valid="(rows, tokens, width)",
            )
        edited = run.edits[layer](hidden, geometry)
        if edited is not None:
            run.firings[layer] = run.firings.get(layer, 0) + 1
        return edited

    def _enter_decoder(self) -> Callable[..., None]:
        def enter_decoder(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            run = self._thread.run or self._ambient
            if run is not None and run.edits:
                arguments = self._signature.bind_partial(*args, **kwargs).arguments
                self._thread.geometry = self._geometry({**arguments, **arguments.get("kwargs", {})}, run.layout)

        return enter_decoder

    def _leave_decoder(self) -> Callable[..., None]:
        def leave_decoder(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._thread.geometry = None

        return leave_decoder

    def _geometry(self, arguments: Mapping[str, Any], layout: Layout | None) -> BatchGeometry:
        """Tell where the tokens of this pass stand, from the call's arguments or the run's own layout."""
        ids: Tensor | None = arguments.get("input_ids")
        tokens = ids if ids is not None else cast(Tensor, arguments["inputs_embeds"])
        rows, width = tokens.shape[:2]
        past = _cached_length(arguments.get("past_key_values"))
        if arguments.get("cu_seq_lens_q") is not None:
            raise UnsupportedCallError(
                "The model was called with several sequences packed into one row", valid="one sequence a row, padded"
            )
        if layout is None:
            layout = self._foreign_layout(arguments, ids, past, rows, past + width)
        real = _extended(layout.real, past + width)[:, : past + width]
        copies, rest = divmod(rows, len(real))
        if rest:
            raise UnsupportedCallError(
                f"The steered model was called with {rows} rows inside a call for {len(real)}",
                valid="a multiple of the prompts, as beams and several return sequences make",
            )
        lengths, first = layout.prompt_lengths, layout.first
        if copies > 1:
            real, lengths = real.repeat_interleave(copies, 0), lengths.repeat_interleave(copies)
            first = None if first is None else first.repeat_interleave(copies)
        return BatchGeometry.from_columns(real, past, lengths, first)

    def _foreign_layout(
        self, arguments: Mapping[str, Any], ids: Tensor | None, past: int, rows: int, columns: int
    ) -> Layout:
        """Read the layout of a call that somebody else makes: `model.generate(...)` or a plain `model(...)`."""
        call = self._thread.generation
        if call is None:
            mask = self._mask_of(arguments.get("attention_mask"), rows, past, columns)
            return Layout(mask, mask.sum(dim=1), self._first(ids, mask, past))
        if call.mask is None:
            # Padding is on the left, so columns that this pass does not show yet are real.
            seen = self._mask_of(arguments.get("attention_mask"), rows, past, columns)
            call.mask = _extended(seen, call.prompt_columns or columns)[:, : call.prompt_columns]
        if call.first is None:
            call.first = self._first(ids, call.mask, past)
        return Layout(call.mask, call.mask.sum(dim=1), call.first)

    def _first(self, ids: Tensor | None, real: Tensor, past: int) -> Tensor | None:
        """Return the position of the first prompt token after BOS; 0 for rows that do not start with BOS."""
        if self._bos_token is None or past > 1:
            return torch.zeros(len(real), dtype=torch.long)  # With two tokens cached, the first is not in this pass.
        if ids is None or past > 0:
            return None
        start = real.long().argmax(dim=1)
        one_each = ids.cpu()[:: len(ids) // len(real)]
        return (one_each[torch.arange(len(real)), start] == self._bos_token).long()

    @staticmethod
    def _mask_of(attention_mask: Any, rows: int, past: int, columns: int) -> Tensor:
        if attention_mask is None:
            return torch.ones(rows, columns, dtype=torch.bool)
        if isinstance(attention_mask, Tensor) and attention_mask.shape == (rows, columns):
            return attention_mask.bool().cpu()
        shape = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise UnsupportedCallError(
            f"The steered model was called with an attention mask of {shape} for {rows} rows and {columns} columns "
            f"({past} of them cached), which does not say which tokens are padding",
            valid="no mask, or one of shape (rows, all columns)",
            fix="Pass the 2-D attention_mask to model.generate, or use the generate tool.",
        )

    @contextmanager
    def noting_generation(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Generator[None]:
        """Note how many columns the prompt of a `model.generate(*args, **kwargs)` has, while it runs."""
        if self._ambient is not None and self._thread.run is None:
            _refuse_other_passes(kwargs)
        before = self._thread.generation
        self._thread.generation = _noted_call(args, kwargs)
        try:
            yield
        finally:
            self._thread.generation = before

    @contextmanager
    def witnessing(self, record: Callable[[int, Tensor, Tensor], None]) -> Generator[None]:
        """Call `record(layer, before, after)` for each block's output around our own hook, for the whole model."""
        before: dict[int, Tensor] = {}
        handles: list[Any] = []

        def watch(layer: int, block: nn.Module) -> None:
            def see_before(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                before[layer] = _hidden_of(output).detach().clone()

            def see_after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                record(layer, before[layer], _hidden_of(output).detach().clone())

            handles.append(block.register_forward_hook(see_before, prepend=True))
            handles.append(block.register_forward_hook(see_after))

        try:
            for layer, block in enumerate(self._architecture.blocks):
                watch(layer, block)
            yield
        finally:
            for handle in handles:
                handle.remove()


class _NotingGenerate:
    """The `generate` that a hooked model has; a deep copy of the model gets one that calls the copy."""

    def __init__(self, hooks: SteeringHooks, model: nn.Module, original: Callable[..., Any]) -> None:
        self._hooks, self._model, self._original = hooks, model, original
        self.__doc__ = original.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._hooks.noting_generation(args, kwargs):
            return self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_NotingGenerate":
        copied = memo[id(self._model)]
        return _NotingGenerate(self._hooks, copied, type(copied).generate.__get__(copied))


def _hidden_of(output: Any) -> Tensor:
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def _extended(real: Tensor, columns: int) -> Tensor:
    """Return a mask of at least `columns` columns; those that are added are generated tokens, hence real."""
    missing = max(0, columns - real.shape[1])
    return torch.cat([real, torch.ones(len(real), missing, dtype=torch.bool)], dim=1)


def _noted_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _GenerateCall:
    inputs = (
        args[0]
        if args
        else next(
            (kwargs[key] for key in ("inputs", "input_ids", "inputs_embeds") if kwargs.get(key) is not None), None
        )
    )
    mask = kwargs.get("attention_mask")
    columns = inputs.shape[1] if isinstance(inputs, Tensor) else None
    return _GenerateCall(columns, mask.bool().cpu() if isinstance(mask, Tensor) and mask.dim() == 2 else None)


def _refuse_other_passes(kwargs: Mapping[str, Any]) -> None:
    """Refuse what runs the model on other tokens than the rows' own inside one `generate`."""
    config = kwargs.get("generation_config")
    for name in ("assistant_model", "prompt_lookup_num_tokens", "guidance_scale"):
        if kwargs.get(name) is not None or getattr(config, name, None) is not None:
            raise UnsupportedCallError(
                f"model.generate was called with {name}, which is not supported for a steered model",
                valid="generate without it",
                fix="Leave it out, or remove the vectors.",
            )


def _cached_length(cache: Any) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    raise UnsupportedCallError(f"The cache {type(cache).__name__} does not say how many tokens it holds")
