"""The words that reports have for units, positions, controls and verdicts. It must not know results."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class UnitWords(NamedTuple):
    """A unit of strength: its plural, and what a strength of 1 is."""

    plural: str
    one: str


UNITS: Mapping[str, UnitWords] = {
    "vector": UnitWords("saved vectors", "the vector as it is saved"),
    "contrast": UnitWords("contrasts", "one mean difference between positive and negative prompts"),
    "residual": UnitWords("residual norms", "the usual norm of the model's activations at that layer"),
}
POSITIONS: Mapping[str, str] = {
    "generated": "the last token of the prompt, and every new token",
    "prompt": "every token of the prompt",
    "all": "every token",
    "last_prompt": "the last token of the prompt",
    "first": "the first token",
    "after_user": "every token after the user's last message",
}
POOLINGS: Mapping[str, str] = {
    "last": "the last token",
    "first": "the first token",
    "mean": "the mean over all tokens",
    "response": "the mean over the answer's tokens",
}
CONTROL_KINDS: Mapping[str, str] = {
    "random": "random",
    "random_covariance": "random, spread like the activations",
    "balanced_shuffle": "shuffled labels",
}
CONTROLS_EXPLAINED: Mapping[str, str] = {
    "random": "any direction",
    "random_covariance": "a direction drawn with the covariance of the model's activations",
    "balanced_shuffle": "made like the vector, with positive and negative prompts mixed evenly on both sides",
}
VERDICTS: Mapping[str, str] = {
    "works": "The vector works: what the model writes to prompts that did not choose it shows what was asked for, more "
    "than under any control direction, and its texts are not broken.",
    "ranks, does not write": "The vector ranks, but does not write: it makes given completions likelier or less likely "
    "as was asked, more than control directions do, but what the model writes does not show it clearly.",
    "breaks the model": "The vector breaks the model: too many texts are broken, alike, or no answers to their "
    "prompts, so what they show says nothing of the behaviour.",
    "indistinguishable from random": "The vector cannot be told from a random direction: what the model writes under "
    "it is no evidence that it steers the behaviour.",
    "cannot tell": "This experiment cannot tell: there is too little to judge by. It speaks neither for the vector nor "
    "against it.",
}
FAILURES: Mapping[str, str] = {
    "broken": "too many of the texts are loops, or more surprising than what the unsteered model draws by chance",
    "alike": "the texts to different prompts are too much alike",
    "irrelevant": "the texts hardly depend on their prompts",
}


def signed(value: float, form: str = "+.2f") -> str:
    """Return a figure with its sign, with two decimals if nothing else is said."""
    return format(value, form)


def share(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.0%}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def option_texts(options: Mapping[str, object]) -> list[str]:
    """Return options as they are typed, NAME=VALUE in JSON."""
    return [f"{name}={json.dumps(value)}" for name, value in options.items()]


def listed(values: list[str]) -> str:
    """Return values as a list in a sentence."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def span(values: Sequence[float], written: Callable[[float], str] = signed) -> str:
    """Return the first and the last of some values, once if they read the same."""
    return " to ".join(dict.fromkeys(written(value) for value in (*values[:1], *values[-1:])))
