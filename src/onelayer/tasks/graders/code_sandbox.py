"""The code grader: does a program pass all of its tests?

Each program runs in an interpreter of its own, forked from one that has run nothing, under limits and confined as far
as the system allows; :func:`onelayer.tasks.graders.probes.probe` tells what holds here. Tests that are code run in another
process still, and see built-in data only.

Covered: programs that end early or never, that fill memory, disk or the process table, that leave processes behind,
read files, open connections, signal or inspect other processes, replace built-ins, patch modules, return objects that
equal everything, or print what a harness might look for.

Not covered: faults of the kernel itself (this is no virtual machine); side channels such as timing; a prompt's helper
functions where the tests use them and the prompt is not given with the tests (the program can redefine them); tests
that look at arguments changed in place, or compare objects of the program's own classes (arguments and results are
copied). Programs see the standard library only. Outside Linux only the limits and the deadline hold.
"""

import atexit
import json
import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from onelayer.errors import RunStopped, UserError
from onelayer.tasks.graders.code_checks import InvalidTest, prepare
from onelayer.tasks.graders.code_tests import (
    CallTests,
    CodeTests,
    ScriptTests,
    Tests,
    assemble,
    complete_prompt,
    extract_code,
    parse_tests,
    same_output,
)
from onelayer.tasks.graders.grade import REASONS, Grade, grade_of
from onelayer.tasks.graders.pool import WorkerLost
from onelayer.tasks.graders.probes import probe, statement
from onelayer.tasks.graders.sandbox import Execution, Sandbox, SandboxWorker

logger = logging.getLogger(__name__)
_shared: list[Sandbox] = []
MAX_DETAIL = 200
"""Characters of a grade's detail."""


def grade_code(
    completions: Sequence[str],
    tests: Sequence[Any],
    *,
    timeout: float = 6.0,
    batch_deadline: float | None = None,
    float_tolerance: float = 0.0,
    sandbox: Sandbox | None = None,
) -> list[Grade]:
    """Run the program of each completion against its tests; reward 1 only if all pass.

    Args:
        completions: programs, or text with a program in a fenced block.
        tests: for each completion, tests in a format of :mod:`~onelayer.tasks.graders.code_tests`.
        timeout: wall seconds for tests that are code, and for each pair of input and output.
        batch_deadline: wall seconds for the whole call, by default none beyond the sum of the timeouts; what it leaves
            no time for is ``not_graded``, reward None.
        float_tolerance: how far numbers that a script prints may be from the expected ones, where they are written as
            floats (see :func:`~onelayer.tasks.graders.code_output.same_output`); 0 is equality of values.
        sandbox: where programs run; by default one sandbox that all calls share.

    Raises:
        UserError: the two lists differ in length.
    """
    if len(completions) != len(tests):
        raise UserError(f"There are {len(completions)} completions but {len(tests)} tests; give one for each.")
    sandbox = sandbox or shared_sandbox()
    end = time.monotonic() + (float("inf") if batch_deadline is None else batch_deadline)

    def grade(worker: SandboxWorker, item: tuple[str, Any]) -> Grade:
        return _grade_one(sandbox, worker, *item, timeout, end, float_tolerance)

    lost = grade_of("crash", detail="the sandbox's own process died")
    return sandbox.pool.map(grade, list(zip(completions, tests, strict=True)), lost)


def shared_sandbox(*, require: bool = False) -> Sandbox:
    """The sandbox that calls without one share, started and probed by the first of them, ended with the process.

    What the probes found is logged once, as information, or as a warning where a protection does not hold.

    Args:
        require: refuse to go on unless every protection holds.

    Raises:
        UserError: ``require`` is set and a protection does not hold.
    """
    if not _shared:
        _shared.append(Sandbox())
        atexit.register(_shared[0].close)
        found = probe(_shared[0])
        logger.log(logging.INFO if all(found.values()) else logging.WARNING, statement(_shared[0], found))
    protections = probe(_shared[0])
    if require:
        require_protections(protections)
    return _shared[0]


def require_protections(protections: dict[str, bool]) -> None:
    """Refuse unless all protections hold.

    Raises:
        UserError: one does not.
    """
    missing = [name for name, holds in protections.items() if not holds]
    if missing:
        raise UserError(
            f"The sandbox is required, but an attack on it succeeded ({', '.join(missing)}); "
            "run on Linux as root or with user namespaces allowed, or do without --require-sandbox."
        )


