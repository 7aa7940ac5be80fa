"""A vector of unknown origin: what does it do? Four witnesses who do not know its name, and a random vector beside it.

    python workspace/studies/what_does_this_vector_do.py

The script draws one of seven traits, makes its vector under a name that says nothing, and asks. It exits with 1 unless
each claim at the end holds; about 30 seconds on one core.
"""

import random
from statistics import fmean

import torch
from study import ANSWER_TOKENS, CONTROLS, answered, begin, conclude, under_controls

from steer_tools import (
    analyze_steering_vector,
    compare_generations,
    create_steering_vector,
    load_vector,
    patch_activations,
    save_vector,
    SteeringVector,
)
from steer_tools.bundled_model.language import TRAITS, contrast_pairs, held_out_prompts, score
from steer_tools.placing import PlacementOptions
from steer_tools.vectors import cosines

FOLDER, LAYER, STRENGTH = "results/unknown", 1, 0.1
options = begin(__doc__)


def vector_of(trait, seed, path):
    """Make a trait's vector."""
    pairs = contrast_pairs(trait, 64, seed)
    shows, lacks = [answered(c, own) for c, own, _ in pairs], [answered(c, other) for c, _, other in pairs]
    return load_vector(create_steering_vector(shows, lacks, LAYER, path, pooling="response")["vector_path"])


def shift(prompts, towards, away):
    """Return by how much the exact score of each trait differs between two sets of texts."""
    ends = [[score(p, t) for p, t in zip(prompts, texts, strict=True)] for texts in (towards, away)]
    return {trait: fmean(one[trait] for one in ends[0]) - fmean(one[trait] for one in ends[1]) for trait in TRAITS}


def strongest(by_trait):
    """Return the trait with the largest absolute value."""
    return max(by_trait, key=lambda trait: abs(by_trait[trait]))


# Somebody leaves a file. Pairs of its own: none of them makes a vector below.
secret = random.Random(options.seed).choice(TRAITS)
unknown = f"{FOLDER}/unknown.safetensors"
left = vector_of(secret, options.seed + 100, unknown)
if options.is_control:
    meaningless = torch.randn(len(left.directions[LAYER]), generator=torch.Generator().manual_seed(options.seed))
    left = SteeringVector.from_directions({LAYER: meaningless * left.magnitude(LAYER) / meaningless.norm()})
    save_vector(left, f"{FOLDER}/unknown")
