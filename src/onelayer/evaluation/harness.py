"""Tasks of the lm-evaluation-harness (Gao et al.), scored with the same model in memory and read into the same scores.

The harness brings what this package has no grader for: multiple choice by log-likelihood, instruction following.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.storage.scores import ArmScores

CATEGORIES = {"gpqa": "Reasoning", "mmlu": "Reasoning", "ceval": "Language", "ifeval": "Language", "mgsm": "Language"}
"""First word of a task's name -> its category in C_all."""
DEFAULT_MAX_GEN_TOKS = 256
"""The harness's own limit where a task sets none."""


@dataclass(frozen=True)
class HarnessTask:
    """A task or group of tasks as it was asked for."""

    name: str
    category: str


@dataclass(frozen=True)
class HarnessScores:
    """The scores of one task, and what they are."""

    task: HarnessTask
    metric: str
    filter: str
    scores: ArmScores


def parse_tasks(option: str) -> list[HarnessTask]:
    """The tasks of ``NAME,NAME:Category,...``.

    Raises:
        UserError: a task of which neither the name nor the option tells the category.
    """
    tasks = []
    for item in option.split(","):
        name, _, category = item.strip().partition(":")
        category = category or CATEGORIES.get(re.split(r"[-_]", name)[0], "")
        if not name or not category:
            raise UserError(
                f"option harness: the category of '{name}' is not known; write {name or 'NAME'}:Math, :Code, :Reasoning "
                "or :Language"
            )
        tasks.append(HarnessTask(name, category))
    return tasks


def run_harness(
    base: BaseModel,
    weights: Mapping[str, Tensor],
    tasks: Sequence[HarnessTask],
    *,
    chat: bool,
    limit: int | None,
    batch_size: int,
    include_path: str | None = None,
) -> list[HarnessScores]:
    """Score the base wearing ``weights`` on tasks of the harness.

    Args:
        base: the model.
        weights: tensors in the place of its own.
        tasks: what to run.
        chat: whether prompts go through the chat template.
        limit: only the first problems of each task.
        batch_size: rows of a forward pass.
        include_path: a folder with tasks of one's own.

    Raises:
        UserError: lm-eval is not installed, does not know a task, or cannot load one.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("option harness needs the harness: pip install 'onelayer[harness]'") from error
    manager = TaskManager(include_path=include_path)
    for task in tasks:
        if task.name not in manager.all_tasks:
            raise UserError(f"option harness: the harness has no task '{task.name}'; lm-eval ls tasks lists them")
    model = HFLM(pretrained=base.module, tokenizer=base.tokenizer, batch_size=batch_size)
    with base.wearing(weights):
        try:
            results = lm_eval.simple_evaluate(
                model=model,
                tasks=[task.name for task in tasks],
                limit=limit,
                apply_chat_template=chat,
                log_samples=True,
                bootstrap_iters=0,
                task_manager=manager,
            )
        except (OSError, ValueError, ConnectionError) as error:  # mostly data sets that cannot be loaded
            raise UserError(f"the harness failed: {' '.join(str(error).split())[:300]}") from error
    return [read_samples(task, results, base.tokenizer) for task in tasks]


def read_samples(task: HarnessTask, results: Mapping[str, Any], tokenizer: Any) -> HarnessScores:
    """The scores of a task from what the harness returns with ``log_samples``.

    A group's problems are numbered through its tasks in their order. The score is the first metric of a task under its
    first filter. Lengths are tokens of generated text, 0 where a task only compares log-likelihoods; a completion is
    truncated when it is as long as the task lets it be.

    Raises:
        UserError: there are no samples of the task, or its metric is no number for each problem.
    """
    samples: list[Mapping[str, Any]] = []
    for leaf in _leaves(task.name, results.get("group_subtasks", {})):
        own = results["samples"].get(leaf, [])
        samples += sorted((s for s in own if s["filter"] == own[0]["filter"]), key=lambda sample: sample["doc_id"])
    if not samples:
        raise UserError(f"the harness returned no samples of task '{task.name}'")
    metric = samples[0]["metrics"][0]
    rewards = [sample.get(metric) for sample in samples]
    if not all(isinstance(reward, int | float | np.number | np.bool_) for reward in rewards):
        raise UserError(f"task '{task.name}' of the harness has no single number '{metric}' for each problem")
    lengths, truncated = zip(*(_generated(sample, tokenizer) for sample in samples), strict=True)
    count = len(samples)
    scores = ArmScores(
        benchmark=[task.name] * count,
        problem=np.arange(count, dtype=np.int64),
        sample=np.zeros(count, dtype=np.int64),
        reward=np.array(rewards, dtype=np.float64),
        length=np.array(lengths, dtype=np.int64),
        truncated=np.array(truncated, dtype=np.bool_),
    )
    return HarnessScores(task, metric, samples[0]["filter"], scores)


def _leaves(name: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    return [leaf for child in groups[name] for leaf in _leaves(child, groups)] if groups.get(name) else [name]


def _generated(sample: Mapping[str, Any], tokenizer: Any) -> tuple[int, bool]:
    """Tokens of the sample's completion, and whether they are as many as allowed."""
    requests = sample["arguments"]
    first = requests["gen_args_0"] if isinstance(requests, Mapping) else dict(enumerate(requests[0]))
    settings = first.get("arg_1", first.get(1))
    if not isinstance(settings, Mapping):
        return 0, False
    length = len(tokenizer(sample["resps"][0][0], add_special_tokens=False).input_ids)
    return length, length >= settings.get("max_gen_toks", DEFAULT_MAX_GEN_TOKS)
