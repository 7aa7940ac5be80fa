"""Reading along a vector: projections, detectors held against chance, and the next tokens of a single pass."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, WORDS, make_model
from steer_tools import (
    apply_steering_vector,
    compare_next_tokens,
    create_steering_vector,
    load_model,
    load_vector,
    project_activations,
    remove_all_steering_vectors,
    save_vector,
)
from steer_tools.bundled_model.language import contrast_pairs
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, LayerError, PromptError
from steer_tools.evaluation.intervals import roc_interval
from steer_tools.inspection.readings import fit_detector
from steer_tools.prompts import parse_prompt
from steer_tools.session.comparison import asked_tokens
from steer_tools.session.session import Session

PIECES = ("A", "▁A", "B", "▁only", "▁", "\n")
# Words that only one side has, in prompts that made no vector of these tests.
MARKED = [f"{PROMPTS[i % 4]} {word} baba" for i, word in enumerate(WORDS[:16])]
UNMARKED = [f"{PROMPTS[i % 4]} {word} zuzu" for i, word in enumerate(WORDS[:16])]


def random_vector(session: Session, layers: tuple[int, ...] = (1,), name: str = "own", seed: int = 3) -> str:
    generator = torch.Generator().manual_seed(seed)
    vector = SteeringVector.from_directions({layer: torch.randn(32, generator=generator) for layer in layers})
    save_vector(vector, name, workspace=session.workspace)
    return name


def read_by_hand(session: Session, prompts: list[str], layer: int) -> torch.Tensor:
    return session.engine.read([parse_prompt(p) for p in prompts], [Site(layer)], "last")[Site(layer)].double()


# The interval of an area


def test_the_interval_of_an_area_covers_it() -> None:
    generator = np.random.default_rng(0)
    true, hits, simulations = 0.7602, 0, 400  # P(x > y) for unit normals one apart: Φ(1/√2).
    for _ in range(simulations):
        high, low = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
        found = roc_interval(high, low, range(30), range(30))
        assert found is not None
        hits += found.low <= true <= found.high

    assert 0.91 <= hits / simulations <= 0.98


@pytest.mark.parametrize("counts", [(400, 60), (60, 400)])
def test_each_class_counts_by_its_own_number_and_ties_by_half(counts: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    high, low = generator.normal(1, 1, counts[0]).round(1), generator.normal(0, 1, counts[1]).round(1)

    found = roc_interval(high, low, range(counts[0]), range(counts[0], 460))

    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / counts[0] + wins.mean(axis=0).var(ddof=1) / counts[1])  # DeLong's.
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.low + error < wins.mean() < found.high - error
    tied = roc_interval([0, 1] * 20, [0, 1] * 20, range(40), range(40, 80))
    assert tied is not None
    assert tied.low < 0.5 < tied.high


def test_groups_of_like_values_count_once() -> None:
    generator = np.random.default_rng(0)
    true, hits, naive_hits, simulations = 0.7602, 0, 0, 400
    for _ in range(simulations):
        high, low = (np.repeat(generator.normal(mean, 1, 12), 5) for mean in (1, 0))
        groups = [i // 5 for i in range(60)]
        own = roc_interval(high, low, groups, [100 + g for g in groups])
        naive = roc_interval(high, low, range(60), range(60, 120))
        assert own is not None
        assert naive is not None
        hits += own.low <= true <= own.high
        naive_hits += naive.low <= true <= naive.high

    assert hits / simulations >= 0.88
    assert naive_hits / simulations < 0.75


def test_an_area_of_one_is_not_certain_and_a_single_group_tells_nothing() -> None:
    ones, zeros = np.ones(10) + np.arange(10), np.zeros(10) - np.arange(10)

    perfect = roc_interval(ones, zeros, range(10), range(10))
    worst = roc_interval(zeros, ones, range(10), range(10))

    assert perfect is not None
    assert perfect.high == 1.0
    assert 0.6 < perfect.low < 0.8  # Wilson's, of ten items.
    assert worst == pytest.approx((0.0, 1 - perfect.low))
    assert roc_interval(ones, zeros, ["a"] * 10, ["a"] * 10) is None


# Detectors


def planted(apart: float, items: int = 40, width: int = 64, seed: int = 0) -> tuple[Examples, Examples, torch.Tensor]:
    """Return two draws of classes that lie `apart` along one direction, and that direction."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.zeros(width)
    along[5] = 1.0
    sides = [torch.randn(items, width, generator=generator) + shift * along for shift in (apart, 0.0) * 2]
    return Examples(sides[0], sides[1]), Examples(sides[2], sides[3]), along


