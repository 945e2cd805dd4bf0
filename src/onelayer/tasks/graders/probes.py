"""Which protections of a sandbox hold here: each is tried by the attack that it is there to stop."""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from onelayer.tasks.graders.protection import DIRECTORY_BYTES, Limits
from onelayer.tasks.graders.sandbox import Sandbox, SandboxWorker


def _any(*attempts: str, first: str = "") -> str:
    """A program that ends well if one of the attempts, each of one line, does."""
    tries = (f"try:\n    {attempt}\n    won = True\nexcept Exception: pass\n" for attempt in attempts)
    return f"{first}\nwon = False\n{''.join(tries)}assert won"


# The C library's functions, and system calls by number, as they come: no function of Python's is in the way.
_C_LIBRARY = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0: raise OSError(ctypes.get_errno(), name)
    return result
def by_number(x86_64, aarch64, *arguments):
    return call('syscall', dict(x86_64=x86_64, aarch64=aarch64)[platform.machine()], *arguments)
"""

_ATTACKS = {
    "reading files": _any("print(open({canary!r}).read())", "print(os.listdir({folder!r}))", first="import os"),
    "writing files": _any(
        "open({folder!r} + '/written', 'w').close()",
        "open({canary!r}, 'r+').close()",
        "os.truncate({canary!r}, 6)",
        "os.open({canary!r}, os.O_TRUNC)",
        "os.link({canary!r}, {folder!r} + '/link')",
        first="import os",
    ),
    "attributes of files": _any(
        *(
            attempt
            for file in ("{canary!r}", "os.__file__")
            for attempt in (
                f"os.chmod({file}, os.stat({file}).st_mode & 0o777)",
                f"os.chown({file}, -1, -1)",
                f"os.utime({file}, ns=(os.stat({file}).st_atime_ns, os.stat({file}).st_mtime_ns))",
                f"os.utime({file})",
                f"os.setxattr({file}, 'user.onelayer', b'')",
            )
        ),
        first="import os",
    ),
    "network": "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "local sockets": _any(
        "socket.socket(socket.AF_UNIX).connect({folder!r} + '/socket')",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect({folder!r} + '/datagrams')",
        first="import socket",
    ),
    "signals": _any(
        "os.kill({process}, 0)",
        "signal.pidfd_send_signal(os.pidfd_open({process}), 0)",
        "call('sigqueue', {process}, 0, None)",
        "by_number(234, 131, {process}, {process}, 0)",
        "fcntl.fcntl(1, fcntl.F_SETOWN, {process})",
        first="import fcntl, signal" + _C_LIBRARY,
    ),
    "limits of other processes": _any(
        "resource.prlimit({process}, resource.RLIMIT_CORE, resource.prlimit({process}, resource.RLIMIT_CORE))",
        "os.setpriority(os.PRIO_PROCESS, {process}, os.getpriority(os.PRIO_PROCESS, {process}))",
        "os.sched_setscheduler({process}, os.sched_getscheduler({process}), os.sched_param(0))",
        "os.sched_setaffinity({process}, os.sched_getaffinity({process}))",
        "by_number(251, 30, 1, {process}, by_number(252, 31, 1, {process}))",
        first="import resource" + _C_LIBRARY,
    ),
    "looking into processes": _any(
        "print(open('/proc/{process}/cmdline').read())",
        "by_number(312, 272, {process}, {process}, 0, 0, 0)",
        first=_C_LIBRARY,
    ),
    "memory that stays": _any(
        "call('shmctl', call('shmget', 0, 4096, 0o600), 0, None)",
        "call('semctl', call('semget', 0, 1, 0o600), 0, 0)",
        "call('msgctl', call('msgget', 0, 0o600), 0, None)",
        "by_number(250, 219, 3, by_number(248, 217, b'user', b'onelayer', b'x', 1, -3))",
        "open('/dev/shm/onelayer-probe', 'w').close(); os.unlink('/dev/shm/onelayer-probe')",
        first=_C_LIBRARY,
    ),
    "running other programs": "import os; assert os.spawnv(os.P_WAIT, {python!r}, ['python', '-S', '-c', '']) == 0",
    "programs in memory": (
        "import os\nfile = os.memfd_create('program', 0)\nos.write(file, b'#!' + {python!r}.encode() + b' -S\\n')\n"
        "assert os.spawnv(os.P_WAIT, f'/proc/self/fd/{{file}}', ['program']) == 0"
    ),
    "privileges": "import os, ctypes; ctypes.CDLL(None).unshare(0x10000000) and os.chroot('.')",
    "root's user id": "import os; assert os.getuid() == 0",
    "memory": "bytearray({memory} + 1)",
    "file size": "open('f', 'wb', 0).write(bytes({file_bytes})); assert open('f', 'ab', 0).write(b'x')",
    "disk space": (
        "for n in range({files}): open(str(n), 'wb', 0).write(bytes({file_bytes}))\n"
        "assert open('last', 'wb', 0).write(b'x')"
    ),
    "disk space of deleted files": (
        "import os, time\nfor n in range({files} + 1):\n    file = os.open(str(n), os.O_CREAT | os.O_WRONLY)\n"
        "    os.unlink(str(n))\n    assert os.write(file, bytes({file_bytes})) == {file_bytes}\ntime.sleep(0.3)"
    ),
    "open files": "import os; files = [os.dup(1) for _ in range({open_files} + 1)]",
    "processes": (
        "import os, time\nfor _ in range(2 * {processes}):\n    if os.fork() == 0:\n        time.sleep(30)\n"
    ),
    "environment": "import os; assert os.environ",
}
"""Programs that end with exit code 0 only if the attack succeeded. None changes anything for good."""
_TOGETHER_ATTACK = """
import os, time
end, start = os.pipe()
for _ in range({processes}):
    if os.fork() == 0:
        held = b'x' * {bytes}
        os.write(start, held[:1])
        time.sleep(30)
