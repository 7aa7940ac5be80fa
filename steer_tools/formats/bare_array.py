"""An array that says nothing about itself, and what the caller says about it → a vector.

One vector (width,) needs its layer. A stack (rows, width) needs to be told what its rows are, since the number of rows
alone does not say it: `block_outputs`, where row i is the output of block i, or `hidden_states`, as transformers'
`output_hidden_states`, where row i is the *input* of block i, so that row i + 1 is the output of block i.
"""

from torch import Tensor

from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, DirectionError, VectorFileError
from steer_tools.formats.base import ROWS, Decoded, Rows, Unsaid


def rows_named(name: str | None) -> Rows | None:
    """Return `name` if it says what rows are, or None as it is.

    Raises:
        ArgumentError: It says something else.
    """
    if name is not None and name not in ROWS:
        raise ArgumentError(f"rows is {name!r}", valid=" or ".join(map(repr, ROWS)))
    return name


def decode_bare(array: Tensor, name: str, unsaid: Unsaid) -> Decoded:
    """Return the vector of one array.

    Raises:
        VectorFileError: It is one vector and its layer is not known.
        DirectionError: It is a stack and nobody says what its rows are, or a row that counts is no direction.
        ArgumentError: It is one vector and rows are explained.
    """
    shape = tuple(array.shape)
    if len(shape) == 2:
        return _stack(array, name, unsaid.rows)
    if unsaid.rows is not None:
        raise ArgumentError(
            f"rows is {unsaid.rows!r}, but {name} holds an array of the shape {shape}, which has no rows",
            valid="rows for a stack, shape (rows, width)",
            fix="Leave rows out and give the layer, counted from 0 by the block whose output it belongs to.",
        )
    if unsaid.layer is None:
        raise VectorFileError(
            f"{name} is a bare array, and nothing beside it says where it belongs, so its layer is not known",
            valid="a layer from the one who made it",
            fix="Give `layer` as a number.",
        )
    return Decoded(SteeringVector.from_directions({unsaid.layer: array}))


def _stack(array: Tensor, name: str, rows: Rows | None) -> Decoded:
    count = len(array)
    if rows is None:
        raise DirectionError(
            f"{name} holds an array of the shape {tuple(array.shape)}, and nothing says what its rows are",
            valid="one vector, shape (width,), or a stack with rows='block_outputs' (row i is the output of block i) "
            "or rows='hidden_states' (row 0 is the embedding, one row more than the model has blocks)",
            fix="Say which of the two it is, or save one row alone.",
        )
    if rows == "block_outputs":
        return Decoded(
            SteeringVector.from_directions(dict(enumerate(array)), info=VectorInfo(model_layers=count or None))
        )
    if count < 3:
        raise DirectionError(
            f"{name} has {count} rows, and of hidden states neither the first nor the last is an output of a block",
            valid="at least 3 rows",
            fix="Say rows='block_outputs' if row i is the output of block i.",
        )
    vector = SteeringVector.from_directions(dict(enumerate(array[1:-1])), info=VectorInfo(model_layers=count - 1))
    return Decoded(
        vector,
        (
            f"Of {count} rows, row 0 (the embedding) and row {count - 1} (the last block after the final norm, "
            "which is another space than the stream) are left out.",
        ),
    )
