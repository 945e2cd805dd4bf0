"""Connecting to a Ray cluster, or starting one here, without Ray's own noise; and what its machines have free."""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onelayer.engines.ray.worker import from_numpy, to_numpy
from onelayer.errors import UserError

GIB = 2**30
CONNECT_SECONDS = 5.0
"""For the first answer of a cluster's head."""

TOKEN = "; it asks for a token: copy ~/.ray/auth_token of its first machine, and set RAY_AUTH_MODE=token"


@dataclass(frozen=True)
class Size:
    """What one worker takes of a machine."""

    cpus: int
    gpus: int
    memory: int
    """Bytes."""

    def fits(self, free: Mapping[str, float]) -> int:
        """How many workers there is room for, in what Ray calls the resources of a machine."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return min(int(free.get(key, 0) // amount) for key, amount in wanted.items() if amount)

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU, " if self.gpus else ""
        return f"{gpus}{self.cpus} CPU{'s' * (self.cpus > 1)} and {self.memory / GIB:.1f} GiB of memory"


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster that is alive."""

    host: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    """What nobody has taken."""

    def __str__(self) -> str:
        parts = [f"{self.free.get(key, 0):g} of {self.total.get(key, 0):g} {key}s" for key in ("CPU", "GPU")]
        memory = f"{self.free.get('memory', 0) / GIB:.1f} of {self.total.get('memory', 0) / GIB:.1f} GiB"
        return f"{self.host} has {', '.join(parts)} and {memory} free"


def machines() -> list[Machine]:
    """The machines of the cluster."""
    import ray
    import ray._private.state

    free = ray._private.state.available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Machine(node["NodeManagerHostname"], node["Resources"], free.get(node["NodeID"], {})) for node in alive]


@contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Connect to a cluster, or start one on this machine, for as long as the block runs; yields what to call it.

    Where the process is connected already, that cluster is used, and stays.

    Raises:
        UserError: no cluster there, or one of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers of a cluster that is started here are all that the command does: they need not step back behind others.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray
    import ray._private.worker

    # Deaths of workers are told by whoever waits for their answers.
    ray._private.worker._worker_logs_enabled = False
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    if ray.is_initialized():
        if address is not None:
            raise UserError(f"option address = '{address}': this process is connected to a Ray cluster already")
        ray.util.register_serializer(Tensor, serializer=to_numpy, deserializer=from_numpy)
        yield "the cluster of this process"
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if not local:
        require_answer(address)
        # One try, of half a minute, where something else than Ray answers; by default there are twenty.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    said = ""
    with _signals_kept():
        try:
            if local:
                ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
            else:
                with _stderr_caught() as caught:
                    try:
                        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
                    finally:
                        said = caught()
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:  # ConnectionError is an OSError
            reason = " ".join(str(error).split())[:300].rstrip(".")
            what = "started on this machine" if local else f"used at '{address}'"
            raise UserError(f"no Ray cluster can be {what}: {reason}{TOKEN * ('AuthToken' in said)}") from error
    ray.util.register_serializer(Tensor, serializer=to_numpy, deserializer=from_numpy)
    try:
        yield "a cluster on this machine" if local else f"the cluster at {address}"
    finally:
        with _signals_kept():
            ray.shutdown()


def require_answer(address: str) -> None:
    """Look whether something answers where a cluster's head should be: Ray itself waits two minutes for it.

    Raises:
        UserError: no such address, or nobody answers.
    """
    right = "give HOST:PORT as `ray start --head` shows it, or auto on one of the cluster's machines"
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        try:
            found = canonicalize_bootstrap_address("auto")
        except ConnectionError:
            found = None
        if found is None:
            raise UserError(
                "option address = 'auto': no Ray cluster runs on this machine; start one with `ray start --head`, or "
                "leave the option out"
            )
        address = str(found)  # of the last one that was started here, which may have ended
    if address.startswith("ray://"):
        raise UserError(
            f"option address = '{address}': the command has to run on a machine of the cluster, not behind Ray's client "
            "port; there give HOST:PORT or auto, or send the command there with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"option address = '{address}' is no address of a Ray cluster; {right}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at '{address}' ({error.strerror or error}); {right}") from error


@contextmanager
def _stderr_caught() -> Iterator[Callable[[], str]]:
    """Keep what Ray's C++ writes past Python from the terminal; yields a function that reads it."""
    with tempfile.TemporaryFile() as file:
        terminal = os.dup(2)
        os.dup2(file.fileno(), 2)

        def caught() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield caught
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in the place of the command's."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread, where Ray leaves them alone too
            for number, handler in before.items():
                signal.signal(number, handler)
