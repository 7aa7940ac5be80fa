"""Every reader against files that are cut, flipped or forged: a typed error or a valid vector, in little memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from steer_tools import SteeringVector
from steer_tools.errors import SteeringError
from steer_tools.formats import FORMATS
from steer_tools.formats.base import Encoded, Unsaid, VectorFormat

FLIPS = 3000
BY_NAME = {vector_format.name: vector_format for vector_format in FORMATS}


def encoded_by(vector_format: VectorFormat) -> Encoded:
    generator = torch.Generator().manual_seed(1)
    layers = (1, 3) if vector_format.holds_several_layers else (1,)
    directions = {n: torch.randn(8, generator=generator) for n in layers}
    beside = {1: torch.randn(8, generator=generator)}
    return vector_format.encode(SteeringVector.from_directions(directions, means=beside, erasers=beside))


def outcome(vector_format: VectorFormat, encoded: Encoded) -> str:
    """Return the error's name, or that there is a vector, which is then a sound one; anything else is raised."""
    try:
        vector = vector_format.decode(encoded, "v", Unsaid(1)).vector
    except SteeringError as error:
        assert len(str(error)) < 2000
        return type(error).__name__
    assert all(t.dim() == 1 and t.isfinite().all() and t.any() for t in vector.directions.values())
    return "a vector"


@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_that_is_cut_anywhere_is_refused(name: str) -> None:
    encoded = encoded_by(BY_NAME[name])

    outcomes = {
        length: outcome(BY_NAME[name], Encoded(encoded.data[:length], encoded.sidecar))
        for length in range(len(encoded.data))
    }

    # GGUF pads the last tensor with zeros, which nothing misses.
    padding = -8 * 4 % 32
    assert [n for n, what in outcomes.items() if what == "a vector" and n < len(encoded.data) - padding] == []
    assert outcome(BY_NAME[name], encoded) == "a vector"


@pytest.mark.parametrize("name", ["npy", "rotalabs"])
def test_a_description_that_is_cut_anywhere_is_refused(name: str) -> None:
    encoded = encoded_by(BY_NAME[name])
    assert encoded.sidecar is not None

    outcomes = Counter(
        outcome(BY_NAME[name], Encoded(encoded.data, encoded.sidecar[:length]))
        for length in range(len(encoded.sidecar))
    )

    assert outcomes == {"VectorFileError": len(encoded.sidecar)}


@pytest.mark.parametrize("name", BY_NAME)
def test_flipped_bytes_give_a_typed_error_or_a_sound_vector(name: str) -> None:
    encoded, choose = encoded_by(BY_NAME[name]), random.Random(7)
    outcomes = Counter[str]()

    for _ in range(FLIPS):
        data, sidecar = bytearray(encoded.data), bytearray(encoded.sidecar or b"")
        for part in (data, sidecar):
            for _ in range(choose.choice((0, 1, 1, 1, 2, 8)) if part else 0):
                part[choose.randrange(len(part))] = choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)))
        outcomes[outcome(BY_NAME[name], Encoded(bytes(data), bytes(sidecar) or None))] += 1

    assert outcomes["a vector"] > 0
    assert outcomes["VectorFileError"] > FLIPS / 20


@pytest.mark.parametrize("name", BY_NAME)
def test_noise_gives_a_typed_error(name: str) -> None:
    choose = random.Random(11)
    start = encoded_by(BY_NAME[name]).data[:4]

    outcomes = {outcome(BY_NAME[name], Encoded(start + choose.randbytes(choose.randrange(400)))) for _ in range(500)}

    assert outcomes <= {"VectorFileError", "DirectionError"}


_FORGED = """
import base64, io, json, resource, struct, sys, zipfile
import numpy, torch, zstandard
from steer_tools import SteeringVector
from steer_tools.errors import SteeringError
from steer_tools.formats import FORMATS
from steer_tools.formats.base import Encoded, Unsaid

BY_NAME = {one.name: one for one in FORMATS}
text = lambda s: struct.pack("<Q", len(s)) + s
architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"controlvector")
entry = lambda n, width, offset=0: text(b"direction.%d" % n) + struct.pack("<IQIQ", 1, width, 0, offset)
gguf = lambda tensors, values, rest: b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + rest

def pt(value, **changes):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()

def bomb():
    class Bomb:
        def __reduce__(self):
            return (bytearray, (2**40,))
    return pt(Bomb())

def deflated():
    old, buffer = zipfile.ZipFile(io.BytesIO(pt(torch.ones(4)))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(2**28) if name.endswith("data/0") else old.read(name))
    return buffer.getvalue()

def nested():
    # Ten lists of thirty, each thirty times in the next: nine hundred billion values.
    value = [torch.ones(4)] * 30
    for _ in range(7):
        value = [value] * 30
    return pt({"vector": value})

def npz(*names):
    buffer, record = io.BytesIO(), io.BytesIO()
    numpy.save(record, numpy.zeros(2**22, numpy.float32))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name.decode(), record.getvalue())
    return buffer.getvalue()

def lens(shape, data):
    numbers = {"data": base64.b64encode(data).decode(), "dtype": "float32", "shape": shape, "compression": "zstd"}
    return json.dumps({"activations": numbers, "layer_indices": [1]}).encode()

shaped = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"
packed = zstandard.ZstdCompressor(level=19).compress(bytes(2**30))
forged = [
    ("gguf", gguf(2**62, 1, architecture)),
    ("gguf", gguf(1, 2**62, architecture)),
    ("gguf", gguf(1, 1, text(b"x") + struct.pack("<IIQ", 9, 4, 2**62))),
    ("gguf", gguf(1, 1, text(b"x") + struct.pack("<IIQ", 9, 8, 2**62))),
    ("gguf", gguf(1, 1, architecture + entry(1, 2**40) + bytes(99))),
    ("gguf", gguf(999, 1, architecture + b"".join(entry(n + 1, 2**18) for n in range(999)) + bytes(2**20 + 99))),
    ("pt", bomb()),
    ("pt", nested()),
    ("npz", npz(b"1.npy")),
    ("npz", npz(b"1.npy", b"2.npy")),
    ("pt", deflated()),
    ("pt", pt(torch.ones(1).expand(2**40))),
    ("pt", pt(torch.empty(2**40, device="meta"))),
    ("pt", pt({n: torch.ones(1).expand(2**30) for n in range(99)})),
    ("vllm-lens", lens([1, 2**40], packed)),
    ("vllm-lens", lens([1, 8], packed)),
    ("vllm-lens", lens([1, 2**28], packed)),
    ("npy", b"\\x93NUMPY\\x01\\x00\\x50\\x00" + shaped.ljust(79) + b"\\n"),
    ("safetensors", (2**40).to_bytes(8, "little") + b"{}"),
]
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, data in forged:
    try:
        BY_NAME[name].decode(Encoded(data), "v", Unsaid(1))
    except SteeringError as error:
        print(name, type(error).__name__)
    else:
        raise SystemExit(f"{name} was read")
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
for greedy in (lambda: bytearray(2**29), lambda: torch.load(io.BytesIO(bomb()), weights_only=True)):
    try:
        greedy()
    except Exception as error:
        print("limited", type(error).__name__)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from what Linux says is in use")
def test_forged_sizes_of_terabytes_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _FORGED], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.endswith("Error") and not line.startswith("limited")]) == 19
    assert int(next(line for line in lines if line.startswith("KiB")).split()[1]) < 64 * 1024
    # The limit holds, and torch's own safe loading runs into it.
    assert [line for line in lines if line.startswith("limited")] == ["limited MemoryError", "limited MemoryError"]
