"""dialz trains and saves; run in an environment with dialz."""

from __future__ import annotations

from dialz import Dataset, SteeringModel, SteeringVector
from material import FILES, PAIRS, load_in_float32, model_folder, record

METHODS = ("pca", "pca_center", "mean_diff")


def main() -> None:
    folder = model_folder()
    dataset = Dataset()
    for positive, negative in PAIRS:
        dataset.add_entry(positive, negative)
    # It loads every model in float16; these weights are float16, so that only the arithmetic changes below.
    model = SteeringModel(str(folder), layer_ids=[])
    in_float16 = SteeringVector.train(model, dataset, method="mean_diff")
    model = model.float()
    vectors = {method: SteeringVector.train(model, dataset, method=method) for method in METHODS}
    vectors["mean_diff"].export_gguf(FILES / "dialz_mean_diff.gguf")
    record(
        "dialz",
        ("dialz", "gguf", "torch", "transformers", "scikit-learn", "numpy"),
        folder,
        {
            **{method: vector.directions for method, vector in vectors.items()},
            "mean_diff_float16": in_float16.directions,
        },
        tokenizer=load_in_float32(folder)[1],
    )


if __name__ == "__main__":
    main()
