"""What all configurations share."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """No unknown keys, no change after creation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
