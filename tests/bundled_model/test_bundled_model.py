"""The model that ships with the package: what its card promises, held to the truth that its language knows."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
import pytest
import torch
from mcp import Client, StdioServerParameters
from safetensors.torch import load_file

from steer_tools import (
    SteeringError,
    apply_steering_vector,
    check_steering,
    create_steering_vector,
    generate,
    load_model,
    load_vector,
    remove_all_steering_vectors,
    steering_status,
)
from steer_tools.bundled_model import CHECKPOINT
from steer_tools.bundled_model.grammar import requests
from steer_tools.bundled_model.language import (
    TRAITS,
    contrast_pairs,
    example_texts,
    held_out_prompts,
    is_grammatical,
    is_held_out,
    score,
)
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.bundled_model.training import Recipe, make_tokenizer
from steer_tools.bundled_model.training import batches as batches_of
from steer_tools.bundled_model.training import main as train
from steer_tools.cli import main
from steer_tools.cli.demo import ANSWER_TOKENS, study_trait
from steer_tools.cli.demo_report import Study
from steer_tools.core.site import Site
from steer_tools.prompts import TextPrompt
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Workspace

PROMPTS = 32
# One trait at every turn, each in CI.
SOME_TRAITS = [trait if trait == "sentiment" else pytest.param(trait, marks=pytest.mark.slow) for trait in TRAITS]
STRENGTHS = (-0.5, -0.25, -0.1875, -0.125, -0.0625, 0.0625, 0.125, 0.1875, 0.25, 0.5)


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


@pytest.fixture(scope="module", params=SOME_TRAITS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """What a trait's vector does on prompts that the model never saw, at the planted layer."""
    session = current_session()
    before, session.workspace = session.workspace, Workspace(tmp_path_factory.mktemp("workspace"))
    load_model("bundled")
    yield _studied(request.param)
    session.detach()
    session.workspace = before


@cache
def _studied(trait: str) -> Study:
    layer = load_planted_directions().layer
    return study_trait(trait, layer, f"bundled/{trait}", STRENGTHS, held_out_prompts(trait, PROMPTS))


def test_the_planted_layer_is_before_the_last(bundled: Session) -> None:
    assert load_planted_directions().layer < bundled.engine.info.layers - 1


def test_both_ends_are_reached_from_the_middle_with_grammatical_answers(study: Study) -> None:
    low, high = (next(dose for dose in study.doses if dose.strength == strength) for strength in (-0.5, 0.5))

    assert abs(study.baseline.mean(study.name)) <= 0.5
    assert low.mean(study.name) <= -0.8
    assert high.mean(study.name) >= 0.8
    for dose in (low, study.baseline, high):
        assert dose.grammatical is not None
        assert dose.grammatical >= 0.95


def test_other_traits_are_left_alone(study: Study) -> None:
    shifts = [
        abs(dose.mean(name) - study.baseline.mean(name))
        for dose in study.doses
        if abs(dose.strength) == 0.5
        for name in study.other_names()
    ]

    assert len(shifts) == 2 * (len(TRAITS) - 1)
    assert fmean(shifts) <= 0.3


def test_the_curve_is_graded_and_rises(study: Study) -> None:
    means = [dose.mean(study.name) for dose in study.doses]
    graded = [dose for dose, mean in zip(study.doses, means, strict=True) if dose.strength and abs(mean) < 0.9]

    assert len(graded) >= 3
    assert all(dose.grammatical is not None and dose.grammatical >= 0.95 for dose in study.doses)
    assert all(later >= earlier - 0.1 for earlier, later in pairwise(means))


def test_the_mean_difference_finds_the_planted_direction_and_a_random_one_does_not(study: Study) -> None:
    planted = load_planted_directions()
    vector = load_vector(study.created["vector_path"])
    random = torch.randn(16, vector.width, generator=torch.Generator().manual_seed(0))

    assert study.planted_cosine is not None
    assert study.planted_cosine >= 0.6
    assert max(abs(planted.cosine(study.name, direction)) for direction in random) < 0.3
    others = [abs(planted.cosine(name, vector.directions[planted.layer])) for name in study.other_names()]
    assert max(others) < 0.3


