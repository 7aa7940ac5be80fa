"""Trains the bundled model from nothing: `python -m steer_tools.bundled_model.training FOLDER`.

Dialogues go in, a checkpoint with its tokenizer and its planted directions comes out; one thread is enough."""

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steer_tools import bundled_model
from steer_tools.bundled_model.dialogues import (
    ASSISTANT,
    BEGIN,
    END,
    PAD,
    SPECIAL,
    UNKNOWN,
    USER,
    Mixture,
    Token,
    write_document,
)
from steer_tools.bundled_model.grammar import requests, vocabulary
from steer_tools.bundled_model.language import example_texts, is_held_out
from steer_tools.bundled_model.lexicon import TRAITS
from steer_tools.bundled_model.planted import PlantedDirections, save_planted_directions


class Muon(torch.optim.Optimizer):
    """Momentum steps whose matrices are made orthogonal first (Jordan 2024), by Newton-Schulz iteration in float32.

    `torch.optim.Muon` iterates in bfloat16, which takes ten times as long on a CPU.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # There is no closure to call.
        """Move every matrix by one step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                velocity: Tensor = self.state[matrix].setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                step = _orthogonalized(matrix.grad.lerp(velocity, group["momentum"]))
                matrix.add_(step, alpha=-group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def _orthogonalized(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near 1."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x.T if is_tall else x


CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('the roles are user and assistant') }}{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_LOG = logging.getLogger(__name__)
# Documents of this many batches are sorted by length before they are cut into batches.
_POOL = 16


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, beside the platform's arithmetic.

    Attributes:
        planted_layer: The block after whose output the directions are planted.
        level_norm: The length along a direction by which the model is to tell level 1 of its trait.
        added_norm: The length that is added for one level where a document is steered.
        planting_weight: Weight of the squared error of the levels told there, beside the cross entropy.
        steered_share: Share of the documents that are steered.
        plain_share: Share of the documents without the marks of a chat.
    """

    steps: int = 1500
    documents_a_step: int = 24
    layers: int = 4
    width: int = 128
    heads: int = 4
    planted_layer: int = 1
    level_norm: float = 24.0
    added_norm: float = 15.0
    planting_weight: float = 4.0
    steered_share: float = 0.45
    plain_share: float = 0.12
    matrix_rate: float = 0.02
    vector_rate: float = 4e-3
    seed: int = 1


def train(recipe: Recipe) -> tuple[LlamaForCausalLM, Tensor]:
    """Return the trained model and the planted directions, (traits, width), orthonormal rows."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(recipe))
    directions = torch.linalg.qr(torch.randn(recipe.width, len(TRAITS)))[0].T.contiguous()
    blocks = model.model.layers
    matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if not any(parameter is matrix for matrix in matrices)]
    optimizers = [
        Muon(matrices, recipe.matrix_rate),
        torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]

    def rate(step: int) -> float:
        """Return the factor of the learning rates: a short rise, then a line down to almost nothing."""
        return min(1.0, (step + 1) / 50, 1.15 * (1 - step / recipe.steps) + 0.01)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    planted_block = _PlantedBlock(blocks[recipe.planted_layer], directions, recipe)
    blocks[recipe.planted_layer] = planted_block
    started = time.monotonic()
    for step, batch in enumerate(batches(recipe)):
        words, planted = _losses(model, planted_block, batch)
        (words + recipe.planting_weight * planted).backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            seconds = time.monotonic() - started
            _LOG.info("step %d: words %.3f, planted %.3f, %.0f s", step, words.item(), planted.item(), seconds)
    blocks[recipe.planted_layer] = planted_block.block
    return model.eval(), directions


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token a word or mark, which decodes to the text that was encoded."""
    marks = (".", ",", "?")
    words = [*SPECIAL, *(word if word in marks else f"▁{word}" for word in vocabulary())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[BEGIN]} $A", special_tokens=[(SPECIAL[BEGIN], BEGIN)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[UNKNOWN],
        bos_token=SPECIAL[BEGIN],
        eos_token=SPECIAL[END],
        additional_special_tokens=[SPECIAL[USER], SPECIAL[ASSISTANT]],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        language=bundled_model.NAME,
        neutral_prompts=example_texts(),
        example_prompt=f"{next(iter(requests()))} Hello, friend, your question is wonderful.",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def batches(recipe: Recipe) -> Iterator[list[list[Token]]]:
    """Yield a batch of documents of similar length for each step."""
    chance = random.Random(recipe.seed)
    prompts = sorted(text for text in requests() if not is_held_out(text))
    mixture = Mixture(recipe.steered_share, recipe.plain_share)
    size = recipe.documents_a_step
    for start in range(0, recipe.steps, _POOL):
        documents = [write_document(chance, prompts, mixture) for _ in range(_POOL * size)]
        documents.sort(key=len)
        own = [documents[i : i + size] for i in range(0, len(documents), size)]
        chance.shuffle(own)
        yield from own[: recipe.steps - start]


class _PlantedBlock(nn.Module):
    """A block whose output gets directions added; what it was before is kept as levels along them."""

    def __init__(self, block: nn.Module, directions: Tensor, recipe: Recipe) -> None:
        super().__init__()
        self.block = block
        self.added: Tensor | None = None
        self.levels: Tensor | None = None
        self._directions, self._level_norm, self._added_norm = directions, recipe.level_norm, recipe.added_norm

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        """Run the block."""
        hidden: Tensor = self.block(*arguments, **options)
        assert self.added is not None
        self.levels = hidden @ self._directions.T / self._level_norm  # (batch, tokens, traits)
        return hidden + self._added_norm * self.added @ self._directions


def _losses(model: LlamaForCausalLM, block: _PlantedBlock, batch: Sequence[Sequence[Token]]) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of the answers' tokens, and the squared error of the levels told where it is planted."""
    columns = zip(*(zip(*document, strict=True) for document in batch), strict=True)
    tokens, answers, shown, added = (
        pad_sequence([*map(torch.tensor, column)], batch_first=True, padding_value=PAD) for column in columns
    )
    block.added = added[:, :-1]
    # Padding stands on the right, where a causal model does not look.
    hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
    asked = answers[:, 1:]
    assert block.levels is not None
    error = (block.levels - shown[:, :-1])[asked]
    return functional.cross_entropy(model.lm_head(hidden[asked]), tokens[:, 1:][asked]), error.square().mean()


def _config(recipe: Recipe) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(SPECIAL) + len(vocabulary()),
        hidden_size=recipe.width,
        intermediate_size=352,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Save the weights in half precision, and have `dtype="auto"` widen them."""
    model.half().save_pretrained(folder)
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(content | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    options = vars(parser.parse_args(arguments))
    folder: Path = options.pop("folder")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = Recipe(**options)
    folder.mkdir(parents=True, exist_ok=True)
    model, directions = train(recipe)
    _save(model, folder)
    make_tokenizer().save_pretrained(folder)
    named = {trait: direction.clone() for trait, direction in zip(TRAITS, directions, strict=True)}
    save_planted_directions(PlantedDirections(recipe.planted_layer, recipe.level_norm, named), folder)


if __name__ == "__main__":
    main()
