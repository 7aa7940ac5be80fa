"""Arrays that say little of themselves, alone, stacked, in lists or by name → the vector that the caller says they are.

One vector (width,) needs its layer from the caller. A stack (rows, width) needs to be told what its rows are, since the
number of rows alone does not say it: `block_outputs`, where row i is the output of block i; `block_inputs`, where it is
what enters block i, so that row i + 1 is the output of block i; or `hidden_states`, as transformers'
`output_hidden_states`, which is the same with one row more, after the final norm. Of several, an index chooses one. In
a dict, whole numbers are blocks whose output is steered, from 0; other names say nothing, even with a number in them.
Of files' names, only those of CAA's scripts say a layer.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor

from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, DirectionError, VectorFileError, quoted
from steer_tools.formats.base import Decoded, Unsaid

# Texts and numbers beside arrays are what somebody noted of them.
Contents: TypeAlias = "Tensor | Mapping[str | int, Contents] | list[Contents] | str | int | float | None"

_LAYER_NOTES = ("layer", "layer_idx", "layer_index", "layer_id")
_MOST_LISTED = 6
# CAA's generate_vectors.py names a vector so; its layers are the blocks whose output is steered, from 0, as ours are.
_NAME_BY_CAA = re.compile(r"(?:^|/)vec_layer_(\d{1,4})_[^/]+\.pt$")


def decode_arrays(contents: Contents, name: str, unsaid: Unsaid) -> Decoded:
    """Return the vector of what a file holds.

    Raises:
        VectorFileError: There is no float array, several and no index, or one whose layer is not known.
        DirectionError: It is a stack and nobody says what its rows are, or a row that counts is no direction.
        ArgumentError: The index leads nowhere, or rows of one vector are explained.
    """
    chosen, layer = _chosen(contents, name, unsaid.index)
    if isinstance(chosen, list) and (rows := _as_stack(chosen)) is not None:
        chosen = rows
    named = _by_name(chosen)
    shown = f"{name}[{', '.join(unsaid.index)}" if unsaid.index else f"{name}["
    if not named:
        if not isinstance(chosen, Tensor):
            raise VectorFileError(f"{name} holds no array", valid="float arrays of the shape (width,)")
        return _decode_array(chosen, name, shown, layer, unsaid)
    key, array = next(iter(named.items()))
    if len(named) == 1 and type(key) is str and _layer_of(key) is None:
        return _decode_array(array, name, _longer(shown, key), _noted_layer(chosen), unsaid)
    by_layer = {_layer_of(key): _only_row(array) for key, array in named.items()}
    if isinstance(chosen, Mapping) and None not in by_layer and all(array.dim() == 1 for array in by_layer.values()):
        return Decoded(SteeringVector.from_directions(cast(dict[int, Tensor], by_layer)))
    raise _undecided(named, name, shown)


def _chosen(contents: Contents, name: str, index: tuple[str, ...]) -> tuple[Contents, int | None]:
    """Follow the index, by names through dicts and by numbers through lists and arrays; a dict's number is a layer."""
    layer: int | None = None
    for step in index:
        if isinstance(contents, Mapping):
            keys = {str(key): key for key in contents}
            if step not in keys:
                raise _no_such(name, step, ", ".join(map(repr, list(keys)[:_MOST_LISTED])))
            contents, layer = contents[keys[step]], _layer_of(keys[step])
            continue
        count = len(contents) if isinstance(contents, list) or (isinstance(contents, Tensor) and contents.dim()) else 0
        if not step.removeprefix("-").isdecimal() or not -count <= int(step) < count:
            raise _no_such(name, step, f"{-count} to {count - 1}" if count else "no more of an index")
        contents = cast("Tensor | list[Contents]", contents)[int(step)]
    return contents, layer


def _no_such(name: str, step: str, valid: str) -> ArgumentError:
    return ArgumentError(f"There is no {quoted(step)} in {name}", valid=valid, fix="Choose one of these.")


def _as_stack(values: "list[Contents]") -> Tensor | None:
    """Return the arrays of a list as the rows of one, where they are vectors of one width."""
    rows = [_only_row(value) for value in values if isinstance(value, Tensor)]
    alike = len({(row.shape, row.dtype) for row in rows}) == 1
    return torch.stack(rows) if alike and len(rows) == len(values) and rows[0].dim() == 1 else None


def _by_name(contents: Contents) -> dict[str | int, Tensor]:
    """Return the arrays in a dict or list, however deep, each by the index that leads there."""
    if isinstance(contents, Mapping):
        entries = list(contents.items())
    elif isinstance(contents, list):
        entries = list[tuple[str | int, Contents]](enumerate(contents))
    else:
        return {}
    found = dict[str | int, Tensor]()
    for key, value in entries:
        if isinstance(value, Tensor) and value.dim() and value.is_floating_point():
            found[key] = value
        elif isinstance(value, Mapping | list):
            found |= {f"{key}, {deeper}": array for deeper, array in _by_name(value).items()}
    return found


def _layer_of(key: str | int) -> int | None:
    """Return the layer that a dict's key is: a number, which other formats can write only as a text."""
    text = str(key)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None


def _noted_layer(contents: Contents) -> int | None:
    """Return the layer that stands beside the one array of a dict."""
    notes = contents if isinstance(contents, Mapping) else {}
    noted = next((notes[key] for key in _LAYER_NOTES if key in notes), None)
    if isinstance(noted, Tensor) and noted.dim() == 0 and not noted.is_floating_point():
        noted = int(noted)
    return noted if type(noted) is int and noted >= 0 else None


