"""The contract that every runtime keeps, and the values that cross it. It must not know any runtime."""

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import inf, ulp
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from steer_tools.core.conditions import Reading
from steer_tools.core.plan import Plan, decided
from steer_tools.core.positions import POOLINGS, attention_sinks, without
from steer_tools.core.site import Site
from steer_tools.engines.pooling import Activations, AnyPooling, Read, TokenizedPrompt
from steer_tools.errors import ArgumentError, LayerError, UnsupportedFeatureError, quoted
from steer_tools.prompts import Prompt

Completion: TypeAlias = str | Sequence[int]


@dataclass(frozen=True)
class ModelInfo:
    """The model that an engine holds.

    Attributes:
        name: What it was loaded from.
        family: The config's model type; a vector fits one family only.
        fingerprint: Of the checkpoint that holds the weights; changes with them.
        hidden_size: Width of the residual stream.
        dtype: For instance "bfloat16".
        device: For instance "cuda:0"; of the first parameter, where there are several.
        context_length: The most tokens of prompt and text together; None for no limit.
        idle_layers: Blocks that do not run on text alone, as those that look at an image; they cannot be steered.
        language: Name of the closed language that is all the model speaks; None for open text.
        template_options: What the chat template is always given.
        other_fingerprints: By which files may know the same weights that were made earlier, or on a copy.
        warnings: What its user should know of how it was loaded.
    """

    name: str
    family: str
    fingerprint: str
    layers: int
    hidden_size: int
    dtype: str
    device: str
    engine: str
    has_chat_template: bool
    context_length: int | None
    idle_layers: tuple[int, ...] = ()
    language: str | None = None
    template_options: Mapping[str, object] = field(default_factory=dict[str, object])
    other_fingerprints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def has_weights_of(self, fingerprint: str) -> bool:
        """Return whether a fingerprint is one of these weights."""
        return fingerprint in (self.fingerprint, *self.other_fingerprints)

    @property
    def steerable_layers(self) -> list[int]:
        """The blocks that can be read and steered, in order."""
        return [layer for layer in range(self.layers) if layer not in self.idle_layers]


@dataclass(frozen=True)
class Row:
    """One prompt with its own plan, which replaces what is applied, and its own random numbers."""

    prompt: Prompt
    plan: Plan = ()
    seed: int = 0


def row_seed(seed: int, prompt: Prompt) -> int:
    """Return the seed of a prompt's row: the same at any place in a batch, and another for another prompt."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt!r}".encode()).digest()[:8], "little") >> 1


@dataclass(frozen=True)
class Sampling:
    """How new tokens are chosen, the same for all rows of a call.

    Attributes:
        max_new_tokens: The most new tokens; fewer where a row ends by itself.
        temperature: 0 is greedy; above 0 each row samples with its own seed.
        top_p: Keep the most likely tokens up to this probability.
        top_k: Keep this many tokens; 0 keeps all.
        beams: Above 1, beam search; greedy only.
        use_cache: Whether keys and values are kept between steps.
        repetition_penalty: Before all else, the logits of the tokens in a row's prompt and text so far are divided by
            it where they are positive, and multiplied where negative (Keskar et al. 2019, arXiv 1909.05858); 1 is none.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    beams: int = 1
    use_cache: bool = True
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, kind, least, most in (
            ("max_new_tokens", int, 1, inf),
            ("temperature", float, 0, sys.float_info.max),
            ("top_p", float, ulp(0), 1),  # Any number above 0.
            ("top_k", int, 0, inf),
            ("beams", int, 1, inf),
            ("repetition_penalty", float, ulp(0), sys.float_info.max),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | kind) or not least <= value <= most:
                raise ArgumentError(
                    f"{name} is {quoted(value)}",
                    valid="max_new_tokens >= 1, temperature >= 0 (0 is greedy), 0 < top_p <= 1, top_k >= 0, beams >= 1"
                    ", repetition_penalty > 0 (1 is none)",
                )
        if self.beams > 1 and self.temperature > 0:
            raise UnsupportedFeatureError(
                "Sampled beams mix the random numbers of several continuations, so a row would depend on its batch",
                valid="beams with temperature=0, or sampling with beams=1",
            )


