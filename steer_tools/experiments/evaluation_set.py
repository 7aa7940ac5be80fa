"""A behaviour's name, file or lists → all that an experiment works on: items in splits, neutral prompts, exact scores.

It must not know vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from random import Random
from typing import cast

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.bundled_model.language import TRAITS, score
from steer_tools.data_files import SUFFIXES
from steer_tools.engines.base import Engine
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_loading import (
    behavior_names,
    behavior_of_items,
    behavior_of_lists,
    load_behavior,
    read_behavior,
)
from steer_tools.evaluation.behaviors.bundled_traits import neutral_questions, trait_behavior
from steer_tools.evaluation.behaviors.instructions import require_no_instructions
from steer_tools.evaluation.behaviors.pair_lists import read_pairs
from steer_tools.evaluation.questions import questions_to_answer
from steer_tools.evaluation.scorers import TextScore
from steer_tools.prompts import ChatPrompt, Message, Prompt, PromptLike, TextPrompt, TokenPrompt, plain
from steer_tools.session.session import Session

# Of the groups of held-out items so many choose, and the others judge.
_CHOOSING_SHARE = 0.4
_FEWEST_GROUPS = 4
_NEUTRAL = 16
# What a behaviour of lists without a name is called.
_NAMELESS = "own"
# Items of each other behaviour on which side effects are measured.
_OTHER_ITEMS = 4
# What is left of items, and of those of each other behaviour, for who is in haste.
_HASTY_GROUPS, _HASTY_ITEMS = 10, 2
# Text effects were held to counts of words on texts of 30 tokens. The longest answer of the bundled language is below
# 128, and an unfinished one has no score.
_TEXT_TOKENS, _ANSWER_TOKENS = 32, 128


@dataclass(frozen=True)
class Splits:
    """Held-out items: those on which layer and strength are chosen, and those on which the choice is judged."""

    choosing: tuple[Item, ...]
    judging: tuple[Item, ...]


@dataclass(frozen=True)
class EvaluationSet:
    """What an experiment works on.

    Attributes:
        behavior: Its pairs make the vector.
        splits: Its items; no group is in both parts.
        neutral: Prompts that do not ask for the behaviour.
        prompts: What texts are written to, in a random order: its questions, or the neutral prompts where its items are
            whole texts.
        scorers: Scores of texts, by name; "exact" where the model's language has one.
        others: Items of other behaviours, by name.
        text_tokens: The most new tokens of a text that is judged.
        named: The name or file that it is of; None where it is of lists.
        capability: Questions with a right answer that have nothing to do with the behaviour.
    """

    behavior: Behavior
    splits: Splits
    neutral: tuple[Prompt, ...]
    prompts: tuple[Prompt, ...]
    scorers: Mapping[str, TextScore]
    others: Mapping[str, Sequence[Item]]
    text_tokens: int
    named: str | None = None
    capability: tuple[Item, ...] = ()

    def shortened(self) -> "EvaluationSet":
        """Return a set for who is in haste: with fewer items for log-odds, of this and of other behaviours."""
        judging = tuple(_of_groups(self.splits.judging, _HASTY_GROUPS))
        others = {name: items[:_HASTY_ITEMS] for name, items in self.others.items()}
        return replace(self, splits=replace(self.splits, judging=judging), others=others)


def evaluation_set_named(
    session: Session,
    name: object,
    positive: Sequence[PromptLike] | None = None,
    negative: Sequence[PromptLike] | None = None,
    seed: int = 0,
    *,
    is_judged_on: bool = True,
) -> EvaluationSet:
    """Return the evaluation set of a behaviour: of two lists, of a list of pairs, of a trait, built in, or in a file.

    A behaviour of lists may go without a name: then `name` is the positive list and `positive` the negative one, or
    `name` is a list of pairs. Only where nothing is judged on it may it be of instructions to a model.

    Raises:
        ArgumentError: There is no such behaviour, one list came without the other, or it is of instructions.
        PromptError: The lists or the file cannot be used.
    """
    named = name if isinstance(name, str) and positive is None and negative is None else None
    if named is None:
        behavior = _behavior_of_own(name, positive, negative, seed)
    else:
        behavior = behavior_named(session, named, seed)
    if is_judged_on:
        require_no_instructions(behavior.name, (*behavior.pairs, *behavior.items))
    return replace(evaluation_set_of(session.engine, behavior, seed), named=named)


def _behavior_of_own(
    name: object, positive: Sequence[PromptLike] | None, negative: Sequence[PromptLike] | None, seed: int
) -> Behavior:
    if isinstance(name, str):
        are_pairs = negative is None and bool(positive) and all(isinstance(entry, Mapping) for entry in positive)
        named, sides = name, read_pairs(positive, "positive") if are_pairs else (positive, negative)
    elif positive is None and negative is None:
        named, sides = _NAMELESS, read_pairs(name, "behavior_name")
    else:
        # The two lists stand where a name and a list would, unless all three places are taken.
        named, sides = _NAMELESS, (cast(Sequence[PromptLike], name), positive if negative is None else None)
    if isinstance(sides, list):
        return behavior_of_items(named, sides, seed)
    shown, opposite = sides
    if shown is None or opposite is None:
        raise ArgumentError("One of the lists positive and negative came without the other", valid="both, or neither")
    return behavior_of_lists(named, shown, opposite, seed)


def behavior_named(session: Session, name: str, seed: int = 0) -> Behavior:
    """Return a built-in behaviour, one in a file, or a trait of the bundled language.

    Raises:
        ArgumentError: There is no such behaviour.
        PromptError: The file cannot be used.
    """
    if PurePath(name).suffix.lower() in SUFFIXES:
        with session.workspace.opened(name) as file:
            # The same pairs and held-out items for every seed, so that no tool tests a vector on its own pairs.
            return read_behavior(file, PurePath(name).name)
    if session.engine.info.language != BUNDLED:
        return load_behavior(name, as_chat=session.engine.info.has_chat_template)
    if name not in TRAITS:
        raise ArgumentError(
            f"behavior_name is {name!r}, and the bundled model speaks a language of its own",
            valid=f"its traits {', '.join(TRAITS)}; a file of items in its language; or two lists of prompts in it",
        )
    return trait_behavior(name, seed=seed)


def evaluation_set_of(engine: Engine, behavior: Behavior, seed: int = 0) -> EvaluationSet:
    """Return the evaluation set of a behaviour.

    Raises:
        PromptError: It has too few groups of items to hold some out twice.
    """
    speaks_ours = engine.info.language == BUNDLED
    try:
        prompts = questions_to_answer(engine, behavior)
    except PromptError:
        prompts = list(neutral_for(engine))
    Random(f"prompts/{seed}").shuffle(prompts)
    others = behaviors_of(engine, items=_OTHER_ITEMS, seed=seed + 1)
    others.pop(behavior.name, None)
    return EvaluationSet(
        behavior=behavior,
        splits=split(behavior.items, seed),
        neutral=neutral_for(engine),
        prompts=tuple(prompts),
        scorers={"exact": partial(_exact, behavior.name)} if speaks_ours and behavior.name in TRAITS else {},
        others={name: other.items[:_OTHER_ITEMS] for name, other in others.items()},
        text_tokens=_ANSWER_TOKENS if speaks_ours else _TEXT_TOKENS,
    )


def behaviors_of(engine: Engine, *, items: int, seed: int = 0) -> dict[str, Behavior]:
    """Return all behaviours that a model can be asked for, by name; of the bundled language with so many `items`."""
    if engine.info.language == BUNDLED:
        return {trait: trait_behavior(trait, items=items, seed=seed) for trait in TRAITS}
    return {name: load_behavior(name, as_chat=engine.info.has_chat_template) for name in behavior_names()}


def split(items: Sequence[Item], seed: int) -> Splits:
    """Divide items by group.

    Raises:
        PromptError: There are too few groups.
    """
    groups = sorted({item.group for item in items})
    if len(groups) < _FEWEST_GROUPS:
        raise PromptError(
            f"There are {len(groups)} held-out questions",
            valid=f"at least {_FEWEST_GROUPS}, some to choose and some to judge",
        )
    Random(f"split/{seed}").shuffle(groups)
    choosing = set(groups[: max(2, round(_CHOOSING_SHARE * len(groups)))])
    return Splits(
        tuple(item for item in items if item.group in choosing),
        tuple(item for item in items if item.group not in choosing),
    )


def _of_groups(items: Sequence[Item], most: int) -> list[Item]:
    groups = list(dict.fromkeys(item.group for item in items))[:most]
    return [item for item in items if item.group in groups]


def neutral_for(engine: Engine) -> tuple[Prompt, ...]:
    """Return prompts that ask for no behaviour, as a user's messages where the model has a chat template."""
    if engine.info.language == BUNDLED:
        return neutral_questions(_NEUTRAL)
    if not engine.info.has_chat_template:
        return engine.neutral_prompts
    return tuple(
        ChatPrompt((("user", prompt.text),)) if isinstance(prompt, TextPrompt) else prompt
        for prompt in engine.neutral_prompts
    )


def text_of(prompt: Prompt) -> str:
    """Return what scorers of texts get for a prompt: the text, or the last message of a chat."""
    match prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return messages[-1][1]
        case TokenPrompt():
            return str(prompt)


def _exact(trait: str, prompt: Prompt, text: str) -> float:
    said = cast(str | list[Message], plain(prompt))
    return 0.0 if isinstance(prompt, TokenPrompt) else score(said, text)[trait]
