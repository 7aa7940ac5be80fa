"""What create_steering_vector reports and saves for every method, component and pooling, and what it warns of."""

from __future__ import annotations

import random
from itertools import product
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers import family_models
from helpers.contrast_classes import fit
from helpers.oracle import outputs_by_hand
from helpers.small_models import LAYERS, WIDTH, make_model, make_tokenizer
from steer_tools import create_steering_vector, load_vector
from steer_tools.core.interventions import INTERVENTIONS
from steer_tools.core.site import Site
from steer_tools.directions import extraction
from steer_tools.directions.methods import METHODS
from steer_tools.directions.session_methods import SESSION_METHODS
from steer_tools.engines.base import Row
from steer_tools.engines.pooling import TokenizedPrompt
from steer_tools.errors import ArgumentError, DirectionError, PromptError, SteeringError, UnsupportedFeatureError
from steer_tools.prompts import parse_prompts
from steer_tools.session.placement import place
from steer_tools.session.session import Session
from steer_tools.tools.choices import InterventionName, MethodName
from steer_tools.tools.create_steering_vector import ComponentName

WORDS = ["baba", "keke", "zuzu", "mimi", "dodo", "lulu"]


def words(count: int, last: str, seed: int = 0) -> list[str]:
    """Different texts of four words before the one that makes the difference."""
    every = list(product(WORDS, repeat=4))
    return [" ".join([*four, last]) for four in random.Random(seed).sample(every, count)]


MANY = words(12, "baba", 1), words(12, "zuzu", 2)
PAIRED = [[1, 20 + i, 30, 60] for i in range(10)], [[1, 20 + i, 30, 70] for i in range(10)]


def activations(session: Session, prompts: Any, site: Site, pooling: Any = "last") -> Tensor:
    return session.engine.read(parse_prompts(prompts), [site], pooling)[site]


@pytest.mark.parametrize(
    "method", [way.name for way in (*METHODS.values(), *SESSION_METHODS.values()) if way.is_paired]
)
def test_a_method_of_pairs_refuses_sides_of_unequal_length(session: Session, method: Any) -> None:
    with pytest.raises(PromptError, match="works on pairs"):
        create_steering_vector([[1, 20], [1, 30]], [[1, 40]], 1, "v", method=method)


def test_the_schema_names_exactly_the_methods_sources_interventions_and_components() -> None:
    assert set(get_args(MethodName)) == {*METHODS, *SESSION_METHODS}
    assert set(get_args(InterventionName)) == set(INTERVENTIONS)
    assert set(get_args(get_args(ComponentName)[0])) == {"residual", "embedding", "attention", "mlp"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_saves_what_it_fits_on_the_activations_of_the_prompts(session: Session, method: Any) -> None:
    positive, negative = [p[:1] for p in MANY] if method == "act_add" else MANY

    result = create_steering_vector(positive, negative, 1, "v", method=method)

    sides = [activations(session, side, Site(1)) for side in (positive, negative)]
    fitted = fit(METHODS[method], *sides)
    vector = load_vector(result["vector_path"])
    torch.testing.assert_close(vector.directions[1], fitted.direction, atol=1e-5, rtol=1e-4)
    assert vector.info.method == result["method"] == method
    assert vector.info.thresholds[1] == pytest.approx(fitted.threshold, abs=1e-4)
    assert result["prompt_counts"] == [len(positive), len(negative)]
    for key in ("contrast_norm", "threshold", "separation", "d_prime", "pair_agreement", "misses", "false_alarms"):
        expected = getattr(fitted, key)
        assert result[key] == (None if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-4)), key


def test_figures_that_hold_out_prompts_are_null_below_eight_and_there_from_eight_on(session: Session) -> None:
    few = create_steering_vector(MANY[0][:7], MANY[1][:7], 1, "v", method="pca")
    repeated = create_steering_vector(MANY[0][:4] * 3, MANY[1][:4] * 3, 1, "v", method="pca")
    enough = create_steering_vector(MANY[0][:8], MANY[1][:8], 1, "v", method="pca")

    for key in ("separation", "d_prime", "misses", "false_alarms"):
        assert few[key] is None and repeated[key] is None and enough[key] is not None, key
    assert few["pair_agreement"] is not None and few["threshold"] is not None


