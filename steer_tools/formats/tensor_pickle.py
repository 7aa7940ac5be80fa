"""The pickle of a tensor → a description of the tensor; nothing in it is looked up, called or run.

It is read step by step, and a step that no saved tensor has ends the reading. It must not know files or numbers.
"""

import pickletools
from dataclasses import dataclass
from typing import cast

import torch

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}
_TENSOR, _PARAMETER, _NO_HOOKS = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
)
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None, "EMPTY_TUPLE": ()}
_LITERALS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


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


def describe(pickled: bytes) -> Description | dict[int, Description]:
    """Follow the few steps of a pickle that describe a tensor or a dict of them; any other step ends it."""
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        step = opcode.name
        if step == "GLOBAL":
            stack.append(_named(str(argument)))
        elif step in _LITERALS:
            stack.append(argument)
        elif step in _CONSTANTS:
            stack.append(_CONSTANTS[step])
        elif step in _TUPLES:
            stack[-_TUPLES[step] :] = [tuple(stack[-_TUPLES[step] :])]
        elif step == "EMPTY_DICT":
            stack.append(dict[int, Description]())
        elif step == "SETITEM":
            _fill(stack[-3], stack[-2:])
            del stack[-2:]
        elif step == "SETITEMS":
            start = marks.pop()
            _fill(stack[start - 1], stack[start:])
            del stack[start:]
        elif step == "MARK":
            marks.append(len(stack))
        elif step == "TUPLE":
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
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
    match stack:
        case [Description() as tensor]:
            return tensor
        case [dict() as tensors] if tensors:
            return cast("dict[int, Description]", tensors)
        case _:
            raise NotATensorError("a pickle of something else")


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
