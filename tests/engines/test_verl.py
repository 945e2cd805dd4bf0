"""The export for verl: the freeze hook on a small model, and the configuration against verl's own where verl is there."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn
from transformers import AutoModelForCausalLM

from onelayer.commands.cli import cli
from onelayer.engines.verl import export as verl_export
from onelayer.engines.verl import hook as verl_hook
from onelayer.errors import UserError
from tests.conftest import save_model

LINE = "export verl --preset qwen3-1.7b-numinamath --plan mid:2,0.mlp*0.5"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "m", layers=12)


def exported(model: Path, line: str = LINE) -> Path:
    done = CliRunner().invoke(cli, [*line.split(), "--model", str(model), "--output", str(model.parent / "job")])
    if done.exception:
        raise done.exception
    return model.parent / "job"


def hook_of(folder: Path) -> Any:
    """The written module, without its last part, which reaches into verl."""
    source = (folder / "onelayer_verl.py").read_text()
    hook = SimpleNamespace()
    exec(source[: source.index("\nif RATES:")], vars(hook))
    return hook


class Engine:
    """As much of verl's FSDPEngine as the hook reaches into."""

    def __init__(self, folder: Path, *, forward_only: bool = False, gradient: float = 1.0) -> None:
        self.engine_config = SimpleNamespace(forward_only=forward_only)
        self.model_config = SimpleNamespace(model_type="language_model")
        self.optimizer_config = SimpleNamespace(lr=1e-2)
        self.folder, self.gradient = folder, gradient
        self.module = self._build_module()
        self.optimizer = self._build_optimizer(self.module)

    def _build_module(self) -> nn.Module:
        module: nn.Module = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).train()
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        return module

    def _build_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=self.optimizer_config.lr)

    def optimizer_step(self) -> float:
        ids = torch.arange(12)[None] + 5
        (self.gradient * self.module(input_ids=ids, labels=ids).loss).backward()
        self.optimizer.step()
        norms = [p.grad.norm() for p in self.module.parameters() if p.grad is not None]
        self.optimizer.zero_grad()
        return float(torch.stack(norms).norm()) if norms else 0.0


def engine_class(hook: Any) -> type[Engine]:
    kind = type("OwnEngine", (Engine,), dict(vars(Engine)))
    hook.install(kind, hook.RATES, lambda groups, config: torch.optim.AdamW(groups, lr=config.lr))
    return kind


def test_the_hook_trains_what_the_plan_says(model: Path) -> None:
    hook = hook_of(exported(model))
    engine = engine_class(hook)(model)
    plain = dict(AutoModelForCausalLM.from_pretrained(model).named_parameters())
    expected = {n for n in plain if ".layers.5." in n or ".layers.6." in n or ".layers.0.mlp." in n}
    assert hook.RATES.keys() == expected
    engine.optimizer_step()
    moved = {name for name, tensor in engine.module.named_parameters() if not torch.equal(tensor, plain[name])}
    assert moved == expected
    assert [group["lr"] for group in engine.optimizer.param_groups] == [5e-3, 1e-2]
    assert sum(len(group["params"]) for group in engine.optimizer.param_groups) == len(expected)
    # Checkpointing is on and does not reach the embeddings.
    hidden = engine.module.get_input_embeddings()(torch.arange(3)[None])  # type: ignore[operator]
    assert not hidden.requires_grad


def test_a_reference_is_left_alone(model: Path) -> None:
    engine = engine_class(hook_of(exported(model)))(model, forward_only=True)
    assert all(parameter.requires_grad for parameter in engine.module.parameters())


def test_silent_failures_stop_the_run(model: Path) -> None:
    kind = engine_class(hook_of(exported(model)))
    empty = kind(model)
    empty.optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-2)
    with pytest.raises(RuntimeError, match="25 of 25 trained tensors did not move"):
        empty.optimizer_step()
    everything = kind(model)
    for parameter in everything.module.parameters():
        parameter.requires_grad_(True)
    everything.optimizer = torch.optim.AdamW(everything.module.parameters(), lr=1e-2)
    with pytest.raises(RuntimeError, match=r"frozen tensors have moved, the first is model.embed_tokens.weight"):
        everything.optimizer_step()
    nothing = kind(model, gradient=0.0)
    nothing.optimizer_step()  # no gradient yet, so nothing has to move
    nothing.gradient = 1.0
    nothing.optimizer_step()