def test_several_layers_report_a_list_of_each_figure(session: Session) -> None:
    result = create_steering_vector(*MANY, [0, 2], "v", method="pca")

    for key in ("magnitude", "threshold", "separation", "d_prime", "pair_agreement", "misses", "false_alarms"):
        assert len(result[key]) == 2 and None not in result[key], key


@pytest.mark.parametrize(
    ("component", "layer", "head", "width"),
    [("embedding", 0, None, WIDTH), ("attention", 1, None, WIDTH), ("mlp", 2, None, WIDTH), ("attention", 1, 3, 8)],
)
def test_a_component_is_read_saved_and_steered_at_its_own_site(
    session: Session, component: Any, layer: int, head: int | None, width: int
) -> None:
    result = create_steering_vector(*MANY, layer, "v", component=component, head=head)

    site = Site(layer, component, head)
    sides = [activations(session, side, site).mean(dim=0) for side in MANY]
    vector = load_vector(result["vector_path"])
    assert (vector.component, vector.head, result["shape"]) == (component, head, [width])
    torch.testing.assert_close(vector.directions[layer], sides[0] - sides[1], atol=1e-5, rtol=1e-4)
    placed = place(session, vector, None)
    assert [placement.site for placement in placed.unit_placements] == [site]
    norms = [trace[site][1:].norm(dim=1) for trace in session.engine.trace(session.engine.neutral_prompts, [site])]
    assert result["residual_norm"] == pytest.approx(float(torch.cat(norms).median()), rel=0.3)


def test_an_embedding_has_one_layer_and_a_format_without_components_refuses_them(session: Session) -> None:
    with pytest.raises(SteeringError, match="no layer 1"):
        create_steering_vector(*MANY, 1, "v", component="embedding")
    with pytest.raises(UnsupportedFeatureError, match="mlp"):
        create_steering_vector(*MANY, 1, "v.gguf", component="mlp")
    with pytest.raises(ArgumentError, match="head"):
        create_steering_vector(*MANY, 1, "v", component="mlp", head=0)


# Pooling


def test_a_function_chooses_the_tokens_that_are_read(session: Session, family: str) -> None:
    def second(prompt: TokenizedPrompt) -> list[bool]:
        return [i == 1 for i in range(len(prompt.tokens))]

    result = create_steering_vector(*MANY, 1, "v", pooling=second)

    model, tokenizer = make_model(family), make_tokenizer()
    sides = [torch.stack([outputs_by_hand(model, tokenizer(t)["input_ids"])[1][1] for t in side]) for side in MANY]
    vector = load_vector(result["vector_path"])
    torch.testing.assert_close(vector.directions[1], sides[0].mean(0) - sides[1].mean(0), atol=1e-4, rtol=1e-4)
    assert vector.info.pooling == "custom"


@pytest.mark.parametrize(
    ("chosen", "error"),
    [([True], ArgumentError), ([0.5] * 6, ArgumentError), ([False] * 6, PromptError), ([1] * 6, ArgumentError)],
)
def test_a_function_that_does_not_say_one_bool_a_token_is_refused(
    llama_session: Session, chosen: list[Any], error: type[SteeringError]
) -> None:
    with pytest.raises(error, match=r"one bool a token|no token"):
        create_steering_vector(*MANY, 1, "v", pooling=lambda prompt: chosen[: len(prompt.tokens)])


# Many prompts


