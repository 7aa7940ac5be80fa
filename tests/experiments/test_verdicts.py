"""Verdicts: which one follows from texts, controls, log-odds and guards, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.text_guards import CheckedTexts
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.text_choice import Direction
from steer_tools.experiments.text_judgement import TextControls, TextJudgement
from steer_tools.experiments.text_meter import Written
from steer_tools.experiments.verdicts import Evidence, rule
from steer_tools.prompts import TextPrompt

PROMPTS = 16


def written(effect: float, whole: float = 1.0, relevance: float | None = 0.9) -> Written:
    each = np.full(PROMPTS, 1.0)
    checked = CheckedTexts(each, each, each, np.arange(PROMPTS) < whole * PROMPTS, 0.9, relevance)
    return Written((), np.full(PROMPTS, effect), np.full(PROMPTS, effect), checked)


def controls(*sizes: float, wanted: int = 19) -> TextControls:
    count = len(sizes)
    return TextControls(np.array(sizes)[:, None] * np.ones(PROMPTS), ("random",) * count, wanted)


def texts(
    effect: float = 0.6,
    interval: tuple[float, float] | None = (0.4, 0.8),
    own: float = 0.5,
    held_against: TextControls | None = None,
    direction: Direction = "more",
    own_width: float = 0.05,
) -> TextJudgement:
    sign = 1 if direction == "more" else -1
    return TextJudgement(
        prompts=(TextPrompt("baba"),) * PROMPTS,
        direction=direction,
        unsteered=written(0.0),
        steered=written(sign * own),
        opposite=written(sign * (own - 2 * effect)),
        effects=np.full(PROMPTS, effect),
        interval=None if interval is None else Interval(*interval),
        own_interval=Interval(own - own_width, own + own_width),
        controls=controls(*[0.1, -0.2] * 9, 0.1) if held_against is None else held_against,
    )


def log_odds(effect: float = 0.1, interval: tuple[float, float] = (-0.2, 0.4)) -> Judgement:
    return Judgement((), np.zeros(20), np.full(20, effect), Interval(*interval), (), np.ones(20), None, 0.0, None)


def null_of(*means: float) -> NullDistribution:
    return NullDistribution(np.array(means)[:, None], ("random",) * len(means))


NOTHING, RANKING = (log_odds(), null_of(*[0.2] * 19)), (log_odds(3.0, (2.0, 4.0)), null_of(*[0.2] * 19))


def evidence(judged: TextJudgement | None, measured: tuple[Judgement, NullDistribution | None] = NOTHING) -> Evidence:
    return Evidence(
        direction="more" if judged is None else judged.direction,
        texts=judged,
        without_texts="There are only 3 prompts to write to." if judged is None else None,
        does_enough=True,
        breaks=False,
        log_odds=measured[0],
        null=measured[1],
        contrast=None,
        others={"other": 0.01, "further": 5.0},
    )


VERDICTS = {
    "clear, large, above controls": (texts(), NOTHING, "works"),
    "less of it": (texts(direction="less"), NOTHING, "works"),
    "as large as one control": (texts(held_against=controls(0.1, 0.7)), NOTHING, "indistinguishable from random"),
    "as large as the opposite of one": (texts(held_against=controls(-0.7)), NOTHING, "indistinguishable from random"),
    "not clear of 0": (texts(0.1, (-0.05, 0.2), 0.1), NOTHING, "indistinguishable from random"),
    "not clear of 0, and perhaps large": (texts(0.3, (-0.1, 0.7), 0.3), NOTHING, "cannot tell"),
    "without an interval": (texts(0.6, None), NOTHING, "cannot tell"),
    "clear and small": (texts(0.1, (0.05, 0.15), 0.1), NOTHING, "indistinguishable from random"),
    "of the opposite alone": (texts(own=0.1), NOTHING, "indistinguishable from random"),
    "perhaps of the opposite alone": (texts(own_width=0.6), NOTHING, "indistinguishable from random"),
    "small, while log-odds move": (texts(0.1, (0.05, 0.15), 0.1), RANKING, "ranks, does not write"),
    "as one control, while log-odds move": (
        texts(held_against=controls(0.7)),
        RANKING,
        "indistinguishable from random",
    ),
    "none measured": (None, RANKING, "cannot tell"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_follows_from_texts_controls_and_log_odds(case: str) -> None:
    judged, measured, verdict = VERDICTS[case]

    found = rule(evidence(judged, measured))

    assert found.verdict == verdict
    assert len(found.reasons) == len(set(found.reasons)) >= 3
    assert all(reason.endswith((".", ").")) for reason in found.reasons)


@pytest.mark.parametrize(("whole", "relevance"), [(0.5, 0.9), (1.0, 0.4)], ids=["broken", "irrelevant"])
def test_texts_that_do_not_pass_break_the_model_however_large_the_effect(whole: float, relevance: float) -> None:
    judged = replace(texts(), steered=written(0.5, whole, relevance))

    found = rule(evidence(judged, RANKING))

    assert found.verdict == "breaks the model"
    assert "57%" in found.reasons[0]


def test_a_vector_that_moves_log_odds_as_little_as_controls_does_not_rank() -> None:
    judged = texts(0.1, (0.05, 0.15), 0.1)
    as_controls = RANKING[0], null_of(*[0.2] * 17, 3.5, 4.0)
    opposite = log_odds(-3.0, (-4.0, -2.0)), null_of(*[0.2] * 19)

    assert rule(evidence(judged, as_controls)).verdict == "indistinguishable from random"
    assert rule(evidence(judged, opposite)).verdict == "indistinguishable from random"
    assert rule(evidence(replace(judged, direction="less"), opposite)).verdict == "ranks, does not write"


def test_what_moves_as_far_stands_among_the_first_reasons() -> None:
    told = rule(evidence(texts())).reasons

    assert "further (+5.00)" in told[2]
    assert "other (" not in told[2]


def test_controls_that_were_ended_early_are_told_as_such() -> None:
    told = rule(evidence(texts(held_against=controls(0.7)))).reasons

    assert told[0].startswith("1 of 1 control directions of the same norm (19 were to be written) reaches it")
