"""Bytes of a file → text, and JSON → its values, with the lines where they start. It must not know what they mean."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import cast

from steer_tools.errors import PromptError, quoted

_MARK = b"\xef\xbb\xbf"  # Editors put it before UTF-8.
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def decoded(content: bytes, name: str, line: int = 1) -> str:
    """Return the text of what starts in `line` of the file `name`.

    Raises:
        PromptError: It is no UTF-8, or holds a NUL.
    """
    if line == 1:
        content = content.removeprefix(_MARK)
    try:
        text, bad = content.decode("utf-8"), content.find(b"\0")
    except UnicodeDecodeError as error:
        text, bad = "", error.start
    if bad >= 0:
        line += content.count(b"\n", 0, bad)
        raise PromptError(f"{name}, line {line}: this is no UTF-8 text, or holds a NUL", fix="Save the file as UTF-8.")
    return text


def parse_json(text: str, name: str, line: int = 1) -> object:
    """Return the value that `text`, which starts in `line` of the file `name`, holds.

    Raises:
        PromptError: It is no JSON, or is nested too deeply.
    """
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _malformed(error, f"{name}, line {_line_of(error, line)}", line) from error


def require_object(value: object, name: str) -> Mapping[str, object]:
    """Return what the file `name` holds, which must be a JSON object.

    Raises:
        PromptError: It is another value.
    """
    if not isinstance(value, dict):
        raise PromptError(
            f"{name} holds {quoted(value)}", valid="a list of records, two lists of prompts, or a behaviour"
        )
    return cast(dict[str, object], value)


def is_array(text: str) -> bool:
    """Return whether a document starts as an array does."""
    return text.startswith("[", _start(text, 0))


def array_entries(text: str, name: str) -> Iterator[tuple[str, object]]:
    """Yield each entry of the JSON array in the file `name`, one at a time, with the line and index where it stands.

    Raises:
        PromptError: The document is no JSON.
    """
    position = _start(text, _start(text, 0) + 1)
    end, line, index = position, 1 + text.count("\n", 0, position), 0
    is_more = not text.startswith("]", position)
    while is_more:
        where = f"{name}, line {line}, [{index}]"
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _malformed(error, where) from error
        yield where, value
        end = _start(text, end)
        is_more = text.startswith(",", end)
        if is_more:
            before, position, index = position, _start(text, end + 1), index + 1
            line += text.count("\n", before, position)
    if not text.startswith("]", end) or _start(text, end + 1) != len(text):
        last = 1 + text.count("\n", 0, end)
        raise PromptError(
            f"{name}, line {last}: the list neither goes on nor ends here",
            valid="commas between the entries, and nothing after the closing bracket",
        )


def _start(text: str, position: int) -> int:
    """Return where the next sign after white space is."""
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _line_of(error: ValueError | RecursionError, first: int) -> int:
    return first + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else first


def _malformed(error: ValueError | RecursionError, where: str, first: int = 1) -> PromptError:
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} in line {_line_of(error, first)}, column {error.colno}"
    else:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return PromptError(f"{where}: this is no JSON ({reason})", valid="a JSON value", fix="Correct it.")
