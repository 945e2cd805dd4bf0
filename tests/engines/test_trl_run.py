"""``--engine trl``: the same arms as the built-in engine's, in one process and in two, and what a scan makes of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import PartialState
from safetensors.torch import load_file

from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl.arm import ArmTrainer, train_arm
from onelayer.engines.trl.completions import Written, show_completions
from onelayer.engines.trl.options import update_sizes
from onelayer.engines.trl.processes import Together, in_problem_order
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.report.judge_scan import judge_scan
from onelayer.runs.inputs import load_splits
from onelayer.storage.scores import read_scores
from onelayer.tasks.base import Task
from onelayer.tasks.household import household_task
from onelayer.training.loop import Training, train_step
from onelayer.training.prompts import EncodedSplit
from onelayer.training.rollout import evaluate
from tests.conftest import Command, DigitTask
from tests.support.episodes import game
from tests.support.resuming import TIMES
from tests.support.threads import TELLS_ITS_THREADS, threads_at_the_end

PartialState(cpu=True)
TINY: dict[str, Any] = {
    "model": "x",
    "task": "arithmetic",
    "engine": "trl",
    "steps": 2,
    "train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-3,
    "micro_batch_size": 8,
    "eval_steps": 0,
}


def trained_by_both(base: BaseModel, task: Task, plan: str, /, **changes: Any) -> tuple[list[Any], list[Any], float]:
    """The records of both engines, and the largest difference between their deltas."""
    config = TrainConfig(**{**TINY, "layers": plan, **changes})
    splits = load_splits(base, task, config)
    spec = spec_of(base, plan, 0)
    training = Training(base, task, splits["train"], splits["selection"], config, (0,))
    arm = create_arm(base, spec, config)
    local = [train_step(training, [arm], step)[0] for step in range(config.steps)]
    records: list[Any] = []
    trained = train_arm(load_base(base.name, dtype=base.dtype), spec, task, splits["train"], config, records.append)
    assert trained.delta.keys() == arm.masters.keys()
    assert (trained.updates, trained.num_tokens, trained.rollouts) == (arm.updates, arm.num_tokens, "keyed")
    assert trained.first_gradient_norms == pytest.approx(arm.first_gradient_norms, rel=1e-3, abs=1e-6)
    difference = max(float((trained.delta[name] - master.detach()).abs().max()) for name, master in arm.masters.items())
    return local, records, difference


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        (
            "1,3.mlp*0.5",
            {"algorithm": "dr_grpo", "warmup_steps": 2, "weight_decay": 0.1, "lr_scheduler_type": "cosine"},
        ),
        ("all", {"loss_type": "dapo", "beta": 0.1, "mini_batch_size": 2, "num_iterations": 2, "micro_batch_size": 3}),
        ("2", {"algorithm": "gspo", "num_iterations": 2, "max_grad_norm": 0.0}),
        ("2", {"algorithm": "rloo", "mini_batch_size": 3}),
    ],
)
def test_an_arm_is_what_the_built_in_engine_makes_it(base: BaseModel, plan: str, changes: dict[str, Any]) -> None:
    """Same prompts, draws, rewards, advantages, losses, rates and clipping: only the rounding differs."""
    local, records, difference = trained_by_both(base, DigitTask(), plan, **changes)
    # A tensor moves by about the learning rate, 1e-3, in every update.
    assert difference < 2e-5
    for ours, theirs in zip(local, records, strict=True):
        shared = {"reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "loss", "entropy"}
        shared |= {"grad_norm", "learning_rate", "num_tokens"} | ({"kl"} & ours.keys())
        # With one ratio a completion TRL counts completions, and the built-in engine tokens.
        shared |= {"clip_ratio/region_mean"} if changes.get("algorithm") != "gspo" else set()
        assert {name: theirs[name] for name in shared} == pytest.approx(
            {name: ours[name] for name in shared}, rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize("algorithm", ["gigpo", "grpo"])
def test_a_task_played_in_turns(base: BaseModel, algorithm: str) -> None:
    """Rows are turns, and their number differs: rows that fill up count for nothing."""
    changes = {"algorithm": algorithm, "beta": 0.1, "mini_batch_size": 2, "max_prompt_length": 80}
    local, records, difference = trained_by_both(base, game(), "2", max_completion_length=2, **changes)
    assert difference < 2e-5
    names = ("reward", "episode/length", "episode/success_rate", "grad_norm", "kl")
    for ours, theirs in zip(local, records, strict=True):
        assert {n: theirs[n] for n in names} == pytest.approx({n: ours[n] for n in names}, rel=1e-3, abs=1e-6)


def test_gigpo_on_the_household_task() -> None:
    """The bundled model and task as their preset has them, in a smaller step."""
    base = load_base("bundled:qwen3-household")
    settings = {"task": "household", "algorithm": "gigpo", "max_prompt_length": 64, "max_completion_length": 4}
    config = TrainConfig(**{**TINY, **settings})
    local, records, difference = trained_by_both(
        base, household_task(config), "mid:2", **settings, steps=1, micro_batch_size=64, learning_rate=3e-4
    )
    assert difference < 6e-6
    assert records[0]["episode/length"] == local[0]["episode/length"] > 1


def test_gigpo_on_the_household_task_with_completions_that_transformers_writes(tmp_path: Path) -> None:
    """``generate`` in the place of keyed draws, as under FSDP: every turn is one call, and each turn's row trains."""
    settings = {"task": "household", "algorithm": "gigpo", "max_prompt_length": 64, "max_completion_length": 4}
    config = TrainConfig(**{**TINY, **settings, "layers": "mid:2", "learning_rate": 3e-4, "micro_batch_size": 64})
    base, task, records = load_base("bundled:qwen3-household"), household_task(config), []
    before = {name: base.tensor(name).clone() for name in base.parts}
    train, spec = load_splits(base, task, config)["train"], spec_of(base, "mid:2", 0)
    trainer = ArmTrainer(base, spec, task, train, config, str(tmp_path), records.append, None)
    trainer.rollouts = "transformers"
    calls = []
    generate = base.module.generate
    base.module.generate = lambda *args, **kwargs: calls.append(1) or generate(*args, **kwargs)  # type: ignore
    trainer.train()
    moved = {name for name in base.parts if not torch.equal(base.tensor(name), before[name])}
    assert moved == spec.rates.keys() and len(calls) > 2
    assert [record["step"] for record in records] == [0, 1]
    assert all(record["episode/length"] > 1 and record["completions/mean_length"] > 1 for record in records)
    assert any(record["reward_std"] > 0 for record in records)


