"""The numbers of all peers beside ours → benchmarks/peers.md; needs numpy alone, after every other script here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = Path(__file__).parent / "files" / "numbers"
PAGE = Path(__file__).parents[2] / "benchmarks" / "peers.md"
LAST = 5
INNER = (1, 2, 3, 4)
ALL = (0, *INNER, LAST)

AFTER_NORM, CENTRED, FLOAT16 = "a", "b", "c"


@dataclass(frozen=True)
class Claim:
    """A peer's method beside ours, over some layers; where they are not meant to be equal, with letters for the reason.

    `explained` names directions of ours that were made as the peer makes them.
    """

    peer: str
    method: str
    ours: str
    layers: Sequence[int]
    is_unit: bool = False
    reason: str = ""
    explained: str = ""


EQUAL = (
    Claim("steering-vectors", "mean", "paired_mean_difference", ALL),
    Claim("steering-vectors", "mean_batched", "paired_mean_difference", ALL),
    Claim("nnsight", "mean_by_hand", "paired_mean_difference", ALL),
    Claim("rotalabs", "caa", "mean_difference", ALL),
    Claim("dialz", "mean_diff", "paired_mean_difference", INNER),
    Claim("steering-vectors", "pca", "pca", ALL, is_unit=True),
    Claim("repeng", "pca_center", "pca", INNER, is_unit=True),
    Claim("dialz", "pca_center", "pca", INNER, is_unit=True),
)
DIFFERENT = (
    Claim("dialz", "mean_diff", "paired_mean_difference", (LAST,), False, AFTER_NORM, "mean_of_hidden_states"),
    Claim("dialz", "mean_diff_float16", "paired_mean_difference", INNER, False, FLOAT16),
    Claim("repeng", "pca_center", "pca", (LAST,), True, AFTER_NORM, "pca_of_hidden_states"),
    Claim("dialz", "pca_center", "pca", (LAST,), True, AFTER_NORM, "pca_of_hidden_states"),
    Claim("repeng", "pca_diff", "pca", INNER, True, CENTRED, "centred_pca_of_hidden_states"),
    Claim("repeng", "pca_diff", "paired_mean_difference", INNER, True, CENTRED, "centred_pca_of_hidden_states"),
    Claim("repeng", "pca_diff", "pca", (LAST,), True, AFTER_NORM + CENTRED, "centred_pca_of_hidden_states"),
    Claim("dialz", "pca", "pca", INNER, True, CENTRED, "centred_pca_of_hidden_states"),
    Claim("dialz", "pca", "pca", (LAST,), True, AFTER_NORM + CENTRED, "centred_pca_of_hidden_states"),
)

HEAD = """# The same numbers as other packages

Eight pairs of happy and sad sentences (`tests/peers/material.py`), read at their last token from {model} ({width} wide,
blocks 0 to {last}) in float32 on a CPU. Every package ran in an environment of its own, and all gave the pairs the same
token ids.

{versions}

## Equal

| theirs | ours | layers | largest difference | largest element | least cosine |
|---|---|---|---|---|---|
"""
DIFFERENCES = """
Principal components are compared at length 1: theirs have that length, ours get the contrast's. repeng and dialz make
no layer 0.

## Different, and why

| theirs | ours | layer | cosine at each | norm, theirs / ours | reason | left |
|---|---|---|---|---|---|---|
"""
REASONS = """
- **a**: the last layer is read after the final norm (`output_hidden_states[-1]`), though it is added before it.
- **b**: `PCA` of scikit-learn centres what it is given; of the pairs' differences that takes away the mean, which is
  the contrast.
- **c**: every model is loaded in float16; above, dialz' model was put back to float32.
- **left**: the largest difference once we do the same with our own activations; a and b are the whole of it.

Our own `pca` has the cosines {cosines} with the mean difference at layers 0 to {last}:
with eight pairs the largest component need not be the contrast, centred or not.
"""
TAIL = """
## Files and steering

`tests/project/test_peers.py` reads the files that these packages wrote (`tests/peers/files/`) to the very numbers they
held, and steers the model with them: at positions `all`, where repeng, steering-vectors and rotalabs-steer steer, all
{continuations} steered greedy continuations of {tokens} tokens are theirs, token by token.

The other way round, repeng's `import_gguf` and gguf's `GGUFReader` read the file that `save_vector` wrote without a
warning, and {read_back}.

