"""Embedding, attention, MLP and single heads are read and steered as hooks by hand on named modules do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from helpers import family_models
from helpers.oracle import SCOPES, Chooses
from helpers.small_models import PROMPTS, WIDTH, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Component, Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, LayerError, UnsupportedFeatureError
from steer_tools.prompts import Prompt, parse_prompts

LAYER, HEAD, STEPS = 2, 1, 8
# Model type: module paths of the blocks, and inside a block of what writes as attention, of its output projection, and
# of what writes as MLP, all written down by hand.
NAMES = {
    "llama": ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp"),
    "gpt2": ("transformer.h", "attn.c_proj", "attn.c_proj", "mlp"),
    "bloom": ("transformer.h", "self_attention.dense", "self_attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "self_attn.out_proj", "fc2"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "attention.dense", "mlp"),
    "falcon": ("transformer.h", "self_attention.dense", "self_attention.dense", "mlp.dense_4h_to_h"),
    "gemma3_text": ("model.layers", "post_attention_layernorm", "self_attn.o_proj", "post_feedforward_layernorm"),
    "qwen3_moe": ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp"),
}
SITES = {
    "embedding": Site(0, "embedding"),
    "attention": Site(LAYER, "attention"),
    "head": Site(LAYER, "attention", HEAD),
    "mlp": Site(LAYER, "mlp"),
}


@pytest.fixture(scope="module", params=NAMES)
def model_type(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def engine(model_type: str) -> Iterator[HuggingFaceEngine]:
    engine = HuggingFaceEngine(family_models.build(model_type), make_tokenizer())
    yield engine
    engine.detach()


@pytest.fixture(scope="module")
def by_hand(model_type: str) -> Any:
    return family_models.build(model_type)


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> Site:
    return SITES[request.param]


def prompts() -> tuple[Prompt, ...]:
    return parse_prompts(PROMPTS)


def head_width(model: Any) -> int:
    config = model.config
    return getattr(config, "head_dim", None) or WIDTH // config.num_attention_heads


def delta_of(model: Any, site: Site, seed: int = 0) -> Tensor:
    width = WIDTH if site.head is None else head_width(model)
    return 3.0 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


@contextmanager
def seen_by_hand(model: Any, site: Site, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show `change` what is at the site in each pass of one row, as (tokens, width), and put its answer there."""
    blocks, writer, projection, mlp = NAMES[model.config.model_type]
    block = model.get_submodule(blocks)[site.layer]

    def on_output(module: nn.Module, args: Any, output: Any) -> Any:
        edited = change(output.view(-1, WIDTH).clone())  # Falcon changes it afterwards.
        return None if edited is None else edited.view_as(output)

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        whole = args[0] if args else kwargs["hidden_states"]
        width = head_width(model)
        columns = slice(None) if site.head is None else slice(site.head * width, (site.head + 1) * width)
        edited = change(whole[0, :, columns])
        if edited is None:
            return None
        whole = whole.clone()
        whole[0, :, columns] = edited
        return ((whole, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": whole})

    if site.component == "embedding":
        handle = block.register_forward_pre_hook(on_input, with_kwargs=True)
    elif site.head is not None:
        handle = block.get_submodule(projection).register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = block.get_submodule(mlp if site.component == "mlp" else writer).register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


def greedy(model: Any, text: str, site: Site, delta: Tensor, chooses: Chooses) -> list[int]:
    ids = make_tokenizer()(text)["input_ids"]
    prompt = len(ids)

    def change(hidden: Tensor) -> Tensor:
        steered = torch.tensor([chooses(p, prompt, int(ids[0] == 1)) for p in range(len(ids))])
        return torch.where(steered[:, None], hidden + delta, hidden)

    with torch.no_grad(), seen_by_hand(model, site, change):
        for _ in range(STEPS):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    new = ids[prompt:]
    return new[: next((i for i, token in enumerate(new) if token in (2, 3)), len(new))]


def add(model: Any, site: Site, positions: str = "generated", seed: int = 0) -> Placement:
    return Placement(Add(delta_of(model, site, seed)), site, 1.0, Scope.parse(positions))


def tokens_of(engine: HuggingFaceEngine, rows: list[Row], **options: Any) -> list[list[int]]:
    return [list(g.tokens) for g in engine.generate(rows, Sampling(STEPS, **options))]


def test_a_site_is_read_as_by_hand_in_a_padded_batch(engine: Any, by_hand: Any, site: Site) -> None:
    traces = engine.trace(prompts(), [site])
    last = engine.read(prompts(), [site], "last")[site]

    for text, trace, end in zip(PROMPTS, traces, last, strict=True):
        kept: list[Tensor] = []
        with torch.no_grad(), seen_by_hand(by_hand, site, kept.append):
            by_hand(torch.tensor([make_tokenizer()(text)["input_ids"]]))
        torch.testing.assert_close(trace[site], kept[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(end, kept[0][-1], atol=1e-5, rtol=1e-5)
    assert engine.width(site) == last.shape[1]


@pytest.mark.parametrize("positions", ["generated", "prompt", "all", "first"])
def test_a_site_is_steered_as_by_hand_in_every_way_of_generating(
    engine: Any, by_hand: Any, site: Site, positions: str
) -> None:
    rows = [Row(prompt, (add(by_hand, site, positions),)) for prompt in prompts()]
    expected = [greedy(by_hand, t, site, delta_of(by_hand, site), SCOPES[positions]) for t in PROMPTS]
    unsteered = [greedy(by_hand, t, site, 0 * delta_of(by_hand, site), SCOPES[positions]) for t in PROMPTS]

    assert tokens_of(engine, rows) == expected
    assert tokens_of(engine, rows, use_cache=False) == expected
    assert [tokens_of(engine, [row])[0] for row in rows] == expected
    assert tokens_of(engine, [Row(prompt) for prompt in prompts()]) == unsteered
    assert expected != unsteered


def test_what_is_applied_at_a_site_steers_the_users_own_generate_and_comes_off(
    engine: Any, by_hand: Any, site: Site
) -> None:
    model, ids = engine.architecture.model, torch.tensor([make_tokenizer()(PROMPTS[3])["input_ids"]])
    before = model(ids).logits
    engine.set_ambient((add(by_hand, site),))

    own = model.generate(ids, max_new_tokens=STEPS, do_sample=False, eos_token_id=[2, 3])[0, ids.shape[1] :].tolist()
    observation = engine.observe(prompts()[3], 4)
    live = engine.hooks_are_live()
    engine.set_ambient(())

    expected = greedy(by_hand, PROMPTS[3], site, delta_of(by_hand, site), SCOPES["generated"])
    assert own[: len(expected)] == expected
    assert live and observation.firings == {site: 4}
    for edit in observation.edits:
        assert edit.site == site
        steered = torch.arange(edit.start, edit.start + len(edit.before)) >= ids.shape[1] - 1
        assert torch.equal(edit.after[steered], edit.before[steered] + delta_of(by_hand, site))
        assert torch.equal(edit.after[~steered], edit.before[~steered])
    assert torch.equal(model(ids).logits, before)


def test_what_a_head_was_given_is_not_changed_in_place(engine: Any, by_hand: Any) -> None:
    part = engine.parts[LAYER].mixers[0]
    engine.set_ambient((add(by_hand, SITES["head"]),))
    given: list[Tensor] = []
    handle = part.projection.register_forward_pre_hook(
        lambda m, args: given.extend((args[0], args[0].clone())), prepend=True
    )

    with torch.no_grad():
        engine.architecture.model(torch.tensor([[3, 5, 7]]))

    handle.remove()
    engine.set_ambient(())
    assert len(given) == 2 and torch.equal(given[0], given[1])


def test_rows_with_different_sites_in_one_batch_equal_each_alone(engine: Any, by_hand: Any) -> None:
    both_heads = (add(by_hand, SITES["head"]), add(by_hand, Site(LAYER, "attention", 3), seed=1))
    plans = [(add(by_hand, site),) for site in SITES.values()]
    every = (*both_heads, add(by_hand, SITES["mlp"]), add(by_hand, Site(LAYER)))
    rows = [Row(prompts()[2], plan) for plan in (*plans, both_heads, every, ())]

    together = tokens_of(engine, rows)

    assert together == [tokens_of(engine, [row])[0] for row in rows]
    assert len({tuple(tokens) for tokens in together}) >= 5


def test_the_parts_add_up_to_the_stream_of_the_next_layer(engine: Any) -> None:
    sites = [Site(LAYER - 1), Site(LAYER, "attention"), Site(LAYER, "mlp"), Site(LAYER)]

    for trace in engine.trace(prompts(), sites):
        before, attention, mlp, after = (trace[site] for site in sites)
        torch.testing.assert_close(before + attention + mlp, after, atol=1e-4, rtol=1e-4)
        assert float((before + mlp - after).abs().max()) > 1e-2


@pytest.mark.parametrize(("of", "path"), [("llama", "self_attn.o_proj"), ("gpt2", "attn.c_proj")])
def test_a_heads_edit_reaches_the_stream_through_its_columns_of_the_output_matrix(of: str, path: str) -> None:
    model: Any = family_models.build(of)
    engine = HuggingFaceEngine(model, make_tokenizer())
    projection: Any = engine.architecture.blocks[LAYER].get_submodule(path)
    weight = projection.weight if of == "llama" else projection.weight.T  # (width, heads · 8)
    expected = weight.detach().reshape(WIDTH, 4, 8) @ delta_of(model, SITES["head"])  # (width, heads)

    def output(*plan: Placement) -> Tensor:
        engine.set_ambient(plan)
        seen: list[Tensor] = []
        handle = projection.register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
        model(torch.tensor([[1, 20, 33, 47, 52]]))
        handle.remove()
        return seen[0]

    for head in range(4):
        everywhere, at_the_last = (
            output(add(model, Site(LAYER, "attention", head), positions)) - output()
            for positions in ("all", "generated")
        )

        torch.testing.assert_close(everywhere, expected[:, head].expand(5, WIDTH), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(at_the_last[-1], expected[:, head], atol=1e-4, rtol=1e-4)
        assert torch.equal(at_the_last[:-1], torch.zeros(4, WIDTH))
    assert float(expected.norm(dim=0).min()) > 1


@pytest.fixture(params=["qwen3_next", "diffllama"])
def odd_heads(request: pytest.FixtureRequest) -> tuple[Any, str, int, int, Callable[[Any], None]]:
    """A model whose heads are not the config's, where they are taken, how many, how wide, and what changes the last."""
    if request.param == "qwen3_next":
        config = family_models.build("qwen3_next").config
        config.linear_num_value_heads = 8
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()

        def decay_more(mixer: Any) -> None:
            mixer.linear_attn.A_log[7] += 1

        return model, "linear_attn.out_proj", 8, 8, decay_more

    def ask_otherwise(mixer: Any) -> None:
        # The second of two differential heads is queries 1 minus queries 3.
        mixer.self_attn.q_proj.weight[8:16] *= -2

    return family_models.build("diffllama"), "self_attn.o_proj", 2, 16, ask_otherwise


def test_heads_that_are_not_the_configs_are_those_of_the_models_own_code(
    odd_heads: tuple[Any, str, int, int, Callable[[Any], None]],
) -> None:
    model, path, count, width, change_the_last = odd_heads
    engine, ids, kept = HuggingFaceEngine(model, make_tokenizer()), make_tokenizer()(PROMPTS[3])["input_ids"], []
    sites = [Site(0, "attention", head) for head in range(count)]
    projection = engine.architecture.blocks[0].get_submodule(path)
    handle = projection.register_forward_pre_hook(lambda module, args: kept.append(args[0][0].detach()))
    model(torch.tensor([ids]))
    handle.remove()

    (before,) = engine.trace([parse_prompts(PROMPTS)[3]], sites)
    with torch.no_grad():
        change_the_last(engine.architecture.blocks[0])
    (after,) = engine.trace([parse_prompts(PROMPTS)[3]], sites)

    for head, site in enumerate(sites):
        by_hand = kept[0][:, head * width : (head + 1) * width]
        torch.testing.assert_close(before[site], by_hand, atol=1e-5, rtol=1e-5)
        assert torch.equal(after[site], before[site]) == (head < count - 1)
    assert model.config.num_attention_heads == 4
    assert engine.width(sites[-1]) == width
    with pytest.raises(ArgumentError, match=f"0 to {count - 1} at layer 0"):
        engine.read(prompts(), [Site(0, "attention", count)], "last")


@pytest.mark.parametrize(
    ("model_type", "component", "layer", "head", "error", "words"),
    [
        ("llama", "attention", 1, 4, ArgumentError, "0 to 3 at layer 1"),
        ("llama", "attention", 1, -1, ArgumentError, "0 to 3 at layer 1"),
        ("llama", "embedding", 1, None, LayerError, "Valid: 0"),
        ("llama", "mlp", 4, None, LayerError, "0 to 3"),
        ("bert", "attention", 1, None, UnsupportedFeatureError, "could not be told apart"),
        ("mamba", "attention", 1, 0, UnsupportedFeatureError, "heads side by side"),
        ("mamba", "mlp", 1, None, UnsupportedFeatureError, "component 'residual'"),
        ("lfm2", "attention", 0, 0, UnsupportedFeatureError, "heads side by side"),
        ("jetmoe", "attention", 0, 0, UnsupportedFeatureError, "heads side by side"),
        ("falcon_h1", "attention", 1, None, UnsupportedFeatureError, "2 parts of"),
    ],
)
def test_a_site_that_a_model_lacks_is_refused_by_name(
    model_type: str, component: Component, layer: int, head: int | None, error: type[Exception], words: str
) -> None:
    engine, site = HuggingFaceEngine(family_models.build(model_type), make_tokenizer()), Site(layer, component, head)

    for use in (
        lambda: engine.read(prompts(), [site], "last"),
        lambda: engine.set_ambient((Placement(Add(torch.ones(WIDTH)), site, 1.0),)),
        lambda: engine.generate([Row(prompts()[0], (Placement(Add(torch.ones(WIDTH)), site, 1.0),))], Sampling(2)),
    ):
        with pytest.raises(error, match=words):
            use()
    assert engine.ambient() == ()


def test_detaching_takes_the_hooks_of_every_site_off(model_type: str) -> None:
    model = family_models.build(model_type)
    engine = HuggingFaceEngine(model, make_tokenizer())
    engine.read(prompts(), list(SITES.values()), "last")
    hooked = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    engine.detach()

    assert hooked > 8
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
