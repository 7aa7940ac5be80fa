"""What a killed writer leaves: a save is ended at each of its steps, and the next use of the folder is in order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.kills import SAVINGS, left_over, start_anew
from steer_tools import SteeringVector, leftovers, load_vector, save_vector
from steer_tools import workspace as workspace_module
from steer_tools.errors import VectorFileError, WorkspacePathError
from steer_tools.leftovers import Names, locked
from steer_tools.workspace import Workspace

WIDTH = 6
_STEPS = ("open", "mkdir", "fsync", "replace", "rename", "rmdir", "unlink")
_SAVES = ("npy", "rotalabs", "safetensors", "folder", "report", "cells")


class Killed(BaseException):
    """What a process meets that does not go on."""


class Steps:
    """Counts what is done to the disk, and does nothing any more from a chosen step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None = None) -> None:
        self._at, self.names = at, list[str]()
        for name in _STEPS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, does: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            is_write = name != "open" or bool(int(str(given[1])) & os.O_CREAT)
            if is_write:
                self.names.append(name)
                if self._at is not None and len(self.names) > self._at:
                    raise Killed
            return does(*given, **named)

        return call


@pytest.fixture(params=[False, True], ids=["open", "confined"])
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    return Workspace(tmp_path / "root", is_confined=request.param)


def _steps_of(name: str, workspace: Workspace) -> list[str]:
    SAVINGS[name].save(workspace, "A")
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        SAVINGS[name].save(workspace, "B")
    return steps.names


@pytest.mark.parametrize("name", _SAVES)
def test_a_save_that_ends_at_any_step_leaves_the_old_or_the_new_whole(name: str, workspace: Workspace) -> None:
    steps = _steps_of(name, workspace)

    read = ""
    for at in range(len(steps) + 1):
        SAVINGS[name].save(workspace, "A")
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, at)
            if at < len(steps):
                with pytest.raises(Killed):
                    SAVINGS[name].save(workspace, "B")
            else:
                SAVINGS[name].save(workspace, "B")
        start_anew(workspace.root)
        read += SAVINGS[name].read(workspace)
        assert left_over(workspace.root) == []

    # Once it is the new one, it stays that.
    assert read.rstrip("B").strip("A") == ""
    assert "fsync" in steps
    assert read[0] == "A"
    assert read[-1] == "B"


@pytest.mark.parametrize("name", ["npy", "rotalabs", "report"])
def test_files_of_one_save_are_on_the_disk_before_a_name_changes(name: str, workspace: Workspace) -> None:
    steps = [step for step in _steps_of(name, workspace) if step != "mkdir"]

    changing = steps.index("replace")
    files = len([*workspace.resolve("report").iterdir()]) if name == "report" else 2
    assert steps[:changing] == ["open", "fsync"] * files
    # One name more than files: the one that says that all are on the disk. Then the folder's names.
    assert steps[changing : changing + files + 2] == ["replace"] * (files + 1) + ["fsync"]


@pytest.mark.parametrize("name", ["npy", "rotalabs"])
def test_a_reader_beside_a_killed_writer_finishes_what_that_one_began(name: str, workspace: Workspace) -> None:
    steps = _steps_of(name, workspace)
    for at in range(len(steps)):
        SAVINGS[name].save(workspace, "A")
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, at)
            with pytest.raises(Killed):
                SAVINGS[name].save(workspace, "B")

        # No new start: this workspace was looked through before.
        assert SAVINGS[name].read(workspace) in "AB"


def _vector(layer: int) -> SteeringVector:
    return SteeringVector({layer: torch.full((WIDTH,), float(layer))})


def test_an_array_with_the_description_of_another_is_refused_with_the_way_out(workspace: Workspace) -> None:
    save_vector(_vector(1), "v.npy", workspace=workspace)
    described = (workspace.root / "v.npy.json").read_bytes()
    save_vector(_vector(2), "v.npy", workspace=workspace)

    (workspace.root / "v.npy.json").write_bytes(described)

    with pytest.raises(VectorFileError, match=r"v\.npy\.json does not describe the array in .*remove .*v\.npy\.json"):
        load_vector("v.npy", workspace=workspace)
    (workspace.root / "v.npy.json").unlink()
    assert load_vector("v.npy", layer_if_unknown=2, workspace=workspace).layers == (2,)


