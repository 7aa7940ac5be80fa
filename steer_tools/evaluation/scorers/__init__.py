"""A prompt and the text that answers it → a score from 0 to 1, or None where the scorer cannot say.

A scorer is any such callable; those of this room are made by functions. It must not know models.
"""

from steer_tools.evaluation.scorers.judge import Judge, judge_scorer
from steer_tools.evaluation.scorers.texts import (
    MeanScore,
    Scorer,
    callable_scorer,
    keyword_scorer,
    mean_score,
    regex_scorer,
)

__all__ = [
    "Judge",
    "MeanScore",
    "Scorer",
    "callable_scorer",
    "judge_scorer",
    "keyword_scorer",
    "mean_score",
    "regex_scorer",
]
