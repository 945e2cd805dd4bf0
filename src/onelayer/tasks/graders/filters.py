"""Two filters that need no privilege: Landlock (which files) and seccomp (which system calls).

Man pages: landlock(7), seccomp(2).
"""

import ctypes
import errno
import os
import platform
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from onelayer.tasks.graders.protection import call, no_new_privileges

_PR_SET_SECCOMP = 22
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_NET_ALL, _SCOPE_ALL = 0b11, 0b11  # bind and connect; abstract sockets and signals


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Refuse every file but those below ``readable`` (to read) and ``writable`` (to write and delete too).

    From ABI 4 on also all TCP, from ABI 6 on signals and abstract sockets to processes outside. Nothing may be run.
    """
    version = call("syscall", _LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    every = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("QQQ", every, _NET_ALL, _SCOPE_ALL)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = call("syscall", _LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    of_files = _WRITE_FILE | _READ_FILE | _TRUNCATE
    grants = [(path, _READ_FILE | _READ_DIR) for path in readable] + [(path, every & ~_EXECUTE) for path in writable]
    for path, access in grants:
        if not Path(path).exists():
            continue
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= of_files
        rule = struct.pack("=Qi", access & every, descriptor)
        call("syscall", _LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(descriptor)
    no_new_privileges()
    call("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


# Refused: socket, ptrace, process_vm_readv/writev, mount, umount2, pivot_root, chroot, unshare, setns, add_key,
# request_key, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup, pidfd_getfd. The last number is clone, whose
# flags are looked at.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        (41, 101, 310, 311, 165, 166, 155, 161, 272, 308, 248, 249, 250, 321, 298, 323, 425, 438),
        56,
    ),
    "aarch64": (0xC00000B7, (198, 117, 270, 271, 40, 39, 41, 51, 97, 268, 217, 218, 219, 280, 241, 282, 425, 438), 220),
}
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def seccomp() -> None:
    """Refuse the system calls that open sockets, look into other processes, or change namespaces and mounts."""
    if platform.machine() not in _REFUSED:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    architecture, refused, clone = _REFUSED[platform.machine()]
    refuse, no_such_call = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), refuse, (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, 0, 1, 0x40000000), refuse]  # the x32 calls of x86_64
    for number in refused:
        program += [(_EQUAL, 0, 1, number), refuse]
    program += [(_EQUAL, 0, 1, _CLONE3), no_such_call]  # its flags lie in memory; the C library then uses clone
    program += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), refuse]
    program += [(_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    filters = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    no_new_privileges()
    call("prctl", _PR_SET_SECCOMP, 2, filters, 0, 0)
