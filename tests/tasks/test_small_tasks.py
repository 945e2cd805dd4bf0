"""The bundled small versions of math and code: their problems, their graders, their models."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import onelayer
from onelayer.commands.reproduction import pretraining
from onelayer.config.configs import TrainConfig
from onelayer.config.sources import build, preset_path, read_yaml
from onelayer.config.task import TaskConfig
from onelayer.errors import UserError
from onelayer.runs.inputs import load_task, start_sandbox
from onelayer.tasks import code
from onelayer.tasks.arithmetic import ArithmeticTask, worked_steps
from onelayer.tasks.arithmetic_boxed import BoxedArithmeticTask, boxed_steps
from onelayer.tasks.base import Split
from onelayer.tasks.code import CLOSED, HEADER, HIDDEN_INPUTS, OPEN, CodeTask, SliceFunction, prompt_text
from onelayer.tasks.graders import code_sandbox
from onelayer.tasks.registry import get_task

BUNDLED = Path(onelayer.__file__).parent / "bundled"
SPLITS: tuple[Split, ...] = ("train", "selection", "test")
MIDDLE = SliceFunction(1, 4, "")


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> Iterator[None]:
    """One shared sandbox for the tests here, closed after them."""
    kept, code_sandbox._shared = code_sandbox._shared, []
    yield
    for each in code_sandbox._shared:
        each.close()
    code_sandbox._shared = kept


# The problems of the code task ----------------------------------------------------------------------------------------
def test_functions_by_hand() -> None:
    assert prompt_text(MIDDLE, "behknqt") == "# behknqt -> ehk\ndef f(x): return "
    assert (MIDDLE.source, MIDDLE("behknqt")) == ("x[1:4]", "ehk")
    assert (SliceFunction(0, 3, "[::-1]").source, SliceFunction(0, 3, "[::-1]")("behknqt")) == ("x[:3][::-1]", "heb")
    assert (SliceFunction(4, None, "+x[0]").source, SliceFunction(4, None, "+x[0]")("behknqt")) == (
        "x[4:]+x[0]",
        "nqtb",
    )
    assert json.loads(MIDDLE.tests)["inputs"] == [["sandbox"], ["examples"], ["pythonic"], ["transform"]]
    assert json.loads(MIDDLE.tests)["outputs"] == ["and", "xam", "yth", "ran"]


def test_python_gives_every_function_the_same_values() -> None:
    for function in OPEN + CLOSED:
        for text in ("behknqt", "transform", "ab", ""):
            if text or not function.suffix.startswith("+"):
                assert eval(f"lambda x: {function.source}")(text) == function(text)


def test_tests_and_prompts_tell_all_functions_apart() -> None:
    functions = OPEN + CLOSED
    assert len(functions) == 45
    assert len({function.tests for function in functions}) == 45
    assert len({prompt_text(function, "behknqt") for function in functions}) == 45


def test_no_problem_is_in_two_splits() -> None:
    problems = {split: CodeTask.problems(split) for split in SPLITS}
    assert [len(problems[split]) for split in SPLITS] == [4000, 160, 400]
    every = [problem for split in SPLITS for problem in problems[split]]
    assert len({problem.id for problem in every}) == len({problem.prompt for problem in every}) == 4560


def test_the_code_splits_never_change() -> None:
    """Stored scores are matched by problem: a changed split would pair the scores of different problems."""
    assert {split: str(CodeTask.problems(split)[0].prompt).splitlines()[0] for split in SPLITS} == FIRST_EXAMPLES
    assert [CodeTask.problems(split)[0].id for split in SPLITS] == [560, 400, 0]


FIRST_EXAMPLES = {
    "train": "# behkmru -> kmru",
    "selection": "# cegkopu -> upok",
    "test": "# cfhlnqs -> sqnlhfc",
}


def test_prompts_show_no_hidden_input() -> None:
    for problem in CodeTask.problems("train"):
        match = re.fullmatch(r"# ([a-u]{7}) -> ([a-u]{2,8})\ndef f\(x\): return ", str(problem.prompt))
        assert match is not None
        assert match[1] not in HIDDEN_INPUTS
        assert len(set(match[1])) == 7
        assert json.loads(problem.columns["tests"])["fn_name"] == "f"


# The rewards ----------------------------------------------------------------------------------------------------------
def test_programs_are_judged_by_what_they_return() -> None:
    completions = {
        "x[1:4]": 1.0,
        "x[1:][:3]": 1.0,  # another way to the same values
        "x[1:3]": 0.0,
        "x[1:4]+x[0]": 0.0,
        "x[1:4": 0.0,
        "": 0.0,
        "x": 0.0,
    }
    task = CodeTask()
    rewards = task.reward(["p"] * 7, list(completions), tests=[MIDDLE.tests] * 7, id=list(range(7)))
    assert rewards == list(completions.values())


def test_every_function_passes_its_own_tests_and_fails_when_it_stops_too_early() -> None:
    early = [SliceFunction(each.start, (each.stop or 0) - 1, each.suffix) for each in CLOSED]
    completions = [each.source for each in (*OPEN, *CLOSED, *early)]
    tests = [each.tests for each in (*OPEN, *CLOSED, *CLOSED)]
    assert CodeTask().reward([""] * 75, completions, tests=tests) == [1.0] * 45 + [0.0] * 30


def test_equal_programs_are_run_once_and_passing_faults_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def grade(programs: list[str], tests: list[str]) -> list[Any]:
        asked.extend(program.removeprefix(HEADER) for program in programs)
        faults = {"c": "crash", "t": "timeout", "n": "not_graded"}
        return [code_sandbox.grade_of(faults.get(program[-1], "wrong")) for program in programs]

    monkeypatch.setattr(code, "grade_code", grade)
    task = CodeTask()
    assert task.reward([""] * 5, ["a", "c", "t", "n", "a"], tests=["1"] * 5) == [0.0, 0.0, 0.0, None, 0.0]
    assert task.reward([""] * 5, ["a", "c", "t", "n", "a"], tests=["1", "1", "1", "1", "2"]) == [0, 0, 0, None, 0]
    assert asked == ["a", "c", "t", "n", "c", "t", "n", "a"]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"15,6\boxed{65}", 1.0),
        (r"\boxed{65.0}", 1.0),  # the math grader's judgement, not a comparison of text
        (r"\boxed{55}\boxed{65}", 1.0),
        (r"15,5\boxed{55}", 0.0),
        (r"15,6\boxed{65", 0.0),
        ("15,6,65", 0.0),
        ("", 0.0),
    ],
)
def test_boxed_answers_go_through_the_math_grader(completion: str, expected: float) -> None:
    assert BoxedArithmeticTask().reward(["27+38="], [completion], answer=["65"], id=[1]) == [expected]


def test_boxed_problems_are_those_of_the_arithmetic_task() -> None:
    assert boxed_steps(worked_steps(27, 38)) == r"15,6\boxed{65}"
    for split in SPLITS:
        assert BoxedArithmeticTask().problems(split) == ArithmeticTask().problems(split)
    assert [BoxedArithmeticTask.parse_answer(text) for text in (r"\boxed{ 65 }", "65")] == ["65", None]


# The sandbox, at the start --------------------------------------------------------------------------------------------
def config_of(task: str, **options: Any) -> TrainConfig:
    return build(TrainConfig, [("preset", read_yaml(preset_path(task))), ("test", options)])


def test_the_protections_are_stated_when_the_task_is_loaded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_sandbox, "_shared", [])
    with caplog.at_level("INFO", logger="onelayer"):
        load_task(config_of("code"))
        load_task(config_of("code"))
        load_task(config_of("arithmetic-boxed"))
    code_sandbox._shared[0].close()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Programs run confined by")


def test_a_required_sandbox_refuses_holes_and_tasks_without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_sandbox, "probe", lambda sandbox: {"network": False, "memory": True})
    load_task(config_of("code"))
    with pytest.raises(UserError, match=r"succeeded \(network\)"):
        load_task(config_of("code", require_sandbox=True))
    with pytest.raises(UserError, match="'arithmetic' does not"):
        load_task(config_of("arithmetic", require_sandbox=True))
    with pytest.raises(UserError, match="'gsm8k' does not"):
        start_sandbox("gsm8k", False, require=True)


# The models -----------------------------------------------------------------------------------------------------------
TEXTS: dict[str, Callable[[Any], str]] = {
    "code": lambda problem: code.examples_and_functions()[problem.id][1].source,
    "arithmetic-boxed": lambda problem: boxed_steps(worked_steps(*divmod(problem.id, 100))),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tokenizer_round_trip_and_limits(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / f"qwen3-{name}")
    task: Any = get_task(name, TaskConfig())
    longest = 0
    for problem in task.problems("test"):
        text = problem.prompt + TEXTS[name](problem)
        ids = tokenizer.encode(text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
        longest = max(longest, len(tokenizer.encode(TEXTS[name](problem))) + 1)
    assert longest <= task.max_completion_length
    assert read_yaml(preset_path(name))["max_completion_length"] == task.max_completion_length


@pytest.mark.parametrize("name", TEXTS)
def test_bundled_model_leaves_something_to_learn(name: str) -> None:
    folder = BUNDLED / f"qwen3-{name}"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    task: Any = get_task(name, TaskConfig())
    problems = task.problems("test")
    inputs = tokenizer([problem.prompt for problem in problems], return_tensors="pt", padding=True)
    output = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=task.max_completion_length,
    )
    completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    columns = {key: [problem.columns[key] for problem in problems] for key in problems[0].columns}
    rewards = task.reward([problem.prompt for problem in problems], completions, **columns)
    assert 0.2 <= sum(rewards) / len(rewards) <= 0.6
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2 * 2**20


@pytest.mark.parametrize("name", TEXTS)
def test_pretraining_never_sees_a_held_out_problem(name: str) -> None:
    task: Any = get_task(name, TaskConfig())
    held_out = {p.prompt for split in ("selection", "test") for p in task.problems(split)}
    sample = pretraining.RECIPES[name].generator(random.Random(0))
    assert held_out.isdisjoint(sample()[0] for _ in range(5000))


def test_pretraining_mostly_stops_too_early() -> None:
    sample = pretraining.RECIPES["code"].generator(random.Random(0))
    right = {"open": [0, 0], "closed": [0, 0]}
    functions = {problem.prompt: TEXTS["code"](problem) for problem in CodeTask.problems("train")}
    for _ in range(5000):
        prompt, completion = sample()
        kind = "open" if ":]" in functions[prompt] else "closed"
        right[kind][0] += completion == functions[prompt]
        right[kind][1] += 1
    assert right["open"][0] / right["open"][1] == pytest.approx(0.85, abs=0.02)
    assert right["closed"][0] / right["closed"][1] == pytest.approx(0.10, abs=0.02)
