"""Problems that are played in turns: groups of environments in step, for all arms of a set together.

In every turn each running episode has one prompt, and all of them are completed in one call per pad width; the batch
shrinks as episodes end. Every call of the model is a training row with its own prompt, completion and anchor (the
observation before the action). The pad width of a prompt follows from its own length alone (`pad_width`) and its draws
are keyed by start, sample and turn, so that an episode does not depend on who else is played.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from onelayer.config.algorithm import AlgorithmConfig
from onelayer.config.configs import TrainConfig
from onelayer.config.sampling import EvalConfig
from onelayer.config.update import StepConfig
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.models.trunk import Trunk
from onelayer.storage.scores import ArmScores
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem, Prompt, Split, Task
from onelayer.training.batch import Rollouts
from onelayer.training.completions import Completions
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.episode import Episode, Reason, Turn
from onelayer.training.prompts import SPLITS, EncodedSplit, check_stop_tokens, encode_prompt
from onelayer.training.sample import Complete, Request, complete
from onelayer.training.way import Draw, Evaluated

PROBED = 4
"""Start states whose first prompts are written before a run."""


class Player(NamedTuple):
    """One policy and the start states that it plays, each with a sample number."""

    policy: Mapping[str, Tensor]
    """The tensors that it wears; none for the base itself."""
    starts: Sequence[tuple[Problem, int]]
    key: Key
    trunk_layer: int | None = None


class Written(NamedTuple):
    """A completion."""

    text: str
    ids: list[int]
    truncated: bool
    trunk: Tensor | None = None


def pad_width(length: int) -> int:
    """Tokens that a prompt is padded to: the next of 32, 48, 64, 96, 128, ..., so that a few batches hold them all."""
    power = 32
    while 2 * power < length:
        power *= 2
    return next(width for width in (power, power * 3 // 2, 2 * power) if width >= length)


def play(
    base: BaseModel,
    task: AgenticTask,
    players: Sequence[Player],
    sampling: Sampling,
    max_rows: int,
    complete: Complete = complete,
) -> list[list[Episode]]:
    """Let each player play its own start states to the end: per player its episodes, in order.

    A fault of an environment ends its episode with the reason ``error``; the others go on.
    """
    owners = [owner for owner, player in enumerate(players) for _ in player.starts]
    seats = [seat for player in players for seat in player.starts]
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
        completed = _complete_turn(base, players, owners, rows, sampling, max_rows, complete)
        _act(task, episodes, prompts, rows, completed)
        turn += 1
    ends = np.cumsum([0, *(len(player.starts) for player in players)]).tolist()
    return [episodes[start:end] for start, end in itertools.pairwise(ends)]


def _act(
    task: AgenticTask,
    episodes: Sequence[Episode],
    prompts: Mapping[int, Prompt],
    rows: Mapping[int, Row],
    completed: Mapping[int, Written],
) -> None:
    """Take a step in the environment of every episode that has written something, by its number."""
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


def _complete_turn(
    base: BaseModel,
    players: Sequence[Player],
    owners: Sequence[int],
    rows: Mapping[int, Row],
    sampling: Sampling,
    max_rows: int,
    complete: Complete,
) -> dict[int, Written]:
    """Complete one turn's rows, one batch per pad width: what was written, by episode."""
    numbers_by_width: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in rows.items():
        numbers_by_width[pad_width(len(row.prompt))][owners[number]].append(number)
    results = {}
    for width, numbers_by_owner in sorted(numbers_by_width.items()):
        requests = [
            Request(
                players[owner].policy,
                [rows[number] for number in numbers],
                players[owner].key,
                players[owner].trunk_layer,
            )
            for owner, numbers in numbers_by_owner.items()
        ]
        batches = complete(base, requests, sampling, width=width, max_rows=max_rows)
        for numbers, completions in zip(numbers_by_owner.values(), batches, strict=True):
            texts = completions.texts(base.tokenizer)
            for place, number in enumerate(numbers):
                ids = completions.ids[place, : completions.lengths[place]].tolist()
                trunk = None
                if completions.trunk:
                    trunk = completions.trunk.columns(len(rows[number].prompt), len(ids))[place].clone()
                results[number] = Written(texts[place], ids, bool(completions.truncated[place]), trunk)
    return results


