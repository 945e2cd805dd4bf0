"""Problems that are answered at once: one completion, one verdict."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onelayer.config.base import Config
from onelayer.config.configs import TrainConfig
from onelayer.config.run import RunConfig
from onelayer.config.sampling import EvalConfig
from onelayer.config.update import StepConfig
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.storage.scores import ArmScores, join_scores
from onelayer.tasks.base import Problem, Scoring, Split, Task
from onelayer.tasks.graders.grade import Grade
from onelayer.tasks.reward_call import Told, metrics_of
from onelayer.training.batch import Rollouts
from onelayer.training.completions import Completions, concatenate
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.grading import cut_texts, failure_shares, grade_all, grade_texts, rewards_of
from onelayer.training.prompts import SPLITS, EncodedSplit, encode_split
from onelayer.training.reward_deadline import Patience
from onelayer.training.sample import Complete, Request, complete
from onelayer.training.way import Draw, Evaluated


@dataclass(frozen=True)
class Graded:
    """Completions of some prompts and the verdicts on them: n rows."""

    prompts: list[Sequence[int]]
    completions: Completions
    grades: Sequence[Grade]
    seconds: float
    """What grading took."""
    failures: int
    """Times that a reward failed and was asked again."""
    numbers: Mapping[str, Sequence[float]]
    """What the reward has logged, by name."""


class AtOnce:
    """See `onelayer.training.way.Way`."""

    arms_at_once: int | None = None

    def encode(self, base: BaseModel, task: Task, config: TrainConfig) -> dict[Split, EncodedSplit]:
        """The problems of all splits that fit.

        Raises:
            UserError: a split without problems, a model whose context is shorter than prompt and completion, or an
                algorithm for episodes of several turns.
        """
        if config.algorithm == "gigpo":
            raise UserError(
                f"algorithm gigpo is for tasks that are played in turns (household, alfworld), not for '{task.name}'; "
                "with single answers it would be grpo"
            )
        data = {split: encode_split(base, task, split, config.max_prompt_length) for split in SPLITS}
        needed = max(split.width for split in data.values()) + config.max_completion_length
        if needed > base.max_length:
            longest = config.max_prompt_length + config.max_completion_length
            raise UserError(
                f"model '{base.name}' has a context of {base.max_length} tokens, and the longest prompt with "
                f"max_completion_length {config.max_completion_length} takes {needed} (at most {longest}); "
                "lower one of them"
            )
        return data

    def rows_of_episode(self, task: Task) -> int:
        """One."""
        return 1

    def prompt_tokens(self, task: Task, width: int) -> int:
        """The pad width of the step."""
        return width

    def roll(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        draws: Sequence[Draw],
        width: int,
        config: StepConfig,
        complete: Complete = complete,
    ) -> list[Graded]:
        """Let each policy answer its prompts, padded to ``width`` tokens, and grade the answers."""
        requests = [
            Request(
                draw.policy,
                [_row(data.problems[index], data.tokens[index], sample) for index, sample in draw.samples],
                draw.key,
                draw.trunk_layer,
            )
            for draw in draws
        ]
        completed = complete(base, requests, Sampling.of(config), width=width, max_rows=config.max_rows)
        results = []
        for draw, request, completions in zip(draws, requests, completed, strict=True):
            patience, started = Patience.of(config), time.perf_counter()
            problems = [data.problems[index] for index, _ in draw.samples]
            told = Told(draw.key.step, _steps(config))
            texts = cut_texts(base, problems, completions)
            grades = grade_texts(task, problems, texts, patience, ids=completions.rows(), told=told)
            seconds = time.perf_counter() - started
            prompts = [row.prompt for row in request.rows]
            results.append(Graded(prompts, completions, grades, seconds, len(patience.failures), dict(told.numbers)))
        return results

    def join(self, parts: Sequence[Graded]) -> Graded:
        """The answers of several processes as one's."""
        return Graded(
            [prompt for part in parts for prompt in part.prompts],
            concatenate([part.completions for part in parts]),
            [grade for part in parts for grade in part.grades],
            max(part.seconds for part in parts),
            sum(part.failures for part in parts),
            {
                name: [number for part in parts for number in part.numbers.get(name, ())]
                for name in sorted({name for part in parts for name in part.numbers})
            },
        )

    def rollouts(self, task: Task, part: Graded, config: StepConfig, who: str) -> Rollouts:
        """Answers as episodes of one row."""
        rewards = rewards_of(part.grades)
        asked = {"reward_seconds": part.seconds, "reward_failures": part.failures}
        if rewards.isnan().any():
            asked["frac_reward_none"] = float(rewards.isnan().double().mean())
        return Rollouts(
            part.prompts,
            part.completions,
            torch.arange(len(rewards)),
            rewards,
            rewards,
            metrics={**failure_shares(part.grades), **asked, **metrics_of(part.numbers)},
        )

    def evaluate(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        policies: Sequence[Mapping[str, Tensor]],
        config: EvalConfig,
    ) -> list[Evaluated]:
        """Score policies on the same problems with the same sampling keys.

        Raises:
            UserError: a reward that does not apply to a problem: it has no score then.
            RunStopped: completions that a grader could not judge and that have no reward.
        """
        results = []
        for answers in answer(base, task, data, policies, config):
            graded = []
            for part in answers:
                texts, ids = cut_texts(base, part.problems, part.completions), part.completions.rows()
                told = Told(_steps(config), _steps(config))
                graded.append(
                    part.scored(grade_all(task, part.problems, texts, Patience.of(config), ids=ids, told=told))
                )
            results.append(Evaluated(join_scores(graded)))
        return results


def _steps(config: Config) -> int:
    """Steps of the run, which a reward is told; 0 where there is no run."""
    return config.steps if isinstance(config, RunConfig) else 0


def _row(problem: Problem, tokens: Sequence[int], sample: int) -> Row:
    return Row(tokens, problem.id, sample, stop=problem.stop)


@dataclass(frozen=True)
class BenchmarkAnswers:
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
) -> list[list[BenchmarkAnswers]]:
    """Let policies (tensors to wear; none for the base itself) answer a split: per policy, one entry a benchmark.

    All policies draw with the same keys. The answers to a benchmark do not depend on what else is in the split.
    """
    own = Scoring(task.name, config.eval_num_samples or 1, config.eval_temperature or 0.0)
    groups: dict[Scoring, list[tuple[Problem, list[int]]]] = {}
    for problem, tokens in zip(data.problems, data.tokens, strict=True):
        groups.setdefault(problem.scoring or own, []).append((problem, tokens))
    results: list[list[BenchmarkAnswers]] = [[] for _ in policies]
    for scoring, encoded in groups.items():
        drawn = [(problem, tokens, sample) for problem, tokens in encoded for sample in range(scoring.num_samples)]
        rows = [_row(problem, tokens, sample) for problem, tokens, sample in drawn]
        # A task without benchmarks keeps the key that its name cannot change.
        key = Key(config.eval_seed, "eval" if scoring is own else f"eval {scoring.benchmark}", 0)
        completed = complete(
            base,
            [Request(policy, rows, key) for policy in policies],
            Sampling(config.max_completion_length, scoring.temperature),
            width=max(len(tokens) for _, tokens in encoded),
            max_rows=config.max_rows,
        )
        for result, completions in zip(results, completed, strict=True):
            result.append(BenchmarkAnswers(scoring, [p for p, _, _ in drawn], [s for _, _, s in drawn], completions))
    return results
