"""Undoing validates everything first, and takes the place of the edited checkpoint whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file, save_file

from helpers.edited_checkpoints import (
    EDITS,
    SHAPES,
    contents,
    edited_checkpoint,
    metadata_of,
    plain_checkpoint,
    with_metadata,
)
from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools import create_steering_vector, save_edited_model, save_vector, undo_edited_model
from steer_tools.errors import ArgumentError, BakingError
from steer_tools.session.session import Session
from steer_tools.weights import saved_model
from steer_tools.weights.checkpoints import edit_checkpoint
from steer_tools.weights.shards import find_tensors
from steer_tools.weights.tensor_edits import CheckpointEdits
from steer_tools.weights.undo_file import CARD_ENDING

UNDO, KEY = "undo.safetensors", "steer_tools_undo"


@pytest.fixture(params=SHAPES, ids=[f"{name}, {'sharded' if sharded else 'one file'}" for name, sharded in SHAPES])
def edited(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """An edited checkpoint, and what it has to be once it is undone."""
    name, sharded = request.param
    return tmp_path / "baked", edited_checkpoint(tmp_path / "baked", name, sharded=sharded)


def test_undoing_leaves_what_is_the_users_and_nothing_beside(edited: tuple[Path, dict[str, bytes]]) -> None:
    folder, undone = edited
    before = contents(folder)
    (folder / "link").symlink_to("notes.txt")
    (folder / "nowhere").symlink_to("gone")
    (folder / "empty").mkdir()

    undo_edited_model(folder)

    assert before != undone
    assert {name: data for name, data in contents(folder).items() if name != "link"} == undone
    assert (folder / "nowhere").is_symlink()
    assert ((folder / "link").readlink(), (folder / "empty").is_dir()) == (Path("notes.txt"), True)
    assert [path.name for path in folder.parent.iterdir()] == ["baked"]


def test_a_card_that_was_written_is_removed_and_one_that_somebody_wrote_on_stays(tmp_path: Path) -> None:
    for name, more in (("ours", ""), ("theirs", "My notes.\n")):
        edited_checkpoint(tmp_path / name, "changed", sharded=False)
        (tmp_path / name / "README.md").write_text(f"# Edited\n\n{CARD_ENDING}{more}", encoding="utf-8")

        undo_edited_model(tmp_path / name)

    assert [(tmp_path / name / "README.md").exists() for name in ("ours", "theirs")] == [False, True]


def test_what_the_edited_files_are_linked_to_stays_edited(edited: tuple[Path, dict[str, bytes]]) -> None:
    folder, undone = edited
    before = contents(folder)
    elsewhere = folder.with_name("elsewhere")
    shutil.copytree(folder, elsewhere, copy_function=os.link)

    undo_edited_model(folder)

    assert contents(folder) == undone
    assert contents(elsewhere) == before


@pytest.mark.parametrize("links", [True, False])
def test_files_that_stay_are_linked_where_the_disk_can_and_copied_where_not(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone = edited_checkpoint(tmp_path / "baked", "changed", sharded=True)
    (tmp_path / "baked" / "notes.txt").chmod(0o755)
    before = (tmp_path / "baked" / "notes.txt").stat()
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)

    undo_edited_model(tmp_path / "baked")

    assert contents(tmp_path / "baked") == undone
    after = (tmp_path / "baked" / "notes.txt").stat()
    assert (after.st_ino == before.st_ino) == links
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_is_refused_before_anything_is_written(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "baked"
    edited_checkpoint(folder, "changed", sharded=True)
    before = contents(folder)
    changed = [
        path.stat().st_size for path in folder.glob("model-*") if path.name != "model-00003-of-00003.safetensors"
    ]
    every = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: Path("/nowhere").stat())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(sum(changed) - 1 if links else sum(changed) + 1))

    with pytest.raises(BakingError, match=r"bytes free, and [\d,]+ are needed\. Make room on it"):
        undo_edited_model(folder)

    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(sum(changed) if links else every))
    undo_edited_model(folder)


def test_a_bake_is_refused_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_checkpoint(tmp_path / "plain", sharded=False)
    before = contents(tmp_path / "plain")
    # Three matrices of 64 bytes: two change, one is copied; and a bias of at most 32.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 3 + 31))

    with pytest.raises(BakingError, match="bytes free, and 224 are needed"):
        edit_checkpoint(tmp_path / "plain", EDITS["changed and added"])

    assert contents(tmp_path / "plain") == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 3 + 32))
    edit_checkpoint(tmp_path / "plain", EDITS["changed and added"])


def test_what_is_changed_while_it_is_undone_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "baked"
    undone = edited_checkpoint(folder, "changed", sharded=False)
    linked = os.link

    def link(source: str, target: str) -> None:
        linked(source, target)
        (folder / "late.txt").write_text("mine", encoding="utf-8")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", link)
        before = contents(folder)
        with pytest.raises(BakingError, match=r"was changed while it was undone.*run it again"):
            undo_edited_model(folder)

    assert contents(folder) == before | {"late.txt": b"mine"}
    undo_edited_model(folder)
    assert contents(folder) == undone | {"late.txt": b"mine"}


def test_a_checkpoint_that_was_edited_twice_is_undone_twice(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path / "first", sharded=True)
    edit_checkpoint(tmp_path / "first", EDITS["changed and added"])
    shutil.copytree(tmp_path / "first", tmp_path / "second", ignore=shutil.ignore_patterns(UNDO))
    before = contents(tmp_path / "second")
    again = CheckpointEdits({}, zeros={"other.bias": (4,)})

    edit_checkpoint(tmp_path / "second", again)

    assert find_tensors(tmp_path / "second").keys() >= {"layer.bias", "head.weight", "other.bias"}
    undo_edited_model(tmp_path / "second")
    assert contents(tmp_path / "second") == before


# Undo files that are not what they should be


def said(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """An undo file that says something else of what is no tensor."""

    def spoil(folder: Path) -> None:
        metadata = metadata_of(folder / UNDO)
        with_metadata(folder / UNDO, {KEY: json.dumps(change(json.loads(metadata[KEY])))})

    return spoil


def truncated(share: float) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        data = (folder / UNDO).read_bytes()
        (folder / UNDO).write_bytes(data[: int(len(data) * share)])

    return spoil


def as_a_folder(folder: Path) -> None:
    (folder / UNDO).unlink()
    (folder / UNDO).mkdir()


def of_another(folder: Path) -> None:
    tensors = load_file(folder / UNDO)
    save_file({f"{name}.x": tensor for name, tensor in tensors.items()}, folder / UNDO, metadata_of(folder / UNDO))


def of_what_is_new(folder: Path) -> None:
    tensors = load_file(folder / UNDO) | {"layer.bias": load_file(folder / UNDO)["embed.weight"][0].contiguous()}
    save_file(tensors, folder / UNDO, metadata_of(folder / UNDO))


def raw(metadata: object) -> Callable[[Path], object]:
    return lambda folder: with_metadata(folder / UNDO, metadata)


INDEX = json.dumps({"metadata": {}, "weight_map": {"embed.weight": "../../secret.safetensors"}})
GONE = json.dumps({"metadata": {}, "weight_map": {"embed.weight": "gone.safetensors"}})
MORE = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "gone.safetensors"}})
HOSTILE: dict[str, Callable[[Path], object]] = {
    "gone": lambda folder: (folder / UNDO).unlink(),
    "empty": truncated(0),
    "header cut": truncated(0.2),
    "tensors cut": truncated(0.95),
    "a folder": as_a_folder,
    "a pointer": lambda folder: (folder / UNDO).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "text": lambda folder: (folder / UNDO).write_text("[" * 100_000, encoding="utf-8"),
    "another checkpoint's": of_another,
    "what is new": of_what_is_new,
    "no metadata": raw({}),
    "metadata of wrong types": raw({KEY: 3}),
    "metadata that are a list": raw([1]),
    "no JSON": raw({KEY: "{"}),
    "nested": raw({KEY: "[" * 100_000}),
    "nested objects": raw({KEY: '{"config":' * 100_000}),
    "a number": raw({KEY: "12"}),
    "half of a letter": raw({KEY: '{"config": "\\ud800", "index": null}'}),
    "no config": said(lambda own: {"index": own["index"]}),
    "a config of another type": said(lambda own: own | {"config": {"a": 1}}),
    "a config that is no JSON": said(lambda own: own | {"config": "{"}),
    "a config that is no object": said(lambda own: own | {"config": "[]"}),
    "a nested config": said(lambda own: own | {"config": '{"a":' * 100_000}),
    "an index of another type": said(lambda own: own | {"index": 3}),
    "an index that is no JSON": said(lambda own: own | {"index": "{"}),
    "an index that leads elsewhere": said(lambda own: own | {"index": INDEX}),
    "an index of files that are gone": said(lambda own: own | {"index": GONE}),
    "an index that names more than there is": said(lambda own: own | {"index": MORE}),
    "a nested index": said(lambda own: own | {"index": '{"weight_map":' * 100_000}),
    "files of another type": said(lambda own: own | {"files": {"a": 1}}),
    "a config of the folder that is gone": lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_undo_file_is_refused_with_a_repair_before_anything_is_changed(hostile: str, tmp_path: Path) -> None:
    folder = tmp_path / "baked"
    edited_checkpoint(folder, "changed and added", sharded=False)
    HOSTILE[hostile](folder)
    before = contents(folder)

    with pytest.raises(BakingError) as refused:
        undo_edited_model(folder)

    assert len(str(refused.value)) < 1000
    assert any(words in str(refused.value) for words in ("Valid: ", "again", "Git LFS"))
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]


def test_an_undo_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "baked"
    edited_checkpoint(folder, "changed", sharded=True)
    whole = (folder / UNDO).read_bytes()
    before = contents(folder)

    for length in range(len(whole)):
        (folder / UNDO).write_bytes(whole[:length])
        with pytest.raises(BakingError):
            undo_edited_model(folder)

    (folder / UNDO).write_bytes(whole)
    assert contents(folder) == before


def test_a_folder_that_is_a_link_and_one_that_is_too_deep_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "baked"
    edited_checkpoint(folder, "changed", sharded=False)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(BakingError, match="is a link"):
        undo_edited_model(tmp_path / "link")

    (folder / Path(*"a" * 40)).mkdir(parents=True)
    with pytest.raises(BakingError, match="lie below each other 33 folders"):
        undo_edited_model(folder)


# Baking over a folder


def bake() -> Path:
    return Path(save_edited_model("baked", ablate="v", prompts=["keke"])["folder"])


@pytest.fixture
def baked(llama_session: Session) -> Path:
    """A folder that save_edited_model wrote."""
    create_steering_vector(POSITIVE, NEGATIVE, 1, "v")
    return bake()


def a_vector(folder: Path) -> None:
    save_vector({1: [1.0, 2.0]}, folder / "vectors" / "w")


def notes(folder: Path) -> None:
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write("What I found.\n")


def linked_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "mine.json")
    (folder / "tokenizer.json").symlink_to("../mine.json")


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a vector": (a_vector, "vectors/w.safetensors"),
    "notes on the card": (notes, "README.md"),
    "an empty folder": (lambda folder: (folder / "mine").mkdir(), "mine"),
    "a link": (lambda folder: (folder / "v.safetensors").symlink_to("../v.safetensors"), "v.safetensors"),
    "a link in the place of a file": (linked_tokenizer, "tokenizer.json"),
    "a shard of another": (lambda folder: (folder / "model-9.safetensors").write_bytes(b"x"), "model-9.safetensors"),
    "many": (lambda folder: [(folder / f"{n}.txt").touch() for n in range(9)], "'0.txt', .*, '4.txt' and 4 more"),
    "another undo file": (lambda folder: (folder / UNDO).write_bytes(b"mine"), "cannot be undone"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_bake_names_what_is_not_its_own_and_leaves_the_folder(stranger: str, baked: Path) -> None:
    put, named = STRANGERS[stranger]
    put(baked)
    before = contents(baked)

    with pytest.raises(ArgumentError, match=f"is there already.*{named}.*Choose another folder, or move what is yours"):
        bake()

    assert contents(baked) == before


def test_a_folder_of_vectors_with_an_undo_file_in_it_is_no_baked_one(baked: Path, llama_session: Session) -> None:
    folder = llama_session.workspace.root / "vectors"
    save_vector({1: [1.0, 2.0]}, folder / "mine")
    shutil.copyfile(baked / UNDO, folder / UNDO)
    before = contents(folder)

    with pytest.raises(ArgumentError, match=r"is there already, and cannot be undone: .* no safetensors checkpoint"):
        save_edited_model("vectors", ablate="v")

    assert contents(folder) == before


def test_a_baked_folder_is_baked_over_again_but_not_once_it_was_undone(baked: Path) -> None:
    before = contents(baked)

    assert contents(bake()) == before
    undo_edited_model(baked)
    with pytest.raises(ArgumentError, match="is there already"):
        bake()


def test_what_is_put_there_during_a_bake_is_not_replaced(baked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proved = saved_model.prove

    def prove(*given: Any) -> Any:
        notes(baked)
        return proved(*given)

    monkeypatch.setattr(saved_model, "prove", prove)
    with pytest.raises(ArgumentError, match=r"README\.md"):
        bake()

    assert (baked / "README.md").read_text(encoding="utf-8").endswith("What I found.\n")
    assert sorted(path.name for path in baked.parent.iterdir()) == ["baked", "v.safetensors"]
