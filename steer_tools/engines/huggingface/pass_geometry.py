"""Where the tokens of one pass of the text decoder stand: the calls that lead to it → a batch geometry.

The engine knows the layout of its own batches; for passes of others it is read from their arguments. It must not know
hooks or plans.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from steer_tools.core.positions import BatchGeometry, positions_of
from steer_tools.engines.huggingface.frames import is_running
from steer_tools.errors import UnsupportedCallError

# What models call what they keep between steps; most say past_key_values.
CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states", "cache")
# What a pass over text is given; other tensors, such as an image, say something that token ids do not.
_OF_TEXT = {
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "cache_position",
    "labels",
    "logits_to_keep",
    *CACHES,
}


@dataclass(frozen=True)
class TokenMarks:
    """Ids by which places in a prompt are told.

    Attributes:
        bos: What starts a text, if anything does.
        answer_start: What the chat template puts between the last user message and the answer; empty without one.
        user_start: What it puts between an answer and the next user message.
    """

    bos: int | None = None
    answer_start: tuple[int, ...] = ()
    user_start: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What is known of a batch before the model is called; tensors on the CPU.

    Attributes:
        real: (rows, columns) bool, false at padding; columns beyond are generated, hence real.
        prompt_lengths: (rows,) real prompt tokens.
        first: (rows,) position of the first prompt token that is neither padding nor BOS; None where it is not known.
        after_user: (rows,) position of the first token after the last user message; None where it is not known.
    """

    real: Tensor
    prompt_lengths: Tensor
    first: Tensor | None = None
    after_user: Tensor | None = None


