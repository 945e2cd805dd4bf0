"""Processes that train one arm at a time together: the main one decides and writes files, the others follow.

Every process was started with the same command (``accelerate launch``) and loads the same model and problems. The main
one runs the scan; whenever an arm is to be trained or a policy scored, it tells the others, and all do it together.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch

from onelayer.arms.delta_files import as_weights
from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl import ending  # noqa: F401 - its import is enough
from onelayer.engines.trl.arm import Trained, train_arm
from onelayer.engines.trl.completions import Written
from onelayer.engines.trl.options import check_options
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_model
from onelayer.storage.scores import ArmScores, join_scores
from onelayer.tasks.base import Split, Task
from onelayer.training.loop import Record
from onelayer.training.prompts import EncodedSplit
from onelayer.training.rollout import evaluate
from onelayer.training.way import Evaluated

log = logging.getLogger(__name__)
PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the slowest share of a scoring, not a fault, sets the pace."""
Command = tuple[Literal["train", "score", "end"], Any]


class Together:
    """The processes of a run.

    Raises:
        UserError: packages that are missing or were not tested, or another number of processes than ``num_processes``.
    """

    def __init__(self, config: TrainConfig) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        from accelerate import PartialState

        cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
        self.state = PartialState(cpu=cpu, timeout=PATIENCE)
        self.config = config
        if config.num_processes not in (0, self.state.num_processes):
            # Without --multi_gpu accelerate starts one process on a machine without GPUs, whatever --num_processes says.
            several = "--multi_gpu " * (config.num_processes > 1)
            raise UserError(
                f"num_processes is {config.num_processes}, and {self.state.num_processes} "
                f"{'is' if self.state.num_processes == 1 else 'are'} running; start with: accelerate launch "
                f"{several}--num_processes {config.num_processes} -m onelayer ..."
            )
        check_options(config, self.num_processes)
        self._listening = False
        """Whether the others wait for a word: not before they have loaded, nor after a fault in common work."""

    @property
    def is_main(self) -> bool:
        """Whether this process decides and writes files."""
        return bool(self.state.is_main_process)

    @property
    def num_processes(self) -> int:
        """How many take part."""
        return int(self.state.num_processes)

    def begin(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit]) -> None:
        """Take what the processes work on, which each has loaded by itself; all but the main one follow it to its end.

        Raises:
            RunStopped: the processes have not loaded the same.
        """
        self.base, self.task, self.data = base, task, data
        hashes = self._gather([(base.hash, *(split.hash for split in data.values()))])
        if len(set(hashes)) > 1:
            raise RunStopped("the processes have loaded different models or problems")
        if self.is_main:
            log.info("TRL trains each arm in %d process%s", self.num_processes, "es" * (self.num_processes > 1))
        self._listening = True
        if not self.is_main:
            self._serve()

    def end(self, error: BaseException | None) -> None:
        """Let the others end, because of an error or none. Where nobody listens the launcher ends them."""
        if self.is_main and self._listening:
            # The error of this process is told, also where the others are gone.
            with contextlib.suppress(*((RuntimeError,) if error else ())):
                self._tell(("end", None))

    def _serve(self) -> None:
        while True:
            what, value = self._tell(("end", None))
            if what == "end":
                return
            self._do(what, value)

    def train(
        self,
        spec: ArmSpec,
        on_record: Callable[[Record], None],
        on_completions: Callable[[int, Written], None] | None = None,
    ) -> Trained:
        """Train an arm with all processes. Afterwards ``base`` is a new one.

        Raises:
            UserError: options that do not fit.
            RunStopped: training cannot go on.
        """
        trained: Trained = self._do(*self._tell(("train", spec)), on_record, on_completions)
        return trained

    def score(self, split: Split, *, trained: bool) -> Evaluated:
        """Score the base, or the arm that was trained last, on the problems of a split; every process takes a share.

        There are episodes only where the task is played in turns.
        """
        played: Evaluated = self._do(*self._tell(("score", (split, trained))))
        return played

    def _do(self, what: str, value: Any, *tell: Any) -> Any:
        self._listening = False
        result = self._train(value, *tell) if what == "train" else self._score(*value)
        self._listening = True
        return result

    def _train(
        self,
        spec: ArmSpec,
        on_record: Callable[[Record], None] = lambda record: None,
        on_completions: Callable[[int, Written], None] | None = None,
    ) -> Trained:
        trained = train_arm(
            self.base,
            spec,
            self.task,
            self.data["train"],
            self.config,
            on_record,
            (lambda base: self._share(base, "selection", {}).scores.score) if self.config.eval_steps else None,
            on_completions,
        )
        # The base has become the arm's policy, and may be sharded: its memory goes, and a new one comes.
        self.base.module.to("meta")
        self.base = load_model(self.config)
        self._delta = trained.delta
        return trained

    def _score(self, split: Split, trained: bool) -> Evaluated:
        return self._share(self.base, split, as_weights(self._delta, self.base) if trained else {})

    def _share(self, base: BaseModel, split: Split, weights: dict[str, torch.Tensor]) -> Evaluated:
        """Score this process's share of the problems, and put all shares together."""
        data, config = self.data[split], self.config
        own, count = self.state.process_index, self.num_processes
        share = EncodedSplit(data.problems[own::count], data.tokens[own::count], 0)
        parts = self._gather(evaluate(base, self.task, share, [weights], config) if share.problems else [])
        place = {problem.id: number for number, problem in enumerate(data.problems)}
        every = [episode for part in parts for episode in part.episodes]
        every.sort(key=lambda episode: (place[episode.start.id], episode.sample))
        return Evaluated(in_problem_order(join_scores([part.scores for part in parts]), data), every)

    def _tell(self, command: Command) -> Command:
        """Broadcast the main process's command; the others get it in the place of their own."""
        if self.num_processes == 1:
            return command
        box: list[Any] = [command]
        torch.distributed.broadcast_object_list(box, src=0)
        told: Command = box[0]
        return told

    def _gather(self, own: list[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        return list(gather_object(own))


def in_problem_order(scores: ArmScores, data: EncodedSplit) -> ArmScores:
    """The completions in the order of a split's problems: benchmarks as they come, then problems, then samples."""
    place: dict[tuple[str | None, int], int] = {}
    benchmarks: dict[str | None, int] = {}
    for number, problem in enumerate(data.problems):
        name = problem.scoring.benchmark if problem.scoring else None
        benchmarks.setdefault(name, len(benchmarks))
        place[name, problem.id] = number
    alone = None in benchmarks

    def key(row: int) -> tuple[int, int, int]:
        name = None if alone and scores.benchmark[row] not in benchmarks else scores.benchmark[row]
        return benchmarks[name], place[name, int(scores.problem[row])], int(scores.sample[row])

    order = sorted(range(len(scores.problem)), key=key)
    rows = np.array(order)
    return ArmScores(
        benchmark=[scores.benchmark[row] for row in order],
        problem=scores.problem[rows],
        sample=scores.sample[rows],
        reward=scores.reward[rows],
        length=scores.length[rows],
        truncated=scores.truncated[rows],
        reason=None if scores.reason is None else [scores.reason[row] for row in order],
    )
