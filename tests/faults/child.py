"""Commands in forked children of a process that has imported everything already: a trial costs no start-up."""

import atexit
import contextlib
import functools
import gc
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "ONELAYER_FAULT_TRIAL"
"""In the environment of a child and of every process that it starts."""


MODULES = (
    *(
        "onelayer.commands.cli",
        "onelayer.commands.scan",
        "onelayer.evaluation.evaluate_model",
        "onelayer.evaluation.evaluate_scan",
        "onelayer.report.judge_scan",
    ),
    *(
        "onelayer.tasks.graders.grade_file",
        "onelayer.commands.stitch_and_vote",
        "onelayer.report.judge_csv",
        "onelayer.commands.model_card",
        "onelayer.arms.load_delta",
    ),
    *("onelayer.engines.verl.export", "onelayer.tasks.household", "onelayer.report.terminal_tables"),
    *("transformers.models.qwen3.modeling_qwen3", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.encoder_decoder", "torch.profiler._cupti_monitor", "scipy.stats"),
    *("pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "pyarrow.pandas_compat", "pyarrow.acero"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("plotly.graph_objects", "plotly.io", "plotly.graph_objs._figure", "rich._emoji_codes"),
)


def preload() -> None:
    """Import all that the commands import, without starting a thread or touching torch's kernels."""
    for module in MODULES:
        importlib.import_module(module)
    importlib.import_module("transformers").utils.logging.disable_progress_bar()
    # Every command compares the code with that of the run: a second each, of the same files.
    source: Any = importlib.import_module("onelayer.runs.code_hash")
    source.hash_of = functools.cache(source.hash_of)
    source.source_digest("evaluation")
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Exit code, or the negative number of the signal."""
    output: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def problem(self) -> str | None:
        """What no person should ever see: a traceback, another exit code, a failure without a sentence."""
        if "Traceback (most recent call last)" in self.output:
            return "traceback: " + self.output.strip().splitlines()[-1]
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if self.code and "error: " not in self.output:
            return f"exit code {self.code} without a sentence"
        return None


class Child:
    """A command in a forked process, with ``fault`` called there before it begins."""

    def __init__(self, argv: Sequence[str], work: Path, fault: Callable[[], object] | None = None) -> None:
        self._pipe, theirs = os.pipe()
        self._began, self._text = time.monotonic(), b""
        self._ended: Ended | None = None
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.process = os.fork()
        if self.process == 0:
            _be_command(argv, work, self.mark, theirs, fault)
        os.close(theirs)

    def wait(self, seconds: float) -> Ended | None:
        """The end of the child, or None when it still runs after ``seconds``."""
        end = time.monotonic() + seconds
        while self._ended is None:
            self._read(min(0.02, max(0.0, end - time.monotonic())))
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                while self._read(0.0):
                    pass
                os.close(self._pipe)
                text = self._text.decode(errors="replace")
                self._ended = Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - self._began)
            elif time.monotonic() >= end:
                return None
        return self._ended

    def finish(self, seconds: float) -> Ended | None:
        """The end of the child, or None when it still runs after ``seconds`` in which it was not kept waiting.

        On a machine that is busy with other things a process may get no processor for minutes, which is no hanging.
        """
        began = time.monotonic()
        while (ended := self.wait(1.0)) is None:
            if time.monotonic() - began - self._kept_waiting() > seconds:
                return None
        return ended

    def _kept_waiting(self) -> float:
        """Seconds for which the child, or a process that it started, was ready to run and had no processor."""
        waited = 0.0
        for process in (self.process, *self.processes()):
            with contextlib.suppress(OSError, IndexError):
                waited += int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
        return waited

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the child alone a signal, not those that it started; nothing where it has ended."""
        if self._ended is None:
            os.kill(self.process, number)

    def processes(self) -> list[int]:
        """Processes that the child started, wherever they moved to."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            number = int(path.parent.name)
            with contextlib.suppress(OSError):
                if number != self.process and f"{MARK}={self.mark}".encode() in path.read_bytes().split(b"\0"):
                    found.append(number)
        return found

    def orphans(self, patience: float = 15.0) -> list[int]:
        """What is left of the child's processes after its end; they get some time to notice it."""
        end = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        for number in left:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        return left

    def _read(self, seconds: float) -> bool:
        if not select.select([self._pipe], [], [], seconds)[0]:
            return False
        content = os.read(self._pipe, 65536)
        self._text += content
        return bool(content)


def _be_command(argv: Sequence[str], work: Path, mark: str, pipe: int, fault: Callable[[], object] | None) -> None:
    """Run the command in this process, which ends with it."""
    code = 70
    try:
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
        os.setsid()
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ[MARK] = mark
        os.chdir(work)
        sys.argv = ["onelayer", *argv]
        from onelayer.commands.cli import main

        if fault:
            fault()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 71
        atexit._run_exitfuncs()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
