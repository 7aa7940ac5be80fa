"""Which tokens a placement touches: batch geometry and a scope → a mask.

Positions are absolute: they count a row's real tokens from 0, so that padding, the KV cache and beams change
nothing. Pure and shared by every engine; it must not know hooks, or how a model is called.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from steer_tools.errors import ArgumentError, quoted

# Which tokens of a prompt are read where one activation stands for it.
Pooling: TypeAlias = Literal["last", "first", "mean", "response"]
POOLINGS: tuple[Pooling, ...] = ("last", "first", "mean", "response")
# Of the median token's length: SmolLM2's first tokens have 35 to 180, and up to 10 at layers where nothing else has 8.
_SINK = 5.0
NAMED_POSITIONS = ("generated", "prompt", "all", "last_prompt", "first", "after_user")
# A place that no row reaches, for rows of a batch that have no user message.
NOWHERE = 2**62
_ALIASES = {"last": "generated"}
# Nine digits are more than any context has, and fit into the integers of a tensor.
_SLICE = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?")

VALID_POSITIONS = (
    "'generated' (the last prompt token and every new one), 'prompt', 'all', 'last_prompt', 'first', 'after_user' (all "
    "after a chat's last user message), a Python slice of the prompt's tokens such as '0:4' or '-3:', or several of "
    "these joined by commas"
)


@dataclass(frozen=True)
class PromptSlice:
    """Tokens start:stop of the prompt, as Python slices: negative numbers count from the prompt's end."""

    start: int | None
    stop: int | None

    @property
    def is_empty(self) -> bool:
        """Whether it takes no token of any prompt; one whose bounds count from two ends may take some."""
        start, stop = self.start or 0, self.stop
        return stop == 0 or (stop is not None and (start < 0) == (stop < 0) and stop <= start)

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"


Term: TypeAlias = str | PromptSlice


