"""Token id → the text that it stands for, where vocabularies write stand-ins for white space and bytes.

It must not know prompts or models.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_SPACE = "▁"  # As sentencepiece writes it.
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class TokenTexts:
    """The tokens of one tokenizer as text; one that is a part of a character, as its bytes: `\\xe4\\xbd`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return each token's text, white space as it stands; <id> of those that only the output matrix has."""
        new = list({*tokens}.difference(self._known))
        for token, piece in zip(new, self._tokenizer.convert_ids_to_tokens(new), strict=True):
            self._known[token] = f"<{token}>" if piece is None else self._text(token, piece)
        return tuple(self._known[token] for token in tokens)

    def _text(self, token: int, piece: str | bytes) -> str:
        """Return what the vocabulary's own writing of a token stands for."""
        if isinstance(piece, bytes):
            return _shown(piece)
        added = self._tokenizer.added_tokens_decoder.get(token)
        if added is not None and (added.special or self._stand_ins is not None):
            return piece
        if self._stand_ins is not None:
            return _shown(bytes(self._stand_ins[letter] for letter in piece))
        byte = _BYTE.fullmatch(piece)
        return _shown(bytes.fromhex(byte[1])) if byte else piece.replace(_SPACE, " ")

    @cached_property
    def _stand_ins(self) -> dict[str, int] | None:
        """The letter that a byte-level vocabulary writes for each byte; None for other vocabularies."""
        if self._tokenizer.is_fast:
            decoder = self._tokenizer.backend_tokenizer.decoder
            is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        else:
            is_byte_level = hasattr(self._tokenizer, "byte_decoder")
        return {letter: byte for byte, letter in bytes_to_unicode().items()} if is_byte_level else None


def _shown(content: bytes) -> str:
    return content.decode("utf-8", errors="backslashreplace")
