"""nnsight reads block outputs, and the mean difference is taken by hand; run in an environment with nnsight."""

from __future__ import annotations

import torch
from material import PAIRS, load_in_float32, model_folder, record
from nnsight import TransformersModel
from torch import Tensor


def last_block_outputs(traced: TransformersModel, text: str) -> list[Tensor]:
    """Return, for each block, its output (width,) at the last token of `text`."""
    saved: list[Tensor] = []
    # nnsight rewrites the source of this block, and knows no second context in it.
    with traced.trace(text):
        for block in traced.model.layers:
            saved.append(block.output.save())
    return [output.detach()[0, -1] for output in saved]


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    traced = TransformersModel(model, task="text-generation", tokenizer=tokenizer)
    by_pair = [[torch.stack(last_block_outputs(traced, text)) for text in pair] for pair in PAIRS]
    difference = torch.stack([positive - negative for positive, negative in by_pair]).mean(dim=0)
    record(
        "nnsight",
        ("nnsight", "torch", "transformers"),
        folder,
        {"mean_by_hand": dict(enumerate(difference))},
        tokenizer=tokenizer,
    )


if __name__ == "__main__":
    main()
