"""Guards: each at its threshold and one step before, in the metrics, in the report; rewards that are slow or fail."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from onelayer.arms.spec import create_arm, spec_of
from onelayer.errors import GuardTripped, RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.report.page import write_report
from onelayer.runs.inputs import load_splits
from onelayer.runs.open_run import open_run
from onelayer.training import loop
from onelayer.training import reward_deadline as patience
from onelayer.training.guards import GUARDS, watch
from onelayer.training.reward_deadline import Patience
from onelayer.training.update import update
from tests.conftest import DigitTask
from tests.support.runs import config_of, run_in, training_of

CALM = {
    "reward": 0.5,
    "skipped_updates": 0,
    "kl": 0.1,
    "entropy": 0.7,
    "frac_reward_zero_std": 0.2,
    "completions/clipped_ratio": 0.1,
    "reward_share": 0.1,
    "reward_failures": 0,
}


@pytest.mark.parametrize(
    ("metric", "calm", "crossing", "says", "steps"),
    [
        ("skipped_updates", 0, 1, "not finite for 2 steps in a row", 2),
        ("kl", 10.0, 10.1, r"over max_kl = 10 nats a token for 3 steps \(now 10.1\)", 3),
        ("entropy", 1e-4, 0.9e-4, r"under min_entropy = 0.0001 nats a token for 3 steps \(now 9e-05\)", 3),
        ("frac_reward_zero_std", 0.99, 1.0, r"same reward for 3 steps \(mean reward 0.5\)", 3),
        (
            "completions/clipped_ratio",
            0.95,
            0.96,
            "over 95% of the completions were cut off at 6 tokens for 3 steps",
            3,
        ),
    ],
)
def test_a_guard_stops_its_arm_after_enough_steps_in_a_row(
    base: BaseModel, metric: str, calm: float, crossing: float, says: str, steps: int
) -> None:
    config = config_of(stop_after=3, max_skipped_steps=2)
    guard = next(guard for guard in GUARDS if guard.metric == metric)
    arm = create_arm(base, spec_of(base, "1", 0), config)
    values = [crossing] * (steps - 1) + [calm] + [crossing] * steps
    for step, value in enumerate(values):
        record: dict[str, Any] = {**CALM, metric: value}
        watch(arm, record, config)
        assert record[f"guard/{guard.name}"] == (step + 1 if step < steps - 1 else step - steps + 1)
        assert all(record[f"guard/{other.name}"] == 0 for other in GUARDS if other is not guard)
        assert (arm.stopped is None) == ("stopped" not in record) == (step < len(values) - 1)
    with pytest.raises(RuntimeError, match=f"arm layer-01: .*{says}"):
        raise RuntimeError(arm.stopped)


def test_a_limit_that_is_none_stops_nothing(base: BaseModel) -> None:
    config = config_of(stop_after=1, max_kl=0, min_entropy=0, max_zero_std=1.1, max_clipped_ratio=1, max_reward_share=1)
    arm = create_arm(base, spec_of(base, "1", 0), config)
    extreme = {"kl": 1e9, "entropy": 0.0, "frac_reward_zero_std": 1.0, "completions/clipped_ratio": 1.0}
    record: dict[str, Any] = {**CALM, **extreme, "reward_share": 1.0}
    watch(arm, record, config)
    assert arm.stopped is None and "warning" not in record


def test_a_skipped_update_changes_nothing_and_the_next_one_goes_on(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(mini_batch_size=2, beta=0.1)
    training = training_of(base, config)
    arm = create_arm(base, spec_of(base, "1", 0), config)
    loop.train_step(training, [arm], 0)
    before = {name: master.clone() for name, master in arm.masters.items()}
    moments = {name: arm.optimizer.state[master]["exp_avg"].clone() for name, master in arm.masters.items()}
    clean = arm.collect_gradients

    def poisoned() -> None:
        clean()
        for master in arm.masters.values():
            if master.grad is not None:
                master.grad[0] = torch.nan

    monkeypatch.setattr(arm, "collect_gradients", poisoned)
    (record,) = loop.train_step(training, [arm], 1)
    assert record["skipped_updates"] == 2 == arm.skipped
    assert arm.updates == 2
    assert all(torch.equal(before[name], master) for name, master in arm.masters.items())
    assert all(torch.equal(moments[n], arm.optimizer.state[m]["exp_avg"]) for n, m in arm.masters.items())
    assert json.dumps(record, allow_nan=False)
    monkeypatch.setattr(arm, "collect_gradients", clean)
    (record,) = loop.train_step(training, [arm], 2)
    assert (record["skipped_updates"], record["guard/non_finite"], arm.updates) == (0, 0, 4)


def test_means_are_over_the_updates_that_were_made(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(mini_batch_size=2, learning_rate=1e-12)
    training = training_of(base, config)
    results = []
    for poison in (False, True):
        arm = create_arm(base, spec_of(base, "1", 0), config)
        batch, _ = loop.collect(base, DigitTask(), training.train, [arm], 0, training.width(0), config)[0]
        if poison:
            batch.advantages[batch.prompt_index >= 2] = torch.nan  # the second of two mini-batches
        results.append(update(base, arm, batch, config))
    assert results[1]["skipped_updates"] == 1
    assert 0 < results[1]["grad_norm"] < 1e9
    assert results[1]["grad_norm"] != results[0]["grad_norm"]
    assert results[1]["learning_rate"] == results[0]["learning_rate"]


class Meddling(DigitTask):
    """Changes a frozen tensor of the base behind the run's back."""

    def __init__(self, base: BaseModel) -> None:
        self.base, self.calls = base, 0

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        self.calls += 1
        if self.calls == 4:
            with torch.no_grad():
                next(iter(self.base.module.parameters()))[0, 0] += 1
        return super().reward(prompts, completions, answer)


