"""A run whose arms TRL trains, one after the other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onelayer.arm import Arm, adamw
from onelayer.delta_files import as_weights
from onelayer.engines.together import Together
from onelayer.engines.trl_arm import Trained
from onelayer.engines.trl_completions import Written, write_completions
from onelayer.engines.trl_options import check_options
from onelayer.episodes import Played
from onelayer.errors import RunStopped
from onelayer.events import Stepped
from onelayer.loop import Record
from onelayer.model import BaseModel
from onelayer.out_of_memory import Place
from onelayer.run import Run
from onelayer.scores import ArmScores
from onelayer.scoring import Policy, Scorer, Telling, score_arms
from onelayer.specs import ArmSpec, optimizer_settings
from onelayer.tasks.base import Split


@dataclass
class TogetherScorer(Scorer):
    """Scores the base, or the arm that was trained last, with all processes."""

    together: Together = field(kw_only=True)

    def scores(self, split: Split, policies: Sequence[Policy]) -> Telling[list[ArmScores]]:
        """Score policies on a split."""
        yield from ()
        return [self.together.score(split, trained=bool(policy)).scores for policy in policies]

    def played(self, policy: Policy) -> Telling[Played]:
        """Let a policy play the test episodes."""
        yield from ()
        return self.together.score("test", trained=bool(policy))


@dataclass
class TrlRun(Run):
    """Trains and scores with all processes; files are the main one's."""

    together: Together = field(kw_only=True)
    _trained: Trained | None = None

    def _scorer(self, place: Place) -> Scorer:
        return TogetherScorer(self.base, self.task, self.data, self.config, place, [], together=self.together)

    def _train_set(self, number: int, specs: Sequence[ArmSpec], until: int) -> None:
        # TRL's own state is not kept: an arm that was not done begins anew.
        self.folder.checkpoints(number, self.config.save_total_limit).drop()
        for spec in specs:
            self._train_one(number, spec)

    def _train_one(self, number: int, spec: ArmSpec) -> None:
        course = self.set_out(number, [spec], self.config.steps)

        def on_record(record: Record) -> None:
            self.take(Stepped(record["step"], [(spec.name, record)]), course)

        def on_completions(step: int, written: Written) -> None:
            write_completions(self.folder.arm(spec.name) / "completions", step, written)

        self._trained = trained = self.together.train(spec, on_record, on_completions)
        self.base = self.together.base
        if trained.stopped and len(self.folder.manifest["arms"]) == 1:
            raise RunStopped(f"training stopped after {trained.updates} updates: {trained.stopped}")
        arm = finished_arm(self.base, spec, trained, optimizer_settings(spec, self.config))
        arm.check_moved(self.base)
        for event in score_arms(self._scorer(number), [arm], trained.seconds):
            self.take(event)
        self.arrive(course)

    def about_engine(self) -> dict[str, Any]:
        """Also the processes, how tokens were drawn, and TRL's options."""
        assert self._trained is not None
        return {
            **super().about_engine(),
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
