"""vllm-lens puts vectors into its wire form; run in an environment with vllm-lens alone, without vLLM.

The numbers are those that steering-vectors trained, so that script runs before this one.
"""

from __future__ import annotations

import json

import torch
from material import FILES, model_folder, record
from vllm_lens import SteeringVector

SCALE = 2.0


def main() -> None:
    trained = json.loads((FILES / "numbers" / "steering_vectors.json").read_text(encoding="utf-8"))["directions"][
        "mean"
    ]
    layers = [1, 3]
    stack = torch.tensor([trained[str(layer)] for layer in layers])
    vectors = {
        "plain": SteeringVector(activations=stack, layer_indices=layers),
        "scaled": SteeringVector(activations=stack, layer_indices=layers, scale=SCALE),
        "bfloat16": SteeringVector(activations=stack.bfloat16(), layer_indices=layers),
        "norm_match": SteeringVector(activations=stack, layer_indices=layers, norm_match=True),
        "positions": SteeringVector(
            activations=stack[:, None].repeat(1, 2, 1), layer_indices=layers, position_indices=[0, 2]
        ),
    }
    for name, vector in vectors.items():
        (FILES / f"vllm_lens_{name}.json").write_text(vector.model_dump_json() + "\n", encoding="utf-8")
    plain = {name: dict(zip(layers, vectors[name].activations.float(), strict=True)) for name in ("plain", "bfloat16")}
    record("vllm_lens", ("vllm-lens", "pydantic", "torch"), model_folder(), plain)


if __name__ == "__main__":
    main()
