"""The models that speed is measured on, and prompts in their words; only M needs `steer_tools`, which loads it.

S is a random Llama of 91 M weights, M is SmolLM2-135M-Instruct, and T is so small that dispatching its operations is
all it costs, as on an accelerator that waits for launches.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<s>", "<unk>", "<mask>")
_SYLLABLES = tuple("".join(own) for own in itertools.product("bdfghjklmnprst", "aeiou"))[::3][:20]
# SmolLM2 has a token for each, the space before it included.
_ENGLISH = (
    "the a this that our their old new small large quiet bright river garden teacher letter winter market window "
    "doctor story kitchen engine village answer morning walks reads finds keeps opens brings asks leaves builds "
    "paints under over near after before with without slowly early often again never always quickly today"
)


@dataclass(frozen=True)
class Model:
    """A model as transformers has it, the words of its prompts, and how many layers it has."""

    name: str
    module: Any
    tokenizer: Any
    words: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        return self.module.config.num_hidden_layers

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.module.config.hidden_size

    def texts(self, count: int, fewest: int, most: int, seed: int) -> list[str]:
        """Return texts of `fewest` to `most` words."""
        drawn = random.Random(seed)
        return [" ".join(drawn.choices(self.words, k=drawn.randint(fewest, most))) for _ in range(count)]

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of texts."""
        return [self.tokenizer(text)["input_ids"] for text in texts]

    def deltas(self, seed: int = 0) -> torch.Tensor:
        """Return (layers, width): a vector for each layer, of a norm that changes texts and does not break them."""
        drawn = torch.randn(self.layers, self.width, generator=torch.Generator().manual_seed(seed))
        return 2.0 * torch.nn.functional.normalize(drawn, dim=1)


@cache
def model_named(name: str) -> Model:
    """Return S, M or T, made once."""
    if name == "M":
        from steer_tools import detach_model, load_model, loaded_model  # noqa: PLC0415 - peers have no steer_tools

        load_model("smollm2", dtype="float32")
        module, tokenizer = loaded_model()
        detach_model()
        return Model(name, module, tokenizer, tuple(_ENGLISH.split()))
    width, heads, inner, vocabulary = {"S": (768, 12, 2048, 8192), "T": (64, 4, 128, 512)}[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=inner,
        num_hidden_layers=12,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=None,  # A text of random weights would end anywhere, and each way must write as much.
        pad_token_id=0,
    )
    words = ["".join(own) for own in itertools.product(_SYLLABLES, repeat=3)][: vocabulary - len(_SPECIAL)]
    return Model(name, LlamaForCausalLM(config).eval(), _tokenizer(words), tuple(words))


def _tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*_SPECIAL, *words))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")
