"""Arms that TRL trains, one after the other."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from onelayer.arms.arm import Arm, adamw
from onelayer.arms.delta_files import as_weights
from onelayer.arms.spec import ArmSpec, optimizer_settings
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl.arm import Trained
from onelayer.engines.trl.completions import Written, write_completions
from onelayer.engines.trl.options import check_options
from onelayer.engines.trl.processes import Together
from onelayer.errors import RunStopped
from onelayer.models.base import BaseModel
from onelayer.runs.events import Stepped
from onelayer.runs.run import Run
from onelayer.runs.scoring import Policy, score_arms, score_base
from onelayer.runs.sets import free_memory, plan_sets
from onelayer.tasks.base import Split
from onelayer.training.loop import Record
from onelayer.training.way import Evaluated


class TrlRunner:
    """Trains and scores with all processes; see `onelayer.runs.run.Runner`. Files are the main process's."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._about: dict[str, Any] = {}

    def about(self) -> Mapping[str, Any]:
        """The processes, how tokens were drawn, and TRL's options."""
        return self._about

    def plan_sets(self, run: Run, specs: Sequence[ArmSpec]) -> list[list[str]]:
        """Names only: arms train one after the other."""
        return plan_sets(run.base, specs, getattr(run.config, "arms_per_set", 0), free_memory(run.base))

    def score_base(self, run: Run) -> None:
        """Score the base."""
        for event in score_base(run.scorer("base", self._evaluate)):
            run.keeper.take(event)

    def run_sets(self, run: Run, sets: Mapping[int, Sequence[ArmSpec]], until: int) -> None:
        """One arm after the other, each to its end."""
        for number, specs in sets.items():
            # TRL's own state is not kept: an arm that was not done begins anew.
            run.folder.checkpoints(number, run.config.save_total_limit).drop()
            for spec in specs:
                self._train(run, number, spec)

    def _train(self, run: Run, number: int, spec: ArmSpec) -> None:
        under_way = run.set_out(number, [spec], run.config.steps)

        def on_record(record: Record) -> None:
            run.keeper.take(Stepped(record["step"], [(spec.name, record)]), under_way)

        def on_completions(step: int, written: Written) -> None:
            write_completions(run.folder.arm(spec.name) / "completions", step, written)

        trained = self._together.train(spec, on_record, on_completions)
        run.keeper.base = self._together.base
        if trained.stopped and len(run.folder.manifest.arms) == 1:
            raise RunStopped(f"training stopped after {trained.updates} updates: {trained.stopped}")
        arm = finished_arm(run.base, spec, trained, optimizer_settings(spec, run.config))
        arm.check_moved(run.base)
        self._about = self._of(run.config, trained)
        for event in score_arms(run.scorer(number, self._evaluate), [arm], trained.seconds):
            run.keeper.take(event)
        run.arrive(under_way)

    def _evaluate(self, split: Split, policies: Sequence[Policy]) -> list[Evaluated]:
        """Score the base, or the arm that was trained last."""
        return [self._together.score(split, trained=bool(policy)) for policy in policies]

    def _of(self, config: TrainConfig, trained: Trained) -> dict[str, Any]:
        processes = self._together.num_processes
        options = json.loads(json.dumps(check_options(config, processes), default=str))
        return {"processes": processes, "rollouts": trained.rollouts, "engine_options": options}


def finished_arm(base: BaseModel, spec: ArmSpec, trained: Trained, settings: Any) -> Arm:
    """A trained arm as the built-in engine would leave it."""
    masters = {name: tensor.requires_grad_(False) for name, tensor in trained.delta.items()}
    return Arm(
        spec.name,
        spec.plan,
        spec.seed,
        dict(spec.rates),
        masters,
        as_weights(masters, base),
        adamw(masters, spec.rates, settings),
        settings,
        updates=trained.updates,
        num_tokens=trained.num_tokens,
        stopped=trained.stopped,
        layer=spec.layer,
        kind=spec.kind,
        effective=trained.effective,
        first_gradient_norms=trained.first_gradient_norms,
    )
