"""The hooks that stay on a Hugging Face model while it is attached, and what they do for the call at hand.

A hook follows this thread's own run, or else what is applied, so that setting the applied plan aside is a swap of
one pointer and nothing is ever unhooked in between. It must not know tools, prompts or tokenizers.
"""

import inspect
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import BatchGeometry
from steer_tools.core.site import Site
from steer_tools.engines.facets import Watched
from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.block_parts import in_this_thread
from steer_tools.engines.huggingface.frames import caller_of_block, caller_outside, is_running
from steer_tools.engines.huggingface.hooked_generate import GuardedContinuousBatching, NotingGenerate
from steer_tools.engines.huggingface.module_hooks import ModuleHooks, passing_hooks
from steer_tools.engines.huggingface.pass_geometry import (
    CACHES,
    ArgumentNames,
    Callers,
    GenerateCall,
    Layout,
    Pass,
    TokenMarks,
    geometry_of,
    place_pass,
    rows_of,
)
from steer_tools.engines.huggingface.resumption import Resumption, make_passable, make_whole
from steer_tools.engines.huggingface.site_taps import Hook, Taps
from steer_tools.engines.huggingface.stand_ins import StandIn
from steer_tools.engines.site_edits import SiteEdits
from steer_tools.errors import UnsupportedCallError, UnsupportedFeatureError

Capture = Callable[[Tensor], Tensor | None]


class StopForward(Exception):  # noqa: N818  # It ends a pass whose needed blocks have run; it is no error.
    """Raised by a hook and caught by the engine, never seen by a caller."""


@dataclass
class Run:
    """What the hooks do for one call: edits and captures by site.

    Attributes:
        layout: The batch, where the engine made it; None for calls that others make.
        captures: Called with what is at the site, (rows, tokens, width), after its edits; what one returns takes its
            place.
        stop_after: The layer after which the pass is ended.
        resumption: The layer behind which it begins, and what is there.
        decide: For edits that wait for a condition: the ids of each row's prompt → the run that these rows get.
        waited: The run that waited, where this is what was decided.
        plan: What it was compiled from, of what is applied.
    """

    edits: Mapping[Site, SiteEdits] = field(default_factory=dict)
    layout: Layout | None = None
    captures: Mapping[Site, Capture] = field(default_factory=dict)
    stop_after: int | None = None
    resumption: Resumption | None = None
    decide: "Callable[[Sequence[Sequence[int]]], Run] | None" = None
    waited: "Run | None" = None
    plan: Plan = ()

    @property
    def is_steered(self) -> bool:
        """Whether it may edit anything."""
        return bool(self.edits) or self.decide is not None


def compile_plans(plans: Sequence[Plan]) -> dict[Site, SiteEdits]:
    """Compile one plan a row into edits by site; the engine has checked the sites and decided all conditions."""
    sites: dict[Site, list[list[Placement]]] = {}
    for row, plan in enumerate(plans):
        for placement in plan:
            assert placement.condition is None
            sites.setdefault(placement.site, [[] for _ in plans])[row].append(placement)
    return {site: SiteEdits(by_row) for site, by_row in sites.items()}


@dataclass
class _Calls:
    """What a thread is doing on the model; `place` and `geometry` are those of the pass that is under way, and `stream`
    is a shape that was found to be theirs.

    With `is_aside` it follows nothing, not even a run; `watchers` look into its calls. When `owner` leaves it, or ends
    without that, `outer` holds again.
    """

    run: Run | None = None
    is_aside: bool = False
    generation: GenerateCall | None = None
    callers: Callers = field(default_factory=Callers)
    watchers: set[object] = field(default_factory=set[object])
    entered_run: Run | None = None
    place: Pass | None = None
    geometry: BatchGeometry | None = None
    stream: torch.Size | None = None
    owner: FrameType | None = None
    outer: "_Calls | None" = None


@dataclass(eq=False)
class _Look:
    """One hook at a site; of two, the first of which was put on by a call that an interrupt ended, one acts."""

    acts: bool = True


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.calls = _Calls()


