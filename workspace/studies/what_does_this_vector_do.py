"""A vector of unknown origin: what does it do? Four witnesses who do not know its name, and a random vector beside it.

    python workspace/studies/what_does_this_vector_do.py

The script draws one of seven traits, makes its vector under a name that says nothing, and asks. It exits with 1 unless
each claim at the end holds; about 30 seconds on one core.
"""

import random
from statistics import fmean

import torch
from study import ANSWER_TOKENS, answered, begin, conclude, under_controls

from steer_tools import (
    SteeringVector,
    analyze_steering_vector,
    compare_generations,
    create_steering_vector,
    load_vector,
    save_vector,
)
from steer_tools.bundled_model.language import TRAITS, contrast_pairs, held_out_prompts, score
from steer_tools.core.vectors import cosines
from steer_tools.session.placement import PlacementOptions
from steer_tools.session.session import current_session

FEW = 6
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
    meaningless = torch.randn(len(left.directions[LAYER]), generator=torch.Generator().manual_seed(options.seed + 1000))
    left = SteeringVector.from_directions({LAYER: meaningless * left.magnitude(LAYER) / meaningless.norm()})
    save_vector(left, unknown, workspace=current_session().workspace)

# First witness: what it is like. Cosines with the vectors of all seven traits, beside those of 99 random directions: in
# 128 dimensions one of them may reach 0.3, and nineteen are too few to see it.
suspects = {trait: vector_of(trait, options.seed, f"{FOLDER}/suspects/{trait}") for trait in TRAITS}
analysis = analyze_steering_vector(unknown)
likeness = {trait: float(cosines([left, own], LAYER)[0, 1]) for trait, own in suspects.items()}
strangers = [torch.randn(len(left.directions[LAYER]), generator=torch.Generator().manual_seed(s)) for s in range(99)]
chance = max(
    abs(float(cosines([SteeringVector.from_directions({LAYER: stranger}), own], LAYER)[0, 1]))
    for stranger in strangers
    for own in suspects.values()
)
name = strongest(likeness)
print(f"like {name}: cosine {likeness[name]:+.2f}; of 99 random directions with any trait at most {chance:.2f}")
print("raises", ", ".join(list(analysis["observed"]["boosted"])[:6]), "| lowers", end=" ")
print(", ".join(list(analysis["observed"]["suppressed"])[:6]))

# Second witness: what texts turn into, by the exact score of each trait, from one sign to the other.
prompts = held_out_prompts("honesty", FEW, options.seed)
made = compare_generations(
    prompts, unknown, LAYER, [STRENGTH, -STRENGTH], unit="residual", max_new_tokens=ANSWER_TOKENS
)["variants"]
moved = shift(prompts, made[0]["texts"], made[1]["texts"])
ends = [under_controls(prompts, LAYER, sign * STRENGTH, PlacementOptions("residual")) for sign in (1, -1)]
by_chance = max(max(map(abs, shift(prompts, *texts).values())) for texts in zip(*ends, strict=True))
print(
    f"texts move most in {strongest(moved)}: {moved[strongest(moved)]:+.2f} of 2; by a random direction {by_chance:.2f}"
)

# Third witness: where texts show that trait and its opposite, which of them lie along the vector.
(question, shows, lacks), *_ = contrast_pairs(name, 1, options.seed + 200)
projected = analyze_steering_vector(unknown, texts=[shows, lacks], save_folder=FOLDER)
along, against = (fmean(v for v in text["values"] if v is not None) for text in projected["projections"])
print(f"projection of a reply that shows {name}: {along:+.1f}; of its opposite: {against:+.1f}")
print(f"picture: {projected['picture_path']}")

# Fourth witness: what is lost without it, in chats that have shown the trait before.
earlier = contrast_pairs(name, FEW, options.seed + 300)
chats = [answered(*pair[:2]) + prompt for pair, prompt in zip(earlier, prompts, strict=True)]
without = compare_generations(
    chats, unknown, LAYER, intervention="project_out", positions="all", max_new_tokens=ANSWER_TOKENS
)
before, after = without["baseline"]["texts"], without["variants"][0]["texts"]
lost = shift(chats, before, after)[name]
out = PlacementOptions(intervention="project_out", positions="all")
lost_by_chance = max(shift(chats, before, texts)[name] for texts in under_controls(chats, LAYER, 1.0, out))
print(f"without it these chats lose {lost:+.2f} of {name}; without a random direction at most {lost_by_chance:+.2f}")
witnesses = {
    "it is more like one trait than any random direction is like any": abs(likeness[name]) > chance,
    "texts move more than under any random direction": abs(moved[strongest(moved)]) > by_chance,
    "and in the trait that it is like": strongest(moved) == name,
    "a text that shows the trait lies further along it than its opposite": along > against,
    "without it the trait is lost more than without any random direction": lost > lost_by_chance,
}
named = name if all(witnesses.values()) else None
print(f"\nThe witnesses name {named or 'no trait'}; hidden was {'nothing' if options.is_control else secret}.")

conclude(witnesses | {"it is the trait that was hidden": named == secret and not options.is_control})
