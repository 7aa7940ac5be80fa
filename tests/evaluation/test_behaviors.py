"""The built-in behaviours: rules that keep a contrast from being anything but the behaviour.

The last tests plant each fault in a document without faults and see it found.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import steer_tools
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.evaluation.behaviors.behavior import Words
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.prompts import TextPrompt

Document = dict[str, Any]
FOLDER = Path(steer_tools.__file__).parent / "evaluation" / "behaviors" / "data"
KEYS = {
    "name",
    "description",
    "positive",
    "negative",
    "instruction",
    "source",
    "pairs",
    "items",
    "choices",
    "questions",
}
SIDES = ("positive", "negative")
PARTS = ("pairs", "items")
# Those for models that have a chat template, and those for models that have none.
FILES = [*behavior_names(), "texts/sentiment"]
# What no words can count: a lie and a wrong answer have the words of any other.
WORDLESS = {"corrigibility", "honesty", "sandbagging"}


def read(name: str) -> Document:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def trigrams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 3]) for i in range(max(1, len(found) - 2))}


def overlap(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """The share of the trigrams of two texts that both have (Jaccard)."""
    return len(one & other) / len(one | other)


def records(document: Document) -> list[dict[str, str]]:
    return [*document["pairs"], *document["items"]]


def groups(document: Document) -> Counter[str]:
    return Counter(item.get("group", item["prompt"]) for item in document["items"])


# The rules: each yields the faults that it finds.


def it_has_the_keys_of_the_form(document: Document) -> Iterator[str]:
    yield from sorted(set(document) - {"words"} ^ KEYS)


def it_has_sixty_pairs(document: Document) -> Iterator[str]:
    if (count := len(document["pairs"])) < 60:
        yield f"{count} pairs"


def it_holds_forty_questions_out(document: Document) -> Iterator[str]:
    if (count := len(groups(document))) < 40:
        yield f"{count} questions"


def eight_questions_come_in_two_wordings(document: Document) -> Iterator[str]:
    if (count := sum(size >= 2 for size in groups(document).values())) < 8:
        yield f"{count} questions with a paraphrase"


def a_named_group_has_two_items(document: Document) -> Iterator[str]:
    sizes = groups(document)
    yield from (item["group"] for item in document["items"] if "group" in item and sizes[item["group"]] < 2)


def the_answer_is_a_in_four_of_eight_choices(document: Document) -> Iterator[str]:
    if (right := Counter(choice["positive"] for choice in document["choices"])) != {"(A)": 4, "(B)": 4}:
        yield str(dict(right))


def a_choice_has_two_answers_of_about_one_length(document: Document) -> Iterator[str]:
    for choice in document["choices"]:
        answers = re.fullmatch(r"[^\n]+\n\nChoices:\n \(A\) ([^\n]+)\n \(B\) ([^\n]+)", choice["prompt"])
        if answers is None or {choice[side] for side in SIDES} != {"(A)", "(B)"}:
            yield f"form: {choice}"
        elif abs(len(answers[1].split()) - len(answers[2].split())) > 4:
            yield f"lengths: {choice['prompt']}"


def no_text_has_space_around_it(document: Document) -> Iterator[str]:
    texts = [text for record in [*records(document), *document["choices"]] for text in record.values()]
    yield from (text for text in [*texts, *document["questions"]] if text != text.strip())


def completions_end_with_the_same_word(document: Document) -> Iterator[str]:
    for record in records(document):
        last = [record[side].split()[-1] for side in SIDES]
        if last[0] != last[1]:
            yield f"{last}: {record['prompt']}"


def completions_are_about_equally_long(document: Document) -> Iterator[str]:
    for record in records(document):
        lengths = [len(record[side].split()) for side in SIDES]
        if abs(lengths[0] - lengths[1]) > max(2, 0.2 * max(lengths)):
            yield f"{lengths}: {record['prompt']}"


def completions_differ(document: Document) -> Iterator[str]:
    yield from (record["prompt"] for record in records(document) if record["positive"] == record["negative"])


def completions_have_four_words(document: Document) -> Iterator[str]:
    yield from (record[side] for record in records(document) for side in SIDES if len(record[side].split()) < 4)


def neither_side_has_more_letters(document: Document) -> Iterator[str]:
    for part in PARTS:
        positive, negative = (sum(len(record[side]) for record in document[part]) for side in SIDES)
        if abs(positive - negative) > 0.05 * max(positive, negative):
            yield f"{part}: {positive} against {negative}"


def completions_begin_in_many_ways(document: Document) -> Iterator[str]:
    for part in PARTS:
        for side in SIDES:
            beginnings = Counter(" ".join(words(record[side])[:2]) for record in document[part])
            ((top, count),) = beginnings.most_common(1)
            if count > 0.2 * len(document[part]):
                yield f"{part}: {count} {side} ones begin with {top!r}"


def completions_end_in_many_ways(document: Document) -> Iterator[str]:
    ((top, count),) = Counter(record["positive"].split()[-1] for record in records(document)).most_common(1)
    if count > 0.15 * len(records(document)):
        yield f"{count} end with {top!r}"


def completions_are_not_repeated(document: Document) -> Iterator[str]:
    for part in PARTS:
        for side in SIDES:
            different = len({record[side] for record in document[part]})
            if different < 0.9 * len(document[part]):
                yield f"{part}: {different} different {side} ones"


def prompts_are_not_repeated(document: Document) -> Iterator[str]:
    for part in PARTS:
        counts = Counter(" ".join(words(record["prompt"])) for record in document[part])
        yield from (prompt for prompt, count in counts.items() if count > 1)


def pairs_are_different_situations(document: Document) -> Iterator[str]:
    prompts = [(pair["prompt"], trigrams(pair["prompt"])) for pair in document["pairs"]]
    for i, (one, own) in enumerate(prompts):
        yield from (f"{one} ~ {other}" for other, theirs in prompts[:i] if overlap(own, theirs) > 0.6)


def nothing_held_out_is_like_a_pair(document: Document) -> Iterator[str]:
    for key, held_out in (
        ("prompt", [*document["items"], *document["choices"]]),
        *((side, document["items"]) for side in SIDES),
    ):
        trained = [(pair[key], trigrams(pair[key])) for pair in document["pairs"]]
        for record in held_out:
            own = trigrams(record[key])
            yield from (f"{text} ~ {record[key]}" for text, theirs in trained if overlap(own, theirs) > 0.4)


def it_asks_twenty_four_to_thirty_two_questions(document: Document) -> Iterator[str]:
    if not 24 <= (count := len(document["questions"])) <= 32:
        yield f"{count} questions"


def questions_end_as_prompts_do(document: Document) -> Iterator[str]:
    ends = Counter(pair["prompt"][-1] in ".?!'\"" for pair in document["pairs"])
    usual = ends.most_common(1)[0][0]
    yield from (question for question in document["questions"] if (question[-1] in ".?!'\"") != usual)


def questions_begin_in_many_ways(document: Document) -> Iterator[str]:
    beginnings = Counter(" ".join(words(question)[:2]) for question in document["questions"])
    ((top, count),) = beginnings.most_common(1)
    if count > 0.3 * len(document["questions"]):
        yield f"{count} begin with {top!r}"


def questions_are_different_ones(document: Document) -> Iterator[str]:
    asked = [(question, trigrams(question)) for question in document["questions"]]
    for i, (one, own) in enumerate(asked):
        yield from (f"{one} ~ {other}" for other, theirs in asked[:i] if overlap(own, theirs) > 0.5)


def no_question_is_like_a_prompt(document: Document) -> Iterator[str]:
    prompts = [record["prompt"].split("\n")[0] for record in [*records(document), *document["choices"]]]
    known = [(prompt, trigrams(prompt)) for prompt in prompts]
    for question in document["questions"]:
        own = trigrams(question)
        yield from (f"{prompt} ~ {question}" for prompt, theirs in known if overlap(own, theirs) > 0.4)


def words_are_more_in_positive_completions(document: Document) -> Iterator[str]:
    """In pairs and in items, of which the words were not made."""
    if "words" not in document:
        return
    counter = Words(*(tuple(document["words"][side]) for side in SIDES))
    for part in PARTS:
        differences = [counter.balance(r["positive"]) - counter.balance(r["negative"]) for r in document[part]]
        more, less = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        if more <= 2 * less or more < len(differences) / 8:
            yield f"{part}: more in {more} positive ones, in {less} negative ones"


Rule = Callable[[Document], Iterator[str]]
RULES: tuple[Rule, ...] = (
    it_has_the_keys_of_the_form,
    it_has_sixty_pairs,
    it_holds_forty_questions_out,
    eight_questions_come_in_two_wordings,
    a_named_group_has_two_items,
    the_answer_is_a_in_four_of_eight_choices,
    a_choice_has_two_answers_of_about_one_length,
    no_text_has_space_around_it,
    completions_end_with_the_same_word,
    completions_are_about_equally_long,
    completions_differ,
    completions_have_four_words,
    neither_side_has_more_letters,
    completions_begin_in_many_ways,
    completions_end_in_many_ways,
    completions_are_not_repeated,
    prompts_are_not_repeated,
    pairs_are_different_situations,
    nothing_held_out_is_like_a_pair,
    it_asks_twenty_four_to_thirty_two_questions,
    questions_end_as_prompts_do,
    questions_begin_in_many_ways,
    questions_are_different_ones,
    no_question_is_like_a_prompt,
    words_are_more_in_positive_completions,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_built_in_behaviour_keeps_the_rules(name: str, rule: Rule) -> None:
    assert list(rule(read(name))) == []


# Loading.


@pytest.mark.parametrize("name", FILES)
def test_a_built_in_behaviour_loads_as_it_was_written(name: str) -> None:
    written, bare = read(name), name.rpartition("/")[2]

    loaded = load_behavior(bare, as_chat=name == bare)

    assert loaded.name == written["name"] == bare
    assert loaded.poles == (written["positive"], written["negative"])
    assert (loaded.description, loaded.instruction) == (written["description"], written["instruction"])
    assert loaded.source == "Written for steer-tools."
    for part in (*PARTS, "choices"):
        assert [(item.prompt, item.positive, item.negative, item.group) for item in getattr(loaded, part)] == [
            (TextPrompt(record["prompt"]), *(record[side] for side in SIDES), record.get("group", record["prompt"]))
            for record in written[part]
        ]
    assert [*loaded.questions] == [*map(TextPrompt, written["questions"])]
    assert (loaded.words is None) == (name in WORDLESS)
    if loaded.words is not None:
        assert {side: [*getattr(loaded.words, side)] for side in SIDES} == written["words"]


def test_only_sentiment_has_a_form_for_models_that_answer_nobody() -> None:
    assert {path.stem for path in (FOLDER / "texts").iterdir()} == {"sentiment"}
    for name in behavior_names():
        chat, text = load_behavior(name), load_behavior(name, as_chat=False)
        assert (chat == text) == (name != "sentiment")
        assert chat.poles == text.poles


def test_the_names_are_those_of_the_files_in_order() -> None:
    assert behavior_names() == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert "sentiment" in behavior_names()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sentimant", "Did you mean 'sentiment'?"),
        ("quixotry", "give a file of pairs"),
        ("../behaviors/sentiment", "Valid: "),
        ("", "sentiment"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_behavior(name)

    assert words in str(caught.value)
    assert ", ".join(behavior_names()) in str(caught.value)


def test_a_malformed_built_in_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "texts").mkdir(parents=True)
    (tmp_path / "data" / "calm.json").write_text(json.dumps(faultless() | {"items": [{}]}), encoding="utf-8")
    monkeypatch.setattr("steer_tools.evaluation.behaviors.behavior_loading.files", lambda package: tmp_path)

    with pytest.raises(PromptError, match=r"^calm\.json: items\[0\]: the keys are none"):
        load_behavior("calm")


# The rules themselves.


def faultless() -> Document:
    """A document of made-up words of four letters that keeps every rule."""
    dice = random.Random(3)

    def text(count: int, last: str) -> str:
        return " ".join("".join(dice.choices("bdgklmnprstvz", k=4)) for _ in range(count - 1)) + f" {last}"

    def record(**more: str) -> dict[str, str]:
        end = text(2, "end.").split()[0] + "."
        return {"prompt": text(8, "so?"), "positive": text(8, end), "negative": text(8, end), **more}

    def choice(number: int) -> dict[str, str]:
        right, wrong = ("(A)", "(B)") if number % 2 else ("(B)", "(A)")
        answers = f" (A) {text(4, 'a')}\n (B) {text(4, 'b')}"
        return {"prompt": f"{text(6, 'so?')}\n\nChoices:\n{answers}", "positive": right, "negative": wrong}

    pairs = [record() for _ in range(60)]
    items = [*(record() for _ in range(32)), *(record(group=f"g{i % 8}") for i in range(16))]
    return {
        **{key: text(3, key) for key in ("name", "description", "positive", "negative", "instruction", "source")},
        "pairs": pairs,
        "items": items,
        "choices": [choice(i) for i in range(8)],
        "questions": [text(8, "so?") for _ in range(24)],
        "words": {side: [record[side].split()[1] for record in (*pairs, *items)] for side in SIDES},
    }


def change(part: str, key: str, made: Callable[[str], str], count: int = 1) -> Callable[[Document], None]:
    """Return what replaces a text of the first `count` records of a part by one that is made of it."""

    def plant(document: Document) -> None:
        for record in document[part][:count]:
            record[key] = made(record[key])

    return plant


def copy_text(part: str, key: str, source: str = "pairs") -> Callable[[Document], None]:
    """Return what gives the last record of a part a text of the first pair."""

    def plant(document: Document) -> None:
        document[part][-1][key] = document[source][0][key]

    return plant


def ask(*questions: str, instead: int = 0) -> Callable[[Document], None]:
    """Return what puts questions before the others, in the place of some."""

    def plant(document: Document) -> None:
        document["questions"] = [*questions, *document["questions"][instead:]]

    return plant


def swapped(sides: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"positive": sides["negative"], "negative": sides["positive"]}


def similar(document: Document) -> str:
    return "oh, " + document["pairs"][0]["prompt"]


def beginning(text: str) -> str:
    return " ".join(["In", "short,", *text.split()[2:]])


def ending(text: str) -> str:
    return " ".join([*text.split()[:-1], "now."])


PLANTS: tuple[tuple[Rule, Callable[[Document], object]], ...] = (
    (it_has_the_keys_of_the_form, lambda document: document.pop("source")),
    (it_has_the_keys_of_the_form, lambda document: document.update(held_out=[])),
    (it_has_sixty_pairs, lambda document: document["pairs"].pop()),
    (it_holds_forty_questions_out, lambda document: document["items"].pop(0)),
    (eight_questions_come_in_two_wordings, lambda document: document["items"].pop()),
    (a_named_group_has_two_items, lambda document: document["items"].pop()),
    (the_answer_is_a_in_four_of_eight_choices, lambda document: document["choices"].pop()),
    (the_answer_is_a_in_four_of_eight_choices, change("choices", "positive", lambda text: "(A)")),
    (a_choice_has_two_answers_of_about_one_length, change("choices", "negative", lambda text: "(C)")),
    (a_choice_has_two_answers_of_about_one_length, change("choices", "prompt", lambda text: text.replace(" (B)", ""))),
    (a_choice_has_two_answers_of_about_one_length, change("choices", "prompt", lambda text: text + " and" * 5)),
    (no_text_has_space_around_it, change("pairs", "prompt", lambda text: text + " ")),
    (no_text_has_space_around_it, change("items", "negative", lambda text: "\n" + text)),
    (no_text_has_space_around_it, change("choices", "prompt", lambda text: " " + text)),
    (completions_end_with_the_same_word, change("pairs", "negative", ending)),
    (completions_end_with_the_same_word, change("items", "negative", lambda text: text.replace(".", "!"))),
    (completions_are_about_equally_long, change("pairs", "negative", lambda text: "oh oh oh " + text)),
    (completions_are_about_equally_long, change("items", "positive", lambda text: "oh oh oh " + text)),
    (completions_differ, lambda document: document["items"][0].update(positive="x", negative="x")),
    (completions_have_four_words, change("items", "positive", lambda text: " ".join(text.split()[-3:]))),
    (neither_side_has_more_letters, change("pairs", "positive", lambda text: text.replace(" ", "oo "), 60)),
    (neither_side_has_more_letters, change("items", "negative", lambda text: text.replace(" ", "oo "), 48)),
    (completions_begin_in_many_ways, change("pairs", "positive", beginning, 13)),
    (completions_begin_in_many_ways, change("items", "negative", beginning, 10)),
    (completions_end_in_many_ways, change("pairs", "positive", ending, 17)),
    (completions_are_not_repeated, change("pairs", "negative", lambda text: "One and the same.", 8)),
    (completions_are_not_repeated, change("items", "positive", lambda text: "One and the same.", 6)),
    (prompts_are_not_repeated, copy_text("pairs", "prompt")),
    (prompts_are_not_repeated, copy_text("items", "prompt", "items")),
    (pairs_are_different_situations, lambda document: document["pairs"][1].update(prompt=similar(document))),
    (nothing_held_out_is_like_a_pair, copy_text("items", "prompt")),
    (nothing_held_out_is_like_a_pair, copy_text("items", "positive")),
    (nothing_held_out_is_like_a_pair, copy_text("items", "negative")),
    (nothing_held_out_is_like_a_pair, copy_text("choices", "prompt")),
    (no_text_has_space_around_it, ask("Oh so? ")),
    (it_asks_twenty_four_to_thirty_two_questions, lambda document: document["questions"].pop()),
    (it_asks_twenty_four_to_thirty_two_questions, ask(*"abcdefghi")),
    (questions_end_as_prompts_do, ask("Oh so")),
    (questions_begin_in_many_ways, ask(*(f"Is it {letter * 4}?" for letter in "abcdefgh"), instead=8)),
    (questions_are_different_ones, ask("Is it so or so or so?", "Is it so or so or so now?")),
    (no_question_is_like_a_prompt, lambda document: ask(document["items"][0]["prompt"])(document)),
    (no_question_is_like_a_prompt, lambda document: ask(document["choices"][0]["prompt"].split("\n")[0])(document)),
    (words_are_more_in_positive_completions, lambda document: document.update(words=swapped(document["words"]))),
    (
        words_are_more_in_positive_completions,
        lambda document: document.update(words={"positive": ["so"], "negative": []}),
    ),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_faultless_document_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(faultless())) == []


@pytest.mark.parametrize(("rule", "plant"), PLANTS, ids=lambda given: getattr(given, "__name__", "fault"))
def test_a_planted_fault_is_found(rule: Rule, plant: Callable[[Document], object]) -> None:
    document = copy.deepcopy(faultless())

    plant(document)

    assert list(rule(document)) != []


def test_every_rule_is_held_and_has_a_planted_fault() -> None:
    written = {value for value in globals().values() if annotations_of(value) == annotations_of(completions_differ)}

    assert written == set(RULES) == {rule for rule, _ in PLANTS}


def annotations_of(value: object) -> dict[str, object] | None:
    return getattr(value, "__annotations__", None) if callable(value) else None


def test_what_a_trait_is_made_of_is_worked_out_once() -> None:
    assert trait_behavior("sentiment") is trait_behavior("sentiment") != trait_behavior("sentiment", seed=1)
