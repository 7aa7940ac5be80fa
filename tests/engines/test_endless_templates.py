"""A chat template is a program from a checkpoint: one that goes on and on, or that fails, is refused in any chat."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from helpers.chat_templates import SHAPES, make_chat_tokenizer
from steer_tools.engines.huggingface.tokenization import Tokenization
from steer_tools.engines.huggingface.watched_template import run_watched
from steer_tools.errors import PromptError
from steer_tools.limits import TEMPLATE_CHARACTERS, TEMPLATE_SOURCE, TEMPLATE_STEPS
from steer_tools.prompts import parse_prompt

CHAT = [{"role": "user", "content": "Is the house red?"}]
WRITES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
MOST_STEPS, MOST_CHARACTERS = 20_000, 50_000
MACRO = "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}"
TREE = "{% for m in messages * 2 recursive %}{{ loop(messages * 2) if loop.depth < 40 }}{% endfor %}"
NAMESPACE = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"

TOO_MUCH = {
    "loops in loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
    "a macro that calls itself twice": (MACRO, "steps"),
    "a loop that calls itself twice": (TREE, "steps"),
    "a function of the engine's": ("{{ lipsum(n=100000000) }}", "steps"),
    "a text joined to itself": ("{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 60, "holds"),
    "a text added to itself": ("{% set x = 'ab' %}" + "{% set x = x + x %}" * 60, "holds"),
    "a text of a namespace joined to itself": (NAMESPACE.replace("OP", "~"), "holds"),
    "a text of a namespace added to itself": (NAMESPACE.replace("OP", "+"), "holds"),
    "a long text again and again": ("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "writes"),
    "a list added to itself": ("{% set x = [1, 2] %}" + "{% set x = x + x %}" * 60, "holds"),
    "a number multiplied by itself": ("{% set x = 9 %}" + "{% set x = x * x %}" * 60, "holds"),
    "powers of powers": ("{{ 9 ** 9 ** 9 ** 9 }}", "raises"),
    "itself": ("{{ 'x' }}" * (TEMPLATE_SOURCE.most // 8), "has"),
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEMPLATE_STEPS.variable, str(MOST_STEPS))
    monkeypatch.setenv(TEMPLATE_CHARACTERS.variable, str(MOST_CHARACTERS))


def rendered(source: str) -> Any:
    tokenizer = make_chat_tokenizer(source)
    return Tokenization(tokenizer, None, len(tokenizer)).encode(parse_prompt(CHAT))


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_takes_too_much_is_refused_soon(narrow: None, name: str) -> None:
    source, problem = TOO_MUCH[name]
    before, started = sys.gettrace(), time.process_time()

    with pytest.raises(PromptError, match=rf"chat template {problem}|chat template took .* {problem}"):
        rendered(source + WRITES)

    assert time.process_time() - started < 5
    assert sys.gettrace() is before


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 / 0 }}",
        "{{ 'a' * 99999999999999999999999 }}",
        "{{ 'a' * 9999999999999999 }}",
        "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
        "{% if %}",
        "{% break %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_that_fails_is_refused(source: str) -> None:
    with pytest.raises(PromptError, match="refuses these messages"):
        rendered(source + WRITES)


@pytest.mark.parametrize("name", SHAPES)
def test_ordinary_templates_come_nowhere_near_the_bounds(narrow: None, name: str) -> None:
    tokenizer = make_chat_tokenizer(SHAPES[name].source)
    tokens = Tokenization(tokenizer, None, len(tokenizer))
    chat = [*CHAT, {"role": "assistant", "content": "Yes."}] * 20

    assert len(tokens.encode(parse_prompt(chat)).tokens) > 20 * len("Is the house red?Yes.") / 4


def test_just_as_many_steps_as_are_allowed_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = make_chat_tokenizer(WRITES)

    def write() -> str:
        return run_watched(lambda: tokenizer.apply_chat_template(CHAT, tokenize=False))

    def passes(steps: int) -> bool:
        monkeypatch.setenv(TEMPLATE_STEPS.variable, str(steps))
        try:
            return write() == "<|user|>Is the house red?"
        except PromptError:
            return False

    taken = next(steps for steps in range(1, 1_000) if passes(steps))

    assert 5 < taken < 100
    assert not passes(taken - 1)


def test_whoever_traced_the_thread_goes_on_to_trace_it() -> None:
    seen: list[str] = []

    def tracer(frame: Any, event: str, argument: Any) -> None:
        seen.append(frame.f_code.co_name)

    def afterwards() -> None:
        pass

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        rendered(WRITES)
        afterwards()
    finally:
        sys.settrace(before)

    assert "afterwards" in seen
