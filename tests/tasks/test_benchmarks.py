"""Benchmarks and training sets: their files, the rows they make problems of, what is drawn and what is left out."""

import base64
import gzip
import json
import pickle
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onelayer.config.configs import TrainConfig
from onelayer.errors import UserError
from onelayer.storage import lines
from onelayer.tasks import livecodebench, sources
from onelayer.tasks.base import Scoring
from onelayer.tasks.benchmarks import Benchmark, get_benchmark, get_training_set, names
from onelayer.tasks.decontaminate import Overlap, words_of
from onelayer.tasks.livecodebench import all_tests
from onelayer.tasks.sources import read_file
from onelayer.tasks.training import benchmark_problems, load_training_task
from tests.support.problem_sets import ROWS, write_rows

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("name", names("benchmark") + names("training"))
def test_rows_of_every_bundled_set_are_asked_and_graded(name: str) -> None:
    source = get_benchmark(name) if name in names("benchmark") else get_training_set(name)
    row, right = ROWS[name]
    assert all(keep(row) for keep in source.keep)
    values = source.values(row, "row 0")
    text, chat = source.render(values, chat=False), source.render(values, chat=True)
    assert str(values["problem"]).strip() in text
    assert isinstance(chat, list)
    assert [message["role"] for message in chat] == ["user"]
    assert str(values["problem"]).strip() in chat[0]["content"]
    grades = source.grade([right, "41"], [source.expected(values, "row 0")] * 2)
    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_the_benchmarks_of_a_training_set_exist() -> None:
    for name in names("training"):
        for benchmark in get_training_set(name).benchmarks:
            assert get_benchmark(benchmark).category == get_training_set(name).category


def test_what_a_row_holds_is_never_a_template() -> None:
    row = {"question": "{{ 7 * 7 }} {% raw %}", "answer": "#### 1"}
    benchmark = get_benchmark("gsm8k")
    assert "{{ 7 * 7 }} {% raw %}" in benchmark.render(benchmark.values(row, ""), chat=False)


def test_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    import gzip

    rows = [{"problem": "a", "n": 1}, {"problem": "b", "n": 2}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    for name, writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with writer(tmp_path / name, table.schema) as out:
            out.write_table(table)
    for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet", "file.arrow", "stream.arrow"):
        assert read_file(tmp_path / name) == rows


def test_hidden_tests_cannot_run_code_when_they_are_unpacked() -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return print, ("escaped",)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Attack()))).decode()
    with pytest.raises(UserError, match=r"row 3: the tests cannot be unpacked \(it asks for builtins.print\)"):
        all_tests({"public": "[]", "private": packed, "metadata": "{}"}, "row 3")


def test_overlap_by_hand() -> None:
    overlap = Overlap(["What is the sum of 2, 3 and 4?", "Find $x$."], n=4)
    assert words_of("Find $\\frac{x}{2}$.") == ["find", "frac", "x", "2"]
    assert "Say: the SUM of (2), please" in overlap  # the sum of 2
    assert "the sum of 3, 2 and 4" not in overlap
    assert "find x" in overlap
    assert "First find x and then y" not in overlap  # a short problem overlaps with its like only


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_overlap_agrees_with_a_naive_search(one: list[str], other: list[str], n: int) -> None:
    shared = any(one[i : i + n] == other[j : j + n] for i in range(len(one) - n + 1) for j in range(len(other) - n + 1))
    expected = shared or (one == other and len(one) < n)
    assert (" ".join(other) in Overlap([" ".join(one)], n)) == expected


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A training set and a benchmark of one's own, with local rows: 60 to train on, 6 of them in the benchmark too."""
    common = {
        "category": "Math",
        "source": {"hub": "nobody/sums"},
        "columns": {"problem": "q", "answer": "a"},
        "prompt": "{{ problem }}=",
        "grader": "math",
        "answer_rule": "last_number",
    }
    easy = {**common, "kind": "benchmark", "description": "sums", "num_samples": 4, "temperature": 0.7, "stop": [","]}
    (tmp_path / "easy.yaml").write_text(yaml.safe_dump(easy))
    benchmarks = [str(tmp_path / "easy.yaml"), "gsm8k"]
    train = {**common, "kind": "training", "description": "sums", "benchmarks": benchmarks, "train_size": 20}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(train))
    rows = [{"q": f"What is {i} plus {i + 1}", "a": 2 * i + 1} for i in range(60)]
    write_rows(tmp_path / "easy.jsonl", rows[:6])
    write_rows(tmp_path / "more.jsonl", [*rows, rows[9], rows[9], {"q": "What is it?", "a": None}])
    write_rows(tmp_path / "gsm8k.jsonl", [ROWS["gsm8k"][0]])
    return tmp_path


def config_of(folder: Path, **settings: Any) -> TrainConfig:
    files = ",".join(f"{name}={folder / name}.jsonl" for name in ("more", "easy", "gsm8k"))
    defaults = {"task": str(folder / "more.yaml"), "data_files": files, "selection_size": 10, "overlap_ngram": 5}
    return TrainConfig(**({"model": "none"} | defaults | settings))


