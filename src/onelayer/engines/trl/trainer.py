"""TRL's ``GRPOTrainer`` with a layer plan: what it lacks to train some layers and know that it did.

The plan chooses tensors by their place in the model, before the optimizer is built. Chosen tensors are fp32 (the masters
that AdamW moves), frozen ones stay in the model's type, and autocast computes in that type. The reference policy of
``beta > 0`` is the base's own tensors, put in place of the trained ones for as long as its log-probabilities take.

What is checked, because each of these trains nothing or something else while the curves look healthy: that the optimizer
holds exactly the chosen tensors, that nobody changes what trains during the run, and, after the first update with a
non-zero rate and gradient, at every checkpoint and at the end, that the chosen tensors have moved and all others have not.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import create_model_from_path

from onelayer.arms.arm import Bits, FrozenCheck
from onelayer.arms.delta_files import DELTA, write_delta
from onelayer.arms.spec import ArmSpec, spec_of
from onelayer.engines.trl import ending  # noqa: F401 - its import is enough
from onelayer.engines.trl.options import refuse_spec
from onelayer.engines.trl.vllm_weights import send_only_trained
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import wrap_model
from onelayer.models.source import check_weights, read_config
from onelayer.models.tokenizer import load_tokenizer
from onelayer.runs.tracking import append_records, numbers
from onelayer.storage.arm_record import ARM, ArmRecord

ENGINE = "trl"
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers put into the names of parameters; DDP puts ``module.`` before them."""
_BASE = object()
"""Stands in TRL's slot for a reference model: log-probabilities under it are those of the base's own tensors."""


class OneLayerGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer that trains what a layer plan says; everything else is TRL's.

    Writes ``delta.safetensors``, ``arm.json`` and ``metrics.jsonl`` to ``args.output_dir`` at the end.

    Args:
        model: a model's name, a model in memory, or a :class:`~onelayer.models.base.BaseModel`. A name is loaded in
            float32, or with ``args.bf16`` in the checkpoint's type.
        plan: what trains, for example ``"mid:5"`` or ``"all,14*2"``, see `onelayer.arms.plan`; or a resolved one.
        args: TRL's configuration. With ``bf16`` the frozen tensors of a bfloat16 model stay bfloat16.
        processing_class: the tokenizer, by default the model's own.
        write_files: whether the delta and its records are written to ``args.output_dir``.
        kwargs: everything else that `trl.GRPOTrainer` takes.

    Raises:
        UserError: a plan or an option that does not fit.
        RunStopped: while training, when something else trains than what the plan says.
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: "str | PreTrainedModel | BaseModel",
        *,
        plan: str | ArmSpec,
        args: GRPOConfig | None = None,
        processing_class: Any = None,
        write_files: bool = True,
        **kwargs: Any,
    ) -> None:
        args = copy.copy(args) if args is not None else GRPOConfig()
        _refuse(args, kwargs)
        self.base = _as_base(model, args, processing_class)
        self.spec = _spec(self.base, plan, args)
        kwargs.setdefault("reward_funcs", None)
        self._own = self._make_trainable(copies=args.beta > 0)
        # TRL builds a second model for any beta above 0, so it is told of beta only afterwards.
        beta, args.beta = args.beta, 0.0
        super().__init__(model=self.base.module, args=args, processing_class=self.base.tokenizer, **kwargs)
        self.args.beta = self.beta = beta
        self.ref_model = _BASE if beta > 0 else None
        # Called whenever checkpointing is (re-)enabled: it would make the embeddings' output require a gradient, and the
        # backward pass run through all frozen layers.
        self.base.module.enable_input_require_grads = _leave_inputs_alone  # type: ignore[assignment]
        if self.use_vllm:
            send_only_trained(self.vllm_generation, self.is_trained)
        self.first_gradient_norms: dict[str, float] = {}
        """Norm of each trained tensor's gradient in the first update, before clipping."""
        self.gradient_norms: list[float] = []
        """Norm of the whole gradient in every update since they were last logged, before clipping."""
        self.effective = False
        """Whether an update with a non-zero rate and gradient has been made."""
        self.add_callback(_Guard(self))
        if write_files:
            self.add_callback(_Files(self))

    def is_trained(self, name: str) -> bool:
        """Whether the plan trains the parameter of that name, as any wrapper writes it."""
        return plain_name(name) in self.spec.rates

    def trained(self, model: nn.Module | None = None) -> dict[str, nn.Parameter]:
        """The chosen parameters of the model as it is now wrapped, by their original names."""
        named = (model or self.model).named_parameters()
        found = {plain_name(name): parameter for name, parameter in named}
        return {name: found[name] for name in self.spec.rates}

    def delta(self) -> dict[str, Tensor]:
        """What training has made of the chosen tensors: fp32, whole, on the CPU. Every process has to call it."""
        return {name: _whole(parameter.detach()).to("cpu", copy=True) for name, parameter in self.trained().items()}

    def save_delta(self, path: Path | str) -> None:
        """Write ``delta.safetensors`` (from the main process). Every process has to call it."""
        delta = self.delta()
        if self.accelerator.is_main_process:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_delta(Path(path), delta, self.base, self.spec.plan)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """The optimizer of ``args.optim`` over exactly the chosen tensors, each at its rate."""
        if self.optimizer is None:
            wrapped = model or self.model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, wrapped)
            if not isinstance(kind, type) or options.keys() & {"params", "model", "optimizer_dict"}:
                raise UserError(f"optim {self.args.optim} chooses its own parameters; take adamw_torch")
            decayed = set(map(plain_name, self.get_decay_parameter_names(wrapped)))
            groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
            for name, parameter in self.trained(wrapped).items():
                groups.setdefault((self.spec.rates[name], name in decayed), []).append(parameter)
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate * multiplier,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (multiplier, decays), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def check(self, *, moved: bool) -> None:
        """Compare with the start of the run: frozen tensors are what they were and, with ``moved``, the chosen are not.

        Every process has to call it.

        Raises:
            RunStopped: something else has trained than what the plan says.
        """
        self._frozen()
        if not moved:
            return
        names = list(self.spec.rates)
        changed = set(self._start.changed())
        flags = torch.tensor([name in changed for name in names], device=self.accelerator.device)
        # Of a sharded tensor a process sees its part only.
        moved_anywhere = self.accelerator.reduce(flags.float(), reduction="sum") > 0
        still = [name for name, flag in zip(names, moved_anywhere.tolist(), strict=True) if not flag]
        if still:
            raise RunStopped(
                f"{len(still)} of {len(names)} trained tensors did not move in {self.state.global_step} updates, the first "
                f"is {still[0]}"
            )

    def begin(self) -> None:
        """Before the first step: the optimizer is right, and the bits to compare with later are remembered.

        Raises:
            RunStopped: an optimizer without exactly the chosen tensors.
        """
        trained = self.trained()
        if not self.is_deepspeed_enabled:  # whose optimizer holds flat copies
            held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
            wanted = {id(parameter) for parameter in trained.values()}
            if held != wanted:
                raise RunStopped(
                    f"the optimizer holds {len(held & wanted)} of the {len(wanted)} tensors that the plan trains and "
                    f"{len(held - wanted)} others; leave optimizers out, so that it is built from the plan"
                )
        for name, parameter in trained.items() if self._own else ():
            own = self._own[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                own = distribute_tensor(own, parameter.device_mesh, parameter.placements)
            self._own[name] = own
        self._frozen = FrozenCheck(self.base, [name for name in self.base.parts if name not in trained])
        self._start = Bits(self.base, trained)

    def check_chosen(self) -> None:
        """What requires a gradient is what the plan says.

        Raises:
            RunStopped: somebody has frozen or thawed tensors since the optimizer was built, which trains nothing more.
        """
        found = {plain_name(name) for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if wrong := sorted(found ^ self.spec.rates.keys()):
            raise RunStopped(
                f"requires_grad of {len(wrong)} tensors was changed during the run, the first is {wrong[0]}; the optimizer "
                "was built for the plan, so this would train nothing: start a new run with another plan"
            )

    def note_gradients(self) -> None:
        """Remember an update's gradient, and whether there was anything to learn from yet."""
        norms = {}
        for name, parameter in self.trained().items():
            if parameter.grad is not None:
                norms[name] = float(_whole(parameter.grad.detach().float().norm()))
        if not self.first_gradient_norms:
            self.first_gradient_norms = norms
        self.gradient_norms.append(math.hypot(*norms.values()))
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        # DeepSpeed keeps the gradients to itself; its update is taken to be effective.
        self.effective |= rate > 0 and (self.is_deepspeed_enabled or any(norm > 0 for norm in norms.values()))

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self.note_gradients()
        return super()._clip_grad_norm(model)

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if model is not _BASE:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        with self._base_in_place():
            return super()._get_per_token_logps_and_entropies(self.model, *args, **kwargs)

    @contextmanager
    def _base_in_place(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange the values of the trained tensors and the base's own, one tensor at a time."""
        for name, parameter in self.trained().items():
            kept = parameter.detach().clone()
            parameter.copy_(self._own[name])
            self._own[name].copy_(kept)

    def _make_trainable(self, *, copies: bool) -> dict[str, Tensor]:
        """Turn the chosen tensors into fp32 masters; the base is frozen already. Returns the base's own, for a reference."""
        for name in self.spec.rates:
            parameter = self.base.tensor(name)
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        return {name: self.base.tensor(name).detach().clone() for name in self.spec.rates} if copies else {}


class _Guard(TrainerCallback):  # type: ignore[misc]
    """Calls the checks of the trainer at the right moments."""

    def __init__(self, trainer: OneLayerGRPOTrainer) -> None:
        self._trainer = trainer
        self._checked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Everything is wrapped and the optimizer is built."""
        self._trainer.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the passes of an update."""
        self._trainer.check_chosen()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where nothing is clipped the gradients are seen here for the first time."""
        if not args.max_grad_norm:
            self._trainer.note_gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the first update that changes anything."""
        if self._trainer.effective and not self._checked:
            self._trainer.check(moved=True)
            self._checked = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At a checkpoint."""
        self._trainer.check(moved=self._trainer.effective)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At the end."""
        self._trainer.check(moved=self._trainer.effective)


class _Files(TrainerCallback):  # type: ignore[misc]
    """Writes the files of an arm to the output folder of a script's own trainer."""

    def __init__(self, trainer: OneLayerGRPOTrainer) -> None:
        self._trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Metrics of the steps since the last ones."""
        if state.is_world_process_zero and logs and "grad_norm" in logs:
            folder = Path(args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            append_records(folder / "metrics.jsonl", [{"step": state.global_step - 1, **numbers(logs)}])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The delta and what it is."""
        trainer, folder = self._trainer, Path(args.output_dir)
        trainer.save_delta(folder / DELTA)
        if state.is_world_process_zero:
            arm_record(trainer).changed(updates=state.global_step).write(folder / ARM)


def arm_record(trainer: OneLayerGRPOTrainer) -> ArmRecord:
    """What ``arm.json`` says of an arm before it is scored."""
    base, spec = trainer.base, trainer.spec
    return ArmRecord(
        arm=spec.name,
        name=spec.name,
        kind=spec.kind,
        plan=spec.plan,
        layer=spec.layer,
        seed=spec.seed,
        engine=ENGINE,
        processes=trainer.accelerator.num_processes,
        learning_rate=trainer.args.learning_rate,
        trained_parameters=spec.trained_parameters(base, spec.rates),
        first_gradient_norms=trainer.first_gradient_norms,
        base_model=base.name,
        revision=base.revision,
        base_hash=base.hash,
    )


def plain_name(name: str) -> str:
    """A parameter's original name, without what wrappers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _leave_inputs_alone() -> None:
    """In the place of ``enable_input_require_grads``."""


def _refuse(args: GRPOConfig, kwargs: Mapping[str, Any]) -> None:
    """Options of TRL that would train something else than what the plan says."""
    for name in ("peft_config", "quantization_config"):
        if kwargs.get(name) is not None:
            raise UserError(f"{name} trains adapters, and a plan trains the model's own tensors; leave one of them out")
    if args.sync_ref_model:
        raise UserError("sync_ref_model moves the reference, which is the base's own tensors here; leave it out")
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if (getattr(args, name, None) or {}).get("use_reentrant"):
            raise UserError(
                f"{name} use_reentrant=True gives no gradients to layers above frozen ones; set use_reentrant to False"
            )
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        raise UserError("DeepSpeed ZeRO-3 splits the tensors before they could be frozen; use ZeRO-2 or FSDP2")


def _as_base(model: "str | PreTrainedModel | BaseModel", args: GRPOConfig, tokenizer: Any) -> BaseModel:
    """The model with its parts, frozen, in a type that can train."""
    if not isinstance(model, BaseModel):
        options = dict(args.model_init_kwargs or {})
        revision = options.get("revision")
        name = model if isinstance(model, str) else model.config._name_or_path or type(model).__name__
        if isinstance(model, str):
            options.setdefault("dtype", "auto" if args.bf16 else torch.float32)
            options.setdefault("trust_remote_code", args.trust_remote_code)
            options["device_map"] = None
            # Before transformers reads them: the files may ask for code from elsewhere.
            read_config(model, revision=revision, trust_remote_code=bool(options["trust_remote_code"]))
            check_weights(model, revision)
            model = create_model_from_path(model, **options)
        tokenizer = tokenizer or load_tokenizer(
            name, revision=revision, padding_side="left", trust_remote_code=args.trust_remote_code
        )
        model = wrap_model(model, tokenizer, name=name, revision=revision)
    if model.dtype == torch.float16 or (model.dtype != torch.float32 and not args.bf16):
        raise UserError(
            f"the weights of '{model.name}' are {str(model.dtype).removeprefix('torch.')}: set bf16=True for a bfloat16 "
            "model, whose trained tensors are then kept in float32, or load it in float32"
        )
    return model


def _spec(base: BaseModel, plan: str | ArmSpec, args: GRPOConfig) -> ArmSpec:
    spec = spec_of(base, plan, args.seed) if isinstance(plan, str) else plan
    refuse_spec(spec)
    return spec
