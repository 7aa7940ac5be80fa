"""Every causal language model of transformers goes through the whole job, or is refused as the table says."""

from __future__ import annotations

import pytest

from helpers.family_models import model_types
from helpers.model_coverage import NOT_MADE, REFUSED, TABLE, WORKS, read_table, try_model, write_table
from steer_tools.session.session import Session

OUTCOMES = read_table()
# What many people use, and one of each kind of peculiarity and refusal; CI tries the others as well.
COMMON = {"gemma3_text", "gpt2", "llama", "mistral", "mixtral", "opt", "phi3", "qwen3"}
QUICK = {*COMMON, *{outcome.detail: outcome.model_type for outcome in OUTCOMES.values()}.values()}


@pytest.mark.parametrize(
    "model_type",
    [own if own in QUICK else pytest.param(own, marks=pytest.mark.slow) for own in model_types()],
)
def test_a_model_type_fares_as_the_table_says(model_type: str, empty_session: Session) -> None:
    outcome = try_model(model_type, empty_session)

    assert outcome == OUTCOMES[model_type]


def test_the_table_holds_every_model_type_and_says_how_many_work() -> None:
    shares = {
        status: sum(o.status == status for o in OUTCOMES.values()) / len(OUTCOMES)
        for status in (WORKS, REFUSED, NOT_MADE)
    }

    assert sorted(OUTCOMES) == model_types()
    assert {name for name, outcome in OUTCOMES.items() if outcome.status == WORKS} >= COMMON
    assert write_table(list(OUTCOMES.values())) == TABLE.read_text(encoding="utf-8")
    assert sum(shares.values()) == 1
    assert shares[WORKS] >= 0.8
    assert shares[NOT_MADE] <= 0.12
    assert all(outcome.detail for outcome in OUTCOMES.values() if outcome.status != WORKS)