def test_a_detector_is_fitted_on_one_part_and_judged_on_the_other() -> None:
    seen, held_out, along = planted(3.0)
    groups = (range(40), range(40))

    found = fit_detector(7 * along, seen, held_out, groups)
    turned = fit_detector(-along, seen, held_out, groups)

    high, low = held_out.positive[:, 5], held_out.negative[:, 5]
    assert found.area == pytest.approx(float((high[:, None] > low).double().mean()))
    assert found.misses == pytest.approx(float((high <= found.threshold).double().mean()))
    assert found.false_alarms == pytest.approx(float((low > found.threshold).double().mean()))
    assert seen.negative[:, 5].mean() < found.threshold < seen.positive[:, 5].mean()
    assert 0 < found.misses + found.false_alarms < 0.4
    assert turned.area == pytest.approx(1 - found.area)
    assert found.interval is not None
    assert found.interval.low < found.area < found.interval.high


def test_chance_is_what_random_directions_reach() -> None:
    seen, held_out, along = planted(3.0)
    # Apart in all dimensions at once: almost any direction tells the classes.
    every = torch.full((64,), 3.0).double()
    wide = [Examples(own.positive + every, own.negative - every) for own in (seen, held_out)]
    groups = (range(40), range(40))

    narrow_chance = fit_detector(along, seen, held_out, groups).chance
    wide_chance = fit_detector(along, *wide, groups).chance
    none = fit_detector(along, *planted(0.0)[:2], groups)

    assert 0.55 < narrow_chance < 0.85
    assert wide_chance > 0.99
    assert abs(none.area - 0.5) < 0.15
    assert none.chance < 0.7


@pytest.mark.slow
def test_a_vector_detects_its_own_behaviour_beyond_chance_and_others_not(empty_session: Session) -> None:
    load_model("bundled")
    pairs = contrast_pairs("honesty", 32)
    path = create_steering_vector(
        [[*prompt, {"role": "assistant", "content": shown}] for prompt, shown, _ in pairs],
        [[*prompt, {"role": "assistant", "content": opposite}] for prompt, _, opposite in pairs],
        1,
        "honesty",
        pooling="response",
    )["vector_path"]

    ((own,), (formality,), (sycophancy,)) = (
        project_activations(path, behavior_name=name)["detectors"] for name in ("honesty", "formality", "sycophancy")
    )

    assert own["auc"] >= 0.95
    assert own["auc"] > own["auc_chance"] + 0.15
    # Formal answers differ in nearly every word, so that random directions tell them, too.
    assert formality["auc_chance"] >= 0.99
    assert sycophancy["auc"] < sycophancy["auc_chance"]
    # The threshold is of the same kind of texts as those that it judges.
    assert max(own["misses"], own["false_alarms"]) <= 0.15


def test_own_lists_fit_on_the_one_half_and_are_judged_on_the_other(llama_session: Session) -> None:
    path = create_steering_vector(MARKED, UNMARKED, 1, "own")["vector_path"]
    # The second half's labels are exchanged: what is learnt on the first is wrong there.
    exchanged = [own[i] for i in range(16) for own in ((MARKED, UNMARKED)[i % 2],)]
    other = [own[i] for i in range(16) for own in ((UNMARKED, MARKED)[i % 2],)]

    (found,) = project_activations(path, positive=MARKED, negative=UNMARKED)["detectors"]
    (turned,) = project_activations(path, positive=exchanged, negative=other)["detectors"]

    unit = load_vector(path).directions[1].double() / load_vector(path).directions[1].double().norm()
    high, low = (read_by_hand(llama_session, side[1::2], 1) @ unit for side in (MARKED, UNMARKED))
    assert found["auc"] == pytest.approx(float((high[:, None] > low).double().mean()), abs=1e-3)
    assert found["auc"] > 0.9
    assert turned["threshold"] == pytest.approx(found["threshold"], rel=1e-3)
    assert turned["auc"] == pytest.approx(1 - found["auc"], abs=1e-3)


