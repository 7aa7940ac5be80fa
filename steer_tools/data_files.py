"""The one reader of data: a .json, .jsonl, .csv, .tsv or .txt file → its entries, and which rows were left out.

It must not know paths, or what an entry means. All forms but .json are streamed: they may be larger than the memory.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import BinaryIO, cast

from steer_tools.errors import PromptError, quoted
from steer_tools.limits import JSON_BYTES, RECORD_BYTES, RECORDS, require_json
from steer_tools.workspace import refuse_pointer

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt")

_CHUNK = 2**16
_MARK = codecs.BOM_UTF8  # Editors put it before UTF-8.
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}
_SPACE = re.compile(r"[ \t\n]*")
_EMPTY, _HEADER, _REPEATED = "empty", "its header", "its header again"


@dataclass(frozen=True)
class Entry:
    """What stands in one row of a file, or in one place of its list.

    Attributes:
        where: The file and the line, as errors name it.
        value: A JSON value; or of a row of a table its cells by column, and of a text without a header the line.
        is_row: Whether it is such a row or line.
    """

    where: str
    value: object
    is_row: bool = False


class DataFile:
    """A file that is read once, from its beginning."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        columns: Collection[str] = (),
        check_header: Callable[[Collection[str]], object] = len,
    ) -> None:
        """The first line of a .txt file is its header if it holds nothing but some of the `columns`.

        A header is given to `check_header`, which refuses it by a PromptError.
        """
        self.name = name
        self._file, self._columns, self._check_header = file, columns, check_header
        self._rows, self._left_out = 0, Counter[str]()

    @property
    def notes(self) -> tuple[str, ...]:
        """How many rows were left out so far, and why; nothing if none were."""
        if not (total := self._left_out.total()):
            return ()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self._left_out.items())
        return (
            f"{self.name}: {total:,} of {self._rows:,} rows {'was' if total == 1 else 'were'} left out: {reasons}.",
        )

    def read(self) -> Mapping[str, object] | Iterator[Entry]:
        """Return the object that a .json file holds, or else the entries of any file; the suffix says its form.

        A file of another suffix is a text. The entries are read as they are taken, and may be refused then.

        Raises:
            PromptError: The file is no Unicode text, malformed, or larger than the limits.
            VectorFileError: It is a pointer of Git LFS.
        """
        match PurePath(self.name).suffix.lower():
            case ".json":
                return self._document()
            case ".jsonl":
                return self._json_lines()
            case ".csv":
                return self._table(",")
            case ".tsv":
                return self._table("\t")
            case _:
                return self._text()

    def _json_lines(self) -> Iterator[Entry]:
        lines = _Lines(self._file, self.name)
        for line in lines:
            if self._counts(line):
                text = line.rstrip("\r\n")
                require_json(text.encode(), lines.record, PromptError)
                yield Entry(lines.record, _value_of(text, self.name, lines.start))
            lines.start_record()

    def _text(self) -> Iterator[Entry]:
        lines, header = _Lines(self._file, self.name), list[str]()
        for line in lines:
            if self._counts(line):
                text = line.rstrip("\r\n")
                # Above the texts some people write what stands where, as a comment.
                names = self._column_names(text.removeprefix("#").split("\t"))
                if self._rows - self._left_out[_EMPTY] == 1 and {*names} <= {*self._columns}:
                    self._left_out[_HEADER] += 1
                    header = self._checked_header(names, lines)
                elif names == header:
                    self._left_out[_REPEATED] += 1
                else:
                    fix = "Texts are divided by tabs here; in a .csv file they may be in quotation marks."
                    cells = self._by_column(header, text.split("\t"), lines, fix) if header else text
                    yield Entry(lines.record, cells, is_row=True)
            lines.start_record()

    def _table(self, delimiter: str) -> Iterator[Entry]:
        lines, header = _Lines(self._file, self.name), list[str]()
        stream = iter(lines)
        for first in stream:
            if first.strip():
                break
            self._counts(first)
            lines.start_record()
        else:
            return
        try:
            delimiter = _delimiter_of(first, delimiter)
            for row in csv.reader(chain([first], stream), delimiter=delimiter, strict=True):
                names = self._column_names(row)
                if not header:
                    header = self._checked_header(names, lines)
                elif self._counts("".join(row)):
                    if names == header:
                        self._left_out[_REPEATED] += 1
                    else:
                        fix = f"Put texts that hold {_DELIMITERS[delimiter]} into quotation marks."
                        yield Entry(lines.record, self._by_column(header, row, lines, fix), is_row=True)
                lines.start_record()
        except csv.Error as error:
            raise PromptError(
                f"{lines.record}: the quotation marks of this row do not fit ({error})",
                valid='a cell in quotation marks, "...", with each quotation mark in it written twice',
                fix="Close the quotation, or double the marks in it.",
            ) from error

    def _checked_header(self, names: list[str], lines: "_Lines") -> list[str]:
        doubled, count = Counter(names).most_common(1)[0] if names else ("", 0)
        if count > 1:
            raise PromptError(
                f"{lines.record}: the column {quoted(doubled)} is there twice", valid="columns of different names"
            )
        try:
            self._check_header(names)
        except PromptError as error:
            raise PromptError(f"{lines.record}: {error}") from error
        return names

    def _column_names(self, cells: Sequence[str]) -> list[str]:
        """Return cells as names of columns; blank ones at the end are no columns."""
        names = [cell.strip() for cell in cells]
        while names and not names[-1]:
            names.pop()
        return [name.lower() if name.lower() in self._columns else name for name in names]

    def _by_column(self, header: Sequence[str], row: Sequence[str], lines: "_Lines", fix: str) -> dict[str, str]:
        """Return the cells by their columns; blank ones after the last column are those of a wider sheet."""
        cells = [*row[: len(header)]]
        if len(cells) < len(header) or "".join(row[len(header) :]).strip():
            raise PromptError(
                f"{lines.record}: there are {len(row)} cells and {len(header)} columns ({', '.join(header)})",
                valid="a cell for each column",
                fix=fix,
            )
        return dict(zip(header, cells, strict=True))

    def _counts(self, row: str) -> bool:
        """Count a row, and return whether there is something in it."""
        self._rows += 1
        RECORDS.require(self._rows, f"{self.name} has at least", PromptError)
        if is_empty := not row.strip():
            self._left_out[_EMPTY] += 1
        return not is_empty

    def _document(self) -> Mapping[str, object] | Iterator[Entry]:
        content = self._file.read(JSON_BYTES.most + 1)
        refuse_pointer(content, self.name)
        JSON_BYTES.require(
            len(content), f"{self.name} has at least", PromptError, fix="Save it as .jsonl, one record a line."
        )
        content = _as_utf8(content, self.name).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = _decoded(content, self.name, 1)
        require_json(content, self.name, PromptError)
        if text.startswith("[", _start(text, 0)):
            return self._array(text)
        value = _value_of(text, self.name, 1)
        if not isinstance(value, dict):
            raise PromptError(f"{self.name} holds {quoted(value)}", valid="a list or an object of JSON")
        return cast(dict[str, object], value)

    def _array(self, text: str) -> Iterator[Entry]:
        """Yield each entry of a JSON array, one at a time."""
        position = _start(text, _start(text, 0) + 1)
        end, line = position, 1 + text.count("\n", 0, position)
        is_more = not text.startswith("]", position)
        while is_more:
            where = f"{self.name}, line {line}, [{self._rows}]"
            try:
                value, end = _DECODER.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                raise _malformed(error, where) from error
            self._rows += 1
            RECORDS.require(self._rows, f"{self.name} has at least", PromptError)
            yield Entry(where, value)
            end = _start(text, end)
            is_more = text.startswith(",", end)
            if is_more:
                before, position = position, _start(text, end + 1)
                line += text.count("\n", before, position)
        if not text.startswith("]", end) or _start(text, end + 1) != len(text):
            raise PromptError(
                f"{self.name}, line {1 + text.count(chr(10), 0, end)}: the list neither goes on nor ends here",
                valid="commas between the entries, and nothing after the closing bracket",
                fix="Correct it, or name the file .jsonl if each line is a record.",
            )


