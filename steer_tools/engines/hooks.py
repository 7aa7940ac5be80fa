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

from torch import Tensor, nn

from steer_tools.architecture import Architecture, refuse_unsteerable_state
from steer_tools.engines.calls import Callers, GenerateCall, noted_call, refuse_other_passes, refuse_right_padding
from steer_tools.engines.edits import SiteEdits
from steer_tools.engines.layout import Layout, TokenMarks
from steer_tools.engines.passes import Pass, geometry_of, place_pass
from steer_tools.errors import UnsupportedCallError
from steer_tools.plan import Placement, Plan
from steer_tools.positions import BatchGeometry

Capture = Callable[[Tensor], None]


class StopForward(Exception):  # noqa: N818  # It ends a pass whose needed blocks have run; it is no error.
    """Raised by a hook and caught by the engine, never seen by a caller."""


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
    """What this thread is doing on the model; `place` and `geometry` are those of the pass that is under way."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.generation: GenerateCall | None = None
        self.callers = Callers()
        self.entered_run: Run | None = None
        self.place: Pass | None = None
        self.geometry: BatchGeometry | None = None


class SteeringHooks:
    """Puts the hooks on a model, and takes them off without a trace."""

    def __init__(self, architecture: Architecture, marks: TokenMarks) -> None:
        self._architecture = architecture
        self._marks = marks
        self._thread = _ThreadState()
        self._ambient: Run | None = None
        self._handles = [
            # Before others, such as those by which transformers records hidden states: all see the edited stream.
            b.register_forward_hook(self._leave_block(layer), prepend=True)
            for layer, b in enumerate(architecture.blocks)
        ]
        for module in architecture.callables:
            entering = self._enter(inspect.signature(module.forward), is_decoder=module is architecture.decoder)
            self._handles.append(module.register_forward_pre_hook(entering, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave(), always_call=True))
        # A block alone cannot tell an uncached step from a prompt, so `generate` notes the prompt's columns.
        self._generates = [_NotingGenerate(self, m) for m in architecture.callables if hasattr(m, "generate")]

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

    def steers_here(self) -> bool:
        """Return whether a call by this thread would be edited."""
        run = self._thread.run or self._ambient
        return run is not None and bool(run.edits)

    def are_live(self) -> bool:
        """Return whether all hooks are still on the model."""
        present = {hook_id for hooks in self._hook_tables() for hook_id in hooks}
        own = {handle.id for handle in self._handles}
        return own <= present and all(generate.is_in_place for generate in self._generates)

    def detach(self) -> None:
        """Take every hook off and give `generate` back."""
        self._ambient = None
        for handle in self._handles:
            handle.remove()
        for generate in self._generates:
            generate.give_back()

    def _hook_tables(self) -> list[dict[int, Any]]:
        """Return torch's own tables of the hooks on the modules that we hook, which it has no public name for."""
        modules = [*self._architecture.callables, *self._architecture.blocks]
        return [
            cast(dict[int, Any], vars(m)[name]) for m in modules for name in ("_forward_hooks", "_forward_pre_hooks")
        ]

    # The hooks are functions, not bound methods, so that a deep copy of the model does not copy this object.

    def _leave_block(self, layer: int) -> Callable[..., Any]:
        def leave_block(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            # A pass keeps the run that it entered with, whatever other threads apply meanwhile.
            thread = self._thread
            run = thread.entered_run if thread.callers.arguments else thread.run or self._ambient
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
            return edited if isinstance(output, Tensor) else type(output)((edited, *output[1:]))

        return leave_block

    def _edit(self, run: Run, layer: int, hidden: Tensor) -> Tensor | None:
        geometry = self._geometry(run)
        kept = self._thread.callers.find("logits_to_keep")
        if geometry is not None and isinstance(kept, int) and hidden.shape[1] == kept:
            # Where the last blocks share the keys of earlier ones, only the tokens whose logits are wanted go on.
            geometry = geometry.last(hidden.shape[1])
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

    def _geometry(self, run: Run) -> BatchGeometry | None:
        """Return where the tokens of this thread's pass stand; all layers of a pass share it."""
        thread = self._thread
        if thread.geometry is None and thread.place is not None:
            thread.geometry = geometry_of(thread.place, run.layout, thread.generation, self._marks, thread.callers)
        return thread.geometry

    def _enter(self, signature: inspect.Signature, *, is_decoder: bool) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            thread = self._thread
            if not thread.callers.arguments or module in thread.callers.modules:
                thread.entered_run = thread.run or self._ambient
            arguments = signature.bind_partial(*args, **kwargs).arguments
            thread.callers.enter(module, {**arguments, **arguments.get("kwargs", {})})
            is_steered = thread.entered_run is not None and thread.entered_run.edits
            if is_decoder and (is_steered or thread.generation is not None):
                call = thread.generation
                thread.place, thread.geometry = place_pass(thread.callers, call, is_steered=bool(is_steered)), None

        return enter

    def _leave(self) -> Callable[..., None]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            thread = self._thread
            thread.callers.leave(module)
            thread.place, thread.geometry = None, None

        return leave

    @contextmanager
    def generating(self, call: GenerateCall) -> Generator[None]:
        """Take this thread's passes for those of one `generate` until the block ends."""
        before, self._thread.generation = self._thread.generation, call
        try:
            yield
        finally:
            self._thread.generation = before

    @contextmanager
    def witnessing(self, record: Callable[[int, Tensor, Tensor], None]) -> Generator[None]:
        """Call `record(layer, before, after)` for each block's output around our own hook, in this thread's calls."""
        before: dict[int, Tensor] = {}
        own_thread = threading.get_ident()
        handles: list[Any] = []

        def watch(layer: int, block: nn.Module) -> None:
            def see_before(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                if threading.get_ident() == own_thread:
                    before[layer] = _hidden_of(output).detach().clone()

            def see_after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                if threading.get_ident() == own_thread:
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

    def __init__(self, hooks: SteeringHooks, model: nn.Module, original: Callable[..., Any] | None = None) -> None:
        self._hooks, self._model = hooks, model
        self._own = vars(model).get("generate")
        self._original = original or cast(Callable[..., Any], model.generate)
        self.__doc__ = self._original.__doc__
        vars(model)["generate"] = self

    @property
    def is_in_place(self) -> bool:
        """Whether the model's `generate` is this."""
        return vars(self._model).get("generate") is self

    def give_back(self) -> None:
        """Let the model have the `generate` that it had."""
        if self.is_in_place:
            del vars(self._model)["generate"]
            if self._own is not None:
                vars(self._model)["generate"] = self._own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = noted_call(args, kwargs)
        with self._hooks.generating(call):
            if self._hooks.steers_here():
                refuse_unsteerable_state(self._model)
                refuse_right_padding(call)
                refuse_other_passes(args, kwargs, getattr(self._model, "generation_config", None))
                # A forward that `generate` compiled before our hooks came ignores them.
                kwargs["disable_compile"] = True
            return self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_NotingGenerate":
        copied = memo[id(self._model)]
        return _NotingGenerate(self._hooks, copied, type(copied).generate.__get__(copied))


def _hidden_of(output: Any) -> Tensor:
    """Return the stream in what a block puts out: the tensor itself, or the first of a plain tuple or list."""
    return cast(Tensor, output[0] if type(output) in (tuple, list) else output)
