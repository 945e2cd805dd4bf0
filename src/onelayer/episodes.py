"""Multi-turn rollouts: groups of environments in step, for all arms of a set together.

In every turn each running episode has one prompt, and all of them are completed in one call per pad width; the batch
shrinks as episodes end. Every call of the model is a training row with its own prompt, completion and anchor (the
observation before the action). The pad width of a prompt follows from its own length alone (`pad_width`) and its draws
are keyed by start, sample and turn, so that an episode does not depend on who else is played.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from onelayer.algorithms.gigpo import gigpo_advantages
from onelayer.arm import Arm
from onelayer.batch import Batch, advantages_of
from onelayer.config import EvalConfig, TrainConfig
from onelayer.environments.base import Info
from onelayer.errors import RunStopped
from onelayer.model import BaseModel
from onelayer.prompts import EncodedSplit, drawn_prompts, drawn_samples, encode_prompt
from onelayer.sample import Completions, Key, Row, Sampling, sample_policies
from onelayer.scores import ArmScores
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem, Prompt
from onelayer.trunk import Trunk, kept_layer

Reason = Literal["success", "failure", "max_steps", "too_long", "error"]
"""Why an episode ended: the task is done, it can no longer be done, out of steps, a prompt over ``max_prompt_length``,
or a fault of the environment."""
Complete = Callable[..., list[Completions]]
"""Writes completions, as `onelayer.sample.sample_policies` does and with its arguments."""
NEGLIGIBLE = 1e-6
"""Advantages below this are rounding: a group of nothing else has nothing to teach."""


class Turn(NamedTuple):
    """One call of the model and what came of it."""

    prompt: Prompt
    prompt_ids: Sequence[int]
    completion: str
    completion_ids: Sequence[int]
    truncated: bool
    observation: str
    """What the environment showed before the action."""
    action: str
    valid: bool
    reward: float
    trunk: Tensor | None = None
    """(prompt + completion - 1, H): input of the layer that was asked for."""


class Written(NamedTuple):
    """A completion."""

    text: str
    ids: list[int]
    truncated: bool
    trunk: Tensor | None = None


@dataclass
class Episode:
    """One episode, while it is played and after."""

    start: Problem
    sample: int
    observation: str
    info: Info
    turns: list[Turn] = field(default_factory=list)
    reason: Reason | None = None
    """None while it runs."""

    @property
    def total(self) -> float:
        """Undiscounted reward, without penalties."""
        return sum(turn.reward for turn in self.turns)

    def penalised(self, coefficient: float) -> float:
        """Undiscounted reward less the penalties for invalid actions."""
        return self.total - coefficient * sum(not turn.valid for turn in self.turns)


def pad_width(length: int) -> int:
    """Tokens that a prompt is padded to: the next of 32, 48, 64, 96, 128, ..., so that a few batches hold them all."""
    power = 32
    while 2 * power < length:
        power *= 2
    return next(width for width in (power, power * 3 // 2, 2 * power) if width >= length)


def play(
    base: BaseModel,
    task: AgenticTask,
    policies: Sequence[Mapping[str, Tensor]],
    starts: Sequence[Sequence[tuple[Problem, int]]],
    keys: Sequence[Key],
    sampling: Sampling,
    max_rows: int,
    trunk_layers: Sequence[int | None],
    complete: Complete = sample_policies,
) -> list[list[Episode]]:
    """Let each policy (tensors to wear) play its own start states, each given with a sample number, to the end.

    ``trunk_layers`` are layers whose input is kept, per policy, or None. ``complete`` writes the completions; another
    engine puts its own here.

    A fault of an environment ends its episode with the reason ``error``; the others go on.
    """
    shape = [len(own) for own in starts]
    owners = [owner for owner, size in enumerate(shape) for _ in range(size)]
    seats = [seat for own in starts for seat in own]
    begun = task.pool.reset([problem.id for problem, _ in seats])
    episodes = [
        Episode(problem, sample, observation, info, reason="error" if "error" in info else None)
        for (problem, sample), (observation, info) in zip(seats, begun, strict=True)
    ]
    turn = 0
    while running := [number for number, episode in enumerate(episodes) if episode.reason is None]:
        prompts: dict[int, Prompt] = {}
        rows: dict[int, Row] = {}
        for number in running:
            episode = episodes[number]
            history = [(past.observation, past.action) for past in episode.turns]
            prompt = task.prompt(episode.info, history, episode.observation)
            ids = encode_prompt(base, prompt)
            if len(ids) > task.max_prompt_length:
                episode.reason = "too_long"
                continue
            prompts[number], rows[number] = prompt, Row(ids, episode.start.id, episode.sample, turn)
        completed = _complete(base, policies, owners, rows, keys, sampling, max_rows, trunk_layers, complete)
        actions = {number: task.action(written.text) for number, written in completed.items()}
        results = task.pool.step({number: action or "" for number, action in actions.items()})
        for number, (observation, reward, terminated, truncated, info) in results.items():
            episode, (text, ids, cut, trunk) = episodes[number], completed[number]
            action, valid = actions[number] or "", actions[number] is not None and info["valid"]
            prompt, row = prompts[number], rows[number]
            episode.turns.append(
                Turn(prompt, row.prompt, text, ids, cut, episode.observation, action, valid, reward, trunk)
            )
            if "error" in info:
                episode.reason = "error"
                continue
            episode.observation, episode.info = observation, info
            if terminated:
                episode.reason = "success" if info["won"] else "failure"
            elif truncated:
                episode.reason = "max_steps"
        turn += 1
    ends = np.cumsum([0, *shape]).tolist()
    return [episodes[start:end] for start, end in itertools.pairwise(ends)]


def _complete(
    base: BaseModel,
    policies: Sequence[Mapping[str, Tensor]],
    owners: Sequence[int],
    rows: Mapping[int, Row],
    keys: Sequence[Key],
    sampling: Sampling,
    max_rows: int,
    trunk_layers: Sequence[int | None],
    complete: Complete,
) -> dict[int, Written]:
    """Complete one turn's rows, one batch per pad width: what was written, by episode."""
    numbers_by_width: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in rows.items():
        numbers_by_width[pad_width(len(row.prompt))][owners[number]].append(number)
    results = {}
    for width, numbers_by_owner in sorted(numbers_by_width.items()):
        batches = complete(
            base,
            [policies[owner] for owner in numbers_by_owner],
            [[rows[number] for number in numbers] for numbers in numbers_by_owner.values()],
            [keys[owner] for owner in numbers_by_owner],
            sampling,
            width=width,
            max_rows=max_rows,
            trunk_layers=[trunk_layers[owner] for owner in numbers_by_owner],
        )
        for numbers, completions in zip(numbers_by_owner.values(), batches, strict=True):
            texts = completions.texts(base.tokenizer)
            for place, number in enumerate(numbers):
                ids = completions.ids[place, : completions.lengths[place]].tolist()
                trunk = None
                if completions.trunk:
                    trunk = completions.trunk.columns(len(rows[number].prompt), len(ids))[place].clone()
                results[number] = Written(texts[place], ids, bool(completions.truncated[place]), trunk)
    return results