def _grade_one(
    sandbox: Sandbox,
    worker: SandboxWorker,
    completion: str,
    raw: Any,
    timeout: float,
    end: float,
    float_tolerance: float,
) -> Grade:
    """One completion's grade. Whatever goes wrong over it is its own: the others of its batch are graded."""
    code = ""
    try:
        code = extract_code(completion)
        if not code.strip():
            return grade_of("no_answer")
        try:
            tests = parse_tests(raw)
            for_judge = None if isinstance(tests, ScriptTests) else _for_judge(tests)
        except InvalidTest as error:
            return grade_of("invalid_test", code, detail=str(error)[:MAX_DETAIL])
        except Exception as error:  # tests are anybody's data; without a program there is nobody else to blame
            said = str(error) if isinstance(error, UserError) else f"they cannot be read ({type(error).__name__})"
            return grade_of("invalid_test", code, detail=said[:MAX_DETAIL])
        program = assemble(code, tests)
        if isinstance(tests, ScriptTests):
            return _run_scripts(sandbox, worker, program, tests, timeout, end, float_tolerance)
        assert for_judge is not None
        return _run_judged(sandbox, worker, program, for_judge, timeout, end)
    except (WorkerLost, RunStopped):
        raise
    except Exception as error:
        return grade_of("crash", code, detail=f"grading it raised {type(error).__name__}: {error}"[:MAX_DETAIL])


def _run_judged(
    sandbox: Sandbox, worker: SandboxWorker, program: str, tests: dict[str, Any], timeout: float, end: float
) -> Grade:
    """Run the tests in a process of their own; where they came to nothing, ask without the program whether they can."""
    left = end - time.monotonic()
    if left <= 0:
        return _not_graded(program)
    execution = sandbox.run_tests(worker, program, tests, min(timeout, left))
    if execution.timed_out and execution.verdict is None and left < timeout:
        return _not_graded(program)
    grade = _grade_of_verdict(execution, program)
    verdict = execution.verdict
    ended = verdict is None and not execution.timed_out
    if "cases" in tests or not (ended or (verdict is not None and verdict.doubt)):
        return grade
    left = end - time.monotonic()
    if left <= 0:
        return _not_graded(program)
    alone = sandbox.run_tests(worker, "", tests | {"alone": True}, min(timeout, left))
    found = alone.verdict
    if found is not None and found.reason == "invalid_test":
        return grade_of("invalid_test", program, execution.seconds, found.detail)
    if ended and found is None and not alone.timed_out:
        return grade_of("invalid_test", program, execution.seconds, "the tests end their own process")
    return grade


def _run_scripts(
    sandbox: Sandbox,
    worker: SandboxWorker,
    program: str,
    tests: ScriptTests,
    timeout: float,
    end: float,
    float_tolerance: float,
) -> Grade:
    """One fresh process for each pair of input and output, until one fails."""
    seconds = 0.0
    for number, (given, expected) in enumerate(tests.cases, start=1):
        left = end - time.monotonic()
        if left <= 0:
            return _not_graded(program)
        execution = sandbox.run_script(worker, program, given, min(timeout, left))
        seconds += execution.seconds
        if execution.timed_out and left < timeout:
            return _not_graded(program)
        grade = _grade_of_script(execution, program)
        if grade.reason == "correct" and not same_output(execution.output, expected, float_tolerance):
            grade = grade_of("wrong", program, detail="another output")
        if grade.reason != "correct":
            detail = f"test {number} of {len(tests.cases)}: {grade.detail}"
            return replace(grade, seconds=seconds, detail=detail)
    return grade_of("correct", program, seconds)


def _for_judge(tests: CodeTests | CallTests) -> dict[str, Any]:
    if isinstance(tests, CodeTests):
        return prepare(tests.source, complete_prompt(tests.prompt), tests.entry_point)
    content = asdict(tests)
    json.dumps(content)  # as they will travel; here a value that cannot is the tests' fault
    return content


def _not_graded(program: str) -> Grade:
    return grade_of("not_graded", program, detail="the deadline of the batch passed first")


def _grade_of_verdict(execution: Execution, program: str) -> Grade:
    """The grade of a program with tests in a process of their own: only what they wrote themselves says ``correct``."""
    verdict = execution.verdict
    known = next((name for name in REASONS if verdict and name == verdict.reason), None)
    if verdict and known and known != "exited":
        return grade_of(known, program, execution.seconds, verdict.detail[:MAX_DETAIL])
    ended = _grade_of_end(execution, program)
    if ended:
        return ended
    if verdict and known:
        return grade_of("exited", program, execution.seconds, verdict.detail[:MAX_DETAIL])
    return grade_of("crash", program, execution.seconds, "its tests' process ended without a verdict")


def _grade_of_script(execution: Execution, program: str) -> Grade:
    """The grade that follows from how a script ended; one that ended well is ``correct`` so far."""
    ended = _grade_of_end(execution, program)
    if ended:
        return ended
    if execution.status:
        return grade_of("error", program, execution.seconds, f"exit code {execution.status}")
    return grade_of("correct", program, execution.seconds)


def _grade_of_end(execution: Execution, program: str) -> Grade | None:
    """The grade of a program that was ended from outside; None for one that ended by itself."""
    if execution.timed_out or execution.status == -signal.SIGXCPU:
        return grade_of("timeout", program, execution.seconds, "it did not end within its deadline")
    if execution.status < 0:
        name = _signal_name(-execution.status)
        return grade_of("crash", program, execution.seconds, f"it was killed by {name}")
    return None


def _signal_name(number: int) -> str:
    """The name of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


__all__ = ["Tests", "grade_code", "require_protections", "shared_sandbox"]
