"""Prompts and plans → the unsteered and each steered text or next token, from one batch, with what needs no judge.

It must not know what tools return.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine, Generation, Row, Sampling, distinct, row_seed, unsteered_log_probs
from steer_tools.errors import ArgumentError, StrengthError, quoted
from steer_tools.evaluation.metrics import changed_share, distinct_2, perplexity
from steer_tools.limits import ROWS, STRENGTHS
from steer_tools.prompts import Prompt, TextPrompt, TokenPrompt
from steer_tools.session.edit_lengths import applied_warnings, length_warnings
from steer_tools.session.placement import Layers, PlacementOptions, place, require_finite
from steer_tools.session.proofs import badge
from steer_tools.session.session import Session


@dataclass(frozen=True)
class TextScores:
    """Scores of one variant's texts over all prompts; None where there is no text to score.

    Attributes:
        changed: Share of tokens that differ from the baseline's.
        perplexity: Of the text under the unsteered model.
        distinct_2: Distinct share of adjacent token pairs.
    """

    changed: float | None
    perplexity: float | None
    distinct_2: float | None


@dataclass(frozen=True)
class Side:
    """The baseline's or one variant's texts, one a prompt, new tokens only."""

    generations: tuple[Generation, ...]
    scores: TextScores


def compare(
    engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan], sampling: Sampling, seed: int
) -> tuple[Side, ...]:
    """Generate every prompt without a plan and under each of `plans`, as rows of one batch; the baseline is first.

    All rows of a prompt share their random numbers. What is applied takes no part.
    """
    every: list[Plan] = [(), *plans]
    ROWS.require(len(every) * len(prompts), "The comparison has", fix="Give fewer prompts or strengths at once.")
    rows = [Row(prompt, plan, row_seed(seed, prompt)) for plan in every for prompt in prompts]
    generations = engine.generate(rows, sampling)
    log_probs = [own.tolist() for own in unsteered_log_probs(engine, rows, generations)]
    count = len(prompts)
    reference = [generation.tokens for generation in generations[:count]]
    sides: list[Side] = []
    for start in range(0, len(rows), count):
        own = generations[start : start + count]
        tokens = [generation.tokens for generation in own]
        surprise = perplexity([of_text for of_text in log_probs[start : start + count] if of_text])
        scored = TextScores(changed_share(tokens, reference), surprise, distinct_2(tokens))
        sides.append(Side(tuple(own), scored))
    return tuple(sides)


class Tried(NamedTuple):
    """One plan to compare, with its strength where it is one vector's, and what its certificate says of just that."""

    strength: float | None
    plan: Plan
    badge: str | None


@dataclass(frozen=True)
class NextTokens:
    """What may come next after one prompt; the first column is the unsteered model's, then one a plan.

    Attributes:
        tokens: The ids of the likeliest tokens of any column and of those asked for, the likeliest first.
        probabilities: Of each by its text, told apart from those of the others.
        divergences: KL(unsteered to steered) in nats, one a plan.
    """

    tokens: tuple[int, ...]
    probabilities: dict[str, tuple[float, ...]]
    divergences: tuple[float, ...]


def next_tokens(
    engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan], top: int, asked: Sequence[int] = ()
) -> tuple[NextTokens, ...]:
    """Read the next token's distribution of every prompt without a plan and under each of `plans`, in one batch.

    The tokens `asked` for are told of, too, however unlikely they are.
    """
    every: list[Plan] = [(), *plans]
    found = torch.stack(engine.distributions([Row(prompt, plan) for prompt in prompts for plan in every]))
    return tuple(_next_tokens(engine, own, top, asked) for own in found.reshape(len(prompts), len(every), -1))


def asked_tokens(engine: Engine, tokens: object) -> tuple[list[int], list[str]]:
    """Return the ids of tokens that are given as text or as ids, and warnings of those that have another text.

    Raises:
        ArgumentError: One is neither, or its text is several tokens.
        PromptError: An id is not in the vocabulary, or a text not in a closed language.
    """
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise ArgumentError(f"tokens is {quoted(tokens)}", valid="a list of texts of one token each, or ids")
    ids: list[int] = []
    warnings: list[str] = []
    for token in cast(Sequence[object], tokens):
        if isinstance(token, str) and token:
            ids.append(_token_of(engine, token))
            (text,) = engine.texts(ids[-1:])
            if text != token:
                warnings.append(f"{token!r} is no token of its own here: {text!r} is shown for it.")
        elif isinstance(token, int) and not isinstance(token, bool) and token >= 0:
            ids.extend(engine.tokenize(TokenPrompt((token,))).tokens)
        else:
            raise ArgumentError(f"tokens has {quoted(token)}", valid="texts of one token each, or ids")
    return ids, warnings


