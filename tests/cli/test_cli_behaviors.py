"""`steer-tools behaviors`: what is built in, and whether a file of pairs loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_tools.cli import main
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, load_behavior

HEAVY = ("torch", "transformers", "numpy", "pydantic", "matplotlib", "mcp", "steer_tools.session")


@dataclass(frozen=True)
class Done:
    """How a command left, and what it wrote."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def behaviors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `behaviors` with arguments on a plain terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Done:
        code = main(["behaviors", *map(str, arguments)])
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return run


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    chat = [{"role": "user", "content": "How is [b]Ben[/b]?"}, {"role": "assistant", "content": "He is"}]
    records: list[dict[str, object]] = [{"positive": f"Joy{i} came.", "negative": f"Grief{i} came."} for i in range(10)]
    records += [{"prompt": chat, "positive": f"well\x1b[31m {i}", "negative": f"ill {i}"} for i in range(3)]
    path = tmp_path / "joy.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["show", "--help"], ["list"]])
def test_listing_and_help_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom steer_tools.cli import main\nassert main({['behaviors', *arguments]!r}) == 0\n"
        f"print(repr([name for name in {HEAVY!r} if name in sys.modules]))"
    )

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


def test_the_list_names_every_behaviour_with_its_poles_and_counts(behaviors: Callable[..., Done]) -> None:
    done = behaviors("list")

    assert (done.code, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for name in behavior_names():
        behavior = load_behavior(name)
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f" {name} "))
        parts = (behavior.pairs, behavior.items, behavior.choices, behavior.questions)
        assert line.split()[-4:] == [str(len(part)) for part in parts]
        assert behavior.poles[0].split()[0] in line


def test_the_list_as_json(behaviors: Callable[..., Done]) -> None:
    listed = json.loads(behaviors("list", "--json").stdout)["behaviors"]

    sentiment = load_behavior("sentiment")
    assert [entry["name"] for entry in listed] == behavior_names()
    assert listed[behavior_names().index("sentiment")] == {
        "name": "sentiment",
        "poles": list(sentiment.poles),
        "description": sentiment.description,
        "counts": {
            "pairs": len(sentiment.pairs),
            "items": len(sentiment.items),
            "choices": len(sentiment.choices),
            "questions": len(sentiment.questions),
        },
    }


def test_a_built_in_behaviour_is_shown_with_a_few_of_its_pairs_and_items(behaviors: Callable[..., Done]) -> None:
    sentiment = load_behavior("sentiment")

    few, none = behaviors("show", "sentiment", "--items", 2), behaviors("show", "sentiment", "--items", 0)

    told = " ".join(few.stdout.replace("│", " ").split())
    assert (few.code, none.code) == (0, 0)
    counts = f"{len(sentiment.pairs)} pairs for vectors", f"{len(sentiment.questions)} questions"
    for text in (sentiment.description, sentiment.instruction, *counts):
        assert text is not None
        assert text in told
        assert text in " ".join(none.stdout.split())
    for part in (sentiment.pairs, sentiment.items):
        first_words = [item.positive.split()[0] for item in part[:3]]
        assert all(word in few.stdout for word in first_words[:2])
    assert few.stdout.count("├") == 4
    assert "first" not in none.stdout


def test_json_gives_all_of_a_behaviour(behaviors: Callable[..., Done]) -> None:
    sentiment = load_behavior("sentiment")

    given = json.loads(behaviors("show", "sentiment", "--json", "--items", 1).stdout)

    assert given["instruction"] == sentiment.instruction
    assert given["source"] == sentiment.source
    for part in ("pairs", "items", "choices"):
        assert [(entry["positive"], entry["negative"], entry["group"]) for entry in given[part]] == [
            (item.positive, item.negative, item.group) for item in getattr(sentiment, part)
        ]
    assert given["pairs"][0]["prompt"] == str(sentiment.pairs[0].prompt)[1:-1]
    assert given["questions"] == [str(question)[1:-1] for question in sentiment.questions]
    assert sentiment.words is not None
    assert given["words"]["positive"] == [*sentiment.words.positive]


def test_a_file_of_pairs_is_shown_as_it_is_read(behaviors: Callable[..., Done], pairs_file: Path) -> None:
    done = behaviors("show", pairs_file, "--items", 13)

    assert done.code == 0
    for text in ("joy", "5 pairs for vectors", "in 6 groups", "Joy9 came.", "Grief0 came.", "assistant: He is"):
        assert text in done.stdout
    assert "user: How is [b]Ben[/b]?" in done.stdout
    assert "\x1b" not in done.stdout
    assert "nobody wrote" in done.stdout


def test_json_of_a_file_holds_chats_and_missing_prompts(behaviors: Callable[..., Done], pairs_file: Path) -> None:
    given = json.loads(behaviors("show", pairs_file, "--json").stdout)

    prompts = [entry["prompt"] for entry in (*given["pairs"], *given["items"])]
    assert prompts.count(None) == 10
    assert [prompt for prompt in prompts if prompt is not None] == [
        [{"role": "user", "content": "How is [b]Ben[/b]?"}, {"role": "assistant", "content": "He is"}]
    ] * 3
    assert given["counts"]["pairs"] + given["counts"]["items"] == 13


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sentimint", "Did you mean 'sentiment'?"),
        ("missing.csv", "missing.csv' cannot be read (No such file or directory)"),
        ("folder/sentiment", "cannot be read"),
        ("sentiment.xml", "cannot be read"),
        ("~nobody-of-that-name/a.json", "cannot be read"),
    ],
)
def test_what_is_not_there_is_an_error(behaviors: Callable[..., Done], name: str, words: str) -> None:
    done = behaviors("show", name)

    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr


def test_a_malformed_file_is_named_with_its_line(behaviors: Callable[..., Done], pairs_file: Path) -> None:
    pairs_file.write_text(pairs_file.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")

    done = behaviors("show", pairs_file)

    assert (done.code, done.stdout) == (1, "")
    assert f"{pairs_file}, line 14: the keys are none" in done.stderr


def test_a_negative_number_of_items_is_wrong_usage(behaviors: Callable[..., Done]) -> None:
    assert behaviors("show", "sentiment", "--items", -1).code == 2