@pytest.mark.parametrize("method", ["mean_difference", "paired_mean_difference", "pca", "lda", "logistic"])
def test_blocks_of_prompts_give_the_direction_of_all_at_once(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    positive, negative = words(40, "baba", 1), words(40, "zuzu", 2)
    whole = load_vector(create_steering_vector(positive, negative, 1, "v", method=method)["vector_path"])
    monkeypatch.setattr(extraction, "_BLOCK", 7)

    in_blocks = load_vector(create_steering_vector(positive, negative, 1, "v", method=method)["vector_path"])

    torch.testing.assert_close(in_blocks.directions[1], whole.directions[1], atol=1e-5, rtol=1e-4)


def test_blocks_of_sides_of_unequal_length_leave_nothing_out(
    llama_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    positive, negative = words(23, "baba", 1), words(9, "zuzu", 2)
    monkeypatch.setattr(extraction, "_BLOCK", 4)

    result = create_steering_vector(positive, negative, 1, "v")

    sides = [activations(llama_session, side, Site(1)).mean(dim=0) for side in (positive, negative)]
    vector = load_vector(result["vector_path"])
    torch.testing.assert_close(vector.directions[1], sides[0] - sides[1], atol=1e-5, rtol=1e-4)
    assert result["prompt_counts"] == [23, 9]


# Features and training


def test_a_feature_gets_the_length_of_its_contrast_and_the_sign_of_the_prompts(session: Session) -> None:
    decoder = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    session.workspace.root.mkdir(parents=True, exist_ok=True)
    save_file({"W_dec": decoder}, session.workspace.root / "sae.safetensors")
    sides = [activations(session, side, Site(1)).mean(dim=0) for side in MANY]
    signs = set()

    for feature in range(5):
        options = {"sae": "sae.safetensors", "feature": feature}
        result = create_steering_vector(*MANY, 1, "v", method="sae_feature", options=options)
        unit = decoder[feature] / decoder[feature].norm()
        expected = unit * (unit @ (sides[0] - sides[1]))
        vector = load_vector(result["vector_path"])
        torch.testing.assert_close(vector.directions[1], expected, atol=1e-5, rtol=1e-3)
        is_opposite = bool(unit @ (sides[0] - sides[1]) < 0)
        assert any("is its opposite" in text for text in result["warnings"]) == is_opposite
        signs.add(is_opposite)
    assert signs == {True, False}


def test_a_feature_that_was_trained_elsewhere_or_is_of_another_width_is_told(session: Session) -> None:
    root = session.workspace.root / "release"
    root.mkdir(parents=True)
    save_file({"W_dec": torch.randn(3, WIDTH)}, root / "sae_weights.safetensors")
    (root / "cfg.json").write_text('{"hook_name": "blocks.2.hook_resid_pre"}')
    options = {"sae": "release", "feature": 1}

    def warned(layer: int) -> bool:
        result = create_steering_vector(*MANY, layer, "v", method="sae_feature", options=options)
        return any("reads layer 1 residual" in text for text in result["warnings"])

    assert not warned(1)  # What goes into block 2 is the output of block 1.
    assert warned(2)
    save_file({"W_dec": torch.randn(3, WIDTH + 1)}, root / "sae_weights.safetensors")
    with pytest.raises(DirectionError, match=f"width {WIDTH + 1}"):
        create_steering_vector(*MANY, 1, "v", method="sae_feature", options=options)


def test_a_trained_direction_keeps_the_length_that_its_budget_gave_it(session: Session) -> None:
    options = {"steps": 6, "batch": 4, "budget": 0.5}

    result = create_steering_vector(*PAIRED, 1, "v", method="trained", options=options)

    vector = load_vector(result["vector_path"])
    assert 0 < result["magnitude"] <= 0.5 * result["contrast_norm"] * (1 + 1e-5)
    prompts = parse_prompts([pair[:3] for pair in PAIRED[0]])
    odds = []
    for strength in (-1.0, 0.0, 1.0):
        rows = [Row(prompt, place(session, vector, 1).plan(strength)) for prompt in prompts]
        sides = [session.engine.score(rows, [completion] * 10) for completion in ((60,), (70,))]
        odds.append(float(torch.cat(sides[0]).sum() - torch.cat(sides[1]).sum()))
    assert odds[0] < odds[1] < odds[2]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lda", {"shrink": 0.5}, "shrinkage"),
        ("lda", {"shrinkage": 7}, "shrinkage"),
        ("random", {"seed": "one"}, "seed"),
        ("mean_difference", {"seed": 1}, "no options"),
        ("trained", {"epochs": 3}, "steps (default 40)"),
        ("trained", {"steps": 0}, "steps >= 1"),
        ("sae_feature", None, "path of a safetensors or .npz file"),
        ("sae_feature", {"path": "x"}, "sae (default"),
    ],
)
def test_options_that_a_method_does_not_have_are_refused_with_those_it_has(
    llama_session: Session, method: Any, options: Any, words: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        create_steering_vector(*PAIRED, 1, "v", method=method, options=options)

    assert words in str(caught.value)


def test_a_seed_makes_another_control_and_shrinkage_another_discriminant(session: Session) -> None:
    def direction(method: Any, options: Any) -> Tensor:
        path = create_steering_vector(*MANY, 1, "v", method=method, options=options)["vector_path"]
        return load_vector(path).directions[1]

    for method, options in (("random", {"seed": 1}), ("balanced_shuffle", {"seed": 1}), ("lda", {"shrinkage": 0.9})):
        assert torch.equal(direction(method, options), direction(method, options))
        assert not torch.equal(direction(method, options), direction(method, None))


# Warnings


@pytest.mark.parametrize(
    ("positive", "negative", "options", "words"),
    [
        (MANY[0], MANY[1], {}, "end in another token"),
        (MANY[0], [f"{text} keke keke keke" for text in MANY[0]], {"pooling": "mean"}, "differ in length"),
        (MANY[0][:7], MANY[1][:7], {}, "Only 7 different"),
        (words(12, "baba", 1), words(12, "baba", 2), {"method": "pca"}, "hardly agree"),
        (MANY[0], MANY[1], {"layer": LAYERS - 1}, "is the last block"),
    ],
)
def test_a_confound_is_warned_of_and_only_where_it_is(
    llama_session: Session, positive: list[str], negative: list[str], options: dict[str, Any], words: str
) -> None:
    layer = options.pop("layer", 1)

    found = create_steering_vector(positive, negative, layer, "v", **options)["warnings"]
    clean = create_steering_vector(
        [f"baba {text} dodo" for text in MANY[0]], [f"zuzu {text} dodo" for text in MANY[0]], 1, "v", method="pca"
    )["warnings"]

    assert any(words in text for text in found), found
    assert ["plain texts" in text for text in clean] == [True]


# What a hostile reader found


def test_all_layers_of_a_component_are_those_that_have_it(empty_session: Session) -> None:
    empty_session.attach(family_models.build("lfm2"), make_tokenizer())
    heads = create_steering_vector(*MANY, "all", "v", component="attention", head=0)["layer"]
    empty_session.attach(make_model("llama"), make_tokenizer())

    assert heads == [1, 3]  # Layers 0 and 2 are convolutions.
    assert create_steering_vector(MANY[0], MANY[1], "all", "v", component="embedding", pooling="mean")["layer"] == 0
    empty_session.attach(family_models.build("bert"), make_tokenizer())
    with pytest.raises(UnsupportedFeatureError, match="could not be told apart"):
        create_steering_vector(*MANY, "all", "v", component="mlp")


@pytest.mark.parametrize("head", ["1", True, 1.0])
def test_a_head_is_a_whole_number(llama_session: Session, head: Any) -> None:
    with pytest.raises(ArgumentError, match="head is"):
        create_steering_vector(*MANY, 1, "v", component="attention", head=head)


def test_figures_of_a_trained_direction_are_null_since_it_has_seen_every_pair(llama_session: Session) -> None:
    result = create_steering_vector(*PAIRED, 1, "v", method="trained", options={"steps": 2})

    assert [result[key] for key in ("separation", "d_prime", "misses", "false_alarms")] == [None] * 4
    assert create_steering_vector(*PAIRED, 1, "v", method="pca")["separation"] is not None


def test_training_works_where_gradients_are_switched_off(llama_session: Session) -> None:
    with torch.inference_mode():
        result = create_steering_vector(*PAIRED, 1, "v", method="trained", options={"steps": 2})

    assert result["magnitude"] > 0
