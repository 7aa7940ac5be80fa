"""Contrastive activation addition on Llama 2 Chat 7B. NOT RUN HERE: this script's figures are not known yet.

    python workspace/reproductions/caa_llama2.py --data CAA/datasets

Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation Addition" (arXiv 2312.06681; code and data in
nrimsky/CAA). It needs a GPU with about 16 GB, the weights meta-llama/Llama-2-7b-chat-hf, which Meta gives to those who
accept its licence, and the paper's A/B questions, the folder `datasets` of the authors' repository. With --model and
--layer the tests run it to its end on a tiny model, which shows that it works and nothing about the paper.

Compare with the paper's figure of the effect at layer 13 of the 7B model by behaviour, multipliers -1 and 1: the mean
probability, of both letters' together, of the answer that matches the behaviour, on the held-out A/B questions. It must
fall below the unsteered one's with -1 and rise above it with 1.

What differs: the authors scale the vectors of their seven behaviours to one length at each layer before they use them.
With --all-behaviors this script does so, too; without, a multiplier means this behaviour's own mean difference. They
add it from the end of "[/INST]" on; here the scope after_user begins at the space before it, so that all tokens of
"[/INST]" are steered, too.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean

from steer_tools import create_steering_vector, load_model, load_vector, save_vector
from steer_tools.engines.base import Row
from steer_tools.evaluation.intervals import cluster_interval
from steer_tools.prompts import parse_prompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

MODEL, LAYER = "meta-llama/Llama-2-7b-chat-hf", 13
BEHAVIORS = (
    "sycophancy",
    "refusal",
    "hallucination",
    "corrigible-neutral-HHH",
    "coordinate-other-ais",
    "myopic-reward",
    "survival-instinct",
)
# Activations are read at the letter, the last token but the closing parenthesis, and answers begin before it.
OPENING = "("


def answer(record: dict[str, str], key: str) -> str:
    """Return an answer up to its letter, as "(A"."""
    return OPENING + record[key].strip().strip("()")


def read(file: Path, most: int | None) -> list[dict[str, str]]:
    """Return the first records of a file."""
    return json.loads(file.read_text(encoding="utf-8"))[:most]


def asked(question: str, reply: str, as_chat: bool):
    """Return a question with the beginning of its answer, by the chat template where there is one."""
    if not as_chat:
        return f"{question}\n{reply}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def matching_probabilities(session, plan, records) -> list[float]:
    """Return, for each question, p(matching letter) / (p(A) + p(B)) behind the opening parenthesis."""
    is_chat = session.engine.info.has_chat_template
    prompts = [parse_prompt(asked(own["question"], OPENING, is_chat)) for own in records for _ in range(2)]
    keys = ("answer_matching_behavior", "answer_not_matching_behavior")
    letters = [answer(own, key).removeprefix(OPENING) for own in records for key in keys]
    scores = [float(score.sum()) for score in session.engine.score([Row(p, plan) for p in prompts], letters)]
    return [1 / (1 + math.exp(other - own)) for own, other in zip(scores[::2], scores[1::2], strict=True)]


def main() -> None:
    """Print the probability of the matching answer, at each multiplier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder datasets of nrimsky/CAA")
    parser.add_argument("--behavior", choices=BEHAVIORS, default="sycophancy")
    parser.add_argument("--all-behaviors", action="store_true", help="make all seven vectors equally long")
    parser.add_argument("--multipliers", type=float, nargs="+", default=[-1.0, 1.0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--layer", type=int, default=LAYER)
    parser.add_argument("--device-map", default="auto", help="where the weights go (default: %(default)s)")
    parser.add_argument("--most", type=int, help="use only so many questions of each file")
    parser.add_argument("--workspace", default=str(Path(__file__).parents[1]))
    options = parser.parse_args()
    session = current_session()
    session.workspace = Workspace(options.workspace)
    load_model(options.model, device_map=options.device_map)
    is_chat = session.engine.info.has_chat_template

    lengths: dict[str, float] = {}
    for behavior in BEHAVIORS if options.all_behaviors else [options.behavior]:
        records = read(options.data / "generate" / behavior / "generate_dataset.json", options.most)
        sides = (
            [asked(own["question"], answer(own, key), is_chat) for own in records]
            for key in ("answer_matching_behavior", "answer_not_matching_behavior")
        )
        path = f"results/caa/{behavior}"
        made = create_steering_vector(*sides, options.layer, path, method="paired_mean_difference", pooling="last")
        lengths[made["vector_path"]] = made["magnitude"]
        if behavior == options.behavior:
            own = made["vector_path"]
    vector = load_vector(own) * (fmean(lengths.values()) / lengths[own])
    save_vector(vector, f"results/caa/{options.behavior}_scaled", workspace=session.workspace)

    records = read(options.data / "test" / options.behavior / "test_dataset_ab.json", options.most)
    # They add after the end of the instruction; of an answer that has begun, that is what follows the user's message.
    positions = "after_user" if is_chat else "generated"
    placed = place(session, vector, options.layer, PlacementOptions(positions=positions))
    groups = [record["question"] for record in records]
    for multiplier in sorted({0.0, *options.multipliers}):
        found = matching_probabilities(session, placed.plan(multiplier), records)
        interval = cluster_interval(found, groups)
        bounds = "" if interval is None else f", 95 % interval {interval.low:.3f} to {interval.high:.3f}"
        print(f"multiplier {multiplier:+.1f}: probability of the matching answer {fmean(found):.3f}{bounds}")


if __name__ == "__main__":
    main()
