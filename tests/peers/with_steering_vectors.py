"""steering-vectors trains and steers; run in an environment with steering-vectors.

It has no file of its own: its users pickle the object, which is never read here, or save its tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from material import FILES, OPENINGS, PAIRS, continuation, load_in_float32, model_folder, record
from steering_vectors import SteeringVector, pca_aggregator, train_steering_vector

LAYER = 3
STRENGTHS = (-2.0, 2.0)


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    mean = train_steering_vector(model, tokenizer, list(PAIRS))
    batched = train_steering_vector(model, tokenizer, list(PAIRS), batch_size=len(PAIRS))
    principal = train_steering_vector(model, tokenizer, list(PAIRS), aggregator=pca_aggregator())
    torch.save(mean, FILES / "steering_vectors_object.pt")
    torch.save(mean.layer_activations, FILES / "steering_vectors_layer_activations.pt")

    continuations: list[dict[str, Any]] = []
    for layers in ([LAYER], sorted(mean.layer_activations)):
        vector = SteeringVector({layer: mean.layer_activations[layer] for layer in layers})
        # Six layers at once add up: a smaller strength keeps the text.
        for strength in (0.0, *(s / len(layers) for s in STRENGTHS)):
            for opening in OPENINGS:
                with vector.apply(model, multiplier=strength):
                    tokens = continuation(model, tokenizer, opening)
                continuations.append({"opening": opening, "layers": layers, "strength": strength, "tokens": tokens})

    record(
        "steering_vectors",
        ("steering-vectors", "torch", "transformers", "numpy"),
        folder,
        {
            "mean": mean.layer_activations,
            "mean_batched": batched.layer_activations,
            "pca": principal.layer_activations,
        },
        tokenizer=tokenizer,
        continuations=continuations,
    )


if __name__ == "__main__":
    main()
