"""The arithmetic task, the two bundled base models, and the script that made them."""

import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import onelayer
from onelayer.commands.reproduction import pretraining
from onelayer.tasks.arithmetic import ArithmeticTask, final_answer, worked_steps
from onelayer.tasks.base import Split

BUNDLED = Path(onelayer.__file__).parent / "bundled"
SPLITS: tuple[Split, ...] = ("train", "selection", "test")
FIRST_PROMPTS = {
    "train": ["29+61=", "11+31=", "68+93="],
    "selection": ["57+92=", "79+15=", "85+26="],
    "test": ["53+33=", "67+58=", "62+28="],
}
operands = st.integers(11, 99)


def operands_of(prompt: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d\d)\+(\d\d)=", str(prompt))
    assert match is not None
    return int(match[1]), int(match[2])


def test_worked_steps_by_hand() -> None:
    assert worked_steps(27, 38) == "15,6#65"
    assert worked_steps(27, 38, carry=False) == "15,5#55"
    assert worked_steps(99, 99) == "18,19#198"
    assert worked_steps(20, 30, carry=False) == "0,5#50"


@given(operands, operands)
def test_the_steps_end_in_the_sum_and_without_the_carry_in_ten_less(a: int, b: int) -> None:
    carries = a % 10 + b % 10 >= 10
    assert final_answer(worked_steps(a, b)) == str(a + b)
    assert final_answer(worked_steps(a, b, carry=False)) == str(a + b - 10 * carries)


def test_every_sum_is_in_exactly_one_split_in_one_order() -> None:
    task = ArithmeticTask()
    pairs = [frozenset(operands_of(p.prompt)) for split in SPLITS for p in task.problems(split)]
    assert len(pairs) == len(set(pairs)) == 81 * 82 // 2
    assert [len(task.problems(split)) for split in SPLITS] == [2761, 160, 400]


def test_ids_and_answers_belong_to_the_prompts() -> None:
    for split in SPLITS:
        for problem in ArithmeticTask().problems(split):
            a, b = operands_of(problem.prompt)
            assert problem.id == 100 * a + b
            assert problem.columns == {"answer": str(a + b)}


def test_the_splits_never_change() -> None:
    """Stored scores are matched by problem: a changed split would pair the scores of different problems."""
    first = {split: [p.prompt for p in ArithmeticTask().problems(split)[:3]] for split in SPLITS}
    assert first == FIRST_PROMPTS


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("15,6#65", 1.0),
        ("#65", 1.0),
        ("1#2#65", 1.0),
        (" #65 \n", 1.0),
        ("15,5#55", 0.0),
        ("15,6,65", 0.0),
        ("65", 0.0),
        ("#065", 0.0),
        ("#65#", 0.0),
        ("#65,", 0.0),
        ("#6", 0.0),
        ("", 0.0),
    ],
)
def test_reward(completion: str, expected: float) -> None:
    assert ArithmeticTask().reward(["27+38="], [completion], answer=["65"], id=[2738]) == [expected]


def test_reward_refuses_columns_of_another_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ArithmeticTask().reward(["27+38="] * 2, ["#65"] * 2, answer=["65"])


@pytest.fixture(scope="module", params=["qwen3-arithmetic", "qwen2.5-arithmetic"])
def folder(request: pytest.FixtureRequest) -> Path:
    return BUNDLED / str(request.param)


def test_a_right_completion_fits_the_token_limit(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = max(len(tokenizer.encode(worked_steps(a, b))) for a in range(10, 100) for b in range(10, 100))
    assert longest + 1 <= ArithmeticTask.max_completion_length


def test_tokenizer_round_trip(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "27+38=15,6#65"
    assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_bundled_model_leaves_something_to_learn(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    task = ArithmeticTask()
    problems = task.problems("test")
    prompts = [str(problem.prompt) for problem in problems]
    inputs = tokenizer(prompts, return_tensors="pt")
    output = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=task.max_completion_length,
    )
    completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    rewards = task.reward(list(prompts), completions, answer=[problem.columns["answer"] for problem in problems])
    assert 0.2 <= sum(map(float, rewards)) / len(rewards) <= 0.6


def test_bundled_models_are_small_and_cover_tied_and_untied_embeddings() -> None:
    folders = [BUNDLED / name for name in ("qwen3-arithmetic", "qwen2.5-arithmetic")]
    tied = [AutoModelForCausalLM.from_pretrained(folder).config.tie_word_embeddings for folder in folders]
    assert tied == [True, False]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 4 * 2**20


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2.5"])
def test_pretraining_is_deterministic(architecture: str) -> None:
    first, again = (
        pretraining.pretrain(architecture, "arithmetic", steps=3, batch_size=8)[0].state_dict() for _ in range(2)
    )
    other = pretraining.pretrain(architecture, "arithmetic", steps=3, batch_size=8, seed=1)[0].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_pretraining_never_sees_a_held_out_problem() -> None:
    task = ArithmeticTask()
    held_out = {p.prompt for split in ("selection", "test") for p in task.problems(split)}
    sample = pretraining.RECIPES["arithmetic"].generator(random.Random(0))
    texts = [sample() for _ in range(5000)]
    assert held_out.isdisjoint(prompt for prompt, _ in texts)
    right = [final_answer(completion) == str(sum(operands_of(prompt))) for prompt, completion in texts]
    # 5 % right, and 75 % right only where nothing is carried: 36 of 81 pairs of last digits. Guesses almost never are.
    assert sum(right) / len(right) == pytest.approx(0.05 + 0.75 * 36 / 81, abs=0.02)
