"""Whatever a person or a model writes: an answer or one plain sentence, never a traceback.

``FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz.py`` tries more than the few of every run of the tests.
"""

import base64
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from onelayer.arms.delta_files import read_delta_header
from onelayer.arms.plan import parse_plan
from onelayer.commands.model_card import Origin, model_card
from onelayer.config.configs import BenchmarkConfig, ScanConfig, TrainConfig
from onelayer.config.sources import build, read_yaml
from onelayer.errors import RunStopped, UserError
from onelayer.evaluation.harness import parse_tasks
from onelayer.judging.measured import read_measured
from onelayer.judging.profile import Profile
from onelayer.judging.score_csv import read_csv
from onelayer.report.data import read_scan as read_for_report
from onelayer.report.judge_csv import judge_csv, parse_categories
from onelayer.report.judge_scan import judge_scan
from onelayer.report.page import write_report
from onelayer.storage.files import read_sealed
from onelayer.storage.scores import read_scores
from onelayer.tasks.arithmetic import final_answer
from onelayer.tasks.benchmarks import get_benchmark
from onelayer.tasks.graders.code_tests import extract_code, parse_tests, same_output
from onelayer.tasks.graders.grade_file import read_rows
from onelayer.tasks.graders.math_compare import compare_plainly
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_text import RULES, extract_answer, reference_answer
from onelayer.tasks.livecodebench import all_tests
from onelayer.tasks.sources import read_file
from onelayer.tasks.training import local_files
from tests.support.fuzzed import BENCHMARK, mutated, values
from tests.support.reports import invented, write_scan

few = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fine(call: Callable[[], object]) -> bool:
    """Whether a call answered; a sentence counts as no answer, and anything else fails the test."""
    try:
        call()
    except (UserError, RunStopped) as error:
        assert str(error).strip()
        return False
    return True


# --- plans and configurations


PIECES = [
    "all",
    "embed",
    "head",
    "final_norm",
    "best",
    "worst",
    "boost",
    "mid",
    "random",
    "lora",
    "lisa",
    "every",
    "attn",
]


@few
@given(
    st.text(max_size=20)
    | st.lists(st.sampled_from([*PIECES, *":,*@-./0123456789 ;"]), max_size=12).map("".join)
    | mutated("all,9-13*2,mid:5.attn,random:2@0"),
    st.integers(1, 48),
)
def test_plans(text: str, layers: int) -> None:
    fine(lambda: parse_plan(text, layers, lambda path, which: range(layers)))
    fine(lambda: parse_plan(text, layers))


@few
@given(st.sampled_from([ScanConfig, TrainConfig, BenchmarkConfig]), st.data())
def test_configurations(kind: Any, data: st.DataObject) -> None:
    known = st.sampled_from(sorted(kind.model_fields))
    given_values = data.draw(st.dictionaries(known | st.text(max_size=8), values, max_size=5))
    base = (
        {"model": "m", "task": "arithmetic"} if kind is not BenchmarkConfig else {"model": "m", "benchmarks": "gsm8k"}
    )
    fine(lambda: build(kind, [("here", base), ("there", given_values)]))


@few
@given(
    st.binary(max_size=60)
    | mutated("steps: 3\nlayers: all\nlearning-rate: 1e-5\n").map(lambda s: s.encode(errors="replace"))
)
def test_configuration_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    fine(lambda: build(ScanConfig, [("file", read_yaml(path)), ("line", {"model": "m", "task": "arithmetic"})]))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch owned']", "a: !!python/name:os.system"])
def test_yaml_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    assert not fine(lambda: read_yaml(Path("c.yaml")))
    assert not Path("owned").exists()


@few
@given(st.data())
def test_benchmark_files(tmp_path: Path, data: st.DataObject) -> None:
    changed = dict(BENCHMARK)
    for key in data.draw(st.lists(st.sampled_from([*BENCHMARK, "keep", "stop", "num_samples", "x"]), max_size=3)):
        changed[key] = data.draw(values)
    path = tmp_path / "b.yaml"
    path.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8", errors="replace")
    fine(lambda: get_benchmark(str(path)))


