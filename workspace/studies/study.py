"""What the three studies share: their options, shares with intervals, random directions, and an honest exit code."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from steer_tools import SteeringVector, load_model
from steer_tools.engines.base import Row, Sampling
from steer_tools.evaluation.intervals import share_interval
from steer_tools.prompts import parse_prompts
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

# None of so many random directions does as much: p = 1 / 20.
CONTROLS = 19
# The longest answer of the bundled language is shorter.
ANSWER_TOKENS = 128


@dataclass(frozen=True)
class Options:
    """What a study was asked for; with `is_control` its vector is a random one, so that its claims must fail."""

    is_control: bool
    seed: int

    @property
    def method(self) -> str:
        """How vectors are made."""
        return "random" if self.is_control else "mean_difference"


def begin(about: str | None) -> Options:
    """Read the options, and load the bundled model."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--workspace", default=str(Path(__file__).parents[1]), help="where files are written")
    parser.add_argument("--control", action="store_true", help="use a random vector: the study must then fail")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    current_session().workspace = Workspace(asked.workspace)
    load_model("bundled")
    return Options(asked.control, asked.seed)


@dataclass(frozen=True)
class Share:
    """Some of several independent texts, with the 95 % interval of their share (Wilson 1927)."""

    some: int
    all: int

    @classmethod
    def of(cls, values: Iterable[bool]) -> "Share":
        """Count what is true."""
        listed = list(values)
        return cls(sum(listed), len(listed))

    def is_above(self, other: "Share") -> bool:
        """Whether this share's interval lies wholly above the other's."""
        return share_interval(self.some, self.all).low > share_interval(other.some, other.all).high

    def __str__(self) -> str:
        low, high = share_interval(self.some, self.all)
        return f"{self.some:2} of {self.all} ({low:4.0%} to {high:4.0%})"


def under_controls(
    prompts: list[list[dict[str, str]]], layer: int, strength: float, options: PlacementOptions
) -> list[list[str]]:
    """Return the texts that each of CONTROLS random directions makes of the prompts, all in one batch."""
    session, asked = current_session(), parse_prompts(prompts)
    rows: list[Row] = []
    for seed in range(CONTROLS):
        direction = torch.randn(session.engine.info.hidden_size, generator=torch.Generator().manual_seed(seed))
        placed = place(session, SteeringVector.from_directions({layer: direction}), layer, options)
        rows += [Row(prompt, placed.plan(strength)) for prompt in asked]
    texts = [made.text for made in session.engine.generate(rows, Sampling(ANSWER_TOKENS))]
    return [texts[start : start + len(asked)] for start in range(0, len(texts), len(asked))]


def answered(question: list[dict[str, str]], answer: str) -> list[dict[str, str]]:
    """Return a chat with its answer."""
    return [*question, {"role": "assistant", "content": answer}]


def conclude(claims: Mapping[str, bool]) -> None:
    """Print which claims hold, and exit with 1 unless all do."""
    print("\nClaims")
    for claim, holds in claims.items():
        print(f"  {'holds' if holds else 'FAILS'}  {claim}")
    raise SystemExit(0 if all(claims.values()) else 1)
