"""Tokens are told as text, white space as it stands, and a part of a character as its bytes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from helpers.small_models import make_tokenizer
from steer_tools import bundled_model
from steer_tools.engines.base import distinct
from steer_tools.engines.huggingface.loading import load_pretrained
from steer_tools.engines.huggingface.token_texts import TokenTexts

WRITTEN = "你好 🙂\n\tThe naïve  Ġ café"


def bytes_of(texts: tuple[str, ...]) -> bytes:
    """Return the bytes that some texts stand for: what follows a backslash and x is one."""
    return b"".join(text.encode().decode("unicode_escape").encode("latin-1") for text in texts)


def with_byte_fallback() -> PreTrainedTokenizerFast:
    """A tokenizer as sentencepiece makes them: ▁ for a space, <0xNN> for a byte of what has no token."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "cat", "好", "t", "h", "e"]
    core = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")


def test_byte_level_tokens_are_text(smollm2: Any) -> None:
    _, tokenizer = smollm2(torch.float32)
    ids = tokenizer(WRITTEN)["input_ids"]

    texts = TokenTexts(tokenizer).of(ids)

    assert bytes_of(texts) == WRITTEN.encode()
    assert {r"\xe4\xbd", r"\xa0", "\n", "\t", "The", " na", "ïve", " café"} <= set(texts)
    assert {"ä½", "ł", "Ċ", "ĉ", "Ġna"} <= set(tokenizer.convert_ids_to_tokens(ids))


def test_tokens_of_a_sentencepiece_vocabulary_are_text() -> None:
    tokenizer = with_byte_fallback()
    ids = tokenizer(" the cat\n你好", add_special_tokens=False)["input_ids"]

    texts = TokenTexts(tokenizer).of(ids)

    assert texts[-5:] == ("\n", r"\xe4", r"\xbd", r"\xa0", "好")
    assert " the" in texts
    assert bytes_of(texts) == "  the cat\n你好".encode()


def test_special_and_added_tokens_stand_as_they_are_in_a_text(smollm2: Any) -> None:
    _, tokenizer = smollm2(torch.float32)
    tokenizer = deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken("a é Ġ", normalized=False)])

    texts = TokenTexts(tokenizer).of([1, 2, tokenizer.convert_tokens_to_ids("a é Ġ")])
    assert texts == ("<|im_start|>", "<|im_end|>", "a é Ġ")

    tokenizer = with_byte_fallback()
    tokenizer.add_special_tokens({"eos_token": "<end▁here>"})
    assert TokenTexts(tokenizer).of([tokenizer.eos_token_id]) == ("<end▁here>",)

    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("a b", normalized=False)])
    words = TokenTexts(tokenizer).of([8, len(tokenizer) - 1, len(tokenizer)])
    assert words == ("baba", "a b", f"<{len(tokenizer)}>")  # The output matrix may have more rows.


def test_words_of_the_bundled_model_begin_with_the_space_before_them() -> None:
    _, tokenizer, _ = load_pretrained(str(bundled_model.CHECKPOINT))

    texts = TokenTexts(tokenizer).of(tokenizer("It seems to me.")["input_ids"])

    assert "".join(texts).endswith(" It seems to me.")


def test_a_vocabulary_of_bytes_is_text() -> None:
    class OfBytes:
        def __init__(self) -> None:
            self.is_fast, self.added_tokens_decoder = False, dict[int, Any]()

        def convert_ids_to_tokens(self, ids: list[int]) -> list[bytes]:
            return [[b" the", b"\xe4\xbd"][token] for token in ids]

    assert TokenTexts(OfBytes()).of([1, 0]) == (r"\xe4\xbd", " the")


def test_tokens_of_one_text_are_told_apart_by_their_ids() -> None:
    tokenizer = with_byte_fallback()
    both = tokenizer.convert_tokens_to_ids(["▁", "<0x20>", "cat"])
    texts = TokenTexts(tokenizer).of(both)

    assert texts == (" ", " ", "cat")
    assert distinct(texts, both) == (f"  <{both[0]}>", f"  <{both[1]}>", "cat")
