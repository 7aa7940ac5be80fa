"""What is applied and the live model → proofs that the steering does what it says, each with its figure.

Expected values are worked out here from the tokens alone, not by the code that is checked. It must not know hooks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest

import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import BatchGeometry
from steer_tools.engines.base import Engine, Generation, Observation, ObservedEdit, Row, Sampling
from steer_tools.engines.facets import Replay, require
from steer_tools.prompts import Prompt


@dataclass(frozen=True)
class Check:
    """One law, whether it holds, the figure that says so, and what the figure should be."""

    name: str
    passed: bool
    figure: float
    expected: str


@dataclass(frozen=True)
class Proof:
    """All checks, and why they may say little: `idle` is the reason if nothing was edited, else empty."""

    checks: tuple[Check, ...]
    idle: str


# Of a few samples of the noise; a token that is not edited as it should be moves logits by the edit's own effect.
_MOST_SPREADS = 4


def run_checks(engine: Engine, prompts: Sequence[Prompt], max_new_tokens: int) -> Proof:
    """Check the plan that is applied now, which is not empty, on a few prompts.

    In float32 the ways of generating must give the same tokens. Where the unsteered model itself does not, as in half
    precision, the logits may differ between two ways at most twice as much as the unsteered model's, or four
    times as much as those of steered rows alone and beside their own copies.

    Raises:
        UnsupportedFeatureError: The engine cannot be watched.
    """
    engine = require(engine, Replay, "check_steering")
    plan = engine.ambient()
    observations = [engine.observe(prompt, max_new_tokens) for prompt in prompts]
    checks = (
        *_edit_checks(observations),
        *_restoration_checks(engine, plan, prompts, must_move=_edits_last_token(observations)),
        *_equality_checks(engine, plan, prompts, observations, Sampling(max_new_tokens)),
    )
    return Proof(checks, _idle_reason(plan, observations))


def _idle_reason(plan: Plan, observations: Sequence[Observation]) -> str:
    """Return why no token was edited, or nothing."""
    if not any(placement.strength for placement in plan):
        return "every applied strength is 0"
    if not any(observation.plan for observation in observations):
        return "no prompt meets a condition"
    if not any(sum(observation.firings.values()) for observation in observations):
        scopes = ", ".join(sorted({repr(str(placement.positions)) for placement in plan}))
        return f"no token of these prompts, nor of their texts, is in the positions {scopes}"
    return ""


def _edits_last_token(observations: Sequence[Observation]) -> bool:
    """Return whether some last prompt token is edited, so that the token after it must be predicted otherwise.

    Edits of other tokens need not reach it: those of the last block never do, and opposite vectors cancel.
    """
    for observation in observations:
        for edit, _, expected in _expectations(observation):
            last = len(observation.generation.prompt_tokens) - 1 - edit.start
            if 0 <= last < len(expected) and not torch.equal(expected[last], edit.before[last]):
                return True
    return False


def _expectations(observation: Observation) -> Iterator[tuple[ObservedEdit, Tensor, Tensor]]:
    """Yield each edit with (tokens,) which of them are in its scopes, and (tokens, width) what it should put out."""
    for edit in observation.edits:
        placements = [placement for placement in observation.plan if placement.site == edit.site]
        geometry = BatchGeometry(
            positions=torch.arange(edit.start, edit.start + len(edit.before))[None],
            prompt_lengths=torch.tensor([len(observation.generation.prompt_tokens)]),
            first=torch.tensor([observation.first_position]),
            after_user=torch.tensor([observation.after_user]),
        )
        scope = torch.stack([geometry.mask(placement.positions)[0] for placement in placements]).any(dim=0)
        yield edit, scope, _expected_output(edit.before, placements, geometry)


def _edit_checks(observations: Sequence[Observation]) -> list[Check]:
    """Hold each block's output around our hook against the formula, the scope and the number of passes."""
    elements = wrong_elements = tokens = wrong_tokens = firings = wrong_firings = 0
    for observation in observations:
        expected_firings = dict.fromkeys(observation.firings, 0)
        for edit, scope, expected in _expectations(observation):
            moved = (expected != edit.before).any(dim=1)
            wrong_elements += int((edit.after != expected).sum())
            wrong_tokens += int(((edit.after != edit.before).any(dim=1) != (scope & moved)).sum())
            elements, tokens = elements + expected.numel(), tokens + len(scope)
            expected_firings[edit.site] += int(scope.any())
        firings += sum(expected_firings.values())
        wrong_firings += sum(abs(expected_firings[site] - fired) for site, fired in observation.firings.items())
    return [
        _none_wrong("output_is_the_edit_of_the_input", wrong_elements, f"wrong of {elements} elements, bit for bit"),
        _none_wrong("only_the_scope_is_edited", wrong_tokens, f"wrong of {tokens} token positions"),
        _none_wrong("hooks_fire_once_a_pass", wrong_firings, f"missed or extra beside {firings} firings"),
    ]


def _none_wrong(name: str, wrong: int, words: str) -> Check:
    return Check(name, wrong == 0, wrong, f"0 {words}")


