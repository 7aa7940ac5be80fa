"""A penalty on repetition is transformers' own: it gives the texts of `model.generate(..., repetition_penalty=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, WIDTH
from steer_tools import compare_generations, create_steering_vector, generate
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.fake import FakeEngine
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import PromptLike, TokenPrompt, parse_prompts
from steer_tools.session.session import Session

STEPS = 24
DIRECTION = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
# Of different lengths, so that all but one are padded.
BUNDLED = ["I think the lemon is sour.", "Can you peel the lemon for me? I think it is sour.", "It seems to me"]
REAL = [
    "Hello there, hello there, hello",
    "Here is the list again: one, two, three. Here is the list again: one, two, three. Here is",
    [{"role": "user", "content": "Say red ten times."}],
]


def of_transformers(
    engine: Any, prompts: Sequence[PromptLike], stops: Sequence[int], **options: Any
) -> list[tuple[int, ...]]:
    """Return the new tokens of each prompt by itself, without the one that ends the text."""
    texts: list[tuple[int, ...]] = []
    for prompt in parse_prompts(prompts):
        ids = torch.tensor([engine.tokenize(prompt).tokens])
        new = engine.module.generate(
            ids, do_sample=False, max_new_tokens=STEPS, eos_token_id=[*stops], pad_token_id=stops[0], **options
        )[0, ids.shape[1] :].tolist()
        texts.append(tuple(new[: next((i for i, token in enumerate(new) if token in stops), len(new))]))
    return texts


def check_tools(session: Session, prompts: Sequence[PromptLike], stop: int) -> None:
    """Hold what `generate` and `compare_generations` write without a vector to the model's own `generate`."""
    engine: Any = session.engine
    rows = [Row(prompt) for prompt in parse_prompts(prompts)]
    penalized = engine.generate(rows, Sampling(STEPS, repetition_penalty=1.1))
    texts = [generation.text for generation in penalized]

    assert [own.tokens for own in penalized] == of_transformers(engine, prompts, [stop], repetition_penalty=1.1)
    assert generate(prompts, STEPS, repetition_penalty=1.1)["texts"] == texts
    plain = generate(prompts, STEPS)["texts"]
    assert all(text != other for text, other in zip(texts, plain, strict=True))
    assert generate(prompts, STEPS, repetition_penalty=1)["texts"] == plain


@pytest.mark.parametrize("strength", [0, 2])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("penalty", [0.6, 1.3, 3])
def test_padded_rows_are_penalized_as_transformers_penalizes_each_alone(
    engine: HuggingFaceEngine, penalty: float, beams: int, strength: float
) -> None:
    plan: Plan = (Placement(Add(DIRECTION), Site(1), strength),)
    engine.set_ambient(plan)

    expected = of_transformers(engine, PROMPTS, [2, 3], repetition_penalty=float(penalty), num_beams=beams)
    rows = [Row(prompt, plan) for prompt in parse_prompts(PROMPTS)]
    found = engine.generate(rows, Sampling(STEPS, beams=beams, repetition_penalty=penalty))

    assert [generation.tokens for generation in found] == expected
    assert expected != [own.tokens for own in engine.generate(rows, Sampling(STEPS, beams=beams))]


def test_what_speaks_against_a_token_that_was_seen_speaks_louder_on_the_fake_engine() -> None:
    engine = FakeEngine()
    matrix = engine.unembedding().matrix
    prompt = TokenPrompt(tuple(range(len(matrix))))
    state = engine.trace([prompt], [Site(engine.info.layers - 1)])[0][Site(engine.info.layers - 1)][-1]
    against = set((matrix @ state < 0).nonzero().flatten().tolist())

    def drawn(penalty: float) -> set[int]:
        rows = [Row(prompt, seed=seed) for seed in range(50)]
        sampling = Sampling(1, temperature=4.0, repetition_penalty=penalty)
        return {token for generation in engine.generate(rows, sampling) for token in generation.tokens}

    assert drawn(1.0) & against
    assert len(drawn(1e6)) > 10 and not drawn(1e6) & against


def test_on_the_bundled_model_the_tools_write_what_transformers_writes(empty_session: Session) -> None:
    empty_session.load("bundled")
    engine: Any = empty_session.engine
    check_tools(empty_session, BUNDLED, engine.tokenizer.eos_token_id)


@pytest.mark.slow
def test_on_smollm2_the_tools_write_what_transformers_writes(
    empty_session: Session, smollm2: Callable[[torch.dtype], tuple[Any, Any]]
) -> None:
    model, tokenizer = smollm2(torch.float32)
    empty_session.attach(model, tokenizer, "smollm2")
    check_tools(empty_session, REAL, tokenizer.eos_token_id)


def test_a_comparison_penalizes_all_its_texts_and_measures_them_by_the_model_itself(llama_session: Session) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v")
    prompts, engine = parse_prompts(PROMPTS), llama_session.engine

    penalized = compare_generations(PROMPTS, "v", strengths=[0.0, 1.0], repetition_penalty=1.5)
    plain = compare_generations(PROMPTS, "v", strengths=[1.0])

    baseline, (at_zero, at_one) = penalized["baseline"], penalized["variants"]
    assert baseline["texts"] == at_zero["texts"] == generate(PROMPTS, 48, repetition_penalty=1.5)["texts"]
    assert baseline["texts"] != plain["baseline"]["texts"]
    assert at_one["texts"] not in (baseline["texts"], plain["variants"][0]["texts"])
    rows = [Row(prompt) for prompt in prompts]
    tokens = [own.tokens for own in engine.generate(rows, Sampling(48, repetition_penalty=1.5))]
    scored = [score for own in engine.score(rows, tokens) for score in own.tolist()]
    assert baseline["metrics"]["perplexity"] == pytest.approx(math.exp(-fmean(scored)), rel=1e-3)
