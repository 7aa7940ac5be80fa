"""A checkpoint's folder and edits → the edited folder, with a file that takes the edits out again bit by bit.

It must not know models, plans or directions.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from itertools import chain, count
from math import prod
from pathlib import Path
from typing import Any, cast

from steer_tools.errors import BakingError, VectorFileError
from steer_tools.progress import report
from steer_tools.session.session import current_session
from steer_tools.weights.shards import (
    FLOATS,
    INDEX,
    SINGLE,
    NewTensor,
    Place,
    find_tensors,
    refuse_full_disk,
    weight_files,
    write_file,
    zeros,
)
from steer_tools.weights.tensor_edits import CheckpointEdits, TensorEdit, change_slice, slices
from steer_tools.weights.undo_file import (
    ADDED,
    CARD,
    CONFIG,
    CONTROL_VECTOR,
    FIRST,
    SECOND,
    UNDO,
    UndoFile,
    is_card,
    names_in,
    read_undo_file,
    write_undo_file,
)

_GENERATION_CONFIG = "generation_config.json"
# Of a number in a tensor.
_MOST_BYTES = 8


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint's weights and configs, and nothing else that may lie beside them."""
    names = weight_files(source)
    refuse_full_disk(target, sum((source / name).stat().st_size for name in names))
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
    copied = sum(tensors[name].size for name in edits.copies.values() if name in tensors)
    new = sum(prod(shape) for shape in edits.zeros.values()) * _MOST_BYTES
    refuse_full_disk(folder, sum(place.size for place in undone.values()) + copied + new)
    write_undo_file(folder, undone)
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

    Every weight gets back its own bits. The tokenizer stays, and so do files of yours; the model card and the undo file
    are removed. A relative folder is below the workspace. The undone checkpoint is made beside the edited one, of which
    the files that changed take room twice meanwhile, and then takes its place: what is cut off can be run again.

    Raises:
        BakingError: The folder holds no such checkpoint, or another one than its undo file was written for; the disk
            has no room; or something in the folder was changed meanwhile. The folder is as it was.
    """
    workspace = current_session().workspace
    edited = workspace.resolve(folder)
    if edited.is_symlink():
        raise BakingError(f"{edited} is a link", fix="Give the folder that it leads to.")
    try:
        with workspace.settled(edited):  # A run that was killed between two renames is put in order first.
            undo, seen = read_undo_file(edited), _state_of(edited)

        def refuse_changed(there: Path) -> None:
            if _state_of(there) != seen:
                raise BakingError(f"{there} was changed while it was undone", fix="Nothing was undone: run it again.")

        with workspace.new_folder(edited, replacing=refuse_changed) as part:
            _copy_undone(edited, part, undo)
    except (OSError, VectorFileError) as error:
        raise BakingError(
            f"{edited} cannot be undone ({error.__cause__ or error})",
            fix="Nothing in it was changed: mend that, and run it again.",
        ) from error
    return Undone(len(undo.places), undo.removed)


def _state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what changes with any file of a folder, by name."""
    found = ((name, (folder / name).lstat()) for name in names_in(folder))
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found}


def _copy_undone(edited: Path, part: Path, undo: UndoFile) -> None:
    """Fill `part` with what the edited folder was before; what stays the same is linked, where the disk can."""
    changed = {now.file.name for _, now in undo.places.values()}
    dropped = {*undo.added, *changed, CONFIG, INDEX, CONTROL_VECTOR, UNDO, *([CARD] if is_card(edited / CARD) else [])}
    unlinked: list[tuple[Path, Path]] = []

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            unlinked.append((Path(source), Path(target)))

    def left_out(at: str, _: list[str]) -> set[str]:
        return dropped if Path(at) == edited else set()

    shutil.copytree(edited, part, symlinks=True, ignore=left_out, copy_function=link, dirs_exist_ok=True)
    copied = [*(source for source, _ in unlinked), *(edited / name for name in changed)]
    refuse_full_disk(part, sum(path.stat().st_size for path in copied))
    for source, target in unlinked:
        shutil.copy2(source, target)
    for name in changed:
        shutil.copyfile(edited / name, part / name)
    for done, (then, now) in enumerate(undo.places.values()):
        report(done, len(undo.places), "undoing the edits")
        replace(now, file=part / now.file.name).overwrite(then.chunks)
    (part / CONFIG).write_text(undo.before.config, encoding="utf-8")
    if undo.before.index is not None:
        (part / INDEX).write_text(undo.before.index, encoding="utf-8")
    elif not (part / SINGLE).exists():
        (part / FIRST).rename(part / SINGLE)
    find_tensors(part)  # What would not load takes no place.


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
        file, index = _unused(folder), cast(dict[str, Any], json.loads((folder / INDEX).read_text(encoding="utf-8")))
    else:
        file, index = SECOND, cast(dict[str, Any], {"metadata": {}, "weight_map": dict.fromkeys(tensors, FIRST)})
    write_file(folder / file, new, {"format": "pt"})
    index["weight_map"] |= dict.fromkeys(new, file)
    index.setdefault("metadata", {})["total_size"] = sum(one.size for one in (*tensors.values(), *new.values()))
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if file == SECOND:
        (folder / SINGLE).rename(folder / FIRST)


def _unused(folder: Path) -> str:
    """Return the name of a new weight file; an edited checkpoint that is edited again has one of the first name."""
    names = (ADDED.replace("added", f"added-{number}") for number in count(2))
    return next(name for name in chain([ADDED], names) if not (folder / name).exists())


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
