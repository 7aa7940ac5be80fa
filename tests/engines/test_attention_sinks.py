"""A token many times longer than its prompt's others is left out of means, told, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import family_models, massive_models
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, make_tokenizer
from steer_tools import attach_model, create_steering_vector, project_activations
from steer_tools.core.positions import attention_sinks, without
from steer_tools.core.site import Site
from steer_tools.engines.fake import FakeEngine
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.engines.pooling import sink_warnings
from steer_tools.prompts import Prompt, parse_prompt, parse_prompts
from steer_tools.session.session import Session

# The word of id 42 is one of the tokens that massive_models makes long; these texts begin with it and have no BOS.
SINK = "monu"
TEXTS = [f"{SINK} {text}" for text in PROMPTS]
SITES = [Site(0), Site(2), Site(LAYERS - 1), Site(2, "attention"), Site(0, "mlp"), Site(1, "attention", 1)]


def engine_of(model: Any) -> HuggingFaceEngine:
    return HuggingFaceEngine(model, make_tokenizer(bos=False))


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def engine(request: pytest.FixtureRequest) -> Iterator[HuggingFaceEngine]:
    engine = engine_of(massive_models.build(request.param))
    yield engine
    engine.detach()


def traced(engine: Any, prompts: tuple[Prompt, ...], tokens: slice) -> dict[Site, Tensor]:
    traces = engine.trace(prompts, SITES)
    return {site: torch.stack([trace[site][tokens].mean(dim=0) for trace in traces]) for site in SITES}


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).norm(dim=1) <= 1e-4 * expected.norm(dim=1)).all())


def test_a_token_far_longer_than_the_median_at_any_layer_is_a_sink() -> None:
    norms = torch.tensor([[1.0, 1.0, 1.0, 1.0], [60.0, 9.0, 10.0, 49.0], [300.0, 9.0, 12.0, 10.0]])
    text = [False] * 4

    assert attention_sinks(norms, text).tolist() == [True, False, False, False]
    assert attention_sinks(norms[:2], text).tolist() == [True, False, False, False]
    assert not attention_sinks(norms[:1], text).any()
    # Special tokens are no measure of the others, but may be sinks themselves.
    assert attention_sinks(torch.tensor([[90.0, 90.0, 1.0]]), [True, True, False]).tolist() == [True, True, False]
    assert not attention_sinks(torch.tensor([[90.0]]), [False]).any()


def test_a_mean_is_never_empty() -> None:
    tokens, sinks = torch.tensor([True, True, False]), torch.tensor([True, False, False])

    assert without(tokens, sinks).tolist() == [False, True, False]
    assert without(tokens, tokens).tolist() == tokens.tolist()


def test_the_mean_leaves_the_sink_out_at_every_site_and_counts_it(engine: Any) -> None:
    prompts = parse_prompts(TEXTS)

    found = engine.read(prompts, SITES, "mean")

    expected, with_sink = traced(engine, prompts, slice(1, None)), traced(engine, prompts, slice(None))
    for site in SITES:
        assert close(found[site], expected[site])
    assert not close(found[Site(2)], with_sink[Site(2)])
    assert (found.left_out.tolist(), found.taken.tolist()) == ([1] * len(TEXTS), [0] * len(TEXTS))
    assert [own.tolist().index(True) for own in engine.sinks(prompts)] == [0] * len(TEXTS)


def test_what_is_left_out_depends_neither_on_the_company_nor_on_what_else_is_read(engine: Any) -> None:
    prompts = parse_prompts([*TEXTS, *PROMPTS])
    together = engine.read(prompts, SITES, "mean")

    for index, prompt in enumerate(prompts):
        for site in SITES:
            alone = engine.read([prompt], [site], "mean")
            assert close(alone[site], together[site][index : index + 1])
            assert int(alone.left_out) == int(together.left_out[index])
    assert together.left_out.tolist() == [1] * len(TEXTS) + [0] * len(PROMPTS)


def test_a_prompt_of_nothing_but_a_sink_keeps_it(engine: Any) -> None:
    found = engine.read(parse_prompts([SINK, f"{SINK} keke"]), [Site(2)], "mean")

    assert found.left_out.tolist() == [0, 1]
    assert float(found[Site(2)][0].norm()) > 100 * float(found[Site(2)][1].norm())


def test_an_answers_mean_leaves_its_sinks_out(engine: Any) -> None:
    chat = parse_prompt([{"role": "user", "content": "baba"}, {"role": "assistant", "content": f"lili {SINK} mora"}])

    found = engine.read([chat], [Site(2)], "response")

    (trace,) = engine.trace([chat], [Site(2)])
    assert close(found[Site(2)], trace[Site(2)][[-3, -1]].mean(dim=0, keepdim=True))
    assert found.left_out.tolist() == [1]


def test_who_names_one_token_has_it_and_is_told(engine: Any) -> None:
    prompts = parse_prompts([f"{text} {SINK}" for text in PROMPTS])

    last, first = (engine.read(prompts, [Site(2)], pooling) for pooling in ("last", "first"))

    assert close(last[Site(2)], torch.stack([t[Site(2)][-1] for t in engine.trace(prompts, [Site(2)])]))
    assert (last.taken.tolist(), last.left_out.tolist()) == ([1] * len(prompts), [0] * len(prompts))
    assert not first.taken.any()
    assert "4 of 4 prompts pooling='last' reads an attention sink" in sink_warnings("last", [last])[0]
    assert sink_warnings("first", [first]) == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3_text", "mixtral"])
def test_where_there_is_none_the_mean_is_that_of_all_tokens_bit_for_bit(family: str) -> None:
    engine, prompts = engine_of(family_models.build(family)), parse_prompts([*PROMPTS, *POSITIVE])

    found = engine.read(prompts, SITES, "mean")

    by_function = engine.read(prompts, SITES, lambda prompt: [not special for special in prompt.special])
    assert all(torch.equal(found[site], by_function[site]) for site in SITES)
    assert not found.left_out.any()


def test_the_toy_has_none_and_says_so() -> None:
    found = FakeEngine().read(parse_prompts(PROMPTS), [Site(2)], "mean")

    assert not found.left_out.any() and not found.taken.any()


def test_tools_say_how_many_tokens_they_left_out(empty_session: Session) -> None:
    attach_model(massive_models.build("llama"), make_tokenizer(bos=False), "massive")
    sides = [[f"{SINK} {text}" for text in side] for side in (POSITIVE, NEGATIVE)]

    made = create_steering_vector(*sides, 2, "v", pooling="mean")
    read = project_activations(made["vector_path"], prompts=[f"{SINK} baba keke"])

    (told,) = [warning for warning in made["warnings"] if "attention sinks" in warning]
    assert told.startswith("8 tokens in 8 of 8 prompts are attention sinks")
    assert made["contrast_norm"] < 5 * made["residual_norm"]
    assert [warning for warning in read["warnings"] if "1 tokens in 1 of 1 prompts" in warning]
    plain = create_steering_vector(POSITIVE, NEGATIVE, 2, "w", pooling="mean")
    assert not [warning for warning in plain["warnings"] if "attention sinks" in warning]


def test_the_typical_norm_is_that_of_text(empty_session: Session) -> None:
    attach_model(massive_models.build("llama"), make_tokenizer(bos=False), "massive")
    engine: Any = empty_session.engine
    engine.neutral_prompts = parse_prompts([f"keke {SINK}", f"lili {SINK}", f"mora {SINK} seti"])

    assert empty_session.typical_norm(Site(2)) < 200