class _Lines:
    """The lines of a file as texts, counted; those of one record together are bounded.

    A line ends with a line feed, a carriage return or both, and with nothing else that Unicode has.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._number, self._room = 0, RECORD_BYTES.most
        self.start = 1

    def __iter__(self) -> Iterator[str]:
        for line in self._whole():
            self._number += 1
            self._room -= len(line)
            if self._room < 0:
                self._refuse_length()
            yield _decoded(line, self._name, self._number)

    def start_record(self) -> None:
        """Let the next line be the first of a record."""
        self.start, self._room = self._number + 1, RECORD_BYTES.most

    @property
    def record(self) -> str:
        """The file and the line where the record starts, for errors."""
        return f"{self._name}, line {self.start}"

    def _whole(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks():
            # Of bytes this splits at no other signs. The last line may go on, or have ended with half of "\r\n".
            *lines, rest = (rest + chunk).splitlines(keepends=True)
            yield from lines
            if len(rest) > RECORD_BYTES.most:
                self._number += 1
                self._refuse_length()
        if rest:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        """Yield the file as UTF-8, in pieces."""
        first = self._file.read(_CHUNK)
        refuse_pointer(first, self._name)
        if first.startswith(_WIDE_MARKS):
            first += self._file.read(JSON_BYTES.most - len(first) + 1)
            JSON_BYTES.require(len(first), f"{self._name} is UTF-16 and has", PromptError, fix="Save it as UTF-8.")
            # Whole, for half of a sign may end a piece.
            first = _as_utf8(first, self._name)
            yield from (first[at : at + _CHUNK] for at in range(0, len(first), _CHUNK))
            return
        if first := first.removeprefix(_MARK):
            yield first
        while chunk := self._file.read(_CHUNK):
            yield chunk

    def _refuse_length(self) -> None:
        raise PromptError(
            f"{self._name}, line {self._number}: here the record that starts in line {self.start} becomes too long",
            valid=f"records of at most {RECORD_BYTES.most:,} bytes",
            fix="A quotation may have no end, or the file is one JSON document: then name it .json.",
        )


def _as_utf8(content: bytes, name: str) -> bytes:
    """Return a text without its mark, and UTF-16, which only its mark tells, as UTF-8."""
    if not content.startswith(_WIDE_MARKS):
        return content.removeprefix(_MARK)
    try:
        return content.decode("utf-16").encode()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{name}, byte {error.start + 1:,}: this is no UTF-16, as which the file begins",
            valid="text in UTF-8, or in UTF-16 with its mark",
            fix="Save the file as UTF-8.",
        ) from error


def _decoded(content: bytes, name: str, line: int) -> str:
    """Return the text that starts in a line of a file."""
    try:
        text, bad, problem = content.decode(), content.find(b"\0"), "a NUL, which no text holds"
    except UnicodeDecodeError as error:
        text, bad, problem = "", error.start, f"{content[error.start]:#04x}, which is no UTF-8"
    if bad < 0:
        return text
    line += content.count(b"\n", 0, bad)
    byte = bad - content.rfind(b"\n", 0, bad)
    raise PromptError(
        f"{name}, line {line:,}: byte {byte:,} of the line is {problem}",
        valid="text in UTF-8, or in UTF-16 with its mark",
        fix="Save the file as UTF-8: it may be Latin-1, Windows-1252, or UTF-16 without a mark.",
    )


def _delimiter_of(header: str, usual: str) -> str:
    """Return what divides a table's header into the most cells; `usual` if others do no more."""
    counts = {sign: len(next(csv.reader([header], delimiter=sign), [])) for sign in (usual, *_DELIMITERS)}
    return max(counts, key=lambda sign: counts[sign])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON, whose keys must differ: of two values one would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        doubled = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {quoted(doubled)} is there twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _value_of(text: str, name: str, line: int) -> object:
    """Return the JSON value that starts in a line of a file."""
    try:
        return cast(object, _DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        at = line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else line
        raise _malformed(error, f"{name}, line {at}", line) from error


def _start(text: str, position: int) -> int:
    """Return where the next sign after white space is."""
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _malformed(error: ValueError | RecursionError, where: str, first: int = 1) -> PromptError:
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} in line {first + error.lineno - 1}, column {error.colno}"
    else:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return PromptError(f"{where}: this is no JSON ({reason})", valid="a JSON value", fix="Correct it.")