os.close(start)
for _ in range({processes}): assert os.read(end, 1)
time.sleep({seconds})
"""
"""Several processes that hold more than one may, and none more than it may."""
_DEADLINE_ATTACK = """
import os, signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
_LEFT_OVER_ATTACK = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
time.sleep(0.1)
"""
_LEFT_OVER_FILES_ATTACK = """
import os
print(os.getcwd(), flush=True)
for _ in range(24):
    os.mkdir('d' * 200)
    os.chdir('d' * 200)
os.symlink({folder!r}, 'link')
os.mkdir('closed', 0)
"""
_DEADLINE = 0.3
_TOGETHER = Limits(memory_bytes=96 << 20)
_IN_THEIR_OWN_WAY = ("memory of all processes", "deadline", "left-over processes", "left-over files")
_probed: WeakKeyDictionary[Sandbox, dict[str, bool]] = WeakKeyDictionary()
_means: WeakKeyDictionary[Sandbox, tuple[str, ...]] = WeakKeyDictionary()


def probe(sandbox: Sandbox) -> dict[str, bool]:
    """Attack the sandbox once in each way; which protections held. Later calls return the same."""
    if sandbox not in _probed:
        lost = dict.fromkeys([*_ATTACKS, *_IN_THEIR_OWN_WAY], False)
        _probed[sandbox] = sandbox.pool.map(lambda worker, _: _attack(sandbox, worker), [None], lost)[0]
    return _probed[sandbox]


def attacks(limits: Limits, folder: Path, port: int) -> dict[str, str]:
    """The programs, by what they attack.

    Args:
        limits: the limits that they try to pass.
        folder: a folder, open to everyone, with a file ``canary``, a listening socket ``socket`` and one that takes
            ``datagrams``.
        port: a listening port on this machine.
    """
    targets = {
        "canary": str(folder / "canary"),
        "folder": str(folder),
        "port": port,
        "process": os.getpid(),
        "python": sys.executable,
        "memory": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "files": DIRECTORY_BYTES // limits.file_bytes + 1,
        "open_files": limits.open_files,
        "processes": limits.processes,
    }
    return {name: attack.format(**targets) for name, attack in _ATTACKS.items()}


@contextmanager
def bait() -> Iterator[tuple[Path, int]]:
    """A folder and a port for :func:`attacks`; nothing but the sandbox is in the way to them."""
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "canary").write_text("canary")
        (folder / "canary").chmod(0o666)
        listener.bind(f"{folder}/socket")
        listener.listen()
        datagrams.bind(f"{folder}/datagrams")
        for name in ("socket", "datagrams"):
            (folder / name).chmod(0o777)
        yield folder, server.getsockname()[1]


def _attack(sandbox: Sandbox, worker: SandboxWorker) -> dict[str, bool]:
    with bait() as (folder, port):
        programs = attacks(sandbox.limits, folder, port)
        held = {name: sandbox.run_script(worker, program, "", 10.0).status != 0 for name, program in programs.items()}
        canary = (folder / "canary").stat()
        left = sandbox.run_script(worker, _LEFT_OVER_FILES_ATTACK.format(folder=str(folder)), "", 10.0)
        directory = left.output.decode().strip()
        held["left-over files"] = bool(directory) and not os.path.lexists(directory)
        held["left-over files"] &= (folder / "canary").stat() == canary
    together = _TOGETHER_ATTACK.format(processes=4, bytes=_TOGETHER.memory_bytes // 3, seconds=_DEADLINE)
    held["memory of all processes"] = sandbox.run_script(worker, together, "", 10.0, _TOGETHER).status != 0
    started = time.monotonic()
    held["deadline"] = sandbox.run_script(worker, _DEADLINE_ATTACK, "", _DEADLINE).timed_out
    held["deadline"] &= time.monotonic() - started < _DEADLINE + 1
    before = worker.processes()
    sandbox.run_script(worker, _LEFT_OVER_ATTACK, "", 10.0)
    held["left-over processes"] = worker.processes() == before
    _means[sandbox] = worker.means
    return held


def statement(sandbox: Sandbox, protections: dict[str, bool]) -> str:
    """One line for people: what confines programs here, and what the attacks of :func:`probe` did and did not reach."""
    holds = [name for name, held in protections.items() if held]
    missing = [name for name, held in protections.items() if not held]
    ways = _means.get(sandbox) or ("nothing but limits",)
    text = f"Programs run confined by {', '.join(ways)}; protected: {', '.join(holds) or 'nothing'}"
    return text + (f"; NOT protected: {', '.join(missing)}." if missing else ".")
