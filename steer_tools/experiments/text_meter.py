"""Prompts and plans → what is written under each, how much of a behaviour it shows, and whether it is broken.

The texts of all plans are rows of the same batches. It must not know how plans are chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine, Generation, Row, Sampling
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.text_detector import TextDetector
from steer_tools.evaluation.text_guards import CheckedTexts, fit_text_guards, text_effects
from steer_tools.progress import Work
from steer_tools.prompts import Prompt

_WRITING, _READING, _CHECKING = "writing texts", "reading texts", "checking texts"
_SIZES = {_WRITING: 4.0, _READING: 1.0, _CHECKING: 2.0}


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

    Prompts to which the unsteered model writes nothing are left out.

    Raises:
        PromptError: It writes nothing to any of them, or one cannot be read.
    """

    def __init__(
        self, engine: Engine, detector: TextDetector, prompts: Sequence[Prompt], max_new_tokens: int, *, seed: int = 0
    ) -> None:
        self._engine, self._detector, self.sampling = engine, detector, Sampling(max_new_tokens)
        rows = [Row(prompt) for prompt in prompts]
        written = engine.generate(rows, self.sampling)
        scores = detector.scores(engine, prompts, [text.text for text in written])
        answered = np.flatnonzero(np.isfinite(scores)).tolist()
        self.prompts = tuple(prompts[i] for i in answered)
        unsteered = [written[i] for i in answered]
        tokens = [text.tokens for text in unsteered]
        self._guards = fit_text_guards(engine, self.prompts, tokens, max_new_tokens, seed=seed)
        (checked,) = self._guards.check(engine, [tokens])
        self.unsteered = Written(tuple(unsteered), scores[answered], np.zeros(len(answered)), checked)

    def measure(self, plans: Sequence[Plan]) -> list[Written]:
        """Write to all prompts under each plan, and read what was written."""
        return self._measure([Row(prompt, plan) for plan in plans for prompt in self.prompts])

    def answers(self, others: Sequence[Prompt]) -> Written:
        """Write to another prompt in place of each, and read that as what was written to the meter's own."""
        (written,) = self._measure([Row(prompt) for prompt in others])
        return written

    def _measure(self, rows: Sequence[Row]) -> list[Written]:
        work, count = Work(_SIZES), len(self.prompts)
        starts = range(0, len(rows), count)
        with work.stage(_WRITING):
            generations = self._engine.generate(rows, self.sampling)
        with work.stage(_READING):
            scores = self._scores([generation.text for generation in generations])
        with work.stage(_CHECKING):
            sets = [[generation.tokens for generation in generations[start : start + count]] for start in starts]
            checked = self._guards.check(self._engine, sets)
        return [
            Written(
                tuple(generations[start : start + count]),
                scores[start : start + count],
                text_effects(scores[start : start + count], self.unsteered.scores, own),
                own,
            )
            for start, own in zip(starts, checked, strict=True)
        ]

    def _scores(self, texts: Sequence[str]) -> Floats:
        """Return the scores of texts to all prompts in turn, each different one read once."""
        asked = list(zip(self.prompts * (len(texts) // len(self.prompts)), texts, strict=True))
        unsteered = zip(self.prompts, self.unsteered.texts, strict=True)
        known = dict(zip(unsteered, self.unsteered.scores.tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(asked) if pair not in known]
        read = self._detector.scores(self._engine, [prompt for prompt, _ in new], [text for _, text in new])
        known |= dict(zip(new, read.tolist(), strict=True))
        return np.array([known[pair] for pair in asked])
