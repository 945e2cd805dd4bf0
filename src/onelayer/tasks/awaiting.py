"""Waits for what an ``async def`` returns, also where another event loop already runs (a notebook).

There is one loop for the life of a process, in a thread of its own, as in TRL: what a function keeps between its calls (a
client's connections, a lock) belongs to the loop that it was first used in.
"""

import asyncio
import atexit
import inspect
import os
import threading
from collections.abc import Awaitable
from functools import cache
from typing import Any

END_WAIT = 1.0
"""Seconds that the loop has to end in when the process does."""


def settled(value: Any) -> Any:
    """The value itself, or what it comes to where it has to be awaited.

    An interruption of the waiting thread cancels what it waits for.

    Raises:
        BaseException: whatever the awaited function raises.
    """
    if not inspect.isawaitable(value):
        return value
    future = asyncio.run_coroutine_threadsafe(_outcome(value), _loop(os.getpid()))
    try:
        result, error = future.result()
    except BaseException:
        future.cancel()
        raise
    if error is not None:
        raise error
    return result


async def _outcome(value: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """What is awaited, or what it raised to end the process: as the exception of a task that would end the loop unheard."""
    try:
        return await value, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The running loop of a process: a fork has the object, but not the thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="onelayer-async", daemon=True)
    thread.start()
    atexit.register(_end, process, loop, thread)
    return loop


def _end(process: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if os.getpid() == process:
        asyncio.run_coroutine_threadsafe(_cancel_all(loop), loop)
        thread.join(END_WAIT)


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop.stop()
