"""Two filters that need no privilege: Landlock (which files) and seccomp (which system calls).

Man pages: landlock(7), seccomp(2).
"""

import ctypes
import os
import platform
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from onelayer.tasks.graders.protection import call, no_new_privileges
from onelayer.tasks.graders.system_calls import INSTRUCTION_BYTES, program_filter, worker_filter

_PR_SET_SECCOMP = 22
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_NET_ALL, _SCOPE_ALL = 0b11, 0b11  # bind and connect; abstract sockets and signals


def landlock_version() -> int:
    """The version of Landlock's interface in this kernel. Raises OSError where there is none."""
    return call("syscall", _LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Refuse every file but those below ``readable`` (to read) and ``writable`` (to write and delete too).

    From ABI 4 on also all TCP, from ABI 6 on signals and abstract sockets to processes outside. Nothing may be run.
    """
    version = landlock_version()
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


def seccomp_worker() -> None:
    """Allow the calls of :mod:`~onelayer.tasks.graders.system_calls`, a worker's too, to this process and what it forks."""
    _seccomp(worker_filter(platform.machine()))


def seccomp_program(without: frozenset[str] = frozenset(), own_process: int | None = None) -> None:
    """Refuse what only a worker may do as well; arguments as there."""
    _seccomp(program_filter(platform.machine(), without, own_process))


def _seccomp(instructions: bytes) -> None:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    filters = struct.pack("HxxxxxxQ", len(instructions) // INSTRUCTION_BYTES, ctypes.addressof(code))
    no_new_privileges()
    call("prctl", _PR_SET_SECCOMP, 2, filters, 0, 0)