def test_a_training_set_becomes_a_task(sums: Path) -> None:
    task = load_training_task(config_of(sums, train_size=None, data_seed=1))
    train, selection, test = (task.problems(split) for split in ("train", "selection", "test"))
    assert (len(train), len(selection), len(test)) == (20, 10, 7)
    assert [problem.id for problem in train] == sorted(problem.id for problem in train)
    prompts = [{str(problem.prompt) for problem in part} for part in (train, selection, test)]
    assert len(set().union(*prompts)) == 37
    assert test[0].scoring == Scoring("easy", 4, 0.7)
    assert test[0].stop == (",",)
    assert test[6].scoring == Scoring("gsm8k", 1, 0.0)
    assert task.draw is not None
    assert task.draw.rows == 63
    # Reward goes by the set that a problem is of.
    problems = [test[0], test[6], train[0]]
    completions = ["1", r"\boxed{5}", "none"]
    columns = {name: [problem.columns[name] for problem in problems] for name in ("problem_set", "answer")}
    assert task.reward([p.prompt for p in problems], completions, **columns) == [1.0, 1.0, 0.0]
    assert task.parse_answer("so 1,000.") == "1,000"
    assert task.parse_answer("nothing") is None


def test_what_is_left_out_is_counted(sums: Path) -> None:
    task = load_training_task(config_of(sums, train_size=1000))
    draw = task.draw
    assert draw is not None
    assert (draw.seen, draw.unusable, draw.repeated, draw.overlapping) == (63, 1, 2, 6)
    assert (draw.selection, draw.train) == (10, 44)
    assert "6 with 5 words in a row of a benchmark problem" in draw.sentence()
    everything = load_training_task(config_of(sums, train_size=1000, overlap_ngram=0)).draw
    assert everything is not None
    assert everything.train == 50


def test_the_draw_depends_on_its_seed_alone(sums: Path) -> None:
    def drawn(**settings: Any) -> list[int]:
        task = load_training_task(config_of(sums, **settings))
        return [problem.id for split in ("selection", "train") for problem in task.problems(split)]

    assert drawn() == drawn(seed=5, eval_num_samples=2)
    assert drawn() != drawn(data_seed=1)


