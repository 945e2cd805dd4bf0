"""What trains the arms of a run, and the options that only some engines read."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field

from onelayer.config.base import Config

OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "trl": ("engine_options", "num_processes"),
    "ray": ("address", "workers", "cpus_per_worker", "gpus_per_worker"),
}
"""Options of one engine alone: with another they are refused, not ignored."""
UNREAD_BY_TRL = (
    *("stop_at", "save_steps", "logprob_chunk", "arms_per_set", "micro_batch_tokens", "trunk_memory"),
    "gradient_checkpointing",
)


class EngineConfig(Config):
    """Where arms are trained."""

    engine: Literal["local", "trl", "ray"] = Field(
        "local",
        description="what trains: the built-in loop on one device, the same loop on a Ray cluster (docs/ray.md), or TRL "
        "with accelerate on many devices for each arm (docs/trl.md)",
    )
    engine_options: str | None = Field(
        None, description="engine trl: FILE.yaml with further options of TRL's GRPOConfig, such as use_vllm"
    )
    num_processes: int = Field(0, ge=0, description="engine trl: refuse to start with another number; 0 takes any")
    address: str | None = Field(
        None,
        description="engine ray: the cluster, HOST:PORT or auto; by default RAY_ADDRESS, else one is started here",
    )
    workers: int = Field(0, ge=0, description="engine ray: processes that train; 0 is as many as have room")
    cpus_per_worker: int = Field(
        0, ge=0, description="engine ray: CPUs, and threads, of a worker; 0 is --threads, else 1"
    )
    gpus_per_worker: int | None = Field(
        None, ge=0, le=1, description="engine ray: GPUs of a worker; by default 1 where the cluster has some, else 0"
    )
    mix_engines: bool = Field(False, description="let the arms of one profile be trained by different engines")


def misfit(config: EngineConfig) -> str | None:
    """Why options do not go with the engine, in a sentence; None where they do."""
    values, fields = vars(config), type(config).model_fields
    changed = {name for name, field in fields.items() if values[name] != field.default}
    engine = config.engine
    for other, names in OPTIONS_OF.items():
        for name in names:
            if other != engine and name in changed:
                return f"{name} is an option of engine {other}, and the engine is {engine}"
    if engine == "trl":
        return _misfit_trl(values, changed)
    return _misfit_ray(values) if engine == "ray" else None


def _misfit_trl(config: Mapping[str, Any], changed: Collection[str]) -> str | None:
    for name in UNREAD_BY_TRL:
        if name in changed:
            return f"engine trl does not read {name}; leave it out"
    if config.get("search") == "halving":
        return "engine trl trains every arm to its end, so search has to be none or coarse"
    return None


def _misfit_ray(config: Mapping[str, Any]) -> str | None:
    device, gpus = config["device"], config["gpus_per_worker"]
    if device not in ("auto", "cpu", "cuda"):
        return f"device is {device}, and with engine ray it is auto, cpu or cuda: Ray says which GPU a worker gets"
    if gpus is not None and device == ("cuda" if gpus == 0 else "cpu"):
        return f"device is {device}, and gpus_per_worker is {gpus}; leave one of them out"
    if config["threads"] and config["cpus_per_worker"] and config["threads"] != config["cpus_per_worker"]:
        return (
            f"threads is {config['threads']}, and cpus_per_worker is {config['cpus_per_worker']}: a worker has a thread for "
            "each of its CPUs; leave one of them out"
        )
    return None