def _only_row(array: Tensor) -> Tensor:
    """Return a (1, width) array as the vector that it is where its place says its layer."""
    return array[0] if array.dim() == 2 and len(array) == 1 else array


def _longer(shown: str, step: str | int) -> str:
    return f"{shown}{'' if shown.endswith('[') else ', '}{step}"


def _undecided(named: dict[str | int, Tensor], name: str, shown: str) -> VectorFileError:
    listed = [f"{key!r} {tuple(array.shape)}" for key, array in named.items()][:_MOST_LISTED]
    more = f" and {len(named) - len(listed)} more" if len(named) > len(listed) else ""
    first = _longer(shown, next(iter(named)))
    counted = (
        " A number below 0 counts from a model's end, which the file does not know."
        if any(type(key) is int and key < 0 for key in named)
        else ""
    )
    return VectorFileError(
        f"{name} holds several arrays, and nothing says which of them is the vector, or which layer each belongs to: "
        f"{', '.join(listed)}{more}",
        valid=f"the path with one of them, such as '{first}]', and `layer`",
        fix=f"Or save them by layer: save_vector(SteeringVector.from_directions({{layer: tensor}}), path).{counted}",
    )


def _decode_array(array: Tensor, name: str, shown: str, layer: int | None, unsaid: Unsaid) -> Decoded:
    shape = tuple(array.shape)
    what = f"{name} holds an array of the shape {shape}"
    if not array.is_floating_point():
        raise VectorFileError(
            f"{name} holds numbers of the kind {str(array.dtype).removeprefix('torch.')}",
            valid="one float vector, shape (width,)",
            fix="Save it as floats: numpy.save(path, array.astype('float32')), or torch.save(tensor.float(), path).",
        )
    if len(shape) > 2:
        raise DirectionError(
            f"{what}, more dimensions than layers and width (of refusal_direction's mean_diffs.pt: positions, layers, "
            "width), and nothing says which one is meant",
            valid=f"the path with a number for each other dimension, such as "
            f"'{_longer(shown, ', '.join('0' for _ in shape[:-1]))}]', and `layer`, the block whose output it is "
            "(row i of mean_diffs.pt is what enters block i, the output of block i - 1)",
            fix=f"Or take one stack of rows by '{_longer(shown, ', '.join('0' for _ in shape[:-2]))}]' and say `rows`.",
        )
    if len(shape) == 2:
        return _stack(array, name, shown, unsaid.rows)
    if unsaid.rows is not None:
        raise ArgumentError(
            f"rows is {unsaid.rows!r}, but {what}, which has no rows",
            valid="rows for a stack, shape (rows, width)",
            fix="Leave rows out and give the layer, counted from 0 by the block whose output it belongs to.",
        )
    if not shape:
        raise DirectionError(f"{name} holds a single number, of the shape ()", valid="one vector, shape (width,)")
    layer = unsaid.layer if layer is None else layer
    if layer is None and (by_caa := _NAME_BY_CAA.search(name)):
        note = f"Layer {by_caa[1]} is that of the file's name, as CAA's scripts write it."
        return Decoded(SteeringVector.from_directions({int(by_caa[1]): array}), (note,))
    if layer is None:
        raise VectorFileError(
            f"{name} is a bare array, and nothing beside it says where it belongs, so its layer is not known",
            valid="a layer from the one who made it",
            fix="Give `layer` as a number: load_vector calls it `layer_if_unknown`, `steer-tools convert` --layer.",
        )
    return Decoded(SteeringVector.from_directions({layer: array}))


def _stack(array: Tensor, name: str, shown: str, rows: str | None) -> Decoded:
    count = len(array)
    if rows is None:
        raise DirectionError(
            f"{name} holds an array of the shape {tuple(array.shape)}, and nothing says what its rows are",
            valid="one vector, shape (width,); the path with the number of one row, such as "
            f"'{_longer(shown, 0)}]', and `layer`; or, of load_vector and `steer-tools convert`, "
            "rows='block_outputs' (row i is the output of block i), "
            "rows='block_inputs' (row i is what enters block i) or rows='hidden_states' (row 0 is the embedding, one "
            "row more than the model has blocks)",
            fix="Say which of them it is.",
        )
    if rows == "block_outputs":
        info = VectorInfo(model_layers=count or None)
        return Decoded(SteeringVector.from_directions(dict(enumerate(array)), info=info))
    is_normed = rows == "hidden_states"
    if count < 2 + is_normed:
        raise DirectionError(
            f"{name} has {count} rows, and of {rows.replace('_', ' ')} the first "
            f"{'and the last are' if is_normed else 'is'} no output of a block",
            valid=f"at least {2 + is_normed} rows",
            fix="Say rows='block_outputs' if row i is the output of block i.",
        )
    outputs, blocks = (array[1:-1], count - 1) if is_normed else (array[1:], count)
    vector = SteeringVector.from_directions(dict(enumerate(outputs)), info=VectorInfo(model_layers=blocks))
    last = f" and row {blocks} (the last block after the final norm, which is another space than the stream) are"
    return Decoded(vector, (f"Of {count} rows, row 0 (the embedding){last if is_normed else ' is'} left out.",))