To make it again, with one environment a package (torch first, so that it is the CPU's):

```
python -m venv peer && peer/bin/pip install torch==2.13.0+cpu && peer/bin/pip install PACKAGE==VERSION
peer/bin/python tests/peers/with_PACKAGE.py --model FOLDER     # each of them; steering-vectors before vllm-lens
peer/bin/python tests/peers/saving_lines.py --model FOLDER     # in repeng's
python tests/peers/write_ours.py --model FOLDER                # in our own
peer/bin/python tests/peers/read_back.py --model FOLDER        # in repeng's
python tests/peers/compare.py
```

dialz also needs `ipython`, which it does not name; vllm-lens 1.3.0 asks for Python 3.12 and vLLM, and its vectors work
without either (`--no-deps --ignore-requires-python`, and cloudpickle, zstandard, pydantic, numpy by hand). EasySteer,
CAA and persona_vectors are repositories, not packages: their saving is done over again in `saving_lines.py`.
"""


def main() -> None:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in NUMBERS.glob("*.json")}
    ours = found["ours"]
    peers = [found[_stem(name)] for name in ("repeng", "steering-vectors", "rotalabs", "nnsight", "dialz")]
    for peer in peers:
        assert peer["model"] == ours["model"] and peer["prompts"] == ours["prompts"]
    equal, different = [_equal_row(found, claim) for claim in EQUAL], [_different_row(found, c) for c in DIFFERENT]
    continuations = [one for peer in peers for one in peer["continuations"] if one["strength"]]
    head = HEAD.format(
        model=ours["model"]["name"],
        width=len(ours["directions"]["pca"]["0"]),
        last=LAST,
        versions="\n".join(f"- {_versions(one)}" for one in (ours, *peers)),
    )
    own = Claim("ours", "pca", "paired_mean_difference", ALL)
    cosines = _cosines(_stack(found, "ours", own.method, own), _stack(found, "ours", own.ours, own))
    reasons = REASONS.format(cosines=", ".join(f"{cosine:.2f}" for cosine in cosines), last=LAST)
    tail = TAIL.format(
        continuations=len(continuations), tokens=len(continuations[0]["tokens"]), read_back=_read_back(found)
    )
    PAGE.write_text(head + "".join(equal) + DIFFERENCES + "".join(different) + reasons + tail, encoding="utf-8")


def _equal_row(found: dict[str, Any], claim: Claim) -> str:
    theirs, ours = _stack(found, claim.peer, claim.method, claim), _stack(found, "ours", claim.ours, claim)
    gap, cosine = np.abs(theirs - ours).max(), _cosines(theirs, ours).min()
    layers = f"{claim.layers[0]} to {claim.layers[-1]}"
    largest = np.abs(ours).max()
    return f"| {claim.peer} `{claim.method}` | `{claim.ours}` | {layers} | {gap:.1e} | {largest:.2f} | {cosine:.8f} |\n"


def _different_row(found: dict[str, Any], claim: Claim) -> str:
    theirs, ours = _stack(found, claim.peer, claim.method, claim), _stack(found, "ours", claim.ours, claim)
    cosines = _cosines(theirs, ours)
    norms = np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    left = ""
    if claim.explained:
        explained = _stack(found, "ours", claim.explained, claim)
        signs = np.sign(np.sum(theirs * explained, axis=1, keepdims=True)) if claim.is_unit else 1.0
        left = f"{np.abs(theirs - signs * explained).max():.1e}"
    layers = str(claim.layers[0]) if len(claim.layers) == 1 else f"{claim.layers[0]} to {claim.layers[-1]}"
    ratio = "1" if claim.is_unit else _listed(norms)
    reason = ", ".join(claim.reason)
    return (
        f"| {claim.peer} `{claim.method}` | `{claim.ours}` | {layers} | {_listed(cosines)} | {ratio} | {reason} "
        f"| {left} |\n"
    )


def _stack(found: dict[str, Any], name: str, method: str, claim: Claim) -> np.ndarray:
    """Return (layers, width) in float64; at length 1 where the claim is about units."""
    rows = np.array([found[_stem(name)]["directions"][method][str(layer)] for layer in claim.layers])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if claim.is_unit else rows


def _cosines(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    return np.sum(theirs * ours, axis=1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.5f}" if value < 10 else f"{value:.1f}" for value in values)


def _read_back(found: dict[str, Any]) -> str:
    saved = found["ours"]["directions"]["paired_mean_difference"]
    ours = {layer: direction for layer, direction in saved.items() if layer != "0"}  # llama.cpp has no layer 0.
    for name, read in found["read_back"]["directions"].items():
        assert read == ours, f"{name} did not read what we saved"
    return f"the {len(ours)} layers are equal, bit for bit"


def _versions(one: dict[str, Any]) -> str:
    named = [f"{name} {number}" for name, number in one["versions"].items() if name not in ("python", "numpy", "gguf")]
    return f"{named[0]} (" + ", ".join(named[1:]) + ")"


def _stem(name: str) -> str:
    return name.replace("-", "_")


if __name__ == "__main__":
    main()
