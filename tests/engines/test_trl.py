"""The TRL trainer with a plan: what trains, the ways in which freezing by hand fails silently, the reference, vLLM."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from onelayer.arms.delta_files import read_delta_for
from onelayer.engines.trl import trainer as engine
from onelayer.engines.trl.trainer import OneLayerGRPOTrainer, plain_name
from onelayer.engines.trl.vllm_weights import send_only_trained
from onelayer.engines.versions import check_versions
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from tests.conftest import save_model

PROMPTS = Dataset.from_dict({"prompt": [f"{i}+{i}=" for i in range(16)]})


def reward(completions: list[str], **columns: Any) -> list[float]:
    return [sum(c.isdigit() for c in text) / 6 for text in completions]


def options(folder: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return GRPOConfig(**{**settings, **changes})


def trainer_of(model: Any, plan: str, folder: Path, *, callbacks: Any = None, **changes: Any) -> OneLayerGRPOTrainer:
    extra = {name: changes.pop(name) for name in ("optimizers", "peft_config") if name in changes}
    return OneLayerGRPOTrainer(
        model,
        plan=plan,
        reward_funcs=reward,
        args=options(folder, **changes),
        train_dataset=PROMPTS,
        callbacks=callbacks,
        **extra,
    )


def during(step: int, do: Callable[..., None]) -> TrainerCallback:
    """Something that happens in the middle of a run."""

    class Meddler(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == step:
                do(model)

    return Meddler()


def test_a_plan_trains_its_tensors_and_leaves_a_delta(tmp_path: Path) -> None:
    """Twelve layers: layers 10 and 11 have names that begin like those of layer 1."""
    folder = save_model(tmp_path / "m", layers=12)
    trainer = trainer_of(str(folder), "1,3.mlp*0.5", tmp_path / "run")
    trainer.train()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    trained = dict(trainer.base.module.named_parameters())
    changed = {name for name, tensor in plain.named_parameters() if not torch.equal(tensor, trained[name])}
    expected = {n for n, _ in plain.named_parameters() if ".layers.1." in n or ".layers.3.mlp." in n}
    assert changed == expected
    rates = {
        plain_name(n): g["initial_lr"] for g in trainer.optimizer.param_groups for n in names_of(trainer, g["params"])
    }
    assert {n for n, rate in rates.items() if rate != rates["model.layers.1.mlp.up_proj.weight"]} == {
        n for n in expected if ".3." in n
    }

    written = load_file(tmp_path / "run/delta.safetensors")
    assert written.keys() == expected
    assert all(torch.equal(tensor, trained[name]) for name, tensor in written.items())
    record = json.loads((tmp_path / "run/arm.json").read_text())
    assert (record["engine"], record["plan"], record["kind"]) == ("trl", "1,3.mlp*0.5", "strategy")
    assert record["first_gradient_norms"].keys() == expected
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    # The delta fits the base and no other.
    again = engine._as_base(str(folder), options(tmp_path), None)
    assert read_delta_for(again, tmp_path / "run/delta.safetensors").keys() == expected
    with pytest.raises(UserError, match="another base"):
        read_delta_for(
            engine._as_base(other_model(tmp_path), options(tmp_path), None), tmp_path / "run/delta.safetensors"
        )


def names_of(trainer: OneLayerGRPOTrainer, parameters: list[nn.Parameter]) -> list[str]:
    held = {id(parameter) for parameter in parameters}
    return [name for name, parameter in trainer.model.named_parameters() if id(parameter) in held]


def other_model(tmp_path: Path) -> str:
    return str(save_model(tmp_path / "other", layers=12, seed=1))


def test_freezing_by_a_name_prefix_is_noticed(tmp_path: Path) -> None:
    """What users of general trainers do: ``name.startswith("model.layers.1")`` also thaws layers 10 and 11."""
    folder = save_model(tmp_path / "m", layers=12)

    def by_prefix(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("model.layers.1"))

    trainer = trainer_of(str(folder), "1", tmp_path / "run", callbacks=[during(0, by_prefix)])
    with pytest.raises(RunStopped, match=r"requires_grad of 22 tensors was changed .* the first is model.layers.10"):
        trainer.train()


def test_an_optimizer_without_the_chosen_tensors_is_noticed(base: BaseModel, tmp_path: Path) -> None:
    """Built before the freezing, or over other tensors: the curves look healthy and nothing trains."""
    unused = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=1e-3)
    trainer = trainer_of(base, "2", tmp_path, optimizers=(unused, None))
    with pytest.raises(RunStopped, match="holds 0 of the 11 tensors that the plan trains and 1 others"):
        trainer.train()


def test_without_the_guard_an_empty_optimizer_looks_healthy(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL itself logs a gradient norm for every step of such a run: the reason for the guard."""
    monkeypatch.setattr(OneLayerGRPOTrainer, "begin", lambda self: None)
    monkeypatch.setattr(OneLayerGRPOTrainer, "check", lambda self, moved: None)
    unused = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=1e-3)
    trainer = trainer_of(base, "2", tmp_path, optimizers=(unused, None))
    before = {name: tensor.clone() for name, tensor in trainer.delta().items()}
    trainer.train()
    assert all(line["grad_norm"] > 0 for line in trainer.state.log_history if "grad_norm" in line)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.delta().items())


