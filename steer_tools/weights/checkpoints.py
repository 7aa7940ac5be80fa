"""A checkpoint's folder and edits → the edited folder, with a file that takes the edits out again bit by bit.

It must not know models, plans or directions.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from steer_tools.errors import BakingError
from steer_tools.progress import report
from steer_tools.session.session import current_session
from steer_tools.weights.shards import (
    FLOATS,
    INDEX,
    SINGLE,
    NewTensor,
    Place,
    find_tensors,
    read_header,
    weight_files,
    write_file,
    zeros,
)
from steer_tools.weights.tensor_edits import CheckpointEdits, TensorEdit, change_slice, slices

CONFIG, UNDO, CARD, CONTROL_VECTOR = "config.json", "undo.safetensors", "README.md", "control_vector.gguf"
_GENERATION_CONFIG = "generation_config.json"
# How the files of a checkpoint of one file are called once a second stands beside it, which then holds what is new.
_FIRST, _SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_ADDED = "model-added.safetensors"
_METADATA = "steer_tools_undo"


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint's weights and configs, and nothing else that may lie beside them."""
    names = weight_files(source)
    # transformers takes a single file before an index, which is then a leftover.
    beside = (CONFIG, _GENERATION_CONFIG) if names == [SINGLE] else (CONFIG, _GENERATION_CONFIG, INDEX)
    for name in (*names, *(name for name in beside if (source / name).is_file())):
        shutil.copyfile(source / name, target / name)


def edit_checkpoint(folder: Path, edits: CheckpointEdits) -> None:
    """Edit a checkpoint where it lies, tensor by tensor, and write what it was before to its undo file.

    Raises:
        BakingError: It lacks a tensor, or holds it in a dtype that cannot be edited, as where it is quantised.
    """
    tensors = find_tensors(folder)
    _refuse_unfit(folder, tensors, edits)
    undone = {name: tensors[name] for name in (*edits.changed, *edits.copies) if name in tensors}
    before = {
        "config": (folder / CONFIG).read_text(encoding="utf-8"),
        "index": (folder / INDEX).read_text(encoding="utf-8") if (folder / INDEX).is_file() else None,
    }
    write_file(folder / UNDO, undone, {_METADATA: json.dumps(before)})
    _add(folder, tensors, edits)
    _set_config(folder, edits)
    tensors = find_tensors(folder)
    for done, (name, change) in enumerate(edits.changed.items()):
        report(done, len(edits.changed), "editing the checkpoint")
        _change(tensors[name], change)


@dataclass(frozen=True)
class Undone:
    """How many tensors got their own values back, and how many that were new are gone."""

    restored: int
    removed: int


def undo_edited_model(folder: str | os.PathLike[str]) -> Undone:
    """Take the edits out of a checkpoint that save_edited_model wrote.

    Every weight gets back its own bits. The tokenizer stays; the model card and the undo file are removed. A relative
    folder is below the workspace.

    Raises:
        BakingError: The folder holds no such checkpoint, or another one than its undo file was written for.
    """
    folder = current_session().workspace.resolve(folder)
    if not (folder / UNDO).is_file():
        raise BakingError(f"{folder} holds no {UNDO}", valid="a folder that save_edited_model wrote")
    saved, metadata = read_header(folder / UNDO)
    tensors = find_tensors(folder)
    for name, place in saved.items():
        if name not in tensors or (tensors[name].dtype, tensors[name].shape) != (place.dtype, place.shape):
            raise BakingError(
                f"{folder / UNDO} is of another checkpoint: {name!r} does not fit", fix="Save the model again."
            )
    before = cast(dict[str, str | None], json.loads(metadata[_METADATA]))
    new = _SECOND if before["index"] is None else _ADDED
    removed = sum(place.file.name == new for place in tensors.values())
    for name, place in saved.items():
        tensors[name].overwrite(place.chunks)
    (folder / CONFIG).write_text(cast(str, before["config"]), encoding="utf-8")
    if before["index"] is not None:
        (folder / INDEX).write_text(before["index"], encoding="utf-8")
    elif (folder / _FIRST).is_file():
        (folder / _FIRST).rename(folder / SINGLE)
        (folder / INDEX).unlink(missing_ok=True)
    for name in (new, CONTROL_VECTOR, CARD, UNDO):
        (folder / name).unlink(missing_ok=True)
    return Undone(len(saved), removed)


def _refuse_unfit(folder: Path, tensors: dict[str, Place], edits: CheckpointEdits) -> None:
    new = {*edits.zeros, *edits.copies}
    for name in (*edits.changed, *edits.copies.values()):
        if name in tensors and tensors[name].dtype not in FLOATS:
            raise BakingError(f"{name!r} is stored as {tensors[name].dtype}", valid=f"weights in {', '.join(FLOATS)}")
        if name not in tensors and name not in new:
            raise BakingError(
                f"The checkpoint in {folder} has no tensor {name!r}", fix="Load and save the model again."
            )


def _add(folder: Path, tensors: dict[str, Place], edits: CheckpointEdits) -> None:
    """Write what is new to a file of its own; a copy whose name is taken is written over what has it."""
    new: dict[str, NewTensor | Place] = {}
    for name, source in edits.copies.items():
        if name in tensors:
            tensors[name].overwrite(tensors[source].chunks)
        else:
            new[name] = tensors[source]
    for name, shape in edits.zeros.items():
        beside = tensors.get(f"{name.rpartition('.')[0]}.weight", next(iter(tensors.values())))
        new[name] = zeros(shape, beside.dtype)
    if not new:
        return
    if (folder / INDEX).is_file():
        file, index = _ADDED, cast(dict[str, Any], json.loads((folder / INDEX).read_text(encoding="utf-8")))
    else:
        file, index = _SECOND, cast(dict[str, Any], {"metadata": {}, "weight_map": dict.fromkeys(tensors, _FIRST)})
    write_file(folder / file, new, {"format": "pt"})
    index["weight_map"] |= dict.fromkeys(new, file)
    index["metadata"]["total_size"] = sum(one.size for one in (*tensors.values(), *new.values()))
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if file == _SECOND:
        (folder / SINGLE).rename(folder / _FIRST)


def _set_config(folder: Path, edits: CheckpointEdits) -> None:
    """Set entries of the config, and of the text model's part of it where that has them, too."""
    if not edits.config:
        return
    config = cast(dict[str, Any], json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    for name, value in edits.config.items():
        config[name] = value
        for part in config.values():
            if isinstance(part, dict) and name in part:
                cast(dict[str, Any], part)[name] = value
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _change(place: Place, edit: TensorEdit) -> None:
    at = place.start
    with place.file.open("r+b") as file:
        for size in slices(place, edit):
            data = bytearray(size)
            file.seek(at)
            file.readinto(data)
            change_slice(data, place, edit)
            file.seek(at)
            file.write(data)
            at += size
