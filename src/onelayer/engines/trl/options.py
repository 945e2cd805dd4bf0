"""onelayer's options as TRL's ``GRPOConfig``."""

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from trl import GRPOConfig

from onelayer.arms.spec import ArmSpec, optimizer_settings
from onelayer.config.configs import TrainConfig
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Task
from onelayer.training.rollout import way_of

OURS = frozenset(
    (
        *("output_dir", "seed", "use_cpu", "bf16", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "steps_per_generation", "num_generations", "num_iterations"),
        *("max_completion_length", "temperature", "top_p", "top_k", "learning_rate", "weight_decay", "adam_beta1"),
        *("adam_beta2", "adam_epsilon", "max_grad_norm", "optim", "beta", "epsilon", "epsilon_high", "loss_type"),
        *("scale_rewards", "importance_sampling_level", "use_bias_correction_kl", "shuffle_dataset"),
        *("logging_steps", "logging_strategy", "save_strategy", "report_to"),
    )
)
"""TRL's options that follow from onelayer's."""


class UpdateSizes(NamedTuple):
    """How a step is cut up."""

    minis: int
    """Mini-batches of a step."""
    passes: int
    """Backward passes of a process for one update."""
    updates: int
    """Optimizer updates of a step."""


def update_sizes(config: TrainConfig, task: Task, processes: int) -> UpdateSizes:
    """FewerRows a step so that no backward pass has more than ``micro_batch_size`` rows, however many turns are played."""
    mini = config.mini_batch_size or config.train_batch_size
    minis = -(-config.train_batch_size // mini)
    rows = mini * config.num_generations * way_of(task).rows_of_episode(task)
    return UpdateSizes(minis, -(-rows // (processes * config.micro_batch_size)), minis * config.num_iterations)


def grpo_config(config: TrainConfig, spec: ArmSpec, base: BaseModel, task: Task, output: str) -> GRPOConfig:
    """TRL's configuration of an arm.

    Raises:
        UserError: see `check_options`; also a value that TRL refuses.
    """
    from accelerate import PartialState

    processes = PartialState().num_processes
    given = check_options(config, processes)
    sizes = update_sizes(config, task, processes)
    ours = {"output_dir": output, **_ours(config, spec, base, sizes, processes)}
    defaults: dict[str, Any] = {
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        "log_level": "error",
    }
    assert ours.keys() == OURS
    try:
        return GRPOConfig(**ours, **{**defaults, **given})
    except (TypeError, ValueError) as error:
        if not given:
            raise
        raise UserError(f"engine_options '{config.engine_options}': {' '.join(str(error).split())}") from error


def _ours(config: TrainConfig, spec: ArmSpec, base: BaseModel, sizes: UpdateSizes, processes: int) -> dict[str, Any]:
    """TRL's options that follow from onelayer's, all but the folder."""
    settings = optimizer_settings(spec, config)
    passes = sizes.minis * sizes.passes
    group = config.num_generations
    # TRL wants whole groups in a step by its own count of rows, which only sizes its passes without gradients here.
    unit = group // math.gcd(group, processes * passes)
    return {
        "seed": spec.seed,
        "use_cpu": base.device.type == "cpu",
        "bf16": base.dtype == torch.bfloat16,
        "max_steps": config.steps * sizes.updates,
        "per_device_train_batch_size": unit * -(-config.micro_batch_size // unit),
        "gradient_accumulation_steps": sizes.passes,
        "steps_per_generation": passes,
        "num_generations": group,
        "num_iterations": config.num_iterations,
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "adam_epsilon": settings.adam_epsilon,
        "max_grad_norm": settings.max_grad_norm,
        "optim": "adamw_torch",
        "beta": config.beta,
        "epsilon": config.epsilon,
        "epsilon_high": config.epsilon_high,
        "loss_type": config.loss_type,
        "scale_rewards": config.scale_rewards,
        "importance_sampling_level": config.importance_sampling_level,
        "use_bias_correction_kl": False,
        "shuffle_dataset": False,
        "logging_steps": sizes.updates,
        "logging_strategy": "steps",
        "save_strategy": "no",
        "report_to": "none",
    }


def check_options(config: TrainConfig, processes: int) -> dict[str, Any]:
    """What ``engine_options`` says: options that TRL has and onelayer leaves open.

    Raises:
        UserError: the file cannot be read, it has other options, or there are more processes than prompts.
    """
    if processes > config.train_batch_size:
        raise UserError(
            f"{processes} processes share the prompts of a step, and train_batch_size is {config.train_batch_size}; "
            "raise it or start fewer"
        )
    path = config.engine_options
    given = {} if path is None else read_yaml(Path(path))
    known = [field.name for field in dataclasses.fields(GRPOConfig) if field.init]
    for name in given:
        if name in OURS:
            raise UserError(
                f"engine_options '{path}' sets {name}, which follows from onelayer's own options; leave it out"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ", see trl.GRPOConfig"
            raise UserError(f"engine_options '{path}': TRL has no option '{name}'{hint}")
    if given.get("log_completions_hub_repo"):
        raise UserError(
            f"engine_options '{path}' sets log_completions_hub_repo, and the engine uploads nothing; leave it out, and take "
            "the files of log_completions from the arm's folder"
        )
    return given


def refuse_spec(spec: ArmSpec) -> None:
    """Refuse what does not train the model's own tensors, or not always the same.

    Raises:
        UserError: LoRA or LISA.
    """
    if spec.ranks or spec.lisa:
        kind = "LoRA" if spec.ranks else "LISA"
        raise UserError(f"plan '{spec.plan}' is {kind}, which the TRL engine does not train; use the built-in engine")
