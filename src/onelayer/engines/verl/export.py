"""``onelayer export verl``: a plan and its settings for verl, which the paper's runs used.

Written are ``job.yaml`` (a Hydra configuration on top of verl's own), ``onelayer_verl.py`` (the hook that freezes) and
``run.sh``. verl pins other versions than onelayer and cannot be installed beside it: nothing here imports it.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.source import model_path
from onelayer.storage.files import atomic_folder, empty_folder

ADVANTAGE_EPSILON = 1e-6
"""What verl adds to the std of a group's rewards."""
TESTED = "0.9.1"
"""The version of verl whose configuration was composed with what is written."""
HOOK = "onelayer_verl"
ESTIMATORS = dict.fromkeys(("grpo", "dr_grpo", "dapo", "gspo"), "grpo") | {"rloo": "rloo"}
"""Algorithm -> verl's estimator of advantages; an algorithm that is not here cannot be exported."""
LOSS_AGGREGATION = {"grpo": "seq-mean-token-mean", "dapo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm"}


def export(
    config: TrainConfig, base: BaseModel, spec: ArmSpec, output: Path, *, gpus: int, train_files: str, val_files: str
) -> None:
    """Write the folder.

    Raises:
        UserError: settings that verl does not have, or a folder that is not empty.
        WriteFailed: the disk refused it; the folder is then empty.
    """
    settings = job(config, base, spec, gpus=gpus, train_files=train_files, val_files=val_files)
    source = (resources.files("onelayer") / "engines" / "verl" / "hook.py").read_text(encoding="utf-8")
    empty = "RATES: dict[str, float] = {}"
    assert source.count(empty) == 1
    rates = json.dumps(spec.rates, indent=4)
    files = {
        "job.yaml": _header(config, spec) + yaml.safe_dump(settings, sort_keys=False),
        f"{HOOK}.py": source.replace(empty, f"RATES: dict[str, float] = {rates}"),
        "run.sh": "#!/bin/sh\n"
        "# The workers import the hook by name, so its folder has to be on their path on every machine.\n"
        'here=$(cd "$(dirname "$0")" && pwd)\n'
        'PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec python -m verl.trainer.main_ppo '
        '--config-path "$here" --config-name job "$@"\n',
    }
    empty_folder(output)
    with atomic_folder(output) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")


def job(
    config: TrainConfig, base: BaseModel, spec: ArmSpec, *, gpus: int, train_files: str, val_files: str
) -> dict[str, Any]:
    """The Hydra configuration: verl's own with the plan's settings over it.

    Raises:
        UserError: settings that verl does not have.
    """
    _refuse(config, spec)
    return {
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "defaults": ["ppo_trainer", "_self_"],
        "data": {
            "train_files": train_files,
            "val_files": val_files,
            "train_batch_size": config.train_batch_size,
            "max_prompt_length": config.max_prompt_length,
            "max_response_length": config.max_completion_length,
            "filter_overlong_prompts": True,
            "seed": config.seed,
        },
        "algorithm": {
            "adv_estimator": ESTIMATORS[config.algorithm],
            "norm_adv_by_std_in_grpo": config.scale_rewards == "group",
            "use_kl_in_reward": False,
        },
        "actor_rollout_ref": {
            "model": {
                "path": model_path(config.model),
                "external_lib": HOOK,
                "trust_remote_code": config.trust_remote_code,
                "use_remove_padding": True,
                "enable_gradient_checkpointing": True,
            },
            "actor": _actor(config),
            "rollout": _rollout(config),
            "ref": {"strategy": "fsdp2", "log_prob_micro_batch_size_per_gpu": config.micro_batch_size},
        },
        "critic": {"strategy": "fsdp2"},
        "trainer": {
            "total_training_steps": config.steps,
            "total_epochs": config.steps,
            "n_gpus_per_node": gpus,
            "test_freq": config.eval_steps or -1,
            "save_freq": config.save_steps,
            "project_name": "onelayer",
            "experiment_name": spec.name,
            "logger": ["console"],
        },
    }