@dataclass(frozen=True)
class Scope:
    """A union of named positions and prompt slices."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: object) -> "Scope":
        """Read a scope from its text.

        Raises:
            ArgumentError: A part of it is none of VALID_POSITIONS, or a slice that is always empty.
        """
        if isinstance(text, Scope):
            return text
        parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else []
        terms = [term for part in parts if (term := _parse_term(part)) is not None]
        if not terms or len(terms) < len(parts):
            raise ArgumentError(f"positions is {quoted(text)}", valid=VALID_POSITIONS)
        if nothing := next((term for term in terms if isinstance(term, PromptSlice) and term.is_empty), None):
            raise ArgumentError(
                f"positions is {quoted(text)}, and the slice '{nothing}' takes no token of any prompt",
                valid=VALID_POSITIONS,
                fix="A slice ends before its second number: '3:5' takes the tokens 3 and 4, counted from 0.",
            )
        return cls(tuple(dict.fromkeys(terms)))

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))

    @property
    def takes_new_tokens(self) -> bool:
        """Whether it takes every token that is generated."""
        return not {"generated", "all", "after_user"}.isdisjoint(self.terms)

    @property
    def takes_last_token(self) -> bool:
        """Whether it takes the last token of every prompt, and so some token of each."""
        return not {"generated", "prompt", "all", "last_prompt"}.isdisjoint(self.terms)

    @property
    def spares_prompt(self) -> bool:
        """Whether it takes no token of a prompt before the last one."""
        return {"generated", "last_prompt"}.issuperset(self.terms)

    @property
    def needs_chat(self) -> bool:
        """Whether it counts from a user message, which only chats have."""
        return "after_user" in self.terms


GENERATED = Scope(("generated",))


@dataclass(frozen=True, eq=False)
class BatchGeometry:
    """Where the tokens of one forward pass stand in their rows; all tensors on the CPU.

    Attributes:
        positions: (rows, tokens) int64, absolute position of each token, -1 for padding.
        prompt_lengths: (rows,) int64, number of real tokens that are prompt.
        first: (rows,) int64, position of the first prompt token that is neither padding nor BOS; None where the
            caller cannot know it.
        after_user: (rows,) int64, position of the first token after the last user message, NOWHERE in a row without
            one; None where it cannot be known.
        notes: What was worked out from the masks, so that each thing is worked out once a pass, and not once a layer.
    """

    positions: Tensor
    prompt_lengths: Tensor
    first: Tensor | None = None
    after_user: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict[str, Any], init=False, repr=False)
    _masks: dict[Scope, Tensor] = field(default_factory=dict[Scope, Tensor], init=False, repr=False)

    def last(self, tokens: int) -> "BatchGeometry":
        """Return the geometry of the last `tokens` of each row."""
        return self if tokens == self.positions.shape[1] else replace(self, positions=self.positions[:, -tokens:])

    def mask(self, scope: Scope) -> Tensor:
        """Return the (rows, tokens) bool mask of `scope`; padding is never in it."""
        # Every layer of a pass asks for the same few masks.
        if scope not in self._masks:
            selected = torch.stack([self._term(term) for term in scope.terms]).any(dim=0)
            self._masks[scope] = selected & (self.positions >= 0)
        return self._masks[scope]

    def _term(self, term: Term) -> Tensor:
        length = self.prompt_lengths[:, None]
        match term:
            case PromptSlice(start, stop):
                end = length if stop is None else _bound(stop, length)
                return (self.positions >= _bound(start or 0, length)) & (self.positions < end)
            case "generated":
                return self.positions >= length - 1
            case "prompt":
                return self.positions < length
            case "all":
                return torch.ones_like(self.positions, dtype=torch.bool)
            case "last_prompt":
                return self.positions == length - 1
            case "first":
                if self.first is None:
                    raise ArgumentError(
                        "positions is 'first', but this call gives the model embeddings instead of token ids, so the "
                        "place of BOS is not known",
                        valid=VALID_POSITIONS,
                        fix="Use '0:1' or call the model with input_ids.",
                    )
                return (self.positions == self.first[:, None]) & (self.positions < length)
            case "after_user":
                if self.after_user is None:
                    raise ArgumentError(
                        "positions is 'after_user', but the start of an answer, as the tokenizer's chat template puts "
                        "it, was not found in the tokens of this call",
                        valid="chats, rendered with their generation prompt",
                        fix="Use 'generated', or give the prompts as chat messages.",
                    )
                return self.positions >= self.after_user[:, None]
            case _:
                raise AssertionError(f"unparsed position {term!r}")


def attention_sinks(norms: Tensor, is_special: Sequence[bool]) -> Tensor:
    """Return (tokens,) bool: which tokens of one prompt are attention sinks, whose stream is many times longer than the
    median text token's at some block (massive activations; Sun et al. 2024, arXiv 2402.17762).

    `norms` are (layers, tokens), the length of the stream after each block. A token is a sink at all layers or at none,
    so that what is read at different layers is read at the same tokens. Nothing but the prompt itself counts.
    """
    is_text = ~torch.tensor(is_special)
    typical = (norms[:, is_text] if is_text.any() else norms).median(dim=1, keepdim=True).values
    return (norms > _SINK * typical).any(dim=0)


def without(tokens: Tensor, sinks: Tensor) -> Tensor:
    """Return the tokens (tokens,) bool that are no sinks, or all of them where nothing else is left."""
    kept = tokens & ~sinks
    return kept if kept.any() else tokens


def positions_of(real: Tensor, start: int) -> Tensor:
    """Return the positions in columns `start` onward, for `real` (rows, columns), true where a column is no padding."""
    return (real.long().cumsum(dim=1) - 1).masked_fill(~real, -1)[:, start:]


def _parse_term(text: str) -> Term | None:
    text = _ALIASES.get(text, text)
    if text in NAMED_POSITIONS:
        return text
    if match := _SLICE.fullmatch(text):
        return PromptSlice(*(None if group is None else int(group) for group in match.groups()))
    return None


def _bound(value: int, length: Tensor) -> Tensor:
    if value < 0:
        return length + value
    return torch.minimum(torch.full_like(length, value), length)