def test_numpy_reads_the_array_and_older_descriptions_are_read(workspace: Workspace) -> None:
    path = save_vector(_vector(1), "v.npy", workspace=workspace)
    beside = path.with_name("v.npy.json")
    text = beside.read_text(encoding="utf-8")
    (digest,) = (line for line in text.splitlines(keepends=True) if "sha256" in line)

    assert np.load(path).tolist() == [1.0] * WIDTH
    beside.write_text(text.replace(digest, ""), encoding="utf-8")
    assert load_vector("v.npy", workspace=workspace).layers == (1,)


# --- what is swept, and what is not


@pytest.fixture
def folder(workspace: Workspace) -> Iterator[Path]:
    workspace.root.mkdir(exist_ok=True)
    yield workspace.root


def _write(workspace: Workspace) -> None:
    workspace.write("beside.txt", b"")


def _start(workspace: Workspace) -> None:
    start_anew(workspace.root)
    workspace.resolve("beside.txt")


@pytest.mark.parametrize("use", [_write, _start])
def test_what_nobody_holds_is_removed_and_a_folder_that_gave_way_is_put_back(
    workspace: Workspace, folder: Path, use: Callable[[Workspace], None]
) -> None:
    names = Names()
    (folder / names.part("v.npy")).write_bytes(b"half")
    for name in (names.part("one"), names.old("one"), names.old("two"), "two"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "a.bin").write_bytes(name.encode())

    use(workspace)

    assert left_over(folder) == []
    assert (folder / "one" / "deep" / "a.bin").read_bytes() == names.old("one").encode()
    assert (folder / "two" / "deep" / "a.bin").read_bytes() == b"two"
    assert not (folder / "v.npy").exists()


@pytest.mark.parametrize("use", [_write, _start])
def test_what_is_being_made_is_left_alone(workspace: Workspace, use: Callable[[Workspace], None]) -> None:
    with workspace.new_folder("one") as part:
        (part / "a.bin").write_bytes(b"half")
        use(workspace)
        assert (part / "a.bin").read_bytes() == b"half"

    assert (workspace.root / "one" / "a.bin").read_bytes() == b"half"


def test_what_is_being_made_is_not_listed(workspace: Workspace) -> None:
    with workspace.new_folder("one") as part:
        Workspace(part).write("v.npy", b"1")
        assert [*workspace.files((".npy",))] == []

    assert [*workspace.files((".npy",))] == [workspace.root / "one" / "v.npy"]


@pytest.mark.parametrize(
    "name", ["notes.20261130.old", "v.npy.part", "v.npy.0123abcd.part", ".steer-tools-01234567.old"]
)
@pytest.mark.parametrize("use", [_write, _start])
def test_what_others_call_so_is_no_leftover(
    workspace: Workspace, folder: Path, use: Callable[[Workspace], None], name: str
) -> None:
    (folder / name).write_bytes(b"a backup of somebody's")

    use(workspace)

    assert (folder / name).read_bytes() == b"a backup of somebody's"


@pytest.mark.parametrize("use", [_write, _start])
def test_no_link_is_followed_or_removed(
    workspace: Workspace, folder: Path, tmp_path: Path, use: Callable[[Workspace], None]
) -> None:
    outside = tmp_path / "outside"
    (outside / Names().part("kept")).mkdir(parents=True)
    (outside / "a.bin").write_bytes(b"a")
    for name in (Names().part("one"), Names().old("two"), Names().part("a.bin"), "linked"):
        (folder / name).symlink_to(outside / "a.bin" if "a.bin" in name else outside)
    inside = folder / Names().part("three")
    inside.mkdir()
    (inside / "link").symlink_to(outside)

    use(workspace)

    assert not inside.exists()
    assert len([*outside.iterdir()]) == 2
    assert not (folder / "two").is_symlink()


def test_a_name_that_only_a_save_has_is_refused(workspace: Workspace) -> None:
    for name in (Names().part("v"), Names().old("models/one"), f"{Names().ready('v')}/w.npy"):
        with pytest.raises(WorkspacePathError, match="only a save has"):
            workspace.write(name, b"")


