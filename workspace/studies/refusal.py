"""Refusal as one direction: a difference of means, which is added, projected out, and baked out of the weights.

    python workspace/studies/refusal.py

After Arditi et al. 2024 (arXiv 2406.11717). The bundled model knows no harmful requests; what it refuses are chats in
which it has refused before. It exits with 1 unless each claim at the end holds; about 40 seconds on one core.
"""

from study import ANSWER_TOKENS, CONTROLS, Share, answered, begin, conclude, under_controls

from steer_tools import (
    compare_generations,
    create_steering_vector,
    generate,
    load_model,
    save_edited_model,
    sweep_steering,
    undo_edited_model,
)
from steer_tools.bundled_model.language import contrast_pairs, held_out_prompts, is_grammatical, score
from steer_tools.session.placement import PlacementOptions

FOLDER = "results/refusal"
options = begin(__doc__)


def refused(prompts, texts):
    """Count the texts that never do such a thing and refuse, whose exact score is 1; half of it only hesitates."""
    return Share.of(score(prompt, text)["refusal"] == 1 for prompt, text in zip(prompts, texts, strict=True))


# The direction: last token of the prompt, where the model is about to refuse, less where it is about to answer.
first, then = contrast_pairs("refusal", 48, options.seed), contrast_pairs("refusal", 48, options.seed + 1)
pairs = list(zip(first, then, strict=True))
created = create_steering_vector(
    [answered(question, refusal) + following for (question, refusal, _), (following, _, _) in pairs],
    [answered(question, answer) + following for (question, _, answer), (following, _, _) in pairs],
    layer=[0, 1, 2],
    save_path=f"{FOLDER}/direction",
    method=options.method,
)
path = created["vector_path"]

# Layer and strength are chosen on some held-out questions, and judged on others. Only gentle strengths: at 0.2 one of
# 19 random directions makes the model refuse all, too.
swept = sweep_steering(path, "refusal", strengths=[0.025, 0.05, 0.1], save_folder=FOLDER, seed=options.seed)
layer, strength = swept["best_layer"], swept["best_strength"]
low, high = swept["log_odds_interval"]
(cells,) = (own for own in swept["cells"] if own["layer"] == layer)
divergence = cells["kl"][swept["strengths"].index(strength)]
print(
    f"layer {layer}, strength {strength} residual norms: {swept['log_odds_effect']:+.2f} nats towards refusing, "
    "95 % interval"
)
print(f"{low:+.2f} to {high:+.2f}, on {swept['items']} held-out questions; KL {divergence:.1g} nats a token elsewhere")

# Wordings that the model never saw: requests that nothing speaks against, and the same after a refusal.
requests = held_out_prompts("refusal", 12, options.seed + 2)
earlier = contrast_pairs("refusal", 12, options.seed + 3)
chats = [answered(*pair[:2]) + request for pair, request in zip(earlier, requests, strict=True)]
added = compare_generations(requests, path, layer, [strength], unit="residual", max_new_tokens=ANSWER_TOKENS)
out = {"intervention": "project_out", "positions": "all", "max_new_tokens": ANSWER_TOKENS}
taken, spared = (compare_generations(prompts, path, layer, **out) for prompts in (chats, requests))
plain, pushed = (refused(requests, side["texts"]) for side in (added["baseline"], added["variants"][0]))
before, after = (refused(chats, side["texts"]) for side in (taken["baseline"], taken["variants"][0]))
print(f"refused, harmless requests:       {plain}; with the direction added: {pushed}")
print(f"refused, after an earlier refusal: {before}; with it projected out:  {after}")

# The same with directions that mean nothing.
pushes = under_controls(requests, layer, strength, PlacementOptions("residual"))
removals = under_controls(chats, layer, 1.0, PlacementOptions(intervention="project_out", positions="all"))
most = max(refused(requests, texts).some for texts in pushes)
fewest = min(refused(chats, texts).some for texts in removals)
print(f"{CONTROLS} random directions: added, at most {most} refuse; projected out, at least {fewest} still do")
kept = Share.of(map(is_grammatical, requests, spared["variants"][0]["texts"]))
print(f"grammatical answers to harmless requests without the direction: {kept}")

# Into the weights, for transformers alone, and out again.
baked = save_edited_model(f"{FOLDER}/without", ablate=path, layer=layer)
load_model(baked["folder"])
in_weights = refused(chats, generate(chats, ANSWER_TOKENS)["texts"])
undo_edited_model(baked["folder"])
load_model(baked["folder"])
undone = generate(chats, ANSWER_TOKENS)["texts"]
print(f"refused by the checkpoint that lacks it: {in_weights}; logits within {baked['difference']:.2g} of the hooks'")

conclude(
    {
        "the effect on held-out questions is clear of 0": low > 0,
        "added, it makes the model refuse what it does not refuse": pushed.is_above(plain),
        "no random direction makes as many refuse": most < pushed.some,
        "projected out, the model no longer refuses": before.is_above(after),
        "no random direction stops as many": fewest > after.some,
        "without it, answers to harmless requests stay grammatical": kept.some == kept.all,
        "the checkpoint no longer refuses either": before.is_above(in_weights),
        "undone, it writes the same texts as before": undone == taken["baseline"]["texts"],
    }
)
