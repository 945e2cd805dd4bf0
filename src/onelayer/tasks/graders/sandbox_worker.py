"""The long-lived process behind :mod:`onelayer.tasks.graders.sandbox`: it forks a process for each program and its tests.

It never reads a program or a test: those come as open files that are handed on to the process that needs them. So a
later program finds nothing of an earlier one, and no tests, in the memory that it inherits; each starts from an
interpreter that has run nothing but the imports below.

Started with three arguments: the mode, "namespaces" or "plain", the number of a socket, and how many processes a
program may have. It first says what confines programs, ``{"means": [...]}``. A request is JSON with ``mode`` ("script",
"calls" or "code"), ``seconds`` and ``limits``, and open files (script: program, input, output; else: program, tests,
verdict). The reply is ``{"status", "awaited", "timed_out", "seconds"}``: the exit codes of the program and of the process
that was waited for, negative for a signal.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from onelayer.tasks.graders import filters, namespaces, protection, sandbox_judge, sandbox_program, system_calls
from onelayer.tasks.graders.leftovers import remove_directory
from onelayer.tasks.graders.processes import (
    join_process_group,
    leave_process_group,
    processes_of_this_user,
    sweep,
    works,
)
from onelayer.tasks.graders.protection import DIRECTORY_BYTES, Limits
from onelayer.tasks.graders.watcher import Descendants, Watch, open_proc

PRELOADED = """
abc array ast bisect calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq io itertools json math numbers operator pprint queue random re statistics string struct textwrap threading
time types typing unicodedata
""".split()  # noqa: SIM905
"""What programs import most: loaded once, before the first fork."""
_INNER_USER = 1000
_DIRECTORY = "/sandbox"
_FILES = 4096  # more descriptors than this process ever has
_OWN_PROCESSES = 3  # this one, its parent, and the tests
_POLL_SECONDS = 0.001
_LAST_WORDS_SECONDS = 0.2


@dataclass(frozen=True)
class Confinement:
    """How programs are confined here: what this system turned out to allow.

    Attributes:
        pid_namespace: a descriptor of the worker's namespace of processes; None: there are no namespaces.
        user: the first of two user ids, for the program and its tests; None: they stay this process's user.
        readable: folders that programs may read.
        library: a descriptor of the standard library's folder, if programs reach it by no path.
        landlock: the version of Landlock's interface; 0: there is none.
        seccomp: whether system calls can be refused.
        process_allowance: processes that the kernel counts and that are not the program's.
        proc: an open ``/proc``; None: what programs hold together cannot be looked up.
    """

    pid_namespace: int | None
    user: int | None
    readable: tuple[str, ...]
    library: int | None
    landlock: int
    seccomp: bool
    process_allowance: int
    proc: int | None

    def means(self) -> list[str]:
        """What confines programs, in words."""
        means = {
            "namespaces": self.pid_namespace is not None,
            "a user of their own": self.user is not None,
            "Landlock": self.landlock > 0,
            "seccomp": self.seccomp,
        }
        return [name for name, used in means.items() if used]

    def refused_calls(self) -> frozenset[str]:
        """Allowed system calls that nothing else here keeps from files of others."""
        if self.pid_namespace is not None:  # the file system holds nothing that can be changed
            return frozenset()
        modes = system_calls.MODES if self.user is None else frozenset()
        return system_calls.TIMES | modes | (system_calls.TRUNCATE if self.landlock < 3 else frozenset())

    def signals_go_anywhere(self) -> bool:
        """Whether nothing but a filter keeps signals from other processes of the user."""
        return self.pid_namespace is None and self.landlock < 6


def interpreter_paths() -> tuple[str, ...]:
    """The directories that the interpreter and its libraries are read from."""
    own = [str(Path(sys.base_prefix) / "lib"), str(Path(os.__file__).parent)]
    return tuple(
        dict.fromkeys(path for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", *own) if Path(path).exists())
    )


def prepare(in_namespaces: bool, user: int) -> Confinement:
    """Set this process up once, and find out what its children can have."""
    readable = interpreter_paths()
    descriptor, proc = None, open_proc()
    if in_namespaces:
        descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY)
        namespaces.enter_new_root(readable, _DIRECTORY)
    elif sys.platform == "linux":
        protection.adopt_orphans()

    own_user = user if os.geteuid() == 0 and works(lambda: protection.change_user(user)) else None
    library = None
    if own_user is not None and not works(lambda: read_as(user)):  # the interpreter lies in a folder closed to others
        library = reach_library_by_descriptor()
        if not works(lambda: read_as(user)):
            own_user = None
    seccomp = works(filters.seccomp_worker)
    confinement = Confinement(
        pid_namespace=descriptor,
        user=own_user,
        readable=readable,
        library=library,
        landlock=filters.landlock_version() if works(lambda: filters.landlock(readable, ())) else 0,
        seccomp=seccomp,
        process_allowance=0 if own_user or in_namespaces else processes_of_this_user(),
        proc=proc,
    )
    if seccomp:
        filters.seccomp_worker()
    return confinement


def read_as(user: int) -> None:
    """Become ``user`` for good, and read the standard library as an import would."""
    protection.change_user(user)
    for folder in sys.path:
        with contextlib.suppress(FileNotFoundError):  # the interpreter names a packed library that need not exist
            Path(folder).stat()
            (Path(folder) / "os.py").read_bytes()


def reach_library_by_descriptor() -> int:
    """Have imports find the standard library through an open folder from now on; its descriptor.

    The path through a descriptor begins at the folder itself: who may not enter the folders above still gets there.
    """
    library = str(Path(os.__file__).parent)
    descriptor = os.open(library, os.O_RDONLY | os.O_DIRECTORY)
    number = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _FILES) - 1
    os.dup2(descriptor, number)
    os.close(descriptor)
    sys.path[:] = [path for path in sys.path if Path(path).is_dir()]  # a packed library need not exist
    packages = [
        module.__path__ for module in sys.modules.values() if isinstance(getattr(module, "__path__", None), list)
    ]
    for places in (sys.path, *packages):
        places[:] = [re.sub(f"^{re.escape(library)}(?=/|$)", f"/proc/self/fd/{number}", place) for place in places]
    return number


def confine(confinement: Confinement, limits: Limits, directory: str, role: int) -> None:
    """Apply everything to this process. After this nothing of it can be undone."""
    os.setsid()
    user = None if confinement.user is None else confinement.user + role
    if confinement.pid_namespace is not None:
        namespaces.mount_empty_directory(directory, DIRECTORY_BYTES, os.getuid() if user is None else user)
    os.chdir(directory)
    protection.limit_resources(limits, confinement.process_allowance)
    if confinement.landlock:  # before the change of user: these may be folders that the new one cannot name
        filters.landlock((*confinement.readable, *namespaces.DEVICES), (directory, "/dev/null"))
    if user is not None:
        protection.change_user(user)
        protection.be_inspectable()
    if sys.platform == "linux":
        protection.drop_capabilities()
    if confinement.seccomp:
        filters.seccomp_program(confinement.refused_calls(), os.getpid() if confinement.signals_go_anywhere() else None)
    os.environ.clear()
    tempfile.tempdir = directory


def place_files(descriptors: list[int], kept: int | None) -> None:
    """Make ``descriptors`` the files 0, 1, 2, ... of this process and close all others but ``kept``."""
    aside = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate(descriptors)]
    for number, descriptor in enumerate(aside):
        os.dup2(descriptor, number)
    kept = _FILES if kept is None else kept
    os.closerange(len(descriptors), kept)
    os.closerange(kept + 1, _FILES)


def read_and_close(descriptor: int) -> bytes:
    """All of an open file, which is closed."""
    with open(descriptor, "rb") as file:
        return file.read()


def end_with(work: Callable[[], int | None]) -> NoReturn:
    """End this process with the exit code that ``work`` gives: nothing that runs here comes back to the worker's code."""
    code: int | None = 1
    try:
        code = work()
    finally:
        os._exit(code or 0)