class InTurns:
    """See `onelayer.training.way.Way`. What came out are the episodes of a policy, groups side by side."""

    # All of them at once would hold an environment for every arm and start state.
    arms_at_once: int | None = 1

    def encode(self, base: BaseModel, task: Task, config: TrainConfig) -> dict[Split, EncodedSplit]:
        """The start states of all splits; their prompts are written in play.

        Raises:
            UserError: a model whose context is too short, or first prompts that are too long or cannot be encoded.
        """
        assert isinstance(task, AgenticTask)
        longest = config.max_prompt_length + config.max_completion_length
        if longest > base.max_length:
            raise UserError(
                f"model '{base.name}' has a context of {base.max_length} tokens, and max_prompt_length with "
                f"max_completion_length makes {longest}; lower one of them"
            )
        _probe(base, task)
        return {
            split: EncodedSplit(problems := list(task.problems(split)), [[] for _ in problems], 0) for split in SPLITS
        }

    def rows_of_episode(self, task: Task) -> int:
        """A turn each."""
        assert isinstance(task, AgenticTask)
        return task.max_steps

    def prompt_tokens(self, task: Task, width: int) -> int:
        """As many as a prompt may have, whatever the step."""
        assert isinstance(task, AgenticTask)
        return task.max_prompt_length

    def roll(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        draws: Sequence[Draw],
        width: int,
        config: StepConfig,
        complete: Complete = complete,
    ) -> list[list[Episode]]:
        """Let every policy play the start states of a step."""
        assert isinstance(task, AgenticTask)
        players = [
            Player(
                draw.policy,
                [(data.problems[index], sample) for index, sample in draw.samples],
                draw.key,
                draw.trunk_layer,
            )
            for draw in draws
        ]
        return play(base, task, players, Sampling.of(config), config.max_rows, complete)

    def join(self, parts: Sequence[list[Episode]]) -> list[Episode]:
        """One after the other."""
        return [episode for part in parts for episode in part]

    def rollouts(self, task: Task, part: list[Episode], config: StepConfig, who: str) -> Rollouts:
        """One row per turn. An episode that its environment ended by a fault teaches nothing and counts in no mean.

        Raises:
            RunStopped: not one episode came to its first action.
        """
        assert isinstance(task, AgenticTask)
        if not any(episode.turns for episode in part if episode.reason != "error"):
            why = task.failures[-1] if task.failures else "their first prompts are over max_prompt_length"
            raise RunStopped(f"{who}: no episode could be played: {why}")
        return rollouts_of(part, config)

    def evaluate(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        policies: Sequence[Mapping[str, Tensor]],
        config: EvalConfig,
    ) -> list[Evaluated]:
        """One score per start state and sample, its total reward; the mean over start states weighs kinds of tasks by
        their number. ``length`` is the tokens of all turns, and ``truncated`` says that a limit on steps or prompts
        ended the episode."""
        assert isinstance(task, AgenticTask)
        samples = config.eval_num_samples or 1
        starts = [(problem, sample) for problem in data.problems for sample in range(samples)]
        sampling = Sampling(config.max_completion_length, config.eval_temperature or 0.0)
        players = [Player(policy, starts, Key(config.eval_seed, "eval", 0)) for policy in policies]
        played = play(base, task, players, sampling, config.max_rows)
        return [Evaluated(_scores(task.name, episodes), episodes) for episodes in played]


def _probe(base: BaseModel, task: AgenticTask) -> None:
    """Write the first prompts of a few start states, before a run writes anything.

    Raises:
        UserError: all of them are too long, or the tokenizer cannot encode them.
    """
    check_stop_tokens(base)
    begun = task.pool.reset([problem.id for problem in task.problems("test")[:PROBED]])
    prompts = [task.prompt(info, [], observation) for observation, info in begun if "error" not in info]
    lengths = [len(encode_prompt(base, prompt)) for prompt in prompts]
    if lengths and min(lengths) > task.max_prompt_length:
        raise UserError(
            f"task '{task.name}': the first prompts of {len(lengths)} episodes have {min(lengths)} to {max(lengths)} "
            f"tokens for '{base.name}', all over max_prompt_length {task.max_prompt_length}; raise it"
        )


def rollouts_of(episodes: Sequence[Episode], config: AlgorithmConfig) -> Rollouts:
    """The training rows of the episodes of some groups: one row per turn."""
    places = [
        (number, turn) for number, episode in enumerate(episodes) if episode.reason != "error" for turn in episode.turns
    ]
    turns = [turn for _, turn in places]
    longest = max(len(turn.completion_ids) for turn in turns)
    ids = torch.zeros(len(turns), longest, dtype=torch.int64)
    for row, turn in enumerate(turns):
        ids[row, : len(turn.completion_ids)] = torch.tensor(turn.completion_ids)
    lengths = torch.tensor([len(turn.completion_ids) for turn in turns])
    completions = Completions(ids, lengths, torch.tensor([turn.truncated for turn in turns]), _trunk(turns, longest))
    penalty = config.invalid_action_penalty_coef
    returns = [np.nan if episode.reason == "error" else episode.penalised(penalty) for episode in episodes]
    return Rollouts(
        [turn.prompt_ids for turn in turns],
        completions,
        torch.tensor([number for number, _ in places]),
        torch.tensor([turn.reward for turn in turns], dtype=torch.float64),
        torch.tensor(returns, dtype=torch.float64),
        [turn.observation for turn in turns],
        torch.tensor([not turn.valid for turn in turns]),
        _metrics(episodes),
    )


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


def _metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """What is known of episodes alone; verl-agent's names where there is one."""
    turns = [turn for episode in episodes for turn in episode.turns]
    reasons = Counter(episode.reason for episode in episodes)
    return {
        "episode/success_rate": reasons["success"] / len(episodes),
        "episode/length": float(np.mean([len(episode.turns) for episode in episodes])),
        "episode/valid_action_ratio": float(np.mean([turn.valid for turn in turns])),
        **{f"episode/ended/{reason}": reasons[reason] / len(episodes) for reason in get_args(Reason)},
    }


def summary(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """Why episodes ended (counts), and the share of successes per kind of task; nothing where there are none."""
    if not episodes:
        return {}
    kinds: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        kinds[episode.info["task_type"]].append(episode.reason == "success")
    ends = Counter(str(episode.reason) for episode in episodes)
    return {
        "episode_ends": dict(sorted(ends.items())),
        "success_by_task_type": {kind: float(np.mean(wins)) for kind, wins in sorted(kinds.items()) if kind},
    }


def _scores(benchmark: str, episodes: Sequence[Episode]) -> ArmScores:
    return ArmScores(
        benchmark=[benchmark] * len(episodes),
        problem=np.array([episode.start.id for episode in episodes], dtype=np.int64),
        sample=np.array([episode.sample for episode in episodes], dtype=np.int64),
        reward=np.array([episode.total for episode in episodes]),
        length=np.array([sum(len(turn.completion_ids) for turn in e.turns) for e in episodes], dtype=np.int64),
        truncated=np.array([episode.reason in ("max_steps", "too_long") for episode in episodes]),
    )