def collect(
    base: BaseModel, task: AgenticTask, data: EncodedSplit, arms: Sequence[Arm], step: int, config: TrainConfig
) -> list[tuple[Batch, dict[str, float]]]:
    """Let every arm play the start states of a step, a group of episodes each: per arm its batch and metrics.

    Raises:
        RunStopped: not one episode of an arm came to its first action.
    """
    starts = [
        starts_of(data, drawn_prompts(len(data.problems), config.train_batch_size, arm.seed, step), config)
        for arm in arms
    ]
    sampling = Sampling(config.max_completion_length, config.temperature, config.top_p, config.top_k)
    keys = [Key(arm.seed, "train", step) for arm in arms]
    most = config.train_batch_size * config.num_generations * task.max_steps
    tokens = task.max_prompt_length + config.max_completion_length
    layers = [kept_layer(base, arm.trunk_layer, most, tokens, config.trunk_bytes) for arm in arms]
    played = play(base, task, [arm.weights for arm in arms], starts, keys, sampling, config.max_rows, layers)
    results = []
    for arm, episodes in zip(arms, played, strict=True):
        if not any(episode.turns for episode in episodes if episode.reason != "error"):
            why = task.pool.failures[-1] if task.pool.failures else "their first prompts are over max_prompt_length"
            raise RunStopped(f"arm {arm.name}: no episode of step {step} could be played: {why}")
        batch = to_batch(episodes, config)
        results.append((batch, metrics_of(episodes, batch, config)))
    return results