class Worker:
    """Serves one request at a time."""

    def __init__(self, control: socket.socket, confinement: Confinement) -> None:
        self.control = control
        self.confinement = confinement
        self.descendants = None if confinement.proc is None else Descendants(confinement.proc)
        self.null = os.open("/dev/null", os.O_RDWR)

    def serve(self) -> None:
        """Answer requests until the other side hangs up."""
        while True:
            message, files, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
            if not message:
                return
            request = json.loads(message)
            limits = Limits(**request["limits"])
            started = time.monotonic()
            directories = [self._directory(0), self._directory(1)]
            if request["mode"] == "script":
                program, text_in, text_out = files
                child = self._fork(limits, directories[0], 0, [text_in, text_out, self.null, program])
                if child is None:
                    end_with(lambda: sandbox_program.run_script(read_and_close(3)))
                judge = None
            else:
                child, judge = self._start_pair(limits, directories, files, called=request["mode"] == "calls")
            for descriptor in files:
                os.close(descriptor)
            watch = self._watch(limits, child, judge, directories)
            status, awaited, timed_out = self._wait(child, judge, started + request["seconds"], watch)
            for directory in directories:
                self._remove(directory)
            seconds = time.monotonic() - started
            reply = {"status": status, "awaited": awaited, "timed_out": timed_out, "seconds": seconds}
            self.control.sendall(json.dumps(reply).encode())

    def _directory(self, role: int) -> str:
        if self.confinement.pid_namespace is not None:
            return _DIRECTORY  # each process mounts its own there
        directory = tempfile.mkdtemp(prefix="onelayer-")
        if self.confinement.user is not None:
            os.chown(directory, self.confinement.user + role, self.confinement.user + role)
        return directory

    def _remove(self, directory: str) -> None:
        if self.confinement.pid_namespace is None:
            remove_directory(directory)

    def _watch(self, limits: Limits, child: int, judge: int | None, directories: list[str]) -> Watch:
        # In namespaces each directory is a file system with a size of its own.
        if self.confinement.pid_namespace is not None:
            newest = child if judge is None else judge if judge == child + 1 else None
            return Watch(self.descendants, limits.memory_bytes, judge, newest=newest)
        user = self.confinement.user
        return Watch(self.descendants, limits.memory_bytes, judge, (directories[0],), DIRECTORY_BYTES, user)

    def _fork(self, limits: Limits, directory: str, role: int, files: list[int]) -> int | None:
        """Fork a confined process that holds ``files`` as 0, 1, 2, ...; None in the child."""
        inner = self.confinement.pid_namespace
        if inner is not None:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            self.control.detach()
            place_files(files, self.confinement.library)
            confine(self.confinement, limits, directory, role)
            return None
        if inner is not None:
            namespaces.join_pid_namespace(inner)
        return child

    def _start_pair(self, limits: Limits, directories: list[str], files: list[int], *, called: bool) -> tuple[int, int]:
        """The program's process and the tests' process, with a socket between them."""
        program, tests, verdict = files
        program_end, tests_end = socket.socketpair()
        child = self._fork(limits, directories[0], 0, [self.null] * 3 + [program, program_end.fileno()])
        if child is None:
            end_with(lambda: sandbox_program.serve_calls(read_and_close(3), socket.socket(fileno=4), provided=called))
        judge = self._fork(limits, directories[1], 1, [self.null] * 3 + [tests, tests_end.fileno(), verdict])
        if judge is None:
            end_with(lambda: sandbox_judge.run_tests(read_and_close(3), socket.socket(fileno=4), 5))
        program_end.close()
        tests_end.close()
        assert child is not None
        return child, judge

    def _wait(self, program: int, judge: int | None, deadline: float, watch: Watch) -> tuple[int, int, bool]:
        """Wait for the script or the verdict, then kill all that is left.

        Returns the program's status, the status of what was waited for, and whether the deadline came first. A program
        that holds more than it may is killed, and its tests with it, whatever they had come to.
        """
        statuses: dict[int, int] = {}
        awaited = program if judge is None else judge
        children = {awaited, program}
        too_much = self._collect(children, statuses, awaited, deadline, watch)
        timed_out = awaited not in statuses and not too_much
        if statuses.get(awaited) == sandbox_judge.PROGRAM_LOST:
            self._collect(children, statuses, program, time.monotonic() + _LAST_WORDS_SECONDS, watch)
        for process in children - statuses.keys():
            os.kill(process, signal.SIGKILL)
            statuses[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if self.confinement.pid_namespace is None:
            sweep(children, self.descendants.find if self.descendants else list)
        # What lies in its directory cannot shrink any more; between two looks it can have grown.
        if too_much or (watch.directories and not timed_out and watch.look()):
            return -signal.SIGKILL, -signal.SIGKILL, False
        return statuses[program], statuses[awaited], timed_out

    def _collect(
        self, children: set[int], statuses: dict[int, int], awaited: int, deadline: float, watch: Watch
    ) -> bool:
        """Gather the statuses of children that ended, until ``awaited`` is among them or ``deadline`` has passed.

        Returns whether it stopped because the program holds too much.
        """
        while awaited not in statuses and time.monotonic() < deadline:
            for process in children - statuses.keys():
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    statuses[process] = os.waitstatus_to_exitcode(status)
            # The caller waits for the reply, so its socket only becomes readable when it is gone.
            if awaited not in statuses and select.select([self.control], [], [], _POLL_SECONDS)[0]:
                return False
            if watch.too_much():
                return True
        return False


def enter_namespaces() -> None:
    """New process, network and other namespaces: with root's rights, else inside a user namespace."""
    flags = namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWPID
    try:
        namespaces.unshare(flags)
    except PermissionError:
        namespaces.enter_user_namespace(_INNER_USER, flags)


def main(mode: str, control_descriptor: int, processes: int) -> None:
    """Set up, say so, serve, clean up."""
    control = socket.socket(fileno=control_descriptor)
    for name in PRELOADED:
        importlib.import_module(name)
    user = protection.unused_users(
        Path("/proc/self/uid_map").read_text() if sys.platform == "linux" else "", os.getpid()
    )
    group = join_process_group(processes + _OWN_PROCESSES)
    if mode == "namespaces":
        enter_namespaces()
        child = os.fork()
        if child:
            control.close()
            os.waitpid(child, 0)
        else:
            protection.die_with_parent()
            serve(control, prepare(True, user))
            return
    else:
        serve(control, prepare(False, user))
    if group:
        leave_process_group(group)


def serve(control: socket.socket, confinement: Confinement) -> None:
    """Say what confines programs here, which means ready, and answer requests until the other side hangs up."""
    sandbox_program.prepare()
    gc.freeze()
    control.sendall(json.dumps({"means": confinement.means()}).encode())
    Worker(control, confinement).serve()
