"""A task from a training set and its benchmarks: train and selection rows from the one, test problems from the others.

Training rows are drawn at random (by a seed), each prompt once, without those that share n words in a row with a
benchmark problem and those whose reference cannot be used. What was left out is counted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onelayer.config.configs import TrainConfig
from onelayer.errors import UserError
from onelayer.tasks.base import Problem, Prompt, Scoring, Split
from onelayer.tasks.benchmarks import Benchmark, ProblemSet, TrainingSet, get_benchmark, get_training_set
from onelayer.tasks.decontaminate import Overlap
from onelayer.tasks.graders.grade import Grade
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_text import extract_answer
from onelayer.tasks.sources import Row


class BenchmarkTask:
    """Problems of several sets; each is graded as its set says."""

    def __init__(
        self,
        name: str,
        sets: Sequence[ProblemSet],
        splits: Mapping[Split, Sequence[Problem]],
        draw: "Draw | None" = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.sets = {each.name: each for each in sets}
        self.draw = draw
        """What was left out of the training set; None where there is none."""
        self.description = dict(description or {})
        """What results that rest on the task say of it, as JSON values."""
        self.notes = () if draw is None else (f"{name}: {draw.sentence()}",)
        """What the user should know of the problems, in sentences."""
        self._splits = splits

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split."""
        return self._splits[split]

    @property
    def runs_programs(self) -> bool:
        """Whether completions of some set are run as programs."""
        return any(each.grader == "code" for each in self.sets.values())

    def parse_answer(self, text: str) -> str | None:
        """The final answer of a completion in one form, by the rule of the first set; programs have none."""
        rule = next(iter(self.sets.values()))
        answer = extract_answer(text, rule.answer_rule, strict=rule.strict) if rule.grader == "math" else None
        return None if answer is None else normalize(answer)

    def grade(
        self, prompts: list[Prompt], completions: list[Any], *, problem_set: list[str], **columns: list[Any]
    ) -> list[Grade]:
        """The verdicts of the graders that the problems' sets name."""
        texts = [reply if isinstance(reply, str) else reply[-1]["content"] for reply in completions]
        grades: dict[int, Grade] = {}
        for name in dict.fromkeys(problem_set):
            chosen = [i for i, other in enumerate(problem_set) if other == name]
            expected = [{key: column[i] for key, column in columns.items()} for i in chosen]
            found = self.sets[name].grade([texts[i] for i in chosen], expected)
            grades |= zip(chosen, found, strict=True)
        return [grades[i] for i in range(len(texts))]

    def reward(self, prompts: list[Prompt], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        """1.0 for a right completion, 0.0 for a wrong one, None where a grader could not tell."""
        return [grade.reward for grade in self.grade(prompts, completions, **columns)]


@dataclass(frozen=True)
class Draw:
    """How the rows of a training set were used, in numbers of rows."""

    rows: int
    seen: int
    """Rows looked at, in random order, until there were enough."""
    not_kept: int
    """Outside the ranges that the training set keeps."""
    unusable: int
    """Without a reference answer or with tests that cannot be used."""
    repeated: int
    overlapping: int
    """Sharing ``ngram`` words in a row with a benchmark problem."""
    ngram: int
    selection: int
    train: int

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.train:,} training and {self.selection:,} selection problems from {self.rows:,} rows; of {self.seen:,} "
            f"looked at, left out: {self.not_kept:,} by the set's ranges, {self.unusable:,} without a usable answer, "
            f"{self.repeated:,} repeated, {self.overlapping:,} with {self.ngram} words in a row of a benchmark problem"
        )


def load_training_task(config: TrainConfig) -> BenchmarkTask:
    """The task of a training set: ``config.task`` names a bundled one or a ``FILE.yaml``.

    Raises:
        UserError: an unknown set, rows that cannot be read or lack a column, or too few of them.
    """
    assert config.task is not None
    training = get_training_set(config.task)
    chosen = config.benchmarks.split(",") if config.benchmarks else training.benchmarks
    benchmarks = [get_benchmark(name.strip()) for name in chosen]
    files = local_files(config.data_files, [training, *benchmarks])
    test: list[Problem] = []
    texts: list[str] = []
    described: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        scoring = Scoring(
            benchmark.name,
            benchmark.num_samples if config.eval_num_samples is None else config.eval_num_samples,
            benchmark.temperature if config.eval_temperature is None else config.eval_temperature,
        )
        file = files.get(benchmark.name)
        problems, raw = benchmark_problems(benchmark, file, chat=config.chat, scoring=scoring)
        test += problems
        texts += raw
        sampling = {"num_samples": scoring.num_samples, "temperature": scoring.temperature}
        described.append({**benchmark.settings(chat=config.chat, file=file), **sampling})
    rows = training.rows(files.get(training.name))
    wanted = config.train_size or training.train_size or len(rows)
    draw, drawn = draw_problems(
        training,
        rows,
        chat=config.chat,
        wanted=wanted,
        selection=config.selection_size,
        seed=config.data_seed,
        avoid=texts,
        ngram=config.overlap_ngram,
    )
    selection, train = drawn[: config.selection_size], drawn[config.selection_size :]
    splits: dict[Split, Sequence[Problem]] = {
        "train": sorted(train, key=lambda problem: problem.id),
        "selection": selection,
        "test": test,
    }
    settings = training.settings(chat=config.chat, file=files.get(training.name))
    description = {"training": {**settings, **asdict(draw)}, "benchmarks": described}
    return BenchmarkTask(training.name, [training, *benchmarks], splits, draw, description)


