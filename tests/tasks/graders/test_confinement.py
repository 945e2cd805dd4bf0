"""What keeps a program that is graded from everything else: system calls, users, memory, directories."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onelayer.tasks.graders import system_calls
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.leftovers import remove_directory
from onelayer.tasks.graders.probes import probe, statement
from onelayer.tasks.graders.protection import FIRST_USER, Limits, unused_users
from onelayer.tasks.graders.sandbox import Execution, Mode, Sandbox
from onelayer.tasks.graders.sandbox_worker import Confinement
from onelayer.tasks.graders.watcher import Descendants, open_proc, room_below

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are confined on Linux only")
MAY_BE_OPEN = {"memory of all processes", "programs in memory"}
"""What an ordinary container may leave open, if the statement names it."""


@pytest.fixture(scope="module", params=["namespaces", "plain"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=1, mode=request.param) as sandbox:
        try:
            sandbox.pool.map(lambda worker, _: worker.means, [None], None)
        except Exception as error:
            pytest.skip(f"no {request.param} here: {error}")
        yield sandbox


@pytest.fixture(scope="module")
def plain() -> Iterator[Sandbox]:
    with Sandbox(workers=1, mode="plain") as sandbox:
        yield sandbox


def run(sandbox: Sandbox, program: str, limits: Limits | None = None, seconds: float = 20.0) -> Execution:
    lost = Execution(-1, False, 0.0)
    program = textwrap.dedent(program)
    work = lambda worker, _: sandbox.run_script(worker, program, "", seconds, limits)  # noqa: E731
    return sandbox.pool.map(work, [None], lost)[0]


def printed(sandbox: Sandbox, program: str) -> Any:
    execution = run(sandbox, f"import json\ndef show(value): print(json.dumps(value))\n{textwrap.dedent(program)}")
    assert execution.status == 0, execution
    return json.loads(execution.output)


# System calls -------------------------------------------------------------------------------------------------------
EVERY_CALL = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
answered = {}
for number in NUMBERS:
    ctypes.set_errno(0)
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    if not (result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)):
        answered[number] = ctypes.get_errno()
show(answered)
"""


def test_every_system_call_that_is_not_listed_is_refused(sandbox: Sandbox) -> None:
    allowed = set(system_calls.numbers(os.uname().machine).values())
    others = {*range(600)} - allowed
    if os.uname().machine == "x86_64":
        others -= {335, 336}  # for probes of the kernel's own: a program that calls them is ended by the kernel
    assert printed(sandbox, f"NUMBERS = {sorted(others)}\n{EVERY_CALL}") == {}


REFUSED = {
    "limits of its parent": "resource.prlimit(os.getppid() or 1, resource.RLIMIT_CORE)",
    "limits of itself by its number": "resource.prlimit(os.getpid(), resource.RLIMIT_CORE)",
    "its own priority": "os.nice(1)",
    "who gets the signal of a file": "fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
    "which signal that is": "fcntl.fcntl(1, fcntl.F_SETSIG, 9)",
    "leases": "fcntl.fcntl(1, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "locks": "fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX)",
    "datagrams": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "sockets": "socket.socket(socket.AF_UNIX)",
    "a user namespace": "check(libc.syscall({'x86_64': 56, 'aarch64': 220}[machine], 0x10000000 | 17, 0, 0, 0, 0))",
    "being inspected": "check(libc.prctl(4, 0, 0, 0, 0))",
    "a terminal's input": "fcntl.ioctl(0, 0x5412, b'x')",
    "cutting off without writing": "os.open('own', os.O_RDONLY | os.O_TRUNC)",
    "cutting off in the third way": "os.open('own', 3 | os.O_TRUNC)",
    "other programs": "os.execv(sys.executable, ['python'])",
    "programs in memory": "os.memfd_create('program')",
    "attributes": "os.setxattr('own', 'user.x', b'')",
    "owners": "os.chown('own', -1, -1)",
    "all disks": "check(libc.syscall({'x86_64': 306, 'aarch64': 267}[machine], 1))",
    "kept memory": "check(libc.shmget(0, 4096, 0o600))",
    "queues": "check(libc.syscall({'x86_64': 240, 'aarch64': 180}[machine], b'q', 0o102, 0o600, None))",
}


