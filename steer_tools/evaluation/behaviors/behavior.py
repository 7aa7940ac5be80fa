"""What a behaviour is measured on: prompts, each with a completion that shows it and one that does not.

It must not know files or models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steer_tools.prompts import Prompt


@dataclass(frozen=True)
class Item:
    """A prompt with a completion that shows a behaviour and one that does not.

    Attributes:
        prompt: What is continued; None where the completions are whole texts.
        positive: Shows the behaviour; begins without a space.
        negative: Does not.
        group: Items of one template, or wordings of one question, share it: they are no independent evidence.
    """

    prompt: Prompt | None
    positive: str
    negative: str
    group: str


@dataclass(frozen=True)
class Behavior:
    """A behaviour with what a vector is made of and what it is judged on; no item of one is in the other.

    Attributes:
        name: For instance "honesty".
        description: What it is, in a sentence.
        poles: A word for the positive completions and one for the negative ones, as ("honest", "deceptive").
        instruction: A sentence that simply asks a model for it; None where nobody wrote one.
        source: Who wrote it, and where.
        pairs: For making vectors.
        items: Held out, for measuring.
        choices: Held out questions of two answers, (A) and (B); may be empty.
    """

    name: str
    description: str
    poles: tuple[str, str]
    instruction: str | None
    source: str
    pairs: Sequence[Item]
    items: Sequence[Item]
    choices: Sequence[Item] = ()