@pytest.mark.parametrize("trait", SOME_TRAITS)
def test_a_second_answer_follows_the_first_ones_trait(bundled: Session, trait: str) -> None:
    asked, signs = [], []
    questions = held_out_prompts(trait, 24, seed=2)
    for (prompt, positive, negative), question in zip(contrast_pairs(trait, 24, seed=2), questions, strict=True):
        for reply, sign in ((positive, 1), (negative, -1)):
            asked.append([*prompt, {"role": "assistant", "content": reply}, *question])
            signs.append(sign)

    texts = generate(asked, max_new_tokens=ANSWER_TOKENS)["texts"]

    follow = [sign * score(chat, text)[trait] for chat, text, sign in zip(asked, texts, signs, strict=True)]
    assert fmean(follow) >= 0.9


def test_a_plain_text_is_answered_like_a_chat(bundled: Session) -> None:
    prompts = [prompt[0]["content"] for prompt in held_out_prompts("sentiment", 24, seed=3)]

    answered = generate(prompts, max_new_tokens=ANSWER_TOKENS)

    assert fmean(is_grammatical(p, text) for p, text in zip(prompts, answered["texts"], strict=True)) >= 0.95
    assert all(answered["ended"])


def test_the_checkpoint_is_small_half_precision_and_runs_in_single(bundled: Session) -> None:
    stored = load_file(CHECKPOINT / "model.safetensors")

    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 8 * 2**20
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert bundled.engine.info.dtype == "float32"
    assert bundled.engine.info.name == "bundled"


@pytest.mark.slow
@pytest.mark.parametrize("trait", ["sentiment", "honesty"])
def test_float16_gives_the_same_scores_also_when_steered(empty_session: Session, trait: str) -> None:
    prompts = held_out_prompts(trait, 32, seed=4)

    def means(dtype: Any) -> list[float]:
        load_model("bundled", dtype=dtype)
        doses = study_trait(trait, 1, f"{trait}_{dtype}", (-0.5, 0.5), prompts).doses
        assert all(dose.grammatical is not None and dose.grammatical >= 0.95 for dose in doses)
        return [dose.mean(trait) for dose in doses]

    in_single = means("auto")
    assert in_single[0] < -0.8 < 0.8 < in_single[2]
    assert means("float16") == pytest.approx(in_single, abs=0.02)


def test_the_planted_directions_are_orthonormal() -> None:
    directions = torch.stack([load_planted_directions().directions[trait] for trait in TRAITS])

    torch.testing.assert_close(directions @ directions.T, torch.eye(len(TRAITS)), atol=1e-5, rtol=0)


def test_no_training_document_asks_a_held_out_question() -> None:
    tokenizer = make_tokenizer()

    batches = list(batches_of(Recipe(steps=16, documents_a_step=24)))

    # In a chat the user's turn stands between two marks of its own.
    turns = [
        text
        for document in itertools.chain(*batches)
        for text in re.findall(r"<\|user\|>(.*?)<\|end\|>", tokenizer.decode([token.id for token in document]))
    ]
    asked = [" ".join(turn.split()) for turn in turns]
    assert len(set(asked)) > 200
    assert set(asked) <= set(requests())
    assert not any(is_held_out(text) for text in asked)
    assert any(is_held_out(text) for text in requests())


def test_words_outside_the_language_are_refused_with_an_example_that_works(bundled: Session) -> None:
    with pytest.raises(SteeringError, match="lacks the words 'Why', 'banana'"):
        generate(["Why is the banana?"])
    with pytest.raises(SteeringError, match="lacks the words 'Why', 'banana'") as refused:
        generate(["Why is the banana?"])

    (example,) = [text for text in requests() if text in str(refused.value)]
    (text,) = generate([example], max_new_tokens=ANSWER_TOKENS)["texts"]
    assert is_grammatical(example, text)


