"""The parts of decoder blocks are found by what they do, and held here against names that were written down by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, QuantoConfig

from helpers import family_models
from helpers.small_models import LAYERS, WIDTH, make_model, make_tokenizer
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.architecture import find_architecture
from steer_tools.engines.huggingface.block_parts import _Merges, find_parts, hidden_of
from steer_tools.engines.huggingface.engine import HuggingFaceEngine

# Model type: for each kind of block, its mixers and its MLPs as "part > writer to the stream".
PARTS: dict[str, list[tuple[list[str], list[str]]]] = {
    "llama": [(["self_attn > self_attn.o_proj"], ["mlp > mlp.down_proj"])],
    "gpt2": [(["attn > attn.c_proj"], ["mlp > mlp.c_proj"])],
    "gpt_neox": [(["attention > attention.dense"], ["mlp > mlp.dense_4h_to_h"])],
    "bloom": [(["self_attention > self_attention.dense"], ["mlp > mlp.dense_4h_to_h"])],
    "falcon": [(["self_attention > self_attention.dense"], ["mlp > mlp.dense_4h_to_h"])],
    "opt": [(["self_attn > self_attn.out_proj"], ["fc2 > fc2"])],
    "gemma3_text": [(["self_attn > post_attention_layernorm"], ["mlp > post_feedforward_layernorm"])],
    "mixtral": [(["self_attn > self_attn.o_proj"], ["mlp > mlp.experts"])],
    "mamba": [(["mixer > mixer.out_proj"], [])],
    "qwen3_moe": [(["self_attn > self_attn.o_proj"], ["mlp > mlp.experts"])],
    "gptj": [(["attn > attn.out_proj"], ["mlp > mlp.fc_out"])],
    "falcon_h1": [
        (["mamba > mamba.out_proj", "self_attn > self_attn.o_proj"], ["feed_forward > feed_forward.down_proj"])
    ],
    "lfm2": [
        (["conv > conv.out_proj"], ["feed_forward > feed_forward.w2"]),
        (["self_attn > self_attn.out_proj"], ["feed_forward > feed_forward.w2"]),
    ],
}


@pytest.fixture(params=PARTS)
def model_type(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(model_type: str) -> Iterator[HuggingFaceEngine]:
    engine = HuggingFaceEngine(family_models.build(model_type), make_tokenizer())
    yield engine
    engine.detach()


def test_attention_mlp_and_writers_are_those_of_the_models_own_code(engine: Any, model_type: str) -> None:
    found: list[tuple[list[str], list[str]]] = []
    for block, parts in zip(engine.architecture.blocks, engine.parts, strict=True):
        names = {module: name for name, module in block.named_modules()}
        kind = tuple([f"{names[s.module]} > {names[s.writer]}" for s in group] for group in (parts.mixers, parts.mlps))
        found.extend([kind] if kind not in found else [])

    assert found == PARTS[model_type]


def parts_by_name(model: Any) -> list[tuple[list[str], list[str]]]:
    """The kinds of blocks with their parts, without attaching: what a model of that precision says is not asked."""
    architecture = find_architecture(model)
    found: list[tuple[list[str], list[str]]] = []
    for block, parts in zip(architecture.blocks, find_parts(architecture), strict=True):
        names = {module: name for name, module in block.named_modules()}
        kind = tuple([f"{names[s.module]} > {names[s.writer]}" for s in group] for group in (parts.mixers, parts.mlps))
        found.extend([kind] if kind not in found else [])
    return found


# Those that scale embeddings, or whose norms behind the sum leave no token longer than another, have none to scale.
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "falcon", "mixtral", "qwen3_moe", "gptj"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parts_are_found_where_a_special_token_is_a_hundred_times_longer(model_type: str, dtype: torch.dtype) -> None:
    model: Any = family_models.build(model_type)
    architecture = find_architecture(model)
    tokens, blocks = architecture.text_tokens(5), architecture.blocks
    with torch.no_grad():
        model.get_input_embeddings().weight[tokens[0]] *= 2000
    lengths: list[Tensor] = []
    handle = blocks[1].register_forward_hook(lambda *given: lengths.append(hidden_of(given[2])[0].norm(dim=-1)))
    model(torch.tensor([tokens]))
    handle.remove()

    assert lengths[0][0] > 50 * lengths[0][1:].max()
    assert parts_by_name(model.to(dtype)) == PARTS[model_type]


def test_heads_lie_side_by_side_in_what_the_projection_takes(engine: Any, model_type: str) -> None:
    config = engine.architecture.model.config
    widths: list[int] = []
    sublayers = [sublayer for parts in engine.parts for sublayer in parts.mixers if "attention" in _kind(sublayer)]
    handles = [
        sublayer.projection.register_forward_pre_hook(lambda m, args: widths.append(args[0].shape[-1]))
        for sublayer in sublayers
    ]
    with torch.no_grad():
        engine.architecture.model(torch.tensor([[3, 5, 7]]))
    for handle in handles:
        handle.remove()

    assert len(widths) == len(sublayers)
    assert bool(sublayers) == (model_type != "mamba")
    heads = getattr(config, "num_attention_heads", 0)
    assert set(widths) <= {heads * (getattr(config, "head_dim", None) or WIDTH // max(heads, 1))}


# Model type: for each kind of mixer, its heads as its code and its tiny config have them.
HEADS: dict[str, set[tuple[str, int | None]]] = {
    "diffllama": {("DiffLlamaAttention", 2)},
    "qwen3_next": {("Qwen3NextGatedDeltaNet", 4), ("Qwen3NextAttention", 4)},
    "qwen3_5_text": {("Qwen3_5GatedDeltaNet", 4), ("Qwen3_5Attention", 4)},
    "deepseek_v3": {("DeepseekV3Attention", 4)},
    "gpt_neo": {("GPTNeoAttention", 4)},
    "zamba2": {("Zamba2MambaMixer", 8), ("Zamba2MambaDecoderLayer", 8)},
    "zamba": {("ZambaMambaMixer", None), ("ZambaMambaDecoderLayer", None)},
    "jetmoe": {("JetMoeAttention", None)},
    "jamba": {("JambaMambaMixer", None), ("JambaAttention", 4)},
}


@pytest.mark.parametrize("model_type", HEADS)
def test_heads_are_counted_where_they_are_laid_side_by_side(engine: Any, model_type: str) -> None:
    found = {(type(s.module).__name__, s.heads) for parts in engine.parts for s in parts.mixers}

    assert found == HEADS[model_type]


@pytest.mark.parametrize(
    ("before", "after", "heads"),
    [
        ((1, 5, 4, 8), (1, 5, 32), 4),
        ((1, 5, 4, 8), (5, 32), 4),
        ((5, 4, 8), (1, 5, 32), 4),
        ((20, 8), (1, 5, 32), 4),
        ((1, 5, 1, 32), (1, 5, 32), 1),
        ((5, 32), (1, 5, 32), 0),
        ((5, 1, 32), (5, 32), 0),
        ((1, 4, 5, 8), (1, 5, 32), 0),
        ((1, 5, 32), (1, 5, 4, 8), 0),
        ((1, 5, 4, 8), (20, 8), 0),
        ((1, 3, 4, 8), (1, 3, 32), 0),
        ((160,), (1, 5, 32), 0),
        ((0, 8), (5, 0), 0),
        ((5, 0), (0,), 0),
        ((1, 1), (), 0),
    ],
)
def test_only_a_reshape_that_joins_the_shares_of_each_token_is_a_merge(
    before: tuple[int, ...], after: tuple[int, ...], heads: int
) -> None:
    with _Merges() as merges:
        torch.zeros(before).reshape(after)

    assert merges.noted == ([(heads, after[-1])] if heads else [])


def test_a_merge_is_seen_however_it_is_written() -> None:
    shares = torch.zeros(1, 5, 4, 8)

    with _Merges() as merges:
        shares.view(1, 5, 32)
        shares.flatten(2)
        shares.reshape(1, 5, -1)
        torch.reshape(shares, (5, 32))
        torch.flatten(shares, -2)

    assert merges.noted == [(4, 32)] * 5


def described(model: Any) -> list[tuple[str, str, str, int, int | None]]:
    """Part, writer, projection, width and heads of every part of the model's blocks."""
    engine = HuggingFaceEngine(model, make_tokenizer())
    found: list[tuple[str, str, str, int, int | None]] = []
    for block, parts in zip(engine.architecture.blocks, engine.parts, strict=True):
        names = {module: name for name, module in block.named_modules()}
        sublayers = (*parts.mixers, *parts.mlps)
        found.extend((names[s.module], names[s.writer], names[s.projection], s.input_width, s.heads) for s in sublayers)
    engine.detach()
    return found


