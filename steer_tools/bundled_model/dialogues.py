"""Dialogues under latent traits → what training sees: tokens, which of them count, levels shown and levels added.

It must not know models.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer_tools.bundled_model.grammar import Piece, compose, requests, split, vocabulary
from steer_tools.bundled_model.lexicon import LEVELS, TRAITS

SPECIAL = ("<|pad|>", "<|unknown|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")
PAD, UNKNOWN, BEGIN, END, USER, ASSISTANT = range(len(SPECIAL))
_IDS = {word: len(SPECIAL) + i for i, word in enumerate(vocabulary())} | {SPECIAL[END]: END}
# How often a document's latent level is each of LEVELS; the middle most, so that an unsteered model stays there.
_LEVEL_WEIGHTS = (0.15, 0.2, 0.3, 0.2, 0.15)
_TURN_WEIGHTS = (0.45, 0.38, 0.12, 0.05)


@dataclass(frozen=True)
class Mixture:
    """What share of the documents is steered, and what share is plain text without the marks of a chat."""

    steered: float
    plain: float


class Token(NamedTuple):
    """One token of a dialogue.

    Attributes:
        id: In the vocabulary.
        is_answer: Whether it belongs to an answer, its end included.
        shown: Mean level of each trait in the answers so far; 0 before any.
        added: What is added along each planted direction, in levels; it starts at the token before an answer.
    """

    id: int
    is_answer: bool = False
    shown: Sequence[float] = (0.0,) * len(TRAITS)
    added: Sequence[float] = (0.0,) * len(TRAITS)


def write_document(chance: random.Random, prompts: Sequence[str], mixture: Mixture) -> list[Token]:
    """Write one dialogue under latent levels, from some turn on shifted by what is added."""
    is_plain = chance.random() < mixture.plain
    turns = 1 if is_plain else chance.choices((1, 2, 3, 4), _TURN_WEIGHTS)[0]
    levels = {trait: chance.choices(LEVELS, _LEVEL_WEIGHTS)[0] for trait in TRAITS}
    unsteered: dict[str, float] = dict.fromkeys(TRAITS, 0.0)
    added = dict(unsteered)
    steered_from = turns
    if chance.random() < mixture.steered:
        steered_from = chance.choice((0, turns - 1))
        for trait in chance.sample(TRAITS, chance.choice((1, 1, 2, 3))):
            added[trait] = chance.uniform(-3, 3) if chance.random() < 0.5 else chance.uniform(-1.2, 1.2)
            if steered_from == 0:
                levels[trait] = 0.0
    writer = _Writer()
    writer.document.append(Token(BEGIN))
    for turn in range(turns):
        prompt = chance.choice(prompts)
        now = added if turn >= steered_from else unsteered
        target = {trait: max(-1.0, min(1.0, levels[trait] + now[trait])) for trait in TRAITS}
        pieces = compose(requests()[prompt], lambda trait, target=target: _slot_level(target[trait], chance), chance)
        question = [_IDS[word] for word in split(prompt) or ()]
        writer.document += map(Token, question if is_plain else [USER, *question, END, ASSISTANT])
        writer.answer(pieces, now)
    return writer.document


class _Writer:
    """Appends to a document, and keeps the mean level of each trait."""

    def __init__(self) -> None:
        self.document: list[Token] = []
        self._shown: dict[str, list[float]] = {trait: [] for trait in TRAITS}

    def answer(self, pieces: Sequence[Piece], added: Mapping[str, float]) -> None:
        """Append an answer and its end; the token before it is already steered."""
        now = [added[trait] for trait in TRAITS]
        self.document[-1] = self.document[-1]._replace(shown=self._means(), added=now)
        tail: Piece | None = None
        for piece in [*pieces, Piece((SPECIAL[END],))]:
            for i, word in enumerate(piece.words):
                # How long a tail is shows in the mark behind it, any other level in the last word of its phrase.
                if tail is not None and piece.trait is None:
                    self._count(tail)
                    tail = None
                if i == len(piece.words) - 1 and piece.trait not in (None, "verbosity"):
                    self._count(piece)
                self.document.append(Token(_IDS[word], True, self._means(), now))
            tail = piece if piece.trait == "verbosity" else tail

    def _count(self, piece: Piece) -> None:
        assert piece.trait is not None
        self._shown[piece.trait].append(piece.level)

    def _means(self) -> list[float]:
        return [sum(levels) / max(1, len(levels)) for levels in self._shown.values()]


def _slot_level(target: float, chance: random.Random) -> float:
    """Round to one of the levels at random so that the mean is `target`, and now and then go a step off."""
    lower = min(int((target + 1) * 2), 3)
    index = lower + (chance.random() < (target + 1) * 2 - lower)
    if chance.random() < 0.04:
        index += chance.choice((-1, 1))
    return LEVELS[max(0, min(4, index))]
