"""What a checkpoint was before it was edited ↔ the file in its folder that takes the edits out again.

Whoever reads it has it validated whole, before anything is changed by it. It must not know models, plans or directions.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from steer_tools.errors import BakingError, quoted
from steer_tools.limits import FOLDERS
from steer_tools.weights.shards import (
    INDEX,
    SINGLE,
    Place,
    files_of_index,
    find_tensors,
    read_header,
    weight_files,
    write_file,
)

CONFIG, UNDO, CARD, CONTROL_VECTOR = "config.json", "undo.safetensors", "README.md", "control_vector.gguf"
# How the files of a checkpoint of one file are called once a second stands beside it, which then holds what is new.
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ADDED = "model-added.safetensors"
# By which a card is known for ours: one that somebody wrote on is theirs.
CARD_ENDING = "Texts of this model are steered: say so where you show them.\n"
_METADATA = "steer_tools_undo"
_OBJECT = TypeAdapter(dict[str, Any])


class _Before(BaseModel):
    """What is no tensor.

    Attributes:
        config: The text of the config.
        index: That of the index, if there was one.
        files: The names of all files that there were.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    config: str
    index: str | None
    files: tuple[str, ...] = Field(default=(), strict=False)


@dataclass(frozen=True)
class UndoFile:
    """A folder's undo file, held against the folder.

    Attributes:
        places: What a changed tensor was, and where it now lies, by name.
        before: The config and the index, as they were.
        added: The names of the files that hold what is new.
        removed: How many tensors are new.
    """

    places: Mapping[str, tuple[Place, Place]]
    before: _Before
    added: frozenset[str]
    removed: int

    def strangers(self, folder: Path) -> list[str]:
        """Return what lies in the folder and is no part of the edited checkpoint."""
        known = {*self.before.files, *self.added, UNDO, INDEX, FIRST, CONTROL_VECTOR} - {CARD}
        known |= {CARD} if is_card(folder / CARD) else set()
        return [name for name in names_in(folder) if name not in known or (folder / name).is_symlink()]


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder and in those below it, but for folders that hold something, in order.

    Raises:
        BakingError: They are too many below each other.
    """
    names, folders = list[str](), [Path()]
    while folders:
        inner = folders.pop()
        with os.scandir(folder / inner) as entries:
            there = {inner / entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        folders += [path for path, is_folder in there.items() if is_folder]
        names += [path.as_posix() for path, is_folder in there.items() if not is_folder]
        if not there and inner != Path():
            names.append(inner.as_posix())
        FOLDERS.require(len(inner.parts), f"In {folder} lie below each other", BakingError)
    return sorted(names)


def is_card(path: Path) -> bool:
    """Return whether a file is the model card of an edited checkpoint, as it was written."""
    return path.is_file() and path.read_bytes().endswith(CARD_ENDING.encode())


def write_undo_file(folder: Path, undone: Mapping[str, Place]) -> None:
    """Write what a checkpoint that is not edited yet is."""
    index = (folder / INDEX).read_text(encoding="utf-8") if (folder / INDEX).is_file() else None
    config = (folder / CONFIG).read_text(encoding="utf-8")
    before = _Before(config=config, index=index, files=tuple(names_in(folder)))
    write_file(folder / UNDO, undone, {_METADATA: before.model_dump_json()})


def read_undo_file(folder: Path) -> UndoFile:
    """Return what an edited checkpoint was before.

    Raises:
        BakingError: The folder holds no such checkpoint, its undo file is damaged, or was written for another one.
    """
    file = folder / UNDO
    if not file.is_file():
        raise BakingError(f"{folder} holds no {UNDO}", valid="a folder that save_edited_model wrote")
    saved, metadata = read_header(file)
    try:
        before = _Before.model_validate_json(metadata.get(_METADATA, ""))
        _OBJECT.validate_json(before.config)
    except ValidationError as error:
        raise BakingError(
            f"{file} does not say what the checkpoint was before", valid="what save_edited_model wrote", fix=_AGAIN
        ) from error
    now, then = (
        weight_files(folder),
        [FIRST, SINGLE] if before.index is None else files_of_index(before.index.encode(), file),
    )
    tensors, added = find_tensors(folder), frozenset(now).difference(then)
    for name, place in saved.items():
        if name not in tensors or (tensors[name].dtype, tensors[name].shape) != (place.dtype, place.shape):
            raise BakingError(f"{file} is of another checkpoint: {quoted(name)} does not fit", fix=_AGAIN)
        if tensors[name].file.name in added:
            raise BakingError(f"{file} is of another checkpoint: {quoted(name)} is new in this one", fix=_AGAIN)
    removed = sum(place.file.name in added for place in tensors.values())
    return UndoFile({name: (place, tensors[name]) for name, place in saved.items()}, before, added, removed)


_AGAIN = "Save the model again to another folder; this one is as it was."
