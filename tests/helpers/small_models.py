"""Tiny real models with random weights, a tiny real tokenizer of made-up words, and prompts in them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WIDTH, LAYERS = 32, 4
FAMILIES = ("llama", "gpt2", "bloom")

_SPECIAL = ("<pad>", "<s>", "</s>", "<end>")

_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")

WORDS = tuple(a + b for a, b in itertools.product(_SYLLABLES, repeat=2))

CHAT_TEMPLATE = (
    "<s>{% for m in messages %}{{ m.role }} : {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)

POSITIVE = ["baba keke lili", "baba mora seti", "baba vozu", "baba nura tili kemo"]

NEGATIVE = ["zuzu keke lili", "zuzu mora seti", "zuzu vozu", "zuzu nura tili kemo"]

# Random models show an edit only where it is long, which `steering` warns of.
HARD = pytest.mark.filterwarnings("ignore:At layer .* of the typical norm there")

PROMPTS = ["keke", "baba mora seti vozu", "nura tili", "ratisemo lili keke baba zuzu mora"]


def make_tokenizer(*, bos: bool = True, chat: bool = True) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of 100 made-up words; with `bos` a text starts with <s>."""
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, "user", "assistant", "system", ":", *WORDS, "<unk>"))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<end>"],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = LAYERS) -> Any:
    """A random model, initialised widely enough that its greedy text varies."""
    torch.manual_seed(seed)
    common = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.25}
    match family:
        case "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=WIDTH,
                    intermediate_size=64,
                    num_hidden_layers=layers,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=96,
                    **common,
                )
            )
        case "gpt2":
            model = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=layers, n_head=4, n_positions=96, **common))
        case "bloom":
            model = BloomForCausalLM(BloomConfig(hidden_size=WIDTH, n_layer=layers, n_head=4, **common))
        case _:
            raise AssertionError(family)
    return model.to(dtype).eval()
