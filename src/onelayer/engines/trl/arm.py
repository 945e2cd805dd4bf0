"""One arm trained by TRL on one of onelayer's tasks: TRL's loss, optimizer and processes, onelayer's rollouts.

Prompts, keyed draws, rewards and advantages are those of the built-in engine. Every process completes a share of the
step's prompts through TRL's ``rollout_func``; the rollouts of all are gathered, so that advantages and metrics are those
of the whole step, and the training rows are dealt out again, by mini-batch. A row is one call of the model: of a task
played in turns their number differs from step to step, so every process fills its mini-batches up with rows that count
for nothing, and the loss is scaled back to the rows that do.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback

from onelayer.arms.arm import OptimizerSettings
from onelayer.arms.spec import ArmSpec, optimizer_settings
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl.completions import Written
from onelayer.engines.trl.metrics import MEANS, Records, Watched
from onelayer.engines.trl.options import grpo_config, update_sizes
from onelayer.engines.trl.trainer import OneLayerGRPOTrainer
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Task
from onelayer.training.batch import Batch, to_batch
from onelayer.training.completions import Completions
from onelayer.training.draws import Key, Sampling
from onelayer.training.loop import Record
from onelayer.training.prompts import EncodedSplit, drawn_prompts, drawn_samples
from onelayer.training.rollout import way_of
from onelayer.training.sample import Request, complete
from onelayer.training.way import Draw

Rollouts = Literal["keyed", "vllm", "transformers"]
"""How completions are written: with the built-in engine's keyed draws, by vLLM, or by transformers' ``generate``."""


@dataclass(frozen=True)
class Trained:
    """What an arm has become; the same in every process."""

    delta: Mapping[str, Tensor]
    """fp32, on the CPU."""
    updates: int
    num_tokens: int
    stopped: str | None
    effective: bool
    first_gradient_norms: dict[str, float]
    rollouts: Rollouts
    seconds: float


def train_arm(
    base: BaseModel,
    spec: ArmSpec,
    task: Task,
    data: EncodedSplit,
    config: TrainConfig,
    on_record: Callable[[Record], None],
    score: Callable[[BaseModel], float] | None = None,
    on_completions: Callable[[int, Written], None] | None = None,
) -> Trained:
    """Train an arm. ``base`` becomes the arm's policy and cannot be used as the base again.

    Every process calls this with the same arguments. ``on_record`` takes a step's metrics; ``score`` is called every
    ``eval_steps`` with the policy. ``on_completions`` takes a step's completions, with TRL's option ``log_completions``.

    Raises:
        UserError: options that do not fit.
        RunStopped: training cannot go on.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = ArmTrainer(base, spec, task, data, config, scratch, on_record, score, on_completions)
        trainer.train()
        delta = trainer.delta()
    trainer.accelerator.free_memory()
    return Trained(
        delta,
        trainer.state.global_step,
        trainer.watched.num_tokens,
        trainer.watched.stopped,
        trainer.effective,
        trainer.first_gradient_norms,
        trainer.rollouts,
        time.perf_counter() - started,
    )


