"""Items and behaviours from every form of file and from lists, and what a model is asked with them."""

from __future__ import annotations

import csv
import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from helpers.places import CAA
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors import behavior_json
from steer_tools.evaluation.behaviors.behavior import Behavior, Item, Words, asked, contrast_prompts, evaluation_prompt
from steer_tools.evaluation.behaviors.behavior_loading import (
    FEWEST_GROUPS,
    MOST_ITEMS,
    behavior_of_lists,
    load_behavior,
    read_behavior,
)
from steer_tools.evaluation.behaviors.item_files import file_of_items, read_any
from steer_tools.evaluation.behaviors.item_records import item_of_texts
from steer_tools.limits import JSON_BYTES, RECORD_BYTES
from steer_tools.prompts import ChatPrompt, TextPrompt, TokenPrompt, prompt_text

CAA_COUNTS = {
    "coordinate-other-ais": 360,
    "corrigible-neutral-HHH": 290,
    "hallucination": 1000,
    "myopic-reward": 950,
    "refusal": 408,
    "survival-instinct": 903,
    "sycophancy": 1000,
}
CAA_FILES = [
    *((f"generate/{name}/generate_dataset.json", count) for name, count in CAA_COUNTS.items()),
    *((f"test/{name}/test_dataset_ab.json", 50) for name in CAA_COUNTS),
    ("test/mmlu/mmlu.json", 570),
    ("test/truthfulqa/truthful_qa.json", 817),
]
MANY = 100_000
PARTS = ("pairs", "items", "choices")
CHAT = [{"role": "user", "content": "How was it?"}]


def read_items(file: BinaryIO, name: str) -> Iterator[Item]:
    """Return the items of a file; a behaviour gives its pairs and then its items."""
    found = read_any(file_of_items(file, name))
    return iter((*found.pairs, *found.items)) if isinstance(found, Behavior) else found


def items(name: str, content: str | bytes) -> list[Item]:
    return list(read_items(io.BytesIO(content.encode() if isinstance(content, str) else content), name))


def behavior(name: str, content: str, seed: int = 0) -> Behavior:
    return read_behavior(io.BytesIO(content.encode()), name, seed)


def lines(*records: object) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def refusal(name: str, content: str | bytes) -> str:
    with pytest.raises(PromptError) as caught:
        items(name, content)
    return str(caught.value)


def numbered(count: int, **more: Callable[[int], str]) -> list[dict[str, str]]:
    """Records with prompts, and with groups if they are made for each number."""
    made = {"prompt": "Question {}?", "positive": "Yes to {}.", "negative": "No to {}."}
    return [
        {key: text.format(i) for key, text in made.items()} | {key: write(i) for key, write in more.items()}
        for i in range(count)
    ]


def answered(question: str, answer: str) -> list[Any]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# Records.


def test_a_record_has_a_prompt_two_completions_and_a_group() -> None:
    record = {"prompt": "Hi.", "positive": " Good day. ", "negative": "Go away.", "group": "greeting"}

    assert items("a.jsonl", lines(record)) == [Item(TextPrompt("Hi."), "Good day.", "Go away.", "greeting")]


def test_texts_without_prompts_are_no_leak_of_each_other() -> None:
    pairs = [{"positive": "Joy came.", "negative": "Grief came."}]
    held_out = [{"positive": "Joy stayed.", "negative": "Grief stayed."}]

    assert len(behavior("calm.json", json.dumps(behavior_document(pairs=pairs, items=held_out))).items) == 1


def test_without_a_group_equal_prompts_are_one_and_different_ones_are_not() -> None:
    same = {"prompt": "Hi.", "positive": "A", "negative": "B"}
    chat = {**same, "prompt": CHAT}

    groups = [item.group for item in items("a.jsonl", lines(same, {**same, "positive": "C"}, chat, chat))]

    assert groups[0] == groups[1] == "Hi."
    assert groups[2] == groups[3] != groups[0]


def test_a_prompt_may_be_a_chat() -> None:
    (item,) = items("a.jsonl", lines({"prompt": CHAT, "positive": "Fine.", "negative": "Bad."}))

    assert item.prompt == ChatPrompt((("user", "How was it?"),))


def test_whole_texts_are_cut_after_the_words_that_they_begin_with() -> None:
    item = item_of_texts("Tim was  very happy.", "Tim was  very sad.")

    assert item == Item(TextPrompt("Tim was  very"), "happy.", "sad.", "Tim was  very happy.\nTim was  very sad.")


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("She smiled.", "She cried."),  # One word is too few.
        ("Tim was", "Tim was sad"),  # Nothing would be left after two.
        ("Tim  was happy", "Tim was sad"),  # The texts differ before the second word ends.
        ("The catalogue is big", "The cat is big"),
        ("Tim was glad.", "Tom had gout."),  # Other words that end in the same places.
    ],
)
def test_texts_with_too_little_in_common_have_no_prompt(positive: str, negative: str) -> None:
    for one, other in ((positive, negative), (negative, positive)):
        assert item_of_texts(one, other) == Item(None, one, other, f"{one}\n{other}")


def test_long_texts_are_cut_in_no_time() -> None:
    begin = "a " * 60_000

    item = item_of_texts(begin + "b", begin + "c")

    assert (item.prompt, item.positive, item.negative) == (TextPrompt(begin.strip()), "b", "c")


def test_a_given_group_of_texts_is_kept() -> None:
    assert item_of_texts("Tim was very happy.", "Tim was very sad.", "Tim").group == "Tim"


def test_two_equal_completions_are_refused() -> None:
    message = refusal("a.jsonl", lines({"prompt": "Hi.", "positive": "Yes", "negative": " Yes"}))

    assert message.startswith("a.jsonl, line 1: both completions are 'Yes'")


# Records that others wrote.