def test_a_writer_waits_for_another_and_a_start_does_not(workspace: Workspace, folder: Path) -> None:
    (folder / Names().part("v.npy")).write_bytes(b"half")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with locked(descriptor) as is_held:
            assert is_held
            _start(workspace)
            assert len(left_over(folder)) == 1
            other = os.open(folder, os.O_RDONLY)
            with locked(other, waits=False) as is_other_held:
                assert not is_other_held
            os.close(other)
        _start(workspace)
    finally:
        os.close(descriptor)

    assert left_over(folder) == []


def test_without_locks_saves_go_on_and_nothing_is_swept(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "fcntl", None)
    (folder / Names().part("v.npy")).write_bytes(b"half")

    for name in _SAVES:
        for which in "AB":
            SAVINGS[name].save(workspace, which)
            assert SAVINGS[name].read(workspace) == which
    _start(workspace)

    assert len(left_over(folder)) == 1


def test_a_set_is_not_finished_where_one_of_its_names_cannot_be_changed(workspace: Workspace, folder: Path) -> None:
    names = Names()
    (folder / "a.md").mkdir()
    (folder / names.part("a.md")).write_bytes(b"a")
    (folder / names.ready("b.md")).write_bytes(b"b")

    _start(workspace)
    assert not (folder / "b.md").exists()
    (folder / "a.md").rmdir()
    _start(workspace)

    assert [(folder / name).read_bytes() for name in ("a.md", "b.md")] == [b"a", b"b"]


def test_a_set_that_cannot_be_finished_keeps_no_other_from_being_finished(workspace: Workspace, folder: Path) -> None:
    stuck, after = sorted((Names(), Names()), key=lambda names: names.ready("b.md"))
    for names, first in ((stuck, "a.md"), (after, "c.md")):
        (folder / names.part(first)).write_bytes(first.encode())
        (folder / names.ready(f"{first}.last")).write_bytes(b"last")
    (folder / "a.md").mkdir()

    _start(workspace)

    assert not (folder / "a.md.last").exists()
    assert [(folder / name).read_bytes() for name in ("c.md", "c.md.last")] == [b"c.md", b"last"]


def test_all_that_is_in_a_new_folder_is_on_the_disk_before_it_has_its_name(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = set[tuple[bool, int]](), os.fsync

    def noting(descriptor: int) -> None:
        synced.add((workspace.resolve("one").exists(), os.fstat(descriptor).st_ino))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with workspace.new_folder("one") as part:
        (part / "deep" / "deeper").mkdir(parents=True)
        for name in ("a.bin", "deep/b.bin", "deep/deeper/c.bin", "deep/deeper/d.bin"):
            (part / name).write_bytes(name.encode())
        (part / "link").symlink_to("nowhere")

    placed = workspace.resolve("one")
    inside = {path.stat().st_ino for path in (placed, *placed.rglob("*")) if not path.is_symlink()}
    assert synced == {*((False, number) for number in inside), (True, placed.parent.stat().st_ino)}
    assert len(inside) == 7


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_synced_is_told_of_unless_its_file_system_syncs_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(code: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    leftovers.sync(0)
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        leftovers.sync(0)


def test_a_large_workspace_is_not_looked_through_at_once(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / Names().part("v.npy")).write_bytes(b"half")
    monkeypatch.setattr(leftovers, "_MOST_ENTRIES", 0)

    _start(workspace)
    assert len(left_over(folder)) == 1
    _write(workspace)

    assert left_over(folder) == []


def test_a_passing_folder_is_gone_at_the_end_and_after_a_kill(workspace: Workspace) -> None:
    workspace.write("v", b"v")
    there = sorted(workspace.root.iterdir())

    with workspace.passing_folder() as folder:
        workspace.write(folder / "some", b"some")
        workspace.write("v", b"v")  # Which sweeps beside it.
        start_anew(workspace.root)
        assert workspace.read("v") == b"v"
        assert (folder / "some").read_bytes() == b"some"
        assert folder.parent == workspace.root
        assert [*workspace.files(("some",))] == []
    assert sorted(workspace.root.iterdir()) == there
    with pytest.raises(WorkspacePathError, match="a name that only a save has"):
        workspace.write(folder / "some", b"some")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace_module.shutil, "rmtree", lambda *given, **named: None)
        with pytest.raises(Killed), workspace.passing_folder() as folder:
            (folder / "some").write_bytes(b"some")
            raise Killed
    assert (folder / "some").exists()
    start_anew(workspace.root)
    assert workspace.read("v") == b"v"
    assert sorted(workspace.root.iterdir()) == there
