"""The model: which, where, in which type."""

from typing import Literal

from pydantic import Field

from onelayer.config.base import Config


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