def tried_plans(
    session: Session, vector_path: str | None, layer: Layers, strengths: object, options: PlacementOptions
) -> tuple[list[Tried], list[str]]:
    """Return the plans to compare: those of a vector at its strengths, or what is applied now; and warnings.

    Raises:
        ArgumentError: There is neither a vector nor anything applied, or it was said how no vector acts.
        StrengthError: A strength is no finite number.
    """
    if vector_path is None:
        if layer is not None or strengths is not None or options != PlacementOptions():
            raise ArgumentError(
                "How a vector acts was said without vector_path, and what is applied now acts in its own way",
                fix="Give vector_path as well, or leave out layer, strengths, unit, positions, intervention, "
                "target, condition and allow_other_model.",
            )
        return [_applied_now(session)], applied_warnings(session)
    values = None if strengths is None else _finite_strengths(strengths)
    placed = place(session, vector_path, layer, options)
    warnings = placed.told(is_strength_given=values is not None)
    tried = [(value, placed.plan(value)) for value in values or [placed.strength]]
    told = [*warnings, *length_warnings(session, tried)]
    return [Tried(value, plan, badge(session, placed.proof, plan)) for value, plan in tried], told


def _token_of(engine: Engine, text: str) -> int:
    """Return the token that a text is as it stands or, where it is none so, with another space before it.

    Raises:
        ArgumentError: It is several.
    """
    # Some tokenizers put a space before a text by themselves, but behind a line break they do not.
    ways = [engine.tokenize(TextPrompt(f"{before}{text}")) for before in ("", "\n", " ")]
    lasts = [
        one.tokens[-1]
        for one in ways
        if all(
            is_special or not piece.strip() for piece, is_special in zip(one.texts[:-1], one.special[:-1], strict=True)
        )
    ]
    written = dict(zip(engine.texts(lasts), lasts, strict=True))
    for accepted in (text, f" {text}", text.removeprefix(" ")):
        if accepted in written:
            return written[accepted]
    (whole, *_), first = ways, ways[0].first
    pieces = whole.texts[first:]
    raise ArgumentError(
        f"tokens has {quoted(text)}, which is no single token of this model but {', '.join(map(repr, pieces))}",
        valid="texts of one token each, or ids",
        fix=f"Give {whole.tokens[first]}, the id of {pieces[0]!r}, with which it begins.",
    )


def _next_tokens(engine: Engine, log_probs: Tensor, top: int, asked: Sequence[int]) -> NextTokens:
    """Return the tokens among the first `top` of any row of log_probs (plans + 1, vocabulary), and those asked for."""
    likeliest = log_probs.topk(min(top, log_probs.shape[1]), dim=1).indices.flatten()
    ids = torch.cat([likeliest, torch.tensor(asked, dtype=likeliest.dtype)]).unique()
    tokens: list[int] = ids[log_probs[:, ids].amax(dim=0).argsort(descending=True)].tolist()
    texts = distinct(engine.texts(tokens), tokens)
    divergences = (log_probs[0].exp() * (log_probs[0] - log_probs[1:])).sum(dim=1)
    return NextTokens(
        tuple(tokens),
        {text: tuple(own) for text, own in zip(texts, log_probs[:, tokens].exp().T.tolist(), strict=True)},
        tuple(divergences.clamp(min=0).tolist()),
    )


def acting(engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan]) -> list[int] | None:
    """Return on each prompt how many of the plans act; None where no condition is asked, so that all do."""
    if all(placement.condition is None for plan in plans for placement in plan):
        return None
    rows = engine.decided([Row(prompt, plan) for plan in plans for prompt in prompts])
    acts = [bool(row.plan) for row in rows]
    return [sum(acts[i :: len(prompts)]) for i in range(len(prompts))]


def _finite_strengths(strengths: object) -> list[float]:
    if isinstance(strengths, str) or not isinstance(strengths, Sequence) or not strengths:
        raise StrengthError(f"strengths is {quoted(strengths)}", valid="at least one finite number, such as [-1, 1]")
    STRENGTHS.require(len(strengths), "strengths has", StrengthError)
    return [require_finite(value, "a strength") for value in cast(Sequence[object], strengths)]


def _applied_now(session: Session) -> Tried:
    """Return what is applied, with its strength where it is one vector."""
    entries = session.registry.entries()
    if not entries:
        raise ArgumentError(
            "Nothing is applied and no vector_path was given, so there is nothing to compare",
            fix="Give vector_path, or call apply_steering_vector first.",
        )
    plan = session.registry.plan()
    if len(entries) == 1:
        return Tried(entries[0].strength, plan, badge(session, entries[0].proof, plan))
    return Tried(None, plan, "not verified: several vectors act together" if any(e.proof for e in entries) else None)