@dataclass(eq=False)
class GenerateCall:
    """A `model.generate` under way.

    Attributes:
        columns: The columns of its prompt, if they are known yet.
        mask: (rows, columns) bool, once it is known.
        ids: (rows, columns) the prompt's token ids, where it has some.
        seen: The columns that its passes have shown so far.
        first: The columns that its first pass showed, once there was one.
        cache: What its first pass was given to keep keys and values in.
        layout: Of its prompt, once a pass has been placed.
        beyond: A layout, and where the tokens of the first pass beyond it stand.
    """

    columns: int | None = None
    mask: Tensor | None = None
    ids: Tensor | None = None
    seen: int = 0
    first: int | None = None
    cache: Any = None
    layout: Layout | None = None
    beyond: tuple[Layout, BatchGeometry] | None = None

    def owns(self, cache: Any, tokens: Tensor) -> bool:
        """Whether a pass is one of this generate's: with its cache, or without one over its whole text, grown."""
        if self.first is None:
            return True
        if cache is not None or self.cache is not None:
            return cache is self.cache or not hasattr(self.cache, "get_seq_length")
        if self.ids is None or tokens.is_floating_point() or tokens.shape[1] <= self.seen:
            return tokens.shape[1] > self.seen
        prompt = tokens[:, : self.ids.shape[1]]
        return torch.equal(prompt, self.ids.repeat_interleave(len(tokens) // len(self.ids), 0))


@dataclass(frozen=True)
class ArgumentNames:
    """What a module's `forward` calls its arguments, looked up once: a pass only puts names and values together.

    Attributes:
        by_place: Those that can be given without their names, in order.
        rest: What takes whatever more is given so.
    """

    by_place: tuple[str, ...]
    rest: str | None

    @classmethod
    def of(cls, module: nn.Module) -> "ArgumentNames":
        """Look at the module's signature."""
        parameters = inspect.signature(module.forward).parameters.values()
        by_place = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        return cls(by_place, next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None))

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a call is given, by name; a call that the module refuses itself is none of this."""
        if not args:
            return kwargs
        rest = {self.rest: args[len(self.by_place) :]} if self.rest and len(args) > len(self.by_place) else {}
        return {**dict(zip(self.by_place, args, strict=False)), **rest, **kwargs}


@dataclass
class Callers:
    """The calls that lead to a pass, the whole model's first and the text decoder's last, with their arguments."""

    arguments: dict[nn.Module, Mapping[str, Any]] = field(default_factory=dict)
    frames: dict[nn.Module, FrameType | None] = field(default_factory=dict)

    def enter(self, module: nn.Module, arguments: Mapping[str, Any], frame: FrameType | None) -> None:
        """Note a call of `module`, which lasts as long as `frame` runs, or else until it is entered again."""
        if module in self.arguments:
            self.arguments.clear()
            self.frames.clear()
        self.frames[module] = frame
        self.arguments[module] = arguments

    def are_running(self) -> bool:
        """Return whether the innermost call still runs, and with it whatever has led to it."""
        frame = next(reversed(self.frames.values()), None)
        return frame is not None and is_running(frame)

    def forget_left(self) -> bool:
        """Forget the calls that an interrupt ended, of which torch tells no hook, and return whether there were any."""
        left = [module for module, frame in self.frames.items() if frame is not None and not is_running(frame)]
        for module in left:
            self.leave(module)
        return bool(left)

    def leave(self, module: nn.Module) -> None:
        """Forget the call of `module`, and all inside it."""
        while module in self.arguments:
            self.frames.pop(self.arguments.popitem()[0], None)

    @property
    def outermost(self) -> Mapping[str, Any]:
        """What the whole model is given."""
        return next(iter(self.arguments.values()))

    def other_input(self) -> str | None:
        """Return the name of what the outermost call is given beside a text's tokens, if there is something."""
        given = self.outermost.items()
        return next((name for name, value in given if name not in _OF_TEXT and _holds_tensors(value)), None)

    def find(self, *names: str) -> Any:
        """Return the innermost of the given arguments that is not None."""
        for call in reversed(self.arguments.values()):
            for name in names:
                if (value := call.get(name)) is not None:
                    return value
        return None


@dataclass(frozen=True)
class Pass:
    """One pass through the text decoder: its rows and tokens, the columns before them, and its ids if it has some."""

    rows: int
    tokens: int
    start: int
    ids: Tensor | None

    @property
    def columns(self) -> int:
        """The columns up to the end of this pass."""
        return self.start + self.tokens


def place_pass(callers: Callers, call: GenerateCall | None, *, is_steered: bool = True) -> Pass | None:
    """Tell where a pass of the text decoder stands; `call` is the `model.generate` that it belongs to, if any.

    None where the calls have neither token ids nor embeddings.

    Raises:
        UnsupportedCallError: The cache does not count its tokens, and nothing else tells how many there are; or a
            steered pass inside a `generate` is over other tokens.
    """
    tokens = callers.find("input_ids", "inputs_embeds")
    if not isinstance(tokens, Tensor):
        return None
    rows, width = tokens.shape[:2]
    cache = callers.find(*CACHES)
    if call is not None and is_steered and not call.owns(cache, tokens):
        raise UnsupportedCallError(
            "The steered model was called on other tokens inside its own generate",
            valid="one text at a time",
            fix="Leave out what calls the model at each step, such as a logits processor.",
        )
    start = _start_of(cache, callers, rows, width, call)
    if call is not None:
        if call.first is None:
            call.first, call.cache = start + width, cache
        call.seen = start + width
    ids = callers.find("input_ids")
    return Pass(rows, width, start, ids if isinstance(ids, Tensor) and ids.shape[:2] == (rows, width) else None)


def geometry_of(
    place: Pass, known: Layout | None, call: GenerateCall | None, marks: TokenMarks, callers: Callers
) -> BatchGeometry:
    """Tell where the tokens of a pass stand in their rows.

    `known` is the layout of the engine's own batch; in a plain call, without it and `call`, all real tokens are prompt.

    No scope tells one new token from the next, so the passes of a `generate` that are beyond its prompt share the
    geometry of the first of them, and what is noted on it: a decode step works out nothing.

    Raises:
        UnsupportedCallError: The arguments do not say which tokens are padding, the rows do not fit the batch, or a row
            holds several sequences.
    """
    layout = known or (call.layout if call is not None else None)
    if call is not None and layout is not None and call.beyond is not None and place.start >= layout.real.shape[1]:
        of, geometry = call.beyond
        if of is layout and geometry.positions.shape == (place.rows, place.tokens):
            return geometry
    if callers.find("cu_seq_lens_q") is not None or _is_packed(place, callers):
        raise UnsupportedCallError(
            "The model was called with several sequences packed into one row", valid="one sequence a row, padded"
        )
    if layout is None and call is not None:
        layout = call.layout = _generate_layout(place, call, marks, callers)
    elif layout is None:
        mask = _required_mask(place, callers, is_left_padded=False)
        layout = _layout_of(mask, place.ids, place.start, marks)
    real = _extended(layout.real, place.columns)[:, : place.columns]
    copies, rest = divmod(place.rows, len(real))
    if rest:
        raise UnsupportedCallError(
            f"The steered model was called with {place.rows} rows inside a call for {len(real)}",
            valid="a multiple of the prompts, as beams and several return sequences make",
        )
    real, lengths = real.repeat_interleave(copies, 0), layout.prompt_lengths.repeat_interleave(copies)
    marked = (None if t is None else t.repeat_interleave(copies) for t in (layout.first, layout.after_user))
    geometry = BatchGeometry(positions_of(real, place.start), lengths, *marked)
    if call is not None and place.start >= layout.real.shape[1]:
        call.beyond = layout, geometry
    return geometry


def rows_of(ids: Tensor, rows: int) -> Tensor:
    """Return `rows` rows of ids: beams and return sequences repeat each, in the ids or in what tells of them."""
    return ids[torch.arange(rows, device=ids.device) * len(ids) // rows]


def _start_of(cache: Any, callers: Callers, rows: int, width: int, call: GenerateCall | None) -> int:
    """Return how many columns the cache holds: by its own count, by the mask, or by the passes of this generate."""
    if hasattr(cache, "get_seq_length"):
        with suppress(ValueError):  # Of a cache of recurrent layers only, as transformers puts it.
            return int(cache.get_seq_length())
    mask = _flat_mask(callers, rows)
    if mask is not None and mask.shape[1] > width:
        return mask.shape[1] - width
    if call is not None:
        # A pass over more columns than were seen is one over the whole text, without a cache.
        return call.seen if width <= call.seen else 0
    if cache is None:
        return 0
    raise UnsupportedCallError(
        f"The cache {type(cache).__name__} does not say how many tokens it holds",
        valid="a cache that counts its tokens, or an attention_mask over all columns, the cached ones included",
        fix="Pass attention_mask, or use model.generate.",
    )


def _is_packed(place: Pass, callers: Callers) -> bool:
    """Whether position ids start anew inside a row, by the rule of transformers: without a mask or a cache."""
    positions = callers.find("position_ids")
    if place.start > 0 or not isinstance(positions, Tensor) or positions.dim() != 2:
        return False
    return callers.find("attention_mask") is None and bool((positions.diff(dim=1) != 1).any())


def _extended(real: Tensor, columns: int) -> Tensor:
    """Return a mask of at least `columns` columns; those that are added are generated tokens, hence real."""
    missing = max(0, columns - real.shape[1])
    return torch.cat([real, torch.ones(len(real), missing, dtype=torch.bool)], dim=1)


def _layout_of(mask: Tensor, ids: Tensor | None, start: int, marks: TokenMarks) -> Layout:
    """Return the layout of a prompt of which `mask` (rows, columns) is known, and the ids from column `start` on."""
    if ids is not None:
        ids = rows_of(ids.cpu(), len(mask))
    return Layout(mask, mask.sum(dim=1), _first(ids, mask, start, marks.bos), _after_user(ids, mask, start, marks))


def _generate_layout(place: Pass, call: GenerateCall, marks: TokenMarks, callers: Callers) -> Layout:
    """Return the layout of the prompt of a `generate`, as its first pass shows it."""
    # Padding is on the left, so columns that this pass does not show yet are real.
    mask = call.mask if call.mask is not None else _required_mask(place, callers, is_left_padded=True)
    columns = max(call.columns or 0, call.first or place.columns)
    mask = _extended(mask, columns)[:, :columns]
    # The ids of the whole prompt say more than a pass that holds a chunk of them, or embeddings.
    whole = call.ids is not None and call.ids.shape[1] == columns
    return _layout_of(mask, call.ids if whole else place.ids, 0 if whole else place.start, marks)


def _required_mask(place: Pass, callers: Callers, *, is_left_padded: bool) -> Tensor:
    """Return the (rows, columns) bool mask of a pass, false at padding, on the CPU."""
    if callers.outermost.get("attention_mask") is None:
        return torch.ones(place.rows, place.columns, dtype=torch.bool)
    mask = _flat_mask(callers, place.rows)
    if is_left_padded:
        mask = _mask_seen_by_the_last(place, callers) if mask is None else mask
        mask = None if mask is None else mask[:, : place.columns]  # A static cache has columns for tokens to come.
    if mask is not None and mask.shape[1] == place.columns:
        return mask.bool().cpu()
    given = callers.find("attention_mask")
    shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
    raise UnsupportedCallError(
        f"The steered model was called with an attention mask of {shape} for {place.rows} rows and {place.columns} "
        f"columns ({place.start} of them cached), which does not say which tokens are padding",
        valid="no mask, or one of shape (rows, all columns)",
        fix="Pass the 2-D attention_mask to model.generate, or use the generate tool.",
    )


def _flat_mask(callers: Callers, rows: int) -> Tensor | None:
    """Return the innermost (rows, columns) mask; a decoder may get a prepared one whose rows and columns are mixed."""
    masks = (arguments.get("attention_mask") for arguments in reversed(callers.arguments.values()))
    return next((m for m in masks if isinstance(m, Tensor) and m.dim() == 2 and len(m) == rows), None)


def _mask_seen_by_the_last(place: Pass, callers: Callers) -> Tensor | None:
    """Read the padding of a left-padded prompt from a prepared mask: what its last token, which is real, attends to."""
    prepared = callers.find("attention_mask")
    if isinstance(prepared, Mapping):
        prepared = cast(Mapping[str, Any], prepared).get("full_attention", False)
        if prepared is None:  # Nothing is hidden beyond the causal order.
            return torch.ones(place.rows, place.columns, dtype=torch.bool)
    if not isinstance(prepared, Tensor) or prepared.dim() != 4 or len(prepared) != place.rows or place.start > 0:
        return None
    last = prepared[:, 0, -1, : place.columns]
    return last if last.dtype == torch.bool else last == 0


def _first(ids: Tensor | None, real: Tensor, start: int, bos: int | None) -> Tensor | None:
    """Return the position of the first prompt token after BOS; 0 for rows that do not start with BOS."""
    if bos is None or start > 1:
        return torch.zeros(len(real), dtype=torch.long)  # With two tokens cached, the first is not in this pass.
    if ids is None or start > 0:
        return None
    return (ids.gather(1, real.long().argmax(dim=1, keepdim=True)).squeeze(1) == bos).long()


def _after_user(ids: Tensor | None, real: Tensor, start: int, marks: TokenMarks) -> Tensor | None:
    """Return the position of the last place in each row where the chat template begins an answer; None if one lacks."""
    if ids is None or start > 0 or not marks.answer_start:
        return None
    column = _last(ids, marks.answer_start)
    if bool((column < 0).any()) or (marks.user_start and bool((column < _last(ids, marks.user_start)).any())):
        return None
    return column - (~real).sum(dim=1)


def _last(ids: Tensor, sought: Sequence[int]) -> Tensor:
    """Return the column where `sought` begins for the last time in each row; -1 where it does not."""
    if ids.shape[1] < len(sought):
        return torch.full((len(ids),), -1)
    found = (ids.unfold(1, len(sought), 1) == torch.tensor(sought)).all(dim=2)
    column = found.shape[1] - 1 - found.flip(1).long().argmax(dim=1)
    return torch.where(found.any(dim=1), column, -1)


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, cast(Mapping[Any, object], value).values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, cast(list[object], value)))
    return isinstance(value, Tensor)
