"""The end of a process that worked with others over gloo: their group goes while the interpreter still stands.

gloo's threads let go of a collective's tensors a moment after the collective has returned, and for a tensor with a Python
object they need the interpreter's lock. Where that moment falls into the end of the interpreter, Python ends the thread and
C++ then the process, by SIGABRT, after everything was written. A group that nothing holds has ended its threads: so what
holds it lets go first, then the group is destroyed. The process's last act, because a group cannot be made twice from one
launch, and because an error's frames hold the group for as long as the error is told.

Importing this module is enough. Groups of other backends are their owner's: they were not run here.
"""

import atexit
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

TASKS = Path("/proc/self/task")
LOOP = "pt_gloo_runloop"
"""What torch calls the threads of a gloo group."""
PATIENCE = 2.0
"""Seconds for the threads of a group that something unknown still holds: they get the interpreter's lock meanwhile."""


def end_group() -> None:
    """Destroy this process's gloo groups and wait until their threads have ended; without any nothing happens."""
    made = distributed.is_available() and distributed.is_initialized()
    # A script may have destroyed the group itself, and still hold its trainer and so the threads.
    if (distributed.get_backend() != "gloo") if made else (LOOP not in thread_names()):
        return
    held: list[object] = [distributed.group.WORLD] if made else []
    for model in _wrapped_models():
        # Whoever lets go of a group last waits for its threads, and only Python's own object does so without the lock.
        held.append(vars(model).pop("process_group", None))
        for name in ("reducer", "logger"):
            vars(model).pop(name, None)
    for name in ("last_exc", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    gc.collect()
    _forget_defaults()
    if made:
        distributed.destroy_process_group()
    held.clear()
    end = time.monotonic() + PATIENCE
    while LOOP in thread_names() and time.monotonic() < end:
        time.sleep(0.01)


def thread_names() -> list[str]:
    """What the threads of this process are called; empty where the system does not say."""
    names = []
    for task in TASKS.iterdir() if TASKS.exists() else ():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:  # it has just ended
            continue
    return names


def _wrapped_models() -> Iterator[DistributedDataParallel]:
    """Models as accelerate wraps them. A script's variables hold its trainer, and so the model, to the end."""
    return (thing for thing in gc.get_objects() if issubclass(type(thing), DistributedDataParallel))


def _forget_defaults() -> None:
    """Functions of torch take the group that there was when their module was imported as a default."""
    functional = sys.modules.get("torch.distributed.nn.functional")
    for function in vars(functional).values() if functional else ():
        if isinstance(function, FunctionType) and function.__defaults__:
            function.__defaults__ = tuple(
                None if isinstance(default, distributed.ProcessGroup) else default for default in function.__defaults__
            )


# Registered early, so that a script's own last acts come before it.
atexit.register(end_group)