def test_options_override_what_a_benchmark_says(sums: Path) -> None:
    task = load_training_task(config_of(sums, eval_num_samples=2, eval_temperature=0.0, chat=True))
    problem = task.problems("test")[0]
    assert problem.scoring == Scoring("easy", 2, 0.0)
    assert problem.prompt == [{"role": "user", "content": "What is 0 plus 1="}]
    assert problem.stop == ()  # stop texts belong to the plain prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "numina"}, "there is no training set 'numina'; did you mean numinamath?"),
        ({"task": "gsm8k"}, "'gsm8k' is no training set: its kind is 'benchmark'"),
        ({"benchmarks": "gsm8"}, "there is no benchmark 'gsm8'; did you mean gsm8k?"),
        ({"data_files": "more"}, "'more' is not NAME=FILE"),
        ({"data_files": "amc=a.jsonl"}, "'amc' is not used here; there are more, easy, gsm8k"),
        ({"selection_size": 60}, "more' has 54 usable rows of 63, too few for 60 selection problems"),
    ],
)
def test_wrong_options_are_one_sentence(sums: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_training_task(config_of(sums, **change))


@pytest.mark.parametrize(
    ("grader", "key", "value"),
    [
        ("code", "answer_rule", "auto"),
        ("code", "strict", True),
        ("code", "reference", "boxed"),
        ("math", "test_stubs", {"import numpy": ""}),
        ("math", "packed", True),
    ],
)
def test_keys_that_the_grader_would_not_read_are_errors(tmp_path: Path, grader: str, key: str, value: object) -> None:
    columns = {"problem": "q", "answer": "a", "tests": "t"}
    content = {"kind": "benchmark", "description": "d", "category": "Code", "source": {"hub": "nobody/x"}}
    content |= {"columns": columns, "prompt": "{{ problem }}", "grader": grader}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    assert get_benchmark(str(path)).grader == grader
    path.write_text(yaml.safe_dump(content | {key: value}))
    other = {"code": "math", "math": "code"}[grader]
    with pytest.raises(UserError, match=f"{key} is for the {other} grader, and the grader is {grader}; leave it out"):
        get_benchmark(str(path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"q": "x", "a": "1"}], "row 0: 'gsm8k' takes 'problem' from the column 'question', but the row has q, a"),
        ([ROWS["gsm8k"][0], {"question": "x", "answer": "no mark"}], "'gsm8k', row 1: the row has no reference answer"),
    ],
)
def test_rows_of_another_kind_are_one_sentence(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=message):
        benchmark_problems(get_benchmark("gsm8k"), str(path), chat=False, scoring=Scoring("gsm8k", 1, 0.0))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def check(:", "'humaneval', row 0: The tests are not valid Python"),
        ("def check(f):\n    import numpy.linalg", "'humaneval', row 0: the tests import 'numpy.linalg', but programs"),
    ],
)
def test_invalid_tests_are_one_sentence(tmp_path: Path, test: str, message: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**ROWS["humaneval"][0], "test": test}])
    with pytest.raises(UserError, match=message):
        benchmark_problems(get_benchmark("humaneval"), str(path), chat=False, scoring=Scoring("humaneval", 1, 0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grader": "maths"}, "grader: Input should be 'math' or 'code'"),
        ({"prompt": "{{ question }}"}, "the prompt uses 'question', which is not among the columns"),
        ({"prompt": "{% if %}"}, "no jinja template"),
        ({"columns": {"problem": "q"}}, "yaml': the columns for the math grader lack 'answer'"),
        ({"temprature": 1}, "there is no key 'temprature'; did you mean temperature?"),
    ],
)
def test_a_wrong_file_is_one_sentence(sums: Path, change: dict[str, Any], message: str) -> None:
    content = yaml.safe_load((sums / "easy.yaml").read_text()) | change
    (sums / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        get_benchmark(str(sums / "wrong.yaml"))


def test_real_problems_have_their_right_answers() -> None:
    if not DATA.is_dir():
        pytest.skip("the benchmark files are not here")
    files = {"gsm8k": ("gsm8k_test.jsonl", 1319), "math500": ("math500.jsonl", 500), "amc": ("amc23.jsonl", 83)}
    for name, (file, count) in files.items():
        benchmark: Benchmark = get_benchmark(name)
        problems, _ = benchmark_problems(benchmark, str(DATA / file), chat=False, scoring=Scoring(name, 1, 0.0))
        assert len(problems) == count
        some = problems[::23]
        grades = benchmark.grade([f"\\boxed{{{p.columns['answer']}}}" for p in some], [p.columns for p in some])
        assert all(grade.reward == 1.0 for grade in grades)


def pickled(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def test_hidden_tests_are_unpacked_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB of blanks are 16 kB when they are compressed; where the bound is lower they are not unpacked."""
    case = [{"input": "4", "output": "8", "testtype": "stdin"}]
    large = pickled(pickle.dumps(json.dumps(case) + " " * 2**24))
    assert len(large) < 2**16
    row = {"public": "[]", "private": large, "metadata": "{}"}
    assert all_tests(row, "row 1") == [{**case[0], "metadata": {}}]
    monkeypatch.setattr(livecodebench, "MOST_UNPACKED", 2**20)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"row 1: the tests cannot be unpacked \(they are larger than 1 MiB\)"):
        all_tests(row, "row 1")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    for size in (2**20 - 30, 2**20 + 30):
        exact = pickled(b" " * size)
        reason = "larger than" if size > 2**20 else "pickled as something else"
        with pytest.raises(UserError, match=reason if size > 2**20 else "cannot be unpacked"):
            all_tests({"public": "[]", "private": exact}, "row 1")


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("length", [1, 300, 70_000])
def test_hidden_tests_of_any_size_and_protocol(protocol: int, length: int) -> None:
    case = [{"input": "é" * length, "output": "8", "testtype": "stdin"}]
    row = {"public": "[]", "private": pickled(pickle.dumps(json.dumps(case, ensure_ascii=False), protocol))}
    assert all_tests(row, "row 1") == [{**case[0], "metadata": {}}]


@pytest.mark.parametrize(
    "content",
    [
        b"r\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"X\xff\xff\xff\xffabc.",  # a text that is not there
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",  # a whole number of gigabytes
        b"(" * 10_000 + b"t" * 10_000 + b".",  # tuples inside each other
        b"]\x94" + b"h\x00a" * 10_000 + b".",  # a list in itself
        b"\x8c\x01[0" * 1_000 + b"\x8c\x02[].",  # texts that are thrown away
        b"\x94" * 10_000_000,
        pickle.dumps(["[]"]),
        pickle.dumps(b"[]"),
        pickle.dumps(7),
        pickle.dumps("[" * 100_000),
        b"",
        b".",
    ],
)
def test_what_is_pickled_is_one_text(content: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"row 1: the tests cannot be unpacked \("):
        all_tests({"public": "[]", "private": pickled(content)}, "row 1")
    assert time.perf_counter() - started < 10


def test_tests_that_are_cut_short_are_a_sentence() -> None:
    whole = zlib.compress(pickle.dumps("[]"))
    for packed in (whole[:-5], whole[:3], b""):
        with pytest.raises(UserError, match="cannot be unpacked"):
            all_tests({"public": "[]", "private": base64.b64encode(packed).decode() or "x"}, "row 1")


def test_a_zipped_data_set_is_unzipped_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "1+1="}' + b" " * 2**20))
    assert sources.read_file(path) == [{"prompt": "1+1="}]
    monkeypatch.setattr(lines, "MOST_UNZIPPED", 2**19)
    with pytest.raises(UserError, match=r"is larger than .* unzipped; unzip it to be read anyway"):
        sources.read_file(path)
