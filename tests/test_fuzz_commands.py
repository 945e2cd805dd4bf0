"""Every command on a folder in which one file is damaged: it works, or ends with one sentence, never a traceback.

``FUZZ_EXAMPLES=500 python -m pytest tests/test_fuzz_commands.py`` tries more than the few of every run of the tests.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onelayer.commands.cli import main
from tests.conftest import save_model
from tests.support.fuzzed import BENCHMARK, mutated, values

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "3"))
SCAN = (
    "scan --model m --task arithmetic --layers 0,1 --steps 1 --train-batch-size 2 --num-generations 4 --eval-steps 0 "
    "--max-completion-length 4 --learning-rate 1e-2"
)
EVAL = "eval --model m --benchmarks own.yaml --data-files own=own.jsonl"
SCORING = "--benchmarks own.yaml --data-files own=own.jsonl"
COMMANDS = {
    "report": "report scan",
    "compare": "compare scan whole --output out",
    "plan": "plan best:1@scan --model m --task arithmetic",
    "train": "train --model m --task arithmetic --layers best:1@scan --steps 1 --output out",
    "card": "merge scan/arms/layer-01 --delta-only --output out",
    "merge": "merge scan/arms/layer-01 --output out",
    "delta": f"eval --delta scan/arms/layer-01 {SCORING} --output out",
    "scans": f"eval --scan scan {SCORING} --output out",
    "vote": "vote scan --k 2",
    "stitch": "stitch scan --layers 0,1",
    "resume": f"{SCAN} --output scan --resume",
    "eval": f"{EVAL} --output eval --resume",
}
FILES = (
    *("manifest.json", "config.yaml", "profile.json", "arms/base/arm.json", "arms/layer-01/arm.json"),
    *("arms/layer-01/metrics.jsonl", "arms/layer-01/scores.parquet", "arms/layer-01/delta.safetensors"),
)
OF_EVAL = ("results.json", "scores.parquet", "completions.jsonl")


def run(line: str) -> tuple[int, str]:
    """Run a command here: exit code and what it says of an error."""
    said = io.StringIO()
    before, sys.argv = sys.argv, ["onelayer", *shlex.split(line)]
    code = 0
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, said.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, a benchmark, a finished scan and a finished eval; the commands are run in it."""
    folder = tmp_path_factory.mktemp("commands")
    before = Path.cwd()
    os.chdir(folder)
    save_model(folder / "m", layers=2)
    Path("own.yaml").write_text(yaml.safe_dump(BENCHMARK))
    Path("own.jsonl").write_text("".join(json.dumps({"q": f"{i}+{i}", "a": i}) + "\n" for i in range(4)))
    assert run(f"{SCAN} --output whole") == (0, "")
    assert run(f"{EVAL} --output whole-eval") == (0, "")
    yield folder
    os.chdir(before)


def damage(path: Path, data: st.DataObject) -> None:
    """Change a file: some of its text or bytes, one of its values, or take it away."""
    if path.suffix == ".json" and data.draw(st.booleans(), label="a value"):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        inner = record
        while data.draw(st.booleans(), label="deeper"):
            nested = [value for value in inner.values() if isinstance(value, dict) and value]
            if not nested:
                break
            inner = data.draw(st.sampled_from(nested))
        key = data.draw(st.sampled_from(sorted(inner)))
        if data.draw(st.booleans(), label="without it"):
            del inner[key]
        else:
            inner[key] = data.draw(values)
        path.write_text(json.dumps(record), encoding="utf-8", errors="replace")
    elif path.suffix in (".parquet", ".safetensors"):
        content = bytearray(path.read_bytes())
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        path.write_bytes(bytes(content))
    else:
        change = st.binary(max_size=40) | mutated(path.read_text(encoding="utf-8")).map(
            lambda text: text.encode(errors="replace")
        )
        path.write_bytes(data.draw(change))


@pytest.mark.parametrize("name", COMMANDS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_commands_on_damaged_folders(place: Path, name: str, data: st.DataObject) -> None:
    for left in ("scan", "eval", "out"):
        shutil.rmtree(place / left, ignore_errors=True)
    target, files = ("eval", OF_EVAL) if name == "eval" else ("scan", FILES)
    shutil.copytree(place / ("whole-eval" if name == "eval" else "whole"), place / target)
    damage(place / target / data.draw(st.sampled_from(files)), data)
    code, said = run(COMMANDS[name])
    assert code in (0, 1, 2)
    assert said.startswith("error: ") == bool(code), said
    assert said.count("\n") == bool(code), said
