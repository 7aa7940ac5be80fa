"""The entries of a data file → items, or the behaviour that it holds. It must not know paths or the forms of files."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import BinaryIO, TypeAlias, cast

from steer_tools.data_files import SUFFIXES, DataFile, Entry
from steer_tools.errors import PromptError, quoted
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_json import behavior_of
from steer_tools.evaluation.behaviors.item_records import (
    RECORD_KEYS,
    form_of,
    item_of_prompts,
    item_of_record,
    item_of_texts,
    located,
)
from steer_tools.prompts import Prompt, parse_prompts

Sides: TypeAlias = tuple[tuple[Prompt, ...], tuple[Prompt, ...]]

_OPTIONAL_CELLS = ("prompt", "group")


def file_of_items(file: BinaryIO, name: str) -> DataFile:
    """Return a file of a behaviour or its items, to be read once from its beginning.

    Raises:
        PromptError: The suffix of its name says no form.
    """
    if PurePath(name).suffix.lower() not in SUFFIXES:
        raise PromptError(f"The name {quoted(name)} does not say which form the file has", valid=", ".join(SUFFIXES))
    return DataFile(file, name, RECORD_KEYS, _check_header)


def read_any(file: DataFile) -> Behavior | Iterator[Item]:
    """Return the behaviour that a file holds, or else its items.

    Raises:
        PromptError: The file is malformed or holds none, or while the items are taken.
    """
    found = _behavior_or_sides(file)
    if isinstance(found, tuple):
        return _paired(found, file.name)
    return found


def read_contrast(file: DataFile) -> Sides | list[Item]:
    """Return both lists of prompts that a file holds, of any lengths, or else its items; of a behaviour the pairs.

    Raises:
        PromptError: The file is malformed or holds none.
    """
    found = _behavior_or_sides(file)
    if isinstance(found, tuple):
        return found
    return [*(found.pairs if isinstance(found, Behavior) else found)]


def _behavior_or_sides(file: DataFile) -> Behavior | Sides | Iterator[Item]:
    found = file.read()
    if not isinstance(found, Mapping):
        return _at_least_one(map(_item, found), file.name)
    if "pairs" in found or "items" in found:
        return behavior_of(found, file.name)
    with located(file.name):
        if missing := [side for side in ("positive", "negative") if side not in found]:
            raise PromptError(
                f"{missing[0]!r} is missing", valid='{"positive": [...], "negative": [...]}, or a list of records'
            )
        positive, negative = (parse_prompts(found[side], side) for side in ("positive", "negative"))
    return positive, negative


def _check_header(columns: Collection[str]) -> None:
    try:
        form_of(columns)
    except PromptError as error:
        raise PromptError(f"{error} The first row names the columns") from error


def _item(entry: Entry) -> Item:
    with located(entry.where):
        if not entry.is_row:
            return item_of_record(entry.value)
        if isinstance(entry.value, str):
            return _item_of_cells(entry.value.split("\t"))
        cells = cast(Mapping[str, str], entry.value)
        return item_of_record({k: cell for k, cell in cells.items() if k not in _OPTIONAL_CELLS or cell.strip()})


def _item_of_cells(cells: list[str]) -> Item:
    match cells:
        case positive, negative:
            return item_of_texts(positive, negative)
        case prompt, positive, negative:
            return item_of_record({"prompt": prompt, "positive": positive, "negative": negative})
        case _:
            raise PromptError(
                f"there are {len(cells)} texts",
                valid="positive<TAB>negative, or prompt<TAB>positive<TAB>negative",
                fix="Correct the line, or remove it if it is a comment; what commas divide is a .csv file.",
            )


def _paired(sides: Sides, name: str) -> Iterator[Item]:
    positive, negative = sides
    with located(name):
        if len(positive) != len(negative):
            raise PromptError(
                f"there are {len(positive)} positive and {len(negative)} negative prompts, which make no pairs",
                valid="as many of both, in the same order",
                fix="Make the lists equally long, or give them as two lists, which are then matched at random.",
            )
        for index, pair in enumerate(zip(positive, negative, strict=True)):
            with located(f"positive[{index}] and negative[{index}]"):
                yield item_of_prompts(*pair)


def _at_least_one(items: Iterator[Item], name: str) -> Iterator[Item]:
    try:
        yield next(items)
    except StopIteration:
        raise PromptError(f"{name} holds no record", valid="at least one pair of completions") from None
    yield from items
