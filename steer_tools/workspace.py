"""The folder that tools read from and write to: path in, bytes out.

Confined (under a server), every path must lie inside the root, and no symlink below the root is followed, also
not one that is swapped in while a file is being opened. It must not know what the bytes mean.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from steer_tools.errors import UnsupportedFeatureError, VectorFileError, WorkspacePathError, quoted
from steer_tools.leftovers import (
    Names,
    give_names,
    is_leftover,
    is_there,
    locked,
    opened_folder,
    sweep,
    sweep_once,
    sync,
    sync_tree,
    take_place,
)
from steer_tools.limits import FILE_BYTES, FOLDERS, PATH_CHARACTERS

# Not every system has both: without the first, opening a named pipe waits for a writer; without the second, Windows
# translates line ends.
_NO_WAIT, _BYTES = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_BINARY", 0)
ENVIRONMENT_VARIABLE = "STEER_TOOLS_WORKSPACE"


@dataclass(frozen=True)
class Kind:
    """What a save may replace: a file of which `holds` is true. `name` says, with its article, what such a file is."""

    name: str
    holds: Callable[[BinaryIO], bool]


class Workspace:
    """A root folder, below which every relative path lies; one may begin with the root's own name, so that
    `workspace/v.npy`, as it is seen from beside the root, is `v.npy`. When confined, no path may leave it.

    Without a root it is the one that STEER_TOOLS_WORKSPACE names, else `workspace` below the folder that is the current
    one when a path is first resolved.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, is_confined: bool = False) -> None:
        self._root = None if root is None else Path(root).expanduser().absolute()
        self.is_confined = is_confined
        self._no_follow = os.O_NOFOLLOW if is_confined else 0
        self._passing = set[str]()  # Names of folders under way that may be written into.
        if is_confined:
            if os.open not in os.supports_dir_fd:
                raise UnsupportedFeatureError(
                    "This operating system cannot open files relative to a folder, so paths cannot be confined",
                    fix="Run the server on Linux or macOS.",
                )
            self.root.mkdir(parents=True, exist_ok=True)
            self._root = self.root.resolve()

    @property
    def root(self) -> Path:
        """The folder, absolute."""
        if self._root is None:
            self._root = Path(os.environ.get(ENVIRONMENT_VARIABLE) or "workspace").expanduser().absolute()
        return self._root

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """Return the absolute path that `path` means here; the first one puts the root in order after killed writers.

        Raises:
            WorkspacePathError: The path is empty, holds a NUL, has a name that a save uses, or is confined and leaves
                the root.
        """
        sweep_once(self.root)
        text = path_text(path)
        if not _names_a_file(text):
            raise _no_file(path)
        given = Path(text if self.is_confined else os.path.expanduser(text))  # noqa: PTH111  # Leaves an unknown user's ~ alone.
        if len(given.parts) > 1 and given.parts[0] == self.root.name:
            given = given.relative_to(self.root.name)
        absolute = Path(os.path.normpath(self.root / given))
        depth = len(absolute.parts) - len(self.root.parts)
        PATH_CHARACTERS.require(len(text), f"The path {text[:40]!r}... has", WorkspacePathError)
        FOLDERS.require(depth, f"The path {text[:40]!r}... leads below the workspace through", WorkspacePathError)
        stays = ".." not in given.parts and absolute != self.root and absolute.is_relative_to(self.root)
        if self.is_confined and not stays:
            raise WorkspacePathError(
                f"The path {text!r} lies outside the workspace",
                valid=f"a path inside {self.root}, such as 'vectors/happy.safetensors'",
                fix="Give a relative path without '..'.",
            )
        parts = absolute.relative_to(self.root).parts if absolute.is_relative_to(self.root) else ()
        if any(map(is_leftover, parts)) and self._passing.isdisjoint(parts[:1]):
            raise WorkspacePathError(
                f"The path {text!r} has a name that only a save has, while it is under way", valid="any other name"
            )
        return absolute

    def name_of(self, path: str | os.PathLike[str]) -> str:
        """Return the path as one would give it here: from the root, where it lies below it."""
        absolute = self.resolve(path)
        return str(absolute.relative_to(self.root) if absolute.is_relative_to(self.root) else absolute)

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether there is a file at `path`."""
        return os.path.isfile(self.resolve(path))  # noqa: PTH113  # Path.is_file raises where a name is too long.

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """Return the content of the file at `path`.

        Raises:
            VectorFileError: There is no such file, it is not a regular file, or it has more bytes than a file may.
            WorkspacePathError: It lies outside a confined root.
        """
        with self.opened(path) as file:
            FILE_BYTES.require(
                os.fstat(file.fileno()).st_size,
                f"{self.resolve(path)} has",
                VectorFileError,
                valid="vectors take a few millions",
                fix="Of a sparse autoencoder of any size, the method 'sae_feature' takes one feature.",
            )
            return file.read()

    @contextmanager
    def opened(self, path: str | os.PathLike[str]) -> Generator[BinaryIO]:
        """Open the file at `path`, of any size, for reading.

        Raises:
            VectorFileError: There is no such file, it is no regular file or a pointer of Git LFS, or it cannot be read.
            WorkspacePathError: It lies outside a confined root.
        """
        target = self.resolve(path)
        try:
            with self._parent(target, create=False) as (folder, base):
                flags = os.O_RDONLY | _NO_WAIT | _BYTES | self._no_follow
                descriptor = os.open(base / target.name, flags, dir_fd=folder)
                try:
                    found = os.fstat(descriptor)
                    if not stat.S_ISREG(found.st_mode):
                        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
                        raise VectorFileError(f"{target} is {what}", valid="the path of a file")
                    with os.fdopen(descriptor, "rb", closefd=False) as file:
                        refuse_pointer(file.peek(), target)
                        yield file
                finally:
                    os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            elsewhere = Path(path_text(path)).absolute()
            is_elsewhere = not self.is_confined and os.path.isfile(elsewhere)  # noqa: PTH113  # As in `holds`.
            raise VectorFileError(
                f"There is no file {target}",
                fix=f"Relative paths are below the workspace: give {str(elsewhere)!r}, if you mean that."
                if is_elsewhere
                else "steering_status lists the vectors that are saved in the workspace.",
            ) from error
        except OSError as error:
            raise VectorFileError(f"{target} cannot be read ({error.strerror})", fix="Choose another path.") from error

    def write(self, path: str | os.PathLike[str], content: bytes, *, replaces: Kind | None = None) -> Path:
        """Write `content` to `path`, whole or not at all, making missing folders; return the absolute path.

        What is there already is replaced only where it is of the kind `replaces`, if that is given.
        """
        name = str(self.resolve(path))
        (target,) = self.write_together({name: content}, replaces={name: replaces} if replaces else None)
        return target

    def write_together(
        self, contents: Mapping[str, bytes], *, replaces: Mapping[str, Kind] | None = None
    ) -> list[Path]:
        """Write several files of one folder; no name is changed before all contents are on the disk.

        The names change in the order of `contents`. Of a writer that was killed in between, whoever writes there next,
        or starts on this workspace, changes those that are missing.

        `replaces` says by path of which kind a file must be that is replaced. Return the absolute paths in their order.

        Raises:
            VectorFileError: A file cannot be written, or is there already and of another kind than may be replaced;
                files that were there are as before.
            WorkspacePathError: A path lies outside a confined root.
        """
        targets = {self.resolve(path): content for path, content in contents.items()}
        kinds = {self.resolve(path): kind for path, kind in (replaces or {}).items()}
        first = next(iter(targets))
        try:
            with self._alone_beside(first, create=True) as (folder, base, descriptor):
                names = Names()
                parts = {base / target.name: base / names.part(target.name) for target in targets}
                ready = base / names.ready([*targets][-1].name)
                try:
                    for part, content in zip(parts.values(), targets.values(), strict=True):
                        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BYTES  # With O_EXCL no link is followed.
                        with os.fdopen(os.open(part, flags, 0o644, dir_fd=folder), "wb") as file:
                            file.write(content)
                            file.flush()
                            os.fsync(file.fileno())
                    for target, name in zip(targets, parts, strict=True):
                        _refuse_folder(name, folder)
                        if target in kinds:
                            self._refuse_stranger(target, name, folder, kinds[target])
                    give_names(parts, ready, folder)
                    sync(descriptor)
                finally:
                    # Where a name could not be changed after another was, the parts wait for the next sweep.
                    if not is_there(ready, folder):
                        for part in parts.values():
                            with suppress(OSError):
                                os.unlink(part, dir_fd=folder)
        except OSError as error:
            raise _unwritable(first, error) from error
        return list(targets)

    def refuse_strangers(self, replaces: Mapping[str, Kind]) -> None:
        """Refuse files that `write_together` would not replace, before there is anything to write.

        Raises:
            VectorFileError: A file is there and of another kind, or cannot be read.
            WorkspacePathError: A path lies outside a confined root.
        """
        for path, kind in replaces.items():
            target = self.resolve(path)
            try:
                with suppress(FileNotFoundError), self._parent(target, create=False) as (folder, base):
                    self._refuse_stranger(target, base / target.name, folder, kind)
            except OSError as error:
                raise _unwritable(target, error) from error

    @contextmanager
    def new_folder(
        self, path: str | os.PathLike[str], *, replacing: Callable[[Path], None] | None = None
    ) -> Generator[Path]:
        """Give an empty folder to fill, which takes the place of what is at `path` at the end of a `with` block.

        Where anything is raised, nothing is left of it, and what was at `path` stays. `replacing` is called with what
        is about to be replaced, and raises where that may not be.

        Raises:
            VectorFileError: The folder cannot be made.
            WorkspacePathError: It lies outside a confined root.
        """
        target = self.resolve(path)
        names = Names()
        part, old = names.part(target.name), names.old(target.name)
        try:
            with ExitStack() as making:
                folder, base = making.enter_context(self._parent(target, create=True))
                parent = making.enter_context(opened_folder(target.parent, folder))
                try:
                    with _alone(target.parent, parent):
                        os.mkdir(base / part, 0o755, dir_fd=folder)
                        # Whoever sweeps beside it leaves a part alone of which another holds the lock.
                        making.enter_context(locked(making.enter_context(opened_folder(target.with_name(part), None))))
                    yield target.with_name(part)
                    sync_tree(target.with_name(part))
                    with locked(parent):
                        if replacing and os.path.lexists(target):
                            replacing(target)
                        take_place(base / part, base / target.name, base / old, folder)
                        sync(parent)
                finally:
                    for name in (part, old):
                        shutil.rmtree(target.with_name(name), ignore_errors=True)
        except OSError as error:
            raise VectorFileError(
                f"{target} cannot be written ({error.strerror})", fix="Choose another save_folder."
            ) from error

    @contextmanager
    def passing_folder(self) -> Generator[Path]:
        """Give an empty folder in the root for a `with` block; what a killed process leaves goes at the next start.

        Raises:
            VectorFileError: The folder cannot be made.
        """
        path = self.root / Names().part("passing")
        with ExitStack() as making:
            try:
                with opened_folder(self.root, None) as root, _alone(self.root, root):
                    path.mkdir()
                    making.callback(shutil.rmtree, path, ignore_errors=True)
                    # As that of a folder under way: whoever sweeps beside it leaves it alone.
                    making.enter_context(locked(making.enter_context(opened_folder(path, None))))
                    self._passing.add(path.name)
                    making.callback(self._passing.discard, path.name)
            except OSError as error:
                raise VectorFileError(
                    f"{path} cannot be written ({error.strerror})", fix="Choose another workspace."
                ) from error
            yield path

    @contextmanager
    def settled(self, path: str | os.PathLike[str]) -> Generator[None]:
        """Keep writers away from the folder of `path`, once what a killed one left there is finished or removed.

        Raises:
            VectorFileError: The folder is gone.
            WorkspacePathError: It lies outside a confined root.
        """
        target = self.resolve(path)
        try:
            with self._alone_beside(target, create=False):
                yield
        except OSError as error:
            raise VectorFileError(f"{target} cannot be read ({error.strerror})", fix="Choose another path.") from error

    def files(self, suffixes: tuple[str, ...]) -> Iterator[Path]:
        """Yield the files below the root whose names end in one of `suffixes`, in order of name.

        Links are skipped, and what lies below more folders than a path may have.
        """
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_leftover(name))
            if len(Path(folder).parts) - len(self.root.parts) >= FOLDERS.most:
                folders.clear()
            for name in sorted(names):
                path = Path(folder, name)
                if name.lower().endswith(suffixes) and not name.startswith(".") and not path.is_symlink():
                    yield path

    def _refuse_stranger(self, target: Path, name: Path, folder: int | None, kind: Kind) -> None:
        """Refuse to replace a file of another kind; an empty one holds nothing that could be lost."""
        with suppress(FileNotFoundError):
            descriptor = os.open(name, os.O_RDONLY | _NO_WAIT | _BYTES | self._no_follow, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                there = os.fstat(descriptor)
                if not stat.S_ISREG(there.st_mode) or (there.st_size and not kind.holds(file)):
                    raise VectorFileError(
                        f"{target} is there already and is not {kind.name}: it would be lost",
                        valid=f"a new path, or that of {kind.name}",
                        fix="Choose another path, or move that file away.",
                    )

    @contextmanager
    def _alone_beside(self, target: Path, *, create: bool) -> Generator[tuple[int | None, Path, int | None]]:
        """Open the folder of `target` as `_parent`, hold its lock and sweep it; give what to sync, too."""
        with (
            self._parent(target, create=create) as (folder, base),
            opened_folder(target.parent, folder) as opened,
            _alone(target.parent, opened),
        ):
            yield folder, base, opened

    @contextmanager
    def _parent(self, target: Path, *, create: bool) -> Generator[tuple[int | None, Path]]:
        """Open the folder of `target`; when confined, step by step from the root and through no symlink.

        A file in it is meant by its name below the path that is given with the folder's descriptor.
        """
        if not self.is_confined:
            if create:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield None, target.parent
            return
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in target.relative_to(self.root).parts[:-1]:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                step = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = step
            yield descriptor, Path()
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            raise WorkspacePathError(
                f"A part of the path {str(target)!r} is a link or no folder",
                valid=f"real folders and files inside {self.root}",
            ) from error
        finally:
            os.close(descriptor)


@contextmanager
def _alone(path: Path, folder: int | None) -> Generator[None]:
    """Hold the lock of a folder, where there are locks, and sweep it; one that is being made has one writer anyway."""
    if is_leftover(path.name):
        yield
        return
    with locked(folder) as is_held:
        if is_held and folder is not None:
            sweep(folder)
        yield


def is_pointer(start: bytes) -> bool:
    """Return whether a file that starts so holds the address of its content in Git LFS instead of it."""
    return start.startswith(b"version https://git-lfs")


def refuse_pointer(start: bytes, path: str | Path) -> None:
    """Refuse a file that Git LFS has not filled.

    Raises:
        VectorFileError: It is a pointer.
    """
    if is_pointer(start):
        raise VectorFileError(
            f"{path} is a pointer of Git LFS, the address of the file instead of the file",
            valid="the file itself",
            fix="Run `git lfs pull` in its folder.",
        )


def path_text(path: object) -> str:
    """Return a path as text.

    Raises:
        WorkspacePathError: It is none.
    """
    text = os.fspath(cast("str | os.PathLike[str]", path)) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise _no_file(path)
    return text


def _no_file(path: object) -> WorkspacePathError:
    return WorkspacePathError(f"The path {quoted(path)} names no file", valid="a file name or a path")


def _unwritable(target: Path, error: OSError) -> VectorFileError:
    return VectorFileError(f"{target} cannot be written ({error.strerror})", fix="Choose another save_path.")


def _names_a_file(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and text.rpartition(os.sep)[2] not in ("", ".", "..")


def _refuse_folder(name: Path, folder: int | None) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(name))