LLAMA_PARTS = [
    ("self_attn", "self_attn.o_proj", "self_attn.o_proj", WIDTH, 4),
    ("mlp", "mlp.down_proj", "mlp.down_proj", 64, None),
] * LAYERS


def loaded(way: str, folder: Path) -> Any:
    model = make_model("llama")
    match way:
        case "offloaded":
            return cpu_offload(model, torch.device("cpu"))
        case "adapted":
            targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
            lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
            return get_peft_model(model, lora).eval()
        case "quantised":
            model.save_pretrained(folder)
            options = {"quantization_config": QuantoConfig(weights="int8"), "dtype": "float32"}
            return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        case _:
            return model


@pytest.mark.parametrize("way", ["whole", "offloaded", "adapted", "quantised"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_parts_are_the_same_however_the_model_was_loaded(way: str, tmp_path: Path) -> None:
    assert described(loaded(way, tmp_path)) == LLAMA_PARTS


def test_merges_before_that_of_the_heads_and_of_other_widths_are_not_taken_for_it() -> None:
    model = make_model("llama")
    for block in model.model.layers:
        # As a gate of two shares, and as something narrow beside the heads.
        block.self_attn.q_proj.register_forward_pre_hook(lambda m, args: _join(torch.zeros(5, 2, 16)))
        block.self_attn.o_proj.register_forward_pre_hook(lambda m, args: _join(torch.zeros(5, 2, 8)))

    assert described(model) == LLAMA_PARTS


def test_the_parts_are_this_threads_alone_while_another_generates() -> None:
    model, started, done = make_model("llama"), Event(), Event()

    def generate() -> None:
        while not done.is_set():
            model.generate(torch.tensor([[6, 8, 11, 20]]), max_new_tokens=8, do_sample=False, eos_token_id=127)
            started.set()

    thread = Thread(target=generate)
    thread.start()
    try:
        assert started.wait(60)
        found = [described(model) for _ in range(8)]
        still_generates = thread.is_alive()
    finally:
        done.set()
        thread.join()

    assert still_generates
    assert found == [LLAMA_PARTS] * 8


def test_the_parts_are_found_in_the_unsteered_model_and_leave_no_hook(engine: Any) -> None:
    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in engine.architecture.model.modules()]

    before = hooks()
    engine.set_ambient((Placement(Add(torch.ones(WIDTH)), Site(0), 9.0, Scope.parse("all")),))

    parts = engine.parts

    assert hooks() == before
    assert engine.hooks_are_live()
    assert all(sublayer.scale == pytest.approx(1) for of in parts for sublayer in (*of.mixers, *of.mlps))


def test_a_block_that_normalises_its_sum_has_no_parts_that_could_be_told() -> None:
    engine = HuggingFaceEngine(family_models.build("bert"), make_tokenizer())

    assert all(not parts.mixers and not parts.mlps for parts in engine.parts)


def test_a_scale_on_the_way_to_the_stream_is_measured() -> None:
    model: Any = family_models.build("granite")
    for block in model.model.layers:
        block.residual_multiplier = 0.25
    engine = HuggingFaceEngine(model, make_tokenizer())

    scales: list[Tensor] = [sublayer.scale for parts in engine.parts for sublayer in (*parts.mixers, *parts.mlps)]

    assert scales == pytest.approx([0.25] * 8)


def _join(shares: Tensor) -> None:
    shares.flatten(1)


def _kind(sublayer: Any) -> str:
    return type(sublayer.module).__name__.lower()
