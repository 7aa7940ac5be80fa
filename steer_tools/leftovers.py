"""The files and folders that a writer has under way, and what is left of them where it was killed.

A writer holds the lock of the folder it writes into (flock) until its last rename, so whoever gets the lock knows that
nobody lives who could finish what lies there. It must not know what is written, nor follow a link.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from steer_tools.limits import FOLDERS

try:
    import fcntl
except ImportError:  # Windows: nobody is locked out, and nothing is swept, since who lives cannot be told.
    fcntl = None

# part: unfinished. ready: the last part of several, from when all are on the disk: what is missing is the renaming.
# old: the folder that a new one takes the place of. The mark tells them from all files that people name.
_NAME = re.compile(r"(?P<target>.+)\.(?P<mark>steer-tools-[0-9a-f]{8})\.(?P<kind>part|ready|old)", re.DOTALL)
_PART, _READY, _OLD = "part", "ready", "old"
# Looked through when a root is used for the first time: some 50 ms. What is not is swept by writes beside it.
_MOST_ENTRIES = 20_000
_SWEPT: set[Path] = set()


class Names:
    """What the files of one save are called while it is under way."""

    def __init__(self) -> None:
        self._mark = f"steer-tools-{secrets.token_hex(4)}"

    def part(self, target: str) -> str:
        """The name of what is to be called `target`."""
        return f"{target}.{self._mark}.{_PART}"

    def ready(self, target: str) -> str:
        """The name of the last part, from when all parts are on the disk."""
        return f"{target}.{self._mark}.{_READY}"

    def old(self, target: str) -> str:
        """The name of what was called `target`, until it is removed."""
        return f"{target}.{self._mark}.{_OLD}"


def is_leftover(name: str) -> bool:
    """Return whether a name is that of something under way."""
    return _NAME.fullmatch(name) is not None


@contextmanager
def opened_folder(path: Path, descriptor: int | None) -> Generator[int | None]:
    """Open a folder for locking and syncing, or give the one that is open; None where folders cannot be opened."""
    if descriptor is not None or fcntl is None:
        yield descriptor
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # One may write into a folder that one may not list.
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: int | None, *, waits: bool = True) -> Generator[bool]:
    """Hold the lock of an open folder, and give whether it is held.

    It is not where there are no locks, as on some network file systems, nor where another has it and one cannot wait.
    """
    if fcntl is None or folder is None:
        yield False
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def sync(folder: int | None) -> None:
    """Bring the names in an open folder to the disk, where its file system can."""
    if folder is None:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def sync_tree(path: Path) -> None:
    """Bring all files and names below a folder to the disk, where the system syncs what is open for reading."""
    if fcntl is None:
        return
    for folder, _, names, descriptor in os.fwalk(path, topdown=False):
        for name in names:
            if stat.S_ISREG(os.lstat(Path(folder, name)).st_mode):  # A link may lead nowhere, and a pipe has no end.
                with Path(folder, name).open("rb") as file:
                    os.fsync(file.fileno())
        sync(descriptor)


def give_names(parts: Mapping[Path, Path], ready: Path, folder: int | None) -> None:
    """Give parts their names; of several, the last is called `ready` from when all are on the disk.

    What is begun is finished, also where it is interrupted, so that no new file stays beside an old one.
    """
    *_, last = parts
    try:
        if len(parts) > 1:
            os.replace(parts[last], ready, src_dir_fd=folder, dst_dir_fd=folder)
        for name, part in parts.items():
            is_ready = len(parts) > 1 and name == last
            os.replace(ready if is_ready else part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        if is_there(ready, folder):
            for name, part in (*parts.items(), (last, ready)):
                with suppress(FileNotFoundError):
                    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        raise


def take_place(part: Path, target: Path, old: Path, folder: int | None) -> None:
    """Put a folder in the place of what is there, or leave that."""
    try:
        with suppress(FileNotFoundError):
            os.rename(target, old, src_dir_fd=folder, dst_dir_fd=folder)
        os.rename(part, target, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        if not is_there(target, folder):
            with suppress(FileNotFoundError):
                os.rename(old, target, src_dir_fd=folder, dst_dir_fd=folder)
        raise


def sweep(folder: int) -> None:
    """Finish or take away what killed writers left in an open folder, whose lock is held.

    Saves of several files of which all parts are on the disk are finished; a folder that gave way to a new one that
    never came is put back; all else is removed. What cannot be is left for the next time.
    """
    found = [match for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
    ready = {match["mark"] for match in found if match["kind"] == _READY}
    # The one that says that all are on the disk goes last, and not at all where another cannot.
    for match in sorted(found, key=lambda match: match["kind"] == _READY):
        try:
            if match["kind"] == _READY and match["mark"] not in ready:
                continue
            _finish(match, folder, is_ready=match["mark"] in ready)
        except OSError:
            ready.discard(match["mark"])


def _finish(match: re.Match[str], folder: int, *, is_ready: bool) -> None:
    mode = os.stat(match[0], dir_fd=folder, follow_symlinks=False).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return  # A link is none of ours.
    if is_ready or (match["kind"] == _OLD and not is_there(match["target"], folder)):
        os.replace(match[0], match["target"], src_dir_fd=folder, dst_dir_fd=folder)
    else:
        _remove(match[0], folder)


def sweep_once(root: Path) -> None:
    """Sweep the folders below a root, the first time that this process uses it. Folders that are in use are left."""
    if root in _SWEPT:
        return
    _SWEPT.add(root)
    if fcntl is None:
        return
    entries = 0
    with suppress(OSError):
        for path, folders, names, descriptor in os.fwalk(os.path.realpath(root)):
            entries += len(folders) + len(names)
            if entries > _MOST_ENTRIES:
                return
            if any(map(is_leftover, (*folders, *names))):
                with locked(descriptor, waits=False) as is_held:
                    if is_held:
                        sweep(descriptor)
            is_deep = len(Path(path).parts) - len(root.parts) >= FOLDERS.most
            folders[:] = [] if is_deep else [name for name in folders if not is_leftover(name)]


def is_there(name: str | Path, folder: int | None) -> bool:
    """Return whether anything has a name in a folder, be it a link that leads nowhere."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(name: str, folder: int) -> None:
    """Remove a file, or a folder with all that is in it, unless the one who makes it holds its lock."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        with locked(descriptor, waits=False) as is_held:
            if is_held:
                shutil.rmtree(name, dir_fd=folder)
    finally:
        os.close(descriptor)
