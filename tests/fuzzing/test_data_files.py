"""Data files of every form, mutated: they are read, or refused by an error of ours that names the file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.fuzzing import fuzz, mutated
from steer_tools.cli.inputs import ContrastSource, PromptSource
from steer_tools.errors import SteeringError
from steer_tools.evaluation.behaviors.behavior_loading import read_behavior

RECORDS = [{"prompt": f"Question {i}?", "positive": f"Yes, {i}.", "negative": f"No, {i}."} for i in range(9)]
OTHERS = [{"question": f"\n\nHuman: {i}?\n\nAssistant:", "correct": "(A)", "incorrect": "(B)"} for i in range(9)]
CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Good day."}]
SIDES = {side: [record[side] for record in RECORDS] for side in ("positive", "negative")}
BEHAVIOR = {
    **dict.fromkeys(("name", "description", "positive", "negative"), "x"),
    "pairs": RECORDS[:4],
    "items": RECORDS[4:],
}
ROWS = [("prompt", "positive", "negative"), *(tuple(record.values()) for record in RECORDS)]


def table(delimiter: str, end: str) -> str:
    return end.join(delimiter.join(f'"{cell}"' for cell in row) for row in ROWS)


WHOLES = {
    ".json": [json.dumps(whole, indent=1) for whole in (RECORDS, SIDES, BEHAVIOR, [CHAT, "a"])],
    ".jsonl": ["\n".join(map(json.dumps, records)) for records in (RECORDS, OTHERS, [CHAT, "a"])],
    ".csv": [table(",", "\n"), table(";", "\r\n"), table("\t", "\r"), "text\na\nb\n"],
    ".txt": ["\n".join("\t".join(row) for row in rows) for rows in (ROWS, ROWS[1:], [row[1:] for row in ROWS[1:]])],
}
PIECES = [
    *(b"\n", b"\r", b"\r\n", b"\t", b",", b";", b'"', b'""', b"#", b"\\", b"\0", b"\xff", b"\xff\xfe", b"\xfe\xff"),
    *(b"\xef\xbb\xbf", b"[", b"]", b"{", b"}", b'{"a":', b":", b"null", b"NaN", b"-1e999", b"3", b"true", b"[]", b'""'),
    *("\u2028\x85\x0c".encode(), b"\\ud800", b"\\u0000", b"positive,negative\n", b'"prompt": ', b"x" * 99),
    *(json.dumps(part).encode() for part in (CHAT, CHAT[0], RECORDS[0], [1, 2])),
]


READERS: dict[str, Callable[[Path], object]] = {
    "behaviour": lambda path: read_behavior(io.BytesIO(path.read_bytes()), path.name),
    "contrast": lambda path: ContrastSource(prompts=str(path)).arguments({}, [], is_required=True),
    "prompts": lambda path: PromptSource(prompts_file=str(path)).arguments({}, [], is_required=True),
}


def encoded(suffix: str) -> list[bytes]:
    """Return a form's valid files in each encoding."""
    return [text.encode(encoding) for text in WHOLES[suffix] for encoding in ("utf-8", "utf-8", "utf-8-sig", "utf-16")]


@pytest.mark.parametrize("suffix", WHOLES)
@pytest.mark.parametrize("reader", READERS)
def test_any_bytes_are_read_or_refused_by_the_files_name(reader: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"some{suffix}"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            READERS[reader](path)
        except SteeringError as error:
            # Where nothing but empty rows is left there are no prompts, whatever the file.
            assert path.name in str(error) or "some has" in str(error) or "No prompt was given" in str(error)
            assert len(str(error)) < 2_000
            raise

    found = fuzz(read, mutated(encoded(suffix), PIECES))

    print(f"\n{reader} {suffix}: {found}")
    assert 10 < found.read < found.examples
