"""What was baked and how it was proved → the model card that lies beside the checkpoint."""

from pathlib import Path

from steer_tools.weights.bakeable_plans import Ablation, Addition, Bakeable
from steer_tools.weights.checkpoints import UNDO
from steer_tools.weights.proof import Proof


def card_of(model_name: str, kind: Bakeable, source: str, proof: Proof) -> str:
    """Return the card in Markdown; `source` names the vectors."""
    match kind:
        case Addition(by_site):
            what = f"A vector is added to every token at {', '.join(map(str, by_site))}, as biases."
        case Ablation():
            what = "One direction is projected out of everything that is written to the residual stream."
    return f"""---
library_name: transformers
tags: [steering, steer-tools]
---

# {Path(model_name).name}, edited

{what} From: {source}.

The edit is in the weights: `AutoModelForCausalLM.from_pretrained` needs nothing else. Compared with the model under
the same edit by hooks, on {proof.prompts} prompts:

- {proof.same_tokens} greedy continuations are the same;
- logits differ by at most {proof.difference:.3g} (accepted: {proof.tolerance:.3g});
- from the unedited model's they differ by up to {proof.effect:.3g}.

`{UNDO}` holds what was changed: `steer-tools undo FOLDER` gives every weight its own bits again.

Texts of this model are steered: say so where you show them.
"""
