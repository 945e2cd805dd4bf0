"""A run whose arms TRL trains, one after the other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from onelayer.arm import Arm, adamw, as_weights
from onelayer.engines.together import Together
from onelayer.engines.trl_arm import Trained
from onelayer.engines.trl_options import check_options
from onelayer.episodes import Played
from onelayer.errors import RunStopped
from onelayer.loop import Record
from onelayer.model import BaseModel
from onelayer.run import Run
from onelayer.scores import ArmScores
from onelayer.specs import ArmSpec, optimizer_settings
from onelayer.tasks.base import Split


@dataclass
class TrlRun(Run):
    """Trains and scores with all processes; files are the main one's."""

    together: Together = field(kw_only=True)
    _trained: Trained | None = None

    def _train_set(self, number: int, specs: Sequence[ArmSpec], until: int) -> None:
        for spec in specs:
            self._train_one(number, spec)

    def _train_one(self, number: int, spec: ArmSpec) -> None:
        settings = optimizer_settings(spec, self.config)
        seat = Arm(spec.name, spec.plan, spec.seed, dict(spec.rates), {}, {}, None, settings)  # type: ignore[arg-type]
        # TRL's own state is not kept: an arm that was not done begins anew.
        start, _, _ = self.folder.checkpoints(number, self.config.save_total_limit).load([seat])
        self.progress.start_set([seat], start)

        def on_record(record: Record) -> None:
            seat.stopped = record.get("stopped")
            self._record(record["step"], [(seat, record)])

        self._trained = trained = self.together.train(spec, on_record)
        self.base = self.together.base
        if trained.stopped and len(self.folder.manifest["arms"]) == 1:
            raise RunStopped(f"training stopped after {trained.updates} updates: {trained.stopped}")
        arm = finished_arm(self.base, spec, trained, settings)
        arm.check_moved(self.base)
        self.progress.note(f"scoring {arm.name}")
        ((test, about_test),) = self._test(number, [arm.name], [arm.weights])
        (selection,) = self._evaluate(number, "selection", [arm.weights])
        self._finish(arm, trained.seconds, test, about_test, selection.score)
        self.progress.end_set([seat])

    def _evaluate(self, place: int | str, split: Split, policies: Sequence[Mapping[str, Any]]) -> list[ArmScores]:
        return [self.together.score(split, trained=bool(policy)).scores for policy in policies]

    def _played(self, place: int | str, tensors: Mapping[str, Tensor]) -> Played:
        return self.together.score("test", trained=bool(tensors))

    def _about_engine(self) -> dict[str, Any]:
        assert self._trained is not None
        return {
            **super()._about_engine(),
            "processes": self.together.num_processes,
            "rollouts": self._trained.rollouts,
            "engine_options": json.loads(
                json.dumps(check_options(self.config, self.together.num_processes), default=str)
            ),
        }


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
