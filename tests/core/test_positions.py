"""Scopes and geometry → masks, against the plain-Python meaning of each scope."""

from __future__ import annotations

import pytest
import torch

from helpers.oracle import SCOPES
from steer_tools.core.positions import GENERATED, NOWHERE, BatchGeometry, PromptSlice, Scope, positions_of
from steer_tools.errors import ArgumentError

LENGTHS = (1, 3, 5)
COLUMNS = 8  # 5 of prompt, 3 generated.


def left_padded(start: int) -> BatchGeometry:
    real = torch.ones(len(LENGTHS), COLUMNS, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        real[row, : 5 - length] = False
    return BatchGeometry(positions_of(real, start), torch.tensor(LENGTHS), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_mask_is_the_same_whole_as_step_by_step_and_never_touches_padding(scope: str) -> None:
    parsed = Scope.parse(scope)
    expected = [
        [c >= 5 - n and SCOPES[scope](c - (5 - n), n, int(row > 0)) for c in range(COLUMNS)]
        for row, n in enumerate(LENGTHS)
    ]

    whole = left_padded(0).mask(parsed)
    stepwise = torch.cat([left_padded(start).mask(parsed)[:, :1] for start in range(COLUMNS)], dim=1)

    assert whole.tolist() == expected
    assert torch.equal(stepwise, whole)
    assert whole.any() and not whole.all()


@pytest.mark.parametrize("scope", [*SCOPES, "after_user"])
def test_no_scope_tells_one_new_token_from_the_next(scope: str) -> None:
    # So that all steps of a generation share what is worked out at the first.
    def new_tokens(start: int) -> BatchGeometry:
        lengths = torch.tensor(LENGTHS)
        after_user = torch.tensor([1, 2, NOWHERE])
        return BatchGeometry(lengths[:, None] + start, lengths, torch.tensor([0, 1, 1]), after_user)

    first, *later = (new_tokens(start).mask(Scope.parse(scope)) for start in (0, 1, 2, 1000))

    assert all(torch.equal(mask, first) for mask in later)
    assert first.any() == Scope.parse(scope).takes_new_tokens


def test_last_is_an_alias_of_generated() -> None:
    assert str(Scope.parse("last")) == "generated"


@pytest.mark.parametrize("text", ["generated", "0:4", "-3:", ":2", "first,0:1", "prompt, last"])
def test_a_scope_reads_back_what_it_writes(text: str) -> None:
    assert Scope.parse(str(Scope.parse(text))) == Scope.parse(text)


@pytest.mark.parametrize("text", ["", "everything", "1", "0:4:2", "a:b", "generated,", None, 3, ["all"]])
def test_an_unknown_scope_is_refused_with_the_valid_ones(text: object) -> None:
    with pytest.raises(ArgumentError, match=r"'generated'.*'last_prompt'.*'0:4'"):
        Scope.parse(text)


@pytest.mark.parametrize("text", ["5:3", "3:3", "0:0", ":0", "-3:0", "-2:-2", "-1:-3", "prompt, 5:3"])
def test_a_slice_that_is_always_empty_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"takes no token of any prompt.*'3:5' takes the tokens 3 and 4"):
        Scope.parse(text)


@pytest.mark.parametrize("start", [None, *range(-4, 5)])
@pytest.mark.parametrize("stop", [None, *range(-4, 5)])
def test_a_slice_is_refused_if_and_only_if_it_takes_no_token_of_any_prompt(start: int | None, stop: int | None) -> None:
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    takes_some = any(range(length)[start:stop] for length in range(1, 20))

    try:
        Scope.parse(text)
    except ArgumentError:
        assert not takes_some
    else:
        assert takes_some


def test_a_slice_takes_the_tokens_that_python_takes_of_a_list() -> None:
    lengths = torch.arange(1, 7)
    geometry = BatchGeometry(torch.arange(COLUMNS).expand(len(lengths), -1), lengths)
    bounds = [None, *range(-8, 9)]
    slices = [part for start in bounds for stop in bounds if not (part := PromptSlice(start, stop)).is_empty]

    for part in slices:
        taken = [set(range(length)[part.start : part.stop]) for length in lengths.tolist()]
        assert geometry.mask(Scope((part,))).tolist() == [[c in row for c in range(COLUMNS)] for row in taken], part
    assert len(slices) > 150


def test_first_needs_token_ids() -> None:
    geometry = BatchGeometry(torch.arange(3)[None], torch.tensor([3]))

    with pytest.raises(ArgumentError, match="0:1"):
        geometry.mask(Scope.parse("first"))
    assert geometry.mask(Scope.parse("0:1")).tolist() == [[True, False, False]]


@pytest.mark.parametrize("scope", [*SCOPES, "after_user", "0:2,last_prompt", "1:3"])
def test_what_a_scope_says_of_itself_is_what_its_masks_show(scope: str) -> None:
    parsed = Scope.parse(scope)
    prompts, after_user = torch.arange(1, 6), torch.tensor([1, 1, 1, 2, 2])
    positions = torch.arange(COLUMNS).expand(len(prompts), -1)
    mask = BatchGeometry(positions, prompts, torch.zeros_like(prompts), after_user).mask(parsed)
    last = prompts[:, None] - 1

    assert parsed.takes_new_tokens == bool(mask[positions > last].all())
    assert parsed.spares_prompt == (not mask[positions < last].any())
    # A slice may take it, too, but says nothing of prompts of any length.
    named = {"generated", "prompt", "all", "last_prompt"} & set(scope.split(","))
    assert parsed.takes_last_token == bool(named) and (not named or bool(mask[positions == last].all()))


def test_what_counts_from_a_user_message_takes_all_from_there_on_and_nothing_where_there_is_none() -> None:
    geometry = BatchGeometry(
        torch.arange(4).expand(3, -1), torch.tensor([3, 3, 3]), after_user=torch.tensor([1, 3, NOWHERE])
    )

    mask = geometry.mask(Scope.parse("after_user"))

    assert mask.tolist() == [[False, True, True, True], [False, False, False, True], [False] * 4]
    assert Scope.parse("prompt,after_user").needs_chat and not Scope.parse("prompt,first").needs_chat
    with pytest.raises(ArgumentError, match="start of an answer"):
        left_padded(0).mask(Scope.parse("after_user"))


def test_a_prompt_of_bos_alone_has_no_first_token() -> None:
    geometry = BatchGeometry(torch.arange(3).expand(2, -1), torch.tensor([1, 2]), first=torch.tensor([1, 1]))

    assert geometry.mask(Scope.parse("first")).tolist() == [[False] * 3, [False, True, False]]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("tokens", [1, 3, COLUMNS])
def test_the_last_tokens_of_a_pass_have_the_mask_that_they_have_in_the_whole(scope: str, tokens: int) -> None:
    whole = left_padded(0)

    assert torch.equal(whole.last(tokens).mask(Scope.parse(scope)), whole.mask(Scope.parse(scope))[:, -tokens:])


def test_a_scope_is_a_union_without_repetitions() -> None:
    assert Scope.parse("last, 0:2,generated,0:2").terms == ("generated", PromptSlice(0, 2))
    assert Scope.parse(GENERATED) is GENERATED


@pytest.mark.parametrize("text", ["1234567890:", ":-1234567890"])
def test_a_slice_of_more_digits_than_a_tensor_holds_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="positions is"):
        Scope.parse(text)
    assert Scope.parse("-123456789:123456789")