def starts_of(data: EncodedSplit, indices: Sequence[int], config: TrainConfig) -> list[tuple[Problem, int]]:
    """The start states of a step with their sample numbers, a group of each."""
    return [(data.problems[index], sample) for index, sample in drawn_samples(indices, config.num_generations)]


def to_batch(episodes: Sequence[Episode], config: TrainConfig) -> Batch:
    """The training rows of the episodes of some groups, ``num_generations`` each: one row per turn.

    An episode that its environment ended by a fault teaches nothing and counts in no mean.
    """
    size = config.num_generations
    places = [
        (number, turn) for number, episode in enumerate(episodes) if episode.reason != "error" for turn in episode.turns
    ]
    turns = [turn for _, turn in places]
    trajectories_R = torch.tensor([number for number, _ in places])
    groups_R = trajectories_R // size
    if config.algorithm == "gigpo":
        advantages_R = gigpo_advantages(
            torch.tensor([turn.reward for turn in turns], dtype=torch.float64),
            groups_R,
            trajectories_R,
            [turn.observation for turn in turns],
            penalties_R=config.invalid_action_penalty_coef * torch.tensor([float(not turn.valid) for turn in turns]),
            gamma=config.gamma,
            step_advantage_w=config.step_advantage_w,
            mode=config.gigpo_mode,
            epsilon=config.advantage_epsilon,
            similarity_threshold=config.similarity_thresh,
            episode_statistics=config.episode_statistics,
            group_of_one=config.group_of_one,
            penalty_placement=config.penalty_placement,
        ).advantages
    else:
        returns_PG = _returns(episodes, config).view(-1, size)
        advantages_R = advantages_of(returns_PG, config).flatten()[trajectories_R]
    longest = max(len(turn.completion_ids) for turn in turns)
    ids = torch.zeros(len(turns), longest, dtype=torch.int64)
    for row, turn in enumerate(turns):
        ids[row, : len(turn.completion_ids)] = torch.tensor(turn.completion_ids)
    lengths = torch.tensor([len(turn.completion_ids) for turn in turns])
    completions = Completions(ids, lengths, torch.tensor([turn.truncated for turn in turns]), _trunk(turns, longest))
    return Batch([turn.prompt_ids for turn in turns], completions, advantages_R.float(), groups_R)


def _trunk(turns: Sequence[Turn], longest: int) -> Trunk | None:
    """What was kept of all turns, as rows."""
    kept = [turn.trunk for turn in turns if turn.trunk is not None]
    if not kept:
        return None
    width = max(len(turn.prompt_ids) for turn in turns)
    hidden = kept[0].new_zeros(len(turns), width + longest - 1, kept[0].shape[-1])
    for row, (turn, states) in enumerate(zip(turns, kept, strict=True)):
        start = width - len(turn.prompt_ids)
        hidden[row, start : start + len(states)] = states
    return Trunk(hidden, width)


def _returns(episodes: Sequence[Episode], config: TrainConfig) -> Tensor:
    """Penalised return of each episode, (n,) fp64; NaN where a fault ended it."""
    penalty = config.invalid_action_penalty_coef
    returns = [np.nan if episode.reason == "error" else episode.penalised(penalty) for episode in episodes]
    return torch.tensor(returns, dtype=torch.float64)