def test_what_a_call_may_not_be_used_for_is_refused(sandbox: Sandbox) -> None:
    prelude = """
import ctypes, fcntl, os, platform, resource, socket, sys
libc, machine = ctypes.CDLL(None, use_errno=True), platform.machine()
open('own', 'w').write('x')
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), '')
done = []
"""
    tries = "".join(
        f"try:\n    {code}\n    done.append({name!r})\nexcept OSError: pass\n" for name, code in REFUSED.items()
    )
    assert printed(sandbox, f"{prelude}{tries}show(done)") == []


def test_calls_by_other_numbers_end_the_process(sandbox: Sandbox) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has the x32 numbers")
    assert run(sandbox, "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39); print(1)").status == -31


def test_the_numbers_are_the_kernels() -> None:
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    if not all(header.exists() for header in headers.values()):
        pytest.skip("the kernel's headers are not installed")
    for machine, header in headers.items():
        known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        if machine == "aarch64":  # the two have other names where a long has 64 bits
            known |= {"newfstatat": known["fstatat"], "mmap": "222"}
        for of_worker in (False, True):
            listed = system_calls.numbers(machine, of_worker=of_worker)
            found = {name: int(known[name]) for name in listed.keys() & known.keys()}
            assert found == {name: listed[name] for name in found}
            assert len(found) > 0.9 * len(listed)  # older headers do not have all


FILTER_ALONE = """
import json, os, sys
from onelayer.tasks.graders import filters, system_calls
filters.seccomp_worker()
filters.seccomp_program(system_calls.MODES | system_calls.TIMES | system_calls.TRUNCATE, os.getpid())
done = []
def attempt(name, work):
    try: work()
    except OSError: return
    done.append(name)
attempt('kill the parent', lambda: os.kill(os.getppid(), 0))
attempt('kill all', lambda: os.kill(-1, 0))
attempt('itself', lambda: os.kill(os.getpid(), 0))
attempt('its group', lambda: os.killpg(0, 0))
attempt('mode', lambda: os.chmod(sys.argv[1], 0o600))
attempt('mode by descriptor', lambda: os.fchmod(os.open(sys.argv[1], os.O_RDONLY), 0o600))
attempt('times', lambda: os.utime(sys.argv[1]))
attempt('truncate', lambda: os.truncate(sys.argv[1], 0))
print(json.dumps(done))
"""


