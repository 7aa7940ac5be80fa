"""The workspace: what a confined one keeps out, through every door that a file system has."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steer_tools import leftovers
from steer_tools.errors import SteeringError, VectorFileError, WorkspacePathError
from steer_tools.limits import FILE_BYTES, FOLDERS, PATH_CHARACTERS, Limit
from steer_tools.workspace import ENVIRONMENT_VARIABLE, Kind, Workspace

SECRET = b"secret"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the workspace with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "v.npy").write_bytes(SECRET)
    return folder


@pytest.fixture
def confined(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root", is_confined=True)


@pytest.fixture(params=[False, True], ids=["open", "confined"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root", is_confined=request.param)


def read(workspace: Workspace, path: Any) -> Any:
    return workspace.read(path)


def write(workspace: Workspace, path: Any) -> Any:
    return workspace.write(path, b"written")


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Return what is below `folder`: contents of files, targets of links, None for folders."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


# --- pointers of Git LFS


def test_a_pointer_of_git_lfs_is_no_file_to_read(workspace: Workspace) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
    workspace.write("v.npy", pointer)
    workspace.write("about.txt", b"A " + pointer)

    with pytest.raises(VectorFileError, match=r"v\.npy is a pointer of Git LFS.*Run `git lfs pull` in its folder"):
        workspace.read("v.npy")
    assert workspace.read("about.txt") == b"A " + pointer


# --- inside


@pytest.mark.parametrize("path", ["v.npy", "a/b/v.npy", "./v.npy", "a//v.npy", "..v..npy", "~/v.npy", "größe 1"])
def test_what_is_written_is_read_again(workspace: Workspace, path: str) -> None:
    if not workspace.is_confined and path.startswith("~"):
        path = path.removeprefix("~/")

    written = workspace.write(path, SECRET)

    assert written == Path(os.path.normpath(workspace.root / path))
    assert written.read_bytes() == SECRET
    assert workspace.read(path) == workspace.read(Path(path)) == SECRET
    assert workspace.holds(path)


def test_an_absolute_path_inside_is_fine(workspace: Workspace) -> None:
    path = workspace.root / "a" / "v.npy"

    workspace.write(path, SECRET)

    assert workspace.read(str(path)) == workspace.read("a/v.npy") == SECRET


def test_a_file_is_replaced_and_no_other_is_left(workspace: Workspace) -> None:
    workspace.write("a/v.npy", b"a longer content than the next one")

    workspace.write("a/v.npy", SECRET)

    assert tree(workspace.root) == {"a": None, "a/v.npy": SECRET}


def test_a_reader_of_the_old_file_keeps_the_old_file(workspace: Workspace) -> None:
    path = workspace.write("v.npy", b"old")

    with path.open("rb") as reader:
        workspace.write("v.npy", b"new")

        assert reader.read() == b"old"
    assert workspace.read("v.npy") == b"new"


def test_a_home_folder_is_a_plain_name_when_confined(confined: Workspace) -> None:
    assert confined.write("~/v.npy", SECRET) == confined.root / "~" / "v.npy"


def test_an_open_workspace_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Workspace(tmp_path / "root").resolve("~/v.npy") == tmp_path / "v.npy"
    assert Workspace("~/root").root == tmp_path / "root"


def test_an_open_workspace_takes_any_path(tmp_path: Path, outside: Path) -> None:
    workspace = Workspace(tmp_path / "root")
    (tmp_path / "link").symlink_to(outside)

    for path in (outside / "v.npy", "../outside/v.npy", tmp_path / "link" / "v.npy"):
        assert workspace.read(path) == SECRET
    assert workspace.write("../outside/w.npy", b"w") == outside / "w.npy"
    assert (outside / "w.npy").read_bytes() == b"w"


def test_an_open_workspace_makes_no_folder_before_it_writes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root")

    assert not workspace.holds("v.npy")
    assert list(workspace.files((".npy",))) == []
    assert not workspace.root.exists()


# --- outside


@pytest.mark.parametrize("door", [read, write])
@pytest.mark.parametrize(
    "path",
    [
        "../outside/v.npy",
        "a/../../outside/v.npy",
        "a/../v.npy",
        "..",
        "a/..",
        "/etc/hostname",
        "/",
        "{outside}/v.npy",
        "{root}/../outside/v.npy",
        "{root}-beside/v.npy",
        "{root}",
    ],
)
def test_a_confined_workspace_refuses_a_path_outside(
    confined: Workspace, outside: Path, tmp_path: Path, door: Callable[..., Any], path: str
) -> None:
    before = tree(tmp_path)

    with pytest.raises(WorkspacePathError, match=r"a path inside|a file name or a path") as caught:
        door(confined, path.format(outside=outside, root=confined.root))

    assert SECRET.decode() not in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("door", [read, write])
@pytest.mark.parametrize("path", ["", ".", "./", "a/", "\0", "v\0.npy", "\ud800", None, 5, b"v.npy"], ids=repr)
def test_a_path_that_names_no_file_is_refused(
    workspace: Workspace, tmp_path: Path, door: Callable[..., Any], path: Any
) -> None:
    before = tree(tmp_path)

    with pytest.raises(WorkspacePathError, match="a file name or a path"):
        door(workspace, path)

    assert tree(tmp_path) == before


def test_a_linked_file_is_not_read(confined: Workspace, outside: Path) -> None:
    (confined.root / "link.npy").symlink_to(outside / "v.npy")
    (confined.root / "plain.npy").write_bytes(SECRET)

    with pytest.raises(WorkspacePathError, match=r"a link.*real folders and files inside"):
        confined.read("link.npy")
    assert confined.read("plain.npy") == SECRET


def test_a_linked_file_is_replaced_and_its_target_is_left_alone(confined: Workspace, outside: Path) -> None:
    (confined.root / "link.npy").symlink_to(outside / "v.npy")

    confined.write("link.npy", b"written")

    assert tree(outside) == {"v.npy": SECRET}
    assert tree(confined.root) == {"link.npy": b"written"}


def test_what_a_save_may_replace_is_not_told_from_behind_a_link(confined: Workspace, outside: Path) -> None:
    (confined.root / "link.npy").symlink_to(outside / "v.npy")
    anything = Kind("anything", lambda file: True)

    with pytest.raises(WorkspacePathError, match="a link"):
        confined.write("link.npy", b"written", replaces=anything)
    with pytest.raises(WorkspacePathError, match="a link"):
        confined.refuse_strangers({"link.npy": anything})

    assert (confined.root / "link.npy").is_symlink()
    assert tree(outside) == {"v.npy": SECRET}


@pytest.mark.parametrize("above", ["", "a", "a/b/c/d"])
def test_how_many_folders_a_path_leads_through_is_counted_from_the_root(tmp_path: Path, above: str) -> None:
    workspace = Workspace(tmp_path / above / "root")
    most = int(FOLDERS.most)

    for depth in range(1, most + 1):
        path = "d/" * (depth - 1) + "v.npy"
        assert workspace.resolve(path) == workspace.root / path
    for depth in range(most + 1, most + 8):
        with pytest.raises(WorkspacePathError, match="leads below the workspace through"):
            workspace.resolve("d/" * (depth - 1) + "v.npy")


def test_a_path_is_named_from_the_root_where_it_lies_below_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root")

    assert workspace.name_of("deep/v.npy") == workspace.name_of(workspace.root / "deep/v.npy") == "deep/v.npy"
    assert workspace.name_of(tmp_path / "v.npy") == str(tmp_path / "v.npy")


def test_a_link_that_has_the_name_of_a_part_is_not_written_through(
    workspace: Workspace, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers.secrets, "token_hex", lambda count: "0" * 2 * count)
    workspace.root.mkdir(exist_ok=True)
    (workspace.root / leftovers.Names().part("v.npy")).symlink_to(outside / "v.npy")

    with pytest.raises(VectorFileError, match="cannot be written"):
        workspace.write("v.npy", b"written")

    assert tree(outside) == {"v.npy": SECRET}


def test_asking_what_may_be_replaced_makes_no_folder(workspace: Workspace) -> None:
    workspace.refuse_strangers({"deep/v.npy": Kind("anything", lambda file: True)})

    assert not (workspace.root / "deep").exists()


def test_what_is_written_is_for_its_owner_to_change_and_for_others_to_read(workspace: Workspace) -> None:
    before = os.umask(0o002)
    try:
        file = workspace.write("deep/v.npy", b"written")
        with workspace.new_folder("folder"):
            pass
    finally:
        os.umask(before)

    made = (file, workspace.resolve("folder"), file.parent)
    expected = [0o644, 0o755, 0o755 if workspace.is_confined else 0o775]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in made] == list(map(oct, expected))


@pytest.mark.parametrize("door", [read, write])
@pytest.mark.parametrize("path", ["link/v.npy", "link/deep/v.npy", "real/link/v.npy", "real/link/deep/v.npy"])
@pytest.mark.parametrize("target", ["outside", "inside", "relative", "nowhere", "itself"])
def test_a_linked_folder_is_not_entered(
    confined: Workspace, outside: Path, tmp_path: Path, door: Callable[..., Any], path: str, target: str
) -> None:
    inside = confined.root / "inside"
    inside.mkdir()
    (confined.root / "real").mkdir()
    link = confined.root / path.partition("/deep")[0].removesuffix("/v.npy")
    depth = "../" * len(link.relative_to(confined.root).parts)
    targets = {
        "outside": outside,
        "inside": inside,
        "relative": f"{depth}outside",
        "nowhere": tmp_path / "nowhere",
        "itself": link,
    }
    for folder in (outside, inside):
        (folder / "deep").mkdir()
        (folder / "deep" / "v.npy").write_bytes(SECRET)
    link.symlink_to(targets[target])
    before = tree(tmp_path)

    with pytest.raises(WorkspacePathError, match=r"a link.*real folders and files inside"):
        door(confined, path)

    assert tree(tmp_path) == before


@pytest.mark.parametrize("door", [read, write])
def test_a_path_that_was_checked_before_its_folder_became_a_link_is_refused(
    confined: Workspace, outside: Path, door: Callable[..., Any]
) -> None:
    confined.write("a/v.npy", b"ours")
    checked = confined.resolve("a/v.npy")

    (confined.root / "a").rename(confined.root / "b")
    (confined.root / "a").symlink_to(outside)

    with pytest.raises(WorkspacePathError, match="a link"):
        door(confined, checked)
    assert tree(outside) == {"v.npy": SECRET}


def test_a_folder_that_is_swapped_for_a_link_all_the_time_never_leads_outside(
    confined: Workspace, outside: Path
) -> None:
    root = confined.root
    confined.write("a/v.npy", b"ours")
    (root / "link").symlink_to(outside)
    is_done = threading.Event()

    def swap() -> None:
        while not is_done.is_set():
            (root / "a").rename(root / "b")
            (root / "link").rename(root / "a")
            (root / "a").rename(root / "link")
            (root / "b").rename(root / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    read_contents: set[bytes] = set()
    refusals = 0
    try:
        for i in range(50_000):
            try:
                read_contents.add(confined.read("a/v.npy"))
            except SteeringError:
                refusals += 1
            if refusals and read_contents and i > 1000:
                break
    finally:
        is_done.set()
        swapper.join()

    assert refusals > 0
    assert read_contents == {b"ours"}


def test_a_root_that_is_a_link_is_the_folder_it_leads_to(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root").symlink_to(outside)

    workspace = Workspace(tmp_path / "root", is_confined=True)

    assert workspace.root == outside.resolve()
    assert workspace.read("v.npy") == SECRET


def test_replacing_a_file_leaves_its_hard_links_alone(confined: Workspace) -> None:
    first = confined.write("first.npy", SECRET)
    (confined.root / "second.npy").hardlink_to(first)

    confined.write("first.npy", b"other")

    assert confined.read("second.npy") == SECRET


# --- what is no file


@pytest.mark.parametrize("path", ["gone.npy", "gone/v.npy"])
def test_a_missing_file_is_named_and_not_made(workspace: Workspace, tmp_path: Path, path: str) -> None:
    before = tree(tmp_path)

    with pytest.raises(VectorFileError, match=r"There is no file .*gone"):
        workspace.read(path)

    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused(workspace: Workspace) -> None:
    workspace.write("v.npy", SECRET)

    for door in (read, write):
        for path in ("v.npy/w.npy", "v.npy/deep/w.npy"):
            with pytest.raises(SteeringError, match=r"There is no file|cannot be written|no folder"):
                door(workspace, path)

    assert tree(workspace.root) == {"v.npy": SECRET}


def test_a_folder_in_the_place_of_a_file_is_refused(workspace: Workspace) -> None:
    (workspace.root / "v.npy").mkdir(parents=True)

    with pytest.raises(VectorFileError, match=r"is a folder.*the path of a file"):
        workspace.read("v.npy")
    with pytest.raises(VectorFileError, match=r"cannot be written.*Choose another"):
        workspace.write("v.npy", SECRET)

    assert tree(workspace.root) == {"v.npy": None}
    assert not workspace.holds("v.npy")


@pytest.mark.parametrize("door", [read, write])
def test_a_name_that_is_too_long_is_refused(workspace: Workspace, door: Callable[..., Any]) -> None:
    workspace.root.mkdir(exist_ok=True)

    with pytest.raises(VectorFileError, match="name too long"):
        door(workspace, "a" * 300)

    assert tree(workspace.root) == {}


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("d/" * 1200 + "x", PATH_CHARACTERS),
        ("x" * (PATH_CHARACTERS.most + 1), PATH_CHARACTERS),
        ("d/" * FOLDERS.most + "x", FOLDERS),
    ],
    ids=["both", "long", "deep"],
)
def test_a_path_that_is_too_long_or_deep_is_refused_and_makes_nothing(
    workspace: Workspace, path: str, limit: Limit
) -> None:
    for door in (workspace.read, workspace.holds, lambda name: workspace.write(name, b"")):
        with pytest.raises(WorkspacePathError, match=rf"at most {limit.most:,} {limit.unit}"):
            door(path)

    assert not any(workspace.root.rglob("*"))
    deepest = "d/" * (FOLDERS.most - 1) + "x.pt"
    workspace.write(deepest, b"1")
    assert [*workspace.files((".pt",))] == [workspace.root / deepest]


def test_folders_that_others_made_too_deep_are_passed_over(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.root
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    for _ in range(1500):
        Path("d").mkdir()
        os.chdir("d")
    Path("x.pt").touch()
    os.chdir(folder)
    workspace.write("y.pt", b"1")

    found = [*workspace.files((".pt",))]
    subprocess.run(["rm", "-rf", "d"], cwd=folder, check=True)  # It is too deep for Python, too.
    assert found == [folder / "y.pt"]


def test_a_refused_read_leaves_no_file_open(workspace: Workspace, outside: Path) -> None:
    (workspace.root / "v.npy").mkdir(parents=True)
    (workspace.root / "link").symlink_to(outside / "gone")
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # The descriptor that lists them counts in both.

    for path in ("v.npy", "gone.npy", "link/v.npy", "gone/v.npy") * 3:
        with pytest.raises(SteeringError):
            workspace.read(path)

    assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208


def test_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match=r"no regular file.*the path of a file"):
        Workspace(tmp_path).read("/dev/null")


def test_a_named_pipe_is_refused_at_once(workspace: Workspace) -> None:
    workspace.root.mkdir(exist_ok=True)
    pipe = workspace.root / "pipe.npy"
    os.mkfifo(pipe)
    errors: list[Exception] = []

    def read_pipe() -> None:
        try:
            workspace.read("pipe.npy")
        except SteeringError as error:
            errors.append(error)

    reader = threading.Thread(target=read_pipe)
    reader.start()
    reader.join(timeout=10)
    is_waiting = reader.is_alive()
    if is_waiting:
        # A writer that comes and goes lets the reader end.
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        reader.join()

    assert not is_waiting
    assert [type(error) for error in errors] == [VectorFileError]


def test_a_file_that_is_too_large_is_refused_before_it_is_read(workspace: Workspace) -> None:
    path = workspace.write("v.npy", b"")
    os.truncate(path, FILE_BYTES.most + 1)

    tracemalloc.start()
    try:
        with pytest.raises(VectorFileError, match=rf"at most {FILE_BYTES.most:,} bytes"):
            workspace.read("v.npy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**20


# --- listing


def test_files_are_listed_by_ending_in_order_without_hidden_ones_and_links(workspace: Workspace, outside: Path) -> None:
    for name in ("b.npy", "a.safetensors", "deep/c.npy", "a.txt", ".hidden.npy", "a.npy.json", "D.NPY"):
        workspace.write(name, b"")
    (workspace.root / "link.npy").symlink_to(outside / "v.npy")
    (workspace.root / "linked").symlink_to(outside)
    (workspace.root / "own.npy").symlink_to(workspace.root / "b.npy")

    found = [str(path.relative_to(workspace.root)) for path in workspace.files((".npy", ".safetensors"))]

    assert found == ["D.NPY", "a.safetensors", "b.npy", "deep/c.npy"]


# --- which folder it is


def test_the_environment_names_the_default_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "named"))

    assert ENVIRONMENT_VARIABLE == "STEER_TOOLS_WORKSPACE"
    assert Workspace().root == tmp_path / "named"
    assert not Workspace().is_confined


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_environment_it_is_the_folder_workspace_below_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)

    assert Workspace().root == tmp_path / "workspace"
    assert not (tmp_path / "workspace").exists()


def test_the_default_root_is_fixed_when_it_is_first_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "relative")
    workspace = Workspace()
    (tmp_path / "elsewhere").mkdir()

    monkeypatch.chdir(tmp_path)
    workspace.resolve("v.npy")
    monkeypatch.chdir(tmp_path / "elsewhere")
    workspace.write("v.npy", SECRET)

    assert (tmp_path / "relative" / "v.npy").read_bytes() == SECRET


def test_a_relative_root_is_fixed_when_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace("relative")
    (tmp_path / "elsewhere").mkdir()

    monkeypatch.chdir(tmp_path / "elsewhere")
    workspace.write("v.npy", SECRET)

    assert (tmp_path / "relative" / "v.npy").read_bytes() == SECRET


@pytest.mark.parametrize("path", ["root/v.npy", "./root/v.npy", "root//a/../v.npy", "root/root/../v.npy"])
def test_a_path_may_begin_with_the_name_of_the_root(workspace: Workspace, path: str) -> None:
    if workspace.is_confined and ".." in path:
        path = "root/v.npy"
    workspace.write(path, SECRET)

    assert workspace.read("v.npy") == SECRET
    assert (workspace.root / "v.npy").read_bytes() == SECRET
    assert workspace.resolve("root") == workspace.root / "root"
    assert workspace.resolve("other/root/v.npy") == workspace.root / "other" / "root" / "v.npy"


def test_a_file_in_the_current_folder_is_named_by_the_error(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.npy").write_bytes(SECRET)

    with pytest.raises(VectorFileError) as error:
        workspace.read("here.npy")
    assert (str(tmp_path / "here.npy") in str(error.value)) is not workspace.is_confined
    with pytest.raises(VectorFileError, match="steering_status lists"):
        workspace.read("nowhere.npy")


def test_a_confined_root_is_made_at_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "deep" / "root", is_confined=True)

    assert workspace.root.is_dir()


# Folders


def test_a_new_folder_takes_its_place_whole(workspace: Workspace) -> None:
    with workspace.new_folder("models/one") as part:
        (part / "a.bin").write_bytes(SECRET)
        assert not (workspace.root / "models" / "one").exists()
        assert part.parent == workspace.root / "models"
    with workspace.new_folder("models/one") as part:
        (part / "b.bin").write_bytes(SECRET)
        assert (workspace.root / "models" / "one" / "a.bin").exists()

    assert [path.name for path in (workspace.root / "models").iterdir()] == ["one"]
    assert [path.name for path in (workspace.root / "models" / "one").iterdir()] == ["b.bin"]


def test_a_new_folder_that_fails_leaves_what_was_there(workspace: Workspace) -> None:
    with workspace.new_folder("one") as part:
        (part / "a.bin").write_bytes(SECRET)

    with pytest.raises(ZeroDivisionError), workspace.new_folder("one") as part:
        (part / "b.bin").write_bytes(SECRET)
        raise ZeroDivisionError
    with pytest.raises(VectorFileError, match="No space left"), workspace.new_folder("one"):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert [path.name for path in workspace.root.iterdir()] == ["one"]
    assert [path.name for path in (workspace.root / "one").iterdir()] == ["a.bin"]
