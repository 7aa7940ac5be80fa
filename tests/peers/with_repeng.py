"""repeng trains, saves and steers; run in an environment with repeng."""

from __future__ import annotations

from typing import Any

from material import FILES, OPENINGS, PAIRS, continuation, load_in_float32, model_folder, record
from repeng import ControlModel, ControlVector, DatasetEntry

STRENGTHS = (-0.3, 0.3, 0.6)
METHODS = ("pca_diff", "pca_center")


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    entries = [DatasetEntry(positive=positive, negative=negative) for positive, negative in PAIRS]
    vectors = {m: ControlVector.train(model, tokenizer, entries, method=m) for m in METHODS}
    for method, vector in vectors.items():
        vector.export_gguf(FILES / f"repeng_{method}.gguf")

    layers = sorted(vectors["pca_diff"].directions)
    steered = ControlModel(model, layers)
    continuations: list[dict[str, Any]] = []
    for opening in OPENINGS:
        for strength in (0.0, *STRENGTHS):
            steered.set_control(vectors["pca_diff"], strength)
            tokens = continuation(steered, tokenizer, opening)
            continuations.append({"opening": opening, "layers": layers, "strength": strength, "tokens": tokens})

    record(
        "repeng",
        ("repeng", "gguf", "torch", "transformers", "scikit-learn", "numpy"),
        folder,
        {method: vector.directions for method, vector in vectors.items()},
        tokenizer=tokenizer,
        continuations=continuations,
    )


if __name__ == "__main__":
    main()