class ArmTrainer(OneLayerGRPOTrainer):
    """TRL's trainer on the rollouts of an onelayer task."""

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(
        self,
        base: BaseModel,
        spec: ArmSpec,
        task: Task,
        data: EncodedSplit,
        config: TrainConfig,
        output: str,
        on_record: Callable[[Record], None],
        score: Callable[[BaseModel], float] | None,
        on_completions: Callable[[int, Written], None] | None = None,
    ) -> None:
        self._task, self._data, self.config = task, data, config
        self.settings: OptimizerSettings = optimizer_settings(spec, config)
        args = grpo_config(config, spec, base, task, output)
        # TRL's data loader only counts: what a step's prompts are follows from the seed and the step.
        rows = Dataset.from_dict({"prompt": [""] * (args.generation_batch_size // args.num_generations)})
        super().__init__(
            base,
            plan=spec,
            args=args,
            reward_funcs=[_no_reward],
            train_dataset=rows,
            rollout_func=ArmTrainer._rollout,
            write_files=False,
        )
        self.watched = Watched(spec.name)
        self.rollouts: Rollouts = "vllm" if self.use_vllm else "transformers" if self.is_fsdp_enabled else "keyed"
        if self.rollouts != "keyed":
            _refuse_unkeyed(self, task, data, score)
        self.updates_per_step = update_sizes(config, task, self.accelerator.num_processes).updates
        self._rows: list[int] = []
        self._real: list[bool] = []
        self._weights: list[float] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._batch: Batch | None = None
        self._paid: list[float | None] = []
        self._logps: dict[tuple[tuple[int, ...], tuple[int, ...]], list[float]] = {}
        # TRL's log has neither these prompts nor these rewards.
        self.log_completions = False
        self.remove_callback(PrinterCallback)
        self.add_callback(Records(self, on_record, score, on_completions if args.log_completions else None))

    # --- rollouts

    def _collect(self, step: int) -> tuple[Batch, dict[str, float]]:
        """This process's share of the step's rollouts, then everybody's: rows and metrics of the whole step."""
        config, data, seed = self.config, self._data, self.spec.seed
        indices = drawn_prompts(len(data.problems), config.train_batch_size, seed, step)
        count, own = self.accelerator.num_processes, self.accelerator.process_index
        mine = indices[own * len(indices) // count : (own + 1) * len(indices) // count]
        # Sample numbers are those of the whole step, since a prompt may come twice in it.
        samples = drawn_samples(indices, config.num_generations)
        first = own * len(indices) // count * config.num_generations
        samples = samples[first : first + len(mine) * config.num_generations]
        self._logps.clear()
        way = way_of(self._task)
        width = max(len(data.tokens[index]) for index in indices)
        draws = [Draw({}, samples, Key(seed, "train", step))]
        (part,) = way.roll(self.base, self._task, data, draws, width, config, self._complete)
        whole = way.join(self._gather([part]))
        rollouts = way.rollouts(self._task, whole, config, f"arm {self.spec.name}, step {step}")
        self._paid = rollouts.paid()
        return to_batch(rollouts, config)

    def written(self) -> Written:
        """What the whole step wrote, of all processes."""
        batch, decode = self._batch, self.base.tokenizer.decode
        assert batch is not None
        completed = zip(batch.completions.ids, batch.completions.lengths.tolist(), strict=True)
        return Written(
            [decode(list(prompt)) for prompt in batch.prompts],
            [decode(ids[:length], skip_special_tokens=True) for ids, length in completed],
            self._paid,
            batch.advantages.tolist(),
        )

    def _gather(self, own: list[Any]) -> list[Any]:
        """The lists of all processes as one, in their order; with vLLM also what it says of its tokens."""
        if self._logps:
            for known in gather_object([dict(self._logps)]):
                self._logps |= known
        return list(gather_object(own))

    def _complete(
        self,
        base: BaseModel,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        width: int,
        max_rows: int,
    ) -> list[Completions]:
        """Complete rows under the policy: with keyed draws, or by what TRL was told to generate with."""
        if self.rollouts == "keyed":
            with self.as_policy():
                return complete(base, requests, sampling, width=width, max_rows=max_rows)
        ((_, rows, _, _),) = requests
        # Every prompt is listed as often as it is completed.
        written, logps = self._generate_single_turn([list(row.prompt) for row in rows], None, {}, 1)
        for row, ids, known in zip(rows, written, logps or (), strict=bool(logps)):
            self._logps[tuple(row.prompt), tuple(ids)] = known
        return [_completions(written, self.base.stop_token_ids)]

    @contextmanager
    def as_policy(self) -> Iterator[None]:
        """The module as one that writes: no dropout, no checkpointing, computing in the model's type."""
        self.base.module.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield
        finally:
            self.base.module.train()

    # --- from rollouts to TRL's batch

    def _deal(self, batch: Batch) -> tuple[list[int], list[bool], list[float]]:
        """This process's rows of every mini-batch, whether they count, and the factor of their loss."""
        config, sizes = self.config, update_sizes(self.config, self._task, self.accelerator.num_processes)
        mini = config.mini_batch_size or config.train_batch_size
        minis = [torch.nonzero(batch.prompt_index // mini == m)[:, 0].tolist() for m in range(sizes.minis)]
        if empty := [m for m, rows in enumerate(minis) if not rows]:
            raise RunStopped(f"arm {self.spec.name}: no episode of mini-batch {empty[0]} could be played")
        count = self.accelerator.num_processes
        length = sizes.passes * max(-(-len(rows) // (count * sizes.passes)) for rows in minis)
        tokens = [int(batch.completions.lengths[rows].sum()) for rows in minis]
        chosen, real, factors, self._weights = [], [], [], []
        cut = length // sizes.passes
        for rows, own_tokens in zip(minis, tokens, strict=True):
            own = rows[self.accelerator.process_index :: count]
            # Row i of a mini-batch is in the pass (i // count) // cut of its process.
            for number in range(sizes.passes):
                together = rows[number * cut * count : (number + 1) * cut * count]
                share = int(batch.completions.lengths[together].sum()) / own_tokens
                self._weights.append(share / (len(minis) * self.num_iterations))
            fill = length - len(own)
            # TRL averages over rows (dapo: over the tokens of all mini-batches alike), those that count or not.
            by_row = length * count / len(rows)
            by_token = sum(tokens) / len(tokens) / own_tokens
            chosen += own + [rows[0]] * fill
            real += [True] * len(own) + [False] * fill
            factors += [by_token if config.loss_type == "dapo" else by_row] * length
        return chosen, real, factors

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        step = self.state.global_step // self.updates_per_step
        batch, metrics = self._collect(step)
        self._batch = batch
        self._rows, self._real, factors = self._deal(batch)
        self._sums.clear()
        output: dict[str, Any] = super()._generate_and_score_completions([{"prompt": ""} for _ in self._rows])
        device = self.accelerator.device
        output["advantages"] = batch.advantages[self._rows].to(device)
        output["loss_factor"] = torch.tensor(factors, device=device)
        # TRL's means count the rows that fill up; these are of the whole step.
        own = self._metrics["train"]
        for name in [name for name in own if name.startswith(("reward", "completions/", "frac_reward"))]:
            del own[name]
        for name, value in metrics.items():
            own[name] = [value]
        self.watched.num_tokens += batch.num_tokens
        own["num_tokens"] = [self.watched.num_tokens]
        return output

    @staticmethod
    def _rollout(prompts: list[str], trainer: "ArmTrainer") -> dict[str, Any]:
        """TRL's ``rollout_func``: the rows that were dealt to this process."""
        batch = trainer._batch
        assert batch is not None
        prompt_ids = [list(batch.prompts[row]) for row in trainer._rows]
        lengths = batch.completions.lengths[trainer._rows].tolist()
        ids = [batch.completions.ids[row, :n].tolist() for row, n in zip(trainer._rows, lengths, strict=True)]
        known = trainer._logps
        logps = [known[tuple(p), tuple(c)] for p, c in zip(prompt_ids, ids, strict=True)] if known else None
        result: dict[str, Any] = {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": logps}
        if not all(trainer._real):
            result["env_mask"] = [[int(real)] * n for real, n in zip(trainer._real, lengths, strict=True)]
        return result

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        # Advantages come with the rollouts; TRL only sees that there are rewards.
        return torch.zeros(self.num_generations, 1, device=self.accelerator.device)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's buffer of a step's rows without its shuffle, which would mix the mini-batches."""
        passes = self.args.steps_per_generation
        if self._step % (passes * self.num_iterations) == 0 or self._buffered_inputs is None:
            whole = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = [_cut(whole, number, passes) for number in range(passes)]
        inputs: dict[str, Any] = self._buffered_inputs[self._step % passes]
        return inputs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs) * inputs["loss_factor"][0]
        # TRL averages its means over passes; here each pass weighs as many tokens as it has.
        own, weight = self._metrics["train"], self._weights[self._step % self.args.steps_per_generation]
        for name in MEANS:
            if name in own:
                self._sums[name] += weight * own[name][-1]
                own[name] = [self._sums[name]]
        if not torch.isfinite(loss):
            raise RunStopped(f"arm {self.spec.name}: the loss is not finite; lower learning_rate")
        return loss

    # --- the optimizer, as the built-in engine has it

    def get_decay_parameter_names(self, *args: Any, **kwargs: Any) -> list[str]:
        """All trained tensors decay."""
        return list(self.spec.rates)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The built-in engine's learning rate of every update."""
        settings = self.settings
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda update: settings.rate_at(update) / settings.learning_rate
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


def _no_reward(completions: list[Any], **columns: Any) -> list[float]:
    """TRL wants a reward function; rewards come with the rollouts."""
    return [0.0] * len(completions)


def _cut(batch: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """Part ``number`` of ``count`` equal parts of a batch's rows; what has no rows stays whole."""
    rows = len(batch["advantages"]) // count
    return {
        name: value if value is None or value.ndim == 0 else value[number * rows : (number + 1) * rows]
        for name, value in batch.items()
    }


def _completions(written: Sequence[Sequence[int]], stops: Sequence[int]) -> Completions:
    longest = max(map(len, written))
    ids = torch.zeros(len(written), longest, dtype=torch.int64)
    for row, tokens in enumerate(written):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    lengths = torch.tensor([len(tokens) for tokens in written])
    return Completions(ids, lengths, torch.tensor([tokens[-1] not in stops for tokens in written]))


def _refuse_unkeyed(trainer: ArmTrainer, task: Task, data: EncodedSplit, score: Any) -> None:
    """What goes only with completions that each process writes by itself."""
    if any(problem.stop for problem in data.problems):
        raise UserError(
            f"task '{task.name}' ends completions at texts, which the TRL engine does only without vLLM and FSDP"
        )
    if score is not None and trainer.is_fsdp_enabled:
        raise UserError("option eval_steps: under FSDP the policy cannot be scored during the run; set eval_steps to 0")
    together = (
        trainer.rollouts == "transformers" or trainer.vllm_mode == "server" or trainer.vllm_tensor_parallel_size > 1
    )
    if way_of(task).rows_of_episode(task) > 1 and together and trainer.accelerator.num_processes > 1:
        raise UserError(
            f"task '{task.name}' is played in turns, and processes that generate together would wait for each other; "
            "take use_vllm with vllm_mode colocate and vllm_tensor_parallel_size 1, or one process"
        )
