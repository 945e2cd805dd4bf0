"""The end of a process with a gloo group: its threads have ended before the interpreter does, whoever holds the group."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.threads import TELLS_ITS_THREADS, threads_at_the_end

WITH_A_GROUP = f"""{TELLS_ITS_THREADS}
import torch
from torch import distributed
import onelayer.engines.trl.ending

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
import torch.distributed.nn.functional  # its functions have the group as a default

def wrapped():
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))

model = wrapped()
model(torch.ones(1, 2)).sum().backward()
distributed.broadcast_object_list([1])
assert "pt_gloo_runloop" in names()
"""
"""A script that holds its model, and so the group, to the end; in one process, which has the same threads."""


@pytest.mark.parametrize(
    ("last_lines", "code", "message"),
    [
        ("distributed.destroy_process_group()", 0, ""),
        (
            "def f():\n  group, other = distributed.group.WORLD, wrapped()\n  raise KeyError('mine')\nf()",
            1,
            "KeyError: 'mine'",
        ),
        # A function that keeps its error, and so itself: what it holds goes when garbage is collected.
        (
            "def f():\n  group = distributed.group.WORLD\n  try: 1 / 0\n  except ArithmeticError as error: kept = error\n"
            "f(); print('mine', file=sys.stderr); sys.exit(2)",
            2,
            "mine",
        ),
    ],
    ids=["destroyed by the script", "traceback", "exit code"],
)
def test_no_thread_of_gloo_outlives_the_interpreter(tmp_path: Path, last_lines: str, code: int, message: str) -> None:
    """One that does ends the process with SIGABRT, now and then, when everything is written."""
    ended = subprocess.run(
        [sys.executable, "-c", WITH_A_GROUP + last_lines], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    (threads,) = threads_at_the_end(tmp_path)
    assert threads and not any("gloo" in name for name in threads)
