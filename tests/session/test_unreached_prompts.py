"""Where a scope takes no token of a prompt, nothing is steered there, and the results say on which prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools import (
    apply_steering_vector,
    calibrate_strength,
    compare_generations,
    compare_next_tokens,
    create_steering_vector,
    evaluate_steering_robustness,
    generate,
    show_tokens,
    sweep_steering,
)
from steer_tools.core.positions import NAMED_POSITIONS
from steer_tools.session.session import Session

LONG = "the river is long and the water is cold and the town is far from here and the road is bad"
PROMPTS = ["the river", LONG, "a town"]
WORDS = "take no token of"


@pytest.fixture
def vector(llama_session: Session) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, 2, "v", normalize=True)["vector_path"]


def told(result: Any) -> list[str]:
    return [warning for warning in result["warnings"] if WORDS in warning]


def applied(vector: str, positions: str, prompts: list[str]) -> Any:
    apply_steering_vector(vector, 2, 0.01, positions=positions)
    return generate(prompts, 2)


def compared(vector: str, positions: str, prompts: list[str]) -> Any:
    return compare_generations(prompts, vector, 2, [0.01], positions=positions, max_new_tokens=2)


def next_tokens(vector: str, positions: str, prompts: list[str]) -> Any:
    return compare_next_tokens(prompts, vector, 2, [0.01], positions=positions)


@pytest.mark.parametrize("steer", [applied, compared, next_tokens])
def test_the_prompts_are_named_of_which_a_scope_takes_no_token(
    vector: str, steer: Callable[[str, str, list[str]], Any]
) -> None:
    lengths = [len(prompt["tokens"]) for prompt in show_tokens(PROMPTS)["prompts"]]
    assert max(lengths[0], lengths[2]) < 12 < lengths[1]

    (warning,) = told(steer(vector, "10:12", PROMPTS))

    assert "'10:12' take no token of 2 of 3 prompts" in warning
    assert "prompts[0] ('the river'), prompts[2] ('a town')." in warning


@pytest.mark.parametrize("steer", [applied, compared, next_tokens])
@pytest.mark.parametrize("positions", [*(name for name in NAMED_POSITIONS if name != "after_user"), "0:4", "10:12,-1:"])
def test_nothing_is_said_where_each_prompt_has_a_token_that_is_steered(
    vector: str, steer: Callable[[str, str, list[str]], Any], positions: str
) -> None:
    assert told(steer(vector, positions, PROMPTS)) == []


def test_many_and_long_prompts_are_named_shortly(vector: str) -> None:
    (warning,) = told(compared(vector, "500:", [LONG] * 9))

    assert "9 of 9 prompts" in warning
    assert warning.count("prompts[") == 3
    assert "and 6 more. show_tokens" in warning
    assert len(warning) < 400


def test_a_strength_of_0_has_no_prompts_to_miss(vector: str) -> None:
    assert told(compare_generations(PROMPTS, vector, 2, [0.0], positions="500:", max_new_tokens=2)) == []


@pytest.fixture
def asked(llama_session: Session) -> str:
    """A file of questions of which every fourth is long."""
    lines = [
        json.dumps({"prompt": f"{LONG if i % 4 == 0 else 'a town'} {i}", "positive": " yes", "negative": " no"})
        for i in range(48)
    ]
    llama_session.workspace.write("asked.jsonl", "\n".join(lines).encode())
    return "asked.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["14:16", "generated"])
def test_the_evidence_tools_name_the_questions_of_which_a_scope_takes_no_token(
    vector: str, asked: str, positions: str
) -> None:
    results: list[Any] = [
        evaluate_steering_robustness(vector, asked, 2, 0.1, positions=positions),
        calibrate_strength(vector, 2, target_damage=1e-9, behavior_name=asked, positions=positions),
        sweep_steering(vector, asked, [2], [0.1], positions=positions),
    ]

    for result in results:
        assert [bool(re.search(r"'14:16' take no token of \d+ of \d+ prompts", one)) for one in told(result)] == (
            [True] if positions == "14:16" else []
        )
