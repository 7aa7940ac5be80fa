"""Patches that a metric of the caller's own measures, and patches of single tokens, against torch hooks by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from steer_tools import load_model, loaded_model, patch_activations
from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.inspection import patching
from steer_tools.inspection.patching import LogOdds, Pair, attribute, patch
from steer_tools.prompts import TokenPrompt
from steer_tools.session.session import Session

SOURCE, TARGET, LONGER = "nura baba keke", "nura zuzu mora", "lili seti nura baba keke"
# In the bundled model's language.
WONDERFUL, DREADFUL = (f"Hello, friend, your question is {word}. I find it" for word in ("wonderful", "dreadful"))


def difference_of(positive: str, negative: str) -> Callable[[Tensor], float]:
    """Return a metric as it is written for TransformerLens."""
    tokenizer = loaded_model()[1]
    first, second = (tokenizer.encode(word, add_special_tokens=False)[0] for word in (positive, negative))

    def logit_diff(logits: Tensor) -> float:
        return (logits[0, -1, first] - logits[0, -1, second]).item()

    return logit_diff


def by_hand(
    metric: Callable[[Tensor], float], source: str, target: str, layer: int, places: tuple[int, int] | None = None
) -> float:
    """Return the metric of the target, with the source's activation at one token put into another by torch hooks."""
    model, tokenizer = loaded_model()
    kept: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        kept.append(output.clone())

    def put_in(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if places is not None:
            output[0, places[1]] = kept[0][0, places[0]]
        return output

    for hook, prompt in ((keep, source), (put_in, target)):
        handle = model.model.layers[layer].register_forward_hook(hook)
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits
        handle.remove()
    return metric(logits)


@pytest.mark.parametrize("is_bundled", [False, True])
def test_a_metric_of_each_patch_is_that_of_a_hook_by_hand(
    request: pytest.FixtureRequest, empty_session: Session, *, is_bundled: bool
) -> None:
    if is_bundled:
        load_model("bundled")
    else:
        request.getfixturevalue("llama_session")
    source, target = (WONDERFUL, DREADFUL) if is_bundled else (SOURCE, TARGET)
    metric = difference_of(*((" wonderful", " dreadful") if is_bundled else ("lili", "seti")))

    found = patch_activations(source, target, metric=metric, layers=[0, 2])

    differ = next(place for place, (one, other) in enumerate(found["ids"]) if one != other)
    for layer in (0, 2):
        for place in (0, differ, len(found["tokens"]) - 1):
            expected = by_hand(metric, source, target, layer, (place, place))
            assert found["patched"][str(layer)][place] == pytest.approx(expected, abs=1e-4)
    assert found["source_value"] == pytest.approx(by_hand(metric, target, source, 0), abs=1e-4)
    assert found["target_value"] == pytest.approx(by_hand(metric, source, target, 0), abs=1e-4)
    moved = np.array([*found["patched"].values()]) - found["target_value"]
    assert np.abs(moved[:, 0]).max() < 1e-4 < 0.1 < np.abs(moved).max()
    shares = np.array([*found["recovered"].values()])
    np.testing.assert_allclose(shares, moved / (found["source_value"] - found["target_value"]), rtol=1e-3, atol=1e-5)


def test_a_metric_that_is_the_log_odds_recovers_what_completions_do(llama_session: Session) -> None:
    by_metric = patch_activations(SOURCE, TARGET, metric=difference_of("lili", "seti"))
    by_completions = patch_activations(SOURCE, TARGET, "lili", "seti")

    assert {*by_metric} - {*by_completions} == {"patched"}
    for key in ("source_value", "target_value"):
        assert by_metric[key] == pytest.approx(by_completions[key], rel=1e-3)
    for layer, shares in by_completions["recovered"].items():
        assert by_metric["recovered"][layer] == pytest.approx(shares, abs=1e-3)


def test_a_result_is_a_series_and_says_what_unit_it_is_in(llama_session: Session) -> None:
    found = patch_activations(SOURCE, TARGET, metric=difference_of("lili", "seti"), position=-1, layers=[1])
    in_nats = patch_activations(SOURCE, TARGET, "lili", "seti", layers=[1])

    series = pd.Series(found)

    assert [*series.index] == [*found]
    assert series["patched"]["1"] == found["patched"]["1"]
    assert "metric" in found.summary() and "nats" not in found.summary()
    assert "3 keke→mora" in found.summary() and "2 baba→zuzu" not in found.summary()
    assert "log-odds" in in_nats.summary() and "nats" in in_nats.summary()
    assert "2 baba→zuzu" in in_nats.summary()


def test_the_metric_is_given_the_log_probabilities_of_the_next_token(llama_session: Session) -> None:
    seen: list[Tensor] = []

    def probability(logits: Tensor) -> Tensor:
        seen.append(logits)
        return logits.exp()[:, -1, 5]

    found = patch_activations(SOURCE, TARGET, metric=probability, layers=[3], position=[-1])

    assert len(seen) == 3
    assert {own.shape for own in seen} == {(1, 1, 128)}
    assert [float(own.exp().sum()) for own in seen] == pytest.approx([1, 1, 1], abs=1e-5)
    model, tokenizer = loaded_model()
    with torch.no_grad():
        expected = model(**tokenizer(SOURCE, return_tensors="pt")).logits[0, -1].softmax(dim=-1)[5]
    # Behind the last block the last token is all there is.
    assert found["source_value"] == pytest.approx(float(expected), rel=1e-4)
    assert found["patched"]["3"] == pytest.approx([float(expected)], rel=1e-4)


def test_many_patches_are_measured_a_part_at_a_time(llama_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = patch_activations(SOURCE, TARGET, metric=difference_of("lili", "seti"))
    rows: list[int] = []
    distributions = llama_session.engine.distributions
    monkeypatch.setattr(patching, "_ROWS_HELD", 5)
    monkeypatch.setattr(llama_session.engine, "distributions", lambda own: rows.append(len(own)) or distributions(own))

    parts = patch_activations(SOURCE, TARGET, metric=difference_of("lili", "seti"))

    assert rows == [2, 5, 5, 5, 1]
    np.testing.assert_allclose([*parts["patched"].values()], [*whole["patched"].values()], atol=1e-4)


# Positions


def test_only_the_positions_that_are_named_are_patched(llama_session: Session) -> None:
    whole = patch_activations(SOURCE, TARGET, "lili", "seti")

    last, two = (patch_activations(SOURCE, TARGET, "lili", "seti", position=own) for own in (-1, [3, -2]))

    assert "positions" not in whole
    assert (last["token_places"], two["token_places"]) == ([3], [2, 3])
    assert last["tokens"] == whole["tokens"][3:] == [["keke", "mora"]]
    assert two["ids"] == whole["ids"][2:]
    for layer, shares in whole["recovered"].items():
        assert last["recovered"][layer] == pytest.approx(shares[3:], abs=1e-3)
        assert two["recovered"][layer] == pytest.approx(shares[2:], abs=1e-3)
    assert {own["token"] for own in last["strongest"]} == {3}


def test_counted_from_the_end_prompts_of_any_length_stand_side_by_side(llama_session: Session) -> None:
    metric = difference_of("lili", "seti")

    found = patch_activations(LONGER, TARGET, metric=metric, layers=[1], position=[-1, -2])

    assert found["tokens"] == [["baba", "zuzu"], ["keke", "mora"]]
    for column, place in enumerate((2, 3)):
        expected = by_hand(metric, LONGER, TARGET, 1, (place + 2, place))
        assert found["patched"]["1"][column] == pytest.approx(expected, abs=1e-4)
        assert abs(expected - found["target_value"]) > 0.01
    with pytest.raises(PromptError, match=r"source has 6 tokens and the target 4\..*position=-1"):
        patch_activations(LONGER, TARGET, metric=metric, position=3)
    with pytest.raises(PromptError, match="source has 4 tokens and the target 6"):
        patch_activations(TARGET, LONGER, metric=metric, position=-5)


def test_estimates_of_single_positions_are_those_among_all(llama_session: Session) -> None:
    pair = Pair(TokenPrompt((9, 14, 6, 7)), TokenPrompt((9, 14, 6, 8)), LogOdds("baba", "zuzu"))
    longer = Pair(TokenPrompt((30, 9, 14, 6, 7)), pair.target, pair.answer)
    sites = [Site(0), Site(1, "attention")]

    # Before the last token both prompts are alike, so that it goes its way alone anyway.
    whole, last = attribute(llama_session.engine, pair, sites), attribute(llama_session.engine, pair, sites, -1)
    exact, estimate = (own(llama_session.engine, longer, [Site(0)], [-1]) for own in (patch, attribute))

    np.testing.assert_allclose(last.effects, whole.effects[:, 3:], atol=1e-5)
    np.testing.assert_allclose(estimate.effects, exact.effects, rtol=0.25, atol=0.02)
    assert min(np.abs(last.effects).min(), np.abs(exact.effects).min()) > 0.05


# Refusals


@pytest.mark.parametrize("position", [4, -5, True, [], 1.5, [0, 9], "last"])
def test_a_position_that_the_target_lacks_is_refused(llama_session: Session, position: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"position is .*, and the target has 4 tokens\. Valid: 0 to 3, or -4 to -1"
    ):
        patch_activations(SOURCE, TARGET, "lili", "seti", position=position)


def own_metric(value: object) -> Callable[[Tensor], object]:
    def my_metric(logits: Tensor) -> object:
        return value

    return my_metric


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "2", torch.ones(2), np.ones(3)])
def test_a_metric_of_no_finite_number_is_refused_by_name(llama_session: Session, value: object) -> None:
    with pytest.raises(ArgumentError, match=r"The metric my_metric returned .*\(1, 1, 128\).* Valid: a finite number"):
        patch_activations(SOURCE, TARGET, metric=own_metric(value))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, ArgumentError, "lacks positive and negative.*in Python also metric="),
        ({"positive": "lili"}, ArgumentError, "lacks negative"),
        ({"negative": "lili"}, ArgumentError, "lacks positive"),
        ({"metric": own_metric(1), "positive": "lili"}, ArgumentError, "A metric was given, and positive or negative"),
        ({"metric": own_metric(1), "method": "gradient"}, ArgumentError, "leave out method for exact patches"),
        ({"metric": own_metric(1)}, PromptError, r"The metric my_metric gives source and target the same value \(\+1"),
        ({"metric": own_metric(0)}, PromptError, "the same value"),
    ],
)
def test_what_says_too_much_or_too_little_of_the_answer_is_refused(
    llama_session: Session, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        patch_activations(SOURCE, TARGET, **options)


def test_small_values_are_no_equal_ones(llama_session: Session) -> None:
    metric = difference_of("lili", "seti")

    (small,) = patch_activations(SOURCE, TARGET, metric=lambda own: 1e-6 * metric(own), layers=[1])[
        "recovered"
    ].values()
    (whole,) = patch_activations(SOURCE, TARGET, metric=metric, layers=[1])["recovered"].values()

    assert small == pytest.approx(whole, abs=1e-3)


def test_what_a_metric_raises_passes_with_what_it_was_given(llama_session: Session) -> None:
    def second_last(logits: Tensor) -> float:
        return logits[0, -2, 5].item()

    with pytest.raises(IndexError) as raised:
        patch_activations(SOURCE, TARGET, metric=second_last)

    (note,) = raised.value.__notes__
    assert note.startswith("The metric second_last raised this of the next token's log-probabilities")
