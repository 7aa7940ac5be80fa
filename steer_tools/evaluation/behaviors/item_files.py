"""A file of items → the items, one after the other, or the behaviour that it holds. It must not know paths.

All forms but .json are streamed: their files may be larger than the memory.
"""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import BinaryIO

from steer_tools.errors import PromptError, quoted
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_json import behavior_of
from steer_tools.evaluation.behaviors.item_records import (
    form_of,
    item_of_prompts,
    item_of_record,
    item_of_texts,
    located,
)
from steer_tools.evaluation.behaviors.json_text import array_entries, decoded, is_array, parse_json, require_object
from steer_tools.prompts import parse_prompts

# About 30,000 tokens: more than models are asked in one record.
MAX_RECORD_BYTES = 2**17
MAX_DOCUMENT_BYTES = 64 * 2**20
_OPTIONAL_CELLS = ("prompt", "group")


def read_any(file: BinaryIO, name: str) -> Behavior | Iterator[Item]:
    """Return the behaviour that a file holds, or else its items; the suffix of `name` says its form.

    Raises:
        PromptError: Nothing reads the suffix; or, while the items are taken, the file is malformed or holds none.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise PromptError(f"The name {quoted(name)} does not say which form the file has", valid=", ".join(SUFFIXES))
    if suffix == ".json":
        return _read_document(file, name)
    return _at_least_one(_STREAMS[suffix](_Lines(file, name)), name)


class _Lines:
    """The lines of a file as texts, counted; those of one record together are bounded."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self.name = file, name
        self._number, self.start, self._room = 0, 1, MAX_RECORD_BYTES

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self._room + 1):
            self._number += 1
            self._room -= len(line)
            if self._room < 0:
                raise PromptError(
                    f"{self.name}, line {self._number}: here the record becomes too long",
                    valid=f"records of at most {MAX_RECORD_BYTES:,} bytes",
                    fix="A quotation may have no end, or the file is one JSON document: then name it .json.",
                )
            yield decoded(line, self.name, self._number)

    def start_record(self) -> None:
        """Let the next line be the first of a record."""
        self.start, self._room = self._number + 1, MAX_RECORD_BYTES

    @property
    def record(self) -> str:
        """The file and the line where the record starts, for errors."""
        return f"{self.name}, line {self.start}"


def _json_lines(lines: _Lines) -> Iterator[Item]:
    for line in lines:
        if line.strip():
            record = parse_json(line.rstrip("\r\n"), lines.name, lines.start)
            with located(lines.record):
                yield item_of_record(record)
        lines.start_record()


def _table(lines: _Lines, delimiter: str) -> Iterator[Item]:
    header: list[str] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            if len(row) > 1 or "".join(row).strip():
                with located(lines.record):
                    if header:
                        yield item_of_record(_record(header, row))
                    else:
                        header = _checked_header(row)
            lines.start_record()
    except csv.Error as error:
        raise PromptError(f"{lines.record}: this is no table ({error})", fix="Correct the quotation marks.") from error


def _checked_header(row: list[str]) -> list[str]:
    header = [cell.strip() for cell in row]
    if twice := [key for key in header if header.count(key) > 1]:
        raise PromptError(f"the column {quoted(twice[0])} is there twice", valid="columns of different names")
    form_of(header)
    return header


def _record(header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise PromptError(
            f"there are {len(row)} cells and {len(header)} columns",
            valid="a cell for each column",
            fix="Put texts that hold the delimiter into quotation marks.",
        )
    cells = zip(header, row, strict=True)
    return {key: cell for key, cell in cells if key not in _OPTIONAL_CELLS or cell.strip()}


def _tabbed(lines: _Lines) -> Iterator[Item]:
    for line in lines:
        if line.strip() and not line.startswith("#"):
            with located(lines.record):
                yield _item_of_cells(line.rstrip("\r\n").split("\t"))
        lines.start_record()


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
            )


_STREAMS = {
    ".jsonl": _json_lines,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".txt": _tabbed,
}
SUFFIXES = (".json", *_STREAMS)


def _read_document(file: BinaryIO, name: str) -> Behavior | Iterator[Item]:
    content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise PromptError(
            f"{name} is too large to be read whole",
            valid=f"at most {MAX_DOCUMENT_BYTES:,} bytes",
            fix="Save it as .jsonl, one record a line.",
        )
    text = decoded(content, name)
    if is_array(text):
        return _at_least_one(_listed(text, name), name)
    values = require_object(parse_json(text, name), name)
    # Others are two lists of prompts.
    is_behavior = "pairs" in values or "items" in values
    return behavior_of(values, name) if is_behavior else _at_least_one(_two_sided(values, name), name)


def _listed(text: str, name: str) -> Iterator[Item]:
    for where, value in array_entries(text, name):
        with located(where):
            yield item_of_record(value)


def _two_sided(document: Mapping[str, object], name: str) -> Iterator[Item]:
    with located(name):
        if missing := [side for side in ("positive", "negative") if side not in document]:
            raise PromptError(
                f"{missing[0]!r} is missing", valid='{"positive": [...], "negative": [...]}, or a list of records'
            )
        positive, negative = (parse_prompts(document[side], side) for side in ("positive", "negative"))
        if len(positive) != len(negative):
            raise PromptError(
                f"there are {len(positive)} positive and {len(negative)} negative prompts, which make no pairs",
                valid="as many of both, in the same order",
                fix="Make the lists equally long, or give them as two lists, which are then matched at random.",
            )
        for index, sides in enumerate(zip(positive, negative, strict=True)):
            with located(f"positive[{index}] and negative[{index}]"):
                yield item_of_prompts(*sides)


def _at_least_one(items: Iterator[Item], name: str) -> Iterator[Item]:
    try:
        yield next(items)
    except StopIteration:
        raise PromptError(f"{name} holds no record", valid="at least one pair of completions") from None
    yield from items
