"""One typed configuration per command, put together from those of their owners: a flat list of options.

Every field's description is its ``--help``; unknown keys are errors. Where values come from is in sources.py. Names are
TRL's where TRL has the option; the two batch sizes are verl's, counted in prompts.
"""

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from onelayer.config.engine import EngineConfig, misfit
from onelayer.config.model import ModelConfig
from onelayer.config.optimizer import OptimizerConfig
from onelayer.config.run import GuardConfig, RunConfig
from onelayer.config.sampling import EvalConfig, RewardConfig
from onelayer.config.task import TaskConfig
from onelayer.config.update import StepConfig


class TrainConfig(
    EngineConfig, GuardConfig, OptimizerConfig, StepConfig, EvalConfig, RunConfig, TaskConfig, ModelConfig
):
    """One arm: what trains and how."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.task is None) == (self.dataset is None):
            raise ValueError("give either --task or --dataset")
        if (self.dataset is None) != (self.reward is None):
            raise ValueError("--dataset and --reward go together")
        if not self.model:
            raise ValueError("--model is missing; give a hub name, a folder or bundled:NAME")
        if reason := misfit(self):
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
