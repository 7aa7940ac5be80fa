"""Files as the code of CAA, persona_vectors and EasySteer saves them; run in the environment of repeng.

These three are repositories, not packages, so their reading and saving is done over again here: which tokens are read,
what is stacked, which keys are written.
"""

from __future__ import annotations

from typing import Any

import gguf
import torch
from material import FILES, PAIRS, load_in_float32, model_folder, record
from torch import Tensor

HAPPY, SAD = "This is a happy story.", "This is a sad story."


def main() -> None:
    folder = model_folder()
    model, tokenizer = load_in_float32(folder)
    layers = range(model.config.num_hidden_layers)

    # CAA (nrimsky/CAA, generate_vectors.py): block outputs at the token before the last, one file a layer.
    caa = dict(enumerate(_mean_difference(model, tokenizer, -2)))
    caa[layers[-1]] = caa[layers[-1]].half()  # Its larger models run in float16.
    for layer in (0, 3, layers[-1]):
        torch.save(caa[layer].clone(), FILES / f"vec_layer_{layer}_{folder.name}.pt")

    # persona_vectors (safety-research, generate_vec.py): hidden states, means over the response, embeddings in row 0.
    sides = [[(HAPPY, f" {text}") for text, _ in PAIRS], [(SAD, f" {text}") for _, text in PAIRS]]
    happy, sad = (torch.stack([_response_mean(model, tokenizer, *one) for one in side]).mean(dim=0) for side in sides)
    persona = happy - sad
    torch.save(persona, FILES / "happy_response_avg_diff.pt")

    # EasySteer (ZJU-REAL/EasySteer, StatisticalControlVector.export_gguf): repeng's file with a method and a layer 0.
    easysteer = dict(enumerate(_mean_difference(model, tokenizer, -1)))
    writer = gguf.GGUFWriter(FILES / "easysteer_diffmean.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", model.config.model_type)
    writer.add_string("controlvector.method", "diffmean")
    writer.add_uint32("controlvector.layer_count", len(easysteer))
    for layer, direction in easysteer.items():
        writer.add_tensor(f"direction.{layer}", direction.clone().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    record(
        "saving_lines",
        ("gguf", "torch", "transformers"),
        folder,
        {
            "caa": {layer: direction.float() for layer, direction in caa.items()},
            "persona_vectors_rows": dict(enumerate(persona)),
            "easysteer": easysteer,
        },
        tokenizer=tokenizer,
    )


def _mean_difference(model: Any, tokenizer: Any, position: int) -> Tensor:
    """Return (layers, width), block outputs at one position, read by hooks."""
    differences: list[Tensor] = []
    for pair in PAIRS:
        read: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _module, _inputs, output, read=read: read.append(output[0, position]))
            for block in model.model.layers
        ]
        with torch.no_grad():
            for text in pair:
                model(**tokenizer(text, return_tensors="pt"))
        for hook in hooks:
            hook.remove()
        positive, negative = torch.stack(read).chunk(2)
        differences.append(positive - negative)
    return torch.stack(differences).mean(dim=0)


def _response_mean(model: Any, tokenizer: Any, prompt: str, response: str) -> Tensor:
    """Return (layers + 1, width), every hidden state's mean over the tokens after the prompt; no BOS is added."""
    encoded = tokenizer(prompt + response, return_tensors="pt", add_special_tokens=False)
    length = len(tokenizer.encode(prompt, add_special_tokens=False))
    with torch.no_grad():
        states = model(**encoded, output_hidden_states=True).hidden_states
    return torch.stack([state[0, length:].mean(dim=0) for state in states])


if __name__ == "__main__":
    main()
