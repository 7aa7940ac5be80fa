"""How much a model works for a call: tokens that its blocks run, counted, since clocks vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from steer_tools import (
    compare_generations,
    create_steering_vector,
    generate,
    load_model,
    steering_experiment,
    sweep_steering,
)
from steer_tools.bundled_model.language import held_out_prompts
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.session.session import Session

FIRST, LAST = "first", "last"
GRID = {"layers": [1, 2], "strengths": [0.1, 0.2]}


class Tokens:
    """Counts the tokens, those of padding among them, that the first block and the last one run."""

    def __init__(self, engine: HuggingFaceEngine) -> None:
        self.run = Counter[str]()
        for name, block in ((FIRST, engine.architecture.blocks[0]), (LAST, engine.architecture.blocks[-1])):
            # What is inside a block runs only where the block does.
            cast(Any, block).mlp.register_forward_pre_hook(lambda _, inputs, name=name: self._count(name, inputs[0]))

    def _count(self, name: str, hidden: Any) -> None:
        self.run[name] += hidden.shape[:-1].numel()

    def of(self, call: Callable[[], object]) -> tuple[int, int]:
        self.run.clear()
        call()
        return self.run[FIRST], self.run[LAST]


@pytest.fixture
def tokens(empty_session: Session) -> Tokens:
    load_model("bundled")
    create_steering_vector(
        behavior="sentiment", layer=2, save_path="v"
    )  # What norms are typical is known from here on.
    return Tokens(cast(HuggingFaceEngine, empty_session.engine))


# Their tokens are 80 in all.
PROMPTS, PROMPT_TOKENS, NEW = held_out_prompts("sentiment", 4), 80, 8


def test_each_prompt_and_each_new_token_is_run_once(tokens: Tokens) -> None:
    assert tokens.of(lambda: generate(PROMPTS, max_new_tokens=NEW)) == (PROMPT_TOKENS + 4 * (NEW - 1),) * 2


def test_variants_share_their_prompts_and_only_steered_texts_are_scored(tokens: Tokens) -> None:
    first, last = tokens.of(
        lambda: compare_generations(PROMPTS, "v", 2, [0.1, 0.2], unit="residual", max_new_tokens=NEW)
    )

    generated, scored = PROMPT_TOKENS + 12 * (NEW - 1), 2 * PROMPT_TOKENS + 8 * (NEW - 1)
    assert generated < first == last <= generated + scored


CALLS: dict[str, tuple[Callable[[], object], int, int]] = {
    "create": (lambda: create_steering_vector(behavior="sentiment", layer=2, save_path="w"), 13_200, 13_200),
    # Each row by itself would take 28,000, and 95,000 for the experiment.
    "sweep": (lambda: sweep_steering("v", "sentiment", **GRID), 8_600, 14_500),
    "experiment": (
        lambda: steering_experiment("sentiment", **GRID, controls=19, max_new_tokens=NEW),
        54_000,
        80_000,
    ),
}


@pytest.mark.parametrize("name", ["create", "sweep", pytest.param("experiment", marks=pytest.mark.slow)])
def test_no_call_runs_more_tokens_than_it_did(tokens: Tokens, name: str) -> None:
    call, most_first, most_last = CALLS[name]

    first, last = tokens.of(call)

    assert 0.9 * most_first < first <= most_first
    assert 0.9 * most_last < last <= most_last
