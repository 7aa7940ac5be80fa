"""A checkpoint's config and the names of its tensors → what an audit must know of them. It must not know numbers.

Configs are written by others: whatever they hold is judged, and refused where no model could have it. Names are those
of known families: a tensor of another name writes nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from steer_tools.engines.huggingface.checkpoint import Sizes, sized_part, sizes_in
from steer_tools.errors import BakingError
from steer_tools.weights.shards import INDEX, SINGLE

_MOST_LAYERS, _MOST_WIDTH, _MOST_MULTIPLIER = 10_000, 2**20, 1e6
# They say what the names of the tensors say again, or nothing of what is computed.
_TOLD_ELSEWHERE = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "tie_word_embeddings"}
    | {"mlp_bias", "attention_bias"}
)
_BIASES = ((re.compile(r"attn|attention"), "attention_bias"), (re.compile(r"mlp"), "mlp_bias"))


def sizes_of(config: Mapping[str, object], file: Path) -> Sizes:
    """Return how deep and wide the model is.

    Raises:
        BakingError: The config does not say so, or no model is like that.
    """
    sizes = sizes_in(config)
    if sizes is None or sizes.layers > _MOST_LAYERS or sizes.width > _MOST_WIDTH:
        raise BakingError(
            f"{file} does not say how many layers there are and how wide they are",
            valid=f"the config of a transformers language model: at most {_MOST_LAYERS} layers of width {_MOST_WIDTH}",
        )
    return sizes


def refuse_other_weights(config: Mapping[str, object], folder: Path) -> None:
    """Refuse a folder whose model is not in the weight files that are compared.

    Raises:
        BakingError: Its config names other weights, or an adapter lies beside them.
    """
    named = config.get("transformers_weights")
    if named not in (None, SINGLE, INDEX):
        raise BakingError(
            f"{folder} names other weights in its config: transformers_weights is {str(named)[:80]!r}",
            valid=f"{SINGLE} or {INDEX}",
            fix="Rename the file, and remove the entry.",
        )
    if (folder / "adapter_config.json").exists():
        raise BakingError(
            f"{folder} holds an adapter_config.json: its model is these weights and an adapter",
            valid="a checkpoint without an adapter",
            fix="Merge the adapter into the weights (peft: merge_and_unload), or take its files out of the folder.",
        )


def multiplier_of(config: Mapping[str, object]) -> float:
    """Return what the model multiplies each block's outputs by, as families such as Granite do.

    Raises:
        BakingError: It is no finite number.
    """
    found = (sized_part(config) or {}).get("residual_multiplier", 1.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= _MOST_MULTIPLIER:
        raise BakingError(
            f"the config's residual_multiplier is {str(found)[:40]!r}",
            valid=f"a number of at most {_MOST_MULTIPLIER:g}",
            fix="Download the checkpoint again.",
        )
    return float(found)


def ignores(config: Mapping[str, object], name: str) -> bool:
    """Return whether the config says that the model has no such bias, so that one in a file is not read."""
    part = sized_part(config) or {}
    *_, module, last = ("", "", *name.split("."))
    entries = [entry for pattern, entry in _BIASES if pattern.search(name)]
    entry = next((own for own in (*entries, "bias") if own in part), None)
    return last == "bias" and "norm" not in module and bool(entries) and entry is not None and part[entry] is False


def differing_keys(first: Mapping[str, object], second: Mapping[str, object]) -> tuple[str, ...]:
    """Return the entries that may make models with the same weights compute something else."""
    one, other = dict(_flat(first)), dict(_flat(second))
    return tuple(sorted(key for key in one.keys() | other.keys() if not _same(one.get(key), other.get(key))))


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _flat(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the entries, and for those of one inside another, both names: `text_config.hidden_act`."""
    for key, value in config.items():
        if key in _TOLD_ELSEWHERE:
            continue
        if isinstance(value, dict):
            inner = cast(dict[str, object], value)
            yield from ((f"{key}.{name}", own) for name, own in inner.items() if name not in _TOLD_ELSEWHERE)
        else:
            yield key, value


_WRITERS = re.compile(
    "o_proj|out_proj|c_proj|dense|dense_4h_to_h|down_proj|fc2|fc_out|wo|w2|out_lin|lin2|linear_out|attn_out|ff_out"
)
_EMBEDDINGS = re.compile(
    "embed_tokens|wte|wpe|word_embeddings|embed_in|tok_embeddings|embed_positions|position_embeddings|tokens_embed|"
    "positions_embed"
)
# Their linear layers keep weights as (in, out).
_TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_ELSEWHERE = re.compile(r"visual|vision|(^|\.)encoder\.layers?\.")
# No model has a million layers, and int() refuses numbers of thousands of digits.
_MOST_DIGITS = 6


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor inside a block: the first number in its name."""
    numbers = (part for part in name.split(".") if part.isdecimal() and len(part) <= _MOST_DIGITS)
    return next((int(part) for part in numbers), None)


def stream_axes(name: str, shape: Sequence[int], width: int, family: str) -> tuple[int, ...]:
    """Return the axes that may lie along the stream that it writes to: none where it is not known to write."""
    *_, module, last = ("", *name.split("."))
    is_part = last in {"weight", "bias"}
    module = module if is_part else last.removesuffix("_bias")
    final, is_flat = len(shape) - 1, len(shape) == 2
    if _ELSEWHERE.search(name):
        return ()
    if _EMBEDDINGS.fullmatch(module):
        axes = (final,) if is_flat else ()
    elif not _WRITERS.fullmatch(module) or layer_of(name) is None:
        return ()
    elif last.endswith("bias"):
        axes = (final,)
    elif is_part and is_flat:
        axes = (1,) if module == "c_proj" and family in _TURNED else (0,)
    else:
        # Matrices of all experts in one, of which some families keep (in, out), and others (out, in).
        axes = tuple(range(max(0, len(shape) - 2), len(shape)))
    return tuple(axis for axis in axes if shape[axis] == width)
