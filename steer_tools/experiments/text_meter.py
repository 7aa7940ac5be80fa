"""Prompts and plans → what is written under each, how much of a behaviour it shows, and whether it is broken.

The texts of all plans are rows of the same batches. It must not know how plans are chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine, Generation, Row, Sampling
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.text_detector import TextDetector
from steer_tools.evaluation.text_guards import CheckedTexts, fit_text_guards, text_effects
from steer_tools.progress import Work
from steer_tools.prompts import Prompt

_WRITING, _READING, _CHECKING = "writing texts", "reading texts", "checking texts"
_SIZES = {_WRITING: 3.0, _READING: 1.0, _CHECKING: 1.0}


# A text's score, and the log-probabilities of its tokens for the unsteered model.
_Read: TypeAlias = tuple[float, Tensor]


@dataclass(frozen=True, eq=False)
class Written:
    """What was written to the meter's prompts under one plan.

    Attributes:
        scores: (prompts,) how much of the behaviour each text shows, −1 to 1; NaN of a blank one.
        effects: (prompts,) how much more than the unsteered text; 0 where the text is broken.
    """

    generations: tuple[Generation, ...]
    scores: Floats
    effects: Floats
    checked: CheckedTexts

    @property
    def texts(self) -> tuple[str, ...]:
        """What was written, as text."""
        return tuple(generation.text for generation in self.generations)

    @property
    def effect(self) -> float:
        """The mean effect."""
        return float(self.effects.mean())


class TextMeter:
    """Measures texts to some prompts beside those of the unsteered model, which it writes when it is made.

    Prompts to which the unsteered model writes nothing are left out. `of_answers` is the relevance of the behaviour's
    own answers, for the guards.

    Raises:
        PromptError: It writes nothing to any of them, or one cannot be read.
    """

    def __init__(
        self,
        engine: Engine,
        detector: TextDetector,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        of_answers: float | None = None,
        seed: int = 0,
    ) -> None:
        self._engine, self._detector, self.sampling = engine, detector, Sampling(max_new_tokens)
        written = engine.generate([Row(prompt) for prompt in prompts], self.sampling)
        scores, log_probs = detector.read(engine, prompts, written)
        answered = np.flatnonzero(np.isfinite(scores)).tolist()
        self.prompts = tuple(prompts[i] for i in answered)
        unsteered, log_probs = tuple(written[i] for i in answered), [log_probs[i] for i in answered]
        tokens = [text.tokens for text in unsteered]
        self._guards = fit_text_guards(engine, self.prompts, tokens, max_new_tokens, of_answers=of_answers, seed=seed)
        (checked,) = self._guards.check(engine, [tokens], [log_probs])
        self.unsteered = Written(unsteered, scores[answered], np.zeros(len(answered)), checked)
        read = zip(scores[answered].tolist(), log_probs, strict=True)
        self._known: dict[tuple[Prompt, tuple[int, ...]], _Read] = dict(
            zip(zip(self.prompts, tokens, strict=True), read, strict=True)
        )

    def measure(self, plans: Sequence[Plan]) -> list[Written]:
        """Write to all prompts under each plan, and read what was written."""
        return self._measure([Row(prompt, plan) for plan in plans for prompt in self.prompts])

    def answers(self, others: Sequence[Prompt]) -> Written:
        """Write to another prompt in place of each, and read that as what was written to the meter's own."""
        (written,) = self._measure([Row(prompt) for prompt in others])
        return written

    def effects(self, plans: Sequence[Plan], places: slice = slice(None)) -> Floats:
        """Return (plans, prompts) the effects on the texts to some of the prompts, whatever these are as a set."""
        prompts, work = self.prompts[places] * len(plans), Work({_WRITING: 3.0, _READING: 1.0})
        rows = [Row(prompt, plan) for plan in plans for prompt in self.prompts[places]]
        written, scores, log_probs = self._written(work, rows, prompts)
        is_whole = self._guards.whole(self._engine, prompts, [text.tokens for text in written], log_probs)
        unsteered = np.tile(self.unsteered.scores[places], len(plans))
        return text_effects(scores, unsteered, is_whole).reshape(len(plans), -1)

    def _measure(self, rows: Sequence[Row]) -> list[Written]:
        work, count = Work(_SIZES), len(self.prompts)
        written, scores, log_probs = self._written(work, rows, self.prompts * (len(rows) // count))
        sets = [slice(start, start + count) for start in range(0, len(rows), count)]
        with work.stage(_CHECKING):
            tokens = [[text.tokens for text in written[own]] for own in sets]
            checked = self._guards.check(self._engine, tokens, [log_probs[own] for own in sets])
        return [
            Written(
                tuple(written[own]),
                scores[own],
                text_effects(scores[own], self.unsteered.scores, found.is_whole),
                found,
            )
            for own, found in zip(sets, checked, strict=True)
        ]

    def _written(
        self, work: Work, rows: Sequence[Row], prompts: Sequence[Prompt]
    ) -> tuple[list[Generation], Floats, list[Tensor]]:
        """Return what rows write, and of that what the detector reads of it as answers to prompts; equal texts once."""
        with work.stage(_WRITING):
            written = self._engine.generate(rows, self.sampling)
        with work.stage(_READING):
            asked = [(prompt, text.tokens) for prompt, text in zip(prompts, written, strict=True)]
            new = {key: text for key, text in zip(asked, written, strict=True) if key not in self._known}
            scores, log_probs = self._detector.read(self._engine, [prompt for prompt, _ in new], [*new.values()])
            found = self._known | dict(zip(new, zip(scores.tolist(), log_probs, strict=True), strict=True))
        read = [found[key] for key in asked]
        return written, np.array([score for score, _ in read]), [own for _, own in read]
