"""Bare tensors in a `.pt` file: one (width,) tensor, as CAA's `vec_layer_13_<model>.pt`; a stack of rows, as the
persona vectors' (layers + 1, width); or a dict of layer to tensor, as steering-vectors' `layer_activations`.

Index: a tensor says none. CAA's layer, given by the caller, is the block whose output it is, from 0; what the rows of a
stack are is told by the caller too (see base.py); a dict's keys are blocks whose output is steered, from 0. Unit:
strength 1 adds the tensor. One tensor is written.

Such a file is a zip archive of numbers and a pickle that says how to put them together. The pickle is read here as a
description, step by step, and never run: a step that no saved tensor has ends the reading.
`torch.load(weights_only=True)` runs no foreign code, but it does run `bytearray(10**12)`."""

import io
import pickletools
import zipfile
from dataclasses import dataclass
from math import prod
from typing import ClassVar, cast

import torch
from torch import Tensor
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, decode_bare, require_residual, tensor_of


class PtFormat(VectorFormat):
    """`.pt`, one tensor, or when reading several by layer."""

    name: ClassVar[str] = "pt"
    suffix: ClassVar[str] = ".pt"
    convention: ClassVar[str] = (
        "one tensor does not say its layer, a dict says them as keys, from 0; strength 1 adds it"
    )
    holds_several_layers: ClassVar[bool] = False

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        require_residual(vector, self.name)
        (direction,) = vector.directions.values()
        return Encoded(write_tensor(direction))

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        tensors = read_tensors(encoded.data, name)
        if isinstance(tensors, dict):
            return Decoded(SteeringVector.from_directions(tensors))
        return decode_bare(tensors, name, unsaid)


_WAY_OUT = (
    "Save the tensors alone: torch.save(vector.layer_activations, path) for the package steering-vectors. Or, if you "
    "trust the file, load it yourself: `vector = torch.load(path, weights_only=False)`, then "
    "`save_vector(steer_tools.formats.from_steering_vectors(vector), target)`."
)
# One tensor is described in 150 bytes, in an archive of seven records.
_MOST_PICKLE_BYTES, _MOST_RECORDS = 2**16, 1000


class NotATensorError(Exception):
    """The file is sound as far as it was read, and holds something else."""


@dataclass(frozen=True)
class _Name:
    """Something that the pickle names, and that is not looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers of one kind, in the record called `key`."""

    dtype: torch.dtype
    key: str
    length: int


@dataclass(frozen=True)
class Description:
    """How a tensor lies in its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def write_tensor(tensor: Tensor) -> bytes:
    """Return what `torch.save` writes; a view is saved alone."""
    buffer = io.BytesIO()
    torch.save(tensor.clone(), buffer)
    return buffer.getvalue()


def read_tensors(data: bytes, name: str) -> Tensor | dict[int, Tensor]:
    """Return the float tensor of at most two dimensions that the file holds, or the dict of such by a number.

    Nothing in the file is run, and nothing is returned that is larger than the file.

    Raises:
        VectorFileError: It holds something else, or claims what it does not hold.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise VectorFileError(
            f"{name} is no zip archive, as torch.save writes since version 1.6: it is truncated, or a bare pickle",
            valid="one float tensor saved by torch.save(tensor, path)",
            fix="A pickle is never loaded, since it can run code: save the tensor again.",
        )
    try:
        return _tensors(data)
    except NotATensorError as error:
        raise VectorFileError(
            f"{name} holds no plain tensors, but {error}",
            valid="one float tensor, or a dict of layer to tensor, saved by torch.save",
            fix=_WAY_OUT,
        ) from error
    # What zipfile and pickletools let through at hostile bytes.
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, OverflowError, RuntimeError) as error:
        raise VectorFileError(
            f"{name} is truncated or forged ({error})", fix="Save the tensor again by torch.save(tensor, path)."
        ) from error


def _tensors(data: bytes) -> Tensor | dict[int, Tensor]:
    # zipfile makes an object of half a kilobyte of each entry, which is ten times what the entry takes.
    if data.count(b"PK\x01\x02") > _MOST_RECORDS:
        raise NotATensorError("more records than a tensor has")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        if f"{prefix}/byteorder" in archive.namelist() and _record(archive, f"{prefix}/byteorder", 8) != b"little":
            raise NotATensorError("numbers of a big-endian machine")
        described = describe(_record(archive, f"{prefix}/data.pkl", _MOST_PICKLE_BYTES))
        each = described.values() if isinstance(described, dict) else [described]
        # Views may repeat their numbers and share them, and would then be larger than the file.
        if sum(prod(one.shape) * one.storage.dtype.itemsize for one in each) > len(data):
            raise ValueError(f"it claims more numbers than {len(data):,} bytes can hold")
        paths = {one.storage.key: f"{prefix}/data/{one.storage.key}" for one in each}
        if sum(archive.getinfo(path).file_size for path in paths.values()) > len(data):
            raise ValueError("its records overlap")
        records = {key: _record(archive, path, len(data)) for key, path in paths.items()}
    if isinstance(described, dict):
        return {number: _tensor(one, records[one.storage.key]) for number, one in described.items()}
    return _tensor(described, records[described.storage.key])