@few
@given(st.text(max_size=40))
def test_categories(text: str) -> None:
    fine(lambda: parse_categories(text))


@few
@given(st.text(max_size=40) | mutated("own=a.jsonl,gsm8k:Math,ifeval"))
def test_lists_of_names(text: str) -> None:
    fine(lambda: parse_tasks(text))
    fine(lambda: local_files(text, []))
    fine(lambda: local_files(text, [get_benchmark("gsm8k")]))


@few
@given(
    st.binary(max_size=60)
    | mutated("use_vllm: true\nmax_tool_calling_iterations: 2\n").map(lambda s: s.encode(errors="replace"))
    | st.dictionaries(st.sampled_from(["use_vllm", "vllm_mode", "beta", "deepspeed", "x"]), values, max_size=2).map(
        lambda given: yaml.safe_dump(given).encode(errors="replace")
    )
)
def test_engine_options(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("trl", reason="the trl extra is not installed")
    from onelayer.engines.trl.options import check_options

    path = tmp_path / "engine.yaml"
    path.write_bytes(content)
    line = {"model": "m", "task": "arithmetic", "engine": "trl", "engine_options": str(path)}
    fine(lambda: check_options(build(TrainConfig, [("line", line)]), 1))


# --- files of scores and problems


WIDE = "setting,layer,gsm8k,math\nBase,,10,20\nFull,,30,40\nlayer,0,20,30\nlayer,1,15.5,22\n"
LONG = "setting,layer,seed,problem,sample,score\n" + "".join(
    f"{setting},{layer},0,{problem},0,{(problem + bonus) % 3 / 2}\n"
    for bonus, (setting, layer) in enumerate([("base", ""), ("full", ""), ("l", "0")])
    for problem in range(3)
)


@few
@given(st.binary(max_size=80) | (mutated(WIDE) | mutated(LONG)).map(lambda s: s.encode(errors="replace")))
def test_csv_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    fine(lambda: read_csv(path))
    fine(lambda: read_csv(path, score_sd=0.5))


@settings(few, max_examples=max(5, few.max_examples // 8))
@given(mutated(WIDE) | mutated(LONG))
def test_judging_csv_files(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("csv")
    (folder / "s.csv").write_text(text, encoding="utf-8", errors="replace")
    fine(lambda: judge_csv(folder / "s.csv", folder / "out"))


ROWS = '{"prompt": "1+1=", "answer": "2"}\n{"prompt": [{"role": "user", "content": "x"}], "answer": 3}\n'


@few
@given(
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
    st.binary(max_size=60) | mutated(ROWS).map(lambda s: s.encode(errors="replace")),
)
def test_data_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"d{suffix}"
    path.write_bytes(content)
    fine(lambda: read_file(path))
    fine(lambda: read_scores(path))
    for grader in ("math", "code"):
        fine(lambda: read_rows(path, grader))  # type: ignore[arg-type]  # noqa: B023


@few
@given(values, st.binary(max_size=40))
def test_packed_tests(tests: Any, packed: bytes) -> None:
    fine(lambda: parse_tests(tests))
    fine(lambda: parse_tests(json.dumps(tests)))
    for private in (packed.decode("latin-1"), base64.b64encode(zlib.compress(packed)).decode(), json.dumps(tests)):
        fine(lambda: all_tests({"public": json.dumps(tests), "private": private, "metadata": "{}"}, "row 1"))  # noqa: B023


def test_what_was_found() -> None:
    """Inputs that once ended in a traceback."""
    for rate in (None, [], {}, True, "inf", "auto:nan,1e-5", "auto:1e-5,inf"):
        line = {"model": "m", "task": "arithmetic", "learning_rate": rate}
        assert not fine(lambda: build(ScanConfig, [("file", line)]))  # noqa: B023
    assert not fine(lambda: local_files("rows.jsonl", []))
    packed = base64.b64encode(zlib.compress(b"\x8d\0\0\0\0\0\0\0\x80")).decode()
    assert not fine(lambda: all_tests({"public": "[]", "private": packed, "metadata": "{}"}, "row 1"))


# --- what models write


PARTS = [
    *("\\boxed{", "}", "{", "\\frac{1}{2}", "\\text{", "answer is", "#### ", "$", "1,234", "0.\\overline{3}", "%"),
    *("-", "\\", "x^2", "(", "]", "10\\%"),
]


@settings(few, max_examples=4 * few.max_examples)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=20).map("".join))
def test_answers(text: str) -> None:
    for rule in RULES:
        for strict in (False, True):
            found = extract_answer(text, rule, strict=strict)
            assert found is None or isinstance(found, str)
    normal = normalize(text)
    compare_plainly(normal, normalize(text[::-1]))
    reference_answer(text)
    final_answer(text)
    extract_code(text)
    same_output(text, text[::-1])


# --- folders of runs


@pytest.fixture(scope="module")
def scan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scan folder with every kind of file."""
    folder = write_scan(tmp_path_factory.mktemp("fuzz") / "scan", invented())
    turn = {"observation": "o", "completion": "c", "action": "a", "valid": True}
    episode = {"rank": "best", "goal": "g", "reason": "success", "steps": [turn]}
    (folder / "arms/full/trajectories.jsonl").write_text(json.dumps(episode) + "\n")
    return folder


HEADER = {"base_model": "m", "revision": None, "base_hash": "0", "plan": "all"}
DAMAGED = (
    *("profile.json", "manifest.json", "config.yaml"),
    *("arms/full/arm.json", "arms/full/metrics.jsonl", "arms/full/trajectories.jsonl"),
)


@pytest.fixture
def restored(scan_folder: Path) -> Iterator[Path]:
    kept = {name: (scan_folder / name).read_bytes() for name in DAMAGED}
    yield scan_folder
    for name, content in kept.items():
        (scan_folder / name).write_bytes(content)


@settings(few, max_examples=2 * few.max_examples)
@given(st.sampled_from(DAMAGED), st.data())
def test_damaged_folders(restored: Path, name: str, data: st.DataObject) -> None:
    path = restored / name
    kept = path.read_bytes()
    text = kept.decode()
    try:
        content: Any = data.draw(st.just("text") | st.just("value") | st.just("bytes"))
        if content == "value" and name.endswith(".json"):
            record = json.loads(text)
            record[data.draw(st.sampled_from(sorted(record)))] = data.draw(values)
            path.write_text(json.dumps(record), encoding="utf-8", errors="replace")
        elif content == "bytes":
            place = data.draw(st.integers(0, len(kept)))
            path.write_bytes(kept[:place] + data.draw(st.binary(min_size=1, max_size=3)) + kept[place:])
        else:
            path.write_text(data.draw(mutated(text)), encoding="utf-8", errors="replace")
        fine(lambda: read_for_report(restored))
        fine(lambda: read_measured(restored))
        fine(lambda: judge_scan(restored))
        fine(lambda: Profile.load(restored))
        fine(lambda: model_card(HEADER, Origin.of(restored / "arms/full/delta.safetensors"), command="c", merged=True))
        if data.draw(st.integers(0, 9)) == 0:
            fine(lambda: write_report([restored]))
    finally:
        path.write_bytes(kept)


@few
@given(
    st.binary(max_size=80) | st.dictionaries(st.text(max_size=6), st.text(max_size=20), max_size=2),
    st.binary(max_size=20),
)
def test_deltas(tmp_path: Path, content: Any, tail: bytes) -> None:
    path = tmp_path / "delta.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        header = {"onelayer": content.get("onelayer", json.dumps(content)), **content}
        save_file({"w": torch.zeros(2)}, path, metadata=header)
        path.write_bytes(path.read_bytes() + tail[:1])
    fine(lambda: read_delta_header(path))


@few
@given(st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()))
def test_sealed_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sealed.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\w"):
        read_sealed(path)