class SteeringHooks:
    """Puts the hooks on a model, and takes them off without a trace."""

    def __init__(self, architecture: Architecture, taps: Taps, marks: TokenMarks) -> None:
        self._architecture, self._taps, self._marks = architecture, taps, marks
        self._per_thread = _PerThread()
        self.ambient: Run | None = None  # What every call of the model outside a run follows.
        self._reached: set[Site] = set()
        self._looks: dict[Site, _Look] = {}
        # What rows got that waited, by the `generate` that they belong to, or the cache that a plain call left.
        self._decisions: WeakKeyDictionary[Any, tuple[Run, Run]] = WeakKeyDictionary()
        self._hooks = ModuleHooks()
        self._stand_ins: list[StandIn] = []

    def put_on(self) -> None:
        """Hook the model; `detach` takes off what is on, also where this was interrupted."""
        self.reach(Site(layer) for layer in range(len(self._architecture.blocks)))
        for module in self._architecture.callables:
            entering = self._enter(ArgumentNames.of(module), is_decoder=module is self._architecture.callables[-1])
            enter, leave = (Hook(call, self._refuse_pickling) for call in (entering, self._leave))
            self._hooks.before(module, enter, with_kwargs=True)
            self._hooks.behind(module, leave, always_call=True)
            if hasattr(module, "generate"):
                # A block alone cannot tell an uncached step from a prompt, so `generate` notes the prompt's columns.
                self._stand_ins.append(NotingGenerate(self.generating, self._is_followed_here, module))
            # Adapters hand the call on to the model that they hold.
            if hasattr(type(module), GuardedContinuousBatching.method):
                self._stand_ins.append(GuardedContinuousBatching(self._is_followed_here, module))

    def reach(self, sites: Iterable[Site]) -> None:
        """Hook the sites that have no hook yet; none comes off before `detach`."""
        for site in sites:
            if site not in self._reached:
                if site in self._looks:
                    self._looks[site].acts = False
                self._looks[site] = look = _Look()
                # Before others, such as those by which transformers records hidden states: all see the edited stream.
                see = self._see(site, look)
                self._taps.at(site).put(see, self._hooks, prepend=True, refuse_pickling=self._refuse_pickling)
                self._reached.add(site)

    @contextmanager
    def running(self, run: Run) -> Generator[Run]:
        """Let this thread's calls follow `run` instead of what is applied."""
        with self._doing(caller_of_block(), run=run):
            yield run

    @contextmanager
    def aside(self) -> Generator[None]:
        """Let this thread's calls go as if these hooks were not there; other threads follow what is applied."""
        with self._doing(caller_of_block(), is_aside=True):
            yield

    @contextmanager
    def _doing(self, owner: FrameType | None, **changes: Any) -> Generator[None]:
        """Let this thread do something else until the block ends, or, where an interrupt has hit that, its owner."""
        outer = self._under_way()
        inner = replace(outer, callers=Callers(), entered_run=None, place=None, geometry=None, **changes)
        inner.owner, inner.outer = owner, outer
        try:
            self._per_thread.calls = inner
            yield
        finally:
            # Nothing but this ends: what else has begun, or was ended by nobody, is seen to by itself.
            calls = self._per_thread.calls
            if calls is inner:
                self._per_thread.calls = outer
            while calls.outer is not None:
                if calls.outer is inner:
                    calls.outer = outer
                calls = calls.outer or outer

    @property
    def _thread(self) -> _Calls:
        return self._per_thread.calls

    def _under_way(self) -> _Calls:
        """Return what this thread is doing, without what an interrupt has ended where no `finally` could say so."""
        calls = self._per_thread.calls
        if calls.callers.are_running():
            return calls
        while calls.outer is not None and calls.owner is not None and not is_running(calls.owner):
            calls = calls.outer
        self._per_thread.calls = calls
        if calls.callers.forget_left():
            calls.place, calls.geometry = None, None
        return calls

    @property
    def _followed(self) -> Run | None:
        """What a call by this thread would follow now."""
        return None if self._thread.is_aside else self._thread.run or self.ambient

    def _steers_here(self) -> bool:
        """Return whether a call by this thread would follow something that may edit."""
        run = self._followed
        return run is not None and run.is_steered

    def _is_followed_here(self) -> bool:
        """Return whether a call by this thread would be edited or is looked into, so that its tokens must be known."""
        return self._steers_here() or bool(self._thread.watchers)

    def are_live(self) -> bool:
        """Return whether all hooks are still on the model."""
        return self._hooks.are_on() and all(stand_in.is_in_place for stand_in in self._stand_ins)

    def detach(self) -> None:
        """Take every hook off and give the model its methods back."""
        self.ambient = None
        self._hooks.take_off()
        for stand_in in self._stand_ins:
            stand_in.give_back()
        make_whole(self._architecture.blocks, self._resumed)

    def make_passable(self) -> bool:
        """Let runs begin behind a block, and return whether they can; blocks are their own again after `detach`."""
        return make_passable(self._architecture.blocks, self._resumed)

    def _resumed(self) -> Resumption | None:
        run = self._thread.entered_run
        return None if run is None else run.resumption

    def _refuse_pickling(self) -> None:
        if self._steers_here():
            raise UnsupportedFeatureError(
                "A steered model cannot be pickled (pickle, torch.save of the whole model): what is applied is no part "
                "of it, and the copy would be unsteered without a word",
                valid="pickling while nothing is applied; save_pretrained and state_dict, which hold weights alone",
                fix="Call remove_all_steering_vectors() first, or keep the steering in the weights with "
                "save_edited_model.",
            )

    def _see(self, site: Site, look: _Look) -> Callable[[Tensor], Tensor | None]:
        per_thread, ends_block = self._per_thread, site.component == "residual"

        # This runs at every block of every pass, beside additions that take a few microseconds.
        def see(hidden: Tensor) -> Tensor | None:
            thread = per_thread.calls
            # A pass keeps the run that it entered with, whatever other threads apply meanwhile.
            run = thread.entered_run if thread.callers.arguments else self._followed
            if run is None or not look.acts:
                return None
            edits = run.edits.get(site)
            capture = run.captures.get(site) if run.captures else None
            edited = None
            if edits is not None or capture is not None:
                # Some parts of a block run over the tokens of all rows in one line.
                # The probe also meets blocks that put out no tensor.
                is_in_line = getattr(hidden, "ndim", None) == 2
                place = thread.place
                in_rows = hidden.unflatten(0, (place.rows, place.tokens)) if is_in_line and place else hidden
                if edits is not None:
                    geometry = thread.geometry
                    if geometry is None or thread.stream != in_rows.shape:
                        geometry = self._geometry_at(site, run, in_rows)
                    edited = edits(in_rows, geometry)
                if capture is not None:
                    replaced = capture(in_rows if edited is None else edited)
                    edited = edited if replaced is None else replaced
                if edited is not None and is_in_line:
                    edited = edited.view_as(hidden)
            if ends_block and site.layer == run.stop_after:
                raise StopForward
            return edited

        return see

    def _geometry_at(self, site: Site, run: Run, hidden: Tensor) -> BatchGeometry:
        """Return where the tokens at a site stand, or refuse what is there."""
        geometry = self._geometry(run)
        if geometry is None:
            raise UnsupportedCallError(
                f"Decoder block {site.layer} was called by itself while a vector is applied, so the positions of its "
                "tokens are not known",
                valid="calls to the whole model",
                fix="Call remove_all_steering_vectors() first, or call the model.",
            )
        if hidden.shape[:2] == geometry.positions.shape:
            self._per_thread.calls.stream = hidden.shape
            return geometry
        kept = self._per_thread.calls.callers.find("logits_to_keep")
        if isinstance(kept, int) and hidden.shape[1] == kept and len(hidden) == len(geometry.positions):
            # Where the last blocks share the keys of earlier ones, only the tokens whose logits are wanted go on.
            return geometry.last(kept)
        raise UnsupportedCallError(
            f"At {site} there is the shape {tuple(hidden.shape)} for a batch of {tuple(geometry.positions.shape)} "
            "tokens",
            valid="(rows, tokens, width)",
        )

    def _geometry(self, run: Run) -> BatchGeometry | None:
        """Return where the tokens of this thread's pass stand; all layers of a pass share it."""
        thread = self._per_thread.calls
        if thread.geometry is None and thread.place is not None:
            thread.geometry = geometry_of(thread.place, run.layout, thread.generation, self._marks, thread.callers)
        return thread.geometry

    def _enter(self, names: ArgumentNames, *, is_decoder: bool) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            thread = self._under_way()
            if not thread.callers.arguments or module in thread.callers.arguments:
                thread.entered_run = self._followed
            thread.callers.enter(module, names.given(args, kwargs), caller_outside())
            run, call = thread.entered_run, thread.generation
            if is_decoder and (run is not None or call is not None or thread.watchers):
                is_steered = run is not None and run.is_steered
                thread.place = place_pass(thread.callers, call, is_steered=is_steered)
                thread.geometry = thread.stream = None
                if run is not None and run.decide is not None:
                    thread.entered_run = self._decided(run, run.decide)

        return enter

    def _decided(self, run: Run, decide: Callable[[Sequence[Sequence[int]]], Run]) -> Run:
        """Return what the rows of this pass get, decided once, by passes of their own from inside the waiting one."""
        waiting = self._thread
        place, geometry, call, callers = waiting.place, self._geometry(run), waiting.generation, waiting.callers
        if place is None or geometry is None:
            return Run()
        # A new text in an old cache is a new prompt.
        key = call if call is not None else callers.find(*CACHES) if place.start > 0 else None
        waited, found = self._decisions.get(key, (None, None)) if _can_be_kept(key) else (None, None)
        if found is None or waited is not run:
            prompts = _prompts_of(place, geometry, call, callers)
            with self._doing(inspect.currentframe(), run=None, is_aside=False, generation=None, watchers=set()):
                found = replace(decide(prompts), waited=run)
            if call is not None:
                self._decisions[call] = run, found
        return found

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        thread = self._thread
        thread.callers.leave(module)
        entered = thread.entered_run
        if not thread.callers.arguments and thread.generation is None and entered is not None and entered.waited:
            # For the tokens to come after a plain call.
            cache = next((kept for name in CACHES if (kept := getattr(output, name, None)) is not None), None)
            if _can_be_kept(cache):
                self._decisions[cache] = entered.waited, entered
        thread.place, thread.geometry = None, None

    @contextmanager
    def generating(self, call: GenerateCall) -> Generator[None]:
        """Take this thread's passes for those of one `generate` until the block ends."""
        with self._doing(caller_of_block(), generation=call):
            yield

    @contextmanager
    def witnessing(self, sites: Iterable[Site], record: Callable[[Site, Tensor, Tensor], None]) -> Generator[None]:
        """Call `record(site, before, after)` for what is at each site around our own hook, in this thread's calls."""
        before: dict[Site, Tensor] = {}

        def see_before(site: Site, hidden: Tensor) -> None:
            before[site] = hidden.detach().clone()

        def see_after(site: Site, hidden: Tensor) -> None:
            record(site, before[site], hidden.detach().clone())

        with passing_hooks() as hooks:
            for site in sites:
                tap = self._taps.at(site)
                tap.put(in_this_thread(see_before, site), hooks, prepend=True)
                tap.put(in_this_thread(see_after, site), hooks, prepend=False)
            yield

    @contextmanager
    def watching(self, sites: Sequence[Site], see: Callable[[Watched], None]) -> Generator[None]:
        """Show `see` what is at each site behind all other hooks, in this thread's calls that are no run of ours."""

        def note(site: Site, hidden: Tensor) -> None:
            thread = self._thread
            place = thread.place
            if thread.run is not None or thread.is_aside or place is None or not thread.watchers:
                return
            in_rows = hidden.unflatten(0, (place.rows, place.tokens)) if hidden.ndim == 2 else hidden
            # A copy: some models go on with it in place.
            see(Watched(site, in_rows.detach().clone(), place.columns - in_rows.shape[1], thread.generation))

        with passing_hooks() as hooks:
            for site in sites:
                self._taps.at(site).put(in_this_thread(note, site), hooks, prepend=False)
            watchers, watcher = self._under_way().watchers, object()
            try:
                watchers.add(watcher)
                yield
            finally:
                watchers.discard(watcher)


def _can_be_kept(key: Any) -> bool:
    """Whether it is an object of its own, which tuples of tensors are not."""
    return hasattr(key, "__weakref__")


def _prompts_of(place: Pass, geometry: BatchGeometry, call: GenerateCall | None, callers: Callers) -> list[list[int]]:
    """Return the ids of each row's prompt, without padding; the rows of a plain call are all prompt."""
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
