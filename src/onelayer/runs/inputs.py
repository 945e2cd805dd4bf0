"""What every command starts with: the model on its device, the task, its problems as tokens."""

import os
import shlex
import sys
from pathlib import Path

import torch

from onelayer.config.configs import TrainConfig
from onelayer.config.model import ModelConfig
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.models.source import check_weights
from onelayer.models.stored_types import stored_types, widest
from onelayer.tasks.base import Split, Task
from onelayer.tasks.benchmarks import is_training_set
from onelayer.tasks.dataset import DatasetTask, load_rows
from onelayer.tasks.graders.code_sandbox import shared_sandbox
from onelayer.tasks.readers import refuse_unread
from onelayer.tasks.registry import get_task, require_known
from onelayer.tasks.reward_file import load_reward
from onelayer.tasks.training import load_training_task
from onelayer.training.prompts import EncodedSplit
from onelayer.training.rollout import way_of

TINY_MODEL = 20_000_000
"""Under this many parameters a second CPU thread costs more than it gives."""


def load_task(config: TrainConfig) -> Task:
    """The bundled task, the task of a training set, or the user's own problems and reward.

    Raises:
        UserError: no such task, an option that it would not read, data that cannot be used, or a sandbox that is
            required and has a hole.
    """
    if config.task is None:
        refuse_unread(config, training_set=False)
        start_sandbox(config.dataset, False, require=config.require_sandbox)
        assert config.dataset is not None and config.reward is not None
        reward = load_reward(config.reward)
        rows = load_rows(config.dataset, config.prompt_column)
        return DatasetTask(
            Path(config.dataset).stem, rows, reward, config.prompt_column, config.selection_size, config.test_size
        )
    require_known(config.task)
    training_set = is_training_set(config.task)
    refuse_unread(config, training_set=training_set)
    task = load_training_task(config) if training_set else get_task(config.task, config)
    start_sandbox(config.task, getattr(task, "runs_programs", False), require=config.require_sandbox)
    return task


def start_sandbox(name: str | None, runs_programs: bool, *, require: bool) -> None:
    """Start and probe the sandbox, which says what it protects from, for what runs completions as programs.

    Raises:
        UserError: it is required and a protection does not hold, or it is required for what runs no programs.
    """
    if runs_programs:
        shared_sandbox(require=require)
    elif require:
        raise UserError(f"option require_sandbox is for what runs completions as programs, and '{name}' does not")


def load_model(config: ModelConfig) -> BaseModel:
    """The base model on its device; also settles the number of CPU threads.

    Raises:
        UserError: a device that is not there, or a model that cannot be loaded.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{config.device}' is not there: {str(error).splitlines()[0]}") from error
    base = load_base(
        config.model,
        revision=config.revision,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        device=device,
        trust_remote_code=config.trust_remote_code,
    )
    if config.threads:
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ and base.num_parameters < TINY_MODEL:
        torch.set_num_threads(1)
    return base


def load_to_merge(config: ModelConfig) -> tuple[BaseModel, dict[str, torch.dtype] | None]:
    """The base with all bits of its checkpoint, and the types of the checkpoint's tensors by their names in its files.

    With ``dtype`` the base is in that type, and no types are kept.

    Raises:
        UserError: as :func:`load_model`.
    """
    if config.dtype != "auto":
        return load_model(config), None
    check_weights(config.model, config.revision)
    types = stored_types(config.model, config.revision)
    base = load_base(
        config.model,
        revision=config.revision,
        dtype=widest(types),
        device="cpu" if config.device == "auto" else config.device,
        trust_remote_code=config.trust_remote_code,
    )
    return base, types


def load_splits(base: BaseModel, task: Task, config: TrainConfig) -> dict[Split, EncodedSplit]:
    """The problems of all splits that fit.

    Raises:
        UserError: a split without problems, or a model whose context is shorter than prompt and completion.
    """
    return way_of(task).encode(base, task, config)


def command_line() -> str | None:
    """The command that runs, as a person typed it; None in a script."""
    program = Path(sys.argv[0])
    typed = program.name == "onelayer" or (program.name == "__main__.py" and program.parent.name == "onelayer")
    return shlex.join(["onelayer", *sys.argv[1:]]) if typed else None