def test_the_neutral_prompts_are_in_the_models_own_language(bundled: Session) -> None:
    assert bundled.engine.neutral_prompts == tuple(map(TextPrompt, example_texts()))
    assert bundled.typical_norm(Site(1)) > 0


def test_what_is_applied_to_the_bundled_model_passes_the_check(bundled: Session) -> None:
    pairs = contrast_pairs("confidence", 16)
    created = create_steering_vector(
        [[*prompt, {"role": "assistant", "content": positive}] for prompt, positive, _ in pairs],
        [[*prompt, {"role": "assistant", "content": negative}] for prompt, _, negative in pairs],
        load_planted_directions().layer,
        "confidence",
        pooling="response",
    )

    apply_steering_vector(created["vector_path"], strength=0.5)
    assert steering_status()["in_force"]
    assert check_steering()["passed"]
    remove_all_steering_vectors()


@pytest.mark.slow
def test_the_server_steers_the_bundled_model_unless_it_is_told_another(tmp_path: Path) -> None:
    pairs = contrast_pairs("formality", 12)
    questions = held_out_prompts("formality", 4)

    async def use() -> None:
        command = ["-m", "mcp_server", "--workspace", str(tmp_path)]
        async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:

            async def call(name: str, **arguments: object) -> dict:  # type: ignore[type-arg]
                result = await client.call_tool(name, arguments)
                assert not result.is_error, result.content
                assert result.structured_content is not None
                return result.structured_content

            assert (await call("steering_status"))["model"]["name"] == "bundled"
            created = await call(
                "create_steering_vector",
                positive_prompts=[[*prompt, {"role": "assistant", "content": reply}] for prompt, reply, _ in pairs],
                negative_prompts=[[*prompt, {"role": "assistant", "content": reply}] for prompt, _, reply in pairs],
                layer=1,
                save_path="formality",
                pooling="response",
            )
            path = created["vector_path"]
            compared = await call(
                "compare_generations", prompts=questions, vector_path=path, strengths=[-0.5, 0.5], max_new_tokens=128
            )
            low, high = (
                fmean(score(q, text)["formality"] for q, text in zip(questions, variant["texts"], strict=True))
                for variant in compared["variants"]
            )
            assert low < -0.5 < 0.5 < high
            await call("apply_steering_vector", vector_path=path, strength=0.5)
            generated = await call("generate", prompts=questions, max_new_tokens=128)
            assert generated["texts"] == compared["variants"][1]["texts"]
            assert (await call("check_steering"))["passed"]

    anyio.run(use)


def test_the_main_job_through_the_command_line(
    tmp_path: Path, empty_session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> Any:
        assert main([*arguments, "--workspace", str(tmp_path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    (question,) = held_out_prompts("formality", 1)
    prompt = question[0]["content"]
    created = run("create", "--behavior", "formality", "--layer", "1", "--save", "formality")
    assert created["layer"] == 1
    strengths = ("--strength", "-0.5", "--strength", "0.5", "--max-new-tokens", "128")
    compared = run("compare", prompt, "--chat", "--vector", "formality", *strengths)
    low, high = (score(prompt, variant["texts"][0])["formality"] for variant in compared["variants"])
    assert low < -0.5 < 0.5 < high
    generated = run(
        "generate", prompt, "--chat", "--vector", "formality", "--strength", "0.5", "--max-new-tokens", "128"
    )
    assert generated["texts"] == compared["variants"][1]["texts"]
    assert run("check", "--vector", "formality", "--strength", "0.5")["passed"]
    assert run("status")["model"]["name"] == "bundled"
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "bundled"


def test_training_is_reproducible_and_writes_what_loading_reads(tmp_path: Path, empty_session: Session) -> None:
    for name in ("first", "second"):
        train([str(tmp_path / name), "--steps", "3", "--documents-a-step", "2"])

    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == load_file(CHECKPOINT / "model.safetensors").keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "first" / name).read_bytes() == (CHECKPOINT / name).read_bytes(), name
    assert load_model(str(tmp_path / "first"))["model"]["dtype"] == "float32"
