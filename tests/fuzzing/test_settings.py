"""Texts that tools are given, their results that are read again, and chat templates: read, or refused by our error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.chat_templates import SHAPES, make_chat_tokenizer
from helpers.fuzzing import fuzz, mutated
from helpers.small_models import WORDS, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    create_steering_vector,
    find_best_layer,
    load_activations,
    save_activations,
    save_edited_model,
)
from steer_tools.cli import reproduction
from steer_tools.core.positions import Scope
from steer_tools.engines.huggingface.tokenization import Tokenization
from steer_tools.errors import ArgumentError
from steer_tools.prompts import parse_prompt
from steer_tools.session.condition_grammar import parse_condition
from steer_tools.session.session import Session
from steer_tools.weights.undo_file import UNDO, read_undo_file

PAIRS = [(f"{one} {other} lili", f"{one} {other} zuzu") for one in WORDS[:4] for other in WORDS[:4]]
JSON = [b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"-1", b"NaN", b"1e999", b"9" * 30, b"[" * 200]
JINJA = [
    *(b"{%", b"%}", b"{{", b"}}", b"{#", b"#}", b"-", b"~", b"+", b"*", b"/", b"//", b"%", b"==", b"|", b".", b"("),
    *(b"{% for a in range(99999) %}", b"{% endfor %}", b"{% set x = x ~ x %}", b"{% if true %}", b"{% endif %}"),
    *(b"messages", b"loop", b"m.content", b"|length", b"|list", b"|join", b"|int", b"|tojson", b"|safe", b"none"),
    *(b"namespace(x=1)", b"lipsum()", b"cycler(1)", b"raise_exception('no')", b"strftime_now('%Y')", b"{% break %}"),
    *(b"0", b"-1", b"1.5", b"'%s'", b"is string", b"is defined", b"not", b"and", b"in", b"{% macro f() %}", b"f()"),
]
GRAMMAR = [b"and", b"or", b"not", b" ", b"(", b")", b"@", b"'", b'"', b"\\", b"v", b"v.safetensors", b"@-1", b"@99"]
SCOPES = [b"generated", b"all", b"first", b",", b":", b"-", b"-1", b"0", b"[", b"]", b"prompt", b" ", b"9" * 30, b"_"]


def test_any_chat_template(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = parse_prompt([{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}])
    monkeypatch.setenv("STEER_TOOLS_MAX_TEMPLATE_STEPS", "50000")
    tokenizer = make_chat_tokenizer("{{ messages }}")

    def read(source: bytes) -> None:
        tokenizer.chat_template = source.decode("utf-8", "replace")
        tokens = Tokenization(tokenizer, None, len(tokenizer))
        _ = tokens.stop_tokens, tokens.answer_start
        tokens.encode(chat)

    found = fuzz(read, mutated([shape.source.encode() for shape in SHAPES.values()], JINJA))

    print(f"\nchat template: {found}")
    assert 10 < found.read < found.examples


def test_any_condition(empty_session: Session) -> None:
    attach_model(make_model("llama"), make_tokenizer())
    create_steering_vector(*map(list, zip(*PAIRS, strict=True)), 1, "v")
    wholes = [b"v", b"v@1 and not v", b"not (v.safetensors or v) and v"]

    def read(text: bytes) -> None:
        parse_condition(empty_session, text.decode("utf-8", "replace")[:1000])

    found = fuzz(read, mutated(wholes, GRAMMAR))

    print(f"\ncondition: {found}")
    assert 10 < found.read < found.examples


def test_any_positions() -> None:
    found = fuzz(
        lambda text: Scope.parse(text.decode("utf-8", "replace")[:10_000]),
        mutated([b"generated", b"prompt[1:3],first", b"all,-2:", b"after_user,last_prompt"], SCOPES),
    )

    print(f"\npositions: {found}")
    assert 10 < found.read < found.examples


def test_any_result_that_is_to_be_reproduced(empty_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what reads it: that a run fails whose numbers were changed is the tools' own."""
    attach_model(make_model("llama"), make_tokenizer())
    result = find_best_layer(PAIRS, layers=[1], strengths=[0.1], save_folder="found")
    path = Path(result["data_path"])

    class StoppedError(ArgumentError):
        pass

    class NoWorkbench:
        def __init__(self, *given: object) -> None:
            raise StoppedError("it was read")

    monkeypatch.setattr(reproduction, "Workbench", NoWorkbench)
    root, read_to_the_end = str(empty_session.workspace.root), 0

    def read(content: bytes) -> None:
        nonlocal read_to_the_end
        path.write_bytes(content)
        try:
            reproduction.reproduced(str(path), None, root)
        except StoppedError:
            read_to_the_end += 1

    found = fuzz(read, mutated([path.read_bytes()], [*JSON, b'"run"', b'"arguments"', b'"tool"', b'"inputs"']))

    print(f"\nreport.json, sweep.json: {found}")
    assert 10 < read_to_the_end < found.examples


def activations(folder: Path) -> tuple[str, Callable[[Path], object]]:
    attach_model(make_model("llama"), make_tokenizer())
    path = save_activations(["baba keke", "lili"], save_path="a", layers=[1])["path"]
    return path, lambda path: load_activations(str(path))


def undo(folder: Path) -> tuple[str, Callable[[Path], object]]:
    attach_model(make_model("llama"), make_tokenizer())
    create_steering_vector(*map(list, zip(*PAIRS, strict=True)), 1, "v")
    apply_steering_vector("v", 1, 2.0, positions="all")
    baked: Any = save_edited_model("baked")
    return str(Path(baked["folder"]) / UNDO), lambda path: read_undo_file(path.parent)


@pytest.mark.parametrize("kind", [activations, undo], ids=lambda kind: kind.__name__)
def test_any_bytes_of_what_tools_wrote(
    kind: Callable[[Path], tuple[str, Callable[[Path], object]]], empty_session: Session, tmp_path: Path
) -> None:
    place, read_it = kind(tmp_path)
    path = Path(place)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_it(path)

    whole = path.read_bytes()
    found = fuzz(read, mutated([whole], [*JSON, b"\0", b"\xff" * 8, b"F32", b"data_offsets", b"layer.1"]))

    print(f"\n{kind.__name__}: {found}")
    assert 0 < found.read < found.examples
