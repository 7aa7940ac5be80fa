"""What a call does once: tokenising a prompt, and measuring the model's typical norms; counted, since clocks vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools import compare_generations, create_steering_vector, generate, sweep_steering
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import parse_prompt
from steer_tools.session.session import Session

CHATS = [[{"role": "user", "content": text}] for text in PROMPTS]


class Counted:
    """A tokenizer that counts what it is given, and how often it is called."""

    def __init__(self, tokenizer: Any) -> None:
        self.calls, self.texts = 0, Counter[str]()
        called = type(tokenizer).__call__

        def count(tokenizer: Any, text: Any, *args: Any, **options: Any) -> Any:
            self.calls += 1
            self.texts.update([text] if isinstance(text, str) else text)
            return called(tokenizer, text, *args, **options)

        tokenizer.__class__ = type(type(tokenizer).__name__, (type(tokenizer),), {"__call__": count})


@pytest.fixture
def counted(empty_session: Session) -> Counted:
    tokenizer = make_tokenizer()
    counted = Counted(tokenizer)
    empty_session.attach(make_model("llama"), tokenizer, "tiny")
    create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "v")
    return counted


CALLS: dict[str, tuple[Callable[[list[Any]], object], int]] = {
    "create": (lambda prompts: create_steering_vector(prompts, NEGATIVE, "all", "made"), 4),
    "compare": (lambda prompts: compare_generations(prompts, "v", 1, [1.0, -1.0], max_new_tokens=3), 3),
    "generate": (lambda prompts: generate(prompts, max_new_tokens=3), 3),
    "sweep": (lambda prompts: sweep_steering("v", prompts=prompts, metric=len, max_new_tokens=3), 6),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prompts", [PROMPTS, CHATS], ids=["texts", "chats"])
@pytest.mark.parametrize("name", CALLS)
def test_each_prompt_is_tokenised_once_a_call(counted: Counted, name: str, prompts: list[Any]) -> None:
    call, most = CALLS[name]
    counted.calls, counted.texts = 0, Counter()

    call(prompts)

    given = {text: count for text, count in counted.texts.items() if any(prompt in text for prompt in PROMPTS)}
    assert len(given) >= len(PROMPTS)
    assert set(given.values()) == {1}, given
    assert 1 <= counted.calls <= most


def test_scoring_tokenises_each_prompt_and_each_completion_once(counted: Counted, empty_session: Session) -> None:
    rows = [Row(parse_prompt(prompt)) for _ in range(3) for prompt in PROMPTS]
    counted.texts = Counter()

    empty_session.engine.score(rows, [" tili"] * len(rows))

    # A completion is tokenised behind its prompt.
    assert counted.texts == Counter([*PROMPTS, *(f"{prompt} tili" for prompt in PROMPTS)])


def test_a_call_tokenises_anew_what_the_one_before_has(counted: Counted) -> None:
    generate(PROMPTS, max_new_tokens=1)
    counted.texts = Counter()

    generate(PROMPTS, max_new_tokens=1)

    # The tokenizer's owner may have told it to add other special tokens, which nothing else shows.
    assert counted.texts == Counter(PROMPTS)


def test_the_typical_norms_of_all_layers_take_one_pass_and_those_of_a_part_one_that_stops_there(
    llama_session: Session,
) -> None:
    runs = Counter[int]()
    engine = cast(HuggingFaceEngine, llama_session.engine)
    assert engine.parts  # Which pass finds them is not counted.
    for layer, block in enumerate(engine.architecture.blocks):
        block.register_forward_pre_hook(lambda *_, layer=layer: runs.update([layer]))

    llama_session.typical_norm(Site(1))

    assert runs == {0: 1, 1: 1, 2: 1, 3: 1}
    llama_session.typical_norms([Site(0), Site(3), Site(1)])
    assert runs == {0: 1, 1: 1, 2: 1, 3: 1}
    llama_session.typical_norms([Site(1, "attention"), Site(0, "mlp")])
    assert runs == {0: 2, 1: 2, 2: 1, 3: 1}
