"""The commands that are made to fail, each small, and what has to be the same in the end whatever happened."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from tests.conftest import save_model

EXACT = {
    *("delta.safetensors", "scores.parquet", "profile.json", "completions.jsonl", "results.json", "graded.jsonl"),
    *("results.copy.json", "vote.json", "model.safetensors", "job.yaml", "contribution.svg"),
}
"""Files that are compared byte by byte."""
TIMES = ("seconds", "reward_seconds", "reward_share", "guard/slow_reward", "sha256", "checksum", "command")
BEFORE = "manifest.before.json"
"""The copy in case the file that counts gets damaged: how often that was written is not the same after a kill."""


@dataclass(frozen=True)
class Scenario:
    """A command.

    Args:
        name: what the table calls it.
        line: without --output and --resume, or with ``OUT`` for its folder where it has no --resume.
        begins: what the folder holds before it: nothing, not even the folder; an empty one; or what another scenario
            leaves.
    """

    name: str
    line: str
    begins: str = "nothing"

    @property
    def resumes(self) -> bool:
        """Whether it goes on with --resume; another is repeated."""
        return "OUT" not in self.line

    def argv(self, output: Path) -> list[str]:
        """The command for a folder: a new run, or one that continues what is there."""
        if not self.resumes:
            return shlex.split(self.line.replace("OUT", str(output)))
        return [*shlex.split(self.line), "--output", str(output), *(["--resume"] if output.exists() else [])]


SMALL = (
    "--dataset digits.jsonl --reward reward.py:digits --selection-size 4 --test-size 8 --train-batch-size 2 "
    "--num-generations 4 --max-completion-length 6 --learning-rate 1e-2 --micro-batch-size 8 --save-steps 1 --max-rows 32"
)
SCENARIOS = {
    each.name: each
    for each in (
        Scenario("scan", f"scan --model m3 {SMALL} --steps 3 --eval-steps 2 --arms-per-set 2 --layers 0,1"),
        Scenario(
            "halving",
            f"scan --model m3 {SMALL} --steps 4 --search halving --rungs 1 --strategies --strategy-k 1 --layers 0-2",
        ),
        Scenario(
            "rates",
            f"scan --model m3 {SMALL} --learning-rate auto:1e-3,1e-2 --steps 2 --layers 1 --seeds 2 --dtype bfloat16",
        ),
        Scenario(
            "train",
            f"train --model m3 {SMALL} --steps 5 --layers 'mid:1,head*2' --beta 0.05 --mini-batch-size 1 "
            "--num-iterations 2",
        ),
        Scenario("lisa", f"train --model m3 {SMALL} --steps 5 --layers lisa:1/2@0"),
        Scenario(
            "household",
            "train --model m3 --task household --algorithm gigpo --steps 3 --layers 1 --save-steps 1 --train-batch-size 2 "
            "--num-generations 2 --max-prompt-length 100 --max-completion-length 4 --learning-rate 1e-2 --max-env-steps 3 "
            "--eval-steps 0",
        ),
        Scenario(
            "eval",
            "eval --model m3 --benchmarks digits.yaml,greedy.yaml,more.yaml "
            "--data-files digits=d.jsonl,greedy=d.jsonl,more=d.jsonl --max-rows 16",
        ),
        Scenario("eval --scan", "eval --scan finished --benchmarks more.yaml --data-files more=d.jsonl --max-rows 64"),
        Scenario("grade", "grade answers.jsonl --grader math --output OUT/graded.jsonl", "empty"),
        Scenario("programs", "grade programs.jsonl --grader code --output OUT/graded.jsonl", "empty"),
        Scenario("merge", "merge finished/arms/layer-01 --output OUT"),
        Scenario("merge --delta-only", "merge finished/arms/layer-01 --delta-only --output OUT"),
        Scenario("export verl", f"export verl --plan mid:1 --model m3 {SMALL} --steps 3 --output OUT"),
        Scenario("contribution", "contribution scores.csv --output OUT"),
        Scenario("stitch", "stitch OUT --layers 0,1", "finished"),
        Scenario("vote", "vote OUT --k 2", "finished"),
        Scenario("report", "report OUT", "finished"),
        Scenario(
            "finished",
            "scan --model m3 --task arithmetic --layers 0,1 --steps 2 --train-batch-size 2 --num-generations 4 "
            "--max-completion-length 6 --learning-rate 1e-2 --eval-steps 0",
        ),
    )
}


def prepare(work: Path) -> None:
    """Write the model, the problems and the benchmarks that the commands use to a folder."""
    save_model(work / "m3", layers=3, tied=False, context=256)
    rows = [{"prompt": f"{i}+{j}=", "answer": str(i + j)} for i in range(6) for j in range(6)]
    (work / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "reward.py").write_text(
        "import pathlib, time\n"
        "def digits(prompts, completions, answer, **kwargs):\n"
        "    while pathlib.Path('hang').exists():\n        time.sleep(0.05)\n"
        "    return [sum(c.isdigit() for c in text) / 6 for text in completions]\n"
    )
    common = {
        "kind": "benchmark",
        "description": "own",
        "source": {"hub": "nobody/own"},
        "columns": {"problem": "q", "answer": "a"},
        "prompt": "{{ problem }}=",
        "grader": "math",
        "answer_rule": "last_number",
        "max_completion_length": 12,
        "category": "Math",
    }
    for name, more in (
        ("digits", {"num_samples": 8, "temperature": 1.0}),
        ("greedy", {}),
        ("more", {"num_samples": 2}),
    ):
        (work / f"{name}.yaml").write_text(yaml.safe_dump({**common, "temperature": 1.0, **more}))
    (work / "d.jsonl").write_text("".join(json.dumps({"q": f"{i}+{i}", "a": i}) + "\n" for i in range(9)))
    answers = [{"completion": f"\\boxed{{x^2+{i}}}", "answer": f"{i % 3}+x^2"} for i in range(60)]
    programs = [
        {"completion": f"def f(x):\n    return x + {i % 3}", "tests": [f"assert f(1) == {1 + i % 2}"]}
        for i in range(24)
    ]
    programs.append({"completion": "while True:\n    pass", "tests": ["assert True"]})
    (work / "scores.csv").write_text("setting,layer,gsm8k\nBase,,10\nFull,,30\nlayer,0,20\nlayer,1,15\n")
    (work / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in programs))
    (work / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))


def outcome(output: Path) -> dict[str, Any]:
    """What a finished command has left, by path: bytes, or values where times are among them."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = str(path.relative_to(output))
        if path.name in EXACT:
            found[name] = path.read_bytes()
        elif path.name == "arm.json":
            record = json.loads(path.read_text())
            found[name] = {key: value for key, value in record.items() if key not in TIMES}
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        else:
            found[name] = "there"
    return {name: value for name, value in found.items() if not name.endswith(BEFORE)}


def compared_bytes(found: dict[str, Any]) -> int:
    """How many bytes an outcome compares exactly."""
    return sum(len(value) for value in found.values() if isinstance(value, bytes))


def torn(output: Path) -> list[str]:
    """Files under their final names that a reader would stumble over, at any moment; none is allowed."""
    bad = []
    for path in output.rglob("*"):
        if not path.is_file() or path.name.endswith(".tmp") or path.name == ".lock":
            continue
        committed = path.parent.parent / f"{path.parent.name}.json"
        if "state" in path.parts and path.suffix == ".safetensors" and not committed.exists():
            continue  # a checkpoint without its commit does not exist
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as file:
                    list(file.keys())
            elif path.suffix == ".parquet":
                import pyarrow.parquet as pq

                pq.read_metadata(path)
        except Exception as error:
            bad.append(f"{path.relative_to(output)}: {error}")
    return bad