def test_an_update_that_moves_nothing_is_noticed(base: BaseModel, tmp_path: Path) -> None:
    trainer = trainer_of(base, "2", tmp_path)
    trainer.create_optimizer()
    trainer.optimizer.step = lambda closure=None: None
    with pytest.raises(RunStopped, match="11 of 11 trained tensors did not move in 1 updates"):
        trainer.train()


def test_changing_what_trains_during_the_run_is_noticed(base: BaseModel, tmp_path: Path) -> None:
    def thaw_the_next(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".layers.3." in name)

    trainer = trainer_of(base, "2", tmp_path, callbacks=[during(1, thaw_the_next)])
    with pytest.raises(RunStopped, match="requires_grad of 22 tensors was changed during the run"):
        trainer.train()


def test_a_frozen_tensor_that_moves_is_noticed(base: BaseModel, tmp_path: Path) -> None:
    @torch.no_grad()
    def push(model: nn.Module) -> None:
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] += 1

    trainer = trainer_of(base, "2", tmp_path, callbacks=[during(1, push)])
    with pytest.raises(
        RunStopped, match=r"1 frozen tensors of the base have moved, the first is model.layers.0.mlp.up"
    ):
        trainer.train()


def test_the_reference_is_the_base_and_does_not_drift(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every update the reference still says what the untrained model says, and no second model is built."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", None)
    untrained = trainer_of(base_copy(base), "2", tmp_path)
    compared: list[tuple[float, float]] = []
    ours = OneLayerGRPOTrainer._get_per_token_logps_and_entropies

    def compare(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        result = ours(self, model, *args, **kwargs)
        if model is engine._BASE:
            plain = GRPOTrainer._get_per_token_logps_and_entropies
            wanted = plain(untrained, untrained.model, *args, **kwargs)[0]
            policy = plain(self, self.model, *args, **kwargs)[0]
            compared.append((float((result[0] - wanted).abs().max()), float((policy - wanted).abs().max())))
        return result

    monkeypatch.setattr(OneLayerGRPOTrainer, "_get_per_token_logps_and_entropies", compare)
    trainer = trainer_of(base, "2", tmp_path, beta=0.1, max_steps=3, learning_rate=1e-2)
    trainer.train()
    assert [reference for reference, _ in compared] == [0.0] * 3
    assert compared[0][1] == 0.0 and compared[2][1] > 1e-3
    kl = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert kl[0] == pytest.approx(0, abs=1e-7) and kl[2] > 1e-5


def base_copy(base: BaseModel) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base.name)
    model.config._name_or_path = base.name
    return model


def test_the_base_comes_back_out_of_the_way_after_an_error(base: BaseModel, tmp_path: Path) -> None:
    trainer = trainer_of(base, "2", tmp_path, beta=0.1)
    own = trainer.delta()
    with torch.no_grad():
        for parameter in trainer.trained().values():
            parameter.add_(1.0)
    policy = trainer.delta()
    with pytest.raises(KeyError), trainer._base_in_place():
        assert all(torch.equal(tensor, own[name]) for name, tensor in trainer.delta().items())
        raise KeyError
    assert all(torch.equal(tensor, policy[name]) for name, tensor in trainer.delta().items())


