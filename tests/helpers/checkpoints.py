"""Models with biases and scales that count, and their checkpoints cut into shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.family_models import build
from helpers.small_models import WIDTH, make_model


def random_direction(width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def rebuilt(model: Any, **options: Any) -> Any:
    """A model of the same class with other entries in its config."""
    for name, value in options.items():
        setattr(model.config, name, value)
    torch.manual_seed(0)
    return with_random_vectors(type(model)(model.config).eval())


def with_tied_embeddings(model: Any) -> Any:
    """The same class with one matrix for both, large enough to count."""
    return rebuilt(model, tie_word_embeddings=True)


def with_random_vectors(model: Any) -> Any:
    """The same model with biases, and with scales of norms other than 1, which would hide what the unembedding sees."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: with_random_vectors(make_model("llama")),
    "llama with mlp_bias": lambda: rebuilt(make_model("llama"), mlp_bias=True),
    "llama with attention_bias": lambda: rebuilt(make_model("llama"), attention_bias=True),
    "llama, tied": lambda: with_tied_embeddings(make_model("llama")),
    "gpt2": lambda: rebuilt(make_model("gpt2"), tie_word_embeddings=False),
    "gpt2, tied": lambda: with_tied_embeddings(make_model("gpt2")),
    "mixtral": lambda: with_random_vectors(build("mixtral")),
    "qwen3_moe": lambda: with_random_vectors(build("qwen3_moe")),
}


def shard(folder: Path) -> None:
    """Cut a checkpoint of one file in three, with an index, as large models come."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
