"""The task: which problems, which reward."""

from pydantic import Field

from onelayer.config.base import Config


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
