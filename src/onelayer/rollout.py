"""From prompts to a training batch: completions, rewards, advantages. Also from prompts to scores, for evaluation."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onelayer import episodes
from onelayer.arm import Arm
from onelayer.batch import Batch, advantages_of
from onelayer.config import EvalConfig, TrainConfig
from onelayer.graders.grade import Grade
from onelayer.grading import cut_texts, failure_shares, grade_all, grade_texts, rewards_of
from onelayer.model import BaseModel
from onelayer.patience import Patience
from onelayer.prompts import EncodedSplit, drawn_prompts, drawn_samples
from onelayer.reward_call import Told, metrics_of
from onelayer.sample import Completions, Key, Row, Sampling, sample_policies
from onelayer.scores import ArmScores, join_scores
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem, Scoring, Task
from onelayer.trunk import kept_layer


def collect(
    base: BaseModel, task: Task, data: EncodedSplit, arms: Sequence[Arm], step: int, width: int, config: TrainConfig
) -> list[tuple[Batch, dict[str, float]]]:
    """Let every arm answer the prompts of a step: per arm its batch and metrics (TRL's names).

    ``width`` is the pad width of the step, the same for all arms.
    """
    if isinstance(task, AgenticTask):
        return episodes.collect(base, task, data, arms, step, config)
    sampling = Sampling(config.max_completion_length, config.temperature, config.top_p, config.top_k)
    drawn = [
        drawn_samples(
            drawn_prompts(len(data.problems), config.train_batch_size, arm.seed, step), config.num_generations
        )
        for arm in arms
    ]
    rows_by_arm = [rows_of(data, samples) for samples in drawn]
    keys = [Key(arm.seed, "train", step) for arm in arms]
    size, tokens = config.train_batch_size * config.num_generations, width + config.max_completion_length
    completed = sample_policies(
        base,
        [arm.weights for arm in arms],
        rows_by_arm,
        keys,
        sampling,
        width=width,
        max_rows=config.max_rows,
        trunk_layers=[kept_layer(base, arm.trunk_layer, size, tokens, config.trunk_bytes) for arm in arms],
    )
    results = []
    for samples, rows, completions in zip(drawn, rows_by_arm, completed, strict=True):
        patience, started = Patience.of(config), time.perf_counter()
        told = Told(step, config.steps)
        grades = grade_rows(base, task, data, samples, completions, patience, told)
        asked = {"reward_seconds": time.perf_counter() - started, "reward_failures": len(patience.failures)}
        batch, metrics = to_batch([row.prompt for row in rows], completions, grades, config)
        results.append((batch, metrics | asked | metrics_of(told.numbers)))
    return results


def rows_of(data: EncodedSplit, samples: Sequence[tuple[int, int]]) -> list[Row]:
    """The rows to complete for some (index, sample number)."""
    return [
        Row(data.tokens[index], data.problems[index].id, sample, stop=data.problems[index].stop)
        for index, sample in samples
    ]


def grade_rows(
    base: BaseModel,
    task: Task,
    data: EncodedSplit,
    samples: Sequence[tuple[int, int]],
    completions: Completions,
    patience: Patience,
    told: Told,
) -> list[Grade]:
    """The task's verdicts on the completions of some (index, sample number)."""
    problems = [data.problems[index] for index, _ in samples]
    texts = cut_texts(base, problems, completions)
    return grade_texts(task, problems, texts, patience, ids=completions.rows(), told=told)


def to_batch(
    prompts: list[Sequence[int]], completions: Completions, grades: Sequence[Grade], config: TrainConfig
) -> tuple[Batch, dict[str, float]]:
    """What is learned from the completions of some prompts, ``num_generations`` each: rows and metrics."""
    rewards = rewards_of(grades).view(-1, config.num_generations)
    advantages = advantages_of(rewards, config)
    groups = torch.arange(len(rewards)).repeat_interleave(config.num_generations)
    metrics = {**_metrics(rewards, completions), **failure_shares(grades)}
    return Batch(prompts, completions, advantages.flatten().float(), groups), metrics


def _metrics(rewards_PG: Tensor, completions: Completions) -> dict[str, float]:
    known = rewards_PG[~rewards_PG.isnan()]
    spread = (rewards_PG.nan_to_num(-math.inf).amax(-1) - rewards_PG.nan_to_num(math.inf).amin(-1)).clamp(min=0)
    deviations = [row[~row.isnan()].std() for row in rewards_PG if (~row.isnan()).sum() > 1]
    return {
        "reward": float(known.mean()) if len(known) else 0.0,
        "reward_std": float(torch.stack(deviations).mean()) if deviations else 0.0,
        "frac_reward_zero_std": float((spread == 0).double().mean()),
        **({"frac_reward_none": float(rewards_PG.isnan().double().mean())} if rewards_PG.isnan().any() else {}),
        "completions/mean_length": float(completions.lengths.double().mean()),
        "completions/clipped_ratio": float(completions.truncated.double().mean()),
    }


@dataclass(frozen=True)
class Answers:
    """One policy's completions of the problems of one benchmark: n rows."""

    scoring: Scoring
    problems: list[Problem]
    """(n,) the problem of each row."""
    samples: list[int]
    """(n,) which sample of its problem a row is."""
    completions: Completions

    def scored(self, grades: Sequence[Grade]) -> ArmScores:
        """The scores that belong to (n,) verdicts."""
        reasons = [grade.reason for grade in grades]
        return ArmScores(
            benchmark=[self.scoring.benchmark] * len(self.problems),
            problem=np.array([problem.id for problem in self.problems], dtype=np.int64),
            sample=np.array(self.samples, dtype=np.int64),
            reward=rewards_of(grades).numpy(),
            length=self.completions.lengths.numpy(),
            truncated=self.completions.truncated.numpy(),
            reason=reasons if any(reasons) else None,
        )


def answer(
    base: BaseModel,
    task: Task,
    data: EncodedSplit,
    policies: Sequence[Mapping[str, Tensor]],
    config: EvalConfig,
) -> list[list[Answers]]:
    """Let policies (tensors to wear; none for the base itself) answer a split: per policy, one entry a benchmark.

    All policies draw with the same keys. The answers to a benchmark do not depend on what else is in the split.
    """
    own = Scoring(task.name, config.eval_num_samples or 1, config.eval_temperature or 0.0)
    groups: dict[Scoring, list[tuple[Problem, list[int]]]] = {}
    for problem, tokens in zip(data.problems, data.tokens, strict=True):
        groups.setdefault(problem.scoring or own, []).append((problem, tokens))
    results: list[list[Answers]] = [[] for _ in policies]
    for scoring, encoded in groups.items():
        drawn = [(problem, tokens, sample) for problem, tokens in encoded for sample in range(scoring.num_samples)]
        rows = [Row(tokens, problem.id, sample, stop=problem.stop) for problem, tokens, sample in drawn]
        # A task without benchmarks keeps the key that its name cannot change.
        key = Key(config.eval_seed, "eval" if scoring is own else f"eval {scoring.benchmark}", 0)
        completed = sample_policies(
            base,
            policies,
            [rows] * len(policies),
            [key] * len(policies),
            Sampling(config.max_completion_length, scoring.temperature),
            width=max(len(tokens) for _, tokens in encoded),
            max_rows=config.max_rows,
        )
        for result, completions in zip(results, completed, strict=True):
            result.append(Answers(scoring, [p for p, _, _ in drawn], [s for _, _, s in drawn], completions))
    return results


def evaluate(
    base: BaseModel,
    task: Task,
    data: EncodedSplit,
    policies: Sequence[Mapping[str, Tensor]],
    config: EvalConfig,
) -> list[ArmScores]:
    """Score policies (tensors to wear; none for the base itself) on the same problems with the same sampling keys.

    Raises:
        UserError: a reward that does not apply to a problem: it has no score then.
        RunStopped: completions that a grader could not judge and that have no reward.
    """
    if isinstance(task, AgenticTask):
        return [played.scores for played in episodes.evaluate(base, task, data, policies, config)]
    results = []
    for answers in answer(base, task, data, policies, config):
        scored = []
        for part in answers:
            texts, ids = cut_texts(base, part.problems, part.completions), part.completions.rows()
            steps = config.steps if isinstance(config, TrainConfig) else 0
            told = Told(steps, steps)
            scored.append(part.scored(grade_all(task, part.problems, texts, Patience.of(config), ids=ids, told=told)))
        results.append(join_scores(scored))
    return results