def test_a_backward_pass_has_at_most_the_rows_that_were_asked_for() -> None:
    config = TrainConfig(**{**TINY, "train_batch_size": 6, "mini_batch_size": 4, "num_iterations": 3})
    assert update_sizes(config, DigitTask(), 1) == (2, 2, 6)
    assert update_sizes(config, DigitTask(), 2) == (2, 1, 6)
    # Six turns an episode at most.
    assert update_sizes(config, game(), 2) == (2, 6, 6)


def test_what_turns_wrote_is_shown_and_told(
    base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``log_completions``: one row a turn, with what its episode is paid, and none of the rows that fill up."""
    (tmp_path / "options.yaml").write_text("log_completions: true")
    changes = {"algorithm": "gigpo", "max_completion_length": 2, "engine_options": str(tmp_path / "options.yaml")}
    config, task = TrainConfig(**{**TINY, **changes, "layers": "2", "max_prompt_length": 80}), game()
    told: list[tuple[int, Written]] = []
    records: list[Any] = []
    train = load_splits(base, task, config)["train"]
    train_arm(
        base, spec_of(base, "2", 0), task, train, config, records.append, on_completions=lambda *step: told.append(step)
    )
    assert [step for step, _ in told] == [0, 1]
    out = capsys.readouterr().out
    for (step, written), record in zip(told, records, strict=True):
        turns = len(written.prompt)
        assert turns == round(record["episode/length"] * config.train_batch_size * config.num_generations)
        assert [len(column) for column in (written.completion, written.reward, written.advantage)] == [turns] * 3
        assert len(set(written.reward)) > 1
        assert f"Step {step}" in out
    assert out.count("Advantage") == 2


def test_shown_completions_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_completions(3, Written(["[/bold]\x1b[2J"], ["a\rb\n"], [None], [0.5]), None)
    out = capsys.readouterr().out
    assert "[/bold]\\x1b[2J" in out and "a\\rb" in out and "nan" in out and "0.50" in out
    assert "\x1b" not in out and "\r" not in out


def test_an_arm_with_nothing_to_learn_stops(base: BaseModel) -> None:
    class Constant(DigitTask):
        def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
            return [1.0] * len(completions)

    config = TrainConfig(**{**TINY, "layers": "2", "steps": 9, "stop_after": 2})
    train = load_splits(base, Constant(), config)["train"]
    trained = train_arm(base, spec_of(base, "2", 0), Constant(), train, config, lambda record: None)
    assert trained.updates == 2 and not trained.effective
    assert trained.stopped is not None and "same reward for 2 steps" in trained.stopped


def test_what_vllm_says_of_its_tokens_reaches_the_right_rows(base: BaseModel, tmp_path: Path) -> None:
    """TRL corrects for vLLM's rounding by the log-probabilities that vLLM sampled with. vLLM itself was not run."""
    config = TrainConfig(**{**TINY, "layers": "2"})
    train = load_splits(base, DigitTask(), config)["train"]
    trainer = ArmTrainer(base, spec_of(base, "2", 0), DigitTask(), train, config, str(tmp_path), print, None)
    trainer.rollouts = "vllm"
    generator = torch.Generator().manual_seed(0)

    def written(prompts: list[list[int]], images: Any, fields: Any, count: int) -> tuple[list[list[int]], Any]:
        assert count == 1 and len(prompts) == 16
        lengths = torch.randint(1, 5, (len(prompts),), generator=generator).tolist()
        ids = [torch.randint(5, 20, (n,), generator=generator).tolist() for n in lengths]
        return ids, [[-0.01 * token for token in row] for row in ids]

    trainer._generate_single_turn = written
    batch, _ = trainer._collect(0)
    trainer._batch = batch
    trainer._rows, trainer._real, _ = trainer._deal(batch)
    output = ArmTrainer._rollout([], trainer)
    assert output["logprobs"] == [[-0.01 * token for token in row] for row in output["completion_ids"]]
    assert batch.completions.truncated.all()


def test_shares_of_a_scoring_go_back_into_order(base: BaseModel) -> None:
    config = TrainConfig(**{**TINY, "eval_num_samples": 2, "eval_temperature": 1.0})
    task = DigitTask()
    test = load_splits(base, task, config)["test"]
    whole = evaluate(base, task, test, [{}], config)[0].scores
    parts = [
        evaluate(base, task, EncodedSplit(test.problems[own::3], test.tokens[own::3], 0), [{}], config)[0].scores
        for own in range(3)
    ]
    from onelayer.storage.scores import join_scores

    again = in_problem_order(join_scores(parts), test)
    assert again.problem.tolist() == whole.problem.tolist()
    assert again.sample.tolist() == whole.sample.tolist()
    assert again.reward.tolist() == whole.reward.tolist()


def accelerate(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in two processes over gloo, as ``accelerate launch`` starts them."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [*launch, *line.split()], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=300
    )


def test_two_processes_make_the_same_arm_and_eval_scores_it(onelayer: Command, tmp_path: Path) -> None:
    """The bundled model by plan mid:2; about 25 seconds, most of them imports."""
    line = "train --engine trl --layers mid:2 --steps 2 --train-batch-size 4 --eval-steps 2 --device cpu "
    line += "--micro-batch-size 16 --beta 0.04 --mini-batch-size 2"
    Path("options.yaml").write_text("log_completions: true\nnum_completions_to_print: 1\n")
    line += " --engine-options options.yaml"
    code, _, err = onelayer(f"{line} --output one")
    assert (code, err) == (0, "")
    Path("command.py").write_text(f"{TELLS_ITS_THREADS}\nfrom onelayer.commands.cli import main\nmain()\n")
    two = accelerate(f"command.py {line} --num-processes 2 --output two", tmp_path)
    assert two.returncode == 0, two.stderr
    # A thread of gloo that outlives the interpreter ends the process with SIGABRT, now and then.
    ends = threads_at_the_end(tmp_path)
    assert len(ends) == 2 and not any("gloo" in name for end in ends for name in end), ends
    arms = [tmp_path / name / "arms/mid-2" for name in ("one", "two")]
    for step in range(2):
        logs = [pq.read_table(arm / f"completions/completions_{step:05d}.parquet").to_pydict() for arm in arms]
        assert len(logs[0]["prompt"]) == 4 * 8
        assert logs[1] == {**logs[0], "advantage": pytest.approx(logs[0]["advantage"])}
    one, other = (load_file(arm / "delta.safetensors") for arm in arms)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 2e-6
    records = [json.loads((arm / "arm.json").read_text()) for arm in arms]
    assert [record["processes"] for record in records] == [1, 2]
    scores = [read_scores(arm / "scores.parquet") for arm in arms]
    assert scores[0].problem.tolist() == scores[1].problem.tolist()
    assert float((scores[0].reward != scores[1].reward).mean()) < 0.01
    metrics = [[json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()] for arm in arms]
    for a, b in zip(*metrics, strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == pytest.approx(
            {k: v for k, v in b.items() if k not in TIMES}, rel=1e-3, abs=1e-5
        )

    sums = "".join(json.dumps({"q": f"{i}+{i}=", "a": 2 * i}) + "\n" for i in range(5))
    Path("sums.jsonl").write_text(sums)
    benchmark = {"kind": "benchmark", "description": "own", "category": "Math", "source": {"hub": "nobody/own"}}
    benchmark |= {"columns": {"problem": "q", "answer": "a"}, "prompt": "{{ problem }}", "grader": "math"}
    benchmark |= {"answer_rule": "last_number", "max_completion_length": 12}
    Path("sums.yaml").write_text(yaml.safe_dump(benchmark))
    code, _, err = onelayer(
        "eval --delta two/arms/mid-2 --benchmarks sums.yaml --data-files sums=sums.jsonl --output scored"
    )
    assert (code, err) == (0, "")
    assert json.loads(Path("scored/results.json").read_text())["plan"] == "mid:2"


@pytest.mark.parametrize("error", [RunStopped("mine"), None])
def test_an_error_is_told_also_where_the_others_are_gone(error: RunStopped | None) -> None:
    def tell(command: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    together: Any = SimpleNamespace(is_main=True, _listening=True, _tell=tell)
    with pytest.raises(RunStopped if error else RuntimeError), ExitStack() as stack:
        stack.push(lambda kind, raised, trace: Together.end(together, raised))
        if error:
            raise error


OWN = (
    "--dataset sums.jsonl --reward reward.py:digits --selection-size 4 --test-size 20 --steps 3 --train-batch-size 4 "
    "--num-generations 4 --max-completion-length 6 --learning_rate 1e-2 --device cpu"
)


def test_a_scan_its_report_and_the_engine_of_every_arm(
    onelayer: Command,
    data: Path,
    model_folder: Callable[..., Path],
) -> None:
    model = model_folder("llama", layers=2)
    (data / "options.yaml").write_text("gradient_checkpointing: true\n")
    line = f"scan --model {model} {OWN} --output run"
    code, out, err = onelayer(f"{line} --engine trl --engine-options options.yaml")
    assert (code, err) == (0, "")
    assert "C(0) =" in out
    profile = json.loads((data / "run/profile.json").read_text())
    assert profile["engines"] == {"full": "trl", "layer-00": "trl", "layer-01": "trl"}
    record = json.loads((data / "run/arms/layer-01/arm.json").read_text())
    assert record["engine_options"] == {"gradient_checkpointing": True}
    assert {path.name for path in (data / "run/arms/full").iterdir()} >= {"delta.safetensors", "metrics.jsonl"}
    logged = [json.loads(line) for line in (data / "run/arms/full/metrics.jsonl").read_text().splitlines()]
    assert [each["reward/tokens"] for each in logged] == [each["completions/mean_length"] for each in logged]
    for command in ("report run", "stitch run --layers 0,1", "merge run/arms/layer-01 --output merged"):
        code, _, err = onelayer(command)
        assert (code, err) == (0, ""), command

    # Another engine may only go on where that was asked for, and the report says it.
    (data / "run/arms/layer-01/arm.json").unlink()
    before = (data / "run/config.yaml").read_bytes()
    code, _, err = onelayer(f"{line} --resume")
    assert code == 2
    assert "arm full of 'run' was trained by engine trl, and this run's is local" in err
    assert (data / "run/config.yaml").read_bytes() == before
    code, _, err = onelayer(f"{line} --resume --mix-engines")
    assert (code, err) == (0, "")
    mixed = json.loads((data / "run/profile.json").read_text())
    assert mixed["engines"]["layer-01"] == "local"
    assert any("different engines" in note and "layer-01 by local" in note for note in mixed["notes"])
    settings = yaml.safe_load((data / "run/config.yaml").read_text())
    (data / "run/config.yaml").write_text(yaml.safe_dump({**settings, "mix_engines": False}))
    with pytest.raises(UserError, match="trained by different engines"):
        judge_scan(data / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine trl --num-processes 2", "num_processes is 2, and 1 is running; start with: accelerate launch"),
        ("--engine trl --stop-at 2", "engine trl does not read stop_at"),
        ("--engine trl --layers lora:4@1", "is LoRA, which the TRL engine does not train"),
        ("--engine trl --engine-options wrong.yaml", "TRL has no option 'use_vlm'; did you mean use_vllm?"),
        (
            "--engine trl --engine-options upload.yaml",
            "log_completions_hub_repo, and the engine uploads nothing; leave",
        ),
        ("--engine trl --engine-options ours.yaml", "sets beta, which follows from onelayer's own options"),
        ("--engine trl --engine-options none.yaml", "cannot be read"),
        ("--num-processes 2", "num_processes is an option of engine trl, and the engine is local"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    onelayer: Command,
    data: Path,
    model_folder: Callable[..., Path],
    options: str,
    message: str,
) -> None:
    (data / "wrong.yaml").write_text("use_vlm: true\n")
    (data / "ours.yaml").write_text("beta: 0.1\n")
    (data / "upload.yaml").write_text("log_completions: true\nlog_completions_hub_repo: me/mine\n")
    code, _, err = onelayer(f"train --model {model_folder('llama', layers=2)} {OWN} {options} --output run")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (data / "run").exists()


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_the_shipped_configurations_are_accelerates(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    from onelayer.engines import trl

    config = load_config_from_file(str(Path(trl.__file__).parent / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8 and config.mixed_precision == "bf16"
