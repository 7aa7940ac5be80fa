"""SmolLM2, whose first token has a stream 35 to 180 times as long as the others': its parts and vectors in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.by_hand import gap_of, placed, projected_out_by_hand, vector_at
from steer_tools import create_steering_vector, load_vector, save_edited_model
from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import parse_prompts
from steer_tools.session.checks import run_checks
from steer_tools.session.session import Session
from steer_tools.weights.bakeable_plans import ablation_everywhere, writing_sites

LAYERS, HEADS = 30, 9
POSITIVE, NEGATIVE = (
    [
        f"{start} {end}"
        for start in ("The guests said the evening was", "She opened the letter and felt", "All in all, his week was")
        for end in ends
    ]
    for ends in (("wonderful and warm.", "full of joy."), ("dreadful and cold.", "full of grief."))
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engines(smollm2: Callable[[torch.dtype], tuple[Any, Any]]) -> Iterator[tuple[HuggingFaceEngine, HuggingFaceEngine]]:
    """In bfloat16 and in float32."""
    found = HuggingFaceEngine(*smollm2(torch.bfloat16)), HuggingFaceEngine(*smollm2(torch.float32))
    yield found
    for engine in found:
        engine.detach()


def test_every_attention_and_mlp_is_found_in_bfloat16(engines: tuple[HuggingFaceEngine, HuggingFaceEngine]) -> None:
    engine, exact = engines
    names = {module: name for name, module in engine.module.named_modules()}

    mixers = [[names[own.module] for own in parts.mixers] for parts in engine.parts]
    mlps = [[names[own.module] for own in parts.mlps] for parts in engine.parts]

    assert mixers == [[f"model.layers.{layer}.self_attn"] for layer in range(LAYERS)]
    assert mlps == [[f"model.layers.{layer}.mlp"] for layer in range(LAYERS)]
    assert [own.heads for parts in engine.parts for own in parts.mixers] == [HEADS] * LAYERS
    assert engine.behaviour == exact.behaviour


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_of_bfloat16_are_those_of_float32(
    engines: tuple[HuggingFaceEngine, HuggingFaceEngine], pooling: Pooling
) -> None:
    sites = [
        Site(layer, component, head)
        for layer in range(LAYERS)
        for component, head in (("residual", None), ("attention", None), ("mlp", None), ("attention", layer % HEADS))
    ]

    def contrasts(engine: HuggingFaceEngine) -> dict[Site, Tensor]:
        positive, negative = (engine.read(parse_prompts(side), sites, pooling) for side in (POSITIVE, NEGATIVE))
        return {site: positive[site].mean(dim=0) - negative[site].mean(dim=0) for site in sites}

    ours, exact = map(contrasts, engines)

    cosines = {site: float(torch.cosine_similarity(ours[site], exact[site], dim=0)) for site in sites}
    typical = engines[1].read(parse_prompts([*POSITIVE, *NEGATIVE]), sites, pooling)
    # A contrast shorter than one rounding of what it is the difference of is not there in half precision.
    eps = torch.finfo(torch.bfloat16).eps
    short = [site for site in sites if exact[site].norm() < eps * typical[site].norm(dim=1).mean()]
    told = {site: cosine for site, cosine in cosines.items() if site not in short}
    print(f"{pooling}: least cosine {min(told.values()):.4f}; too short: {[(str(s), cosines[s]) for s in short]}")
    assert min(told.values()) >= 0.99
    assert len(short) <= 1


def test_the_first_token_of_a_text_is_a_sink_and_left_out_of_means(
    engines: tuple[HuggingFaceEngine, HuggingFaceEngine],
) -> None:
    prompts = parse_prompts(POSITIVE)
    for engine in engines:
        left_out = engine.read(prompts, [Site(13)], "mean").left_out
        sinks = engine.sinks(prompts)
        by_function = engine.read(prompts, [Site(13)], lambda prompt: [True] * len(prompt.tokens))

        assert all(bool(own[0]) for own in sinks)
        assert left_out.tolist() == [int(own.sum()) for own in sinks]
        ours = engine.read(prompts, [Site(13)], "mean")[Site(13)].norm(dim=1)
        assert float((by_function[Site(13)].norm(dim=1) / ours).min()) > 8


SITES = {
    "embedding": Site(0, "embedding"),
    "residual": Site(13),
    "attention": Site(13, "attention"),
    "mlp": Site(13, "mlp"),
    "head": Site(13, "attention", 4),
}
PROMPT = parse_prompts([[{"role": "user", "content": "How was your week?"}]])


@pytest.mark.parametrize("where", SITES)
def test_check_steering_holds_for_every_intervention_at_every_kind_of_site(
    engines: tuple[HuggingFaceEngine, HuggingFaceEngine], where: str
) -> None:
    engine, _ = engines
    vector = vector_at(engine, SITES[where], (POSITIVE, NEGATIVE), "mean")
    for kind in INTERVENTIONS:
        engine.set_ambient((placed(vector, kind, SITES[where], "generated", 1.0),))

        proof = run_checks(engine, [*PROMPT, *parse_prompts(["The evening was"])], 2)

        assert [check for check in proof.checks if not check.passed] == [], kind
        assert (len(proof.checks), proof.idle) == (8, ""), kind
    engine.set_ambient(())


# In standard deviations of a token's logits, by hooks and by weights: bfloat16 rounds at every block, and the weights.
ROOM = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (0.4, 1.5)}


@pytest.mark.parametrize("dtype", ROOM, ids=str)
def test_an_ablation_by_hooks_and_by_weights_is_that_of_plain_transformers(
    smollm2: Callable[[torch.dtype], tuple[Any, Any]], dtype: torch.dtype, empty_session: Session
) -> None:
    model, tokenizer = smollm2(dtype)
    empty_session.attach(model, tokenizer, "smollm2")
    engine: Any = empty_session.engine
    vector = create_steering_vector(POSITIVE, NEGATIVE, 13, "v", pooling="mean")["vector_path"]
    direction, found = load_vector(vector).directions[13], engine.find_writers()
    ids = torch.tensor([engine.tokenize(PROMPT[0]).tokens])

    def logits(run: Any) -> Tensor:
        with torch.no_grad():
            return run(ids).logits[0].float()

    engine.set_ambient(ablation_everywhere(direction, writing_sites(found)))
    hooked = logits(model)
    engine.set_ambient(())
    before = logits(model)
    saved = save_edited_model("edited", ablate=vector)
    empty_session.detach()
    with projected_out_by_hand(
        model, [own.name for own in found if own.site.component != "embedding"], "model.layers.0", direction
    ):
        expected = logits(model)
    baked = AutoModelForCausalLM.from_pretrained(saved["folder"], dtype=dtype).eval()

    gaps = {"hooks": gap_of(hooked, expected), "weights": gap_of(logits(baked), expected)}
    effect = gap_of(before, expected)
    print(
        f"{dtype}: from plain transformers, in standard deviations of logits: {gaps}; the ablation moves {effect:.3g}"
    )
    by_hooks, by_weights = ROOM[dtype]
    assert gaps["hooks"] <= by_hooks
    assert gaps["weights"] <= by_weights < effect / 2
