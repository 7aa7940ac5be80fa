"""Files of prompts and pairs on the command line: every form, everywhere, and what was left out in the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools.cli.inputs import ContrastSource, LabelSource, OwnBehaviorSource, PromptSource
from steer_tools.errors import ArgumentError, PromptError

PAIRS = [*zip(POSITIVE, NEGATIVE, strict=True)]
ITEMS = [{"prompt": f"Question {i}?", "positive": f"Yes, {i}.", "negative": f"No, {i}."} for i in range(8)]
CHAT = [{"role": "user", "content": "Hi."}]
LEFT_OUT = "1 of 3 rows was left out: 1 empty."


def written(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def prompts_in(file: str) -> tuple[object, list[str]]:
    told: list[str] = []
    return PromptSource(prompts_file=file).arguments({}, told, is_required=True)["prompts"], told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\u2028two\n\n# three\n"),
        ("a.md", "one\u2028two\n\n# three\n"),
        ("a.csv", "id;prompt\n1;one\u2028two\n;\n2;# three\n"),
        ("a.tsv", "text\tid\r\none\u2028two\t1\r\n\t\r\n# three\t2\r\n"),
        ("a.jsonl", '"one\u2028two"\n\n{"question": "# three", "id": 2}\n'),
    ],
)
def test_prompts_are_read_from_every_form_and_what_was_left_out_is_told(
    name: str, content: str, tmp_path: Path
) -> None:
    assert prompts_in(written(tmp_path / name, content)) == (["one\u2028two", "# three"], [f"{name}: {LEFT_OUT}"])


def test_chats_are_prompts_too(tmp_path: Path) -> None:
    content = json.dumps([CHAT, {"messages": CHAT}, {"prompt": "Hi."}])

    assert prompts_in(written(tmp_path / "a.json", content)) == ([CHAT, CHAT, "Hi."], [])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{}", "a.json holds no list"),
        ("a.json", '["a", 3]', "a.json, line 1, [1] is 3"),
        ("a.jsonl", '"a"\n{"b": 1}', "a.jsonl, line 2: the columns are 'b'"),
        ("a.csv", "How are you?\nWell?", "a.csv, line 1: the columns are 'How are you?'"),
        ("a.txt", "\n\n", "No prompt was given"),
    ],
)
def test_what_is_no_file_of_prompts_is_refused_with_its_place(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=words.replace("?", "\\?").replace("[", "\\[")):
        prompts_in(written(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ITEMS)),
        ("a.jsonl", "\n".join(map(json.dumps, ITEMS))),
        ("a.csv", "\r".join(["prompt;positive;negative", *(";".join(item.values()) for item in ITEMS)])),
        ("a.txt", "\n".join("\t".join(item.values()) for item in ITEMS)),
    ],
)
def test_pairs_are_read_from_every_form_for_a_vector_for_labels_and_under_a_name(
    name: str, content: str, tmp_path: Path
) -> None:
    file = written(tmp_path / name, content)
    records = [{**item, "group": item["prompt"]} for item in ITEMS]

    made = ContrastSource(prompts=file).arguments({}, [], is_required=True)
    named = OwnBehaviorSource(prompts=file).arguments({"behavior": "mine"}, [], is_required=True)

    assert made == {"positive_prompts": records, "negative_prompts": None}
    assert named == {"behavior_name": "mine", "positive": records, "negative": None}
    assert LabelSource(labelled=file).arguments({"behavior": None}, [], is_required=False) == {"behavior_name": file}
    with pytest.raises(ArgumentError, match="one of them"):
        LabelSource(labelled=file).arguments({"behavior": "honesty"}, [], is_required=False)


def test_two_lists_in_a_file_stay_two_lists_of_any_lengths(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", json.dumps({"positive": POSITIVE, "negative": NEGATIVE[1:]}))

    made = ContrastSource(prompts=file).arguments({}, [], is_required=True)

    assert made == {"positive_prompts": POSITIVE, "negative_prompts": NEGATIVE[1:]}
