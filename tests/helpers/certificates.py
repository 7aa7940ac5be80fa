"""Certificates as an experiment would write them, without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from steer_tools import create_steering_vector, load_vector, save_vector
from steer_tools.core.vectors import Certificate, ChosenCell, ProvedControls, ProvedTexts, SteeringVector, certified
from steer_tools.session.session import Session

CELL = ChosenCell(layer=2, strength=0.25, unit="residual", positions="all")
TEXTS = ProvedTexts(
    digest="0",
    prompts=16,
    effect=0.62,
    interval=(0.48, 0.75),
    own_effect=0.6,
    controls=ProvedControls(count=19, reached=0, largest=0.1),
    whole=1.0,
    variety=1.0,
    relevance=None,
    failures=(),
)


def certificate(**changed: Any) -> Certificate:
    """Return a certificate of a vector that works, but for what is changed."""
    known: dict[str, Any] = {
        "verdict": "works",
        "direction": "more",
        "dataset": "liking.json",
        "data": "1",
        "asked": "2",
        "seed": 0,
        "text_tokens": 8,
        "controls": 19,
        "d_prime": 3.0,
        "texts": TEXTS,
        "without_texts": None,
        "versions": {},
        "device": "cpu, float32",
    }
    return Certificate(**{**known, **changed})


def with_certificate(vector: SteeringVector, proved: Certificate | None = None) -> SteeringVector:
    """Return a vector that has CELL and a sealed certificate."""
    known = replace(vector, info=vector.info.model_copy(update={"chosen": CELL}))
    return certified(known, proved or certificate())


def certified_file(session: Session, name: str = "proved", proved: Certificate | None = None) -> str:
    """Make a vector on the session's model, and save it with a certificate."""
    words = ["baba", "keke", "lili", "momo", "nunu", "rara", "sese", "titi"]
    sides = [[f"{word} {end}" for word in words] for end in ("baba", "zuzu")]
    made = create_steering_vector(*sides, [1, 2], f"plain_{name}")
    vector = with_certificate(load_vector(made["vector_path"]), proved)
    return str(save_vector(vector, session.workspace.root / f"{name}.safetensors"))
