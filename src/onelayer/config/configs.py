"""One typed configuration per command. Every field's description is its ``--help``; unknown keys are errors.

Where values come from is in config_sources.py. Names are TRL's where TRL has the option; the two batch sizes are verl's,
counted in prompts.
"""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from onelayer.config.algorithm import ALGORITHM_SETTINGS, GIGPO_DEFAULTS, Algorithm, contradiction
from onelayer.config.engine import EngineConfig, misfit


class Config(BaseModel):
    """What all configurations share: no unknown keys, no change after creation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Config):
    """Which model, where."""

    model: str = Field("", description="hub name, local folder, or bundled:NAME")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="type of the frozen weights; auto is float32 on a CPU, else the checkpoint's"
    )
    device: str = Field("auto", description="cpu, cuda, mps; auto takes what is there")
    threads: int = Field(
        0, ge=0, description="CPU threads; 0 is OMP_NUM_THREADS, else 1 for models under 20M parameters"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")


class TaskConfig(Config):
    """Which problems, which reward."""

    task: str | None = Field(None, description="a bundled task, a training set or its FILE.yaml; needs no --dataset")
    dataset: str | None = Field(None, description="own problems: FILE.jsonl, FILE.parquet or a hub name")
    reward: str | None = Field(None, description="own reward: FILE.py:function, with TRL's signature")
    prompt_column: str = Field("prompt", description="column of --dataset that holds the prompt (text or messages)")
    selection_size: int = Field(200, ge=1, description="problems of --dataset or a training set kept for choosing")
    test_size: int = Field(500, ge=2, description="problems of --dataset kept for reported scores")
    benchmarks: str | None = Field(
        None, description="benchmarks that score a training set, comma-separated; by default those of its domain"
    )
    data_files: str | None = Field(
        None, description="local files in place of the hub: NAME=FILE,... with names of the training set and benchmarks"
    )
    chat: bool = Field(False, description="send the prompts of a training set and its benchmarks as chat messages")
    train_size: int | None = Field(None, ge=1, description="rows drawn from a training set; by default what it says")
    data_seed: int = Field(0, ge=0, description="seed of that draw, the same for all arms")
    overlap_ngram: int = Field(
        13,
        ge=0,
        description="drop rows of a training set with so many words in a row of a benchmark problem; 0 keeps all",
    )
    require_sandbox: bool = Field(
        False, description="tasks that run programs: refuse unless every protection of the sandbox holds"
    )
    max_prompt_length: int = Field(512, ge=1, description="longer prompts (in tokens) are left out and counted")
    history_length: int = Field(2, ge=0, description="tasks played in turns: past turns that a prompt shows")
    max_env_steps: int | None = Field(
        None, ge=1, description="tasks played in turns: most steps of an episode; by default the environment's own"
    )
    env_workers: int = Field(2, ge=1, description="processes that run the environments of a task that needs some")
    env_timeout: float = Field(60.0, gt=0, description="seconds after which such an environment counts as hanging")


class RewardConfig(Config):
    """How patient a run is with its reward."""

    reward_timeout: float = Field(
        3600.0, ge=0, description="seconds after which a reward that has not returned ends the run; 0 waits for ever"
    )
    reward_retries: int = Field(
        2, ge=0, description="tries after the first when a reward fails as networks and files do (OSError)"
    )


class EvalConfig(RewardConfig):
    """How a policy is scored."""

    max_completion_length: int = Field(1024, ge=1, description="tokens after which a completion is cut")
    eval_num_samples: int | None = Field(
        None, ge=1, description="samples a problem when scoring (avg@k); by default what a benchmark says, else 1"
    )
    eval_temperature: float | None = Field(
        None, ge=0, description="temperature when scoring, 0 is greedy; by default what a benchmark says, else 0"
    )
    eval_seed: int = Field(0, ge=0, description="seed of the sampling keys when scoring, the same for all arms")
    max_rows: int = Field(512, ge=8, description="most rows in one forward pass of sampling")


class TrainConfig(EngineConfig, EvalConfig, TaskConfig, ModelConfig):
    """One arm: what trains and how."""

    layers: str = Field("all", description="layer plan: all, 14, 9-13, mid:5, 14.attn, all,9-13*2 (see onelayer plan)")
    output: str | None = Field(None, description="folder for the results; by default a new one under runs/")
    seed: int = Field(0, ge=0, description="training seed: order of prompts and sampling")
    resume: bool = Field(False, description="continue the run in --output")

    algorithm: Algorithm = Field(
        "grpo", description="the RL algorithm; it sets the options that make it up, where they are not set as well"
    )
    steps: int = Field(100, ge=1, description="training steps (one batch of prompts each)")
    train_batch_size: int = Field(128, ge=1, description="prompts a step (verl's train_batch_size)")
    mini_batch_size: int = Field(
        0, ge=0, description="prompts an update (verl's ppo_mini_batch_size); 0 is all of a step"
    )
    num_generations: int = Field(8, ge=2, description="completions a prompt: the group")
    num_iterations: int = Field(1, ge=1, description="passes over a step's completions (mu in GRPO)")
    micro_batch_size: int = Field(16, ge=1, description="rows of one backward pass; gradients are summed in fp32")
    micro_batch_tokens: int = Field(
        16384, ge=1, description="padded tokens of one backward pass; rows of similar length go together"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep only the inputs of the layers above the lowest trained one, and compute the rest again"
    )
    trunk_memory: int = Field(
        256,
        ge=0,
        description="MB of hidden states that an arm may keep from sampling for its update; else computed anew",
    )
    logprob_chunk: int = Field(
        1024, ge=1, description="most tokens whose logits exist at one time; 128 MiB of them at most"
    )

    learning_rate: float = Field(1e-6, gt=0, description="AdamW's rate, before a plan's multipliers")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field("constant", description="shape after warm-up")
    warmup_steps: int = Field(0, ge=0, description="updates of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay, on all trained tensors")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first beta")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second beta")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 does not clip")

    beta: float = Field(0.0, ge=0, description="coefficient of the KL to the base (k3 estimate)")
    epsilon: float = Field(0.2, gt=0, description="clip range of the ratio")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range, if not epsilon (DAPO's clip-higher)")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "grpo",
        description="token average: grpo per completion, dapo over all tokens (verl's default), dr_grpo constant",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="whose std divides advantages")
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="whose ratio is clipped: each token's, or one for a completion (GSPO)"
    )
    advantage_epsilon: float = Field(1e-4, ge=0, description="added to that std (TRL 1e-4, verl 1e-6)")
    unbiased_std: bool = Field(True, description="divide by n-1 in that std (TRL and verl do)")

    invalid_action_penalty_coef: float = Field(
        0.1, ge=0, description="tasks played in turns: reward that an action costs which the environment does not know"
    )
    gamma: float = Field(GIGPO_DEFAULTS["gamma"], ge=0, le=1, description="GiGPO: discount of later rewards")
    step_advantage_w: float = Field(
        GIGPO_DEFAULTS["step_advantage_w"], ge=0, description="GiGPO: weight of step advantages; 0 is GRPO on episodes"
    )
    gigpo_mode: Literal["mean_std_norm", "mean_norm"] = Field(
        GIGPO_DEFAULTS["gigpo_mode"], description="GiGPO: divide advantages by the deviation or not"
    )
    similarity_thresh: float | None = Field(
        GIGPO_DEFAULTS["similarity_thresh"], gt=0, lt=1, description="GiGPO: group observations that are so similar"
    )
    episode_statistics: Literal["trajectory", "step"] = Field(
        GIGPO_DEFAULTS["episode_statistics"],
        description="GiGPO: count each episode once (paper) or once per step (verl-agent) in means and deviations",
    )
    group_of_one: Literal["zero", "return"] = Field(
        GIGPO_DEFAULTS["group_of_one"], description="GiGPO: advantage of an episode without others in its group"
    )
    penalty_placement: Literal["reward", "row"] = Field(
        GIGPO_DEFAULTS["penalty_placement"],
        description="GiGPO: take penalties off the turn's reward, or off that row alone (verl-agent)",
    )

    temperature: float = Field(1.0, gt=0, description="sampling temperature while training")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling while training")
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens while training; 0 keeps all")

    eval_steps: int = Field(0, ge=0, description="score the selection problems every so many steps; 0 never")
    save_steps: int = Field(50, ge=1, description="write a checkpoint every so many steps")
    save_total_limit: int = Field(
        2, ge=1, description="checkpoints that are kept of a set of arms: the newest, and those before it"
    )
    grace_seconds: float = Field(
        20.0, ge=0, description="seconds that a step may still take after Ctrl-C or SIGTERM; 0 stops at once"
    )
    stop_after: int = Field(20, ge=1, description="stop an arm when a guard has tripped for so many steps in a row")
    max_skipped_steps: int = Field(
        3, ge=1, description="guard: stop an arm after so many steps in a row with an update that was not finite"
    )
    max_kl: float = Field(
        10.0, ge=0, description="guard: most nats a token from the base (with beta > 0); 0 is no limit"
    )
    min_entropy: float = Field(1e-4, ge=0, description="guard: least nats a token; 0 is no limit")
    max_zero_std: float = Field(
        1.0, gt=0, description="guard: share of prompts whose completions all got one reward; over 1 is no limit"
    )
    max_clipped_ratio: float = Field(
        0.95, ge=0, le=1, description="guard: share of completions that were cut off; 1 is no limit"
    )
    max_reward_share: float = Field(
        0.5, ge=0, le=1, description="guard: warn when the reward takes a larger share of the time; 1 is no limit"
    )
    report_to: str = Field("none", description="also log to tensorboard, wandb, trackio (comma-separated)")
    stop_at: int = Field(0, ge=0, description="pause the run after this step; --resume goes on; 0 runs to the end")

    @property
    def trunk_bytes(self) -> int:
        """``trunk_memory`` in bytes."""
        return self.trunk_memory * 10**6

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of one step: 512 prompts in mini-batches of 128 make 4, times ``num_iterations``."""
        mini = self.mini_batch_size or self.train_batch_size
        return -(-self.train_batch_size // mini) * self.num_iterations

    @model_validator(mode="before")
    @classmethod
    def _of_algorithm(cls, values: Any) -> Any:
        return {**ALGORITHM_SETTINGS.get(str(values.get("algorithm", "grpo")), {}), **values}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.task is None) == (self.dataset is None):
            raise ValueError("give either --task or --dataset")
        if (self.dataset is None) != (self.reward is None):
            raise ValueError("--dataset and --reward go together")
        if not self.model:
            raise ValueError("--model is missing; give a hub name, a folder or bundled:NAME")
        if self.mini_batch_size > self.train_batch_size:
            raise ValueError("mini_batch_size is larger than train_batch_size; both are counted in prompts")
        if reason := contradiction(vars(self)) or misfit(self):
            raise ValueError(reason)
        return self


