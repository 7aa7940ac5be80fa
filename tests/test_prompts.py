"""Prompts as users write them."""

from __future__ import annotations

import pytest

from steer_tools.errors import PromptError
from steer_tools.prompts import ChatPrompt, ContrastPrompts, parse_prompts


@pytest.mark.parametrize("sides", [(["a", "a", "a"], ["b", "c", "d"]), (["b", "c", "d"], ["a", "a", "a"])])
def test_repeated_prompts_of_either_side_count_once(sides: tuple[list[str], list[str]]) -> None:
    assert ContrastPrompts.parse(*sides).fewest_different() == 1


def test_a_chat_may_hold_a_blank_message_but_not_only_blank_ones() -> None:
    blank, asked = {"role": "system", "content": " "}, {"role": "user", "content": "Hello"}

    assert parse_prompts([[blank, asked]]) == (ChatPrompt((("system", " "), ("user", "Hello"))),)
    with pytest.raises(PromptError, match="only blank messages"):
        parse_prompts([[blank]])
