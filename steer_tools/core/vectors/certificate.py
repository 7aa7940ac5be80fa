"""What an experiment proved of a vector: the cell, the figures, and what it takes to measure them anew.

It must not know how a certificate is sealed, nor files, models or experiments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from steer_tools.core.site import Component

# What a strength of 1 is: what the file holds, one mean difference, or the model's typical norm at the site.
Unit: TypeAlias = Literal["vector", "contrast", "residual"]
Verdict: TypeAlias = Literal[
    "works", "ranks, does not write", "breaks the model", "indistinguishable from random", "cannot tell"
]
# The verdict of a vector that does what it is for.
WORKS: Verdict = "works"
_MODEL = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ChosenCell(BaseModel):
    """Where and how strongly an experiment chose to add a vector: what is taken where a caller does not say."""

    model_config = _MODEL

    layer: int = Field(ge=0)
    strength: float
    unit: Unit
    positions: str


class ProvedControls(BaseModel):
    """How many control directions were written under, how many have the effect, and the largest effect of them."""

    model_config = _MODEL

    count: int = Field(ge=1)
    reached: int = Field(ge=0)
    largest: float


class ProvedTexts(BaseModel):
    """What the texts of a cell showed, as an experiment's result gives it.

    Attributes:
        digest: SHA-256 of the texts themselves: unsteered, steered and opposite ones.
        prompts: How many were written to.
        whole: The share of the steered texts that is not broken; `variety` and `relevance` are shares of the unsteered
            texts' own.
        failures: Why the steered texts are none to judge by; empty where they are.
    """

    model_config = _MODEL

    digest: str
    prompts: int = Field(ge=1)
    effect: float
    interval: tuple[float, float] | None
    own_effect: float
    controls: ProvedControls | None
    whole: float
    variety: float | None
    relevance: float | None
    failures: tuple[str, ...]


class Certificate(BaseModel):
    """What was proved of a vector, and what it takes to measure it anew; the cell and the model stand beside it.

    Attributes:
        verdict: The experiment's.
        direction: Whether more of the behaviour was wanted, or less.
        dataset: The behaviour's name, or its file.
        data: SHA-256 of the behaviour's pairs, items and questions.
        asked: SHA-256 of the tokens of the questions as the model was asked them.
        seed: Of all that was drawn.
        text_tokens: The most new tokens of a text.
        controls: How many control directions were to be drawn.
        d_prime: How well texts are told apart; None where nothing tells them.
        texts: None where texts could not decide; `without_texts` says why.
        versions: Of what computed it.
        device: Where, in which dtype.
        vector: SHA-256 of the direction at the cell.
        seal: SHA-256 of all of this, of the cell, and of which model it is.
    """

    model_config = _MODEL

    verdict: Verdict
    direction: Literal["more", "less"]
    dataset: str
    data: str
    asked: str
    seed: int
    text_tokens: int = Field(ge=1)
    controls: int = Field(ge=1)
    d_prime: float | None
    texts: ProvedTexts | None
    without_texts: str | None
    versions: dict[str, str]
    device: str
    vector: str = ""
    seal: str = ""


@dataclass(frozen=True)
class Proof:
    """A certificate as the vector that holds it bears it out.

    Attributes:
        component: What is edited at the cell.
        altered: What of the vector is not what was sealed; None where all is.
    """

    certificate: Certificate
    cell: ChosenCell
    component: Component
    fingerprint: str
    template_options: Mapping[str, Any]
    altered: str | None
