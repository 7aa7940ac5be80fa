"""rotalabs-steer extracts, saves and steers; run in an environment with rotalabs-steer."""

from __future__ import annotations

from typing import Any

from material import FILES, OPENINGS, PAIRS, continuation, load_in_float32, model_folder, record
from rotalabs_steer import ActivationInjector, SteeringVectorSet
from rotalabs_steer.extraction.caa import extract_caa_vectors

LAYER = 3
SET_LAYERS = (1, 3, 5)
STRENGTHS = (-2.0, 2.0)


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    pairs = [{"positive": positive, "negative": negative} for positive, negative in PAIRS]
    vectors = list(extract_caa_vectors(model, tokenizer, pairs, list(range(model.config.num_hidden_layers))))
    for vector in vectors:
        vector.behavior, vector.model_name = "happy", folder.name  # It would name the folder's whole path.
        vector.metadata["created_at"] = "2026-01-01T00:00:00"  # The same file at each run.
    SteeringVectorSet("happy", [vectors[layer] for layer in SET_LAYERS]).save(FILES / "rotalabs_set")
    vectors[LAYER].save(FILES / "rotalabs_single")

    continuations: list[dict[str, Any]] = []
    for opening in OPENINGS:
        for strength in (0.0, *STRENGTHS):
            with ActivationInjector(model, [vectors[LAYER]], strength=strength, injection_mode="all"):
                tokens = continuation(model, tokenizer, opening)
            continuations.append({"opening": opening, "layers": [LAYER], "strength": strength, "tokens": tokens})

    record(
        "rotalabs",
        ("rotalabs-steer", "torch", "transformers"),
        folder,
        {"caa": {vector.layer_index: vector.vector for vector in vectors}},
        tokenizer=tokenizer,
        continuations=continuations,
    )


if __name__ == "__main__":
    main()