def test_frozen_tensors_that_move_end_the_run_and_are_in_metrics_and_report(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(GuardTripped, match=r"1 frozen tensors of the base have moved, the first is model\.embed"):
        run_in(folder, base, ["1"], task=Meddling(base), save_steps=1)
    rows = [json.loads(line) for line in (folder / "arms/layer-01/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["guard/frozen"] == 1
    assert "frozen tensors of the base have moved" in rows[-1]["stopped"]
    page = write_report([folder]).html.read_text()
    assert "1 frozen tensors of the base have moved" in page
    assert (
        "<td>frozen</td>" in page.replace('<td class="text">', "<td>")
        or "frozen" in page.split("What the guards saw")[1]
    )


# --- rewards


class Flaky(DigitTask):
    """Fails like a network, so often in a row at one call."""

    def __init__(self, times: int, error: type[Exception] = ConnectionError) -> None:
        self.calls, self.times, self.error = 0, times, error

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        self.calls += 1
        if 4 <= self.calls < 4 + self.times:
            raise self.error("no route to the judge")
        return super().reward(prompts, completions, answer)


def test_a_reward_that_fails_now_and_then_is_asked_again(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    folder = run_in(tmp_path / "run", base, ["1"], task=Flaky(2))
    undisturbed = run_in(tmp_path / "undisturbed", base, ["1"])
    for file in ("delta.safetensors", "scores.parquet"):
        assert (folder / "arms/layer-01" / file).read_bytes() == (undisturbed / "arms/layer-01" / file).read_bytes()
    rows = [json.loads(line) for line in (folder / "arms/layer-01/metrics.jsonl").read_text().splitlines()]
    assert [row["reward_failures"] for row in rows] == [0, 2, 0, 0]
    assert rows[1]["warning"] == "arm layer-01: the reward failed 2 times in a step before it answered"
    assert "raised ConnectionError: no route to the judge; trying again in 0 s (2 of 2)" in caplog.text
    assert "the reward failed 2 times in a step" in write_report([folder]).html.read_text()


@pytest.mark.parametrize(("task", "calls"), [(Flaky(3), 6), (Flaky(1, ValueError), 4)])
def test_a_reward_that_goes_on_failing_ends_the_run(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Flaky, calls: int
) -> None:
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    with pytest.raises(UserError, match=r"raised .*Error: no route to the judge"):
        run_in(tmp_path / "run", base, ["1"], task=task)
    assert task.calls == calls
    last = (tmp_path / "run/arms/layer-01/metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["guard/reward"] == 1


def endless() -> None:
    while True:
        time.sleep(0.01)


def in_one_call() -> None:
    time.sleep(1000)


def swallowing() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(1000)


@pytest.mark.parametrize("never_returns", [endless, in_one_call, swallowing])
def test_a_reward_that_never_returns_is_interrupted(never_returns: Any) -> None:
    began = time.monotonic()
    with pytest.raises(GuardTripped, match=r"task 't' has not returned after 0\.2 s; raise reward_timeout"):
        Patience(timeout=0.2).call("t", never_returns)
    assert time.monotonic() - began < 3
    assert Patience(timeout=5).call("t", lambda: 7) == 7


def test_what_ignores_its_interruption_ends_with_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(patience, "LAST_WAIT", 0.2)

    def stubborn() -> None:
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1000)

    child = os.fork()
    if child == 0:
        os.dup2(os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT), 2)
        Patience(timeout=0.2).call("t", stubborn)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_timeout_while_training_keeps_the_last_state(base: BaseModel, tmp_path: Path) -> None:
    class Hanging(DigitTask):
        calls = 0

        def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
            self.calls += 1
            if self.calls == 5:
                time.sleep(60)
            return super().reward(prompts, completions, answer)

    folder = tmp_path / "run"
    with pytest.raises(RunStopped, match=r"has not returned after 0\.5 s"):
        run_in(folder, base, ["1"], task=Hanging(), save_steps=1, reward_timeout=0.5)
    run_in(folder, base, ["1"], save_steps=1, resume=True)
    undisturbed = run_in(tmp_path / "undisturbed", base, ["1"])
    name = "arms/layer-01/delta.safetensors"
    assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_slow_reward_is_said_once(base: BaseModel) -> None:
    config = config_of(stop_after=2)
    arm = create_arm(base, spec_of(base, "1", 0), config)
    said = []
    for _ in range(5):
        record: dict[str, Any] = {**CALM, "reward_share": 0.75}
        watch(arm, record, config)
        said.append(record.get("warning"))
    assert said == [None, "arm layer-01: the reward took over 50% of the time for 2 steps (now 75%)", None, None, None]


def test_a_page_that_cannot_be_written_does_not_end_the_training(base: BaseModel, tmp_path: Path) -> None:
    from rich.console import Console

    def page() -> None:
        raise UserError("metrics.jsonl is not valid JSON")

    config, data = config_of(), load_splits(base, DigitTask(), config_of())
    console = Console(record=True, width=300, file=(tmp_path / "out").open("w"))
    with open_run(base, DigitTask(), data, config, [0], tmp_path / "run", console, write_page=page) as run:
        run.train([spec_of(base, "1", 0)])
    assert console.export_text().count("metrics.jsonl is not valid JSON; the page is not written any more") == 1
