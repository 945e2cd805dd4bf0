"""Linux namespaces: a process with its own processes, network, file system root and temporary directory.

Man pages: unshare(2), user_namespaces(7), mount(2), pivot_root(2).
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from onelayer.tasks.graders.protection import call

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RELATIME = 32, 4096, 16384, 1 << 18, 1 << 21
_MNT_DETACH = 2
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` (``CLONE_NEW...``) for new ones."""
    call("unshare", flags)


def join_pid_namespace(descriptor: int) -> None:
    """Let the next children be born in the process namespace of ``descriptor`` again."""
    call("setns", descriptor, CLONE_NEWPID)


def enter_user_namespace(inner_id: int, flags: int) -> None:
    """A new user namespace in which this user has the id ``inner_id``, with the other namespaces of ``flags`` in it."""
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inner_id} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{inner_id} {group} 1")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def _bind_read_only(source: str, target: str) -> None:
    _mount(source, target, None, _MS_BIND | _MS_REC)
    # A user namespace may not clear what the source mount has set, so those flags are repeated.
    has = os.statvfs(source).f_flag
    keep = (_MS_NOEXEC if has & os.ST_NOEXEC else 0) | (_MS_RELATIME if has & os.ST_RELATIME else 0)
    _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | keep)


def enter_new_root(readable: Iterable[str], empty: str) -> None:
    """Replace the file system by one that holds only ``readable`` (read-only), three devices and a directory ``empty``.

    This process gets a mount namespace of its own for it.
    """
    unshare(CLONE_NEWNS)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    root = Path("/sys")  # any directory that none of the others lies in; it is covered in this namespace only
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path in map(Path, (*readable, *DEVICES)):
        inside = root / path.relative_to("/")
        inside.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_symlink():
            inside.symlink_to(path.readlink())
        elif path.is_dir():
            inside.mkdir(mode=0o755, exist_ok=True)
            _bind_read_only(str(path), str(inside))
        elif path.exists():
            inside.touch(0o644)
            _mount(str(path), str(inside), None, _MS_BIND)
    (root / empty.lstrip("/")).mkdir(0o755)
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def mount_empty_directory(path: str, size: int, owner: int) -> None:
    """An empty directory of at most ``size`` bytes at ``path``, in a mount namespace of its own that ends with it."""
    unshare(CLONE_NEWNS | CLONE_NEWIPC)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("tmpfs", path, "tmpfs", flags, f"size={size},nr_inodes=1024,mode=700,uid={owner},gid={owner}")
