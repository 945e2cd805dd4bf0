"""Rewards are called as TRL calls them: TRL's own code and ours on the same functions, call by call."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer
from trl.trainer.utils import shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from onelayer.tasks.dataset import DatasetTask
from onelayer.tasks.reward_call import Told, metrics_of
from onelayer.training.grading import grade_texts, rewards_of

TEXTS = ["a", "bb", "", "dddd"]
IDS = [[5], [6, 7], [1], [8, 9, 9, 8]]
TEXT_ROWS = [{"prompt": f"{n}+1=", "answer": str(n + 1), "level": n, "tests": [n]} for n in range(4)]
CHAT_ROWS = [
    {
        "prompt": [
            {"role": "user", "content": f"{n}"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": n}}}]},
            {"role": "tool", "name": "f", "content": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "completion": "of the row",
    }
    for n in range(4)
]
TENSORS = {
    "floats": lambda n: [0.1 * i for i in range(n)],
    "numpy": lambda n: np.linspace(0, 1, n),
    "float32": lambda n: list(np.linspace(0, 1, n, dtype=np.float32)),
    "tensor": lambda n: torch.arange(n) / 3,
    "scalars": lambda n: [torch.tensor(i / 7) for i in range(n)],
    "truth": lambda n: [i % 2 == 0 for i in range(n)],
    "some": lambda n: [None, float("nan"), np.nan, 1.0][:n],
    "generator": lambda n: (i / 9 for i in range(n)),
}


@pytest.fixture(scope="module")
def loop() -> Iterator[Any]:
    thread, loop, ready = start_event_loop_in_daemon("test")
    ready.wait()
    yield loop
    shutdown_event_loop_in_daemon(thread, loop)


def ask_trl(reward: Any, rows: list[dict[str, Any]], loop: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """What ``GRPOTrainer`` makes of a function: (n,) rewards, and the metrics that the function logs."""
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        reward_funcs=[reward],
        reward_processing_classes=[None],
        reward_func_names=["reward"],
        state=SimpleNamespace(global_step=3, max_steps=9),
        environments=None,
        chat_template_kwargs={},
        async_loop=loop,
        _pending_metrics=defaultdict(list),
        _pending_extra_logs=defaultdict(list),
    )
    trainer._log_metric = lambda *args: GRPOTrainer._log_metric(trainer, *args)
    trainer._log_completion_extra = lambda *args: GRPOTrainer._log_completion_extra(trainer, *args)
    chat = isinstance(rows[0]["prompt"], list)
    completions = [[{"role": "assistant", "content": text}] if chat else text for text in TEXTS]
    found = GRPOTrainer._calculate_rewards(trainer, rows, [row["prompt"] for row in rows], completions, IDS)
    return found[:, 0], {f"reward/{name}": sum(v) / len(v) for name, v in trainer._pending_metrics.items()}


def ask_us(reward: Any, rows: list[dict[str, Any]]) -> tuple[torch.Tensor, dict[str, float]]:
    task = DatasetTask("d", [*rows, {"prompt": "test"}, {"prompt": "selection"}], reward, "prompt", 1, 1)
    by_id = {p.id: p for split in ("train", "test", "selection") for p in task.problems(split)}  # type: ignore[arg-type]
    told = Told(3, 9)
    # The columns of the first rows only, as TRL has them.
    problems = [by_id[number] for number in range(len(rows))]
    return rewards_of(grade_texts(task, problems, TEXTS, ids=IDS, told=told)).float(), metrics_of(told.numbers)


def plain(value: Any) -> Any:
    """What a call got, to compare: functions by their kind, the state by what it says."""
    if callable(value):
        return "a function"
    return (value.global_step, value.max_steps) if hasattr(value, "global_step") else value


@pytest.mark.parametrize("rows", [TEXT_ROWS, CHAT_ROWS], ids=["text", "chat"])
@pytest.mark.parametrize("kind", ["plain", "async", "object", "async object"])
def test_a_call_is_trls_to_the_last_keyword(rows: list[dict[str, Any]], kind: str, loop: Any) -> None:
    calls: list[dict[str, Any]] = []

    def note(args: tuple[Any, ...], columns: dict[str, Any]) -> list[float]:
        calls.append({"args": args, **{name: plain(value) for name, value in columns.items()}})
        columns["log_metric"]("seen", 2.5)
        columns["log_metric"]("seen", 3.5)
        columns["log_extra"]("seen", TEXTS)
        return [float(len(ids)) for ids in columns["completion_ids"]]

    async def awaited(*args: Any, **columns: Any) -> list[float]:
        return note(args, columns)

    class Plain:
        __name__ = "plain"

        def __call__(self, *args: Any, **columns: Any) -> list[float]:
            return note(args, columns)

    class Awaited:
        __name__ = "awaited"

        async def __call__(self, *args: Any, **columns: Any) -> list[float]:
            return note(args, columns)

    rewards: dict[str, Any] = {
        "plain": lambda *args, **columns: note(args, columns),
        "async": awaited,
        "object": Plain(),
        "async object": Awaited(),
    }
    theirs, ours = ask_trl(rewards[kind], rows, loop), ask_us(rewards[kind], rows)
    assert torch.equal(theirs[0], ours[0])
    assert theirs[1] == ours[1] == {"reward/seen": 3.0}
    assert calls[0] == calls[1]
    assert {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"} < calls[0].keys()


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("awaited", [False, True])
def test_an_answer_means_what_it_means_to_trl(kind: str, awaited: bool, loop: Any) -> None:
    make: Callable[[int], Any] = TENSORS[kind]

    def reward(completions: list[str], **columns: Any) -> Any:
        return make(len(completions))

    async def later(completions: list[str], **columns: Any) -> Any:
        return make(len(completions))

    function = later if awaited else reward
    theirs, ours = ask_trl(function, TEXT_ROWS, loop)[0], ask_us(function, TEXT_ROWS)[0]
    assert torch.equal(theirs.nan_to_num(-1), ours.nan_to_num(-1))
    assert (
        theirs.isnan().tolist()
        == ours.isnan().tolist()
        == ([True, True, True, False] if kind == "some" else [False] * 4)
    )
