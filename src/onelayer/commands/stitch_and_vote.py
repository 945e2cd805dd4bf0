"""What the single-layer arms of a finished scan are worth together: one model of their deltas, or a majority vote."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from onelayer.arms.delta_files import DELTA, as_weights, read_delta_for, write_delta
from onelayer.commands.scan import scanned_layers
from onelayer.config.configs import ScanConfig
from onelayer.config.sources import build, read_yaml
from onelayer.errors import UserError
from onelayer.judging.contribution import Additivity, additivity
from onelayer.judging.measured import read_measured
from onelayer.judging.profile import Profile
from onelayer.judging.vote import Answer, Answers, Vote, judge_vote
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_model, load_splits, load_task
from onelayer.runs.run_folder import RunFolder
from onelayer.storage.arm_names import FULL, layer_alone
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.files import atomic_path
from onelayer.storage.manifest import Manifest
from onelayer.storage.scores import write_scores
from onelayer.tasks.base import Split, Task
from onelayer.tasks.reward_call import Told
from onelayer.training.completions import Completions
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.grading import cut_texts, grade_all, rewards_of
from onelayer.training.prompts import EncodedSplit
from onelayer.training.rollout import evaluate
from onelayer.training.sample import Request, complete


@dataclass
class FinishedScan:
    """A scan folder opened again with its model and problems, to do more with its deltas."""

    folder: RunFolder
    config: ScanConfig
    profile: Profile
    base: BaseModel
    task: Task
    data: dict[Split, EncodedSplit]

    @classmethod
    def open(cls, path: Path) -> "FinishedScan":
        """Load everything that the scan worked with.

        Raises:
            UserError: no finished scan there, or its model or data have changed since.
        """
        profile = Profile.load(path)
        manifest = Manifest.read(path)
        config = build(ScanConfig, [(f"{path}/config.yaml", read_yaml(path / "config.yaml"))])
        base = load_model(config)
        data = load_splits(base, task := load_task(config), config)
        if base.hash != manifest.base_hash or {s: d.hash for s, d in data.items()} != manifest.data:
            raise UserError(f"the model or the data of {path} are no longer those that it was made with")
        return cls(RunFolder(path, manifest), config, profile, base, task, data)

    def delta(self, name: str) -> dict[str, Tensor]:
        """The delta of an arm."""
        return read_delta_for(self.base, self.folder.arm(name) / DELTA)

    def chosen(self, plan: str) -> list[int]:
        """Layers of a plan such as ``best:3``, which here means the best of this scan.

        Raises:
            UserError: a plan that is not understood, or a layer that the scan has not trained.
        """
        if match := re.fullmatch(r"(best|worst):(\d+)", plan):
            choose = self.profile.best if match[1] == "best" else self.profile.worst
            return list(choose(int(match[2])).layers)
        layers = scanned_layers(plan, self.base.num_layers)
        trained = {row.layer for row in self.profile.layers}
        if missing := [layer for layer in layers if layer not in trained]:
            raise UserError(f"layer {missing[0]} was not trained in this scan; it has {sorted(trained)}")
        return layers


def stitch(scan: FinishedScan, plan: str) -> tuple[str, Additivity]:
    """Put the deltas of several single-layer arms into one model, without any training, and score it.

    Single-layer deltas touch different tensors, so their union is a model. It becomes a further arm of the scan.

    Returns:
        The new arm's name, and its gain against the sum of the single arms' gains, both of the first training seed.

    Raises:
        UserError: fewer than two layers.
    """
    layers = sorted(scan.chosen(plan))
    if len(layers) < 2:
        raise UserError(f"layers '{plan}' are {len(layers)}; it takes at least two to stitch")
    arms = [layer_alone(layer) for layer in layers]
    name = "stitched-" + "-".join(f"{layer:02d}" for layer in layers)
    delta = {tensor: value for arm in arms for tensor, value in scan.delta(arm).items()}
    test, selection = (
        evaluate(scan.base, scan.task, scan.data[split], [as_weights(delta, scan.base)], scan.config)[0].scores
        for split in ("test", "selection")
    )
    target = scan.folder.arm(name)
    write_delta(target / DELTA, delta, scan.base, name)
    with atomic_path(target / "scores.parquet") as temporary:
        write_scores(temporary, test)
    record = ArmRecord(
        arm=name,
        kind="stitched",
        plan=",".join(map(str, layers)),
        layer=None,
        seed=scan.config.seed,
        trained_parameters=sum(tensor.numel() for tensor in delta.values()),
        seconds=0.0,
        stopped=None,
        selection_score=selection.score,
        reasons=test.reasons,
        score=test.score,
    )
    scan.folder.write_arm(name, record, scan.base)
    measured = read_measured(scan.folder.path)
    return name, additivity(measured.scores, name, arms)


def vote(scan: FinishedScan, k: int, temperature: float) -> Vote:
    """Let the k best single-layer arms vote on the test problems, and judge it against self-consistency of full.

    Every answer is sampled at ``temperature``: one per voter, k from full. The voters are the best on the selection
    problems, the best first.

    Raises:
        UserError: a task whose answers cannot be compared, or fewer than two layers.
        RunStopped: answers that the grader could not judge.
    """
    parse: Callable[[str], Answer] | None = getattr(scan.task, "parse_answer", None)
    if parse is None:
        raise UserError(f"task '{scan.task.name}' has no answers that could be compared, so nothing can be voted on")
    voters = [layer_alone(layer) for layer in scan.profile.best(k).layers]
    data = scan.data["test"]
    sampling = Sampling(scan.config.max_completion_length, temperature)
    key = Key(scan.config.eval_seed, "vote", 0)

    def ask(tensors: Mapping[str, Tensor], first: int, count: int) -> Answers:
        """``count`` answers to every problem, with sample numbers from ``first``: voters must not share draws."""
        rows = [
            Row(tokens, problem.id, first + sample, stop=problem.stop)
            for problem, tokens in zip(data.problems, data.tokens, strict=True)
            for sample in range(count)
        ]
        (completions,) = complete(
            scan.base, [Request(tensors, rows, key)], sampling, width=data.width, max_rows=scan.config.max_rows
        )
        return _answers(scan, completions, count, parse)

    def weights(name: str) -> dict[str, Tensor]:
        return as_weights(scan.delta(name), scan.base)

    ballots = {name: ask(weights(name), number, 1) for number, name in enumerate(voters)}
    return judge_vote(ballots, ask({}, 0, 1), ask(weights(FULL), 0, k), [scan.task.name] * len(data.problems))


def _answers(scan: FinishedScan, completions: Completions, count: int, parse: Callable[[str], Answer]) -> Answers:
    problems = [problem for problem in scan.data["test"].problems for _ in range(count)]
    texts = cut_texts(scan.base, problems, completions)
    told = Told(scan.config.steps, scan.config.steps)
    grades = grade_all(scan.task, problems, texts, ids=completions.rows(), told=told)
    rewards = rewards_of(grades).numpy().reshape(-1, count)
    parsed = [parse(text) for text in texts]
    return Answers([parsed[start : start + count] for start in range(0, len(parsed), count)], rewards)