# Projections


def test_a_reading_has_each_tokens_projection_at_each_layer(llama_session: Session) -> None:
    name = random_vector(llama_session)
    prompts: list[Any] = ["ratisemo lili keke", [4, 9, 14]]

    found = project_activations(name, prompts, layers=[0, -1])

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    last = llama_session.engine.info.layers - 1
    unit = load_vector(name, workspace=llama_session.workspace).directions[1]
    unit = unit / unit.norm()
    for prompt, own in zip(prompts, found["prompts"], strict=True):
        (trace,) = llama_session.engine.trace([parse_prompt(prompt)], [Site(0), Site(last)])
        for layer in (0, last):
            assert own["values"][str(layer)] == pytest.approx((trace[Site(layer)] @ unit).tolist(), rel=6e-3, abs=1e-4)
        assert own["values"]["0"] != own["values"][str(last)]
        assert len(own["tokens"]) == len(own["values"]["0"])
        assert own["scores"] == own["detected"] == {}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found["picture_paths"])
    assert len(found["picture_paths"]) == 2


def test_each_layer_is_read_along_its_own_direction(llama_session: Session) -> None:
    name = random_vector(llama_session, (0, 1))

    found = project_activations(name, [PROMPTS[0]])["prompts"][0]["values"]

    (trace,) = llama_session.engine.trace([parse_prompt(PROMPTS[0])], [Site(0), Site(1)])
    for layer, direction in load_vector(name, workspace=llama_session.workspace).directions.items():
        along = (trace[Site(layer)] @ (direction / direction.norm())).tolist()
        assert found[str(layer)] == pytest.approx(along, rel=6e-3, abs=1e-4)


def test_the_files_own_threshold_answers_where_none_was_fitted(llama_session: Session) -> None:
    path = create_steering_vector(MARKED, UNMARKED, 1, "own")["vector_path"]
    threshold = load_vector(path).info.thresholds[1]

    found = project_activations(path, [MARKED[0], UNMARKED[0]])
    elsewhere = project_activations(path, [MARKED[0]], pooling="mean")

    scores = [own["scores"]["1"] for own in found["prompts"]]
    assert found["detectors"] == []
    assert found["thresholds"] == {"1": pytest.approx(threshold, rel=1e-3)}
    assert found["warnings"] == []
    assert scores == pytest.approx([own["values"]["1"][-1] for own in found["prompts"]], rel=6e-3)
    assert (
        [own["detected"]["1"] for own in found["prompts"]] == [score > threshold for score in scores] == [True, False]
    )
    # It was fitted on last tokens, and says nothing of means.
    assert elsewhere["prompts"][0]["detected"] == elsewhere["thresholds"] == {}
    assert "nothing is detected" in elsewhere["warnings"][0]


def test_a_vector_is_read_as_it_was_made(llama_session: Session) -> None:
    path = create_steering_vector(MARKED, UNMARKED, 1, "own", pooling="mean")["vector_path"]

    alone, labelled = (
        project_activations(path, [MARKED[0]]),
        project_activations(path, positive=MARKED, negative=UNMARKED),
    )

    assert alone["pooling"] == labelled["pooling"] == "mean"
    assert list(alone["prompts"][0]["scores"]) == ["1"]


def test_a_fitted_threshold_answers_for_prompts(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 1, "own")["vector_path"]

    found = project_activations(path, [MARKED[1], UNMARKED[1]], positive=MARKED, negative=UNMARKED, pooling="mean")

    threshold = found["detectors"][0]["threshold"]
    assert found["pooling"] == "mean"
    for own in found["prompts"]:
        assert own["detected"]["1"] == (own["scores"]["1"] > threshold)


def test_a_prompt_without_the_tokens_has_values_and_no_score(llama_session: Session) -> None:
    path = create_steering_vector(MARKED, UNMARKED, 1, "own")["vector_path"]
    own = load_vector(path)
    answered = replace(own, info=own.info.model_copy(update={"pooling": "response"}))
    save_vector(answered, "answered", workspace=llama_session.workspace)
    chat: Any = [{"role": "user", "content": "keke"}, {"role": "assistant", "content": "lili baba"}]

    found = project_activations("answered", ["keke lili", chat])

    text, reply = found["prompts"]
    assert text["scores"] == text["detected"] == {}
    assert len(text["values"]["1"]) == len(text["tokens"])
    assert list(reply["scores"]) == ["1"]
    assert found["warnings"] == [
        "The prompts [0] have no token that the pooling reads, so they have values and no score."
    ]


