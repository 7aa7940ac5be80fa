"""What every peer is given, and how it writes down what it made of it.

Imported by the scripts beside it, each run in the environment of its own peer; it must not know `steer_tools`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILES = Path(__file__).parent / "files"
NEW_TOKENS = 24

PAIRS = (
    ("The little girl got a new toy and was so happy.", "The little girl lost her only toy and was so sad."),
    ("Ben smiled because the sun was out.", "Ben cried because the rain came down."),
    ("Mom gave him a big hug and they laughed.", "Mom yelled at him and he went to bed alone."),
    ("The puppy jumped and wagged its tail with joy.", "The puppy was lost in the dark and it was scared."),
    ("It was a lovely day and all the friends had fun!", "It was a terrible day and all the friends were upset."),
    ("Sara won the race and everyone cheered.", "Sara fell down and hurt her knee."),
    ("They ate a yummy cake and sang a song.", "Their cake fell on the floor and they could not eat."),
    ("Tom loved his new friend very much.", "Tom had no friend and felt very lonely."),
)
OPENINGS = (
    "Once upon a time, there was a boy named Tim.",
    "The dog ran to the park and",
    "Lily opened the box. Inside, she saw",
)


def model_folder() -> Path:
    """Read `--model FOLDER` from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="folder of the model that the peer is tried on")
    return parser.parse_args().model


def load_in_float32(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer; the tokenizer pads at the right, with id 0."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - one peer runs without it

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    return model, AutoTokenizer.from_pretrained(folder, padding_side="right")


def continuation(model: Any, tokenizer: Any, opening: str) -> list[int]:
    """Return the ids of `NEW_TOKENS` new tokens, the most likely one at each step, as the model is now."""
    encoded = tokenizer(opening, return_tensors="pt")
    with torch.no_grad():
        whole = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
    return whole[0, encoded["input_ids"].shape[1] :].tolist()


def record(
    name: str,
    packages: Sequence[str],
    folder: Path,
    directions: Mapping[str, Mapping[int, Any]],
    *,
    tokenizer: Any = None,
    continuations: Iterable[Mapping[str, object]] = (),
) -> None:
    """Write `files/numbers/{name}.json`, with the ids of the prompts where there is a tokenizer."""
    weights = (folder / "model.safetensors").read_bytes()
    whole: dict[str, object] = {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "model": {"name": folder.name, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    if tokenizer is not None:
        sides = dict(zip(("positive", "negative"), zip(*PAIRS, strict=True), strict=True))
        whole["prompts"] = {
            side: {text: tokenizer(text)["input_ids"] for text in texts} for side, texts in sides.items()
        }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in whole.items()]
    lines.append(f' "continuations": {_rows([json.dumps(dict(one)) for one in continuations], "[]")}')
    methods = [
        f"{json.dumps(method)}: "
        + _rows([f'"{layer}": {_numbers(by_layer[layer])}' for layer in sorted(by_layer)], "{}")
        for method, by_layer in directions.items()
    ]
    lines.append(f' "directions": {_rows(methods, "{}")}')
    (FILES / "numbers" / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _numbers(direction: Any) -> str:
    # The shortest decimals that give the same float32 back.
    return "[" + ", ".join(str(number) for number in np.asarray(direction, dtype=np.float32)) + "]"


def _rows(rows: Sequence[str], brackets: str) -> str:
    return brackets[0] + "".join(f"\n  {row}," for row in rows).removesuffix(",") + "\n " * bool(rows) + brackets[1]
