"""The JSON form of a behaviour ↔ the behaviour. It must not know where it was read from."""

from collections.abc import Iterable, Mapping
from typing import BinaryIO, cast

from steer_tools.data_files import DataFile
from steer_tools.errors import PromptError, VectorFileError, quoted
from steer_tools.evaluation.behaviors.behavior import Behavior, Item, Words
from steer_tools.evaluation.behaviors.item_records import (
    is_beginning,
    item_of_record,
    located,
    question_of,
    require_prompt,
    require_text,
)
from steer_tools.prompts import ChatPrompt, TextPrompt, plain
from steer_tools.workspace import Kind

_REQUIRED = ("name", "description", "positive", "negative", "pairs", "items")
_OPTIONAL = ("instruction", "source", "choices", "questions", "words")
_SIDES = ("positive", "negative")


def parse_behavior(file: BinaryIO, name: str) -> Behavior:
    """Return the behaviour that the .json file `name` is.

    Raises:
        PromptError: It is no JSON object, or as `behavior_of` says.
        VectorFileError: It is a pointer of Git LFS.
    """
    found = DataFile(file, name).read()
    if not isinstance(found, Mapping):
        raise PromptError(f"{name} is a list", valid="a behaviour: an object of JSON")
    return behavior_of(found, name)


def behavior_of(document: Mapping[str, object], name: str) -> Behavior:
    """Return the behaviour that the file `name` holds.

    Raises:
        PromptError: A key is missing or unknown, a value is blank or of a wrong type, a prompt or group of the pairs is
            held out, too, or a question is a prompt of theirs or of another held-out part.
    """
    with located(name):
        unknown = [key for key in document if key not in (*_REQUIRED, *_OPTIONAL)]
        missing = [key for key in _REQUIRED if key not in document]
        if unknown or missing:
            problem = f"the key {quoted(unknown[0])} is unknown" if unknown else f"{missing[0]!r} is missing"
            raise PromptError(problem, valid=f"{', '.join(_REQUIRED)}; and perhaps {', '.join(_OPTIONAL)}")
        texts = {key: require_text(document[key], key) for key in _REQUIRED[:4]}
        instruction, source = (require_text(document[key], key) if key in document else None for key in _OPTIONAL[:2])
        pairs, items = (_items(document[part], part) for part in ("pairs", "items"))
        choices = _items(document["choices"], "choices") if "choices" in document else ()
        _refuse_leaks(pairs, (*items, *choices))
        questions = _questions(document["questions"], (*pairs, *items, *choices)) if "questions" in document else ()
        words = _words(document["words"]) if "words" in document else None
    return Behavior(
        name=texts["name"],
        description=texts["description"],
        poles=(texts["positive"], texts["negative"]),
        instruction=instruction,
        source=source or name,
        pairs=pairs,
        items=items,
        choices=choices,
        questions=questions,
        words=words,
    )


def _is_behavior(file: BinaryIO) -> bool:
    try:
        parse_behavior(file, "file.json")
    except (PromptError, VectorFileError):
        return False
    return True


BEHAVIOR = Kind("a behaviour's file", _is_behavior)


def behavior_document(behavior: Behavior) -> dict[str, object]:
    """Return the JSON form of a behaviour, from which `behavior_of` makes it again."""
    document: dict[str, object] = {
        "name": behavior.name,
        "description": behavior.description,
        "positive": behavior.poles[0],
        "negative": behavior.poles[1],
        "source": behavior.source,
    }
    if behavior.instruction is not None:
        document["instruction"] = behavior.instruction
    parts = {"pairs": behavior.pairs, "items": behavior.items, "choices": behavior.choices}
    document |= {part: [record_of(item) for item in items] for part, items in parts.items() if items}
    if behavior.questions:
        document["questions"] = [*map(plain, behavior.questions)]
    if behavior.words is not None:
        document["words"] = {side: [*getattr(behavior.words, side)] for side in _SIDES}
    return document


def record_of(item: Item) -> dict[str, object]:
    """Return the JSON form of an item, from which `item_of_record` makes it again."""
    prompt = None if item.prompt is None else plain(item.prompt)
    return {"prompt": prompt, "positive": item.positive, "negative": item.negative, "group": item.group}


def _items(values: object, part: str) -> tuple[Item, ...]:
    if not isinstance(values, list) or not values:
        raise PromptError(f"{part} is {quoted(values)}", valid="a list with at least one record")
    items: list[Item] = []
    for index, value in enumerate(cast(list[object], values)):
        with located(f"{part}[{index}]"):
            items.append(item_of_record(value))
    return tuple(items)


def _questions(values: object, others: Iterable[Item]) -> tuple[TextPrompt | ChatPrompt, ...]:
    if not isinstance(values, list) or not values:
        raise PromptError(f"questions is {quoted(values)}", valid="a list with at least one text or chat")
    taken = {question_of(item.prompt) for item in others if item.prompt is not None}
    questions: list[TextPrompt | ChatPrompt] = []
    for index, value in enumerate(cast(list[object], values)):
        name = f"questions[{index}]"
        question = require_prompt(value, name)
        if isinstance(question, ChatPrompt) and question.messages[-1][0] != "user":
            raise PromptError(f"{name} ends with the {question.messages[-1][0]}", valid="a user's message at the end")
        asked = question_of(question)
        if asked in taken:
            raise PromptError(
                f"{name}, {quoted(asked)}, is there before, or a prompt of the pairs, items or choices",
                valid="questions that are nowhere else",
            )
        taken.add(asked)
        questions.append(question)
    return tuple(questions)


def _words(value: object) -> Words:
    if not isinstance(value, Mapping) or {*cast(Mapping[object, object], value)} != {*_SIDES}:
        raise PromptError(f"words is {quoted(value)}", valid='{"positive": [...], "negative": [...]}')
    sides: list[tuple[str, ...]] = []
    for side in _SIDES:
        given = cast(Mapping[str, object], value)[side]
        if not isinstance(given, list):
            raise PromptError(f"words, {side}, is {quoted(given)}", valid="a list of words, perhaps an empty one")
        words = [require_text(word, f"words, {side}[{i}]") for i, word in enumerate(cast(list[object], given))]
        sides.append(tuple(words))
    found = Words(*sides)
    if repeated := found.repeated():
        raise PromptError(f"words has {quoted(repeated[0])} twice", valid="words that are there once, on one side")
    if not any(sides):
        raise PromptError("words has none on either side", valid="at least one word", fix="Leave 'words' out.")
    return found


def _refuse_leaks(pairs: tuple[Item, ...], held_out: tuple[Item, ...]) -> None:
    groups = {item.group for item in pairs}
    prompts = {item.prompt for item in pairs if item.prompt is not None and not is_beginning(item.prompt)}
    for item in held_out:
        if item.group in groups or item.prompt in prompts:
            raise PromptError(
                f"{quoted(item.group)} is in the pairs and held out as well",
                valid="prompts and groups that are on one side only",
                fix="A vector must not be judged on what it was made of.",
            )
