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

_ATTACKS = {
    "reading files": "print(open({canary!r}).read())",
    "writing files": "open({folder!r} + '/written', 'w').close()",
    "network": "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "local sockets": "import socket; socket.socket(socket.AF_UNIX).connect({folder!r} + '/socket')",
    "signals": "import os; os.kill({process}, 0)",
    "looking into processes": "print(open('/proc/{process}/cmdline').read())",
    "running other programs": "import os; assert os.spawnv(os.P_WAIT, {python!r}, ['python', '-S', '-c', '']) == 0",
    "privileges": "import os, ctypes; ctypes.CDLL(None).unshare(0x10000000) and os.chroot('.')",
    "memory": "bytearray({memory} + 1)",
    "file size": "open('f', 'wb', 0).write(bytes({file_bytes})); assert open('f', 'ab', 0).write(b'x')",
    "disk space": (
        "for n in range({files}): open(str(n), 'wb', 0).write(bytes({file_bytes}))\n"
        "assert open('last', 'wb', 0).write(b'x')"
    ),
    "open files": "import os; files = [os.dup(1) for _ in range({open_files} + 1)]",
    "processes": (
        "import os, time\nfor _ in range(2 * {processes}):\n    if os.fork() == 0:\n        time.sleep(30)\n"
    ),
    "environment": "import os; assert os.environ",
}
"""Programs that end with exit code 0 only if the attack succeeded."""
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
_DEADLINE = 0.3
_probed: WeakKeyDictionary[Sandbox, dict[str, bool]] = WeakKeyDictionary()


def probe(sandbox: Sandbox) -> dict[str, bool]:
    """Attack the sandbox once in each way; which protections held. Later calls return the same."""
    if sandbox not in _probed:
        lost = dict.fromkeys([*_ATTACKS, "deadline", "left-over processes"], False)
        _probed[sandbox] = sandbox.pool.map(lambda worker, _: _attack(sandbox, worker), [None], lost)[0]
    return _probed[sandbox]


def attacks(limits: Limits, folder: Path, port: int) -> dict[str, str]:
    """The programs, by what they attack.

    Args:
        limits: the limits that they try to pass.
        folder: a folder, open to everyone, with a file ``canary`` and a listening socket ``socket``.
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
    ):
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "canary").write_text("canary")
        listener.bind(f"{folder}/socket")
        listener.listen()
        (folder / "socket").chmod(0o777)
        yield folder, server.getsockname()[1]


def _attack(sandbox: Sandbox, worker: SandboxWorker) -> dict[str, bool]:
    with bait() as (folder, port):
        programs = attacks(sandbox.limits, folder, port)
        held = {name: sandbox.run_script(worker, program, "", 10.0).status != 0 for name, program in programs.items()}
    started = time.monotonic()
    held["deadline"] = sandbox.run_script(worker, _DEADLINE_ATTACK, "", _DEADLINE).timed_out
    held["deadline"] &= time.monotonic() - started < _DEADLINE + 1
    before = worker.processes()
    sandbox.run_script(worker, _LEFT_OVER_ATTACK, "", 10.0)
    held["left-over processes"] = worker.processes() == before
    return held


def statement(sandbox: Sandbox, protections: dict[str, bool]) -> str:
    """One line for people: what confines programs here, and what does not."""
    ways = {"namespaces": "namespaces, Landlock and seccomp", "plain": "Landlock and seccomp where the kernel has them"}
    holds = [name for name, held in protections.items() if held]
    missing = [name for name, held in protections.items() if not held]
    text = f"Programs run confined by {ways[sandbox.mode]}; protected: {', '.join(holds) or 'nothing'}"
    return text + (f"; NOT protected: {', '.join(missing)}." if missing else ".")