def benchmark_problems(
    benchmark: Benchmark, file: str | None, *, chat: bool, scoring: Scoring, limit: int | None = None
) -> tuple[list[Problem], list[str]]:
    """The problems of a benchmark (the first ``limit``), and their texts without the prompt around them.

    Raises:
        UserError: rows that cannot be read, lack a column, or have an answer or tests that cannot be used.
    """
    problems: list[Problem] = []
    texts: list[str] = []
    for index, row in enumerate(benchmark.rows(file)):
        if not all(keep(row) for keep in benchmark.keep):
            continue
        if limit is not None and len(problems) == limit:
            break
        where = f"benchmark '{benchmark.name}', row {index}"
        values = benchmark.values(row, where)
        problems.append(_problem(benchmark, index, values, benchmark.expected(values, where), chat, scoring))
        texts.append(str(values["problem"]))
    if not problems:
        raise UserError(f"benchmark '{benchmark.name}' has no row that its ranges keep")
    return problems, texts


def draw_problems(
    training: TrainingSet,
    rows: Sequence[Row],
    *,
    chat: bool,
    wanted: int,
    selection: int,
    seed: int,
    avoid: Sequence[str],
    ngram: int,
) -> tuple[Draw, list[Problem]]:
    """Draw ``selection + wanted`` usable problems at random, or as many as there are.

    Args:
        training: the set.
        rows: its rows.
        chat: whether prompts are chat messages.
        wanted: training problems.
        selection: problems for choosing; they come first.
        seed: of the order in which rows are looked at.
        avoid: texts of benchmark problems.
        ngram: words in a row that may not be shared with them; 0 looks for none.

    Raises:
        UserError: not more usable rows than ``selection``.
    """
    overlap = Overlap(avoid, ngram) if ngram else None
    problems: list[Problem] = []
    digests: set[bytes] = set()
    looked_at: Counter[str] = Counter()
    for index in _random_order(len(rows), seed).tolist():
        if len(problems) == selection + wanted:
            break
        kind, problem = _looked_at(training, rows[index], index, chat, digests, overlap)
        looked_at[kind] += 1
        if problem is not None:
            problems.append(problem)
    if len(problems) <= selection:
        raise UserError(
            f"training set '{training.name}' has {len(problems)} usable rows of {len(rows)}, too few for {selection} "
            "selection problems and training; lower selection_size"
        )
    train = len(problems) - selection
    draw = Draw(
        len(rows),
        looked_at.total(),
        looked_at["not kept"],
        looked_at["unusable"],
        looked_at["repeated"],
        looked_at["overlapping"],
        ngram,
        selection,
        train,
    )
    return draw, problems


def _looked_at(
    training: TrainingSet, row: Row, index: int, chat: bool, digests: set[bytes], overlap: Overlap | None
) -> tuple[str, Problem | None]:
    """What a row turned out to be, and its problem where it can be used; the prompt's digest is then added."""
    where = f"training set '{training.name}', row {index}"
    if not all(keep(row) for keep in training.keep):
        return "not kept", None
    values = training.values(row, where)
    try:
        expected = training.expected(values, where)
    except UserError:  # one bad row in a large set is counted, not fatal
        return "unusable", None
    problem = _problem(training, index, values, expected, chat, None)
    digest = hashlib.sha256(json.dumps(problem.prompt).encode()).digest()
    if digest in digests:
        return "repeated", None
    if overlap is not None and str(values["problem"]) in overlap:
        return "overlapping", None
    digests.add(digest)
    return "used", problem


def local_files(option: str | None, sets: Sequence[ProblemSet]) -> dict[str, str]:
    """The local files of ``NAME=FILE,NAME=FILE``.

    Raises:
        UserError: something else, or a name that is not among ``sets``.
    """
    files = {}
    for item in option.split(",") if option else []:
        name, equals, file = (part.strip() for part in item.partition("="))
        known = [each.name for each in sets]
        if not known:
            raise UserError(
                f"option data_files: '{item}' is not used here, where no benchmark or training set is named"
            )
        if not (name and equals and file):
            raise UserError(f"option data_files: '{item}' is not NAME=FILE, for example {known[0]}=rows.jsonl")
        if name not in known:
            raise UserError(f"option data_files: '{name}' is not used here; there are {', '.join(known)}")
        files[name] = file
    return files


def _problem(
    source: ProblemSet,
    index: int,
    values: Mapping[str, Any],
    expected: dict[str, Any],
    chat: bool,
    scoring: Scoring | None,
) -> Problem:
    columns = {"problem_set": source.name, **expected}
    return Problem(index, source.render(values, chat=chat), columns, () if chat else tuple(source.stop), scoring)


def _random_order(count: int, seed: int) -> NDArray[np.int64]:
    key = hashlib.blake2b(f"{seed}|rows".encode(), digest_size=16).digest()
    # Sorting raw draws: unlike Generator.permutation, this cannot change between numpy versions.
    return np.argsort(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)).random_raw(count), kind="stable")