def paid_by_row(episodes: Sequence[Episode], config: TrainConfig) -> list[float | None]:
    """What the whole episode of each row of `to_batch` is paid."""
    paid = zip(_returns(episodes, config).tolist(), episodes, strict=True)
    return [value for value, episode in paid if episode.reason != "error" for _ in episode.turns]


def metrics_of(episodes: Sequence[Episode], batch: Batch, config: TrainConfig) -> dict[str, float]:
    """TRL's names where there is one, else verl-agent's; rewards are the returns that are learned from."""
    returns_PG = _returns(episodes, config).view(-1, config.num_generations)
    deviations = [known.std() for group in returns_PG if len(known := group[~group.isnan()]) > 1]
    largest = torch.zeros(len(returns_PG)).scatter_reduce(0, batch.prompt_index, batch.advantages.abs(), "amax")
    turns = [turn for episode in episodes for turn in episode.turns]
    reasons = Counter(episode.reason for episode in episodes)
    return {
        "reward": float(returns_PG.nanmean()),
        "reward_std": float(torch.stack(deviations).mean()) if deviations else 0.0,
        "frac_reward_zero_std": float((largest < NEGLIGIBLE).double().mean()),
        "completions/mean_length": float(batch.completions.lengths.double().mean()),
        "completions/clipped_ratio": float(batch.completions.truncated.double().mean()),
        "episode/success_rate": reasons["success"] / len(episodes),
        "episode/length": float(np.mean([len(episode.turns) for episode in episodes])),
        "episode/valid_action_ratio": float(np.mean([turn.valid for turn in turns])),
        **{f"episode/ended/{reason}": reasons[reason] / len(episodes) for reason in get_args(Reason)},
    }


class Played(NamedTuple):
    """One policy's episodes on a split, and their scores."""

    scores: ArmScores
    episodes: list[Episode]

    def summary(self) -> dict[str, dict[str, float]]:
        """Why episodes ended (counts), and the share of successes per kind of task."""
        kinds: dict[str, list[bool]] = defaultdict(list)
        for episode in self.episodes:
            kinds[episode.info["task_type"]].append(episode.reason == "success")
        ends = Counter(str(episode.reason) for episode in self.episodes)
        return {
            "episode_ends": dict(sorted(ends.items())),
            "success_by_task_type": {kind: float(np.mean(wins)) for kind, wins in sorted(kinds.items()) if kind},
        }


def evaluate(
    base: BaseModel,
    task: AgenticTask,
    data: EncodedSplit,
    policies: Sequence[Mapping[str, Tensor]],
    config: EvalConfig,
) -> list[Played]:
    """Let policies (tensors to wear; none for the base itself) play the start states of a split, with the same keys.

    One score per start state and sample, its total reward; the mean over start states weighs kinds of tasks by their
    number. ``length`` is the tokens of all turns, and ``truncated`` says that a limit on steps or prompts ended it.
    """
    samples = config.eval_num_samples or 1
    starts = [(problem, sample) for problem in data.problems for sample in range(samples)]
    sampling = Sampling(config.max_completion_length, config.eval_temperature or 0.0)
    keys = [Key(config.eval_seed, "eval", 0)] * len(policies)
    nothing = [None] * len(policies)
    played = play(base, task, policies, [starts] * len(policies), keys, sampling, config.max_rows, nothing)
    return [Played(_scores(task.name, episodes), episodes) for episodes in played]


def _scores(benchmark: str, episodes: Sequence[Episode]) -> ArmScores:
    return ArmScores(
        benchmark=[benchmark] * len(episodes),
        problem=np.array([episode.start.id for episode in episodes], dtype=np.int64),
        sample=np.array([episode.sample for episode in episodes], dtype=np.int64),
        reward=np.array([episode.total for episode in episodes]),
        length=np.array([sum(len(turn.completion_ids) for turn in e.turns) for e in episodes], dtype=np.int64),
        truncated=np.array([episode.reason in ("max_steps", "too_long") for episode in episodes]),
    )