def test_what_the_hook_cannot_train_it_refuses(model: Path, model_folder: Callable[..., Path]) -> None:
    module = AutoModelForCausalLM.from_pretrained(model)
    with pytest.raises(RuntimeError, match=r"1 tensors that this model lacks, the first is model.layers.17"):
        verl_hook.freeze(module, {"model.layers.17.mlp.up_proj.weight": 1.0})
    with pytest.raises(RuntimeError, match=r"is torch.bfloat16: leave fsdp_config.model_dtype at float32"):
        verl_hook.freeze(module.to(torch.bfloat16), {"model.layers.1.mlp.up_proj.weight": 1.0})
    flat = nn.Module()
    flat._flat_param = nn.Parameter(torch.zeros(3))
    with pytest.raises(RuntimeError, match="set strategy=fsdp2, or use_orig_params=True"):
        verl_hook.groups(flat, {"model.layers.1.mlp.up_proj.weight": 1.0}, 1e-3)
    wrapped = "model.layers.1._fsdp_wrapped_module.mlp.up_proj.weight"
    assert verl_hook.plain_name(wrapped) == "model.layers.1.mlp.up_proj.weight"


def test_the_settings_are_the_presets(model: Path) -> None:
    job = yaml.safe_load((exported(model) / "job.yaml").read_text())
    actor = job["actor_rollout_ref"]["actor"]
    assert (job["data"]["train_batch_size"], actor["ppo_mini_batch_size"]) == (512, 128)
    assert (actor["optim"]["lr"], actor["optim"]["weight_decay"]) == (5e-6, 0.01)
    assert (actor["use_kl_loss"], actor["kl_loss_coef"], actor["loss_agg_mode"]) == (True, 0.001, "token-mean")
    assert job["actor_rollout_ref"]["rollout"]["n"] == 4
    assert job["trainer"]["total_training_steps"] == 391
    assert job["actor_rollout_ref"]["model"]["external_lib"] == "onelayer_verl"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--plan lora:4 --task arithmetic", "LoRA is verl's model.lora_rank"),
        ("--plan 1 --task household", r"verl 0.9.1 has no GiGPO"),
        ("--plan 1 --task arithmetic --lr-scheduler-type linear", "verl has no lr_scheduler_type linear"),
        ("--plan 1 --task arithmetic --scale-rewards batch", "verl has no scale_rewards batch"),
        ("--plan 1 --task arithmetic --no-unbiased-std", "verl divides by n - 1"),
        ("--plan 99 --task arithmetic", "the model has no layer 99"),
        ("--plan 1 --task arithmetic --layers 2", "takes --plan in the place of --layers"),
    ],
)
def test_wrong_input_is_one_sentence(model: Path, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        exported(model, f"export verl {options}")
    assert not (model.parent / "job").exists()


@pytest.mark.parametrize(("epsilon", "said"), [("1e-4", True), ("1e-6", False)])
def test_an_epsilon_that_verl_has_no_option_for_is_named(model: Path, epsilon: str, said: bool) -> None:
    folder = exported(model, f"export verl --plan 1 --task arithmetic --advantage-epsilon {epsilon}")
    written = "\n".join(path.read_text() for path in folder.iterdir() if path.is_file())
    assert ("verl adds 1e-06 to the std" in written) is said


def test_an_algorithm_that_verl_is_not_known_to_have_is_no_grpo(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(verl_export.ESTIMATORS, "rloo")
    with pytest.raises(UserError, match="algorithm rloo is not known to be in verl"):
        exported(model, "export verl --plan 1 --task arithmetic --algorithm rloo")


COMPOSE = """
import sys, json
from hydra import compose, initialize_config_dir
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
with initialize_config_dir(config_dir=sys.argv[1], version_base=None):
    config = compose(config_name="job")
validate_config(config=config, use_reference_policy=True, use_critic=False)
actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
omega_conf_to_dataclass(config.algorithm)
assert not hasattr(FSDPEngineWithLMHead._build_module, "__wrapped__")
omega_conf_to_dataclass(config.actor_rollout_ref.model)  # imports the hook, as every worker does
assert all(hasattr(getattr(FSDPEngineWithLMHead, n), "__wrapped__") for n in ("_build_module", "optimizer_step"))
print(json.dumps([actor.strategy, actor.optim.lr, actor.loss_agg_mode, config.actor_rollout_ref.ref.strategy]))
"""


def python_with_verl() -> str | None:
    """An interpreter that has verl: this one, or the one that VERL_PYTHON names, since verl pins other versions."""
    return sys.executable if importlib.util.find_spec("verl") else os.environ.get("VERL_PYTHON")


@pytest.mark.skipif(python_with_verl() is None, reason="verl is not installed; VERL_PYTHON names a Python that has it")
def test_verl_composes_the_configuration(model: Path) -> None:
    for task in ("--preset qwen3-1.7b-numinamath", "--task arithmetic --algorithm gspo --mini-batch-size 4"):
        folder = exported(model, f"export verl --plan mid:2 {task}")
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [str(python_with_verl()), "-c", COMPOSE, str(folder)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        strategy, rate, mode, reference = json.loads(done.stdout.splitlines()[-1])
        assert (strategy, reference) == ("fsdp2", "fsdp2")
        job = yaml.safe_load((folder / "job.yaml").read_text())["actor_rollout_ref"]["actor"]
        assert (rate, mode) == (job["optim"]["lr"], job["loss_agg_mode"])
        for path in folder.iterdir():
            path.unlink()
