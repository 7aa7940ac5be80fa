"""Every tool that tells of tokens tells them as text, with their ids beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steer_tools import (
    analyze_steering_vector,
    compare_next_tokens,
    patch_activations,
    project_activations,
    save_vector,
    show_tokens,
)
from steer_tools.core.vectors import SteeringVector
from steer_tools.session.session import Session

TEXT = "The café says 你好 🙂\nnow"
Told = list[tuple[list[str], list[int]]]


def shown(vector: str) -> Told:
    return [(own["tokens"], own["ids"]) for own in show_tokens([TEXT])["prompts"]]


def projected(vector: str) -> Told:
    return [(own["tokens"], own["ids"]) for own in project_activations(vector, [TEXT])["prompts"]]


def analyzed(vector: str) -> Told:
    found = analyze_steering_vector(vector, texts=[TEXT], top=40)
    assert found["lens"] is not None
    ranked = [
        (list(own[side]), own[f"{side}_ids"])
        for own in map(dict[str, Any], (found["lens"], found["observed"]))
        for side in ("boosted", "suppressed")
    ]
    return [*ranked, *((own["tokens"], own["ids"]) for own in found["projections"])]


def next_tokens(vector: str) -> Told:
    found = compare_next_tokens([TEXT], vector, strengths=[0.0], top=40)["prompts"]
    return [(list(own["probabilities"]), own["ids"]) for own in found]


def patched(vector: str) -> Told:
    found = patch_activations(TEXT, TEXT.replace("now", "then"), " yes", " no", layers=[20])
    return [([pair[side] for pair in found["tokens"]], [pair[side] for pair in found["ids"]]) for side in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("told", [shown, projected, analyzed, next_tokens, patched])
def test_tokens_are_told_as_text_with_their_ids(
    told: Callable[[str], Told], empty_session: Session, smollm2: Any
) -> None:
    model, tokenizer = smollm2(torch.float32)
    empty_session.attach(model, tokenizer, "smollm2")
    direction = torch.randn(576, generator=torch.Generator().manual_seed(0))
    save_vector(SteeringVector.from_directions({20: direction}), "v", workspace=empty_session.workspace)

    lists = told("v")

    written = {piece for _, ids in lists for piece in tokenizer.convert_ids_to_tokens(ids)}
    assert any("Ġ" in piece for piece in written)
    for texts, ids in lists:
        assert not any(stand_in in text for text in texts for stand_in in "ĠĊ½Ŀ")
        assert len(texts) == len(ids) > 3
        for text, token in zip(texts, ids, strict=True):
            alone = tokenizer.decode([token])
            assert text == alone or "\\x" in text or text.startswith(f"{alone} <")
    assert any(r"\x" in text for texts, _ in lists for text in texts) or told in (analyzed, next_tokens)
