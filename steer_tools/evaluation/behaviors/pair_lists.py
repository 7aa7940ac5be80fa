"""Pairs in one list, as people and data sets write them → two lists of prompts, or items. It must not know models."""

from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any, TypeAlias, cast

from steer_tools.errors import PromptError, quoted
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.item_records import VALID_RECORD, form_of, item_of_record, located
from steer_tools.limits import RECORDS
from steer_tools.prompts import PromptLike

Sides: TypeAlias = tuple[list[PromptLike], list[PromptLike]]

VALID_PAIRS = f"(positive, negative) tuples; or records with {VALID_RECORD}"


def read_pairs(pairs: object, name: str) -> Sides | list[Item]:
    """Return what a list of pairs holds: both sides as they are, or items where the records have prompts or groups.

    A pair is a tuple or list of two prompts, a record, or an object with the attributes `positive` and `negative`.

    Raises:
        PromptError: It is no list of pairs, or a record has another form.
    """
    return _read(pairs, name, {"group"})


def read_contrast_pairs(pairs: object, name: str) -> Sides | list[Item]:
    """Return what a list of pairs holds, as `read_pairs` does, where groups say nothing: items are those with prompts.

    Raises:
        PromptError: As `read_pairs` says.
    """
    return _read(pairs, name, set())


def _read(pairs: object, name: str, telling: Set[str]) -> Sides | list[Item]:
    entries = _entries(pairs, name)
    if all(_is_pair(entry) for entry in entries):
        return [entry[0] for entry in entries], [entry[1] for entry in entries]
    records = [_record(entry) for entry in entries]
    if any(record is None for record in records):
        raise PromptError(
            f"{name} came without a second list, and is {quoted(pairs)}",
            valid=f"two lists of prompts; or one list of pairs: {VALID_PAIRS}",
        )
    given = cast(list[Mapping[str, object]], records)
    with located(f"{name}[0]"):
        form, prompt = form_of(given[0].keys())
    are_alike = all(record.keys() == given[0].keys() for record in given)
    if are_alike and prompt is None and not telling & given[0].keys():
        return cast(Sides, tuple([record[key] for record in given] for key in (form.positive, form.negative)))
    items: list[Item] = []
    for index, record in enumerate(given):
        with located(f"{name}[{index}]"):
            items.append(item_of_record(record))
    return items


def _entries(pairs: object, name: str) -> list[Any]:
    if isinstance(pairs, str | Mapping) or not isinstance(pairs, Iterable):
        raise PromptError(f"{name} is {quoted(pairs)}", valid=f"a list of pairs: {VALID_PAIRS}")
    entries = [*islice(cast(Iterable[Any], pairs), RECORDS.most + 1)]
    RECORDS.require(len(entries), f"{name} has", PromptError)
    if not entries:
        raise PromptError(f"{name} is empty", valid="at least one pair")
    return entries


def _is_pair(entry: object) -> bool:
    """Whether an entry is two prompts; two messages or two token ids are one."""
    if not isinstance(entry, tuple | list) or len(cast(list[object], entry)) != 2:
        return False
    return all(isinstance(side, str | list | tuple) for side in cast(list[object], entry))


def _record(entry: object) -> Mapping[str, object] | None:
    if isinstance(entry, Mapping):
        record = cast(Mapping[str, object], entry)
        return None if {"role", "content"} <= record.keys() else record
    if hasattr(entry, "positive") and hasattr(entry, "negative"):
        return {key: getattr(entry, key) for key in ("positive", "negative")}
    return None
