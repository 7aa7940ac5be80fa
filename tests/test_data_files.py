"""The one reader of data files: what a row, a line's end and a delimiter are, and that nothing is left out unsaid."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping

import pytest

from steer_tools.data_files import DataFile
from steer_tools.errors import PromptError, VectorFileError
from steer_tools.limits import RECORDS

COLUMNS = ("prompt", "positive", "negative")
TEXTS = ["one", "# two", "three"]


def read(name: str, content: str | bytes) -> tuple[list[object], tuple[str, ...]]:
    """Return a file's values and what was left out of them."""
    file = DataFile(io.BytesIO(content.encode() if isinstance(content, str) else content), name, COLUMNS)
    found = file.read()
    assert isinstance(found, Iterator)
    return [entry.value for entry in found], file.notes


def refusal(name: str, content: str | bytes) -> str:
    with pytest.raises(PromptError) as caught:
        read(name, content)
    return str(caught.value)


def cells(*rows: tuple[str, ...]) -> list[dict[str, str]]:
    return [dict(zip(("positive", "negative"), row, strict=True)) for row in rows]


# Lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_line_ends_with_a_line_feed_or_a_carriage_return_or_both(end: str, chunked: bool) -> None:
    # Where the file is read in pieces, one ends between the two signs.
    texts = ["x" * (2**16 - 1), *TEXTS] if chunked else TEXTS

    assert read("a.txt", end.join(texts) + end) == (texts, ())
    assert read("a.jsonl", end.join(map(json.dumps, texts))) == (texts, ())
    assert read("a.json", f"[{end}{f',{end}'.join(map(json.dumps, texts))}]") == (texts, ())
    assert read("a.csv", end.join(["positive,negative", "a,b", "c,d"])) == (cells(("a", "b"), ("c", "d")), ())


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_no_other_sign_of_unicode_ends_a_line(sign: str) -> None:
    assert read("a.txt", f"one{sign}two\nthree") == ([f"one{sign}two", "three"], ())
    assert read("a.csv", f"positive,negative\none{sign}two,b\n") == (cells((f"one{sign}two", "b")), ())


