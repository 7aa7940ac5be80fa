"""What `torch.save` wrote → tensors, arrays, numbers and texts in lists and dicts; torch's own files, and no others.

Such a file is a zip archive of numbers and a pickle that says how to put them together. The pickle is read here as a
description, step by step, and never run: a step that no saved tensor or array has ends the reading.
`torch.load(weights_only=True)` runs no foreign code, but it does run `bytearray(10**12)`.
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from steer_tools.formats.arrays import Contents
from steer_tools.formats.base import tensor_of
from steer_tools.limits import ARRAYS, PICKLE_BYTES, PICKLE_LEVELS, PICKLE_STEPS, PICKLE_VALUES


class NotArraysError(Exception):
    """The file is sound as far as it was read, and holds something else; `needs` is the foreign name, if one is."""

    def __init__(self, what: str, needs: str = "") -> None:
        super().__init__(what)
        self.needs = needs


@dataclass(frozen=True)
class _Name:
    """Something that the pickle names, and that is not looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers of one kind, in the record called `key`."""

    dtype: torch.dtype
    key: str
    length: int


@dataclass(frozen=True)
class _Description:
    """How a tensor lies in its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class _NumpyDtype:
    """A kind of NumPy's numbers; like an array, it is named first and told its state later."""

    kind: str
    order: Literal["<", ">", "=", "|"] = "="


@dataclass
class _NumpyArray:
    tensor: Tensor | None = None


def parse_archive(data: bytes) -> Contents:
    """Return what the archive holds, no larger than the file.

    Raises:
        NotArraysError: It holds something else.
        zipfile.BadZipFile, ValueError, LookupError, EOFError, OverflowError, RuntimeError: It is malformed.
    """
    # zipfile makes an object of half a kilobyte of each entry, which is ten times what the entry takes.
    if data.count(b"PK\x01\x02") > ARRAYS.most:
        raise NotArraysError("more records than tensors have")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        if f"{prefix}/byteorder" in archive.namelist() and _record(archive, f"{prefix}/byteorder", 8) != b"little":
            raise NotArraysError("numbers of a big-endian machine")
        described = _describe(_record(archive, f"{prefix}/data.pkl", PICKLE_BYTES.most))
        tensors = [value for value in _values(described, 0) if isinstance(value, _Description)]
        # Views may repeat their numbers and share them, and would then be larger than the file.
        if sum(prod(one.shape) * one.storage.dtype.itemsize for one in tensors) > len(data):
            raise ValueError(f"it claims more numbers than {len(data):,} bytes can hold")
        paths = {one.storage.key: f"{prefix}/data/{one.storage.key}" for one in tensors}
        if sum(archive.getinfo(path).file_size for path in paths.values()) > len(data):
            raise ValueError("its records overlap")
        records = {key: _record(archive, path, len(data)) for key, path in paths.items()}
    return _filled(described, records)


