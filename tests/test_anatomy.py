"""The parts of decoder blocks are found by what they do, and held here against names that were written down by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
import torch
from conftest import WIDTH, make_tokenizer
from torch import Tensor

from steer_tools.engines.huggingface import HuggingFaceEngine
from steer_tools.interventions import Add
from steer_tools.plan import Placement
from steer_tools.positions import Scope
from steer_tools.sites import Site

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
    engine = HuggingFaceEngine(tiny_models.build(model_type), make_tokenizer())
    yield engine
    engine.detach()


def test_attention_mlp_and_writers_are_those_of_the_models_own_code(engine: Any, model_type: str) -> None:
    found: list[tuple[list[str], list[str]]] = []
    for block, parts in zip(engine.architecture.blocks, engine.parts, strict=True):
        names = {module: name for name, module in block.named_modules()}
        kind = tuple([f"{names[s.module]} > {names[s.writer]}" for s in group] for group in (parts.mixers, parts.mlps))
        found.extend([kind] if kind not in found else [])

    assert found == PARTS[model_type]


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
    engine = HuggingFaceEngine(tiny_models.build("bert"), make_tokenizer())

    assert all(not parts.mixers and not parts.mlps for parts in engine.parts)


def test_a_scale_on_the_way_to_the_stream_is_measured() -> None:
    model: Any = tiny_models.build("granite")
    for block in model.model.layers:
        block.residual_multiplier = 0.25
    engine = HuggingFaceEngine(model, make_tokenizer())

    scales: list[Tensor] = [sublayer.scale for parts in engine.parts for sublayer in (*parts.mixers, *parts.mlps)]

    assert scales == pytest.approx([0.25] * 8)


def _kind(sublayer: Any) -> str:
    return type(sublayer.module).__name__.lower()