def test_the_line_of_an_error_is_counted_by_the_same_ends() -> None:
    for end in ("\n", "\r\n", "\r"):
        assert refusal("a.jsonl", f'"a"{end}"b{chr(0x2028)}"{end}{{').startswith("a.jsonl, line 3: ")
        assert refusal("a.json", f'[{end}"a",{end}{{}}{end}]]').startswith("a.json, line 4: ")


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_utf_8_and_utf_16_with_its_mark_are_read(name: str, encoding: str) -> None:
    text = {
        "a.txt": "ä\n😀",
        "a.jsonl": '"ä"\n"😀"',
        "a.json": '["ä",\n"😀"]',
        "a.csv": "positive;negative\nä;😀",
    }[name]
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""

    assert read(name, (mark + text).encode(encoding)) == read(name, text)
    if mark:
        assert "UTF-16 without a mark" in refusal(name, text.encode(encoding))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("one\nzwölf".encode("latin-1"), "a.txt, line 2: byte 3 of the line is 0xf6, which is no UTF-8"),
        (b"one\n\ntw\0o", "a.txt, line 3: byte 3 of the line is a NUL"),
        ("one".encode("utf-16-le"), "a.txt, line 1: byte 2 of the line is a NUL"),
        (b"\xff\xfea\x00\x00\xd8", "a.txt, byte 5: this is no UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_with_line_and_byte(content: bytes, words: str) -> None:
    message = refusal("a.txt", content)

    assert message.startswith(words)
    assert "Save the file as UTF-8" in message


def test_a_pointer_of_git_lfs_is_no_text() -> None:
    for name in ("a.txt", "a.json"):
        with pytest.raises(VectorFileError, match="git lfs pull"):
            read(name, b"version https://git-lfs.github.com/spec/v1\n")


# Tables


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_header_tells_the_delimiter(name: str, delimiter: str, end: str) -> None:
    rows = ["Positive{0}NEGATIVE", 'a, b; "c"{0}"d{0}e ""f"""', "{0}"]
    content = end.join(row.format(delimiter) for row in rows).replace("a, b; ", "a b ")

    assert read(name, content)[0] == cells(('a b "c"', f'd{delimiter}e "f"'))


def test_a_quoted_cell_may_have_lines_and_other_delimiters() -> None:
    assert read("a.csv", 'positive;negative\n"a\r\nb,\t";c,d\n') == (cells(("a\r\nb,\t", "c,d")), ())


def test_blank_cells_of_a_wider_sheet_are_none() -> None:
    assert read("a.csv", "positive,negative,,\na,b,,\nc,d\n") == (cells(("a", "b"), ("c", "d")), ())
    assert "3 cells and 2 columns (positive, negative)" in refusal("a.csv", "positive,negative,\na,b,c\n")


def test_a_text_may_have_a_header_which_is_counted_and_a_table_has_one() -> None:
    told = ("a.txt: 1 of 2 rows was left out: 1 its header.",)
    for header in ("positive\tnegative", "# Positive\tNegative "):
        assert read("a.txt", f"{header}\na\tb\n") == (cells(("a", "b")), told)
    again = ("a.txt: 2 of 3 rows were left out: 1 its header, 1 its header again.",)
    assert read("a.txt", "positive\tnegative\na\tb\npositive\tnegative\n") == (cells(("a", "b")), again)
    assert read("a.txt", "positive\tother\na\tb\n") == (["positive\tother", "a\tb"], ())
    assert read("a.csv", "positive,negative\na,b\n") == (cells(("a", "b")), ())


# What is left out


def test_rows_that_are_left_out_are_counted_with_their_reasons() -> None:
    rows = ["a,b"] * 40 + ["", ",", " Positive,negative"]

    found, told = read("data.csv", "\n".join(["positive,negative", *rows]))

    assert found == cells(("a", "b")) * 40
    assert told == ("data.csv: 3 of 43 rows were left out: 2 empty, 1 its header again.",)
    assert read("a.jsonl", '"a"\n\n \n"b"\n\n') == (
        ["a", "b"],
        ("a.jsonl: 3 of 5 rows were left out: 3 empty.",),
    )


def test_what_begins_like_a_comment_is_data() -> None:
    lines = [f"# {i}" for i in range(10)]

    assert read("a.txt", "\n".join(lines)) == (lines, ())


def test_a_key_that_is_there_twice_is_refused_since_one_value_would_be_lost() -> None:
    assert "the key 'a' is there twice" in refusal("a.jsonl", '{"a": 1, "a": 2}')
    assert "the key 'a' is there twice" in refusal("a.json", '[{"b": {"a": 1, "a": 1}}]')


def test_the_one_doubled_key_of_many_is_found_in_the_time_that_reading_takes() -> None:
    keys = [f'"{i}": 0' for i in range(30_000)]

    started = time.process_time()

    assert "the key '29999' is there twice" in refusal("a.json", f"{{{', '.join([*keys, keys[-1]])}}}")
    assert time.process_time() - started < 2


# Limits


@pytest.mark.parametrize(
    ("name", "row", "begin", "end"),
    [
        ("a.txt", "x\n", "", ""),
        ("a.txt", "\n", "", ""),
        ("a.jsonl", "1\n", "", ""),
        ("a.csv", "a,b\n", "positive,negative\n", ""),
        ("a.json", "1,", "[", "1]"),
    ],
)
def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, row: str, begin: str, end: str) -> None:
    monkeypatch.setenv(RECORDS.variable, "10")

    read(name, begin + row * 9 + end)
    message = refusal(name, begin + row * 11 + end)

    assert message.startswith(f"{name} has at least 11 rows. Valid: at most 10 rows.")


def test_an_object_is_given_whole_and_a_single_value_is_none() -> None:
    file = DataFile(io.BytesIO(b' {"a": [1]}'), "a.json")

    found = file.read()

    assert isinstance(found, Mapping)
    assert found == {"a": [1]}
    assert refusal("a.json", "3").startswith("a.json holds 3")
