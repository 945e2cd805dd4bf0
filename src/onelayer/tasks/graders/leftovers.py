"""Removing a directory that a program had to itself: however deep, closed or linked, and nothing outside it."""

import os
import stat
from pathlib import Path


def remove_directory(path: str) -> None:
    """Remove ``path`` with all that is in it. Nothing else may work in it at the same time.

    Links are removed, not followed. One folder is open at a time and each is named from the one above, so that neither
    the depth of a tree nor the length of its paths matters.

    Raises:
        OSError: something cannot be removed.
    """
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return  # where nothing keeps a program from its own directory it may have removed it
    if not is_folder:
        Path(path).unlink()
        return
    names = [path]  # from the top to the folder that is open
    folder = _open(path, None)
    pending = [_remove_files(folder)]  # for each of names, the folders in it that are still there
    while True:
        if pending[-1]:
            names.append(pending[-1].pop())
            folder = _step(folder, _open(names[-1], folder))
            pending.append(_remove_files(folder))
        elif len(names) > 1:
            folder = _step(folder, os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder))
            os.rmdir(names.pop(), dir_fd=folder)
            pending.pop()
        else:
            os.close(folder)
            Path(path).rmdir()
            return


def _open(name: str, parent: int | None) -> int:
    """A folder, made readable and writable for its owner first: a program may have closed it to itself."""
    os.chmod(name, stat.S_IRWXU, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _step(old: int, new: int) -> int:
    os.close(old)
    return new


def _remove_files(folder: int) -> list[str]:
    """Remove all but folders; the names of these."""
    folders = []
    for name in os.listdir(folder):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return folders
