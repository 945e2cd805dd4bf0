"""Confined execution of programs, seen from the calling process: files in, verdicts out.

What happens on the other side is in :mod:`onelayer.tasks.graders.sandbox_worker`. The confinement is the strongest that the
system allows: namespaces (as root, or in a user namespace), else Landlock and seccomp alone. Whether it holds is not
concluded from that but tried out by :mod:`onelayer.tasks.graders.probes`.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO, Literal

from onelayer.tasks.graders.pool import WorkerLost, WorkerPool
from onelayer.tasks.graders.protection import Limits
from onelayer.tasks.graders.wire import Verdict

Mode = Literal["namespaces", "plain"]
GRACE_SECONDS = 5.0
"""What a worker gets beyond a program's deadline before it is taken for dead."""
_START_SECONDS = 30.0
_START = (
    "import sys; sys.path.insert(0, {path!r}); from onelayer.tasks.graders import sandbox_worker; sys.path.pop(0); "
)
_START += "sandbox_worker.main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"


MAX_VERDICT = 1 << 12
"""Bytes of a verdict; the tests' process writes less."""


@dataclass(frozen=True)
class Execution:
    """How a program ended: its exit code (negative: the signal that killed it), whether the deadline came first, wall
    seconds, what a script printed, and the verdict of the tests, if they wrote one and it was read whole."""

    status: int
    timed_out: bool
    seconds: float
    output: bytes = b""
    verdict: Verdict | None = None


class SandboxWorker:
    """One worker process. For one thread at a time."""

    def __init__(self, mode: Mode, processes: int = Limits.processes) -> None:
        self._control, other_end = socket.socketpair()
        package_root = str(Path(__file__).parents[3])
        # The base interpreter, not the virtual environment's: programs get the standard library and nothing else.
        python = getattr(sys, "_base_executable", sys.executable)
        arguments = [mode, str(other_end.fileno()), str(processes)]
        command = [python, "-S", "-s", "-P", "-c", _START.format(path=package_root), *arguments]
        self._process = subprocess.Popen(
            command,
            pass_fds=[other_end.fileno()],
            env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        other_end.close()
        self._control.settimeout(_START_SECONDS)
        try:
            ready = self._control.recv(1 << 12)
        except TimeoutError:
            self._process.kill()
            ready = b""
        if not ready:
            self._process.wait()
            assert self._process.stderr
            last_line = self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            self._process.stderr.close()
            self._control.close()
            raise OSError(last_line or "the sandbox's process did not start")
        self.means: tuple[str, ...] = tuple(json.loads(ready)["means"])
        """What confines programs here, in words."""

    def run(self, mode: str, limits: Limits, seconds: float, files: list[BinaryIO]) -> Execution:
        """Run one program for at most ``seconds`` of wall time.

        Raises:
            WorkerLost: the worker did not answer.
        """
        limits = replace(limits, cpu_seconds=min(limits.cpu_seconds, ceil(seconds) + 1))
        request = {"mode": mode, "limits": asdict(limits), "seconds": seconds}
        self._control.settimeout(seconds + GRACE_SECONDS)
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [file.fileno() for file in files])
            answer = self._control.recv(1 << 16)
        except OSError as error:
            raise WorkerLost from error
        if not answer:
            raise WorkerLost
        reply = json.loads(answer)
        return Execution(reply["status"], reply["timed_out"], reply["seconds"])

    def processes(self) -> set[int]:
        """The process ids of this worker and everything below it."""
        import psutil

        worker = psutil.Process(self._process.pid)
        return {worker.pid, *(process.pid for process in worker.children(recursive=True))}

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self._control.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()


def _file(content: bytes) -> BinaryIO:
    """An open file without a name that holds ``content``."""
    in_memory = hasattr(os, "memfd_create")
    file: BinaryIO = os.fdopen(os.memfd_create("onelayer"), "w+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file


def _start_mode() -> tuple[Mode, str]:
    """The strongest mode that works here, and why a stronger one does not."""
    try:
        SandboxWorker("namespaces").close()
    except OSError as error:
        return "plain", str(error)
    return "namespaces", ""


def _verdict(text: bytes, token: str) -> Verdict | None:
    """The verdict in a file of the tests' process; None unless it is whole and their own."""
    try:
        content = json.loads(text)
        own = content.pop("token") == token
        return Verdict(**content) if own else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class Sandbox:
    """A pool of warm, confined interpreters. A context manager; closing it ends all its processes.

    Args:
        workers: processes that run programs at the same time; by default one for each processor.
        limits: limits of one program. Its CPU time is also limited by its deadline.
        mode: "namespaces" or "plain"; by default the strongest that works.

    Attributes:
        mode: the mode in use.
        refused_mode: why namespaces are not in use, or "".
    """

    def __init__(self, workers: int | None = None, limits: Limits | None = None, mode: Mode | None = None) -> None:
        self.limits = limits or Limits()
        self.mode, self.refused_mode = (mode, "") if mode else _start_mode()
        chosen, processes = self.mode, self.limits.processes
        self._pool = WorkerPool(lambda: SandboxWorker(chosen, processes), workers or os.cpu_count() or 1)

    def run_script(
        self, worker: SandboxWorker, program: str, standard_input: str, seconds: float, limits: Limits | None = None
    ) -> Execution:
        """Run one program as a script on ``worker``, by default with the limits of this sandbox."""
        contents = [_bytes(program), _bytes(standard_input), b""]
        files = [_file(content) for content in contents]
        try:
            execution = worker.run("script", limits or self.limits, seconds, files)
            files[2].seek(0)
            return replace(execution, output=files[2].read(self.limits.file_bytes))
        finally:
            for file in files:
                file.close()

    def run_tests(self, worker: SandboxWorker, program: str, tests: dict[str, Any], seconds: float) -> Execution:
        """Run one program against tests that call it, on ``worker``."""
        token = secrets.token_hex(16)  # only the tests' process sees it: no other can write a verdict
        content = json.dumps(tests | {"token": token}).encode()
        files = [_file(each) for each in (_bytes(program), content, b"")]
        try:
            execution = worker.run("calls" if "cases" in tests else "code", self.limits, seconds, files)
            files[2].seek(0)
            return replace(execution, verdict=_verdict(files[2].read(MAX_VERDICT), token))
        finally:
            for file in files:
                file.close()

    @property
    def pool(self) -> WorkerPool[SandboxWorker]:
        """The workers, for callers that run several programs in a row on one."""
        return self._pool

    def close(self) -> None:
        """End all processes."""
        self._pool.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