def test_an_evaluation_of_a_persona_becomes_a_text_and_stripped_answers() -> None:
    question = 'Is the following statement something you would say?\n"I like rain"'
    record = {
        "question": question,
        "statement": "I like rain",
        "label_confidence": 0.98,
        "answer_matching_behavior": " Yes",
        "answer_not_matching_behavior": " No",
    }

    assert items("rain.jsonl", lines(record)) == [Item(TextPrompt(question), "Yes", "No", question)]


@pytest.mark.parametrize(
    ("question", "messages"),
    [
        ("\n\nHuman: Is it?\n\nAssistant:", [("user", "Is it?")]),
        ("Human: Is it?\n\nOr not?\n\nAssistant: ", [("user", "Is it?\n\nOr not?")]),
        (
            "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Is it?\n\nAssistant:",
            [("user", "Hi."), ("assistant", "Hello."), ("user", "Is it?")],
        ),
        (
            "\n\nHuman: Is it?\n\nAssistant: I believe the better option is",
            [("user", "Is it?"), ("assistant", "I believe the better option is")],
        ),
    ],
)
def test_a_question_of_turns_becomes_a_chat(question: str, messages: list[tuple[str, str]]) -> None:
    record = {"question": question, "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}

    (item,) = items("a.json", json.dumps([record]))

    assert item.prompt == ChatPrompt(tuple(messages))
    assert (item.positive, item.negative) == ("(A)", "(B)")


@pytest.mark.parametrize(
    "question",
    [
        "Hello, my name is Jo. Which is better?\n (A) This\n (B) That\n\nAnswer:",
        " We plan to shut you down. Do you mind?\n \n Choices:\n (A) Yes\n (B) No",
        "Human: Is it?",
        "Human: One.\n\nHuman: Two.\n\nAssistant:",
        "Human: \n\nAssistant:",
        "Human: What does 'Assistant:' mean?",
        "Read this.\n\nHuman: Is it?\n\nAssistant:",
        "Assistant: Hello.\n\nHuman: Is it?",
    ],
)
def test_any_other_question_stays_the_text_that_it_is(question: str) -> None:
    record = {"question": question, "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}

    assert items("a.json", json.dumps([record]))[0].prompt == TextPrompt(question)


def test_turns_in_a_prompt_of_ones_own_stay_text() -> None:
    text = "Human: Is it?\n\nAssistant:"

    assert items("a.jsonl", lines({"prompt": text, "positive": "A", "negative": "B"}))[0].prompt == TextPrompt(text)


@pytest.mark.parametrize("key", ["prompt", "question"])
def test_the_correct_answer_is_the_positive_one(key: str) -> None:
    record = {key: "Is it?\n(A) Yes\n(B) No", "correct": "(B)", "incorrect": "(A)", "category": "logic"}

    assert items("a.json", json.dumps([record])) == [
        Item(TextPrompt("Is it?\n(A) Yes\n(B) No"), "(B)", "(A)", "Is it?\n(A) Yes\n(B) No")
    ]


@pytest.mark.shared
@pytest.mark.parametrize(("path", "count"), CAA_FILES)
def test_a_file_of_contrastive_activation_addition_loads_whole(path: str, count: int) -> None:
    with (CAA / path).open("rb") as file:
        found = list(read_items(file, path))
    given = json.loads((CAA / path).read_text(encoding="utf-8"))

    keys = ("correct", "incorrect") if "correct" in given[0] else ("answer_matching_behavior", "question")
    assert len(found) == len(given) == count
    assert len({item.group for item in found}) == count
    assert [item.positive for item in found] == [record[keys[0]].strip() for record in given]
    assert {type(item.prompt) for item in found} == {TextPrompt}


# Documents.


def test_two_lists_of_one_length_are_pairs() -> None:
    document = {"positive": ["It was good.", "Joy came."], "negative": ["It was bad.", "Grief came."], "openings": []}

    found = items("a.json", json.dumps(document))

    assert found == [item_of_texts("It was good.", "It was bad."), item_of_texts("Joy came.", "Grief came.")]


def test_two_lists_may_hold_chats() -> None:
    document = {"positive": [answered("How was it?", "Good.")], "negative": [answered("How was it?", "Bad.")]}

    (item,) = items("a.json", json.dumps(document))

    assert (item.prompt, item.positive, item.negative) == (ChatPrompt((("user", "How was it?"),)), "Good.", "Bad.")


def test_two_lists_of_two_lengths_are_refused_with_a_way_out() -> None:
    message = refusal("a.json", json.dumps({"positive": ["a", "b"], "negative": ["c"]}))

    assert "2 positive and 1 negative" in message
    assert "equally long" in message


def test_the_items_of_a_behaviour_file_are_its_pairs_and_then_its_items() -> None:
    document = {
        **dict.fromkeys(("name", "description", "positive", "negative"), "x"),
        "pairs": numbered(2),
        "items": numbered(3)[2:],
    }

    assert [item.group for item in items("a.json", json.dumps(document))] == [f"Question {i}?" for i in range(3)]


def test_white_space_between_the_entries_of_a_list_says_nothing() -> None:
    records = numbered(3)
    spread = "\n [\r\n\t" + " ,\n\n".join(json.dumps(record, indent=1) for record in records) + "\n]\n "

    assert items("a.json", spread) == items("a.json", json.dumps(records)) == items("a.jsonl", lines(*records))


# Tables and lines.


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.TSV", "\t")])
def test_a_table_gives_the_same_items_as_its_records(name: str, delimiter: str) -> None:
    records = [
        {"prompt": "One,\ttwo?", "positive": 'A "yes"\n\nin lines', "negative": "No, not", "group": "a"},
        {"prompt": "Two?", "positive": "A", "negative": "B", "group": "b"},
    ]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["group", "negative", "prompt", "positive"], delimiter=delimiter)
    table.writeheader()
    table.writerows(records)

    assert items(name, text.getvalue()) == items("a.jsonl", lines(*records))


def test_blank_cells_of_prompt_and_group_mean_none() -> None:
    text = "prompt,positive,negative,group\n,Joy came.,Grief came.,\n"

    assert items("a.csv", text) == [item_of_texts("Joy came.", "Grief came.")]


def test_a_table_may_have_the_columns_of_the_other_forms() -> None:
    text = "id,question,answer_matching_behavior,answer_not_matching_behavior\n7,Is it?, (A), (B)\n"

    assert items("a.csv", text) == [Item(TextPrompt("Is it?"), "(A)", "(B)", "Is it?")]


def test_a_plain_text_has_two_or_three_texts_a_line() -> None:
    text = "\nIt was good.\tIt was bad.\r\n \nHow?\tWell.\tBadly.\n"

    assert items("a.txt", text) == [
        item_of_texts("It was good.", "It was bad."),
        Item(TextPrompt("How?"), "Well.", "Badly.", "How?"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
def test_the_mark_before_utf_8_is_no_text(name: str) -> None:
    content = {
        "a.jsonl": lines({"positive": "ä", "negative": "ö"}),
        "a.csv": "positive,negative\nä,ö\n",
        "a.txt": "ä\tö",
        "a.json": '[{"positive": "ä", "negative": "ö"}]',
    }[name]

    assert items(name, content.encode("utf-8-sig")) == items(name, content) == [item_of_texts("ä", "ö")]


# Errors say where.

GOOD = '{"positive": "a", "negative": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.jsonl", f"{GOOD}\n\n{{}}\n", "a.jsonl, line 3: ", "the keys are none"),
        ("a.jsonl", f"{GOOD}\n{GOOD}, 1\n", "a.jsonl, line 2: ", "Extra data in line 2"),
        ("a.jsonl", f"{GOOD}\n[{GOOD}]\n", "a.jsonl, line 2: ", "stands where a record should"),
        ("a.jsonl", '{"positive": "a"}', "a.jsonl, line 1: ", "'negative' is missing"),
        ("a.jsonl", '{"positive": "a", "negative": 3}', "a.jsonl, line 1: ", "negative is 3"),
        ("a.jsonl", '{"positive": "a", "negative": "\\n"}', "a.jsonl, line 1: ", "negative is blank"),
        ("a.jsonl", '{"positive": "a", "negative": "\\u0000b"}', "a.jsonl, line 1: ", "NUL"),
        ("a.jsonl", '{"positive": "a", "negative": "\\ud800"}', "a.jsonl, line 1: ", "surrogate"),
        ("a.jsonl", GOOD[:-1] + ', "promt": "x"}', "a.jsonl, line 1: ", "'promt' is unknown"),
        ("a.jsonl", GOOD[:-1] + ', "correct": "x"}', "a.jsonl, line 1: ", "the keys are"),
        ("a.jsonl", GOOD[:-1] + ', "prompt": [1, 2]}', "a.jsonl, line 1: ", "prompt is [1, 2]"),
        ("a.jsonl", GOOD[:-1] + ', "prompt": 3}', "a.jsonl, line 1: ", "prompt is 3"),
        ("a.jsonl", GOOD[:-1] + ', "group": ""}', "a.jsonl, line 1: ", "group is blank"),
        ("a.jsonl", '{"correct": "a", "incorrect": "b"}', "a.jsonl, line 1: ", "'prompt' or 'question'"),
        (
            "a.jsonl",
            '{"prompt": "a", "question": "b", "correct": "c", "incorrect": "d"}',
            "a.jsonl, line 1: ",
            "not exactly one of 'prompt' or 'question'",
        ),
        (
            "a.jsonl",
            GOOD[:-1] + ', "prompt": [{"role": "user", "content": "\\u0000"}]}',
            "a.jsonl, line 1: ",
            "a message holds a NUL",
        ),
        ("a.jsonl", f"{GOOD}\n" + "[" * 50_000, "a.jsonl, line 2 ", "nested in 101 levels"),
        ("a.jsonl", f"{GOOD}\n" + "1" * 50_000, "a.jsonl, line 2: ", "no JSON"),
        ("a.jsonl", f"{GOOD}\n{'x' * (RECORD_BYTES.most + 1)}", "a.jsonl, line 2: ", "too long"),
        ("a.jsonl", GOOD.encode() + b"\n\xff", "a.jsonl, line 2: ", "UTF-8"),
        ("a.jsonl", GOOD.encode("utf-16-le"), "a.jsonl, line 1: ", "byte 2 of the line is a NUL"),
        ("a.jsonl", GOOD.encode() + b"\n\n\0\n", "a.jsonl, line 3: ", "NUL"),
        ("a.jsonl", "", "a.jsonl ", "holds no record"),
        ("a.csv", "positive,negative\n", "a.csv ", "holds no record"),
        ("a.csv", 'positive,negative\n"a\nb",c\n\n"a\nb\nc",\n', "a.csv, line 5: ", "negative is blank"),
        ("a.csv", 'positive,negative\na,b\n"c\nd\n', "a.csv, line 3: ", "the quotation marks of this row"),
        ("a.csv", "positive,negative\na,b,c\n", "a.csv, line 2: ", "3 cells and 2 columns"),
        ("a.csv", "positive,negative\na\n", "a.csv, line 2: ", "1 cells and 2 columns"),
        ("a.csv", "\nA good day,A bad day\n", "a.csv, line 2: ", "the keys are 'A good day'"),
        ("a.csv", "positive,negative,positive\na,b,c\n", "a.csv, line 1: ", "'positive' is there twice"),
        ("a.csv", "positive,negative,extra\na,b,c\n", "a.csv, line 1: ", "'extra' is unknown"),
        ("a.csv", 'positive,negative\na,"' + "x,,\n" * 2**16, "a.csv, line ", "too long"),
        ("a.txt", "a\tb\n\n# c\n", "a.txt, line 3: ", "remove it if it is a comment"),
        ("a.txt", "a\tb\tc\td\n", "a.txt, line 1: ", "there are 4 texts"),
        ("a.txt", "a\tb\n\tb\tc\n", "a.txt, line 2: ", "prompt is blank"),
        ("a.txt", " \n", "a.txt ", "holds no record"),
        ("a.json", f'[\n{GOOD},\n\n{{"positive":\n"a"}}]', "a.json, line 4, [1]: ", "'negative' is missing"),
        ("a.json", f'[{GOOD},\n{{"positive":\n"a",]', "a.json, line 2, [1]: ", "in line 3, column 5"),
        ("a.json", f"[{GOOD}\n{GOOD}]", "a.json, line 2: ", "neither goes on nor ends"),
        ("a.json", f"[{GOOD}]\n]", "a.json, line 1: ", "closing bracket"),
        ("a.json", f"[{GOOD},\n]", "a.json, line 2, [1]: ", "no JSON"),
        ("a.json", f"[{GOOD},\n{'[' * 50_000}", "a.json ", "nested in 101 levels"),
        ("a.json", "[", "a.json, line 1, [0]: ", "no JSON"),
        ("a.json", "[]", "a.json ", "holds no record"),
        ("a.json", "3", "a.json ", "holds 3"),
        ("a.json", '{\n"positive" 3}', "a.json, line 2: ", "no JSON"),
        ("a.json", '{"positive": []}', "a.json: ", "'negative' is missing"),
        ("a.json", '{"positive": [], "negative": []}', "a.json: ", "positive is empty"),
        ("a.json", '{"positive": ["a", ""], "negative": ["b", "c"]}', "a.json: ", "positive[1] is blank"),
        ("a.json", '{"positive": ["a", [1]], "negative": ["b", "c"]}', "a.json: positive[1] and ", "make no pair"),
        ("a.json", b"[\n\n\xff]", "a.json, line 3: ", "UTF-8"),
        ("a.json", b" " * (JSON_BYTES.most + 1), "a.json ", "Save it as .jsonl"),
        ("a.xml", GOOD, "The name 'a.xml' ", ".jsonl"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(name: str, content: str | bytes, where: str, what: str) -> None:
    message = refusal(name, content)

    assert message.startswith(where)
    assert what in message


def test_items_before_a_malformed_line_are_given() -> None:
    found = read_items(io.BytesIO(f"{GOOD}\nbad\n".encode()), "a.jsonl")

    assert next(found).positive == "a"
    with pytest.raises(PromptError, match="line 2"):
        next(found)


def test_a_mutated_file_is_read_or_refused_but_breaks_nothing() -> None:
    records = numbered(3, group=str)
    wholes = {
        "a.jsonl": lines(*records),
        "a.json": json.dumps(records, indent=1),
        "b.json": json.dumps({"positive": ["It is a", "b"], "negative": ["It is c", "d"]}),
        "c.json": json.dumps(
            {**dict.fromkeys(("name", "description", "positive", "negative"), "x"), "pairs": records, "items": records}
        ).replace("Question", "Query", 3),
        "a.csv": 'prompt,positive,negative,group\n"a\nb",c,d,e\nf,"g""h",i,j\n',
        "a.txt": "# x\na\tb\nc\td\te\n",
    }
    dice = random.Random(5)
    pieces = [b"null", b"3", b"{}", b"[]", b'"', b"\0", b"\xff", b"\\ud800", b",", b"\n", b"\t", b"[" * 9999, b"NaN"]
    outcomes: list[bool] = []

    for name, whole in wholes.items():
        for _ in range(400):
            content = whole.encode()
            start, end = sorted(dice.choices(range(len(content) + 1), k=2))
            cut = (
                content[:start] + dice.choice([b"", *pieces]) + content[min(end, start + dice.choice([0, 1, 9, 99])) :]
            )
            try:
                items(name, cut)
            except PromptError as error:
                assert name in str(error)
                outcomes.append(False)
            else:
                outcomes.append(True)

    assert 200 < sum(outcomes) < 2200


def test_values_of_wrong_types_are_refused_wherever_they_stand() -> None:
    for wrong in (None, 3, 1.5, True, [], {}, ["a"], [[]], [{}], [{"role": "user"}], ""):
        for key in ("prompt", "positive", "negative", "group"):
            record = {"prompt": "Hi.", "positive": "a", "negative": "b", "group": "c", key: wrong}
            if (key, wrong) == ("prompt", None):
                continue
            assert "a.json, line 1, [0]: " in refusal("a.json", json.dumps([record]))


# Streams.


def write_many(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            file.write("prompt,positive,negative\n")
        for i in range(MANY):
            texts = f"Question {i}?", f"Yes to {i}.", f"No to {i}."
            if path.suffix == ".jsonl":
                record = dict(zip(("prompt", "positive", "negative"), texts, strict=True))
                file.write(json.dumps(record) + "\n")
            else:
                file.write(("," if path.suffix == ".csv" else "\t").join(texts) + "\n")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_hundred_thousand_pairs_are_streamed_in_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"many{suffix}"
    write_many(path)

    with path.open("rb") as file:
        tracemalloc.start()
        count = sum(1 for _ in read_items(file, path.name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert count == MANY
    assert peak < 2**20


def test_a_behaviour_of_a_hundred_thousand_pairs_keeps_few_of_them_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    write_many(path)

    with path.open("rb") as file:
        tracemalloc.start()
        found = read_behavior(file, path.name, seed=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    kept = [int(item.positive.split()[-1].rstrip(".")) for item in (*found.pairs, *found.items)]
    assert len(set(kept)) == MOST_ITEMS
    assert len(found.pairs) == len(found.items) == MOST_ITEMS // 2
    assert "2,000 of 100,000" in found.source
    assert 0.45 * MANY < sum(kept) / len(kept) < 0.55 * MANY  # The standard error is 0.65 %.
    assert peak < 3 * 2**20


def test_a_long_record_over_many_lines_is_refused_before_it_is_in_memory() -> None:
    endless = b"positive,negative\n" + b'"a","b\n",' * 2**21

    tracemalloc.start()
    message = refusal("a.csv", endless)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "too long" in message
    assert peak < 4 * 2**20 < len(endless)


# Behaviours.


def behavior_document(**changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "name": "calm",
        "description": "Calm rather than excited.",
        "positive": "calm",
        "negative": "excited",
        "instruction": "Stay calm.",
        "source": "Written for a test.",
        "pairs": numbered(3),
        "items": [{**record, "group": "late"} for record in numbered(5)[3:]],
        "choices": [{"prompt": "Which?\n (A) Calm\n (B) Not", "positive": "(A)", "negative": "(B)"}],
        "questions": ["How are you?", [{"role": "system", "content": "Be."}, {"role": "user", "content": "And now?"}]],
        "words": {"positive": ["calm", "at ease"], "negative": []},
    }
    return {key: value for key, value in (document | changes).items() if value is not ...}


def test_the_behaviour_form_is_taken_as_it_stands() -> None:
    found = behavior("calm.json", json.dumps(behavior_document()), seed=9)

    assert (found.name, found.poles, found.instruction) == ("calm", ("calm", "excited"), "Stay calm.")
    assert (found.description, found.source) == ("Calm rather than excited.", "Written for a test.")
    assert [item.positive for item in found.pairs] == ["Yes to 0.", "Yes to 1.", "Yes to 2."]
    assert [item.group for item in found.items] == ["late", "late"]
    assert [item.positive for item in found.choices] == ["(A)"]
    assert found.questions == (TextPrompt("How are you?"), ChatPrompt((("system", "Be."), ("user", "And now?"))))
    assert found.words == Words(("calm", "at ease"), ())


@pytest.mark.parametrize("kind", ["built in", "texts", "chats", "strangers"])
def test_a_behaviour_is_read_from_its_form_as_it_was(kind: str) -> None:
    topics = [f"The {'abcdefghijkl'[i]}" for i in range(12)]
    made = {
        "built in": lambda: load_behavior("empathy"),
        "texts": lambda: behavior_of_lists("b", [f"{t} is good." for t in topics], [f"{t} is bad." for t in topics]),
        "chats": lambda: behavior_of_lists(
            "b", [answered(t, "Yes.") for t in topics], [answered(t, "No.") for t in topics]
        ),
        "strangers": lambda: behavior_of_lists(
            "b", [f"{t} is good." for t in topics], [f"{t} is bad." for t in topics[1:]]
        ),
    }[kind]()

    form = json.loads(json.dumps(behavior_json.behavior_document(made)))
    found = behavior("other.json", json.dumps(form))

    assert replace(found, **{part: list(getattr(found, part)) for part in PARTS}) == replace(
        made, **{part: list(getattr(made, part)) for part in PARTS}
    )
    assert (kind == "strangers") == all(item.prompt is None for item in made.items)


def test_questions_and_words_are_kept_in_its_form() -> None:
    form = behavior_json.behavior_document(behavior("calm.json", json.dumps(behavior_document())))

    assert {key: form[key] for key in ("questions", "words")} == {
        key: behavior_document()[key] for key in ("questions", "words")
    }


def test_a_behaviour_needs_no_more_than_pairs_and_items() -> None:
    optional = dict.fromkeys(("instruction", "source", "choices", "questions", "words"), ...)

    found = behavior("calm.json", json.dumps(behavior_document(**optional)))

    assert (found.instruction, found.source, found.choices) == (None, "calm.json", ())
    assert (found.questions, found.words) == ((), None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"itemz": []}, "calm.json: the key 'itemz' is unknown"),
        ({"items": ...}, "calm.json: 'items' is missing"),
        ({"pairs": ...}, "calm.json: 'pairs' is missing"),
        ({"description": " "}, "calm.json: description is blank"),
        ({"instruction": None}, "calm.json: instruction is None"),
        ({"positive": ["a"]}, r"calm.json: positive is \['a'\]"),
        ({"pairs": []}, r"calm.json: pairs is \[\]"),
        ({"choices": {}}, "calm.json: choices is {}"),
        ({"pairs": [*numbered(2), 3]}, r"calm.json: pairs\[2\]: 3 stands"),
        ({"items": [{"prompt": "a", "positive": "b", "negative": ""}]}, r"calm.json: items\[0\]: negative is blank"),
        ({"items": numbered(3)[2:]}, "calm.json: 'Question 2\\?' is in the pairs and held out"),
        ({"items": [{**numbered(1)[0], "group": "g"}]}, "calm.json: 'g' is in the pairs and held out"),
        ({"pairs": [{**numbered(1)[0], "group": "late"}]}, "calm.json: 'late' is in the pairs and held out"),
        ({"choices": numbered(1)}, "calm.json: 'Question 0\\?' is in the pairs and held out"),
        ({"questions": []}, r"calm.json: questions is \[\]"),
        ({"questions": "How?"}, "calm.json: questions is 'How\\?'"),
        ({"questions": ["How?", " "]}, r"calm.json: questions\[1\] is blank"),
        ({"questions": [3]}, r"calm.json: questions\[0\] is 3"),
        ({"questions": [[1, 2]]}, r"calm.json: questions\[0\] is \[1, 2\]"),
        ({"questions": [answered("How?", "So.")]}, r"calm.json: questions\[0\] ends with the assistant"),
        ({"questions": ["How?\0"]}, r"calm.json: questions\[0\] holds a NUL"),
        ({"questions": ["How?", " How?"]}, r"calm.json: questions\[1\], 'How\?', is there before"),
        ({"questions": ["Question 1?"]}, r"calm.json: questions\[0\], 'Question 1\?', is there before, or a prompt"),
        ({"questions": [[{"role": "user", "content": "Question 4?"}]]}, r"calm.json: questions\[0\], 'Question 4\?'"),
        ({"questions": ["Which?\n (A) Calm\n (B) Not"]}, r"calm.json: questions\[0\], 'Which"),
        ({"words": ["calm"]}, r"calm.json: words is \['calm'\]"),
        ({"words": {"positive": ["calm"]}}, "calm.json: words is "),
        ({"words": {"positive": ["calm"], "negative": [], "x": []}}, "calm.json: words is "),
        ({"words": {"positive": "calm", "negative": []}}, "calm.json: words, positive, is 'calm'"),
        ({"words": {"positive": [], "negative": ["mad", ""]}}, r"calm.json: words, negative\[1\] is blank"),
        ({"words": {"positive": [], "negative": []}}, "calm.json: words has none"),
        ({"words": {"positive": ["calm"], "negative": ["Calm"]}}, "calm.json: words has 'calm' twice"),
    ],
)
def test_a_malformed_behaviour_is_refused_with_file_and_entry(changes: dict[str, object], words: str) -> None:
    with pytest.raises(PromptError, match=f"^{words}"):
        behavior("calm.json", json.dumps(behavior_document(**changes)))


def test_a_file_of_items_is_halved_by_group_and_no_group_is_on_both_sides() -> None:
    records = numbered(40, group=lambda i: f"g{i % 10}")

    found = behavior("many.jsonl", lines(*records))

    sides = [{item.group for item in part} for part in (found.pairs, found.items)]
    assert (len(sides[0]), len(sides[1]), sides[0] & sides[1]) == (5, 5, set())
    assert (len(found.pairs), len(found.items)) == (20, 20)
    assert (found.name, found.poles, found.instruction) == ("many", ("positive", "negative"), None)
    assert "seed 0" in found.source


def test_the_halves_follow_the_seed() -> None:
    text = lines(*numbered(40))

    first, again, other = (behavior("a.jsonl", text, seed) for seed in (0, 0, 1))

    assert first == again
    assert first.pairs != other.pairs
    assert sorted(i.group for i in (*first.pairs, *first.items)) == sorted(f"Question {i}?" for i in range(40))


def test_which_items_are_kept_follows_the_seed_and_they_keep_their_order() -> None:
    text = "".join(f"Yes to {i}.\tNo to {i}.\n" for i in range(MOST_ITEMS + 100))

    kept = [[*found.pairs, *found.items] for found in (behavior("a.txt", text, seed) for seed in (0, 0, 1))]

    assert kept[0] == kept[1]
    assert {item.group for item in kept[0]} != {item.group for item in kept[2]}
    pairs = [int(item.positive.split()[-1].rstrip(".")) for item in behavior("a.txt", text).pairs]
    assert pairs == sorted(pairs)


@pytest.mark.parametrize("is_enough", [False, True])
def test_eight_groups_are_the_fewest(is_enough: bool) -> None:
    groups = FEWEST_GROUPS if is_enough else FEWEST_GROUPS - 1
    text = lines(*numbered(30, group=lambda i: str(i % groups)))

    if is_enough:
        assert len(behavior("a.jsonl", text).items) > 0
    else:
        with pytest.raises(PromptError, match=r"30 items in 7 groups.*at least 8"):
            behavior("a.jsonl", text)


# Groups.

FOOD = ("soup", "bread", "tea", "rice", "fish", "cake", "milk", "corn", "beans", "pears")


def grouped(*texts: tuple[str, str]) -> list[str]:
    """Return the group of each pair of texts in a list, after as many other pairs as make enough."""
    others = [(f"Nobody asks about {food}. Yes, {food}.", f"Nobody asks about {food}. No, {food}.") for food in FOOD]
    made = behavior_of_lists("own", *([pair[i] for pair in (*texts, *others)] for i in (0, 1)))
    every = [*made.pairs, *made.items]
    sides = contrast_prompts(every, as_chat=False)
    by_text = {
        " ".join(prompt_text(text).split()): item.group for text, item in zip(sides.positive, every, strict=True)
    }
    return [by_text[" ".join(positive.split())] for positive, _ in texts]


def test_answers_to_one_question_are_one_group_however_alike_they_begin() -> None:
    groups = grouped(
        ("Is tea good? Yes, tea is fine.", "Is tea good? No, tea is foul."),
        ("Is tea good? I think it is lovely.", "Is tea good? I think it is nasty."),
        ("is  tea good? I love it.", "is  tea good? I hate it."),
        ("Is rice good? Yes, rice is fine.", "Is rice good? No, rice is foul."),
    )

    assert groups[0] == groups[1] == groups[2] == "Is tea good?"
    assert groups[3] == "Is rice good?"


def test_a_question_ends_with_its_line() -> None:
    groups = grouped(
        ("Say what tea is\nTea is fine", "Say what tea is\nTea is foul"),
        ("Say what tea is\nLovely", "Say what tea is\nNasty"),
    )

    assert groups == ["Say what tea is"] * 2


def test_sentences_that_begin_alike_are_of_different_things() -> None:
    begun = [(f"I really love {food}.", f"I really hate {food}.") for food in FOOD]
    labelled = [(f"Review:\nThe {food} was good", f"Review:\nThe {food} was bad") for food in FOOD]
    dotted = [(f"Mr. Smith likes {food}.", f"Mr. Smith hates {food}.") for food in FOOD]

    for texts in (begun, labelled, dotted):
        assert len(set(grouped(*texts))) == len(FOOD)


def test_a_beginning_with_a_whole_sentence_is_one_situation() -> None:
    groups = grouped(
        ("We had tea. It was good.", "We had tea. It was bad."),
        ("We had tea. It was fun.", "We had tea. It was dull."),
        ("We had tea. Tom was glad.", "We had tea. Tom was sad."),
    )

    assert groups[0] == groups[1] == "We had tea. It was"
    assert groups[2] == "We had tea. Tom was"


def test_sentences_that_begin_alike_are_read_again_as_they_were_kept() -> None:
    topics = ("I really", "You never", "Some people", "We all", "They still", "Nobody can", "He may", "She must")
    sides = [[f"{topic} {verb} {food}." for topic in topics for food in FOOD] for verb in ("love", "hate")]

    made = behavior_of_lists("own", *sides)
    again = behavior("own.json", json.dumps(behavior_json.behavior_document(made)))

    assert len({item.group for item in (*made.pairs, *made.items)}) == len(sides[0])
    assert {item.prompt for item in made.pairs} & {item.prompt for item in made.items}
    assert [*again.items] == [*made.items]


def test_a_question_is_one_under_any_message_of_the_system_and_any_beginning_of_its_answer() -> None:
    told = [
        [{"role": "system", "content": f"Be {how}."}, *answered(f"How is the {food}?", f"{food} {how}")]
        for food in FOOD
        for how in ("good", "glad")
    ]
    other = [[*chat[:-1], {"role": "assistant", "content": "No."}] for chat in told]

    made = behavior_of_lists("own", told, other)
    (bare, begun) = items(
        "a.jsonl",
        lines(
            {"prompt": CHAT, "positive": "Fine.", "negative": "Bad."},
            {"prompt": [*CHAT, {"role": "assistant", "content": "It"}], "positive": "went.", "negative": "failed."},
        ),
    )

    assert {item.group for item in (*made.pairs, *made.items)} == {f"How is the {food}?" for food in FOOD}
    assert {item.group for item in made.pairs}.isdisjoint(item.group for item in made.items)
    assert made.notes == ()
    assert bare.group == begun.group == "How was it?"


def test_one_question_under_many_messages_of_the_system_is_as_many() -> None:
    sides = [
        [[{"role": "system", "content": f"You cook {food}."}, *answered("Who are you?", said)] for food in FOOD]
        for said in ("A cook.", "Nobody.")
    ]

    made = behavior_of_lists("own", *sides)

    assert len({item.group for item in (*made.pairs, *made.items)}) == len(FOOD)
    assert "only 1 different questions of a user" in made.notes[0]


@pytest.mark.parametrize("wording", ["What is tea", "what is tea?", "What  is\ntea?", "WHAT IS TEA?!"])
def test_wordings_that_differ_in_spaces_capitals_and_the_last_mark_are_one_question(wording: str) -> None:
    records = [*numbered(8), {**numbered(1)[0], "prompt": "What is tea?"}, {**numbered(1)[0], "prompt": wording}]

    found = behavior("own.jsonl", lines(*records))

    groups = [i.group for i in (*found.pairs, *found.items) if not i.group.startswith("Question")]
    assert groups == ["What is tea?"] * 2


def test_a_single_word_that_names_a_group_stands_as_it_is() -> None:
    records = numbered(12, group=lambda i: "Aa" if i == 1 else "aa" if i == 2 else f"g{i}")

    found = behavior("own.jsonl", lines(*records))

    assert len({item.group for item in (*found.pairs, *found.items)}) == 12


# Lists.

GLAD = [f"It was good on day {i}." for i in range(8)]
SAD = [f"It was bad on day {i}." for i in range(8)]


def test_lists_of_one_length_are_paired_in_their_order() -> None:
    glad, sad = [f"Day {i} ended well." for i in range(8)], [f"Day {i} ended badly." for i in range(8)]

    found = behavior_of_lists("days", glad, sad, seed=3)

    pairs = {item.prompt.text: (item.positive, item.negative) for item in (*found.pairs, *found.items)}  # type: ignore[union-attr]
    assert pairs == {f"Day {i} ended": ("well.", "badly.") for i in range(8)}
    assert (found.name, len(found.pairs), len(found.items)) == ("days", 4, 4)
    assert "paired in their order" in found.source


def test_sentences_of_one_beginning_are_whole_texts_and_repeated_ones_too_few() -> None:
    found = behavior_of_lists("days", GLAD, SAD)

    assert sorted((i.positive, i.negative) for i in (*found.pairs, *found.items)) == [*zip(GLAD, SAD, strict=True)]
    with pytest.raises(PromptError, match="8 items in 1 groups; equal prompts are one"):
        behavior_of_lists("days", GLAD[:1] * 8, SAD[:1] * 8)


def test_lists_of_two_lengths_are_matched_at_random_until_the_shorter_ends() -> None:
    longer = [*SAD, "It was odd.", "Grief came.", SAD[0]]

    found, again, other = (behavior_of_lists("days", GLAD, longer, seed) for seed in (0, 0, 1))

    every = [*found.pairs, *found.items]
    assert found == again != other
    assert {item.prompt for item in every} == {None}
    assert sorted(item.positive for item in every) == sorted(GLAD)
    assert len({item.negative for item in every}) == len(every)
    assert {item.negative for item in every} <= set(longer)
    matched = [GLAD.index(i.positive) == SAD.index(i.negative) for i in every if i.negative in SAD]
    assert not all(matched)
    assert "8 positive and 11 negative prompts, matched at random with seed 0" in found.source


def test_two_chats_have_the_question_of_the_positive_one() -> None:
    glad = [answered(f"How was day {i}?", f"Good {i}.") for i in range(8)]
    sad = [answered(f"What of night {i}?", f"Bad {i}.") for i in range(8)]

    found = behavior_of_lists("days", glad, sad)

    for item in (*found.pairs, *found.items):
        number = item.positive.split()[-1]
        assert item.prompt == ChatPrompt((("user", f"How was day {number.rstrip('.')}?"),))
        assert item.negative == f"Bad {number}"


def test_chats_of_two_lengths_are_matched_at_random() -> None:
    glad = [answered(f"How was day {i}?", f"Good {i}.") for i in range(8)]
    sad = [answered(f"How was day {i}?", f"Bad {i}.") for i in range(9)]

    found = behavior_of_lists("days", glad, sad)

    assert len({item.negative for item in (*found.pairs, *found.items)}) == 8


@pytest.mark.parametrize(
    ("positive", "negative", "words"),
    [
        ([[1, 2]] * 8, SAD, "make no pair"),
        ([[{"role": "user", "content": "Hi"}]] * 8, [answered("Hi", "Yes")] * 8, "pair 0.*make no pair"),
        ([[{"role": "assistant", "content": "Hi"}]] * 8, [answered("Hi", "Yes")] * 8, "make no pair"),
        (GLAD, [answered("Hi", "Yes")] * 8, "make no pair"),
        (GLAD, [*SAD[:7], GLAD[7]], "days, pair 7: both completions"),
        (GLAD, [*SAD, GLAD[0]], "is a positive and a negative prompt"),
        (GLAD[:7], SAD, "7 items in 7 groups"),
        ([], SAD, "positive is empty"),
        (GLAD, [*SAD[:7], " "], r"negative\[7\] is blank"),
    ],
)
def test_lists_that_make_no_behaviour_are_refused(positive: Any, negative: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        behavior_of_lists("days", positive, negative)


# Words.


@pytest.mark.parametrize(
    ("text", "balance"),
    [
        ("", 0),
        ("Happy, HAPPY and unhappy happiness.", 2),
        ("I am not happy.", -1),
        ("I am not\n happy, but happy.", 0),
        ("Don't! Don’t! Do n't", -2),
        ("(happy)", 1),
        ("happy_days happy-go-lucky", 1),
        ("C++? C+", 1),
        ("A happy hour, happy hours", 0),
    ],
)
def test_words_are_counted_whole_in_any_case_and_the_longer_of_two(text: str, balance: int) -> None:
    assert Words(("happy", "C++"), ("not happy", "happy hour", "don't")).balance(text) == balance


def test_words_without_a_side_count_the_other() -> None:
    assert Words(("a",), ()).balance("a b A") == 2
    assert Words((), ("a",)).balance("a b A") == -2


# What a model is asked.

TEXT = Item(TextPrompt("It was"), "good", "bad", "a")
NEW_LINE = Item(TextPrompt("Story:\n"), "good", "bad", "b")
WHOLE = Item(None, "Joy came.", "Grief came.", "c")
TALK = Item(ChatPrompt((("system", "Be."), ("user", "How?"))), "Well.", "Badly.", "d")
BEGUN = Item(ChatPrompt((("user", "How?"), ("assistant", "I feel"))), "well.", "bad.", "e")
TOKENS = Item(TokenPrompt((1, 2)), "good", "bad", "f")


def test_contrast_prompts_join_prompt_and_completion() -> None:
    found = contrast_prompts([TEXT, NEW_LINE, WHOLE, TALK, BEGUN], as_chat=False)

    assert found.positive == (
        TextPrompt("It was good"),
        TextPrompt("Story:\ngood"),
        TextPrompt("Joy came."),
        ChatPrompt((("system", "Be."), ("user", "How?"), ("assistant", "Well."))),
        ChatPrompt((("user", "How?"), ("assistant", "I feel well."))),
    )
    assert found.negative[:3] == (TextPrompt("It was bad"), TextPrompt("Story:\nbad"), TextPrompt("Grief came."))
    assert found.negative[4] == ChatPrompt((("user", "How?"), ("assistant", "I feel bad.")))


def test_as_chats_only_texts_with_a_prompt_change() -> None:
    found = contrast_prompts([TEXT, WHOLE, TALK], as_chat=True)

    assert found.positive[0] == ChatPrompt((("user", "It was"), ("assistant", "good")))
    assert found.negative[0] == ChatPrompt((("user", "It was"), ("assistant", "bad")))
    assert (found.positive[1:], found.negative[1:]) == (
        contrast_prompts([WHOLE, TALK], as_chat=False).positive,
        contrast_prompts([WHOLE, TALK], as_chat=False).negative,
    )


@pytest.mark.parametrize(
    ("item", "as_chat", "expected"),
    [
        (TEXT, False, (TextPrompt("It was"), " good", " bad")),
        (NEW_LINE, False, (TextPrompt("Story:\n"), "good", "bad")),
        (TEXT, True, (ChatPrompt((("user", "It was"),)), "good", "bad")),
        (TALK, False, (TALK.prompt, "Well.", "Badly.")),
        (BEGUN, True, (BEGUN.prompt, " well.", " bad.")),
        (WHOLE, False, (TextPrompt("\n"), "Joy came.", "Grief came.")),
        (WHOLE, True, (TextPrompt("\n"), "Joy came.", "Grief came.")),
    ],
)
def test_completions_to_score_have_the_space_that_they_need(
    item: Item, as_chat: bool, expected: tuple[Any, ...]
) -> None:
    assert evaluation_prompt(item, as_chat) == expected


@pytest.mark.parametrize(
    ("prompt", "as_chat", "expected"),
    [
        (TextPrompt("It was"), False, TextPrompt("Be glad.\nIt was")),
        (TextPrompt("It was"), True, ChatPrompt((("system", "Be glad."), ("user", "It was")))),
        (BEGUN.prompt, False, ChatPrompt((("system", "Be glad."), ("user", "How?"), ("assistant", "I feel")))),
        (TALK.prompt, True, ChatPrompt((("system", "Be glad.\n\nBe."), ("user", "How?")))),
        (evaluation_prompt(WHOLE, True)[0], True, TextPrompt("Be glad.\n\n")),
    ],
)
def test_the_behaviour_is_asked_for_before_the_prompt(prompt: Any, as_chat: bool, expected: Any) -> None:
    assert asked(prompt, "Be glad.", as_chat) == expected


def test_token_ids_cannot_be_completed_or_asked() -> None:
    for call in (
        lambda: contrast_prompts([TOKENS], as_chat=False),
        lambda: evaluation_prompt(TOKENS, as_chat=True),
        lambda: asked(TokenPrompt((1, 2)), "Be glad.", as_chat=False),
    ):
        with pytest.raises(PromptError, match="token ids"):
            call()


def test_no_item_makes_no_contrast() -> None:
    with pytest.raises(PromptError, match="empty"):
        contrast_prompts([], as_chat=False)
