"""Which options only some tasks read: given with another task they are refused, not ignored."""

from onelayer.config.configs import TrainConfig
from onelayer.errors import UserError

OWN = "problems of your own (--dataset)"
SETS = "training sets"
TURNS = "tasks that are played in turns (household, alfworld)"
WORKERS = "the task alfworld"
"""Its environments run in processes of their own."""
KINDS = {"household": (TURNS,), "alfworld": (TURNS, WORKERS)}
"""Bundled tasks that read more than the common options."""
READERS = {
    "prompt_column": (OWN,),
    "test_size": (OWN,),
    "selection_size": (OWN, SETS),
    "benchmarks": (SETS,),
    "data_files": (SETS,),
    "train_size": (SETS,),
    "data_seed": (SETS,),
    "overlap_ngram": (SETS,),
    "chat": (SETS, TURNS),
    "history_length": (TURNS,),
    "max_env_steps": (TURNS,),
    "invalid_action_penalty_coef": (TURNS,),
    "env_workers": (WORKERS,),
    "env_timeout": (WORKERS,),
}


def refuse_unread(config: TrainConfig, *, training_set: bool) -> None:
    """Refuse an option that differs from its default and that the task would not read.

    Raises:
        UserError: naming the option and what it is for.
    """
    if config.task is None:
        kinds: tuple[str, ...] = (OWN,)
    else:
        kinds = (SETS,) if training_set else KINDS.get(config.task, ())
    for name, readers in READERS.items():
        changed = getattr(config, name) != TrainConfig.model_fields[name].default
        if changed and not set(kinds) & set(readers):
            told = f"task '{config.task}'" if config.task else "--dataset"
            raise UserError(f"option {name} is for {' and '.join(readers)}; {told} does not read it, so leave it out")
