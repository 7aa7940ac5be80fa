"""Two checkpoints' folders → pairs of tensors that stand at one place, read in slices.

A tensor that one checkpoint lacks stands beside what it is tied to, or, if it is a bias, beside zeros. Memory stays at
two tensors, or less. It must not know what a difference means.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from steer_tools.engines.huggingface.checkpoint import Sizes
from steer_tools.errors import BakingError
from steer_tools.limits import JSON_BYTES, parsed_json
from steer_tools.weights.checkpoint_layout import ignores, layer_of, refuse_other_weights, sizes_of
from steer_tools.weights.checkpoints import CONFIG
from steer_tools.weights.shards import FLOATS, Opening, Place, find_tensors

# Of float64 rows that are computed with at once.
_ELEMENTS = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights that stay on the disk."""

    folder: Path
    config: Mapping[str, object]
    sizes: Sizes
    tensors: Mapping[str, Place]


@dataclass(frozen=True)
class Pair:
    """One tensor of each checkpoint; None means zeros. `name` is the checkpoint's, or the base's if it has none."""

    name: str
    before: Place | None
    after: Place | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both; that of a vector for a single number."""
        return cast(Place, self.after or self.before).shape or (1,)

    @property
    def dtypes(self) -> list[torch.dtype] | None:
        """The dtypes of those that are there; None where one is not a float's."""
        names = [place.dtype for place in (self.before, self.after) if place]
        return [FLOATS[name] for name in names] if FLOATS.keys() >= set(names) else None

    @property
    def coarsest(self) -> torch.dtype:
        """The less exact one of its dtypes."""
        return max(self.dtypes or (), key=lambda dtype: torch.finfo(dtype).eps)

    def rows(self, axis: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield slices of both, (rows, shape[axis]) float64: first the base's, then the checkpoint's.

        Where `axis` is the first of several, both tensors are read whole, in their own dtypes.
        """
        there = (_rows(place, axis, self.coarsest) for place in (self.before, self.after) if place)
        for slices in zip(*there, strict=True):
            before = slices[0] if self.before else torch.zeros_like(slices[0])
            yield before, slices[-1] if self.after else torch.zeros_like(slices[0])

    def is_equal(self) -> bool:
        """Return whether both have the same values, once they are rounded to the coarser dtype: −0 is 0."""
        places = [place for place in (self.before, self.after) if place]
        is_alike = len(places) == 2 and places[0].dtype == places[1].dtype
        if is_alike and all(a == b for a, b in zip_longest(*(place.chunks for place in places))):
            return True
        return self.dtypes is not None and all(
            torch.equal(before, after) for before, after in self.rows(len(self.shape) - 1)
        )


@dataclass(frozen=True)
class Pairing:
    """All pairs, and the names of what stands beside nothing; `stand_ins` counts tensors that one checkpoint lacks.

    Of what stands beside nothing, `ignored` are biases that the model of its own config does not have.
    """

    pairs: tuple[Pair, ...]
    only_in_checkpoint: tuple[str, ...]
    only_in_base: tuple[str, ...]
    stand_ins: int
    ignored: tuple[str, ...]


def open_checkpoint(folder: Path, opened: Opening) -> Checkpoint:
    """Read a checkpoint's config and where its tensors lie.

    Raises:
        BakingError: It is no safetensors checkpoint with the config of a language model.
    """
    tensors = find_tensors(folder, opened)
    if not (folder / CONFIG).is_file():
        raise BakingError(f"{folder} holds no {CONFIG}", valid=f"a folder with weights and their {CONFIG}")
    with opened(folder / CONFIG) as file:
        config = parsed_json(file.read(JSON_BYTES.most + 1), str(folder / CONFIG), BakingError)
    if not isinstance(config, dict):
        raise BakingError(f"{folder / CONFIG} is no object", fix="Download or save it again.")
    known = cast(dict[str, object], config)
    refuse_other_weights(known, folder)
    return Checkpoint(folder, known, sizes_of(known, folder / CONFIG), tensors)


def pair_up(checkpoint: Checkpoint, base: Checkpoint) -> Pairing:
    """Put each tensor of one beside that of the other.

    Raises:
        BakingError: They are of different architectures, or a tensor has another shape.
    """
    if checkpoint.sizes != base.sizes:
        raise BakingError(
            f"{checkpoint.folder} is of {_in_words(checkpoint.sizes)}, and {base.folder} of {_in_words(base.sizes)}",
            valid="two checkpoints of one architecture",
            fix="Give the checkpoint that this one was made from as the base.",
        )
    theirs = _as_named_in(checkpoint.tensors, base.tensors)
    shared = [Pair(name, theirs[name], place) for name, place in checkpoint.tensors.items() if name in theirs]
    for pair in shared:
        if pair.before and pair.after and pair.before.shape != pair.after.shape:
            raise BakingError(
                f"{pair.name!r} has the shape {list(pair.shape)}, and in the base {list(pair.before.shape)}",
                valid="two checkpoints whose tensors have equal shapes",
                fix="Give the checkpoint that this one was made from as the base.",
            )
    added = {name: place for name, place in checkpoint.tensors.items() if name not in theirs}
    dropped = {name: place for name, place in theirs.items() if name not in checkpoint.tensors}
    pairs, only, ignored = list(shared), list[list[str]](), list[str]()
    for names, own, other, is_added in ((added, checkpoint, base, True), (dropped, base, checkpoint, False)):
        alone = [name for name in names if ignores(own.config, name)]
        ignored += alone
        for name, place in ((name, place) for name, place in names.items() if name not in alone):
            beside, is_found = _stand_in(name, place, other, checkpoint.tensors if is_added else theirs)
            if is_found:
                pairs.append(Pair(name, beside, place) if is_added else Pair(name, place, beside))
            else:
                alone.append(name)
        only.append(alone)
    return Pairing(tuple(pairs), tuple(only[0]), tuple(only[1]), len(pairs) - len(shared), tuple(ignored))


def _in_words(sizes: Sizes) -> str:
    return f"{sizes.family!r} with {sizes.layers} layers of width {sizes.width}"


def _as_named_in(names: Mapping[str, Place], tensors: Mapping[str, Place]) -> dict[str, Place]:
    """Return the tensors under the other's names: some are saved without the prefix of the model inside."""
    inner = {name.partition(".")[2]: name for name in reversed(list(names))}
    renamed = {name: place for name, place in tensors.items() if name in names}
    for name, place in tensors.items():
        if name not in names:
            bare = name.partition(".")[2]
            found = inner.get(name, bare if bare in names else name)
            # Two parts of a model, such as text and vision, may have tensors of one bare name.
            renamed[name if found in renamed else found] = place
    return renamed


def _stand_in(name: str, place: Place, other: Checkpoint, own: Mapping[str, Place]) -> tuple[Place | None, bool]:
    """Return what a tensor that the other checkpoint lacks stands beside, and whether there is anything."""
    if name.endswith("bias") and place.dtype in FLOATS and f"{name.removesuffix('bias')}weight" in own:
        return None, True
    # Outside the blocks, embeddings and nothing else are matrices of one shape.
    alike = [p for n, p in other.tensors.items() if p.shape == place.shape and layer_of(n) is None]
    may_be_tied = other.config.get("tie_word_embeddings") is not False and len(place.shape) == 2
    is_tied = may_be_tied and layer_of(name) is None and len(alike) == 1
    return (alike[0], True) if is_tied else (None, False)


def _rows(place: Place, axis: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield slices of one tensor, (rows, width) float64, rounded to `dtype`."""
    shape = place.shape or (1,)
    width, blocks, inner = shape[axis], prod(shape[:axis]), prod(shape[axis + 1 :])
    if not place.size:
        return
    count = max(1, _ELEMENTS // width)
    # So many blocks (width, inner) are read at once.
    together = max(1, count // inner)
    with place.opened(place.file) as file:
        file.seek(place.start)
        for start in range(0, blocks, together):
            data = bytearray(place.size // blocks * min(together, blocks - start))
            cast(BufferedReader, file).readinto(data)
            block = torch.frombuffer(data, dtype=FLOATS[place.dtype]).view(-1, width, inner)
            for piece in block.split(count, dim=2):
                # Of one block the rows are a view: to turn them round in memory would take longer than all else.
                yield piece.to(dtype).double().movedim(1, 2).reshape(-1, width)