@dataclass(frozen=True)
class Generation:
    """What one row produced.

    Attributes:
        prompt_tokens: The ids that the model saw.
        tokens: The new ids, without the one that ended the text.
        log_probs: (tokens,) float32, log-probability of each new token under the model as it was steered.
        ended: Whether the row ended by itself within max_new_tokens.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    log_probs: Tensor
    ended: bool


@dataclass(frozen=True, eq=False)
class CompletionReading:
    """What an unsteered pass over one completion showed.

    Attributes:
        log_probs: (tokens,) float32, log-probability of each token.
        means: By layer, (width,) float32, the mean of what the block puts out at those of the completion's tokens that
            are no attention sinks there.
    """

    log_probs: Tensor
    means: Mapping[int, Tensor]


@dataclass(frozen=True)
class CompletionGradients:
    """What one completion's log-probability is, and how it changes with what is at each site.

    Attributes:
        log_prob: Of the whole completion, in nats.
        by_site: (tokens, width) float32, its derivative at each token of the prompt and of the completion but the last.
    """

    log_prob: float
    by_site: dict[Site, Tensor]


@dataclass(frozen=True)
class ObservedEdit:
    """One forward pass of one row at one site: `before` and `after` are (tokens, width) in the model's dtype."""

    site: Site
    start: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Observation:
    """A greedy generation of one prompt under what is applied, with what was at each edited site.

    Attributes:
        plan: What acted on this prompt, its conditions decided.
        edits: In the order of the passes.
        first_position: That of the first prompt token after BOS.
        after_user: That after the last user message; NOWHERE where the plan does not ask for it.
        firings: How often each site was edited.
    """

    generation: Generation
    plan: Plan
    edits: tuple[ObservedEdit, ...]
    first_position: int
    after_user: int
    firings: dict[Site, int]


@dataclass(frozen=True)
class Unembedding:
    """What makes logits of the residual stream.

    Attributes:
        scale: (width,) float32, by which the final norm multiplies.
        centers: Whether that norm takes away the mean over the width.
        matrix: (vocabulary, width) float32, the output matrix.
    """

    scale: Tensor
    centers: bool
    matrix: Tensor


