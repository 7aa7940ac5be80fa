"""Frozen values that hold tensors: equal by what they hold, with a digest that is the same in every process.

Dataclasses come in, canonical bytes and their SHA-256 leave. It must not know what the values mean.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor


class Value:
    """What frozen dataclasses inherit that have a digest; with `eq=False` they are compared by it, tensors bit by bit.

    The digest is made once an object, so that a tensor is not read again each time that rows are grouped.
    """

    @cached_property
    def digest(self) -> str:
        """64 hex digits, the same for equal values in any process."""
        return digest_of(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and self.digest == cast(Value, other).digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __getstate__(self) -> dict[str, Any]:
        # A digest says what the object held when it was asked; the copy is asked anew.
        return {name: value for name, value in vars(self).items() if name != "digest"}


def digest_of(value: object) -> str:
    """Return the SHA-256 of a value's canonical bytes, 64 hex digits.

    Raises:
        TypeError: It holds something that is no number, text, tuple, tensor or dataclass.
    """
    digest = hashlib.sha256()
    for part in _parts(value, is_whole=True):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: object, *, is_whole: bool = False) -> Iterator[bytes]:
    """Yield what tells a value from others; of one that is a part of another, its own digest, made once."""
    match value:
        case None:
            yield b"none"
        case str():
            yield from (b"text", value.encode())
        case bool():
            yield from (b"bool", b"01"[value : value + 1])
        case int() | float():
            # 1 and 1.0 are equal, and so are the two zeros.
            yield from (b"number", (float(value) + 0.0).hex().encode())
        case Tensor():
            stored = value.detach().cpu().contiguous()
            yield f"tensor {stored.dtype} {tuple(stored.shape)}".encode()
            yield stored.reshape(-1).view(torch.uint8).numpy().tobytes()
        case tuple():
            items = cast(tuple[object, ...], value)
            yield f"{type(items).__qualname__} of {len(items)}".encode()
            for item in items:
                yield from _parts(item)
        case Value() if not is_whole:
            yield from (b"value", value.digest.encode())
        case _ if is_dataclass(value) and not isinstance(value, type):
            yield f"{type(value).__qualname__} of {len(fields(value))}".encode()
            for field in fields(value):
                yield field.name.encode()
                yield from _parts(getattr(value, field.name))
        case _:
            raise TypeError(f"A {type(value).__name__} has no canonical bytes")
