"""What tests look at in pictures."""

from __future__ import annotations

import struct


def size_of_png(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", picture[16:24])
