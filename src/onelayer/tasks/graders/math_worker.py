"""The process that does the mathematics: run as a script by :mod:`onelayer.tasks.graders.math_pool`, never imported by it.

The main process only waits. A forked child, which has math-verify loaded and warm, grades; when an answer outlives
its deadline the child is killed and the next one forked: milliseconds, where a new interpreter would take a second.

One JSON object a line on stdin: ``{"reference", "answer", "deadline"}`` (seconds); one a line on stdout:
``{"verdict"}``, one of "correct", "wrong", "unreadable" (the answer is no expression), "unreadable reference",
"timeout", "crash".
"""

import ctypes
import json
import logging
import os
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 4 << 30
PR_SET_PDEATHSIG = 1
WARM_UP = (
    "x^2+2x+1",
    "(x+1)(y-2)",
    "\\frac{2\\sqrt{3}}{4}",
    "-\\frac{1}{2}",
    "(1,\\frac{1}{2}]",
    "(1,-2,3)",
    "(-\\infty,0) \\cup (9,36)",
    "1,-2",
    "10\\%",
    "5\\text{ cm}",
    "y = 2x+3",
    "\\begin{pmatrix} 1 & -2 \\\\ 1/3 & 0 \\end{pmatrix}",
    "90^\\circ",
    "2\\pi",
    "1 \\pm \\sqrt{2}",
    "0.5",
)
"""Expressions that make the parser build its tables before the first fork, so that children need not."""


@lru_cache(maxsize=1024)
def _parse(text: str) -> list[Any]:
    """The expression that is the whole of ``text``; a number is never picked out of a longer text."""
    from math_verify import LatexExtractionConfig, parse

    parsed: list[Any] = parse(
        f"\\boxed{{{text}}}",
        extraction_config=(LatexExtractionConfig(boxed_match_priority=0),),
        fallback_mode="no_fallback",
        parsing_timeout=None,  # its own timeouts are signals; the parent's deadline takes their place
        raise_on_error=True,
    )
    return parsed


def clearly_different(reference: Any, answer: Any) -> bool:
    """Whether two expressions have different values at a point: proof enough, and ten times faster than algebra."""
    from sympy import Expr

    if not (isinstance(reference, Expr) and isinstance(answer, Expr)):
        return False
    symbols = sorted(reference.free_symbols | answer.free_symbols, key=str)
    point = {symbol: 0.7390851332 + 0.6180339887 * index for index, symbol in enumerate(symbols)}
    try:
        left, right = complex(reference.evalf(subs=point)), complex(answer.evalf(subs=point))
    except TypeError:  # no number: infinite, undefined, or a function without a value
        return False
    # False too where a value is infinite or not a number. The margin is far beyond rounding, of decimals and around 0.
    return abs(left - right) > max(abs(left), abs(right)) / 1000 + 1e-9


def compare(reference: str, answer: str) -> str:
    """Ask math-verify whether ``answer`` equals ``reference`` (in that order: its comparison is not symmetric)."""
    from math_verify import verify

    gold, target = _parse(reference), _parse(answer)
    if not gold or not target:
        return "unreadable" if gold else "unreadable reference"
    # 10 % counts as 0.1 and as 10, so its value alone proves nothing.
    if "%" not in reference + answer and clearly_different(gold[0], target[0]):
        return "wrong"
    return "correct" if verify(gold, target, timeout_seconds=None, raise_on_error=True) else "wrong"


def _serve(requests: int, replies: int) -> None:
    """Grade requests until the pipe closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive a killed parent
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for standard in (0, 1):
        os.close(standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                verdict = compare(request["reference"], request["answer"])
            except Exception:
                # Whatever the mathematics trips over (recursion, memory, a bug) is reported as such, not as "wrong".
                verdict = "crash"
            os.write(replies, json.dumps({"verdict": verdict}).encode() + b"\n")


class _Child:
    """A forked grading process and the two pipes to it."""

    def __init__(self) -> None:
        request_read, self._requests = os.pipe()
        self._replies, reply_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._requests)
            os.close(self._replies)
            _serve(request_read, reply_write)
            os._exit(0)
        os.close(request_read)
        os.close(reply_write)

    def ask(self, line: bytes, deadline: float) -> bytes | None:
        """The reply, b"" if the child died, None if there is none within ``deadline`` seconds or the caller is gone."""
        try:
            os.write(self._requests, line)
        except BrokenPipeError:
            return b""
        # The caller waits for this reply, so standard input only becomes readable when it has closed.
        if self._replies not in select.select([self._replies, sys.stdin], [], [], deadline)[0]:
            return None
        return os.read(self._replies, 1 << 16)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._requests)
        os.close(self._replies)


def main() -> None:
    """Serve stdin until it closes."""
    logging.disable(logging.CRITICAL)  # math-verify warns on every call that its own timeouts are off
    for example in WARM_UP:
        compare(example, example + "+0")
    child = _Child()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin.buffer:
        reply = child.ask(line, json.loads(line)["deadline"])
        if not reply:
            child.kill()
            child = _Child()
            reply = json.dumps({"verdict": "timeout" if reply is None else "crash"}).encode() + b"\n"
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
    child.kill()


if __name__ == "__main__":
    main()
