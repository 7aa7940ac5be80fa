"""How well patches that gradients estimate agree with exact ones, on pairs of chats of the bundled model.

    python benchmarks/attribution.py [TRAIT ...] [--pairs N]

Each pair are two chats whose first answers show a trait and its opposite; of unequal ones the longer answer is cut at
its end. Printed are, over layers and tokens, the least and the median of the pairs' correlations.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch
from scipy.stats import spearmanr

from steer_tools import load_model
from steer_tools.bundled_model.language import TRAITS, contrast_pairs
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.inspection.patching import LogOdds, Pair, attribute, patch
from steer_tools.prompts import ChatPrompt, TokenPrompt, parse_prompt
from steer_tools.session.session import current_session

torch.set_num_threads(1)


def pairs_of(engine: Engine, trait: str, count: int) -> list[Pair]:
    """Return pairs of equal length: both first answers to a question, then another question."""
    found: list[Pair] = []
    items = trait_behavior(trait, items=count, seed=3).items
    for (prompt, positive, negative), item in zip(contrast_pairs(trait, count, seed=2), items, strict=True):
        assert isinstance(item.prompt, ChatPrompt)
        question = {"role": "user", "content": item.prompt.messages[-1][1]}
        sides = [
            list(engine.tokenize(parse_prompt([*prompt, {"role": "assistant", "content": reply}, question])).tokens)
            for reply in (positive, negative)
        ]
        shortest = min(map(len, sides))
        alike = next(i for i in range(shortest) if sides[0][-1 - i] != sides[1][-1 - i])
        sides = [own[: shortest - alike] + own[len(own) - alike :] for own in sides]
        found.append(Pair(*(TokenPrompt(tuple(own)) for own in sides), LogOdds(item.positive, item.negative)))
    return found


def one_slope(engine: Engine, pair: Pair, sites: list[Site]) -> np.ndarray:
    """Estimate patches by the gradient at the target alone, as the first attribution patching did."""
    source, target = engine.trace([pair.source, pair.target], sites)
    assert isinstance(pair.answer, LogOdds)
    completions = [pair.answer.positive, pair.answer.negative]
    positive, negative = engine.gradients([Row(pair.target)] * 2, completions, sites)
    length = len(target[sites[0]])
    return torch.stack(
        [
            ((source[s] - target[s]) * (positive.by_site[s][:length] - negative.by_site[s][:length])).sum(dim=1)
            for s in sites
        ]
    ).numpy()


def main() -> None:
    """Print a line a trait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traits", nargs="*", default=list(TRAITS), choices=TRAITS, metavar="TRAIT")
    parser.add_argument("--pairs", type=int, default=6)
    asked = parser.parse_args()
    load_model("bundled")
    engine = current_session().engine
    sites = [Site(layer) for layer in engine.info.steerable_layers]
    print("trait          one slope      gradient       Spearman       CPU, of exact patches'")
    for trait in asked.traits:
        slopes, estimates, ranks, costs = [], [], [], []
        for pair in pairs_of(engine, trait, asked.pairs):
            started = time.process_time()
            exact = patch(engine, pair, sites).effects.ravel()
            between = time.process_time()
            estimate = attribute(engine, pair, sites).effects.ravel()
            costs.append((time.process_time() - between) / (between - started))
            slopes.append(np.corrcoef(exact, one_slope(engine, pair, sites).ravel())[0, 1])
            estimates.append(np.corrcoef(exact, estimate)[0, 1])
            ranks.append(spearmanr(exact, estimate).statistic)
        columns = "   ".join(f"{min(own):5.2f}, {median(own):5.2f}" for own in (slopes, estimates, ranks))
        print(f"{trait:<13}{columns}   {median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})", flush=True)


if __name__ == "__main__":
    main()