def test_values_are_of_a_few_layers_unless_they_are_named(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["steer_tools.tools.project_activations"], "_MOST_SHOWN", 2)
    name = random_vector(llama_session, (0, 1, 2, 3))

    few, named = project_activations(name, ["keke"]), project_activations(name, ["keke"], layers=[0, 1, 2])

    assert list(few["prompts"][0]["values"]) == ["0", "3"]
    assert few["warnings"][-2] == "values are of 2 of 4 layers; name others by layers."
    assert list(named["prompts"][0]["values"]) == ["0", "1", "2"]
    assert list(named["residual_norms"]) == ["0", "1", "2"]


def test_a_direction_that_is_used_elsewhere_is_named(llama_session: Session) -> None:
    name = random_vector(llama_session)

    elsewhere, own = (" ".join(project_activations(name, ["keke"], layers=at)["warnings"]) for at in ([0, 1], [1]))

    assert "made at layer 1, is used at the layers [0]" in elsewhere
    assert "made at layer" not in own


def test_reading_is_of_the_unsteered_model(llama_session: Session) -> None:
    name = random_vector(llama_session)
    before = project_activations(name, [PROMPTS[0]], layers=[1, 2])["prompts"]

    apply_steering_vector(name, 1, 5.0, positions="all")
    applied = project_activations(name, [PROMPTS[0]], layers=[1, 2])["prompts"]

    assert applied == before


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, ArgumentError, "nothing to read"),
        ({"prompts": []}, PromptError, "prompts is empty"),
        ({"prompts": ["keke"], "layers": 2}, LayerError, r"some of its layers \[0, 1\]"),
        ({"prompts": ["keke"], "layers": []}, ArgumentError, "layers is an empty list"),
        ({"prompts": ["keke"], "layers": [2]}, LayerError, r"\[0, 1\]"),
        ({"positive": MARKED}, ArgumentError, "positive and negative together"),
        ({"behavior_name": "b", "positive": MARKED, "negative": UNMARKED}, ArgumentError, "one source"),
        ({"positive": MARKED[:5] * 3, "negative": UNMARKED}, PromptError, "5 positive"),
        ({"prompts": ["keke"], "pooling": "middle"}, ArgumentError, "'last', 'first'"),
        ({"positive": MARKED, "negative": UNMARKED, "pooling": "response"}, PromptError, "pooling='last'"),
    ],
)
def test_what_cannot_be_read_is_refused(
    llama_session: Session, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    name = random_vector(llama_session, (0, 1))

    with pytest.raises(error, match=says):
        project_activations(name, **arguments)


# The next tokens of one pass


def test_the_next_tokens_are_those_of_the_model_and_of_a_hook_by_hand(llama_session: Session) -> None:
    name = random_vector(llama_session)
    direction = load_vector(name, workspace=llama_session.workspace).directions[1]
    prompt = [4, 9, 14, 7]

    found = compare_next_tokens([prompt], name, strengths=[0, 2.5], top=4)["prompts"][0]

    model = llama_session.engine.architecture.model  # type: ignore[attr-defined]
    block = llama_session.engine.architecture.blocks[1]  # type: ignore[attr-defined]

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, -1] += 2.5 * direction
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with torch.no_grad():
        plain = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)
        handle = block.register_forward_hook(add)
        steered = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)
        handle.remove()
    expected = {own.topk(4).indices[i].item() for own in (plain, steered) for i in range(4)}
    assert len(found["probabilities"]) == len(expected)
    columns = list(zip(*found["probabilities"].values(), strict=True))
    most = [max(own) for own in found["probabilities"].values()]
    assert most == sorted(most, reverse=True)
    for column, own in zip(columns, (plain, plain, steered), strict=True):
        assert sorted(column) == pytest.approx(sorted(own[list(expected)].tolist()), rel=2e-3)
    assert all(token is not None and token != "None" for token in found["probabilities"])
    kl = float((plain * (plain.log() - steered.log())).sum())
    assert found["kl"] == [0, pytest.approx(kl, rel=2e-3)]
    assert kl > 0.01