class Engine(Protocol):
    """A model that can be read and steered row by row: the core that every runtime has; see `facets` for the rest.

    All that take rows or prompts run the plans of their own rows (none, where they take prompts), never what is
    applied; whatever they raise, what is applied stays applied.
    """

    info: ModelInfo
    neutral_prompts: tuple[Prompt, ...]

    def resolve_layer(self, layer: object) -> int:
        """Return a layer counted from 0, or raise `LayerError`."""
        ...

    def read(self, prompts: Sequence[Prompt], sites: Sequence[Site], pooling: AnyPooling) -> Activations:
        """Return the mean over the pooled tokens of each prompt, at each site.

        The means of `mean` and `response` are over those of their tokens that are no attention sinks, or over all where
        no other is there.
        """
        ...

    def sinks(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return (tokens,) bool of each prompt: which of its tokens are attention sinks."""
        ...

    def trace(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> list[dict[Site, Tensor]]:
        """Return each prompt's activations at each site, (tokens, width) float32 on the CPU."""
        ...

    def width(self, site: Site) -> int:
        """Return the size of the last dimension of what is at a site, or raise what its reading would."""
        ...

    def decided(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with what acts on each: their conditions answered, each on its own prompt."""
        ...

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the tokens that the model is given for `prompt`."""
        ...

    def goes_round_template(self, prompt: Prompt) -> bool:
        """Return whether a prompt is a text that the model's chat template was not written into."""
        ...

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return each token as text: white space as it stands, and a part of a character as its bytes."""
        ...

    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Generation]:
        """Continue each row under its own plan."""
        ...

    def keeping(self) -> AbstractContextManager[None]:
        """Keep what unsteered prompts left behind from one call of this thread to the next, until the block ends."""
        ...

    def score(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return the log-probability of each token of row i's completion i, (tokens,) float32 on the CPU."""
        ...

    def read_completions(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], layers: Sequence[int]
    ) -> list[CompletionReading]:
        """Return the scores of completions and what layers put out at their tokens, of one unsteered pass over each."""
        ...

    def distributions(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return the log-probabilities of each row's next token, (vocabulary,) float32 on the CPU."""
        ...

    def divergences(self, rows: Sequence[Row], completions: Sequence[Completion]) -> list[Tensor]:
        """Return KL(p‖q) before each token of row i's completion i, (tokens,) float32 on the CPU, in nats.

        p is the unsteered next-token distribution after the same tokens, q the row's.
        """
        ...

    def unembedding(self) -> Unembedding:
        """Return the final norm and the output matrix, on the CPU."""
        ...

    def detach(self) -> None:
        """Give the model back exactly as it was taken."""
        ...


def counted_layer(layer: object, count: int) -> int:
    """Return the layer of `count` blocks counted from 0; negative layers count from the end.

    Raises:
        LayerError: There is no such block.
    """
    if isinstance(layer, bool) or not isinstance(layer, int) or not -count <= layer < count:
        raise LayerError(
            f"layer is {quoted(layer)}, and the model has {count} decoder blocks",
            valid=f"0 to {count - 1}, or -{count} to -1 counted from the end",
        )
    return layer % count


def distinct(texts: Sequence[str], tokens: Sequence[int]) -> tuple[str, ...]:
    """Return the texts of different tokens, with <id> behind those that several of them have."""
    counts = Counter(texts)
    return tuple(f"{text} <{token}>" if counts[text] > 1 else text for text, token in zip(texts, tokens, strict=True))


def mean_at_text(states: Tensor) -> Tensor:
    """Return the mean (width,) float32 of the states (tokens, width) of some text, without those of attention sinks."""
    states = states.float()
    sinks = attention_sinks(states.norm(dim=-1)[None], [False] * len(states))
    return states[without(torch.ones(len(states), dtype=torch.bool), sinks)].mean(dim=0)


def text_behind_first(engine: Engine, prompts: Sequence[Prompt], sinks: Sequence[Tensor]) -> list[Tensor]:
    """Return (tokens,) bool of each prompt: false at its first token, special ones and other attention sinks, whose
    activations lie elsewhere."""
    special = [torch.tensor(engine.tokenize(prompt).special) for prompt in prompts]
    behind = [torch.arange(len(own)) > 0 for own in special]
    return [after & ~own & ~others for after, own, others in zip(behind, special, sinks, strict=True)]


def unsteered_log_probs(engine: Engine, rows: Sequence[Row], generations: Sequence[Generation]) -> list[Tensor]:
    """Return the log-probability of each token of what rows produced, (tokens,) each, under the unsteered model.

    It is scored where no unsteered row has produced the same.
    """
    texts = [(row.prompt, generation.tokens) for row, generation in zip(rows, generations, strict=True)]
    known = {
        text: generation.log_probs
        for text, row, generation in zip(texts, rows, generations, strict=True)
        if not row.plan or not generation.tokens
    }
    others = [text for text in dict.fromkeys(texts) if text not in known]
    scores = engine.score([Row(prompt) for prompt, _ in others], [tokens for _, tokens in others])
    known |= dict(zip(others, scores, strict=True))
    return [known[text] for text in texts]


def rows_decided(rows: Sequence[Row], read: Read) -> list[Row]:
    """Return the rows with their conditions answered, each on its own prompt; `read` reads with nothing applied."""
    waiting = [row for row in rows if any(p.condition is not None for p in row.plan)]
    if not waiting:
        return [*rows]
    conditions = {p.condition for row in waiting for p in row.plan if p.condition is not None}
    readings = {reading for condition in conditions for reading in condition.readings}
    prompts = list(dict.fromkeys(row.prompt for row in waiting))
    activations: dict[Reading, Tensor] = {}
    for pooling in POOLINGS:
        sites = [reading.site for reading in readings if reading.pooling == pooling]
        if sites:
            by_site = read(prompts, sites, pooling)
            activations |= {Reading(site, pooling): values for site, values in by_site.items()}
    holding = {
        (condition, prompt)
        for condition in conditions
        for prompt, holds in zip(prompts, condition.holds(activations).tolist(), strict=True)
        if holds
    }
    return [
        replace(row, plan=decided(row.plan, lambda condition, prompt=row.prompt: (condition, prompt) in holding))
        for row in rows
    ]