def _actor(config: TrainConfig) -> dict[str, Any]:
    """The update: loss and optimizer."""
    return {
        # FSDP1 would need use_orig_params, since it flattens trained and frozen tensors together.
        "strategy": "fsdp2",
        "ppo_mini_batch_size": config.mini_batch_size or config.train_batch_size,
        "ppo_micro_batch_size_per_gpu": config.micro_batch_size,
        "ppo_epochs": config.num_iterations,
        "clip_ratio": config.epsilon,
        "clip_ratio_low": config.epsilon,
        "clip_ratio_high": config.epsilon_high or config.epsilon,
        "policy_loss": {"loss_mode": "gspo" if config.importance_sampling_level == "sequence" else "vanilla"},
        "loss_agg_mode": LOSS_AGGREGATION[config.loss_type],
        "loss_scale_factor": config.max_completion_length if config.loss_type == "dr_grpo" else None,
        "entropy_coeff": 0,
        "use_kl_loss": config.beta > 0,
        "kl_loss_coef": config.beta,
        "kl_loss_type": "low_var_kl",
        "grad_clip": config.max_grad_norm,
        "data_loader_seed": config.seed,
        "optim": {
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
            "betas": [config.adam_beta1, config.adam_beta2],
            "clip_grad": config.max_grad_norm,
            "lr_warmup_steps": config.warmup_steps,
            "lr_scheduler_type": config.lr_scheduler_type,
            "override_optimizer_config": {"eps": config.adam_epsilon},
        },
    }


def _rollout(config: TrainConfig) -> dict[str, Any]:
    """How completions are drawn."""
    return {
        "name": "vllm",
        "n": config.num_generations,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k or -1,
        "tensor_model_parallel_size": 1,
        "log_prob_micro_batch_size_per_gpu": config.micro_batch_size,
    }


def _refuse(config: TrainConfig, spec: ArmSpec) -> None:
    if spec.ranks or spec.lisa:
        raise UserError(f"plan '{spec.plan}': the hook freezes the model's own tensors; LoRA is verl's model.lora_rank")
    if config.algorithm == "gigpo":
        raise UserError(f"verl {TESTED} has no GiGPO; take algorithm grpo, or train with --engine trl")
    if config.algorithm not in ESTIMATORS:
        known = ", ".join(ESTIMATORS)
        raise UserError(f"algorithm {config.algorithm} is not known to be in verl {TESTED}; take one of {known}")
    if config.scale_rewards == "batch":
        raise UserError("verl has no scale_rewards batch; take group or none")
    if config.scale_rewards == "group" and not config.unbiased_std:
        raise UserError("verl divides by n - 1 in the std of a group; take unbiased_std yes")
    if config.lr_scheduler_type == "linear":
        raise UserError("verl has no lr_scheduler_type linear; take constant or cosine")
    if not config.max_grad_norm:
        raise UserError("verl always clips gradients: max_grad_norm has to be above 0")


def _header(config: TrainConfig, spec: ArmSpec) -> str:
    data = config.task or config.dataset
    epsilon = ""
    if config.scale_rewards == "group" and config.advantage_epsilon != ADVANTAGE_EPSILON:
        epsilon = (
            f"# verl adds {ADVANTAGE_EPSILON:g} to the std that divides advantages, and has no option for it; "
            f"advantage_epsilon {config.advantage_epsilon:g} is not exported.\n"
        )
    return (
        f"# Plan '{spec.plan}' ({len(spec.rates)} tensors) for verl {TESTED}, written by onelayer; not run on GPUs by it.\n"
        f"# train_files and val_files are parquet files in verl's format (prompt, data_source, reward_model) of {data};\n"
        "# the reward is verl's for data_source, or reward.custom_reward_function.\n" + epsilon
    )