RATES = "auto:"


class ScanConfig(TrainConfig):
    """A scan: the full arm, every chosen layer alone, and what is asked for besides."""

    layers: str = Field("all", description="which layers get an arm: all, 0,4,8 or every:4")
    seeds: int = Field(1, ge=1, description="training seeds of every arm, counted up from --seed")
    arms_per_set: int = Field(0, ge=0, description="arms that advance side by side; 0 is as many as memory allows")
    learning_rate: str | float = Field(  # type: ignore[assignment]
        1e-6, description="AdamW's rate; auto:1e-6,3e-6,1e-5 takes the best for the full arm on the selection problems"
    )
    search: Literal["none", "halving", "coarse"] = Field(
        "none", description="look for good layers instead of training all: a partial profile for a part of the cost"
    )
    rungs: int = Field(3, ge=1, description="halving: rungs at 1/2, 1/4, ... of the steps; half of the layers drop out")
    stride: int = Field(0, ge=0, description="coarse: distance of the first layers; 0 is a sixth of the depth")
    strategies: bool = Field(False, description="also train Only best-k, Boost best-k, the worst-k controls and Mid-k")
    strategy_k: str = Field("", description="their k, comma-separated; by default a sixth of the layers (at least 2)")
    pairs: int = Field(0, ge=0, description="also train every pair of the N best layers together: is C additive?")
    leave_one_out: bool = Field(False, description="also train everything but layer k, for every scanned k")
    lr_check: bool = Field(False, description="also train the best and worst k layers alone at 3 times the rate")
    sublayers: bool = Field(False, description="also train attention, MLP and norms of the best layer alone")
    also: str = Field("", description="further plans to train, separated by semicolons: mid:2;14.attn;random:2@0")

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _rate_or_rates(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith(RATES):
            rates = [float(rate) for rate in value.removeprefix(RATES).split(",")]
            if len(rates) < 2 or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
                raise ValueError("auto: takes two or more different positive rates, for example auto:1e-6,3e-6,1e-5")
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("a learning rate is a number, or auto: and several")
        rate = float(value)
        if not 0 < rate < math.inf:
            raise ValueError("a learning rate is above 0")
        return rate

    @field_validator("strategy_k")
    @classmethod
    def _numbers(cls, value: str) -> str:
        if not all(piece.strip().isdecimal() and int(piece) > 0 for piece in value.split(",") if value):
            raise ValueError("write one or several numbers of layers, for example 5,10")
        return value


class BenchmarkConfig(RewardConfig, ModelConfig):
    """A model or a delta on benchmarks. Settings that are not given are each benchmark's own."""

    delta: str | None = Field(
        None, description="delta.safetensors or its folder, put on the model for the time of scoring"
    )
    scan: str | None = Field(
        None, description="folder of a scan: score its base and all its arms, and judge the layers on the benchmarks"
    )
    benchmarks: str | None = Field(None, description="comma-separated: bundled names or FILE.yaml")
    harness: str | None = Field(
        None, description="tasks of the lm-evaluation-harness, comma-separated, NAME or NAME:Category"
    )
    harness_tasks: str | None = Field(None, description="folder with harness tasks of one's own")
    data_files: str | None = Field(None, description="local files in place of the hub: NAME=FILE,NAME=FILE")
    chat: bool = Field(False, description="send prompts as chat messages, through the model's chat template")
    require_sandbox: bool = Field(
        False, description="benchmarks that run programs: refuse unless every protection of the sandbox holds"
    )
    limit: int | None = Field(None, ge=1, description="only the first problems of each benchmark")
    max_prompt_length: int = Field(4096, ge=1, description="longer prompts (in tokens) are left out and counted")
    max_completion_length: int | None = Field(None, ge=1, description="tokens after which a completion is cut")
    eval_num_samples: int | None = Field(None, ge=1, description="completions of each problem: k of avg@k")
    eval_temperature: float | None = Field(None, ge=0, description="sampling temperature; 0 is greedy")
    eval_seed: int = Field(0, ge=0, description="seed of the sampling keys")
    max_rows: int = Field(512, ge=8, description="most rows in one forward pass of sampling")
    output: str | None = Field(None, description="folder for the results; by default a new one under runs/")
    resume: bool = Field(False, description="continue in --output: benchmarks that are scored there are not again")

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not (self.benchmarks or self.harness):
            raise ValueError("give --benchmarks or --harness")
        if not (self.model or self.delta or self.scan):
            raise ValueError("give --model, --delta or --scan")
        if self.delta and self.scan:
            raise ValueError("give either --delta or --scan")
        if self.resume and not self.output:
            raise ValueError("--resume needs --output: the folder to continue in")
        return self