def test_the_filter_alone_keeps_signals_and_files_where_nothing_else_does(tmp_path: Path) -> None:
    """Kernels whose Landlock confines no signals, and programs that stay the user that they are."""
    file = tmp_path / "file"
    file.write_text("content")
    command = [sys.executable, "-c", FILTER_ALONE, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert json.loads(result.stdout) == ["itself", "its group"], result.stderr
    assert file.read_text() == "content"


@pytest.mark.parametrize(
    ("namespace", "user", "landlock", "refused", "signals"),
    [
        (3, None, 0, "", False),
        (None, 7, 6, "utime", False),
        (None, None, 6, "chmod utime", False),
        (None, None, 2, "chmod utime truncate", True),
    ],
)
def test_what_is_refused_follows_from_what_else_holds(
    namespace: int | None, user: int | None, landlock: int, refused: str, signals: bool
) -> None:
    here = Confinement(namespace, user, (), None, landlock, True, 0, None)
    assert here.refused_calls() & {"chmod", "utime", "truncate"} == set(refused.split())
    assert here.signals_go_anywhere() == signals


# What programs may do -----------------------------------------------------------------------------------------------
LIBRARY = {
    "threads": """
        import concurrent.futures, queue, threading
        with concurrent.futures.ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda x: x * x, range(10))))
        """,
    "asyncio": """
        import asyncio
        async def one(): await asyncio.sleep(0.001); return await asyncio.to_thread(lambda: 285)
        print(asyncio.run(one()))
        """,
    "processes": """
        import multiprocessing
        mine, other = multiprocessing.Pipe()
        child = multiprocessing.get_context('fork').Process(target=lambda: other.send(285))
        child.start(); print(mine.recv()); child.join(); assert child.exitcode == 0
        """,
    "fork and signals": """
        import os, signal
        child = os.fork()
        if not child: signal.pause()
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 15
        signal.signal(signal.SIGALRM, lambda *_: print(285)); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
        """,
    "files": """
        import gzip, os, pathlib, shutil, tempfile, zipfile
        with tempfile.TemporaryDirectory() as name:
            file = pathlib.Path(name) / 'a'
            file.write_text('285'); shutil.copyfile(file, file.with_name('b')); file.rename(file.with_name('c'))
            with gzip.open(file, 'wt') as packed: packed.write('285')
            with zipfile.ZipFile(name + '/z', 'w') as packed: packed.write(name + '/b')
            os.mkdir(name + '/d'); os.symlink('b', name + '/l'); os.truncate(name + '/b', 2); os.truncate(name + '/b', 0)
            assert sorted(os.listdir(name)) == ['a', 'b', 'c', 'd', 'l', 'z']
            print(file.with_name('c').read_text())
        """,
    "databases": """
        import shelve, sqlite3
        with sqlite3.connect('d.sqlite') as base:
            base.execute('create table t (x)')
            base.execute('insert into t values (285)')
        with shelve.open('shelf') as shelf: shelf['x'] = sqlite3.connect('d.sqlite').execute('select x from t').fetchone()[0]
        with shelve.open('shelf') as shelf: print(shelf['x'])
        """,
    "what the machine is": """
        import getpass, os, platform, resource, sys, time, uuid, zoneinfo
        os.uname(), os.cpu_count(), os.getloadavg, os.sched_getaffinity(0), os.times(), os.getpriority(os.PRIO_PROCESS, 0)
        resource.setrlimit(resource.RLIMIT_STACK, resource.getrlimit(resource.RLIMIT_STACK)); resource.getrusage(0)
        os.statvfs('.'), os.urandom(8), time.process_time(), time.sleep(0.001), platform.platform(), uuid.uuid4()
        sys.setrecursionlimit(10 ** 5); print(285)
        """,
    "memory maps and foreign functions": """
        import ctypes, mmap
        area = mmap.mmap(-1, 1 << 20); area[:3] = b'285'
        compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
        numbers = (ctypes.c_int * 3)(3, 1, 2)
        ctypes.CDLL(None).qsort(numbers, 3, 4, compare(lambda a, b: a[0] - b[0]))
        assert list(numbers) == [1, 2, 3]; print(area[:3].decode())
        """,
    "waiting for files": """
        import os, select, selectors, socket
        a, b = socket.socketpair(); b.sendall(b'285')
        with selectors.DefaultSelector() as selector:
            selector.register(a, selectors.EVENT_READ); assert selector.select(1)
        assert select.select([a], [], [], 1)[0] and select.poll().poll(0) == []; print(a.recv(9).decode())
        """,
    "a large part of the library": """
        import argparse, csv, curses.ascii, difflib, email.message, hashlib, hmac, html, inspect, ipaddress, logging, lzma
        import pdb, pickle, pstats, secrets, ssl, tarfile, timeit, tracemalloc, traceback, unittest, urllib.parse, xml.dom
        logging.getLogger().warning('x'); tracemalloc.start(); hashlib.new('sha256'); secrets.token_hex(); print(285)
        """,
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_standard_library_works(sandbox: Sandbox, name: str) -> None:
    execution = run(sandbox, LIBRARY[name])
    assert (execution.status, execution.output) == (0, b"285\n")


def test_running_a_program_is_an_error_that_a_program_can_handle(sandbox: Sandbox) -> None:
    program = """
        import subprocess
        try: subprocess.run(['/bin/true'])
        except (PermissionError, FileNotFoundError): print('refused')
        """
    assert run(sandbox, program).output == b"refused\n"


# Users --------------------------------------------------------------------------------------------------------------
def test_a_program_is_not_root(sandbox: Sandbox) -> None:
    ids, groups = printed(sandbox, "import os\nshow([[*os.getresuid(), *os.getresgid()], os.getgroups()])")
    assert 0 not in ids
    if os.geteuid() == 0:
        assert min(ids) >= 30_000 and groups == []
        assert set(ids) == {ids[0]}


FROM_A_CLOSED_FOLDER = """
import json, os, subprocess, sys
from onelayer.tasks.graders import namespaces
base, folder = sys.base_prefix, sys.argv[1]
namespaces.unshare(namespaces.CLONE_NEWNS)
namespaces._mount('none', '/', None, namespaces._MS_REC | namespaces._MS_PRIVATE)
namespaces._mount(base, folder, None, namespaces._MS_BIND | namespaces._MS_REC)
sys._base_executable = folder + os.path.realpath(sys._base_executable).removeprefix(base)
from onelayer.tasks.graders.sandbox import Sandbox
with Sandbox(1, mode='plain') as sandbox:
    def look(worker, _):
        program = 'import os, json.tool, sqlite3, xml.dom.minidom\\nprint(os.getuid(), sqlite3.__file__)'
        execution = sandbox.run_script(worker, program, '', 10)
        return execution.status, execution.output.decode().split(), worker.means
    print(json.dumps(sandbox.pool.map(look, [None], None)[0]))
"""


def test_an_interpreter_in_a_closed_folder_does_not_keep_programs_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    folder = tmp_path / "closed" / "python"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    command = [sys.executable, "-c", FROM_A_CLOSED_FOLDER, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Operation not permitted" in result.stderr:
        pytest.skip("nothing may be mounted here")
    assert result.returncode == 0, result.stderr
    status, (user, file), means = json.loads(result.stdout)
    assert status == 0 and int(user) >= 30_000
    assert "a user of their own" in means
    assert file.startswith("/proc/self/fd/")


def test_users_exist_in_this_users_namespace() -> None:
    everything = "         0          0 4294967295\n"
    assert unused_users(everything, 5) == FIRST_USER + 10
    container = "0 100000 65536\n"
    low = {unused_users(container, process) for process in range(10_000)}
    assert len(low) == 10_000
    assert min(low) >= 30_000 and max(low) + 1 < 61_184
    assert unused_users("0 1000 1\n1 100000 65536\n", 3) in low


# Verdicts -----------------------------------------------------------------------------------------------------------
def test_the_limits_of_the_judge_cannot_be_taken(sandbox: Sandbox) -> None:
    program = """
import resource, os
for near in range(1, 40):
    for process in (os.getpid() + near, os.getpid() - near, os.getppid() + near):
        if process in (0, os.getpid()): continue
        for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
            try: resource.prlimit(process, limit, (0, 0))
            except (OSError, ValueError): pass
def f(): return 0
"""
    grades = grade_code([program, "def f(): return 1"], ["assert f() == 1"] * 2, timeout=10, sandbox=sandbox)
    assert [(grade.reason, grade.reward) for grade in grades] == [("wrong", 0.0), ("correct", 1.0)]


# Memory and room ----------------------------------------------------------------------------------------------------
HOLD = """
import os, time
end, start = os.pipe()
shared = b'x' * {shared}
for _ in range({processes}):
    if os.fork() == 0:
        own = b'x' * {own}
        os.write(start, b'x')
        time.sleep(30)
for _ in range({processes}): os.read(end, 1)
time.sleep(0.5)
"""


@pytest.mark.parametrize(
    ("processes", "own", "shared", "held"), [(5, 24, 0, True), (2, 24, 0, False), (5, 0, 60, False)]
)
def test_processes_together_have_the_memory_of_one(
    sandbox: Sandbox, processes: int, own: int, shared: int, held: bool
) -> None:
    limits = Limits(memory_bytes=112 << 20)
    hold = HOLD.format(processes=processes, own=own << 20, shared=shared << 20)
    execution = run(sandbox, hold, limits)
    assert (execution.status, execution.timed_out) == ((-9, False) if held else (0, False))


def test_the_tests_do_not_pass_a_program_that_holds_too_much(sandbox: Sandbox) -> None:
    with Sandbox(workers=1, limits=Limits(memory_bytes=112 << 20), mode=sandbox.mode) as small:
        program = f"def f():\n{textwrap.indent(HOLD.format(processes=5, own=24 << 20, shared=0), '    ')}    return 1"
        honest = "def f():\n    import time\n    held = b'x' * (60 << 20)\n    time.sleep(0.1)\n    return 1"
        grades = grade_code([program, honest], ["assert f() == 1"] * 2, timeout=20, sandbox=small)
    assert [(grade.reason, grade.reward) for grade in grades] == [("crash", 0.0), ("correct", 1.0)]


FILL = {
    "files": "for n in range(5): open(str(n), 'wb').write(bytes(8 << 20))",
    "deleted files that are open": (
        "import os, time\nfiles = [open(str(n), 'wb', 0) for n in range(5)]\n"
        "for n, file in enumerate(files): os.unlink(str(n)); file.write(bytes(8 << 20))\ntime.sleep(5)"
    ),
    "very many files": "for n in range(2000): open(str(n), 'w').close()",
    "files in folders": "import os\nfor n in range(5): os.mkdir(str(n)); open(f'{n}/f', 'wb').write(bytes(8 << 20))",
}


@pytest.mark.parametrize("name", FILL)
def test_the_directory_of_a_program_has_an_end(sandbox: Sandbox, name: str) -> None:
    execution = run(sandbox, FILL[name])
    assert execution.status == (-9 if sandbox.mode == "plain" else 1)
    assert run(sandbox, "for n in range(3): open(str(n), 'wb').write(bytes(8 << 20))").status == 0


def test_room_counts_what_can_be_seen_and_refuses_the_rest(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(1 << 20))
    (tmp_path / "link").symlink_to("/usr")
    assert 1 << 20 <= room_below(str(tmp_path)) < 2 << 20
    assert room_below(str(tmp_path / "gone")) == 0
    for number in range(1100):
        (tmp_path / f"{number}").touch()
    assert room_below(str(tmp_path)) == float("inf")


def test_descendants_are_found_wherever_they_went() -> None:
    proc = open_proc()
    assert proc is not None
    finder = Descendants(proc)
    try:
        script = "import os, time\nos.setsid()\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\ntime.sleep(30)"
        for _ in range(2):  # the second time most others are known
            before = set(finder.find())
            with subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout
                grandchild = int(child.stdout.readline())
                assert set(finder.find()) - before == {child.pid, grandchild}
                for process in (grandchild, child.pid):
                    os.kill(process, 9)
            assert os.getpid() not in finder.find()
    finally:
        os.close(proc)


# What is left -------------------------------------------------------------------------------------------------------
def deep_tree(folder: Path, depth: int, name: str) -> None:
    """Nest ``depth`` folders, the last one closed, with links to what lies beside ``folder``."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.symlink(folder.parent / "kept", "folder", dir_fd=here)
    os.symlink(folder.parent / "kept" / "file", "file", dir_fd=here)
    os.mkdir("closed", 0o700, dir_fd=here)
    os.close(os.open("closed/file", os.O_CREAT | os.O_WRONLY, 0, dir_fd=here))
    os.chmod("closed", 0, dir_fd=here)
    os.close(here)


@pytest.mark.parametrize(("depth", "name"), [(1100, "d"), (30, "d" * 200), (0, "")])
def test_a_directory_is_removed_however_deep_and_nothing_beside_it(tmp_path: Path, depth: int, name: str) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o750)
    (kept / "file").write_text("kept")
    (kept / "file").chmod(0o640)
    folder = tmp_path / "folder"
    folder.mkdir()
    deep_tree(folder, depth, name)
    folder.chmod(0)
    remove_directory(str(folder))
    assert list(tmp_path.iterdir()) == [kept]
    assert (kept / "file").read_text() == "kept"
    assert [path.stat().st_mode & 0o777 for path in (kept, kept / "file")] == [0o750, 0o640]


def test_a_link_in_place_of_a_directory_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to("kept")
    remove_directory(str(tmp_path / "link"))
    remove_directory(str(tmp_path / "gone"))
    assert (tmp_path / "kept" / "file").exists()
    assert not os.path.lexists(tmp_path / "link")


def test_programs_leave_no_directory_behind(plain: Sandbox) -> None:
    program = """
        import os
        print(os.getcwd(), flush=True)
        os.umask(0)
        os.mkdir('closed', 0)
        os.mkdir('hidden', 0o300)
        os.symlink('/', 'link')
        os.mkfifo('pipe')
        for _ in range(300):
            os.mkdir('d' * 20)
            os.chdir('d' * 20)
        """
    directory = run(plain, program).output.decode().strip()
    assert directory
    assert not os.path.lexists(directory)
    assert run(plain, "print(1)").output == b"1\n"


# All together -------------------------------------------------------------------------------------------------------
AS_ANOTHER_USER = """
import json, os, sys
from pathlib import Path

def open_up(paths):
    \"\"\"Let everyone reach ``paths``, in a mount namespace of this process's own.\"\"\"
    from onelayer.tasks.graders import namespaces
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces._mount('none', '/', None, namespaces._MS_REC | namespaces._MS_PRIVATE)
    for path in paths:
        closed = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 1]
        if closed:
            handle = os.open(path, os.O_RDONLY)
            namespaces._mount('tmpfs', str(closed[0]), 'tmpfs', 0, 'mode=755')
            path.mkdir(parents=True)
            namespaces._mount(f'/proc/self/fd/{handle}', str(path), None, namespaces._MS_BIND | namespaces._MS_REC)

if os.geteuid() == 0:
    import onelayer
    open_up({Path(sys.base_prefix), Path(sys.prefix), Path(onelayer.__file__).parents[1]})
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
os.environ['HOME'] = '/'
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.probes import probe, statement
from onelayer.tasks.graders.sandbox import Sandbox
with Sandbox(1, mode='plain') as sandbox:
    held = probe(sandbox)
    said = statement(sandbox, held)
    programs = json.load(sys.stdin)
    grades = grade_code(programs, ['assert f() == 1'] * len(programs), timeout=10, sandbox=sandbox)
    (means,) = sandbox.pool.map(lambda worker, _: worker.means, [None], None)
reasons = [grade.reason for grade in grades]
print(json.dumps({'user': os.geteuid(), 'held': held, 'said': said, 'grades': reasons, 'means': means}))
"""


def test_an_ordinary_user_without_namespaces_is_protected_too() -> None:
    """Each attack of the probes is blocked, but for the two that may stay open if they are named."""
    mode = "import os\nopen('own', 'w').close()\ndef f():\n    try: os.chmod('own', 0)\n    except PermissionError: return 1"
    command = [sys.executable, "-c", AS_ANOTHER_USER]
    programs = json.dumps(["def f(): return 1", "def f(): return 2", mode])
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, input=programs, capture_output=True, text=True, timeout=120, env=environment)
    if "Operation not permitted" in result.stderr and "mount" in result.stderr:
        pytest.skip("the interpreter lies in a folder closed to other users, and nothing may be mounted here")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["user"] != 0
    assert "a user of their own" not in found["means"] and "namespaces" not in found["means"]
    missing = {name for name, held in found["held"].items() if not held}
    assert missing <= MAY_BE_OPEN
    assert all(name in found["said"].partition("NOT protected")[2] for name in missing)
    assert found["grades"] == ["correct", "wrong", "correct"]


def test_root_without_namespaces_is_protected_too(plain: Sandbox) -> None:
    held = probe(plain)
    assert {name for name, holds in held.items() if not holds} <= MAY_BE_OPEN


def test_the_statement_claims_what_its_probes_showed_and_no_more(plain: Sandbox) -> None:
    probe(plain)
    said = statement(plain, {"network": True, "memory": False, "signals": True})
    assert said.endswith("protected: network, signals; NOT protected: memory.")
    (means,) = plain.pool.map(lambda worker, _: worker.means, [None], ())
    assert said.startswith(f"Programs run confined by {', '.join(means)};")
    assert "namespaces" not in said


def test_modes_are_two() -> None:
    assert set(Mode.__args__) == {"namespaces", "plain"}  # type: ignore[attr-defined]
