"""The long-lived process behind :mod:`onelayer.graders.sandbox`: it forks a process for each program and its tests.

It never reads a program or a test: those come as open files that are handed on to the process that needs them. So a
later program finds nothing of an earlier one, and no tests, in the memory that it inherits; each starts from an
interpreter that has run nothing but the imports below.

Started with three arguments: the mode, "namespaces" or "plain", the number of a socket, and how many processes a
program may have. A request is JSON with ``mode`` ("script", "calls" or "code"), ``seconds`` and ``limits``, and open
files (script: program, input, output; else: program, tests, verdict). The reply is ``{"status", "awaited", "timed_out",
"seconds"}``: the exit codes of the program and of the process that was waited for, negative for a signal.
"""

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from onelayer.graders import filters, namespaces, protection, sandbox_judge, sandbox_program
from onelayer.graders.processes import (
    join_process_group,
    leave_process_group,
    processes_of_this_user,
    sweep,
    works,
)
from onelayer.graders.protection import DIRECTORY_BYTES, Limits

PRELOADED = """
abc array ast bisect calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq io itertools json math numbers operator pprint queue random re statistics string struct textwrap threading
time types typing unicodedata
""".split()  # noqa: SIM905
"""What programs import most: loaded once, before the first fork."""
FIRST_USER = 0x70000000
_INNER_USER = 1000
_DIRECTORY = "/sandbox"
_OWN_PROCESSES = 3  # this one, its parent, and the tests
_POLL_SECONDS = 0.001
_LAST_WORDS_SECONDS = 0.2


@dataclass(frozen=True)
class Confinement:
    """How programs are confined here: what this system turned out to allow."""

    pid_namespace: int | None
    user: int | None
    readable: tuple[str, ...]
    landlock: bool
    seccomp: bool
    process_allowance: int


def interpreter_paths() -> tuple[str, ...]:
    """The directories that the interpreter and its libraries are read from."""
    own = [str(Path(sys.base_prefix) / "lib"), str(Path(os.__file__).parent)]
    return tuple(
        dict.fromkeys(path for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", *own) if Path(path).exists())
    )


def prepare(in_namespaces: bool, user: int) -> Confinement:
    """Set this process up once, and find out what its children can have."""
    readable = interpreter_paths()
    descriptor = None
    if in_namespaces:
        descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY)
        namespaces.enter_new_root(readable, _DIRECTORY)
    elif sys.platform == "linux":
        protection.adopt_orphans()

    def become_user() -> None:
        protection.change_user(user)
        Path(os.__file__).read_bytes()  # the interpreter may lie in a folder closed to others

    is_root = os.geteuid() == 0
    own_user = user if is_root and works(become_user) else None
    return Confinement(
        pid_namespace=descriptor,
        user=own_user,
        readable=readable,
        landlock=works(lambda: filters.landlock(readable, ())),
        seccomp=works(filters.seccomp),
        process_allowance=0 if own_user or in_namespaces else processes_of_this_user(),
    )


def confine(confinement: Confinement, limits: Limits, directory: str, role: int) -> None:
    """Apply everything to this process. After this nothing of it can be undone."""
    os.setsid()
    user = None if confinement.user is None else confinement.user + role
    if confinement.pid_namespace is not None:
        namespaces.mount_empty_directory(directory, DIRECTORY_BYTES, os.getuid() if user is None else user)
    elif user is not None:
        os.chown(directory, user, user)
    os.chdir(directory)
    protection.limit_resources(limits, confinement.process_allowance)
    if user is not None:
        protection.change_user(user)
    if sys.platform == "linux":
        protection.drop_capabilities()
    if confinement.landlock:
        filters.landlock((*confinement.readable, *namespaces.DEVICES), (directory, "/dev/null"))
    if confinement.seccomp:
        filters.seccomp()
    os.environ.clear()
    tempfile.tempdir = directory


def place_files(descriptors: list[int]) -> None:
    """Make ``descriptors`` the files 0, 1, 2, ... of this process and close all others."""
    aside = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate(descriptors)]
    for number, descriptor in enumerate(aside):
        os.dup2(descriptor, number)
    os.closerange(len(descriptors), 4096)


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
            directories = [self._directory(), self._directory()]
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
            status, awaited, timed_out = self._wait(child, judge, started + request["seconds"])
            for directory in directories:
                self._remove(directory)
            seconds = time.monotonic() - started
            reply = {"status": status, "awaited": awaited, "timed_out": timed_out, "seconds": seconds}
            self.control.sendall(json.dumps(reply).encode())

    def _directory(self) -> str:
        return _DIRECTORY if self.confinement.pid_namespace is not None else tempfile.mkdtemp(prefix="onelayer-")

    def _remove(self, directory: str) -> None:
        if self.confinement.pid_namespace is None:
            for folder, _, _ in os.walk(directory):  # a program may have closed its folders to itself
                Path(folder).chmod(0o700)
            shutil.rmtree(directory)

    def _fork(self, limits: Limits, directory: str, role: int, files: list[int]) -> int | None:
        """Fork a confined process that holds ``files`` as 0, 1, 2, ...; None in the child."""
        inner = self.confinement.pid_namespace
        if inner is not None:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            self.control.detach()
            place_files(files)
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

    def _wait(self, program: int, judge: int | None, deadline: float) -> tuple[int, int, bool]:
        """Wait for the script or the verdict, then kill all that is left.

        Returns the program's status, the status of what was waited for, and whether the deadline came first.
        """
        statuses: dict[int, int] = {}
        awaited = program if judge is None else judge
        children = {awaited, program}
        self._collect(children, statuses, awaited, deadline)
        timed_out = awaited not in statuses
        if statuses.get(awaited) == sandbox_judge.PROGRAM_LOST:
            self._collect(children, statuses, program, time.monotonic() + _LAST_WORDS_SECONDS)
        for process in children - statuses.keys():
            os.kill(process, signal.SIGKILL)
            statuses[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if self.confinement.pid_namespace is None:
            sweep(children)
        return statuses[program], statuses[awaited], timed_out

    def _collect(self, children: set[int], statuses: dict[int, int], awaited: int, deadline: float) -> None:
        """Gather the statuses of children that ended, until ``awaited`` is among them or ``deadline`` has passed."""
        while awaited not in statuses and time.monotonic() < deadline:
            for process in children - statuses.keys():
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    statuses[process] = os.waitstatus_to_exitcode(status)
            # The caller waits for the reply, so its socket only becomes readable when it is gone.
            if awaited not in statuses and select.select([self.control], [], [], _POLL_SECONDS)[0]:
                return


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
    user = FIRST_USER + 2 * os.getpid()
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
    """Say that the worker is ready, and answer requests until the other side hangs up."""
    sandbox_program.prepare()
    gc.freeze()
    control.sendall(b"ready")
    Worker(control, confinement).serve()
