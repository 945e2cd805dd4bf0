"""Limits, users and capabilities of a process, through ctypes where Python has no function for it.

Here as in ``namespaces.py`` and ``filters.py`` every function either does its whole work or raises OSError; none decides
what to do about it. What only Linux has raises OSError elsewhere.
Man pages: setrlimit(2), prctl(2), capabilities(7).
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
FIRST_USER = 0x70000000
_FIRST_LOW_USER, _LOW_PAIRS = 30_000, 10_000  # between those that systems give to people and to services

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(function: str, *arguments: object) -> int:
    """Call a C library function; a negative result is an OSError."""
    if platform.system() != "Linux":
        raise OSError(errno.ENOSYS, f"{function} is a Linux call")
    result = int(getattr(_libc, function)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


DIRECTORY_BYTES = 32 << 20
"""Size of a program's temporary directory, where it has a file system of its own."""


@dataclass(frozen=True)
class Limits:
    """Limits of one process: bytes, seconds of CPU time, counts."""

    memory_bytes: int = 1 << 30
    cpu_seconds: int = 60
    processes: int = 16
    file_bytes: int = 16 << 20
    open_files: int = 64


def limit_resources(limits: Limits, already_running: int = 0) -> None:
    """Set the limits, hard and soft, for this process and what it starts.

    The kernel counts all processes of a user; ``already_running`` are those that are not the program's.
    """
    values = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":  # macOS refuses the first, and what counts towards the second is not known there
        values |= {
            resource.RLIMIT_AS: limits.memory_bytes,
            resource.RLIMIT_NPROC: limits.processes + already_running,
        }
    for name, value in values.items():
        hard = resource.getrlimit(name)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (allowed, allowed))


def drop_capabilities() -> None:
    """Give up all capabilities of this process, and the way to get any back by running another program."""
    for capability in range(64):
        try:
            call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            # EINVAL: beyond the last one this kernel knows. EPERM: without CAP_SETPCAP there is nothing to lose here.
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            break
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, struct.pack("6I", 0, 0, 0, 0, 0, 0))
    no_new_privileges()


def no_new_privileges() -> None:
    """Running a program with the set-user-id bit gains nothing from now on."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def unused_users(uid_map: str, process: int) -> int:
    """The first of two user ids that belong to nobody, for worker ``process``: high ones, where they exist here.

    Args:
        uid_map: ``/proc/self/uid_map``; in a container often only the ids below 65,536 exist.
    """
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    high = FIRST_USER + 2 * process
    if any(first <= high and high + 1 < first + length for first, _, length in ranges):
        return high
    return _FIRST_LOW_USER + 2 * (process % _LOW_PAIRS)


def change_user(user: int) -> None:
    """Become the unprivileged user (and group) ``user`` for good. Needs root."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def be_inspectable() -> None:
    """Let this process's user look into it again, which a change of user ends."""
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have this process killed when its parent ends."""
    call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