def _record(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a record that is stored as it is: what unpacks could be larger than the file, or want a large window."""
    record = archive.getinfo(name)
    is_stored = record.compress_type == zipfile.ZIP_STORED and record.file_size == record.compress_size
    if not is_stored or record.file_size > most:
        raise ValueError(f"the record {name[:80]!r} is compressed or claims {record.file_size:,} bytes")
    return archive.read(record)


def _values(described: object, depth: int) -> Iterator[object]:
    """Yield all that is in lists and dicts, which a pickle may nest in themselves, or share without end."""
    count = 0
    inner: list[object] = [described]
    if isinstance(described, list):
        inner = cast(list[object], described)
    elif isinstance(described, dict):
        inner = list(cast(dict[object, object], described).values())
    else:
        yield described
        return
    if depth > PICKLE_LEVELS.most:
        raise NotArraysError("lists in lists without end")
    for value in inner:
        for one in _values(value, depth + 1):
            count += 1
            if count > PICKLE_VALUES.most:
                raise NotArraysError("more values than vectors have")
            yield one


def _filled(described: object, records: dict[str, bytes]) -> Contents:
    match described:
        case _Description():
            return _tensor(described, records[described.storage.key])
        case _NumpyArray(tensor=Tensor() as tensor):
            return tensor
        case list():
            return [_filled(value, records) for value in cast(list[object], described)]
        case dict():
            items = cast(dict[str | int, object], described).items()
            return {key: _filled(value, records) for key, value in items}
        case str() | int() | float() | None:
            return described
        case _:
            raise NotArraysError("a pickle of something else")


def _tensor(described: _Description, numbers: bytes) -> Tensor:
    storage = described.storage
    if storage.length * storage.dtype.itemsize != len(numbers):
        raise ValueError(f"it claims {storage.length:,} numbers and holds {len(numbers):,} bytes")
    # torch refuses a view that leaves its numbers, by a RuntimeError.
    return tensor_of(numbers, storage.dtype).as_strided(described.shape, described.strides, described.offset)


_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
# Before version 2, NumPy's module had another name.
_NUMPY_ARRAYS = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
_NUMPY_CLASS, _NUMPY_DTYPE, _ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
_NAMES = {*_STORAGES, _TENSOR, _PARAMETER, _ORDERED_DICT, *_NUMPY_ARRAYS, _NUMPY_CLASS, _NUMPY_DTYPE, _ENCODE}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None, "EMPTY_TUPLE": ()}
_LITERALS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _describe(pickled: bytes) -> object:
    """Follow the few steps of a pickle that describe tensors, arrays and what holds them; any other step ends it."""
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        step = opcode.name
        if count > PICKLE_STEPS.most:
            raise NotArraysError("a pickle of more steps than vectors take")
        if step == "GLOBAL":
            stack.append(_named(str(argument)))
        elif step in _LITERALS or step in _CONSTANTS:
            stack.append(_CONSTANTS.get(step, argument))
        elif step in _TUPLES:
            stack[-_TUPLES[step] :] = [tuple(stack[-_TUPLES[step] :])]
        elif step == "TUPLE":
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        elif step in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append(dict[object, object]() if step == "EMPTY_DICT" else list[object]())
        elif step in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            start = marks.pop() if step.endswith("S") else -2 if step == "SETITEM" else -1
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
        elif step == "BUILD":
            state = stack.pop()
            _tell(stack[-1], state)
        elif step not in ("PROTO", "FRAME", "STOP"):
            raise NotArraysError(f"a pickle with the step {step}")
    if len(stack) != 1:
        raise NotArraysError("a pickle of something else")
    return stack[0]


def _fill(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        cast(list[object], target).extend(items)
        return
    if not isinstance(target, dict):
        raise NotArraysError("a pickle of something else")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (int, str):
            raise NotArraysError("a dict whose keys are neither texts nor numbers")
        cast("dict[object, object]", target)[key] = value


def _named(name: str) -> _Name:
    dotted = name.replace(" ", ".")
    if dotted not in _NAMES:
        raise NotArraysError(f"a pickle that needs {dotted[:80]!r}", dotted)
    return _Name(dotted)


def _storage(identity: object) -> _Storage:
    match identity:
        case ("storage", _Name(name=kind), str(key), str(), int(length)) if kind in _STORAGES and length >= 0:
            return _Storage(_STORAGES[kind], key, length)
        case _:
            raise NotArraysError("a storage of another kind")


def _built(function: object, arguments: object) -> object:
    name = function.name if isinstance(function, _Name) else ""
    match arguments:
        case () if name == _ORDERED_DICT:
            return dict[object, object]()
        case (_Description() as tensor, bool(), dict()) if name == _PARAMETER:
            return tensor
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()) if name == _TENSOR:
            lengths, steps = _counts(shape), _counts(strides)
            if offset < 0 or len(lengths) != len(steps):
                raise NotArraysError(f"a tensor of the shape {lengths[:8]}")
            return _Description(storage, offset, lengths, steps)
        case (str(text), "latin1") if name == _ENCODE:
            return text.encode("latin1")
        case (str(kind), bool(), bool()) if name == _NUMPY_DTYPE and re.fullmatch("[fiu][1248]|b1", kind):
            return _NumpyDtype(kind)
        case (_Name(name=kind), (0,), b"b") if name in _NUMPY_ARRAYS and kind == _NUMPY_CLASS:
            return _NumpyArray()
        case _:
            raise NotArraysError("a pickle that calls something else")


def _tell(target: object, state: object) -> None:
    """Do what BUILD does: an array and its kind are told their state; what an ordered dict remembers is left out."""
    match target, state:
        case _NumpyDtype(), (3, ("<" | ">" | "=" | "|") as order, *_):
            target.order = order
        case _NumpyArray(), (1, tuple(shape), _NumpyDtype() as dtype, bool(is_fortran), bytes(numbers)):
            array = np.frombuffer(numbers, np.dtype(dtype.kind).newbyteorder(dtype.order))
            array = array.reshape(_counts(shape), order="F" if is_fortran else "C")
            target.tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        case dict(), dict():
            pass
        case _:
            raise NotArraysError("a pickle of something else")


def _counts(numbers: tuple[object, ...]) -> tuple[int, ...]:
    counts = tuple(number for number in numbers if type(number) is int and 0 <= number < 2**62)
    if len(counts) != len(numbers):
        raise NotArraysError("a tensor of no shape")
    return counts
