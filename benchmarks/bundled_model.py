"""Measures the bundled model: `python benchmarks/bundled_model.py [CHECKPOINT]` prints the table of its model card."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch

from steer_tools import bundled_model, load_vector
from steer_tools.bundled_model.language import TRAITS, contrast_pairs, held_out_prompts, score
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.cli.demo import ANSWER_TOKENS, study_trait
from steer_tools.cli.demo_report import Dose, Study
from steer_tools.session.session import current_session
from steer_tools.tools import generate, load_model
from steer_tools.workspace import Workspace

STRENGTHS = (-1.0, -0.5, -0.25, -0.1875, -0.125, -0.0625, 0.0625, 0.125, 0.1875, 0.25, 0.5, 1.0)
READABLE = 0.95
CHOOSING_PROMPTS, PROMPTS = 24, 64


def choose_layer(trait: str) -> int:
    """Return the block before the last at which half a contrast does most both ways, on prompts of the training set."""
    prompts = [prompt for prompt, _, _ in contrast_pairs(trait, CHOOSING_PROMPTS, seed=1)]

    def weaker_end(layer: int) -> float:
        low, high = study_trait(trait, layer, f"choosing/{trait}", (-0.5, 0.5), prompts).ends
        return min(-low.mean(trait), high.mean(trait))

    return max(range(current_session().engine.info.layers - 1), key=weaker_end)


def context_follow(trait: str) -> float:
    """Return the mean score of a second answer after a first that shows the trait fully, in that one's direction."""
    questions = held_out_prompts(trait, PROMPTS, seed=2)
    asked, signs = [], []
    for (prompt, positive, negative), question in zip(contrast_pairs(trait, PROMPTS, seed=2), questions, strict=True):
        for reply, sign in ((positive, 1), (negative, -1)):
            asked.append([*prompt, {"role": "assistant", "content": reply}, *question])
            signs.append(sign)
    texts = generate(asked, max_new_tokens=ANSWER_TOKENS)["texts"]
    return fmean(sign * score(chat, text)[trait] for chat, text, sign in zip(asked, texts, signs, strict=True))


def random_cosine(trait: str, vector: Study, count: int = 16) -> float:
    """Return the largest |cosine| of random directions with the planted one."""
    planted = load_planted_directions()
    width = load_vector(vector.created["vector_path"]).width
    directions = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return max(abs(planted.cosine(trait, direction)) for direction in directions)


def is_graded(dose: Dose, trait: str) -> bool:
    """Say whether a dose between -1 and 1 leaves readable text strictly between the ends."""
    is_between = 0 < abs(dose.strength) < 1 and abs(dose.mean(trait)) < 0.9
    return is_between and (dose.grammatical or 0.0) >= READABLE


def measure(trait: str) -> dict[str, object]:
    """Return a trait's row."""
    layer = choose_layer(trait)
    study = study_trait(trait, layer, f"chosen/{trait}", STRENGTHS, held_out_prompts(trait, PROMPTS))
    scores = {dose.strength: dose.mean(trait) for dose in study.doses}
    halves = [dose for dose in study.doses if abs(dose.strength) == 0.5]
    others = [abs(d.mean(name) - study.baseline.mean(name)) for d in halves for name in study.other_names()]
    return {
        "trait": trait,
        "layer": layer,
        "baseline": study.baseline.mean(trait),
        "at -0.5": scores[-0.5],
        "at +0.5": scores[0.5],
        "grammatical": min(dose.grammatical or 0.0 for dose in halves),
        "others moved": fmean(others),
        "graded": sum(is_graded(dose, trait) for dose in study.doses),
        "context follow": context_follow(trait),
        "cosine": study.planted_cosine,
        "random cosine": random_cosine(trait, study),
        "curve": scores,
    }


def main() -> None:
    """Print one row a trait, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=bundled_model.CHECKPOINT)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    bundled_model.CHECKPOINT = options.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        current_session().workspace = Workspace(folder)
        started = time.perf_counter()
        load_model(bundled_model.NAME)
        print(f"loaded in {time.perf_counter() - started:.2f} s")
        rows = [measure(trait) for trait in TRAITS]
    columns = [name for name in rows[0] if name != "curve"]
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(f"{row[c]:+.2f}" if isinstance(row[c], float) else str(row[c]) for c in columns))
    for row in rows:
        print(row["trait"], " ".join(f"{strength:+g}:{value:+.2f}" for strength, value in row["curve"].items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