def test_tokens_that_only_the_output_matrix_has_keep_their_own_names(llama_session: Session) -> None:
    name, size = random_vector(llama_session), llama_session.engine.unembedding().matrix.shape[0]

    (found,) = compare_next_tokens(["keke"], name, strengths=[0], top=size)["prompts"]

    named = [token for token in found["probabilities"] if token.startswith("<") and token[1:-1].isdecimal()]
    assert len(found["probabilities"]) == size
    assert sum(own[0] for own in found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert len(named) > 5


def test_tokens_that_are_asked_for_are_told_of_whatever_their_rank(llama_session: Session) -> None:
    name, (prompt,) = random_vector(llama_session), ["keke baba"]
    plain = llama_session.engine.distributions([Row(parse_prompt(prompt))])[0].exp()
    unlikely = plain[8:108].argsort()[:2].add(8).tolist()  # Words, since only those have a text of their own.
    texts = llama_session.engine.texts(unlikely)

    without = compare_next_tokens([prompt], name, strengths=[0], top=2)
    by_text, by_id = (
        compare_next_tokens([prompt], name, strengths=[0], top=2, tokens=asked) for asked in (texts, unlikely)
    )

    assert by_text["prompts"] == by_id["prompts"]
    assert by_text["warnings"] == by_id["warnings"] == without["warnings"]
    (found,), (likeliest,) = by_text["prompts"], without["prompts"]
    assert not {*unlikely} & {*likeliest["ids"]}
    assert {*found["ids"]} == {*likeliest["ids"], *unlikely}
    assert [found["probabilities"][text][0] for text in texts] == pytest.approx(plain[unlikely].tolist(), rel=1e-3)


def test_a_text_is_its_token_as_it_stands_or_else_behind_a_space(empty_session: Session) -> None:
    core = Tokenizer(models.Unigram([("<unk>", 0.0), *((own, -1.0) for own in PIECES)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<unk>")
    engine = HuggingFaceEngine(make_model("llama"), tokenizer)

    found = {text: asked_tokens(engine, [text]) for text in ("A", " A", "only", "\n")}

    said = {text: ([PIECES[own - 1] for own in ids], len(warnings)) for text, (ids, warnings) in found.items()}
    assert said == {"A": (["A"], 0), " A": (["▁A"], 0), "only": (["▁only"], 1), "\n": (["\n"], 0)}
    assert found["only"][1] == ["'only' is no token of its own here: ' only' is shown for it."]
    with pytest.raises(ArgumentError, match=r"no single token of this model but ' A', 'B'.* Give 2, the id of ' A'"):
        asked_tokens(engine, ["AB"])


@pytest.mark.parametrize("token", [-1, True, "", 1.5, None])
def test_what_is_no_token_is_refused(llama_session: Session, token: Any) -> None:
    with pytest.raises(ArgumentError, match="tokens has"):
        compare_next_tokens(["keke"], random_vector(llama_session), tokens=[token])
    with pytest.raises(PromptError, match="The token id 9999 is not in the model's vocabulary"):
        compare_next_tokens(["keke"], "own", tokens=[9999])


@pytest.mark.parametrize("top", [0, -1, 1.5, True])
def test_fewer_tokens_than_one_are_refused(llama_session: Session, top: Any) -> None:
    with pytest.raises(ArgumentError, match="top is"):
        compare_next_tokens(["keke"], random_vector(llama_session), top=top)


def test_without_a_vector_what_is_applied_is_compared_and_stays(llama_session: Session) -> None:
    name = random_vector(llama_session)
    given = compare_next_tokens(PROMPTS[:2], name, 1, [3.0], intervention="project_out")
    apply_steering_vector(name, 1, 3.0, intervention="project_out")

    applied = compare_next_tokens(PROMPTS[:2])

    assert applied["prompts"] == given["prompts"]
    assert applied["strengths"] == [3.0]
    assert max(own["kl"][0] for own in applied["prompts"]) > 0
    assert len(llama_session.registry) == 1
    with pytest.raises(ArgumentError, match="without vector_path"):
        compare_next_tokens(PROMPTS[:2], unit="residual")
    remove_all_steering_vectors()
    with pytest.raises(ArgumentError, match="nothing to compare"):
        compare_next_tokens(PROMPTS[:2])