def _restoration_checks(engine: Replay, plan: Plan, prompts: Sequence[Prompt], *, must_move: bool) -> list[Check]:
    """Hold the logits without the plan against those from before the first hook, and see that the plan moves them."""
    steered = engine.distributions([Row(prompt, plan) for prompt in prompts])
    plain = engine.distributions([Row(prompt) for prompt in prompts])
    moved = max(_largest(a, b) for a, b in zip(steered, plain, strict=True))
    left, spread = engine.restoration()
    expected = f"{'above' if must_move else 'may be'} 0, the largest change of a log-probability"
    restored = f"at most {spread:g} from the logits before attaching; two runs differ by that much"
    return [
        Check("steering_moves_the_next_token", moved > 0 or not must_move, moved, expected),
        Check("removal_restores_the_logits", left <= spread, left, restored),
    ]


def _equality_checks(
    engine: Replay, plan: Plan, prompts: Sequence[Prompt], observations: Sequence[Observation], sampling: Sampling
) -> list[Check]:
    """Generate in every way and hold the ways against each other."""
    steered, plain = [Row(prompt, plan) for prompt in prompts], [Row(prompt) for prompt in prompts]
    batched = engine.generate(steered, sampling)
    alone = [engine.generate([row], sampling)[0] for row in steered]
    # The observed generation ran past the tokens that end a text.
    live = [o.generation.tokens[: len(a.tokens)] for o, a in zip(observations, alone, strict=True)]
    uncached = engine.generate(steered, replace(sampling, use_cache=False))
    checks = [_token_check("live_model_equals_rows", live, alone)]
    for name, other, use_cache, company in (
        ("cached_equals_uncached", uncached, False, True),
        ("batch_equals_alone", alone, True, False),
    ):
        check = _token_check(name, [generation.tokens for generation in other], batched)
        if engine.info.dtype != "float32" or not check.passed:
            unsteered = engine.generate(plain, sampling)
            # A step of either: steered logits may be the larger ones.
            gap, step = _logit_gap(engine, steered, batched, use_cache=use_cache, batched=company)
            limit = 2 * max(step, *_logit_gap(engine, plain, unsteered, use_cache=use_cache, batched=company))
            if gap > limit:
                limit = max(limit, _MOST_SPREADS * _rounding_spread(engine, steered, batched))
            check = Check(name, gap <= limit, gap, f"at most {limit:g}, from the model's own gaps of logits")
        checks.append(check)
    return checks


def _token_check(name: str, tokens: Sequence[tuple[int, ...]], reference: Sequence[Generation]) -> Check:
    total = sum(len(generation.tokens) for generation in reference)
    pairs = zip(tokens, reference, strict=True)
    wrong = sum(a != b for own, generation in pairs for a, b in zip_longest(own, generation.tokens))
    return _none_wrong(name, wrong, f"different of {total} tokens")


def _logit_gap(
    engine: Replay, rows: Sequence[Row], generations: Sequence[Generation], *, use_cache: bool, batched: bool
) -> tuple[float, float]:
    """Return the largest logit difference between that way and the cached batch, and one rounding step of logits."""
    written = [i for i, generation in enumerate(generations) if generation.tokens]
    if not written:
        return 0.0, 0.0
    rows, tokens = [rows[i] for i in written], [generations[i].tokens for i in written]
    usual = engine.replay(rows, tokens, use_cache=True, batched=True)
    other = engine.replay(rows, tokens, use_cache=use_cache, batched=batched)
    step = max(float(logits.abs().max()) for logits in usual) * torch.finfo(getattr(torch, engine.info.dtype)).eps
    return max(_largest(a, b) for a, b in zip(usual, other, strict=True)), step


def _rounding_spread(engine: Replay, rows: Sequence[Row], generations: Sequence[Generation]) -> float:
    """Return how much the logits of a row alone differ from those beside its own copies, where no position differs.

    A strong edit, such as a stream that is set to zero, has the model enlarge its roundings.
    """

    def logits(row: Row, tokens: Sequence[int], copies: int) -> Tensor:
        return engine.replay([row] * copies, [tokens] * copies, use_cache=True, batched=True)[0]

    pairs = [(row, generation.tokens) for row, generation in zip(rows, generations, strict=True) if generation.tokens]
    return max((_largest(logits(*pair, 1), logits(*pair, 1 + more)) for pair in pairs for more in (1, 2)), default=0.0)


def _expected_output(before: Tensor, placements: Sequence[Placement], geometry: BatchGeometry) -> Tensor:
    """Return what the block should put out: float32, adjacent additions with equal positions summed, rounded once."""
    hidden = before.to(torch.promote_types(before.dtype, torch.float32))
    for (scope, is_addition), run in groupby(placements, lambda p: (p.positions, isinstance(p.intervention, Add))):
        chosen = geometry.mask(scope)[0]
        if is_addition:
            deltas = [p.strength * p.intervention.direction for p in run if isinstance(p.intervention, Add)]
            edited = hidden + torch.stack(deltas).sum(dim=0)
        else:
            edited = hidden
            for placement in run:
                edited = placement.intervention.edit(edited, torch.tensor(placement.strength))
        hidden = torch.where(chosen[:, None], edited, hidden)
    return hidden.to(before.dtype)


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