def test_a_bfloat16_base_trains_in_float32(base_of: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = base_of(dtype=torch.bfloat16)
    own = {name: base.tensor(name).detach().clone() for name in base.parts}
    # A rate at which bfloat16 weights would hardly move.
    trainer = trainer_of(base, "2", tmp_path, bf16=True, learning_rate=1e-5, beta=0.1)
    trainer.train()
    moved = {name: tensor - own[name].float() for name, tensor in trainer.delta().items()}
    assert all(tensor.dtype == torch.float32 for tensor in trainer.delta().values())
    assert all((change != 0).float().mean() > 0.5 for name, change in moved.items() if name.endswith("proj.weight"))
    frozen = [name for name in own if name not in moved]
    assert all(torch.equal(base.tensor(name), own[name]) for name in frozen)
    assert {base.tensor(name).dtype for name in frozen} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(tmp_path / "delta.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("trl", [True, False])
def test_checkpointing_does_not_undo_the_truncated_backward(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trl: bool
) -> None:
    """With TRL's own freezing the backward pass reaches layer 0 again; with a plan nothing below the lowest layer."""
    trainer = trainer_of(base, "2", tmp_path, gradient_checkpointing=True, max_steps=1)
    if trl:
        del trainer.base.module.enable_input_require_grads
    seen: list[list[int]] = [[], []]
    for number in (0, 2):
        layer = trainer.base.layers[number]
        forward = type(layer).forward.__wrapped__  # type: ignore[attr-defined]

        def count(
            self: Any, hidden: torch.Tensor, *args: Any, number: int = number, forward: Any = forward, **kw: Any
        ) -> Any:
            seen[number // 2].append(int(torch.is_grad_enabled() and hidden.requires_grad))
            return forward(self, hidden, *args, **kw)

        kind = type(layer.__class__.__name__, (type(layer),), {"forward": count})
        layer.__class__ = kind
    trainer.train()
    assert trainer.base.layers[2].gradient_checkpointing
    assert any(seen[0]) is trl


class StandIn:
    """vLLM's side of TRL, as far as weights go: what is announced and what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[str], list[str]]] = []

    def update_named_params(self, metadata: Any, named: Any) -> None:
        self.sent.append(([name for name, _, _ in metadata], [name for name, _ in named]))

    def reset_prefix_cache(self) -> None:
        pass


def generation_of(model: nn.Module, *, sleeps: bool = False) -> tuple[Any, StandIn]:
    """TRL's own class with a stand-in for the server; vLLM itself was not run."""
    client = StandIn()
    generation = object.__new__(VLLMGeneration)
    backend = SimpleNamespace(is_fsdp=False, fsdp_version=None, gather_params=lambda params: torch.no_grad())
    main = SimpleNamespace(is_main_process=True)
    for name, value in {
        "model": model,
        "mode": "colocate" if sleeps else "server",
        "enable_sleep_mode": sleeps,
        "accelerator": main,
        "vllm_client": client,
        "_dist": backend,
        "_weight_metadata": None,
    }.items():
        setattr(generation, name, value)
    return generation, client


def test_only_trained_tensors_go_to_vllm_after_the_first_time(base: BaseModel, tmp_path: Path) -> None:
    trainer = trainer_of(base, "2", tmp_path)
    every = [name for name, _ in base.module.named_parameters()]
    chosen = [name for name in every if ".layers.2." in name]
    generation, client = generation_of(base.module)
    send_only_trained(generation, trainer.is_trained)
    for _ in range(3):
        generation.sync_weights()
    assert client.sent == [(every, every), (chosen, chosen), (chosen, chosen)]


def test_vllm_that_forgets_gets_everything(base: BaseModel) -> None:
    generation, _ = generation_of(base.module, sleeps=True)
    before = generation.sync_weights
    send_only_trained(generation, lambda name: False)
    assert generation.sync_weights == before


def test_names_of_wrapped_parameters() -> None:
    wrapped = "module._orig_mod.model.layers.1._fsdp_wrapped_module._checkpoint_wrapped_module.mlp.up_proj.weight"
    assert plain_name(wrapped) == "model.layers.1.mlp.up_proj.weight"
    assert plain_name("model.module.weight") == "model.module.weight"


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        ("17", {}, "the model has no layer 17"),
        ("lora:4@2", {}, "plan 'lora:4@2' is LoRA, which the TRL engine does not train"),
        ("2", {"sync_ref_model": True, "beta": 0.1}, "sync_ref_model moves the reference"),
        ("2", {"peft_config": object()}, "peft_config trains adapters"),
        ("2", {"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "set use_reentrant to False"),
    ],
)
def test_wrong_input_is_one_sentence(
    base: BaseModel, tmp_path: Path, plan: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trainer_of(base, plan, tmp_path, **changes)


def test_a_bfloat16_model_needs_bf16(base_of: Callable[..., BaseModel], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the weights of .* are bfloat16: set bf16=True"):
        trainer_of(base_of(dtype=torch.bfloat16), "2", tmp_path)


def test_a_folder_that_asks_for_a_kernel_of_the_hub_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_attn_implementation": "someone/kernel"}))
    with pytest.raises(UserError, match="names 'someone/kernel', code that would be fetched"):
        engine._as_base(str(folder), options(tmp_path), None)


def test_versions_outside_the_tested_range(monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions("trl", ("trl", "accelerate"))
    monkeypatch.setattr("onelayer.engines.versions.version", lambda name: "1.17.0")
    with pytest.raises(UserError, match=r"trl 1.17.0 was not tested .* 1.16 up to but not including 1.17: pip install"):
        check_versions("trl", ("trl",))

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("onelayer.engines.versions.version", missing)
    with pytest.raises(UserError, match=r"needs trl, which is not installed: pip install 'onelayer\[trl\]'"):
        check_versions("trl", ("trl",))


def test_the_short_import() -> None:
    from onelayer.trl import OneLayerGRPOTrainer as short

    assert short is OneLayerGRPOTrainer
