"""Items, plans → the questions that a model is asked, and its log-odds of their completions under each plan.

Every plan is a row of the same batches. It must not know vectors, or which plan is the better one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.core.positions import Pooling
from steer_tools.engines.base import Engine, Row
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item, asked, evaluation_prompt, posed_to_model
from steer_tools.evaluation.intervals import Floats
from steer_tools.prompts import Prompt, TextPrompt

_WHOLE = re.compile(r".*[.?!…][\"'”’)]*", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """An item as this model is asked it; with `per_token` log-probabilities are divided by their numbers of tokens."""

    prompt: Prompt
    positive: str
    negative: str
    group: str
    per_token: bool = False


def questions(
    engine: Engine, items: Sequence[Item], *, per_token: bool = False, as_chat: bool | None = None
) -> tuple[Question, ...]:
    """Return the items as the model is asked them: by its chat template where it has one, unless `as_chat` says it."""
    is_chat = engine.info.has_chat_template if as_chat is None else as_chat
    return tuple(Question(*evaluation_prompt(item, is_chat), item.group, per_token) for item in items)


def questions_to_answer(engine: Engine, behavior: Behavior) -> list[Prompt]:
    """Return what texts are written to: a behaviour's questions, or else the first prompt of each group of its items.

    They are as the model is asked them: by its chat template where it has one. Otherwise a line ends after whole
    sentences, after which many models would end their text.

    Raises:
        PromptError: There are no questions, and the items are whole texts, to which nothing is written.
    """
    prompts: list[Prompt] = [*behavior.questions]
    if not prompts:
        by_group: dict[str, Prompt | None] = {}
        for item in behavior.items:
            by_group.setdefault(item.group, item.prompt)
        prompts = [prompt for prompt in by_group.values() if prompt is not None]
        if len(prompts) < len(by_group):
            raise PromptError(
                f"The items of {behavior.name} are whole texts without prompts, to which nothing is written",
                valid="questions, or items with prompts",
                fix="Give prompts as well.",
            )
    return list(dict.fromkeys(_to_go_on(posed_to_model(prompt, engine.info.has_chat_template)) for prompt in prompts))


def _to_go_on(prompt: Prompt) -> Prompt:
    if isinstance(prompt, TextPrompt) and _WHOLE.fullmatch(prompt.text):
        return TextPrompt(f"{prompt.text}\n")
    return prompt


def instructed(engine: Engine, prompts: Sequence[Prompt], instruction: str | None) -> list[Prompt] | None:
    """Return prompts with an instruction before them, as the system's message of chats; None where there is none.

    Where the chat template takes no such message, the first one begins with it.

    Raises:
        PromptError: A prompt is token ids.
    """
    if instruction is None or not prompts:
        return None
    is_chat, ways = engine.info.has_chat_template, list[list[Prompt]]()
    for by_system in (True, False):
        ways.append([asked(prompt, instruction, is_chat, by_system=by_system) for prompt in prompts])
    try:
        engine.tokenize(ways[0][0])
    except PromptError:
        return ways[1]
    return ways[0]


def pooling_of(engine: Engine, pairs: Sequence[Item]) -> Pooling:
    """Return which tokens of pairs are read: of chats the whole answer, of texts the last one."""
    is_chat = engine.info.has_chat_template and pairs[0].prompt is not None
    return "response" if is_chat else "last"


def propensities(engine: Engine, posed: Sequence[Question], plans: Sequence[Plan]) -> Floats:
    """Return (plans, questions) log p(positive completion) − log p(negative completion), in nats."""
    rows = [Row(question.prompt, plan) for question in posed for plan in plans]
    each = [question for question in posed for _ in plans]
    scores = engine.score([*rows, *rows], [*(own.positive for own in each), *(own.negative for own in each)])
    pairs = zip([*each, *each], scores, strict=True)
    totals = [float(score.mean() if question.per_token else score.sum()) for question, score in pairs]
    positive, negative = np.array(totals, dtype=np.float64).reshape(2, len(posed), len(plans))
    return (positive - negative).T


def control_questions(posed: Sequence[Question]) -> tuple[Question, ...]:
    """Return the questions with completions that say nothing of the behaviour: positive ones of two other groups.

    Both show it alike, so that what moves their log-odds is no effect on it.
    """
    controls: list[Question] = []
    for index, own in enumerate(posed):
        after = [other for other in (*posed[index + 1 :], *posed[:index]) if other.group != own.group]
        second = next((other for other in after[1:] if other.group != after[0].group), after[-1])
        controls.append(replace(own, positive=after[0].positive, negative=second.positive))
    return tuple(controls)