def _tensor(described: Description, numbers: bytes) -> Tensor:
    storage = described.storage
    if storage.length * storage.dtype.itemsize != len(numbers):
        raise ValueError(f"it claims {storage.length:,} numbers and holds {len(numbers):,} bytes")
    # torch refuses a view that leaves its numbers, by a RuntimeError.
    return tensor_of(numbers, storage.dtype).as_strided(described.shape, described.strides, described.offset)


def _record(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a record that is stored as it is: what unpacks could be larger than the file, or want a large window."""
    record = archive.getinfo(name)
    is_stored = record.compress_type == zipfile.ZIP_STORED and record.file_size == record.compress_size
    if not is_stored or record.file_size > most:
        raise ValueError(f"the record {name[:80]!r} is compressed or claims {record.file_size:,} bytes")
    return archive.read(record)


_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_NO_HOOKS = "collections.OrderedDict"
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None, "EMPTY_TUPLE": ()}
_LITERALS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def describe(pickled: bytes) -> Description | dict[int, Description]:
    """Follow the few steps of a pickle that describe a tensor or a dict of them; any other step ends it."""
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        step = opcode.name
        if step == "GLOBAL":
            stack.append(_named(str(argument)))
        elif step in _LITERALS or step in _CONSTANTS:
            stack.append(_CONSTANTS.get(step, argument))
        elif step in _TUPLES:
            stack[-_TUPLES[step] :] = [tuple(stack[-_TUPLES[step] :])]
        elif step == "TUPLE":
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        elif step == "EMPTY_DICT":
            stack.append(dict[int, Description]())
        elif step in ("SETITEM", "SETITEMS"):
            start = marks.pop() if step == "SETITEMS" else -2
            _fill(stack[start - 1], stack[start:])
            del stack[start:]
        elif step == "MARK":
            marks.append(len(stack))
        elif step in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif step in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif step == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif step == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_built(function, arguments))
        elif step not in ("PROTO", "FRAME", "STOP"):
            raise NotATensorError(f"a pickle with the step {step}")
    if len(stack) != 1 or not stack[0] or not isinstance(stack[0], Description | dict):
        raise NotATensorError("a pickle of something else")
    return cast("Description | dict[int, Description]", stack[0])


def _fill(target: object, items: list[object]) -> None:
    if not isinstance(target, dict):
        raise NotATensorError("a pickle of something else")
    for number, tensor in zip(items[::2], items[1::2], strict=True):
        if type(number) is not int or not isinstance(tensor, Description):
            raise NotATensorError("a dict of something else than tensors by layer")
        cast("dict[int, Description]", target)[number] = tensor


def _named(name: str) -> _Name:
    dotted = name.replace(" ", ".")
    if dotted not in _STORAGES and dotted not in (_TENSOR, _PARAMETER, _NO_HOOKS):
        raise NotATensorError(f"a pickle that needs {dotted[:80]!r}")
    return _Name(dotted)


def _storage(identity: object) -> Storage:
    match identity:
        case ("storage", _Name(name=kind), str(key), str(), int(length)) if kind in _STORAGES and length >= 0:
            return Storage(_STORAGES[kind], key, length)
        case _:
            raise NotATensorError("a storage of another kind")


def _built(function: object, arguments: object) -> object:
    match function, arguments:
        case _Name(name=name), () if name == _NO_HOOKS:
            return None
        case _Name(name=name), (Description() as tensor, bool(), None) if name == _PARAMETER:
            return tensor
        case _Name(name=name), (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), None) if (
            name == _TENSOR
        ):
            lengths, steps = _counts(shape), _counts(strides)
            if offset < 0 or len(lengths) != len(steps) or len(lengths) > 2:
                raise NotATensorError(f"a tensor of the shape {lengths[:8]}")
            return Description(storage, offset, lengths, steps)
        case _:
            raise NotATensorError("a pickle that calls something else")


def _counts(numbers: tuple[object, ...]) -> tuple[int, ...]:
    counts = tuple(number for number in numbers if type(number) is int and 0 <= number < 2**62)
    if len(counts) != len(numbers):
        raise NotATensorError("a tensor of no shape")
    return counts
